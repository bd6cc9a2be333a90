"""One picture of the whole recipe, drawn by code: what is trained on what, and in which shape an optimizer step is."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from longalign.report.figures.style import COLOURS, TEXT_WIDTH, figure

STAGES = (
    ("base model", "reads 4k to 8k tokens"),
    ("longer context", "RoPE base x 200,\n10B tokens of long texts"),
    ("fine-tuning", "10k long instructions (8k to 64k)\nwith short ones (ShareGPT)"),
    ("tests", "LongBench-Chat, LongBench,\nneedles, short benchmarks"),
)
"""The stages of arXiv 2401.18058, sections 3 and 4: names and what they are about."""
LENGTHS = (2, 4, 3)
PACKS = ((0, 1), (2,))
CAPACITY = 6


@figure("recipe")
def recipe(folder: Path) -> Figure:
    """The four stages from left to right, and below them three ways to batch sequences of lengths 2, 4 and 3."""
    drawn, axes = plt.subplots(figsize=(TEXT_WIDTH, 3.0))
    for place, (name, about) in enumerate(STAGES):
        left = 2.6 * place
        axes.add_patch(FancyBboxPatch((left, 4.6), 2.0, 1.5, boxstyle="round,pad=0.1", facecolor="white",
                                      edgecolor=COLOURS[0]))  # fmt: skip
        axes.text(left + 1, 5.8, name, ha="center", va="center", weight="bold", fontsize=8)
        axes.text(left + 1, 5.05, about, ha="center", va="center", fontsize=5.8)
        if place:
            ends = (left - 0.48, 5.35), (left - 0.12, 5.35)
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9))
    axes.plot((5.1, 0.1), (4.5, 3.75), color="0.6", linewidth=0.7, marker="")
    axes.plot((7.3, 9.9), (4.5, 3.75), color="0.6", linewidth=0.7, marker="")
    axes.text(5.0, 3.95, "one optimizer step of fine-tuning: sequences a, b, c", ha="center", fontsize=7)
    for place, (title, draw) in enumerate((("naive: padded rows", _naive), ("sorted: like lengths", _sorted),
                                           ("packing with loss weighting", _packed))):  # fmt: skip
        left = 0.2 + 3.3 * place
        axes.text(left, 3.3, title, fontsize=7, weight="bold", va="center")
        draw(axes, left)
    axes.set(xlim=(-0.2, 10.1), ylim=(-0.2, 6.3))
    axes.axis("off")
    drawn.tight_layout(pad=0.2)
    return drawn


def _naive(axes: plt.Axes, left: float) -> None:
    for row, index in enumerate((0, 1, 2)):
        _row(axes, left, 2.5 - 0.75 * row, (index,), max(LENGTHS))
    axes.text(left, 0.25, "b is long: a and c are padded,\nand their devices wait", fontsize=6, va="center")


def _sorted(axes: plt.Axes, left: float) -> None:
    for row, index in enumerate((0, 2, 1)):
        _row(axes, left, 2.5 - 0.75 * row, (index,), LENGTHS[index])
    axes.text(left, 0.25, "like lengths together: no padding,\nbut the order is not random", fontsize=6, va="center")


def _packed(axes: plt.Axes, left: float) -> None:
    for row, pack in enumerate(PACKS):
        _row(axes, left, 2.5 - 0.75 * row, pack, CAPACITY)
    axes.text(left, 0.5, "attention stays inside each sequence;\neach sequence counts the same: with N targets,\n"
              "each of them has the weight 1 / (N M)", fontsize=6, va="center")  # fmt: skip


def _row(axes: plt.Axes, left: float, bottom: float, indices: tuple[int, ...], width: int) -> None:
    """Sequences one after the other, a square a token, and empty squares up to `width`."""
    size, place = 0.42, 0
    for index in indices:
        for _ in range(LENGTHS[index]):
            axes.add_patch(Rectangle((left + size * place, bottom), size, size, facecolor=COLOURS[(0, 1, 2)[index]],
                                     edgecolor="white", linewidth=0.3))  # fmt: skip
            place += 1
        axes.text(left + size * (place - LENGTHS[index] / 2), bottom + size / 2, "abc"[index], color="white",
                  ha="center", va="center", fontsize=7, weight="bold")  # fmt: skip
    for empty in range(place, width):
        axes.add_patch(Rectangle((left + size * empty, bottom), size, size, facecolor="none", edgecolor="0.7",
                                 linewidth=0.6))  # fmt: skip
