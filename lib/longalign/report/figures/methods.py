"""Figures of the training methods (the paper's Table 3, in miniature): scores by length, and the loss along the way."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure, legend_above, length_axis, look
from longalign.report.tables import METHODS, TEST, over_seeds

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


@figure("method_scores")
def method_scores(folder: Path) -> Figure:
    """Exact match on the test set against length, averaged over tasks: a line a method, a panel a model.

    Bars are 95 % t intervals over seeds; an arm with one seed has none.
    """
    table = whole_tables.read(folder, "methods")
    table = table[(table.metric == "exact_match") & table.task.isin(TEST)]
    found = over_seeds(table, ["model", "arm", "length"]).reset_index()
    models = sorted(found.model.unique())
    drawn, panels = plt.subplots(1, len(models), figsize=(TEXT_WIDTH, 2.4), sharey=True, squeeze=False)
    styles = look(METHODS)
    for axes, model in zip(panels[0], models, strict=True):
        for number, method in enumerate(METHODS):
            part = found[(found.model == model) & (found.arm == method)].sort_values("length")
            beside = part.length * 2 ** (0.06 * (number - 1.5))  # or the bars of one length would hide each other
            axes.errorbar(beside, part["mean"], yerr=part.half, label=method, capsize=2, **styles[method])
        length_axis(axes, found.length, title=model)
    panels[0][0].set_ylabel("exact match")
    legend_above(drawn, panels[0][0], ncols=4)
    return drawn


@figure("method_loss")
def method_loss(folder: Path) -> Figure:
    """Training loss against the share of training done, smoothed by an exponential mean over about ten steps."""
    table = whole_tables.read(folder, "method_loss")
    table = table[table.model == table.model.unique()[0]]
    drawn, axes = plt.subplots()
    styles, lowest = look(METHODS), np.inf
    for method in METHODS:
        part = table[table.method == method].sort_values("step")
        smooth = part.loss.ewm(span=10).mean()
        lowest = min(lowest, smooth.min())
        axes.plot(part.step / part.step.max(), smooth, label=method, **styles[method], markevery=0.2)
    axes.set(xlabel="share of the steps", ylabel=f"training loss, {table.model.iloc[0]}", yscale="log")
    axes.set_yticks(ticks := [tick for tick in TICKS if lowest / 2 < tick], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    return drawn
