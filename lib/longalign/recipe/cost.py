"""What a plan costs on parallel ranks, by a model: an estimate, never a measurement.

A sequence of L tokens costs a L + b L^2: every token passes the weights once, every pair of tokens meets in attention.
Counted in floating-point operations (`decoder_cost`), only shares between plans mean something; in seconds, fitted to
measured step times (`fit_pace`), the model tells how long ranks would take that are like the one measured; how far off
it is, steps tell that it was not fitted to (`hold_out`, `prediction_error`). The price of either: kernels, memory and
communication of other devices are not in it.
"""

import itertools
from dataclasses import astuple, dataclass

import numpy as np

from longalign.recipe.array_types import Counts, Float, Int, as_counts
from longalign.recipe.plan import MicroBatch, Plan

A800 = 312.0
"""TFLOP/s of the paper's devices in bf16, by their data sheet."""


@dataclass(frozen=True)
class SequenceCost:
    """Cost of one sequence alone in its attention block, `per_token * L + per_pair * L^2`, in FLOPs or any other unit.

    >>> SequenceCost(per_token=10.0, per_pair=1.0)([2, 4, 3])
    array([24., 56., 39.])
    """

    per_token: float
    per_pair: float

    def __call__(self, lengths: Counts) -> Float[np.ndarray, " sequences"]:
        """Cost per sequence, shape [sequences]."""
        lengths = as_counts(lengths).astype(np.float64)
        return self.per_token * lengths + self.per_pair * lengths**2


def decoder_cost(
    *, hidden_size: int, layers: int, intermediate_size: int, vocab_size: int, key_value_size: int | None = None,
    query_size: int | None = None,
) -> SequenceCost:  # fmt: skip
    """FLOPs of one training pass (forward and backward) of a Llama-like decoder, all of its tokens being targets.

    6 FLOPs per weight and token, and 12 x layers x query_size per pair of tokens (PaLM, arXiv 2204.02311, appendix
    B), halved because a causal kernel computes one half of the pairs (FlashAttention-2, arXiv 2307.08691). Weights:
    four attention projections and three of a gated MLP per layer, and the output head; embedding look-ups and norms are
    left out. Where few tokens are targets, `longalign.experiments.operations` counts the output head for those alone.

    Args:
        hidden_size, intermediate_size, vocab_size: widths in numbers of features.
        layers: number of layers.
        key_value_size: key-value heads x head size; by default hidden_size (multi-head attention).
        query_size: heads x head size; by default hidden_size.

    >>> cost = decoder_cost(hidden_size=1, layers=1, intermediate_size=1, vocab_size=1)
    >>> cost.per_token, cost.per_pair  # 6 x (4 + 3 + 1) weights
    (48.0, 6.0)
    """
    key_value_size = hidden_size if key_value_size is None else key_value_size
    query_size = hidden_size if query_size is None else query_size
    layer = hidden_size * (2 * query_size + 2 * key_value_size + 3 * intermediate_size)
    weights = layers * layer + hidden_size * vocab_size
    return SequenceCost(per_token=6.0 * weights, per_pair=6.0 * layers * query_size)


LLAMA_2_7B = decoder_cost(hidden_size=4096, layers=32, intermediate_size=11008, vocab_size=32000)


def micro_batch_costs(plan: Plan, cost: SequenceCost = LLAMA_2_7B) -> Float[np.ndarray, "steps ranks accumulation"]:
    """Cost of every micro-batch, shape [steps, ranks, accumulation].

    A pack costs the sum over its sequences (attention is block-diagonal, the empty end of a pack is not computed); a
    padded row costs as much as the longest row of its micro-batch; a filler costs nothing.
    """
    alone = cost(plan.lengths).tolist()

    def of(micro_batch: MicroBatch) -> float:
        if plan.method == "packing":
            return sum((alone[sequence] for row in micro_batch for sequence in row), start=0.0)
        return len(micro_batch) * max((alone[row[0]] for row in micro_batch), default=0.0)

    costs = [[[of(micro_batch) for micro_batch in rank] for rank in step.micro_batches] for step in plan.steps]
    return np.array(costs, dtype=np.float64).reshape(len(plan.steps), plan.ranks, plan.accumulation)


def idle_share(plan: Plan, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> float:
    """Share of the ranks' time spent waiting for the slowest rank, in [0, 1).

    It is 1 - work / (ranks x sum over the barriers of the largest work of a rank).

    Args:
        barrier: where ranks wait for each other: "step" at the gradient exchange of an optimizer step (plain data
            parallelism); "micro_step" in every micro-batch (ZeRO-3 gathers the weights layer by layer).

    Raises:
        ValueError: an unknown barrier.

    Worked example: rank 0 passes lengths 2 and 3, rank 1 passes 4 and nothing, at 1 per token: with a barrier at the
    step, rank 1 waits 1 of 2 x 5; with one at each micro-step, the maxima are 4 and 3, and 5 of 2 x 7 are idle.
    """
    costs = micro_batch_costs(plan, cost=cost)
    wall = slowest(costs, barrier).sum()
    return float(1 - costs.sum() / (plan.ranks * wall)) if wall else 0.0


def slowest(costs: Float[np.ndarray, "steps ranks accumulation"], barrier: str) -> Float[np.ndarray, " steps"]:
    """What each step takes, of micro-batches that cost so much, when ranks wait for the slowest at each `barrier`.

    With the time $t_{srm}$ of a micro-batch: sum over m of max over r in every "micro_step", max over r of the sum over
    m at the end of a "step". Raises ValueError for another barrier.

    >>> times = np.array([[[2.0, 3.0], [4.0, 0.0]]])           # rank 0 passes lengths 2 and 3, rank 1 passes 4
    >>> slowest(times, "step").tolist(), slowest(times, "micro_step").tolist()
    ([5.0], [7.0])
    """
    if barrier not in ("step", "micro_step"):
        raise ValueError(f'barrier must be "step" or "micro_step", not {barrier!r}')
    return costs.sum(axis=2).max(axis=1) if barrier == "step" else costs.max(axis=1).sum(axis=1)


def fill_share(plan: Plan) -> float:
    """Real tokens per position computed, in [0, 1]; 1.0 for an empty plan.

    A pack counts with its whole capacity, a padded row with the longest length of its micro-batch, a filler not at all.
    """
    tokens = int(plan.lengths.sum())
    if plan.method == "packing":
        positions = plan.capacity * sum(plan.packs(step) for step in plan.steps)
    else:
        lengths = plan.lengths.tolist()
        micro_batches = (batch for step in plan.steps for rank in step.micro_batches for batch in rank if batch)
        positions = sum(len(batch) * max(lengths[row[0]] for row in batch) for batch in micro_batches)
    return tokens / positions if positions else 1.0


@dataclass(frozen=True)
class Pace:
    """Seconds of one process: for a position, a pair of attention, a micro-batch, and an optimizer step beside them.

    >>> Pace(per_position=0.1, per_pair=0.01, per_micro_batch=1.0, per_step=2.0)(np.array([[9.0, 29.0, 1.0, 1.0]]))
    array([4.19])
    """

    per_position: float
    per_pair: float
    per_micro_batch: float
    per_step: float

    def __call__(self, work: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
        """Seconds for rows of work (positions, pairs, micro-batches, steps), as `step_work` gives them."""
        return work @ np.array(astuple(self))


def step_work(plan: Plan) -> Float[np.ndarray, "steps ranks 4"]:
    """What each rank does in each step: positions and pairs computed, micro-batches, and 1 for the step itself.

    Positions and pairs are those of `micro_batch_costs`; a filler is a micro-batch without positions.

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

    Raises:
        ValueError: fewer times than coefficients, or times that are not positive.

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

    >>> fitted, held = hold_out(10)
    >>> len(fitted), len(held), sorted([*fitted.tolist(), *held.tolist()]) == list(range(10))
    (7, 3, True)
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

    >>> pace = Pace(per_position=1.0, per_pair=0.0, per_micro_batch=0.0, per_step=0.0)
    >>> work = np.array([[2.0, 4, 1, 1], [4, 16, 1, 1], [3, 9, 1, 1]])
    >>> prediction_error(pace, work, np.array([1.6, 3.2, 3.2]))
    PredictionError(steps=3, median=0.25, ninetieth=0.25, total=0.125)
    """
    predicted = pace(work)
    median, ninetieth = np.quantile(np.abs(predicted / seconds - 1), [0.5, 0.9]).tolist()
    return PredictionError(len(seconds), median, ninetieth, float(predicted.sum() / seconds.sum() - 1))


def step_seconds(plan: Plan, pace: Pace, *, barrier: str = "step") -> Float[np.ndarray, " steps"]:
    """Simulated seconds of every optimizer step on `plan.ranks` processes of this pace, shape [steps].

    A step ends when the slowest rank is done; communication takes no time. `barrier`: see `idle_share`.

    >>> from longalign.recipe.batching import plan_naive
    >>> plan = plan_naive([2, 4, 3], ranks=2, accumulation=2, seed=1)                # rank 0: 2, 3; rank 1: 4, a filler
    >>> pace = Pace(per_position=1.0, per_pair=0.0, per_micro_batch=0.5, per_step=0.25)
    >>> step_seconds(plan, pace).tolist(), step_seconds(plan, pace, barrier="micro_step").tolist()
    ([6.25], [8.25])
    """
    costs = micro_batch_costs(plan, SequenceCost(per_token=pace.per_position, per_pair=pace.per_pair))
    return slowest(costs + pace.per_micro_batch, barrier) + pace.per_step
