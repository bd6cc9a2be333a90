"""The needle test as heat maps (the paper's Figure 4, in miniature)."""

from pathlib import Path

import seaborn
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure


@figure("needle")
def needle(folder: Path) -> Figure:
    """Exact match by depth and length, a panel an arm with its mean above, one colour bar; means over seeds.

    needle.csv: tidy rows with a column depth (0: the needle stands first, 1: last).
    """
    table = whole_tables.read(folder, "needle").query("metric == 'exact_match'")
    arms = sorted(table.arm.unique(), key=lambda arm: ("Alpaca" in arm, len(arm), arm))
    drawn, panels = plt.subplots(
        1, len(arms), figsize=(TEXT_WIDTH, 2.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, arm in zip(panels[0], arms, strict=True):
        cells = table[table.arm == arm].pivot_table(index="depth", columns="length", values="value")
        seaborn.heatmap(cells.rename("{:.0%}".format), ax=axes, cmap="cividis", vmin=0, vmax=1, cbar=False)
        axes.set(title=f"{arm}\nmean {cells.to_numpy().mean():.2f}", xlabel="", ylabel="")
        axes.tick_params("x", rotation=90)
        axes.grid(visible=False)
    panels[0][0].set_ylabel("depth of the needle")
    drawn.supxlabel("tokens of the sample, at most", fontsize=8)
    drawn.colorbar(panels[0][0].collections[0], ax=panels[0], label="exact match")
    return drawn
