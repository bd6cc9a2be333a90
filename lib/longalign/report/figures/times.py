"""Figures of training time (the paper's Figure 5): measured here, simulated for many devices, and the paper's own."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure, grouped_bars, legend_above, look
from longalign.report.tables import METHODS, over_seeds, size

PAPER_HOURS = pd.DataFrame(
    {"naive": [45.4, 67.2, 117.2], "sorted": [19.1, 23.3, 44.5], "packing": [20.5, 23.4, 41.2]},
    index=["6B", "7B", "13B"],
)
"""Figure 5 of arXiv 2401.18058: hours of training on 8 x A800."""


@figure("times")
def times(folder: Path) -> Figure:
    """Seconds of one epoch in one and in two processes, measured, beside the paper's hours, which have their own
    axis. Whiskers are 95 % t intervals over seeds."""
    table = whole_tables.read(folder, "times")
    seconds = over_seeds(table[table.metric == "seconds"], ["task", "model", "arm"])
    order = sorted(table[table.task == "one process"].model.unique(), key=size)
    drawn, panels = plt.subplots(1, 3, figsize=(TEXT_WIDTH, 2.2))
    for axes, task in zip(panels, ("one process", "two processes"), strict=False):
        found = seconds.loc[task].unstack("arm")
        found = found.loc[[model for model in order if model in found.index]]
        means = found["mean"]
        grouped_bars(axes, means[[method for method in METHODS if method in means]], found["half"])
        axes.set(title=f"here: {task}", ylabel="seconds an epoch")
    grouped_bars(panels[2], PAPER_HOURS)
    panels[2].set(title="paper: 8 x A800", ylabel="hours (paper)")
    legend_above(drawn, panels[0], ncols=4)
    return drawn


@figure("composed_times")
def composed_times(folder: Path) -> Figure:
    """Seconds of one epoch on 8 ranks that are composed from measured micro-batches, by how often the ranks wait,
    beside the paper's hours, which have their own axis. Whiskers are 95 % t intervals over seeds."""
    table = whole_tables.read(folder, "composed_times")
    seconds = over_seeds(table[table.metric == "seconds"], ["task", "model", "arm"])
    order = sorted(table.model.unique(), key=size)
    drawn, panels = plt.subplots(1, 3, figsize=(TEXT_WIDTH, 2.4))
    waits = {"8 composed ranks, ZeRO-3": "in each micro-step", "8 composed ranks": "once a step"}
    for axes, (task, wait) in zip(panels, waits.items(), strict=False):
        found = seconds.loc[task].unstack("arm").loc[order]
        grouped_bars(axes, found["mean"][[method for method in METHODS if method in found["mean"]]], found["half"])
        axes.set(title=f"here: 8 ranks wait {wait}", ylabel="seconds an epoch")
    grouped_bars(panels[2], PAPER_HOURS)
    panels[2].set(title="paper: 8 x A800", ylabel="hours (paper)")
    legend_above(drawn, panels[0], ncols=4, title="here: measured micro-batches, composed ranks")
    drawn.tight_layout(rect=(0, 0, 1, 0.87))
    return drawn


@figure("times_devices")
def times_devices(folder: Path) -> Figure:
    """Speed against naive batching over the number of devices: measured for one and two, beyond that simulated.

    The second panel is the FLOP model of a Llama-2-7B at 64 times the lengths, the third what the paper measured on 8
    devices.
    """
    table = whole_tables.read(folder, "times")
    table = table[(table.metric == "speed against naive") & table.arm.isin(["sorted", "packing"])]
    table["devices"] = table.task.map(_devices)
    widths = {"width_ratios": (3, 3, 2)}
    drawn, panels = plt.subplots(1, 3, figsize=(TEXT_WIDTH, 3.0), sharey=True, gridspec_kw=widths)
    here = table[~table.model.str.startswith("Llama")]
    first = min(here.model.unique(), key=size)
    _lines(panels[0], here[here.model == first])
    _lines(panels[1], table[table.model.str.startswith("Llama")])
    for name in ("sorted", "packing"):
        speed = PAPER_HOURS["naive"] / PAPER_HOURS[name]
        panels[2].plot(speed.index, speed, label=f"{name}, measured", **look(METHODS)[name] | {"linestyle": "none"})
    for axes in panels:
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.margins(x=0.2)
    for axes in panels[:2]:
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 2, 8, 64], ["1", "2", "8", "64"])
        axes.set(xlabel="devices", xlim=(0.8, 90))
        axes.minorticks_off()
    panels[0].set_yscale("log", base=2)  # of all panels: they share the axis
    panels[0].set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    panels[0].set(title=f"{first}, simulated from 8 on", ylabel="speed / speed of naive batching")
    panels[1].set(title="FLOPs of a Llama-2-7B, simulated")
    panels[2].set(title="paper, 8 x A800", xlabel="model")
    _legend(drawn, panels)
    return drawn


def _devices(task: str) -> int:
    named = {"one": 1, "two": 2}
    first = task.split()[0]
    return named.get(first) or int(first)


def _lines(axes: plt.Axes, table: pd.DataFrame) -> None:
    """A line for each method and barrier; what was measured is filled."""
    styles = look(METHODS)
    simulated = table[table.task.str.contains("simulated") & (table.devices > 2)]
    measured = table[~table.task.str.contains("simulated")].groupby(["arm", "devices"]).value.mean()
    for method in ("sorted", "packing"):
        for zero3, line in ((True, "-"), (False, ":")):
            part = simulated[(simulated.arm == method) & (simulated.task.str.contains("ZeRO-3") == zero3)]
            means = part.groupby("devices").value.mean()
            if method in measured:
                means = pd.concat([measured[method].tail(1), means])
            wait = "wait at each micro-step" if zero3 else "wait once a step"
            style = {**styles[method], "markerfacecolor": "white", "linestyle": line}
            axes.plot(means.index, means, label=f"{method}, {wait}", **style)
        if method in measured:
            style = {**styles[method], "linestyle": "none"}
            axes.plot(measured[method].index, measured[method], label=f"{method}, measured", **style)


def _legend(drawn: Figure, panels: np.ndarray) -> None:
    entries = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    names = sorted(entries, key=lambda label: label.startswith("packing"))
    drawn.legend([entries[name] for name in names], names, loc="outside upper center", ncols=2)
    drawn.tight_layout(rect=(0, 0, 1, 0.78))
