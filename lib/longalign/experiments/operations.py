"""What one training step of a Llama-like decoder demands: operations, bytes moved and bytes held, counted exactly.

Counted is a step in fp32 on one device: packs through block-causal attention, the loss at target tokens alone, AdamW.
Operations are those of the matrix products and of attention; bytes moved are what these read and write once each, with
the optimizer's; bytes held are what lies in memory when the backward pass begins. Seconds come from a fitted pace
(`fit_pace`): how long ranks would take that are like the one measured; how far off it is, steps tell that it was not
fitted to (`hold_out`, `prediction_error`). The traffic is a lower bound, as if norms, rotations and activations cost
none beside the products; buffers of kernels are not held; the last layer counts in full, of which
`longalign.recipe.last_layer` saves a part. Devices, ZeRO and bf16: `longalign.train.memory`.

T = tokens of a pack, N = its target tokens, D = hidden size, Q = heads x head size, K = key-value heads x head size,
I = intermediate size, V = vocabulary
"""

import itertools
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from longalign.common.array_types import Counts, Float, Int, as_counts
from longalign.recipe.batching import Plan
from longalign.recipe.cost import SequenceCost, micro_batch_costs, slowest
from longalign.train.memory import CHUNK, ModelShape

PAPER_ACCUMULATION = 12
"""Of naive and sorted batching in the paper (arXiv 2401.18058): 8 ranks x 1 row x 12."""
NUMBER = 4
"""Bytes of a number in fp32."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one process: for a position, a pair of attention, a micro-batch, and an optimizer step beside them.

    >>> Pace(per_position=0.1, per_pair=0.01, per_micro_batch=1.0, per_step=2.0)(np.array([[9.0, 29.0, 1.0, 1.0]]))
    array([4.19])
    """

    per_position: float
    per_pair: float
    per_micro_batch: float = 0.0
    per_step: float = 0.0

    def __call__(self, work: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
        """Seconds for rows of work (positions, pairs, micro-batches, steps), as `step_work` gives them."""
        return work @ np.array(astuple(self))


def step_work(plan: Plan) -> Float[np.ndarray, "steps ranks 4"]:
    """What each rank does in each step: positions and pairs computed, micro-batches (fillers too), and 1 for the step.

    >>> from longalign.recipe.batching import plan_packing
    >>> step_work(plan_packing([2, 4, 3], capacity=9)).tolist()
    [[[9.0, 29.0, 1.0, 1.0]]]
    """
    positions, pairs = (micro_batch_costs(plan, SequenceCost(*unit)).sum(axis=2) for unit in ((1.0, 0.0), (0.0, 1.0)))
    return np.stack([positions, pairs, np.full_like(pairs, plan.accumulation), np.ones_like(pairs)], axis=2)


def fit_pace(work: Float[np.ndarray, "n 4"], seconds: Float[np.ndarray, " n"]) -> Pace:
    """The pace that fits measured seconds best: least squares with no coefficient below zero, rows of work as above.

    The best fit under that bound is the ordinary one over the columns that it does not hold at zero, so all choices of
    columns are tried, and nothing but numpy is needed. A column that explains no more than rounding stays at zero.
    Raises ValueError for fewer times than coefficients, or times that are not positive.

    >>> work = np.array([[2.0, 4, 1, 1], [4, 16, 2, 1], [3, 9, 1, 1], [9, 29, 1, 1], [9, 81, 3, 1]])
    >>> pace = fit_pace(work, work @ [0.5, 0.25, 0.0, 1.0])
    >>> round(pace.per_position, 9), round(pace.per_pair, 9), pace.per_micro_batch, round(pace.per_step, 9)
    (0.5, 0.25, 0.0, 1.0)
    """
    if len(seconds) < 4 or not (seconds > 0).all():
        raise ValueError(f"a pace is fitted to at least 4 positive times with their work, not to {len(seconds)} times")
    scale = np.maximum(work.max(axis=0), 1e-300)
    best, least = np.zeros(4), float(seconds @ seconds)
    rounding = 1e-24 * least  # squares of what processors differ by, some 1e-15 of the times, and room above
    for size in range(1, 5):
        for columns in map(list, itertools.combinations(range(4), size)):
            found = np.zeros(4)
            found[columns] = np.linalg.lstsq(work[:, columns] / scale[columns], seconds, rcond=None)[0]
            left = float(((work / scale @ found - seconds) ** 2).sum())
            if (found >= 0).all() and left < least * (1 - 1e-9) - rounding:
                best, least = found, left
    return Pace(*(best / scale).tolist())


def hold_out(steps: int, *, seed: int = 0) -> tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " held"]]:
    """Of so many measured steps, those to fit a pace to and the three tenths that only tell how far off it is.

    The seed alone draws them, before anything is fitted. Raises ValueError where a side would be left without a step.

    >>> [len(part) for part in hold_out(10)]
    [7, 3]
    """
    held = round(0.3 * steps)
    if held == 0:
        raise ValueError(f"of {steps} steps none would be held out; measure at least 2")
    order = np.random.default_rng(seed).permutation(steps)
    return np.sort(order[held:]), np.sort(order[:held])


@dataclass(frozen=True)
class PredictionError:
    """How far a pace is off: the median and the 90th percentile of |predicted / measured - 1| over `steps` steps, and
    predicted / measured - 1 of their total, whose sign says whether it promises too much time (+) or too little (-)."""

    steps: int
    median: float
    ninetieth: float
    total: float


def prediction_error(
    pace: Pace, work: Float[np.ndarray, "n 4"], seconds: Float[np.ndarray, " n"]
) -> PredictionError:
    """The pace's error on steps that took `seconds`, best on such as it was not fitted to.

    >>> work = np.array([[2.0, 4, 1, 1], [4, 16, 1, 1], [3, 9, 1, 1]])
    >>> prediction_error(Pace(per_position=1.0, per_pair=0.0), work, np.array([1.6, 3.2, 3.2]))
    PredictionError(steps=3, median=0.25, ninetieth=0.25, total=0.125)
    """
    predicted = pace(work)
    median, ninetieth = np.quantile(np.abs(predicted / seconds - 1), [0.5, 0.9]).tolist()
    return PredictionError(len(seconds), median, ninetieth, float(predicted.sum() / seconds.sum() - 1))


def step_seconds(plan: Plan, pace: Pace, *, barrier: str = "step") -> Float[np.ndarray, " steps"]:
    """Simulated seconds of every optimizer step on `plan.ranks` processes of this pace, shape [steps].

    A step ends when the slowest rank is done; communication takes no time. `barrier`: see
    `longalign.recipe.cost.idle_share`.

    >>> from longalign.recipe.batching import plan_naive
    >>> plan = plan_naive([2, 4, 3], ranks=2, accumulation=2, seed=1)                # rank 0: 2, 3; rank 1: 4, a filler
    >>> pace = Pace(per_position=1.0, per_pair=0.0, per_micro_batch=0.5, per_step=0.25)
    >>> step_seconds(plan, pace).tolist(), step_seconds(plan, pace, barrier="micro_step").tolist()
    ([6.25], [8.25])
    """
    costs = micro_batch_costs(plan, SequenceCost(per_token=pace.per_position, per_pair=pace.per_pair))
    return slowest(costs + pace.per_micro_batch, barrier) + pace.per_step


@dataclass(frozen=True)
class Demand:
    """One optimizer step. `flops` and `bytes_moved` add up over its micro-batches; bytes held, by what holds them, are
    those of the largest.

    `work` is (positions, pairs, micro-batches, 1), of which a fitted pace makes seconds.
    """

    flops: float
    bytes_moved: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    work: tuple[float, float, float, float]

    def seconds(self, pace: Pace) -> float:
        """Seconds of the step on a process of this pace."""
        return float(pace(np.array([self.work]))[0])


def demand(decoder: ModelShape, packs: Sequence[Counts], targets: Sequence[int] | None = None) -> Demand:
    """What a step asks for whose micro-batches are `packs`, each a list of the lengths of its sequences.

    A padded micro-batch is one of equal lengths. A causal kernel computes half of the pairs, L^2 / 2 of a sequence.

    Args:
        packs: tokens per sequence, one list for each micro-batch.
        targets: target tokens N of each pack; by default all but the first of every sequence.

    Raises:
        ValueError: not one number of targets for each pack, or more than its tokens.

    >>> tiny = ModelShape(hidden_size=1, layers=1, intermediate_size=1, heads=1, key_value_heads=1, head_size=1,
    ...                   vocab_size=1)
    >>> step = demand(tiny, [[2, 4, 3]])  # 9 tokens x 7 weights, 6 targets x 1 weight, 29 pairs
    >>> step.flops == 6 * 9 * 7 + 6 * 6 * 1 + 6 * 29, step.work
    (True, (9.0, 29.0, 1.0, 1.0))
    >>> step.weights, step.optimizer  # 7 of matrices, 3 of norms, 2 of embeddings, at 4 bytes; two moments of each
    (48, 96)
    """
    packs = [as_counts(lengths) for lengths in packs]
    tokens = [int(lengths.sum()) for lengths in packs]
    given = [int(np.maximum(lengths - 1, 0).sum()) for lengths in packs] if targets is None else list(targets)
    if len(given) != len(packs) or any(n > total for n, total in zip(given, tokens, strict=True)):
        raise ValueError(f"targets {given} do not fit packs of {tokens} tokens")
    parts = list(zip(tokens, given, strict=True))
    head, pairs = decoder.hidden_size * decoder.vocab_size, float(sum((lengths**2).sum() for lengths in packs))
    activations, loss = max(((_kept(decoder, t), _loss(decoder, n)) for t, n in parts), key=sum, default=(0, 0))
    moved = sum(_moved(decoder, t, n) for t, n in parts) + 3 * max(0, len(packs) - 1) * decoder.parameters
    states, layers = NUMBER * decoder.parameters, replace(decoder, vocab_size=0).cost
    return Demand(
        flops=float(sum(layers(lengths).sum() for lengths in packs)) + 6.0 * head * sum(given),
        bytes_moved=NUMBER * moved + 7 * states,
        weights=states, gradients=states, optimizer=2 * states,
        activations=NUMBER * activations, loss=NUMBER * loss,
        work=(float(sum(tokens)), pairs, float(len(packs)), 1.0),
    )  # fmt: skip


def _moved(decoder: ModelShape, tokens: int, targets: int) -> int:
    """Numbers that the products and attention of a pack read and write.

    A product of T x inputs with a matrix reads both and writes T x outputs; its two gradients move as much each.
    Attention reads Q, K, K and writes Q, and backward reads these with the gradient of the last and writes three.
    """
    layer = sum(3 * (tokens * (inputs + outputs) + inputs * outputs) for inputs, outputs in decoder.matrices)
    layer += tokens * (6 * decoder.query_size + 6 * decoder.key_value_size + 2 * decoder.heads)  # and its normalisers
    d, v = decoder.hidden_size, decoder.vocab_size
    return decoder.layers * layer + 3 * (targets * (d + v) + d * v)


def _kept(decoder: ModelShape, tokens: int) -> int:
    """Numbers that autograd keeps of a pack (`ModelShape.kept`), and once more the output of attention, where sequences
    are put together. Beside the layers: the last norm, the rotation's cosines and sines, and the tokens (8 bytes)."""
    layer = decoder.kept(NUMBER) // NUMBER + decoder.query_size
    return tokens * (decoder.layers * layer + 2 * decoder.hidden_size + 1 + 2 * decoder.head_size + 2)


def _loss(decoder: ModelShape, targets: int) -> int:
    """Numbers that the loss keeps, the gradients of the hidden states and of the vocabulary's matrix, and one chunk."""
    d, v = decoder.hidden_size, decoder.vocab_size
    return targets * d + d * v + min(targets, CHUNK) * v
