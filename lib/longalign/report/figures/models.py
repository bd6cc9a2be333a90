"""Figures of model scale (the paper's Table 4) and of context windows, in miniature."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import COLUMN_WIDTH, TEXT_WIDTH, figure, legend_above, length_axis, look
from longalign.report.tables import TEST, intervals, over_seeds, printed, scores_by_seed, size

TABLE_4 = ["packing + loss weighting", "sorted"]
LOSSES = {"train-loss": "training data", "test-loss": "test items"}


@figure("model_scores")
def model_scores(folder: Path) -> Figure:
    """LongBench-Chat's miniature by model and method with t intervals over seeds; the paper's own in its own panel."""
    scores = scores_by_seed(whole_tables.read(folder, "model_scale"))
    here = intervals(scores[scores.column == "LBC"], ["model", "arm"])
    paper = pd.concat([printed("Table 3"), printed("Table 4")]).LBC.rename("mean").reset_index().assign(half=np.nan)
    drawn, panels = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.2))
    _scores(panels[0], here, title="here", ylabel="our score (1 to 10)")
    _scores(panels[1], paper, title="paper: LongBench-Chat, judged by GPT-4", ylabel="score (paper)")
    legend_above(drawn, panels[0], ncols=2)
    return drawn


@figure("model_loss")
def model_loss(folder: Path) -> Figure:
    """Mean loss of each model on its training data and on the test items, a point each, a panel a method."""
    table = whole_tables.read(folder, "model_scale")
    found = intervals(table[table.metric == "nll"], ["model", "arm", "task"])
    models = _by_size(found.model)
    drawn, panels = plt.subplots(1, len(TABLE_4), figsize=(TEXT_WIDTH, 2.2), sharey=True)
    styles = look(list(LOSSES))
    for axes, method in zip(panels, TABLE_4, strict=True):
        for task, label in LOSSES.items():
            part = found[(found.arm == method) & (found.task == task)].set_index("model").reindex(models)
            points = {**styles[task], "linestyle": "none"}
            axes.errorbar(range(len(models)), part["mean"], yerr=part.half, label=label, capsize=2, **points)
        axes.set_xticks(range(len(models)), models)
        axes.set(title=method, xlim=(-0.5, len(models) - 0.5))
    panels[0].set(ylabel="mean loss of a sequence", ylim=(0, None))  # after all: the panels share the axis
    panels[0].legend()
    drawn.tight_layout()
    return drawn


@figure("windows")
def windows(folder: Path) -> Figure:
    """Exact match on the test set against length, a line a context window, each window's end marked in its colour."""
    table = whole_tables.read(folder, "windows")
    table = table[(table.metric == "exact_match") & table.task.isin(TEST)]
    found = over_seeds(table, ["arm", "length"]).reset_index()
    arms = _by_size(found.arm)
    drawn, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.4))
    for arm, style in look(arms).items():
        part = found[found.arm == arm].sort_values("length")
        axes.errorbar(part.length, part["mean"], yerr=part.half, label=arm, capsize=2, **style)
        axes.axvline(size(arm), color=style["color"], linestyle=":", linewidth=1, marker="")
    length_axis(axes, found.length, ylabel="exact match")
    legend_above(drawn, axes, ncols=3, columnspacing=1)
    return drawn


def _scores(axes: plt.Axes, found: pd.DataFrame, **labels: str) -> None:
    """A point with its interval for each model and method."""
    models = _by_size(found.model)
    for number, (method, style) in enumerate(look(TABLE_4).items()):
        part = found[found.arm == method].set_index("model").reindex(models)
        places = np.arange(len(models)) + 0.16 * (number - 0.5)
        axes.errorbar(places, part["mean"], yerr=part.half, label=method, capsize=2, linestyle="", **style)
    axes.set_xticks(range(len(models)), models)
    axes.set(xlim=(-0.5, len(models) - 0.5), ylim=(0.7, 10.3), **labels)


def _by_size(names: pd.Series) -> list[str]:
    return sorted(names.unique(), key=size)
