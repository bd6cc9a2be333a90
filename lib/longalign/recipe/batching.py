"""Naive, sorted and packed batching (arXiv 2401.18058) as plans over lengths: no tokens, no tensors.

A plan is one epoch: optimizer steps x ranks x micro-steps, every sequence exactly once, for the same seed and epoch the
same on every rank. Every step has exactly ranks x accumulation micro-batches. Where the sequences run out, in the last
step, a micro-batch is empty; a collator turns it into a filler row without targets, so that every rank runs the same
number of forward passes, collectives never hang and nothing is dropped.

Row         sequence indices: one sequence for "naive" and "sorted", the sequences of a pack for "packing"
MicroBatch  the rows that one rank passes through the model at once; () is a filler
M, K        sequences with targets, and packs (rows), in an optimizer step, over all ranks and micro-steps

With `share_above`, groups of neighbouring ranks compute some micro-batches together (`longalign.recipe.mixed`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal

import numpy as np

from longalign.common.array_types import Counts, Int, as_counts
from longalign.recipe.packing import ALGORITHMS, Packs, checked

MOST_MICRO_BATCHES = 2**17  # in an optimizer step, which holds a place for each, empty or not
Row = tuple[int, ...]
MicroBatch = tuple[Row, ...]
Method = Literal["naive", "sorted", "packing"]


@dataclass(frozen=True)
class Step:
    """One optimizer step: `micro_batches[rank][micro_step]`.

    >>> step = Step((((), ((1,),)), (((0, 2),), ())))  # 2 ranks x 2 micro-steps, two fillers
    >>> step.rows, step.sequences
    (((0, 2), (1,)), (0, 2, 1))
    """

    micro_batches: tuple[tuple[MicroBatch, ...], ...]
    shared: tuple[int, ...] = ()
    """How many micro-steps, the first ones, each group of ranks shares; their micro-batches stand at its first rank."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows in the order of the plan: micro-step by micro-step, rank by rank; fillers have none."""
        micro_steps = zip(*self.micro_batches, strict=True)
        return tuple(row for micro_step in micro_steps for micro_batch in micro_step for row in micro_batch)

    @property
    def sequences(self) -> tuple[int, ...]:
        """The sequence indices in the same order."""
        return tuple(sequence for row in self.rows for sequence in row)


@dataclass(frozen=True, eq=False)
class Plan:
    """All optimizer steps of one epoch, from `lengths` and `target_counts` N_i in tokens per sequence.

    `capacity` is what a row can hold, None where no limit was asked for; `ranks`, `accumulation` and `rows` are world
    size, micro-steps per optimizer step, and most rows in a micro-batch; `degree` ranks share a micro-batch that is
    shared, whose rows hold as many times the capacity. Raises ValueError where a sequence is missing, doubled or has
    too many targets (nothing predicts position 0: N_i < length), or a step is misshapen.
    """

    method: Method
    lengths: Int[np.ndarray, " sequences"]
    target_counts: Int[np.ndarray, " sequences"]
    capacity: int | None
    ranks: int
    accumulation: int
    rows: int
    steps: tuple[Step, ...]
    degree: int = 1

    def __post_init__(self) -> None:
        over = np.flatnonzero(self.target_counts > np.maximum(self.lengths - 1, 0))
        if len(over):
            raise ValueError(
                f"sequence {over[0]} has {self.target_counts[over[0]]} targets in {self.lengths[over[0]]} tokens; at "
                f"most its length minus one can be targets, since nothing predicts position 0"
            )
        for number, step in enumerate(self.steps):
            shape, ranks = [len(ones) for ones in step.micro_batches], self.ranks
            if shape != [self.accumulation] * ranks:
                raise ValueError(f"step {number} has {shape} micro-batches, not {ranks} ranks of {self.accumulation}")
            if len(step.shared) != (ranks // self.degree if self.degree > 1 else 0) or any(
                step.micro_batches[rank][micro_step] for rank in range(ranks) if rank % self.degree
                for micro_step in range(step.shared[rank // self.degree])
            ):
                raise ValueError(f"step {number} shares {step.shared} micro-steps; only the first of each "
                                 f"{self.degree} ranks may hold their rows")  # fmt: skip
        planned = sorted(sequence for step in self.steps for sequence in step.sequences)
        if planned != list(range(len(self.lengths))):
            raise ValueError(f"the steps do not hold each of the {len(self.lengths)} sequences exactly once")

    @property
    def pack_capacity(self) -> int:
        """The capacity. Raises ValueError where there is none."""
        if self.capacity is None:
            raise ValueError(f"a plan of the method {self.method!r} without a capacity has none for packs")
        return self.capacity

    def sequences_with_targets(self, step: Step) -> int:
        """M of Eq. 2 and Eq. 4 (arXiv 2401.18058): sequences with a target on all ranks and micro-steps."""
        return int(np.count_nonzero(self.target_counts[list(step.sequences)]))

    def packs(self, step: Step) -> int:
        """K of Eq. 3 and Eq. 4 (arXiv 2401.18058): rows on all ranks and micro-steps of the step."""
        return len(step.rows)

    def shared_by(self, step: Step, rank: int, micro_step: int) -> int:
        """How many ranks compute the micro-batch that a rank takes part in: the degree, or 1."""
        return self.degree if step.shared and micro_step < step.shared[rank // self.degree] else 1

    def shared_micro_batches(self, step: Step) -> list[tuple[MicroBatch, ...]]:
        """Those that each group of ranks shares; none where the plan shares none."""
        return [step.micro_batches[self.degree * group][:count] for group, count in enumerate(step.shared)]

    def order_hash(self) -> str:
        """sha256 of all that the plan says, the same on every machine: ranks compare it before they start."""
        shape = (self.method, self.capacity, self.ranks, self.accumulation, self.rows)
        digest = hashlib.sha256(repr((shape, [step.micro_batches for step in self.steps])).encode())
        if self.degree > 1:
            digest.update(repr((self.degree, [step.shared for step in self.steps])).encode())
        for counts in (self.lengths, self.target_counts):
            digest.update(counts.astype("<i8").tobytes())
        return digest.hexdigest()


def deal(rows_in_order: Sequence[Row], *, ranks: int, accumulation: int, rows: int) -> tuple[Step, ...]:
    """Deals rows into micro-batches, and micro-batches to the ranks in turn, micro-step by micro-step.

    So neighbours in the order run at the same time on different ranks, which is what makes sorted batching pay.

    Raises ValueError for ranks, accumulation or rows below 1, and a step of more than MOST_MICRO_BATCHES places.

    >>> [step.micro_batches for step in deal([(0,), (1,), (2,)], ranks=2, accumulation=2, rows=1)]
    [((((0,),), ((2,),)), (((1,),), ()))]
    """
    for name, value in (("ranks", ranks), ("accumulation", accumulation), ("rows", rows)):
        if index(value) < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    ranks, accumulation, rows = map(index, (ranks, accumulation, rows))  # numpy's narrow integers would overflow
    if ranks * accumulation > MOST_MICRO_BATCHES:
        raise ValueError(
            f"{ranks:,} ranks with an accumulation of {accumulation:,} give a step {ranks * accumulation:,} "
            f"micro-batches for {len(rows_in_order):,} rows in all; a step has {MOST_MICRO_BATCHES:,} at most: ask for "
            "fewer ranks, or a smaller accumulation"
        )
    micro_batches = [tuple(rows_in_order[start : start + rows]) for start in range(0, len(rows_in_order), rows)]
    per_step = ranks * accumulation
    micro_batches += [()] * (-len(micro_batches) % per_step)
    windows = [micro_batches[start : start + per_step] for start in range(0, len(micro_batches), per_step)]
    return tuple(Step(tuple(tuple(window[rank::ranks]) for rank in range(ranks))) for window in windows)


def plan_naive(
    lengths: Counts, *, target_counts: Counts | None = None, capacity: int | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """Random order, one sequence a row: every step is a fair sample, but the ranks wait for the longest row.

    Args:
        lengths: tokens per sequence, shape [sequences].
        target_counts: target tokens N_i, shape [sequences]; by default all tokens but the first of each sequence.
        capacity: no length may be over it, where it is given.
        ranks, accumulation, rows: world size, micro-steps per optimizer step, rows (or packs) per micro-batch.
        seed, epoch: together they seed the order.

    Raises ValueError for a length over the capacity, and arguments that are not valid.

    >>> [step.micro_batches for step in plan_naive([2, 4, 3], ranks=2).steps]
    [((((2,),),), (((0,),),)), ((((1,),),), ((),))]
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths)).tolist()
    return _plan("naive", [(i,) for i in order], lengths, target_counts, capacity, ranks, accumulation, rows)


def plan_sorted(
    lengths: Counts, *, group_size: int | None = None, target_counts: Counts | None = None, capacity: int | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """Sorted by length, cut into groups, groups in random order: hardly any idle time, but a step sees one length only.

    A group has `group_size` sequences, by default ranks x rows, one micro-step of all ranks; equal lengths are ordered
    at random. Where the groups do not come out even, one of them, drawn at random and so of any length, is smaller and
    comes last; the others stay aligned with the micro-batches (for a group_size that is a multiple of ranks x rows).
    Other arguments, errors: `plan_naive`.

    >>> [step.sequences for step in plan_sorted([2, 4, 3], group_size=2, rows=2).steps]
    [(2, 1), (0,)]
    """
    lengths = as_counts(lengths)
    size = max(1, index(ranks) * index(rows)) if group_size is None else group_size
    if size < 1:
        raise ValueError(f"group_size must be at least 1, not {size}")
    size = min(size, max(1, len(lengths)))
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    sizes = np.full(-(-len(order) // size), size)
    groups = random.permutation(len(sizes))
    if len(order) % size:
        sizes[groups[-1]] = len(order) % size
    cut = np.split(order, np.cumsum(sizes)[:-1])
    rows_in_order = [(i,) for group in groups for i in cut[group].tolist()]
    return _plan("sorted", rows_in_order, lengths, target_counts, capacity, ranks, accumulation, rows)


def plan_packing(
    lengths: Counts, *, capacity: int, algorithm: str = "next_fit", target_counts: Counts | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """Packs of whole sequences, in random order.

    `capacity` is what a pack can hold, in tokens. "next_fit" (the paper's) packs a random order as it comes, so all
    packs are alike and M is nearly constant, but a fifth of the positions stays empty. "best_fit" needs the fewest
    packs (see `best_fit_decreasing`), but long sequences fill most of them almost alone and short ones crowd into a
    few. The weights of Eq. 4 are exact for both. Other arguments, errors: `plan_naive`.

    >>> [step.rows for step in plan_packing([2, 4, 3], capacity=6, algorithm="best_fit").steps]
    [((2,),), ((1, 0),)]
    """
    lengths, capacity = checked(lengths, capacity)
    pack = packer(algorithm)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    packs = [tuple(order[sequences].tolist()) for sequences in pack(lengths[order], capacity)]
    packs = [packs[i] for i in random.permutation(len(packs))] if algorithm == "best_fit" else packs
    return _plan("packing", packs, lengths, target_counts, capacity, ranks, accumulation, rows)


def make_plan(
    method: str, lengths: Counts, *, capacity: int | None = None, algorithm: str | None = None,
    group_size: int | None = None, share_above: int | None = None, degree: int | None = None,
    target_counts: Counts | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """The plan of the method "naive", "sorted" or "packing".

    `algorithm` is for "packing" only, by default "next_fit", `group_size` for "sorted" only. With `share_above` and
    `degree`, also for "packing", so many ranks share each pack of sequences of more tokens (`plan_mixed`). Other
    arguments are those of `plan_naive`. Raises ValueError for an unknown method, an option of another method, a missing
    capacity for "packing", or a bad value.

    >>> make_plan("packing", [2, 4, 3], capacity=9).steps[0].rows
    ((2, 0, 1),)
    """
    if method not in ("naive", "sorted", "packing"):
        raise ValueError(f'method must be "naive", "sorted" or "packing", not {method!r}')
    for name, option, of in (("algorithm", algorithm, "packing"), ("group_size", group_size, "sorted"),
                             ("share_above", share_above, "packing"), ("degree", degree, "packing")):  # fmt: skip
        if option is not None and method != of:
            raise ValueError(f'{name} is an option of "{of}"; leave it out for {method!r}')
    common: dict[str, Any] = {"target_counts": target_counts, "ranks": ranks, "accumulation": accumulation,
                              "rows": rows, "seed": seed, "epoch": epoch}  # fmt: skip
    if method == "naive":
        return plan_naive(lengths, capacity=capacity, **common)
    if method == "sorted":
        return plan_sorted(lengths, group_size=group_size, capacity=capacity, **common)
    if capacity is None:
        raise ValueError("packing needs a capacity: the tokens that a pack can hold")
    common |= {"capacity": capacity, "algorithm": algorithm or "next_fit"}
    if share_above is None and degree is None:
        return plan_packing(lengths, **common)
    if share_above is None or degree is None:
        raise ValueError("share_above and degree belong together: which sequences are shared, and by how many ranks")
    from longalign.recipe.mixed import plan_mixed  # which imports this module

    return plan_mixed(lengths, share_above=share_above, degree=degree, **common)


def packer(algorithm: str) -> Callable[..., Packs]:
    """The function of `longalign.recipe.packing` by its short name. Raises ValueError for another one."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f'algorithm must be "next_fit" or "best_fit", not {algorithm!r}')
    return ALGORITHMS[algorithm]


def targets_of(lengths: Int[np.ndarray, " sequences"], target_counts: Counts | None) -> Int[np.ndarray, " sequences"]:
    """The target counts as int64; where none are given, all tokens but the first of each sequence."""
    given = np.maximum(lengths - 1, 0) if target_counts is None else as_counts(target_counts, name="target_counts")
    if len(given) != len(lengths):
        raise ValueError(f"{len(lengths)} lengths, but {len(given)} target_counts; give one per sequence")
    return given


def _plan(
    method: Method, rows_in_order: Sequence[Row], lengths: Counts, target_counts: Counts | None, capacity: int | None,
    ranks: int, accumulation: int, rows: int,
) -> Plan:  # fmt: skip
    """The rows, dealt; shapes and counts are checked here and in `Plan`, once for the three methods."""
    lengths, capacity = (as_counts(lengths), None) if capacity is None else checked(lengths, capacity)
    given = targets_of(lengths, target_counts)
    steps = deal(rows_in_order, ranks=ranks, accumulation=accumulation, rows=rows)
    return Plan(method, lengths, given, capacity, index(ranks), index(accumulation), index(rows), steps)
