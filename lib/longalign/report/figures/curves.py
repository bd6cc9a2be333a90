"""Figure of the learning curves (the paper's Figure 6, in miniature)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure, legend_above, look
from longalign.report.tables import CHAT, intervals

KINDS = {"long tasks (chat on long prompts)": CHAT, "short tasks (multi-turn)": ("multi-turn",)}
MARKS = {"paper: fast until step 500 of 2,000": (0.25, ":"), "paper: flat after step 1,000": (0.5, "--")}


@figure("learning_curves")
def learning_curves(folder: Path) -> Figure:
    """Score relative to its final score against the share of the steps: each seed, and the mean over seeds.

    A panel a kind of task. The band is the 95 % t interval of the mean. Nothing is smoothed.
    """
    table = whole_tables.read(folder, "curves")
    steps = table.groupby("seed").step.max().median()
    drawn, panels = plt.subplots(1, len(KINDS), figsize=(TEXT_WIDTH, 2.4), sharey=True)
    style = look(["mean"])["mean"]
    for axes, (kind, tasks) in zip(panels, KINDS.items(), strict=True):
        raw = _relative(table[table.task.isin(tasks)])
        for number, (_, part) in enumerate(raw.groupby("seed")):
            label = None if number else "one seed"
            axes.plot(part.share, part.value, color="0.6", linewidth=0.6, marker=".", label=label)
        found = intervals(raw, ["share"]).sort_values("share")
        axes.fill_between(found.share, found["mean"] - found.half, found["mean"] + found.half,
                          color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
        axes.plot(found.share, found["mean"], label="mean over seeds", **style)
        for label, (share, line) in MARKS.items():
            axes.axvline(share, color="black", linestyle=line, linewidth=1, marker="", label=label)
        axes.set(title=kind, xlabel=f"share of the {steps:.0f} steps", xlim=(-0.02, 1.02))
    panels[0].set(ylabel="score / final score", ylim=(0, None))  # after all: the panels share the axis
    legend_above(drawn, panels[0], ncols=4, columnspacing=1)
    return drawn


def _relative(table: pd.DataFrame) -> pd.DataFrame:
    """seed, share, value: the mean over tasks, divided by the seed's final mean (NaN where that is 0)."""
    table = table[table.metric.isin(["score", "exact_match"])]
    found = table.groupby(["seed", "share"]).value.mean().reset_index()
    final = found.groupby("seed").value.last().replace(0, np.nan)
    return found.assign(value=found.value / found.seed.map(final))
