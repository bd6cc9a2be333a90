"""Figures of the training methods (the paper's Table 3 and Figure 5, in miniature)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.plots import COLOURS, TEXT_WIDTH, figure, look

METHODS = ["naive", "sorted", "packing", "packing + loss weighting"]
LABELS = {"packing + loss weighting": "packing +\nweighting"}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
PAPER_HOURS = {"naive": 45.4, "packing": 20.5, "sorted": 19.1}


def _bars(axes: plt.Axes, table: pd.DataFrame, value: str, group: str) -> None:
    """Grouped bars, a group a method, a bar per value of `group`."""
    names = table[group].unique().tolist()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        part = table[table[group] == name].set_index("method")[value].reindex(METHODS)
        places = np.arange(len(METHODS)) + (number - (len(names) - 1) / 2) * width
        axes.bar(
            places,
            part,
            width,
            label=name,
            color=COLOURS[number],
            hatch=["", "//", ".."][number % 3],
            edgecolor="white",
        )
    axes.set_xticks(range(len(METHODS)), [LABELS.get(method, method) for method in METHODS])
    axes.grid(axis="x", visible=False)
    axes.legend()


@figure("method_time")
def method_time(folder: Path) -> Figure:
    """Processor time of one training, relative to naive batching, beside the paper's hours for ChatGLM3-6B on 8 x
    A800."""
    table = pd.read_csv(folder / "method_speed.csv")
    naive = table[table.method == "naive"].set_index("model").cpu_seconds
    table["relative"] = table.cpu_seconds / table.model.map(naive)
    drawn, panels = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.2), sharey=True, width_ratios=(1.6, 1))
    _bars(panels[0], table, "relative", "model")
    panels[0].set(ylabel="time / time of naive", title="here: one process on a CPU")
    hours = pd.Series(PAPER_HOURS)[["naive", "sorted", "packing"]]
    panels[1].bar(hours.index, hours / hours["naive"], 0.5, color=COLOURS[3])
    panels[1].set(title="paper: ChatGLM3-6B on 8 x A800")
    panels[1].grid(axis="x", visible=False)
    drawn.tight_layout()
    return drawn


@figure("method_idle")
def method_idle(folder: Path) -> Figure:
    """Simulated idle share of the devices, for a barrier at every optimizer step and at every micro-step."""
    table = pd.read_csv(folder / "method_idle.csv")
    table["barrier"] = table.barrier.map({"step": "wait once a step", "micro_step": "wait at each micro-step"})
    drawn, axes = plt.subplots()
    _bars(axes, table.sort_values("barrier", ascending=False), "idle", "barrier")
    axes.set(ylabel="idle share (simulated)", ylim=(0, 1))
    axes.tick_params(axis="x", labelsize=6)
    return drawn


@figure("method_scores")
def method_scores(folder: Path) -> Figure:
    """Exact match against length, averaged over tasks, a line a method and a panel a model."""
    table = pd.read_csv(folder / "methods.csv")
    models = table.model.unique().tolist()
    drawn, panels = plt.subplots(1, len(models), figsize=(TEXT_WIDTH, 2.4), sharey=True, squeeze=False)
    styles = look(METHODS)
    for axes, model in zip(panels[0], models, strict=True):
        means = table[table.model == model].groupby(["arm", "length"]).value.mean()
        for method in METHODS:
            axes.plot(means[method].index, means[method], label=method, **styles[method])
        lengths = sorted(table.length.unique())
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.set(title=model, xlabel="tokens of the sample, at most", ylim=(-0.03, 1.03))
    panels[0][0].set_ylabel("exact match")
    drawn.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    drawn.tight_layout(rect=(0, 0, 1, 0.92))
    return drawn


@figure("method_loss")
def method_loss(folder: Path) -> Figure:
    """Training loss against the share of training done, smoothed by an exponential mean over about ten steps."""
    table = pd.read_csv(folder / "method_loss.csv")
    table = table[table.model == table.model.unique()[0]]
    drawn, axes = plt.subplots()
    styles = look(METHODS)
    for method in METHODS:
        part = table[table.method == method].sort_values("step")
        smooth = part.loss.ewm(span=10).mean()
        axes.plot(part.step / part.step.max(), smooth, label=method, **styles[method], markevery=0.2)
    axes.set(xlabel="share of the steps", ylabel=f"training loss, {table.model.iloc[0]}", yscale="log")
    axes.set_yticks(ticks := [tick for tick in TICKS if part.loss.min() / 2 < tick], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    return drawn
