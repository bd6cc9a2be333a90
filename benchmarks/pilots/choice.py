"""What the pilots' tables say, by rules that were written before them.

**Shape.** Candidates for a size differ in their attention alone, and where that has fewer weights, in a wider MLP (0.45
to 1.3 million weights in all). One attention is chosen for all sizes:

- A candidate's *cost* is the mean, over sizes and kinds of batch (the bases', the extension's, packs and sorted rows of
  fine-tuning), of its processor time for a step divided by that of heads of 32.
- Its *loss* is the held-out loss of mini-7b after 3 million tokens at a rate of 3e-3, the mean over seeds 100 and 101.
- Chosen is the cheapest of the candidates whose loss is at most 0.03 above the lowest.

**Recall.** A base must have learnt to look things up, or all tasks stay at their floor. A base that finds less than
95 % of the answers' tokens of the recall probe (100 documents of 128 tokens) is none. If the first base of a size is
such a one, with seed 0, this size keeps heads of 32, and its rate is chosen again. Else the bases of a size are those
of the first seeds that learn. The rule for the first base came after that of mini-6b with heads of 64 (76 %), the rule
for the others after the second of mini-7b (74 %); nothing had been fine-tuned from any other base by then.

**Rate.** Each size, with its shape, reads a quarter of its tokens at each rate of a grid (factors of 2, given
for a width of 96; a width of w has 96 / w of it). Chosen is the rate with the lowest held-out loss, the mean over seeds
100 and 101. Where that is an end of the grid, the next rate beyond it is tried, until it is not, or there is none left.

**Tokens.** 14 for each weight, in both stages together: mini-7b reads about as many as its first base did.

**Data.** See `benchmarks.pilots.data`.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count, islice
from statistics import mean

from benchmarks import pilots
from longalign.miniature.pretraining import Recipe, curriculum
from longalign.train.memory import ModelShape
from longalign.train.models import MINIATURES


def _mini(width: int, layers: int, heads: int, key_value_heads: int, inner: int, head_size: int) -> ModelShape:
    return ModelShape(width, layers, inner, heads, key_value_heads, head_size, tied=True)


NARROW = "heads of 32"
SHAPES: dict[str, dict[str, ModelShape]] = {
    NARROW: {
        "mini-6b": _mini(96, 3, 6, 3, 224, 32),
        "mini-7b": _mini(96, 3, 6, 6, 256, 32),
        "mini-13b": _mini(128, 4, 8, 8, 344, 32),
    },
    "heads of 64": {
        "mini-6b": _mini(96, 3, 3, 1, 240, 64),
        "mini-7b": _mini(96, 3, 3, 3, 256, 64),
        "mini-13b": _mini(128, 4, 4, 4, 344, 64),
    },
    "heads of 64, a third fewer": {
        "mini-6b": _mini(96, 3, 2, 1, 288, 64),
        "mini-7b": _mini(96, 3, 2, 2, 288, 64),
        "mini-13b": _mini(144, 4, 3, 3, 304, 64),
    },
}
TOLERANCE, LEAST_RECALL = 0.03, 0.95
TOKENS_PER_WEIGHT = 14
GRID = (1.5e-3, 3e-3, 6e-3)
RATES = (7.5e-4, *GRID, 1.2e-2)
BASES = {"mini-6b": 1, "mini-7b": 3, "mini-13b": 3}
"""Three of the sizes that the paper's Table 4 compares. What is said of mini-6b alone (Table 2) is said of one base, as
in the paper; every further one would cost each reader one more context extension."""

Row = Mapping[str, str]


def weights(shape: ModelShape, vocabulary: int) -> int:
    """The number of weights of a shape with a vocabulary.

    >>> weights(SHAPES[NARROW]["mini-7b"], 1238)
    561888
    """
    return replace(shape, vocab_size=vocabulary).parameters


def shape_name(speed: list[Row], losses: list[Row]) -> str:
    """The candidate that the rule for shapes chooses. Raises ValueError while a number is missing."""
    missing = [name for name in SHAPES if len(rows_of(losses, candidate=name)) < len(pilots.SEEDS)]
    if missing or not speed:
        raise ValueError(f"the pilots speed and shapes must be finished first; missing: {missing or 'speed'}")
    cost = {name: mean(float(row["ratio"]) for row in rows_of(speed, candidate=name)) for name in SHAPES}
    loss = {name: mean(float(row["loss"]) for row in rows_of(losses, candidate=name)) for name in SHAPES}
    good = [name for name in SHAPES if loss[name] <= min(loss.values()) + TOLERANCE]
    return min(good, key=cost.__getitem__)


def attention(model: str, shape: str, recalls: list[Row]) -> str:
    """The candidate of one size: the one that was chosen for all, unless the first base has not learnt to recall."""
    return NARROW if "0" in _failed(model, shape, recalls) else shape


def seeds(model: str, candidate: str, recalls: list[Row]) -> tuple[int, ...]:
    """The seeds of a size's bases: the first of all that do not belong to a base that has not learnt to recall."""
    failed = _failed(model, candidate, recalls)
    return tuple(islice((seed for seed in count() if str(seed) not in failed), BASES[model]))


def next_rate(rows: list[Row], model: str) -> float | None:
    """The next rate to try for a model; None where the rule can choose."""
    means = _means(rows, model)
    for rate in GRID:
        if rate not in means:
            return rate
    best = min(means, key=means.__getitem__)
    beside = [RATES[place] for place in (RATES.index(best) - 1, RATES.index(best) + 1) if 0 <= place < len(RATES)]
    return next((rate for rate in beside if rate not in means), None)


def rate(rows: list[Row], model: str) -> float:
    """The rate that the rule chooses for a model. Raises ValueError while one is to be tried."""
    if (missing := next_rate(rows, model)) is not None:
        raise ValueError(f"the pilot rates must be finished first; {model} lacks {missing:g}")
    means = _means(rows, model)
    return min(means, key=means.__getitem__)


def recipe(
    model: str, candidate: str, rate: float, vocabulary: int, *, share: float = 1.0, seeds: tuple[int, ...] = (0,)
) -> Recipe:
    """The recipe of a size with a candidate's attention and a share of its tokens."""
    shape = SHAPES[candidate][model]
    stages = curriculum(round(share * TOKENS_PER_WEIGHT * weights(shape, vocabulary)), rate)
    return Recipe(stages, seeds, None if shape == MINIATURES[model] else shape)


def _means(rows: list[Row], model: str) -> dict[float, float]:
    """The mean loss of a model at every rate that all seeds have."""
    found: dict[float, list[float]] = {}
    for row in rows_of(rows, model=model):
        found.setdefault(float(row["rate"]), []).append(float(row["loss"]))
    return {rate: mean(values) for rate, values in found.items() if len(values) == len(pilots.SEEDS)}


def _failed(model: str, candidate: str, recalls: list[Row]) -> set[str]:
    return {row["seed"] for row in rows_of(recalls, model=model, candidate=candidate)
            if float(row["recall"]) < LEAST_RECALL}  # fmt: skip


def rows_of(rows: list[Row], **wanted: str) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]
