"""Three diagrams for teaching, drawn by code: the way of the data, pack and step and rank, the two biases of Eq. 3.

The example is that of all pages: sequences a, b, c of 2, 4 and 3 tokens, of which the first is the prompt. Each square
is a token: pale in the prompt, and full where it is a target.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from longalign.recipe.weights import eq3_weights, loss_weights
from longalign.report.figures.recipe import CAPACITY, LENGTHS, PACKS
from longalign.report.figures.style import COLOURS, TEXT_WIDTH, figure

NAMES = "abcdef"
TARGETS = np.array(LENGTHS) - 1
TOKEN_LOSSES = (2.0, 1.0, 3.0)
"""The loss of each target of a, b and c, as in 03_loss_weighting."""
STEP = (((2, 4), (3,)), ((3, 2), (5,)))
"""An optimizer step: for each rank and micro-step a pack, as the lengths of its sequences."""
STATIONS = (
    ("document", "a long text"), ("conversation", "a question and its answer"), ("tokens and targets", "one sequence"),
    ("store", "all sequences, in one folder"), ("plan", "which sequences share a pack, and a step"),
    ("packs", "what the model reads: a row each"), ("loss", "each sequence counts the same"),
)  # fmt: skip
"""The stations of the data, with a line about each."""
SIZE = 0.4
"""Side of a token's square."""
BAR = 9.0
"""Width of a bar of shares."""


@figure("data_way")
def data_way(folder: Path) -> Figure:
    """The way of the data: document, conversation, tokens and targets, store; then plan, packs, loss."""
    drawn, axes = _canvas(4.3, (-0.3, 16.1), (-0.75, 9.6))
    above, below = 5.2, 0.15
    for bottom, title in ((above, "once, before the training"), (below, "for the training")):
        axes.add_patch(Rectangle((-0.25, bottom - 0.2), 16.3, 4.5, facecolor="0.95", edgecolor="none"))
        _say(axes, -0.05, bottom + 3.98, title, 7, color="0.3", style="italic")
    places = [(4.05 * n, above) for n in range(4)] + [(5.4 * n, below) for n in range(3)]
    for number, ((name, about), (left, bottom)) in enumerate(zip(STATIONS, places, strict=True)):
        _station(axes, left, bottom, 3.65 if bottom == above else 5.0, f"{number + 1}  {name}", about)
        if left:
            _arrow(axes, (left - 0.39, bottom + 1.75), (left, bottom + 1.75))
    axes.plot((13.97, 13.97, 2.5), (above, 4.72, 4.72), color="black", linewidth=1.1, marker="")
    _arrow(axes, (2.5, 4.74), (2.5, below + 3.6))
    _made_once(axes, above)
    _in_training(axes, below)
    _legend(axes, -0.05, -0.5)
    return drawn


def _made_once(axes: plt.Axes, bottom: float) -> None:
    """What stands in the first four stations."""
    axes.add_patch(Rectangle((1.12, bottom + 0.85), 1.4, 1.8, facecolor="white", edgecolor="0.4", linewidth=0.8))
    for line in range(6):
        ends = 1.32, 2.32 if line < 5 else 1.82
        axes.plot(ends, [bottom + 2.4 - 0.26 * line] * 2, color="0.6", linewidth=1, marker="")
    _bubble(axes, (4.35, bottom + 1.75), (2.7, 0.8), 'the document, and\n"Where does Mia live?"', "0.9")
    _bubble(axes, (5.9, bottom + 0.95), (1.5, 0.45), '"In Rome."', COLOURS[4])
    _tokens(axes, 9.1, bottom + 1.9, LENGTHS[1], 1)
    for place, word in ((9.25, "prompt"), (10.3, "targets")):
        _say(axes, place, bottom + 1.5, word, 6, ha="center", color="0.3")
    for number, length in enumerate(LENGTHS):
        _tokens(axes, 13.2, bottom + 2.1 - 0.55 * number, length, number)


def _bubble(axes: plt.Axes, corner: tuple[float, float], size: tuple[float, float], text: str, colour: str) -> None:
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0.08", facecolor=colour, edgecolor="none"))
    _say(axes, corner[0] + size[0] / 2, corner[1] + size[1] / 2, text, 5.8, ha="center")


def _in_training(axes: plt.Axes, bottom: float) -> None:
    """What stands in the last three stations; the loss multiplies the targets by their weight, 1 / (N M)."""
    for number, pack in enumerate(PACKS):
        height = bottom + 1.75 - 0.75 * number
        _say(axes, 1.75, height + 0.2, f"pack {number + 1}:  {', '.join(NAMES[index] for index in pack)}", 7.5)
        _pack(axes, 6.7, height, [LENGTHS[index] for index in pack], pack)
    for number, weight in enumerate(loss_weights(TARGETS)):
        height = bottom + 2.1 - 0.55 * number
        _tokens(axes, 11.25, height, LENGTHS[number], number)
        told = f"{_many(TARGETS[number], 'target')} x {_fraction(weight)} = {_fraction(TARGETS[number] * weight)}"
        _say(axes, 13.05, height + SIZE / 2, told, 6.4)


@figure("pack_step_rank")
def pack_step_rank(folder: Path) -> Figure:
    """One optimizer step of two ranks with two micro-steps, and what K and M count."""
    drawn, axes = _canvas(3.2, (-0.2, 16.6), (-1.9, 5.9))
    axes.add_patch(FancyBboxPatch((1.35, -0.05), 8.2, 5.0, boxstyle="round,pad=0.12", facecolor="0.96",
                                  edgecolor="0.5"))  # fmt: skip
    _say(axes, 5.45, 5.5, "one optimizer step", 9, ha="center", weight="bold")
    first = 0
    for rank, packs in enumerate(STEP):
        bottom = 2.55 - 2.2 * rank
        _say(axes, 0.55, bottom + 0.75, f"rank {rank}\n(a device)", 7, ha="center")
        for step, lengths in enumerate(packs):
            left = 1.6 + 4.1 * step
            axes.add_patch(Rectangle((left, bottom), 3.7, 1.5, facecolor="white", edgecolor="0.7", linewidth=0.8))
            _say(axes, left + 0.45, bottom + 1.15, "pack", 6, color="0.3")
            _pack(axes, left + 0.45, bottom + 0.4, lengths, range(first, first + len(lengths)), capacity=7)
            first += len(lengths)
    for step in range(len(STEP[0])):
        _say(axes, 3.45 + 4.1 * step, 4.6, f"micro-step {step + 1}", 7, ha="center")
    axes.annotate("", (9.5, -0.5), (1.5, -0.5), arrowprops={"arrowstyle": "-|>", "color": "0.3"})
    _say(axes, 5.45, -0.85, "time", 7, ha="center", color="0.3")
    _arrow(axes, (9.7, 2.45), (10.55, 2.45))
    _counts(axes)
    _legend(axes, 1.6, -1.55)
    return drawn


def _counts(axes: plt.Axes) -> None:
    """What happens at the end of the step, and what is counted in it."""
    sequences = sum(len(pack) for packs in STEP for pack in packs)
    lines = (
        ("the gradients of all packs are added:", "over the micro-steps of a rank, then over the ranks"),
        ("then the model's weights change, once", "and the next optimizer step begins"),
        (f"K = {sum(map(len, STEP))} packs", f"{len(STEP)} ranks x {len(STEP[0])} micro-steps"),
        (f"M = {sequences} sequences ({NAMES[0]} to {NAMES[sequences - 1]})", "in all packs of the step, not in one"),
    )
    for number, (title, about) in enumerate(lines):
        _say(axes, 10.75, 4.55 - 1.4 * number, title, 7.2, weight="bold")
        _say(axes, 10.75, 4.05 - 1.4 * number, about, 6.4, color="0.25")


@figure("two_biases")
def two_biases(folder: Path) -> Figure:
    """Shares of a, b and c in the loss: Eq. 3 in its two parts, and Eq. 2."""
    drawn, axes = _canvas(3.9, (-3.9, 15.6), (-1.9, 8.5))
    for number, pack in enumerate(PACKS):
        held = [f"{NAMES[index]} has {_many(TARGETS[index], 'target')}" for index in pack]
        _say(axes, 4.2 * number, 8.1, f"pack {number + 1}", 7, weight="bold")
        _pack(axes, 4.2 * number, 7.0, [LENGTHS[index] for index in pack], pack)
        _say(axes, 4.2 * number, 6.55, ", ".join(held), 6.2, color="0.25")
    _say(axes, -0.35, 7.2, "the step", 7.5, ha="right", weight="bold")
    _say(axes, 0, 5.75, "share of each in the loss of the step:", 6.6, style="italic")
    eq3, eq2 = (weights * TARGETS for weights in (eq3_weights(TARGETS, PACKS), loss_weights(TARGETS)))
    _shares(axes, 4.6, [eq3[list(pack)].sum() for pack in PACKS], ("0.75", "0.75"), ("pack 1", "pack 2"))
    _shares(axes, 2.6, eq3, COLOURS, NAMES)
    _shares(axes, 0.2, eq2, COLOURS, NAMES)
    _biases(axes)
    losses = ", ".join(f"{loss:g} in {name}" for loss, name in zip(TOKEN_LOSSES, NAMES, strict=False))
    found = f"Eq. 3 gives {eq3 @ TOKEN_LOSSES:g}, and Eq. 2 gives {eq2 @ TOKEN_LOSSES:g}"
    _say(axes, 0, -0.75, f"If the loss of a target is {losses}: {found}.", 7)
    _legend(axes, 0, -1.65)
    return drawn


def _biases(axes: plt.Axes) -> None:
    """To the left of each bar what it is a mean over, to the right what is biased."""
    for height, name, over, title, about, colour in (
        (5.0, "Eq. 3, first:", "a mean over packs", "bias between packs",
         "each pack has the same share: c is alone\nin its pack, and has all of it", COLOURS[5]),
        (3.0, "Eq. 3, then:", "in a pack, over targets", "bias inside a pack",
         "b has three times the targets of a,\nand so three times its share", COLOURS[5]),
        (0.6, "Eq. 2:", "a mean over sequences", "no bias", "a, b and c count the same,\nin any pack", COLOURS[2]),
    ):  # fmt: skip
        _say(axes, -0.35, height + 0.2, name, 7.5, ha="right", weight="bold")
        _say(axes, -0.35, height - 0.3, over, 6.4, ha="right")
        _say(axes, 9.4, height + 0.65, title, 7.2, weight="bold", color=colour)
        _say(axes, 9.4, height - 0.2, about, 6.4)


def _shares(
    axes: plt.Axes, bottom: float, shares: Sequence[float], colours: Sequence[str], names: Sequence[str]
) -> None:
    """A bar of one width for all, cut by shares; each part with its name and its share."""
    left = 0.0
    for share, colour, name in zip(shares, colours, names, strict=False):
        axes.add_patch(Rectangle((left, bottom), BAR * share, 0.8, facecolor=colour, edgecolor="white"))
        ink = "black" if sum(to_rgb(colour)) > 1.4 else "white"
        _say(axes, left + BAR * share / 2, bottom + 0.4, f"{name}  {_fraction(share)}", 7, ha="center", weight="bold",
             color=ink)  # fmt: skip
        left += BAR * share


def _many(number: int, name: str) -> str:
    """A number with its noun.

    >>> _many(1, "target"), _many(3, "target")
    ('1 target', '3 targets')
    """
    return f"{number} {name}{'' if number == 1 else 's'}"


def _fraction(share: float) -> str:
    """A share as a fraction.

    >>> _fraction(1 / 3)
    '1/3'
    """
    return str(Fraction(share).limit_denominator(100))


def _canvas(height: float, across: tuple[float, float], up: tuple[float, float]) -> tuple[Figure, plt.Axes]:
    """An empty drawing in the width of a page."""
    drawn, axes = plt.subplots(figsize=(TEXT_WIDTH, height))
    axes.set(xlim=across, ylim=up)
    axes.axis("off")
    drawn.tight_layout(pad=0.2)
    return drawn, axes


def _say(axes: plt.Axes, left: float, height: float, text: str, size: float, **options: str) -> None:
    axes.text(left, height, text, fontsize=size, va="center", **options)


def _station(axes: plt.Axes, left: float, bottom: float, width: float, title: str, about: str) -> None:
    axes.add_patch(FancyBboxPatch((left + 0.1, bottom + 0.1), width - 0.2, 3.4, boxstyle="round,pad=0.1",
                                  facecolor="white", edgecolor=COLOURS[0]))  # fmt: skip
    _say(axes, left + width / 2, bottom + 3.1, title, 7.5, ha="center", weight="bold")
    _say(axes, left + width / 2, bottom + 0.4, about, 6.2, ha="center")


def _arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color="black", shrinkA=0, shrinkB=0))


def _square(axes: plt.Axes, left: float, bottom: float, face: str | tuple[float, ...], edge: str = "white") -> None:
    axes.add_patch(Rectangle((left, bottom), SIZE, SIZE, facecolor=face, edgecolor=edge, linewidth=0.6))


def _pale(colour: str) -> tuple[float, ...]:
    return tuple(1 - 0.35 * (1 - part) for part in to_rgb(colour))


def _tokens(axes: plt.Axes, left: float, bottom: float, length: int, number: int) -> None:
    """A sequence as squares, with its name on its prompt, the first token."""
    for place in range(length):
        _square(axes, left + SIZE * place, bottom, COLOURS[number] if place else _pale(COLOURS[number]))
    _say(axes, left + SIZE / 2, bottom + SIZE / 2, NAMES[number], 6.5, ha="center", weight="bold")


def _pack(axes: plt.Axes, left: float, bottom: float, lengths: Sequence[int], numbers: Sequence[int],
          capacity: int = CAPACITY) -> None:  # fmt: skip
    """Sequences one after the other, and empty squares up to the capacity."""
    for length, number in zip(lengths, numbers, strict=True):
        _tokens(axes, left, bottom, length, number)
        left += SIZE * length
    for empty in range(capacity - sum(lengths)):
        _square(axes, left + SIZE * empty, bottom, "none", "0.75")


def _legend(axes: plt.Axes, left: float, height: float) -> None:
    """What a pale, a full and an empty square are."""
    for face, edge, name in ((_pale(COLOURS[0]), "white", "token of the prompt"),
                             (COLOURS[0], "white", "target: a token of the answer, which has a loss"),
                             ("none", "0.75", "free place in a pack")):  # fmt: skip
        _square(axes, left, height - SIZE / 2, face, edge)
        _say(axes, left + 0.55, height, name, 6.2)
        left += 1.2 + 0.115 * len(name)
