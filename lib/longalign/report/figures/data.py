"""Figures of the training data (the paper's Figure 3, left)."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import COLOURS, figure


@figure("lengths")
def lengths(folder: Path) -> Figure:
    """Histogram of sample lengths in tokens, short and long samples stacked, count on a logarithmic axis."""
    table = whole_tables.read(folder, "lengths")
    edges = np.linspace(0, table.length.max(), 33)
    drawn, axes = plt.subplots()
    groups = [table[table.kind == kind].length for kind in ("long", "short")]
    axes.hist(
        groups, bins=edges, stacked=True, label=["long", "short"], color=COLOURS[:2], edgecolor="white", linewidth=0.3
    )
    axes.set(yscale="log", xlabel="tokens of a sample", ylabel="samples")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return drawn
