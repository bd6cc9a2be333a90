"""Plans in which ranks share long sequences and compute short ones each for itself: mixed sequence parallelism.

Where `degree` neighbouring ranks, a group, share every pack (`longalign.train.sequence_parallel`), short sequences pay
for an exchange that they do not need. Here packs are of two kinds: *shared* ones, of the sequences over a threshold,
hold degree x capacity tokens, a slice on each rank of a group; *local* ones hold the capacity, each on one rank. All
ranks of a group compute the same kind at the same time, those that are shared first, so that none waits for another
within a step. The loss is a sum whose weights the plan fixes: it does not change with who computes what.

Lengths 2, 4, 3, 8 with capacity 4, two ranks and share_above=4:
    rank 0    d d d d | b b b b      d, of 8 tokens, is shared
    rank 1    d d d d | c c c .      a, of 2, follows in another micro-step
"""

from collections.abc import Sequence
from operator import index

import numpy as np

from longalign.common.array_types import Bool, Counts, Float
from longalign.recipe.batching import MicroBatch, Plan, Step, deal, packer, targets_of
from longalign.recipe.cost import SequenceCost
from longalign.recipe.leveling import assign_balanced, group_targets
from longalign.recipe.packing import checked

Costs = Float[np.ndarray, " sequences"]

Unit = tuple[bool, tuple[MicroBatch, ...]]
"""What a group computes at once: whether its ranks share it, and a micro-batch of each rank, of the first one if so."""


def plan_mixed(
    lengths: Counts, *, capacity: int, share_above: int, degree: int, algorithm: str = "next_fit",
    target_counts: Counts | None = None, ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0,
    epoch: int = 0,
) -> Plan:  # fmt: skip
    """Packs of sequences over `share_above` tokens, each for `degree` ranks, among packs for one rank, in random order.

    `capacity` is what one rank can hold: packs that are shared hold degree x capacity. Steps are the same on any number
    of ranks that the degree divides. Fillers are in the last step only. Other arguments: `plan_packing`. Raises
    ValueError for ranks that are no multiple of the degree, a threshold over the capacity, and as `plan_packing`.

    >>> plan = plan_mixed([1, 4, 3, 8], capacity=4, share_above=4, degree=2, ranks=2, accumulation=2)
    >>> plan.steps[0].micro_batches, plan.steps[0].shared
    (((((3,),), ((2, 0),)), ((), ((1,),))), (1,))
    """
    if index(degree) < 2 or index(ranks) % degree:
        raise ValueError(f"degree is {degree}: it is a number of ranks from 2 on that divides all {ranks}")
    if not 0 <= index(share_above) <= capacity:
        raise ValueError(
            f"share_above is {share_above}: what one rank computes fits into its capacity of {capacity}, so the "
            "threshold is from 0 to that"
        )
    lengths, _ = checked(lengths, degree * capacity)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    place = np.argsort(order)
    units: list[Unit] = []
    for is_shared in (True, False):
        own = order[(lengths[order] > share_above) == is_shared]
        packs = packer(algorithm)(lengths[own], capacity * (degree if is_shared else 1))
        packs = [packs[i] for i in random.permutation(len(packs))] if algorithm == "best_fit" else packs
        batches = _cut([tuple(own[pack].tolist()) for pack in packs], rows)
        of_ranks = _cut(batches, 1 if is_shared else degree)
        units += [(is_shared, (*unit, *[()] * (degree - len(unit)))) for unit in of_ranks]
    # as random as the order; a unit that leaves ranks without a micro-batch comes last, where the fillers are
    units.sort(key=lambda unit: (not unit[0] and not all(unit[1]), place[unit[1][0][0][0]]))
    dealt = deal([(i,) for i in range(len(units))], ranks=ranks // degree, accumulation=accumulation, rows=1)
    steps = [
        step_of([[units[i] for batch in group for (i,) in batch] for group in step.micro_batches], degree, accumulation)
        for step in dealt
    ]
    targets = targets_of(lengths, target_counts)
    return Plan("packing", lengths, targets, capacity, ranks, accumulation, rows, tuple(steps), degree)


def step_of(groups: Sequence[Sequence[Unit]], degree: int, accumulation: int) -> Step:
    """The step in which each group computes its units, those that are shared first.

    >>> step_of([[(False, (((2,),), ((3,),))), (True, (((0, 1),), ()))]], degree=2, accumulation=3)
    Step(micro_batches=((((0, 1),), ((2,),), ()), ((), ((3,),), ())), shared=(1,))
    """
    ordered = [sorted(units, key=lambda unit: not unit[0]) for units in groups]
    fillers = [((),) * (accumulation - len(units)) for units in ordered]
    ranks = [(*(batches[rank] for _, batches in units), *rest)
             for units, rest in zip(ordered, fillers, strict=True) for rank in range(degree)]  # fmt: skip
    return Step(tuple(ranks), tuple(sum(shared for shared, _ in units) for units in ordered))


def kinds(
    plan: Plan, cost: SequenceCost
) -> tuple[tuple[Bool[np.ndarray, " sequences"], int, SequenceCost], ...]:
    """Sequences that one rank computes, and those that ranks share: which, how many ranks, and the cost to each."""
    shared, ranks, whole = is_shared(plan), plan.degree, cost.together(plan.degree)
    return (~shared, 1, cost), (shared, ranks, SequenceCost(whole.per_token / ranks, whole.per_pair / ranks))


def moved(plan: Plan, step: Step, costs: Costs, barrier: str) -> Step:
    """The step's micro-batches of both kinds as they are, dealt anew; `costs` are those of a sequence to each rank.

    Those that are shared are dealt to groups, costliest first to the group that has least, and then the others to
    ranks in the same way, beside what their groups share. Where room does not bind and the barrier is the step's, no
    rank has more than either 4/3 of what the shared ones need at least (`longalign.recipe.leveling`), or the mean of
    all ranks and the costliest local item, which is below twice the least.
    """
    own = _costliest_first([batch for rank in _local(plan, step) for batch in rank if batch], costs)
    places = _Places(plan, step, costs, barrier)
    # where ranks wait in every micro-step, those of like costs come together, beside the costliest that is shared
    targets = places.targets if barrier == "step" else [-float(number) for number in range(len(places.members))]
    each = [_cost(batch, costs) for batch in own]
    dealt, _ = assign_balanced([1] * len(own), each, targets, bins=places.bins, capacity=1)
    return places.step([[own[bin_[0]] if bin_ else () for bin_ in bins] for bins in dealt])


def repacked(plan: Plan, step: Step, costs: Costs, barrier: str) -> Step:
    """As `moved`, but each local sequence is an item and packed anew; the step as it is where they find no room."""
    own = np.array([i for rank in _local(plan, step) for batch in rank for row in batch for i in row], dtype=np.int64)
    own = own[np.argsort(-plan.lengths[own], kind="stable")]
    lengths, places, capacity = plan.lengths[own], _Places(plan, step, costs, barrier), plan.pack_capacity
    targets = np.array(places.targets)
    if barrier == "micro_step" and len(own) and len(targets):
        shape = {"groups": len(targets), "ranks": 1, "bins": plan.rows, "capacity": capacity}
        targets = np.maximum(targets, group_targets(lengths, costs[own], **shape))
    bins = [count * plan.rows for count in places.bins]
    dealt, left = assign_balanced(lengths.tolist(), costs[own].tolist(), targets.tolist(), bins=bins, capacity=capacity)
    rows = [[tuple(own[bin_].tolist()) for bin_ in bins] for bins in dealt]
    return step if left else places.step([[tuple(filter(None, some)) for some in _cut(own, plan.rows)] for own in rows])


class _Places:
    """Room for local micro-batches beside the shared ones of a step, once these are dealt.

    A member is a rank, or where ranks wait in every micro-step a rank in one of them, with `bins` micro-batches and
    what assign_balanced is to take for its level.
    """

    def __init__(self, plan: Plan, step: Step, costs: Costs, barrier: str) -> None:
        self.plan, groups, most = plan, plan.ranks // plan.degree, plan.accumulation
        own = _costliest_first([batch for group in plan.shared_micro_batches(step) for batch in group if batch], costs)
        each = [_cost(batch, costs) for batch in own]
        self.shared = [own[group::groups] for group in range(groups)]
        if barrier == "step":
            dealt, _ = assign_balanced([1] * len(own), each, [0.0] * groups, bins=most, capacity=1)
            self.shared = [[own[i] for bin_ in member for i in bin_] for member in dealt]
        of_rank = [self.shared[rank // plan.degree] for rank in range(plan.ranks)]
        self.members = [(rank, 0) for rank in range(plan.ranks)]
        self.bins = [most - len(shared) for shared in of_rank]
        self.targets = [-sum(_cost(batch, costs) for batch in shared) for shared in of_rank]
        if barrier == "micro_step":
            self.members = [(rank, i) for i in range(most) for rank, shared in enumerate(of_rank) if i >= len(shared)]
            self.bins = [1] * len(self.members)
            self.targets = [each[i * groups] if i * groups < len(each) else 0.0 for _, i in self.members]

    def step(self, batches: list[list[MicroBatch]]) -> Step:
        """The step in which the members compute these, in so many bins."""
        degree = self.plan.degree
        of_rank: list[list[MicroBatch]] = [[] for _ in range(self.plan.ranks)]
        for (rank, _), own in zip(self.members, batches, strict=True):
            of_rank[rank] += own
        groups = []
        for number, shared in enumerate(self.shared):
            units = [(True, (batch, *[()] * (degree - 1))) for batch in shared]
            columns = zip(*of_rank[degree * number : degree * (number + 1)], strict=True)
            groups.append([*units, *((False, column) for column in columns)])
        return step_of(groups, degree, self.plan.accumulation)


def _local(plan: Plan, step: Step) -> list[tuple[MicroBatch, ...]]:
    """The micro-batches that each rank computes alone."""
    return [batches[step.shared[rank // plan.degree] :] for rank, batches in enumerate(step.micro_batches)]


def _cost(batch: MicroBatch, costs: Costs) -> float:
    return float(sum(costs[i] for row in batch for i in row))


def _costliest_first(batches: list[MicroBatch], costs: Costs) -> list[MicroBatch]:
    return sorted(batches, key=lambda batch: -_cost(batch, costs))


def is_shared(plan: Plan) -> Bool[np.ndarray, " sequences"]:
    """Whether several ranks share a sequence, shape [sequences]."""
    found = np.zeros(len(plan.lengths), dtype=bool)
    for step in plan.steps:
        for batches in plan.shared_micro_batches(step):
            found[[sequence for batch in batches for row in batch for sequence in row]] = True
    return found


def _cut(items: list, size: int) -> list[tuple]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
