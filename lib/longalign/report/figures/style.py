"""Figures are drawn from saved CSV files only: same CSV, same bytes. No model, no torch.

A figure is a function from a folder of CSV files to a matplotlib figure, entered in FIGURES by the decorator
`figure(name)`. Notebooks draw one from their run (`draw`), `make figures` draws all from the committed results.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longalign.common import paths
from longalign.common.provenance import atomic

COLUMN_WIDTH = 3.3
"""Inches of a single column of the paper; two columns are TEXT_WIDTH."""
TEXT_WIDTH = 6.9

# Okabe and Ito's palette: told apart with every common colour blindness, and by lightness in grey print
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE = {
    "figure.figsize": (COLUMN_WIDTH, 2.2),
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.02,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS, marker=MARKERS),
}

WHISKERS = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8, "capsize": 1.5}
"""Intervals over bars, as keywords of `Axes.errorbar`."""

FIGURES: dict[str, Callable[[Path], Figure]] = {}
"""Every figure by name: a function of the folder that holds its CSV files."""


def look(names: list[str] | tuple[str, ...]) -> dict[str, dict[str, str]]:
    """One colour and one marker for each name, the same wherever the same names are drawn in the same order.

    >>> look(["naive", "packing"])["packing"]
    {'color': '#E69F00', 'marker': 's'}
    """
    return {n: {"color": COLOURS[i % 8], "marker": MARKERS[i % 8]} for i, n in enumerate(names)}


def grouped_bars(
    axes: plt.Axes, means: pd.DataFrame, halves: pd.DataFrame | None = None, *, bottom: float = 0
) -> None:
    """A group of bars for each row of `means`, in it a bar for each of up to four columns, with half-widths `halves`.

    Bars start at `bottom`; colours tell the columns apart.

    >>> axes = plt.figure().subplots()
    >>> grouped_bars(axes, pd.DataFrame({"naive": [45.4, 67.2], "packing": [20.5, 23.4]}, index=["6B", "7B"]))
    >>> [float(bar.get_x().round(1)) + 0 for bar in axes.patches], axes.get_legend_handles_labels()[1]
    ([-0.4, 0.6, 0.0, 1.0], ['naive', 'packing'])
    """
    width = 0.8 / means.shape[1]
    for number, name in enumerate(means):
        places = np.arange(len(means)) + (number - (means.shape[1] - 1) / 2) * width
        look_of = {"color": COLOURS[number], "edgecolor": "white", "linewidth": 0.3}
        axes.bar(places, means[name] - bottom, width, bottom=bottom, label=name, **look_of)
        if halves is not None:
            axes.errorbar(places, means[name], halves[name], **WHISKERS)
    axes.set_xticks(range(len(means)), means.index)
    axes.grid(axis="x", visible=False)


def length_axis(axes: plt.Axes, lengths: Iterable[int], **labels: object) -> None:
    """A logarithmic axis of lengths in tokens, with a mark at each of them, under scores from 0 to 1."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(marks := sorted(set(lengths)), [str(length) for length in marks])
    axes.minorticks_off()
    axes.set(**({"xlabel": "tokens of the sample, at most", "ylim": (-0.03, 1.03)} | labels))


def legend_above(drawn: Figure, axes: plt.Axes, *, ncols: int, **options: object) -> None:
    """One legend over all panels, with the entries of `axes`, and the panels laid out below it."""
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=ncols, **options)
    drawn.tight_layout(rect=(0, 0, 1, 0.92))


def figure(name: str) -> Callable[[Callable[[Path], Figure]], Callable[[Path], Figure]]:
    """Decorator: enter a function in FIGURES under `name`, which is also the stem of its files. Names are unique."""

    def enter(function: Callable[[Path], Figure]) -> Callable[[Path], Figure]:
        if name in FIGURES:
            raise ValueError(f"there are two figures called {name!r}")
        FIGURES[name] = function
        return function

    return enter


def draw(name: str, data: Path | str, folder: Path | str | None = None) -> Figure:
    """Draw the figure `name` from the CSV files in `data`; with a `folder`, save it there as PDF and PNG.

    Raises KeyError for an unknown name, FileNotFoundError when a CSV is missing, and ValueError for one that is not
    whole (`longalign.report.whole_tables`).
    """
    if name not in FIGURES:
        import longalign.report.figures  # noqa: F401  enters them all; at import time it would be a circle
    # A notebook's backend turns interactive when it is first used. Inside the context that would be undone at its end,
    # and no figure but the first would be shown.
    if not plt.get_fignums():
        plt.switch_backend(matplotlib.get_backend())
    with plt.rc_context(STYLE):
        drawn = FIGURES[name](Path(data))
        if warning := paths.warning(data):
            drawn.text(0.5, 1.01, warning, ha="center", va="bottom", weight="bold", color=COLOURS[5])
        if folder is not None:
            save_figure(drawn, name, folder)
    return drawn


def save_figure(drawn: Figure, name: str, folder: Path | str) -> tuple[Path, Path]:
    """Write `name`.pdf and `name`.png into `folder`, without dates, so that the same figure is the same bytes."""
    written = []
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        with plt.rc_context(STYLE):
            drawn.savefig(buffer, format=kind, metadata=metadata)
        with atomic(Path(folder) / f"{name}.{kind}", "wb") as file:
            file.write(buffer.getvalue())
        written.append(Path(folder) / f"{name}.{kind}")
    return written[0], written[1]


def draw_all(data: Path | str, folder: Path | str) -> list[str]:
    """Draw every registered figure whose CSV files are in `data`; returns their names and says which are left out.

    Raises ValueError, when all others are drawn, naming those whose CSV files are not whole.
    """
    import longalign.report.figures  # noqa: F401  enters them all; at import time it would be a circle

    drawn, damaged = [], []
    for name in sorted(FIGURES):
        try:
            plt.close(draw(name, data, folder))
        except FileNotFoundError as error:
            print(f"{name}: not drawn, {Path(str(error.filename)).name} is not in {paths.relative(data)}")
            continue
        except ValueError as error:
            damaged.append(f"{name}: {error}")
            continue
        drawn.append(name)
    if damaged:
        raise ValueError("\n".join(damaged))
    return drawn


def main() -> int:
    """Redraw the reference's figures from the committed results; returns the exit status."""
    matplotlib.use("agg")
    try:
        drawn = draw_all(paths.results(), paths.figures())
    except ValueError as error:
        print("\n".join(f"longalign: not drawn, {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    print(f"{len(drawn)} of {len(FIGURES)} figures drawn in {paths.relative(paths.figures())}: {', '.join(drawn)}")
    return 0


if __name__ == "__main__":
    # run as a script this module is another one than longalign.report.figures.style, which holds the figures
    from longalign.report.figures import style

    sys.exit(style.main())
