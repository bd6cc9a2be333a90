"""Figures of packing and batching: who attends to whom in a pack, and what the ranks do during an optimizer step."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from longalign.report import whole_tables
from longalign.report.figures.style import COLOURS, COLUMN_WIDTH, figure

WAITING = "0.86"
LEAK = "0.82"
BARS = (COLOURS[0], COLOURS[4])


@figure("attention_mask")
def attention_mask(data: Path) -> Figure:
    """The block-diagonal mask of one pack, and what a plain causal mask would let through beside it.

    attention_mask.csv: query, key (positions in the pack), query_sequence, key_sequence (letters), attends (0 or 1).
    """
    cells = whole_tables.read(data, "attention_mask")
    letters = cells.drop_duplicates("query").sort_values("query").query_sequence.tolist()
    names = list(dict.fromkeys(letters))
    size = len(letters)
    shade = np.full((size, size), np.nan)
    for cell in cells.itertuples():
        if cell.attends:
            shade[cell.query, cell.key] = names.index(cell.query_sequence)
        elif cell.key <= cell.query:
            shade[cell.query, cell.key] = len(names)
    drawn, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    colours = ListedColormap([*COLOURS[: len(names)], LEAK])
    axes.imshow(shade, cmap=colours, vmin=-0.5, vmax=len(names) + 0.5)
    axes.set_xticks(range(size), letters)
    axes.set_yticks(range(size), letters)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=1.0, alpha=1.0)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="key", ylabel="query")
    handles = [Patch(color=COLOURS[i], label=f"within {name}") for i, name in enumerate(names)]
    handles.append(Patch(color=LEAK, label="causal,\nbut another\nsequence"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn


@figure("batching")
def batching(data: Path) -> Figure:
    """One optimizer step of each method, a bar per rank: coloured while it computes, grey while it waits.

    As on the right of the paper's Figure 3. batching.csv: method, rank, micro_step, place (of the sequence in its
    micro-batch), cost (simulated time). Ranks wait for each other at the end of every micro-step.
    """
    costs = whole_tables.read(data, "batching")
    methods = [name for name in ("naive", "sorted", "packing") if name in set(costs.method)]
    drawn, panels = plt.subplots(
        len(methods), figsize=(COLUMN_WIDTH, 1.2 * len(methods) + 0.3), sharex=True, squeeze=False, layout="constrained"
    )
    for axes, method in zip(panels[:, 0], methods, strict=True):
        _timeline(axes, costs[costs.method == method], ranks=int(costs["rank"].max()) + 1)
        axes.set_ylabel("rank")
    panels[-1, 0].set_xlabel("simulated time (1 = one sequence of full length)")
    return drawn


def _timeline(axes: Axes, costs: pd.DataFrame, *, ranks: int) -> None:
    start = busy = 0.0
    for _, step in costs.groupby("micro_step"):
        ends = step.groupby("rank").cost.sum()
        axes.barh(range(ranks), ends.max(), left=start, height=0.8, color=WAITING)
        for rank, row in step.sort_values("place").groupby("rank"):
            left = start + row.cost.cumsum() - row.cost
            colours = [BARS[int(place) % 2] for place in row.place + row.micro_step]
            axes.barh([rank] * len(row), row.cost, left=left, height=0.8, color=colours)
        axes.axvline(start + ends.max(), color="black", linewidth=0.4)
        start, busy = start + ends.max(), busy + ends.sum()
    method = costs.method.iloc[0]
    axes.set_title(f"{method}: {len(costs)} sequences, {100 * (1 - busy / (ranks * start)):.0f} % idle", loc="left")
    axes.set_yticks([0, ranks - 1])
    axes.set_ylim(ranks - 0.4, -0.6)
    axes.grid(visible=False)
