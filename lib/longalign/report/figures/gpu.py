"""What was measured on GPUs, a page for each card: exactness, kernels, Figure 5, training, learning by length."""

import errno
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullLocator

from longalign.report.figures.style import COLOURS, TEXT_WIDTH, figure, look
from longalign.report.gpu_results import (
    EXACT_MATCH,
    FIGURE_5,
    NEEDLE,
    TABLE,
    Card,
    exactness,
    figure_5,
    learning,
    read_cards,
)

PAGE = (TEXT_WIDTH, 8.8)


@figure("gpu")
def gpu(folder: Path) -> Figure:
    """On each card: exactness as shares of what is allowed, Figure 5's ratios beside the cost model and the paper,
    kernels' time, memory and share of the card's ceiling, tokens a second, exact match and needles by length. Grey
    crosses are computations that are wrong on purpose."""
    cards = read_cards(folder / "gpu")
    if not cards:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / "gpu" / TABLE))
    drawn = plt.figure(figsize=(PAGE[0], PAGE[1] * len(cards)), layout="constrained")
    for page, card in zip(np.atleast_1d(drawn.subfigures(len(cards), 1)), cards, strict=True):
        _page(page, card)
    return drawn


def _page(page: SubFigure, card: Card) -> None:
    page.suptitle(f"{card.name}, {card.date}, torch {card.torch}", fontsize=8)
    panels = page.subplots(4, 2).flat
    draws = (_exact, _figure_5, _times, _memory, _shares, _training, _exact_match, _needles)
    for axes, draw in zip(panels, draws, strict=True):
        if not draw(axes, card):
            axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])


def _exact(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("exactness: share of the allowed distance")
    found = exactness(card)
    places = _places(axes, found.metric)
    for control, style in ((False, {"color": COLOURS[0], "marker": "o"}), (True, {"color": "0.6", "marker": "x"})):
        part = found[found.control == control]
        axes.plot(part.share, part.metric.map(places), linestyle="none", **style)
    axes.axvline(1, color="black", linewidth=0.8)
    _log(axes)
    return len(found) > 0


def _figure_5(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("Figure 5: times as fast as naive batching, 8 ranks")
    table = figure_5(card)
    table = table[table.index.get_level_values("case") == FIGURE_5].droplevel("case")
    places = _places(axes, table.index.to_series())
    for name, style in look(["kernels", "cost model", "paper"]).items():
        axes.plot(table[name], table.index.map(places), linestyle="none", label=name, **style)
    if len(table):
        axes.set_xlim(0, 1.1 * float(np.nanmax(table.drop(columns="error"))))
        _legend(axes)
    return len(table) > 0


def _times(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("kernels, forward and backward: ms")
    _log(axes)
    return _kernels(axes, card, "time", 1000)


def _memory(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("kernels, forward and backward: GiB beside inputs")
    _log(axes)
    return _kernels(axes, card, "memory")


def _shares(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("kernels: share of the product's rate")
    axes.set_xlim(0, 1)
    return _kernels(axes, card, "share of the product's rate")


def _training(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("training: tokens a second")
    rows = card.of("training", unit="tokens/s")
    places = _places(axes, rows.system)
    axes.set_axisbelow(True)
    axes.barh(rows.system.map(places), rows.value, height=0.5, color=COLOURS[0])
    return len(rows) > 0


def _exact_match(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("exact match by length of the document")
    return _by_length(axes, learning(card, EXACT_MATCH))


def _needles(axes: plt.Axes, card: Card) -> bool:
    axes.set_title("needles found by length, mean over depths")
    return _by_length(axes, learning(card, NEEDLE))


def _by_length(axes: plt.Axes, table: pd.DataFrame) -> bool:
    """A line for each case over the lengths in tokens; k is 1,024."""
    for name, style in look(list(dict.fromkeys(table.case))).items():
        means = table[table.case == name].groupby("length").value.mean()
        axes.plot(means.index, means, label=name, **style)
    if len(table):
        axes.set_xscale("log", base=4)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda length, _: f"{length / 1024:g}k" if length >= 1024 else f"{length:g}")
        axes.set_ylim(-0.05, 1.05)
        _legend(axes)
    return len(table) > 0


def _kernels(axes: plt.Axes, card: Card, metric: str, factor: float = 1) -> bool:
    """Dots, a line for each case, a marker for each system, the same in all panels."""
    every = card.of("kernels")
    rows = every[every.metric == f"{metric}, forward + backward"]
    places = _places(axes, rows.case)
    for name, style in look(list(dict.fromkeys(every.system))).items():
        part = rows[rows.system == name]
        axes.plot(factor * part.value, part.case.map(places), linestyle="none", label=name, **style)
    if len(rows):
        _legend(axes)
    return len(rows) > 0


def _places(axes: plt.Axes, names: pd.Series) -> dict[str, int]:
    """A line of the axis for each name, the first on top."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    axes.set_yticks(range(len(places)), list(places), fontsize=6)
    axes.set_ylim(max(len(places), 1) - 0.5, -0.5)
    return places


def _log(axes: plt.Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _legend(axes: plt.Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=2, fontsize=6)
