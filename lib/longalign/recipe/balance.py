"""Plans evened out by the cost of attention: every sequence once, no pack over the capacity, and the ranks wait less.

A sequence costs a L + b L^2, and ranks wait for the slowest: at the end of an optimizer step, or in every micro-step
(`longalign.recipe.cost.idle_share`). `within_steps` keeps the samples of each step, `by_fill` takes others, and
`across_steps` those of like costs. A rule of thumb, not the optimum; what lies above `idle_bound` is what it misses at
most. `benchmarks/balance.py` measures all three.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from longalign.common.array_types import Int
from longalign.recipe import mixed
from longalign.recipe.batching import MicroBatch, Plan, Row, Step, deal
from longalign.recipe.cost import LLAMA_2_7B, SequenceCost, micro_batch_cost, micro_batch_costs, slowest
from longalign.recipe.leveling import assign_balanced, fill_empty, group_targets, improve_by_swaps
from longalign.recipe.packing import lower_bound

Packs = list[list[Row]]
"""By member."""


def within_steps(plan: Plan, *, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> Plan:
    """The same samples in every optimizer step, dealt anew to ranks and micro-steps: to SGD it is the same step.

    No step takes longer than before. Packs of a step are moved, or its sequences packed anew into at least as many
    packs (M stays, K may grow to what the ranks can hold; the weights of Eq. 4 follow); of padded rows the
    micro-batches are moved. Where ranks share sequences, both kinds are dealt (`longalign.recipe.mixed.moved`). Raises
    ValueError for an unknown barrier.

    >>> from longalign.recipe.batching import plan_naive
    >>> plan = plan_naive([2, 4, 3, 3], ranks=2, accumulation=2, seed=0)
    >>> even = within_steps(plan, cost=SequenceCost(1.0, 1.0))           # costs 6, 20, 12, 12; it was [[3, 4], [2, 3]]
    >>> [[int(plan.lengths[list(row)].sum()) for (row,) in rank] for rank in even.steps[0].micro_batches]
    [[4, 2], [3, 3]]
    """
    costs, plans = cost(plan.lengths), [plan]
    ways: list[Callable[..., Step]] = [_redealt, _repacked] if plan.method == "packing" else [_redealt]
    if plan.degree > 1:
        ways = [mixed.moved, mixed.repacked]
        (_, _, alone), (shared, _, together) = mixed.kinds(plan, cost)
        costs = np.where(shared, together(plan.lengths), alone(plan.lengths))
    for way in ways:
        steps = (way(plan, step, costs, barrier) if step.rows else step for step in plan.steps)
        plans.append(replace(plan, steps=tuple(steps)))
    best = np.argmin([slowest(micro_batch_costs(one, cost), barrier) for one in plans], axis=0)
    return replace(plan, steps=tuple(plans[choice].steps[number] for number, choice in enumerate(best.tolist())))


def by_fill(plan: Plan, *, fill: float = 0.98, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> Plan:
    """The plan's sequences in its order, so many to a step as fill its packs to `fill`, and packed by cost.

    Samples are drawn as `plan` draws them (next fit's order is random), so that M is nearly constant; steps are the
    same however the packs are split into ranks and micro-steps. What a step cannot pack goes to the next one. Raises
    ValueError for a plan that does not pack, a fill outside (0, 1], and an unknown barrier.

    >>> from longalign.recipe.batching import plan_packing
    >>> by_fill(plan_packing([2, 4, 3], capacity=9, ranks=2), fill=0.5).steps[0].micro_batches
    ((((1,),),), (((2, 0),),))
    """
    _only_packing(plan, "fill")
    if not 0 < fill <= 1:
        raise ValueError(f"fill must be above 0 and at most 1, not {fill}")
    costs = cost(plan.lengths)
    order = iter([sequence for step in plan.steps for sequence in step.sequences])
    steps: list[Step] = []
    waiting: list[int] = []
    while True:
        chosen, waiting = _next_step(plan, order, waiting, fill)
        if not chosen:
            return within_steps(replace(plan, steps=tuple(steps)), cost=cost, barrier=barrier)
        needed = int(plan.lengths[chosen].sum() / (fill * plan.pack_capacity)) + 1
        packs, left = _packs(plan, chosen, costs, _slots(plan) if waiting else min(_slots(plan), needed))
        steps += _dealt(plan, packs)
        waiting = left + waiting


def across_steps(plan: Plan, *, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> Plan:
    """Steps (micro-steps, where ranks wait in each) of like costs, all made at once, in an order that `plan` draws.

    With the barrier at the step, steps are the same however the packs are split into ranks and micro-steps. Samples of
    a step are no fair draw: long sequences come together, and a step of them has few. Another seed or epoch brings
    these steps in another order, hardly others. What it does to learning is measured in `20_speed`. Raises ValueError
    for a plan that does not pack, and an unknown barrier.

    >>> from longalign.recipe.batching import plan_packing
    >>> plan = across_steps(plan_packing([2, 4, 3, 1], capacity=5, ranks=2))
    >>> [[plan.lengths[list(row)].tolist() for row in step.rows] for step in plan.steps]
    [[[4, 1], [3, 2]]]
    """
    _only_packing(plan, "compose")
    if not plan.steps:
        return plan
    drawn = np.concatenate([step.sequences for step in plan.steps]).astype("<i8")
    members, bins = (_slots(plan), 1) if barrier == "step" else (plan.ranks, plan.rows)
    steps, left = 0, drawn.tolist()
    while left:
        steps += -(-lower_bound(plan.lengths[left], plan.pack_capacity) // _slots(plan))
        shape = {"groups": steps * _slots(plan) // (members * bins), "ranks": members, "bins": bins}
        dealt, left = _leveled(plan, drawn.tolist(), cost(plan.lengths), **shape)
    groups = [dealt[start : start + members] for start in range(0, len(dealt), members)]
    random = np.random.default_rng(zlib.crc32(drawn.tobytes()))
    groups = [groups[i] for i in random.permutation(len(groups))]
    groups.sort(key=lambda group: any(not pack for member in group for pack in member))
    packs = [pack for group in groups for member in group for pack in member if pack]
    return within_steps(replace(plan, steps=_dealt(plan, packs)), cost=cost, barrier=barrier)


def idle_bound(
    plan: Plan, *, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step", same_steps: bool = True
) -> float:
    """The least idle share that a plan of the same samples in each step can have, on as many ranks and micro-steps.

    No step is shorter than its work over the ranks, nor than its costliest sequence. Of sequences over half a pack no
    two share one (of padded rows, none do), so with G of them at once every G-th follows the one before. What does not
    fit beside the longest one in the room of all other ranks, its own rank has to compute: that bound needs the plan's
    steps (`same_steps`). All this holds for sequences that one rank computes, and for those that a group shares with
    the group in place of the rank; a single group has to do both. Padded rows in micro-batches of several have the
    bound 0. Raises ValueError for an unknown barrier.

    >>> from longalign.recipe.batching import plan_naive
    >>> plan = plan_naive([2, 4, 3, 3], ranks=2, accumulation=2, seed=0)
    >>> idle_bound(plan, cost=SequenceCost(1.0, 1.0))                    # 50 / 2 a rank, and 26 is what can be dealt
    0.0
    """
    if barrier not in ("step", "micro_step"):
        raise ValueError(f'barrier must be "step" or "micro_step", not {barrier!r}')
    if plan.method != "packing" and plan.rows > 1:
        return 0.0
    kinds = mixed.kinds(plan, cost)
    work = sum(ranks * each(plan.lengths[own]).sum() for own, ranks, each in kinds)
    parts = [np.array(step.sequences, dtype=np.int64) for step in plan.steps]
    parts = parts if same_steps else [np.arange(len(plan.lengths))]
    wall = sum(_least_wall(plan, part, kinds, barrier, same_steps) for part in parts)
    return max(0.0, float(1 - work / (plan.ranks * wall))) if wall else 0.0


BALANCES = {"steps": within_steps, "fill": by_fill, "compose": across_steps}


def balanced(plan: Plan, how: str, *, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> Plan:
    """The plan balanced by one of BALANCES. Raises ValueError for another name, and as these do."""
    if how not in BALANCES:
        raise ValueError(f"balance is {how!r}; it is one of {', '.join(BALANCES)}")
    return BALANCES[how](plan, cost=cost, barrier=barrier)


def _least_wall(
    plan: Plan, sequences: Int[np.ndarray, " step"], kinds: tuple, barrier: str, same_steps: bool
) -> float:  # fmt: skip
    """Of sequences that ranks share a rank has a part, and its group stands for it."""
    work, walls = 0.0, []
    for is_own, ranks, cost in kinds:
        lengths = plan.lengths[sequences[is_own[sequences]]]
        if not len(lengths):
            continue
        costs, groups = cost(lengths), plan.ranks // ranks
        packing = plan.method == "packing"
        own = np.sort(costs[2 * lengths > ranks * plan.pack_capacity] if packing else costs)[::-1]
        together = groups * plan.rows * (plan.accumulation if barrier == "step" else 1)
        bounds = [costs.sum() / groups, costs.max(), own[::together].sum()]
        if packing and same_steps:
            others = (groups - 1) * plan.accumulation * plan.rows * ranks * plan.pack_capacity
            longest, rest = int(lengths.max()), int(lengths.sum()) - others
            bounds.append(cost.per_token * max(longest, rest) + cost.per_pair * float(longest) ** 2)
        work += ranks * costs.sum()
        walls.append(max(bounds))
    # a single group does one kind after the other
    return max(work / plan.ranks, sum(walls) if plan.ranks == plan.degree else max(walls, default=0.0))


def _only_packing(plan: Plan, how: str) -> None:
    if plan.degree > 1:
        raise ValueError(f"balance {how!r} makes packs of one kind: with share_above take the balance 'steps'")
    if plan.method != "packing":
        raise ValueError(f"balance {how!r} packs sequences anew: it needs the method 'packing', not {plan.method!r}")


def _next_step(plan: Plan, order: Iterator[int], waiting: list[int], fill: float) -> tuple[list[int], list[int]]:
    """The next sequences up to the fill, and those that it passed over: too long for what is left, or too many long."""
    slots = _slots(plan)
    budget = fill * slots * plan.pack_capacity
    chosen: list[int] = []
    passed: list[int] = []
    tokens = long = 0
    first = iter(waiting)
    for sequence in chain(first, order):
        length = int(plan.lengths[sequence])
        is_long = 2 * length > plan.pack_capacity
        if (len(chosen) < slots or tokens + length <= budget) and not (is_long and long == slots):
            chosen.append(sequence)
            tokens, long = tokens + length, long + is_long
            continue
        passed.append(sequence)
        if len(passed) > slots or tokens > 0.995 * budget:
            break
    return chosen, passed + list(first)


def _repacked(plan: Plan, step: Step, costs: np.ndarray, barrier: str) -> Step:
    """The step's sequences packed anew, in the best number of micro-steps; the step as it is where they do not fit."""
    best, least = step, np.inf
    fewest = -(-plan.packs(step) // (plan.ranks * plan.rows))
    for micro_steps in range(fewest, plan.accumulation + 1):
        groups, bins = (1, micro_steps * plan.rows) if barrier == "step" else (micro_steps, plan.rows)
        packs, left = _leveled(plan, step.sequences, costs, groups=groups, ranks=plan.ranks, bins=bins)
        if left:
            continue
        total = np.array([sum(costs[i] for pack in member for i in pack) for member in packs])
        wall = total.reshape(groups, plan.ranks).max(axis=1).sum()
        if wall < least:
            if barrier == "micro_step":  # members are micro-batches
                packs = [list(chain(*packs[rank :: plan.ranks])) for rank in range(plan.ranks)]
            best, least = _step(plan, [_micro_batches(rank, plan.rows) for rank in packs]), wall
        if barrier == "step":
            break  # with more micro-steps the same
    return best


def _leveled(plan: Plan, sequences: Sequence[int], costs: np.ndarray, **shape: int) -> tuple[Packs, list[int]]:
    """Packs of each member, longest sequences first, and the sequences that find no room."""
    order = np.array(sequences)
    order = order[np.argsort(-plan.lengths[order], kind="stable")]
    lengths, own, capacity = plan.lengths[order], costs[order], plan.pack_capacity
    targets = group_targets(lengths, own, capacity=capacity, **shape).tolist()
    dealt, left = assign_balanced(lengths.tolist(), own.tolist(), targets, bins=shape["bins"], capacity=capacity)
    fill_empty(dealt)
    return [[tuple(order[bin_].tolist()) for bin_ in member] for member in dealt], order[left].tolist()


def _packs(plan: Plan, sequences: list[int], costs: np.ndarray, packs: int) -> tuple[list[Row], list[int]]:
    """The sequences in so many even packs or, where the step has more, as many as they need; what finds no room."""
    dealt, left = _leveled(plan, sequences, costs, groups=1, ranks=packs, bins=1)
    if left and packs < _slots(plan):
        return _packs(plan, sequences, costs, min(_slots(plan), packs + len(left)))
    return [pack for (pack,) in dealt if pack], left


def _slots(plan: Plan) -> int:
    return plan.ranks * plan.accumulation * plan.rows


def _dealt(plan: Plan, packs: list[Row]) -> tuple[Step, ...]:
    return deal(packs, ranks=plan.ranks, accumulation=plan.accumulation, rows=plan.rows)


def _micro_batches(packs: list[Row], rows: int) -> list[MicroBatch]:
    return [tuple(filter(None, packs[start : start + rows])) for start in range(0, len(packs), rows)]


def _step(plan: Plan, ranks: list[list[MicroBatch]]) -> Step:
    """What is missing of the micro-batches is fillers."""
    return Step(tuple((*batches, *[()] * (plan.accumulation - len(batches))) for batches in ranks))


def _redealt(plan: Plan, step: Step, alone: np.ndarray, barrier: str) -> Step:
    """The step's micro-batches as they are, dealt anew."""
    units = [micro_batch for rank in step.micro_batches for micro_batch in rank if micro_batch]
    costs = [micro_batch_cost(plan, unit, alone) for unit in units]
    order = np.argsort(np.negative(costs), kind="stable").tolist()
    units, costs = [units[i] for i in order], [costs[i] for i in order]
    if barrier == "micro_step":
        return _step(plan, [units[rank :: plan.ranks] for rank in range(plan.ranks)])
    dealt, _ = assign_balanced([1] * len(units), costs, [0.0] * plan.ranks, bins=plan.accumulation, capacity=1)
    return _step(plan, [[units[bin_[0]] if bin_ else () for bin_ in bins] for bins in improve_by_swaps(costs, dealt)])
