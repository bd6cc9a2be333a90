"""Figures of loss weighting: what a wrong normalisation costs, and who gets the weight."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longalign.report.figures.style import COLUMN_WIDTH, figure, grouped_bars, look

SMALLEST = 1e-17
"""Where an error of exactly 0 is drawn on a logarithmic axis."""

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
    table = pd.read_csv(data / "loss_normalisation.csv").sort_values("gradient_error", kind="stable")
    drawn, axes = plt.subplots(figsize=(COLUMN_WIDTH, 0.24 * len(table) + 0.95), layout="constrained")
    styles = look(list(ERRORS)).values()
    for (column, label), style, shift in zip(ERRORS.items(), styles, (-0.22, 0.0, 0.22), strict=True):
        values = table[column].abs().clip(lower=SMALLEST)
        axes.plot(values, np.arange(len(table)) + shift, linestyle="none", label=label, **style)
    axes.set_xscale("log")
    axes.set_xlim(SMALLEST / 3, 10)
    axes.set_yticks(range(len(table)), table.normalisation)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("relative error against Eq. 2")
    drawn.legend(loc="outside upper center", ncols=3, columnspacing=0.8, handletextpad=0.2)
    return drawn


@figure("weight_shares")
def weight_shares(data: Path) -> Figure:
    """Share of an optimizer step's weight that goes to answers of each length, one bar per weighting.

    weight_shares.csv: by ("target tokens" is drawn), bucket, first (smallest count of the bucket), rule, share.
    """
    table = pd.read_csv(data / "weight_shares.csv")
    table = table[table["by"] == "target tokens"]
    shares = table.pivot(index="first", columns="rule", values="share").sort_index()
    shares = shares[[rule for rule in RULES if rule in shares.columns]]
    shares = shares.rename(table.drop_duplicates("first").set_index("first").bucket)
    drawn, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.3), layout="constrained")
    grouped_bars(axes, shares)
    axes.set(xlabel="target tokens of the sequence", ylabel="share of the weight")
    drawn.legend(loc="outside upper center", ncols=4, columnspacing=1.0, handlelength=1.2)
    return drawn
