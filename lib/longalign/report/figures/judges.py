"""Figures of judges: which sentinels each passes."""

from pathlib import Path

import seaborn
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure


@figure("judges")
def judges(folder: Path) -> Figure:
    """A row a judge, a column a sentinel, the share of questions that it passes as shade and number."""
    table = whole_tables.read(folder, "judges")
    # the table's order is alphabetical; the exact rule first, as what the others are held against
    names = sorted(table.judge.unique(), key=lambda name: (name != "exact rule", "(simulated)" not in name, name))
    passed = table.pivot(index="judge", columns="test", values="passed").loc[names]
    drawn, axes = plt.subplots(figsize=(TEXT_WIDTH, 0.32 * len(names) + 0.7))
    seaborn.heatmap(passed, ax=axes, cmap="Blues", vmin=0, vmax=2, annot=True, fmt=".2f", cbar=False,
                    annot_kws={"color": "black", "fontsize": 7})  # fmt: skip
    axes.set(xlabel="", ylabel="")
    axes.grid(visible=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    drawn.tight_layout()
    return drawn
