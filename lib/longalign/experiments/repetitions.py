"""How many seeds an arm gets: slow ones fewer in a default run, and more where a claim needs them.

Of which profile, and how many in a run, say `longalign.experiments.profiles` and the design of each experiment.
"""

ENOUGH, WEIGHTING_SEEDS = 8, 32
"""With as many seeds or more of every arm, what is packed gets 32: an effect of weighting of 0.2 points of 10 takes
so many (results/pilots/power.csv)."""
WINDOW_SEEDS = 3
"""Most seeds of an arm of the windows, of which no claim is: one for each base, which is extended to every window."""


def slow(table: str, arm: str, first: bool) -> bool:
    """Whether an arm of this table gets the fewer seeds of a slow arm; `first` says that its model is the first one."""
    if table in ("times", "composed_times"):
        return table == "times" or not first
    if table == "data_scale":
        return arm not in ("LongAlign-0k", "LongAlign-5k", "LongAlign-10k")
    if table == "data_source":
        return arm.startswith("LongAlpaca")
    return not first or not arm.startswith("packing")
