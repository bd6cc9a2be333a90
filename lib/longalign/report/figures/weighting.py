"""Figures of loss weighting: what a wrong normalisation costs, and who gets the weight."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import COLUMN_WIDTH, TEXT_WIDTH, figure, grouped_bars, look

ROUNDING = 1e-12
"""What is smaller is rounding, and drawn at ZERO, left of a broken axis."""
ZERO = 1e-4

ERRORS = {
    "loss_error": "loss",
    "gradient_error": "gradient",
    "direction_error": "gradient's direction (1 - cos)",
}

RULES = ("a = 0", "a = 1/2", "a = 1", "Eq. 3")


@figure("loss_normalisation")
def loss_normalisation(data: Path) -> Figure:
    """Relative errors of loss and gradient against Eq. 2, one row per normalisation, from right to wrong.

    loss_normalisation.csv: normalisation, loss_error, gradient_error, direction_error.
    """
    table = whole_tables.read(data, "loss_normalisation").sort_values("gradient_error", kind="stable")
    drawn, axes = plt.subplots(figsize=(COLUMN_WIDTH, 0.24 * len(table) + 0.95), layout="constrained")
    styles = look(list(ERRORS)).values()
    for (column, label), style, shift in zip(ERRORS.items(), styles, (-0.22, 0.0, 0.22), strict=True):
        values = table[column].abs()
        places = np.arange(len(table)) + shift
        axes.plot(values.where(values > ROUNDING, ZERO), places, linestyle="none", label=label, **style)
    axes.set_xscale("log")
    axes.set_xlim(ZERO / 2, 2)
    axes.set_xticks([ZERO, 1e-3, 1e-2, 1e-1, 1], ["0", "0.001", "0.01", "0.1", "1"])
    axes.axvline(3 * ZERO, color="0.5", linestyle=":", linewidth=0.8, marker="")
    axes.set_yticks(range(len(table)), table.normalisation)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("relative error against Eq. 2 (0: nothing but rounding)")
    drawn.legend(loc="outside upper center", ncols=3, columnspacing=0.8, handletextpad=0.2)
    return drawn


@figure("weight_shares")
def weight_shares(data: Path) -> Figure:
    """Share of an optimizer step's weight that goes to sequences of each kind, one bar per weighting.

    The first panel has classes of target tokens, the second short and long sequences. weight_shares.csv: by, bucket,
    first (smallest count of the bucket), rule, share.
    """
    table = whole_tables.read(data, "weight_shares")
    labels = {"target tokens": "target tokens of the sequence", "length": "tokens of the sequence"}
    classes = {by: part for by in labels if len(part := table[table["by"] == by])}
    ratios = [part["first"].nunique() for part in classes.values()]
    drawn, panels = plt.subplots(1, len(classes), figsize=(TEXT_WIDTH, 2.3), layout="constrained", sharey=True,
                                 squeeze=False, gridspec_kw={"width_ratios": ratios})  # fmt: skip
    panels = panels[0]
    for axes, (by, part) in zip(panels, classes.items(), strict=True):
        shares = part.pivot(index="first", columns="rule", values="share").sort_index()
        shares = shares[[rule for rule in RULES if rule in shares.columns]]
        grouped_bars(axes, shares.rename(part.drop_duplicates("first").set_index("first").bucket))
        axes.set(xlabel=labels[by])
    panels[0].set(ylabel="share of the weight")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return drawn
