"""Ranks composed from times of micro-batches: what a plan takes on so many ranks, which wait for each other.

A rank passes its micro-batches one after the other; ranks wait at the end of a step or, under ZeRO-3, in every
micro-step. What is not in it: communication, and the optimizer's step.
"""

from collections.abc import Callable, Sequence

import numpy as np

from longalign.experiments.operations import PAPER_ACCUMULATION, Pace, fit_pace
from longalign.recipe.balance import BALANCES, balanced
from longalign.recipe.batching import Plan, deal, make_plan
from longalign.recipe.cost import SequenceCost, micro_batch_costs, slowest

BARRIERS = {"micro_step": "barrier at each micro-step (ZeRO-3)", "step": "barrier at the step"}

MicroBatch = tuple[tuple[int, ...], ...]
"""Lengths of the sequences in each row; () is a filler."""


def extrapolated(seconds: dict[int, float], layers: int) -> float:
    """What so many layers take by the straight line through two depths; a line that falls is taken as a level one.

    >>> extrapolated({2: 1.5, 4: 2.5}, 32)
    16.5
    """
    (few, less), (many, more) = sorted(seconds.items())
    return more + (layers - many) * max(0.0, more - less) / (many - few)


def lengths_of(plan: Plan) -> list[list[list[MicroBatch]]]:
    """Lengths in every micro-batch of the plan, [steps][ranks][accumulation]."""
    lengths = plan.lengths.tolist()
    return [[[tuple(tuple(lengths[i] for i in row) for row in micro_batch) for micro_batch in rank]
             for rank in step.micro_batches] for step in plan.steps]  # fmt: skip


def seconds_by(of: Callable[[MicroBatch], float], plan: Plan) -> np.ndarray:
    """Seconds of every micro-batch, [steps, ranks, accumulation], each as `of` says.

    >>> plan = make_plan("packing", [2, 4, 3], capacity=6, ranks=2)
    >>> seconds_by(lambda micro_batch: sum(map(sum, micro_batch)), plan).tolist()
    [[[5.0], [4.0]]]
    """
    seconds = [[[of(micro_batch) for micro_batch in rank] for rank in step] for step in lengths_of(plan)]
    return np.array(seconds, dtype=np.float64)


def seconds_by_pace(pace: Pace, plan: Plan) -> np.ndarray:
    """Seconds of every micro-batch, [steps, ranks, accumulation], by a pace; without what it says of a step.

    >>> seconds_by_pace(Pace(1.0, 0.0, 0.5, 0.0), make_plan("packing", [2, 4, 3], capacity=6, ranks=2)).tolist()
    [[[5.5], [4.5]]]
    """
    return micro_batch_costs(plan, SequenceCost(pace.per_position, pace.per_pair)) + pace.per_micro_batch


def wall(seconds: np.ndarray, barrier: str) -> float:
    """Seconds until the slowest rank is through, of micro-batches [steps, ranks, accumulation] that take so long.

    `barrier`: ranks wait for each other at the end of a "step", or in every "micro_step". Raises ValueError for
    another.

    >>> times = np.array([[[2.0, 3.0], [4.0, 0.0]]])           # rank 0 passes lengths 2 and 3, rank 1 passes 4
    >>> wall(times, "step"), wall(times, "micro_step")
    (5.0, 7.0)
    """
    return float(slowest(seconds, barrier).sum())


def fit(work: np.ndarray, seconds: np.ndarray) -> Pace:
    """The pace with the least squares of relative errors: in seconds, the longest micro-batches would decide alone.

    `work`: positions, pairs, micro-batches, steps (`longalign.experiments.operations.step_work`), shape [n, 4].
    """
    return fit_pace(work / seconds[:, None], np.ones_like(seconds))


def scaled(cost: SequenceCost, work: np.ndarray, seconds: np.ndarray) -> Pace:
    """The cost times one factor: the median of measured seconds over it.

    >>> scaled(SequenceCost(1.0, 0.0), np.array([[2.0, 4, 1, 0], [4, 16, 1, 0]]), np.array([6.0, 12.0])).per_position
    3.0
    """
    factor = float(np.median(seconds / (work[:, :2] @ [cost.per_token, cost.per_pair])))
    return Pace(cost.per_token * factor, cost.per_pair * factor, 0.0, 0.0)


def plans(lengths: np.ndarray, capacity: int, ranks: int, barrier: str, cost: SequenceCost) -> dict[str, Plan]:
    """Plans of all systems: the paper's three, and packing balanced by `cost`, with one pack a rank and, on 8 ranks,
    with eight, too."""
    padded = {"ranks": ranks, "accumulation": PAPER_ACCUMULATION}
    found = {method: make_plan(method, lengths, **padded) for method in ("naive", "sorted")}
    for packs in (1, 8) if ranks == 8 else (1,):
        plan = make_plan("packing", lengths, capacity=capacity, ranks=ranks, accumulation=packs)
        name = "packing" if packs == 1 else f"packing, {packs} packs a rank"
        found[name] = plan
        found |= {f"{name}, balance {how}": balanced(plan, how, cost=cost, barrier=barrier) for how in BALANCES}
    return found


def typical_step(lengths: np.ndarray, capacity: int, cost: SequenceCost) -> MicroBatch:
    """Lengths in the packs of one step, 8 packs for 8 ranks, whose cost is nearest to the mean of the plan's steps.

    >>> typical_step(np.array([3] * 16 + [2]), 3, SequenceCost(1.0, 0.0))
    ((3,), (3,), (3,), (3,), (3,), (3,), (3,), (3,))
    """
    plan = make_plan("packing", lengths, capacity=capacity, ranks=8)
    costs = micro_batch_costs(plan, cost).sum(axis=(1, 2))
    full = costs[:-1] if len(costs) > 1 else costs  # the last step may be small
    step = plan.steps[int(np.abs(full - full.mean()).argmin())]
    return tuple(tuple(lengths[list(row)].tolist()) for row in step.rows)


def plans_of_step(packs: MicroBatch, capacity: int) -> dict[str, Plan]:
    """These packs as they are, one on each of 8 ranks, and their sequences naive and sorted, a row each."""
    lengths = np.array([length for row in packs for length in row])
    padded = {"ranks": 8, "accumulation": -(-len(lengths) // 8)}
    found = {method: make_plan(method, lengths, **padded) for method in ("naive", "sorted")}
    found["packing"] = plan_of(packs, capacity, ranks=8)
    return found


def plan_of(packs: Sequence[Sequence[int]], capacity: int, *, ranks: int = 1) -> Plan:
    """A plan of packs of these lengths, in this order.

    >>> plan_of([[2, 4], [3]], 6).steps[0].micro_batches
    ((((0, 1),),),)
    """
    lengths = np.array([length for row in packs for length in row])
    ends = np.cumsum([len(row) for row in packs]).tolist()
    rows = [tuple(range(end - len(row), end)) for end, row in zip(ends, packs, strict=True)]
    return Plan("packing", lengths, lengths - 1, capacity, ranks, 1, 1, deal(rows, ranks=ranks, accumulation=1, rows=1))
