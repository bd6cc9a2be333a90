"""One epoch as data: optimizer steps x ranks x micro-steps, every sequence exactly once, the same shape for every rank.

Every step has exactly ranks x accumulation micro-batches. Where the sequences run out, a micro-batch is empty; a
collator turns it into a filler row without targets, so that every rank runs the same number of forward passes,
collectives never hang and nothing is dropped. The price: up to ranks x accumulation - 1 fillers, all in the last step,
which may be small.

Row         sequence indices: one sequence for "naive" and "sorted", the sequences of a pack for "packing"
MicroBatch  the rows that one rank passes through the model at once; () is a filler
M           sequences with targets in an optimizer step, over all ranks and micro-steps
K           packs (rows) in an optimizer step, over all ranks and micro-steps
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal

import numpy as np

from longalign.recipe.array_types import Int

MOST_MICRO_BATCHES = 2**17
"""In an optimizer step: ranks x accumulation. A step holds a place for each, empty or not."""
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

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows in the order of the plan: micro-step by micro-step, rank by rank; fillers have none."""
        return tuple(
            row
            for micro_step in zip(*self.micro_batches, strict=True)
            for micro_batch in micro_step
            for row in micro_batch
        )

    @property
    def sequences(self) -> tuple[int, ...]:
        """The sequence indices in the same order."""
        return tuple(sequence for row in self.rows for sequence in row)


@dataclass(frozen=True, eq=False)
class Plan:
    """All optimizer steps of one epoch; refuses to exist if a sequence is missing or doubled, or a step misshapen.

    Attributes:
        lengths: tokens per sequence, shape [sequences].
        target_counts: target tokens N_i per sequence, shape [sequences]; nothing predicts position 0, so N_i < length.
        capacity: tokens that a row can hold; None where no limit was asked for.
        ranks, accumulation, rows: world size, micro-steps per optimizer step, and most rows in a micro-batch.

    Raises:
        ValueError: the steps break the guarantee, or a sequence has too many targets.
    """

    method: Method
    lengths: Int[np.ndarray, " sequences"]
    target_counts: Int[np.ndarray, " sequences"]
    capacity: int | None
    ranks: int
    accumulation: int
    rows: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        over = np.flatnonzero(self.target_counts > np.maximum(self.lengths - 1, 0))
        if len(over):
            raise ValueError(
                f"sequence {over[0]} has {self.target_counts[over[0]]} targets in {self.lengths[over[0]]} tokens; at "
                f"most its length minus one can be targets, since nothing predicts position 0"
            )
        for number, step in enumerate(self.steps):
            shape = [len(micro_batches) for micro_batches in step.micro_batches]
            if shape != [self.accumulation] * self.ranks:
                raise ValueError(
                    f"step {number} has {shape} micro-batches, not {self.ranks} ranks of {self.accumulation}"
                )
        planned = sorted(sequence for step in self.steps for sequence in step.sequences)
        if planned != list(range(len(self.lengths))):
            raise ValueError(f"the steps do not hold each of the {len(self.lengths)} sequences exactly once")

    def sequences_with_targets(self, step: Step) -> int:
        """M of Eq. 2 and Eq. 4 (arXiv 2401.18058): sequences with a target on all ranks and micro-steps."""
        return int(np.count_nonzero(self.target_counts[list(step.sequences)]))

    def packs(self, step: Step) -> int:
        """K of Eq. 3 and Eq. 4 (arXiv 2401.18058): rows on all ranks and micro-steps of the step."""
        return len(step.rows)

    def order_hash(self) -> str:
        """sha256 of all that the plan says, the same on every machine: ranks compare it before they start."""
        shape = (self.method, self.capacity, self.ranks, self.accumulation, self.rows)
        digest = hashlib.sha256(repr((shape, [step.micro_batches for step in self.steps])).encode())
        for counts in (self.lengths, self.target_counts):
            digest.update(counts.astype("<i8").tobytes())
        return digest.hexdigest()


def deal(rows_in_order: Sequence[Row], *, ranks: int, accumulation: int, rows: int) -> tuple[Step, ...]:
    """Deals rows into micro-batches, and micro-batches to the ranks in turn, micro-step by micro-step.

    So neighbours in the order run at the same time on different ranks, which is what makes sorted batching pay.

    Raises:
        ValueError: ranks, accumulation or rows is below 1, or a step has more than MOST_MICRO_BATCHES places.

    >>> [step.micro_batches for step in deal([(0,), (1,), (2,)], ranks=2, accumulation=2, rows=1)]
    [((((0,),), ((2,),)), (((1,),), ()))]
    """
    for name, value in (("ranks", ranks), ("accumulation", accumulation), ("rows", rows)):
        if index(value) < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
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
