"""One optimizer step on four ranks, with every pack shared and with long ones alone shared: one picture, drawn by code.

The bars are `longalign.recipe.cost.micro_batch_costs` of two plans of the same twelve sequences; nothing was timed.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from longalign.common import paths
from longalign.recipe.balance import within_steps
from longalign.recipe.batching import Plan, make_plan
from longalign.recipe.cost import SequenceCost, micro_batch_costs
from longalign.report.figures.style import COLOURS, STYLE, TEXT_WIDTH

LENGTHS = (26, 7, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1)
RANKS, CAPACITY, ABOVE = 4, 8, 8
WORK, SENDING = SequenceCost(1.0, 0.02), 0.4
"""Units of time per token and pair, and of a token that is shared, for the picture's sake."""

SENT = {"facecolor": "white", "edgecolor": "0.4", "hatch": "////", "linewidth": 0.5}


def mixed() -> Figure:
    """Ranks from top to bottom, time from left to right; what is sent is hatched, a white rest is waiting."""
    drawn, panels = plt.subplots(2, 1, figsize=(TEXT_WIDTH, 3.1), sharex=True)
    settings = {"ranks": RANKS, "accumulation": 3, "degree": RANKS, "capacity": CAPACITY, "algorithm": "best_fit"}
    titles = {0: "every pack is shared by the four ranks", ABOVE: "the long sequence alone is shared"}
    for axes, (above, title) in zip(panels, titles.items(), strict=True):
        plan = make_plan("packing", LENGTHS, share_above=above, **settings)
        _draw(axes, within_steps(plan, cost=replace(WORK, exchange=SENDING)))
        axes.set_title(title, loc="left")
        axes.set(yticks=range(RANKS), yticklabels=[f"rank {rank}" for rank in range(RANKS)], ylim=(RANKS - 0.4, -0.6))
        axes.grid(visible=False)
    panels[-1].set(xlabel="time (units of the cost model)", xticks=[])
    kinds = {"work that four ranks share": {"color": COLOURS[0]}, "communication": SENT,
             "work of one rank": {"color": COLOURS[1]}}  # fmt: skip
    drawn.legend(handles=[Patch(label=name, **look) for name, look in kinds.items()], loc="upper center", ncols=3,
                 frameon=False, fontsize=6.5)  # fmt: skip
    drawn.tight_layout(pad=0.3, rect=(0, 0, 1, 0.93))
    return drawn


def _draw(axes: plt.Axes, plan: Plan) -> None:
    whole = micro_batch_costs(plan, replace(WORK, exchange=SENDING))
    sending = micro_batch_costs(plan, SequenceCost(0.0, 0.0, SENDING))
    (step,) = plan.steps
    for rank in range(plan.ranks):
        begun = 0.0
        for micro_step in np.flatnonzero(whole[0, rank]).tolist():
            sent, shares = sending[0, rank, micro_step], plan.shared_by(step, rank, micro_step)
            work = whole[0, rank, micro_step] - sent
            lengths = [str(LENGTHS[i]) for row in step.micro_batches[rank - rank % shares][micro_step] for i in row]
            told = " + ".join(lengths)
            told = f"({told})" if shares > 1 < len(lengths) else told
            told += f" / {shares}" if shares > 1 else ""
            axes.barh(rank, work, left=begun, height=0.8, color=COLOURS[shares == 1], edgecolor="white")
            if shares > 1:
                axes.barh(rank, sent, left=begun + work, height=0.8, **SENT)
            if work > len(told) / 5:
                axes.text(begun + work / 2, rank, told, ha="center", va="center", fontsize=5.5,
                          color="white" if shares > 1 else "black")  # fmt: skip
            begun += work + sent


def main(folder: Path | None = None) -> Path:
    """Draw it for the site; returns the file."""
    file = (folder or paths.root() / "docs" / "static") / "mixed.png"
    with plt.rc_context(STYLE):
        drawn = mixed()
        drawn.savefig(file, metadata={"Software": None})
    plt.close(drawn)
    return file


if __name__ == "__main__":
    print(main())
