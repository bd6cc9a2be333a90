"""Naive, sorted and packed batching (arXiv 2401.18058) as plans over lengths: no tokens, no tensors.

All three place every sequence exactly once per epoch, for any number of ranks, micro-steps and rows, and give the same
plan for the same seed and epoch on every rank. The price, as rank time spent waiting (`idle_share`) on 8 ranks, 10,000
sequences, 90 % lognormal around 800 tokens and 10 % uniform over 8k-64k: naive, accumulation 12, 58 %; packing, one
pack a rank, 22 % best fit and 35 % next fit; sorted 1 %, but there all sequences of a micro-step have the same length.
"""

from collections.abc import Sequence

import numpy as np

from longalign.recipe.array_types import Counts, as_counts
from longalign.recipe.packing import best_fit_decreasing, checked, next_fit
from longalign.recipe.plan import Method, MicroBatch, Plan, Row, Step, deal

__all__ = [
    "Method", "MicroBatch", "Plan", "Row", "Step", "make_plan", "plan_naive", "plan_packing", "plan_sorted",
]  # fmt: skip


def plan_naive(
    lengths: Counts, *, target_counts: Counts | None = None, capacity: int | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """Random order, one sequence a row: every step is a fair sample, but the ranks wait for the longest row.

    Args:
        lengths: tokens per sequence, shape [sequences].
        target_counts: target tokens N_i, shape [sequences]; by default all tokens but the first of each sequence.
        capacity: if given, no length may be over it.
        ranks, accumulation, rows: world size, micro-steps per optimizer step, rows per micro-batch.
        seed, epoch: together they seed the order; each epoch has another one.

    Raises:
        ValueError: a length is over the capacity, or an argument is not valid.

    >>> [step.micro_batches for step in plan_naive([2, 4, 3], ranks=2).steps]
    [((((2,),),), (((0,),),)), ((((1,),),), ((),))]
    """
    order = _generator(seed, epoch).permutation(len(lengths)).tolist()
    return _plan("naive", [(i,) for i in order], lengths, target_counts, capacity, ranks, accumulation, rows)


def plan_sorted(
    lengths: Counts, *, group_size: int | None = None, target_counts: Counts | None = None, capacity: int | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """Sorted by length, cut into groups, groups in random order: hardly any idle time, but a step sees one length only.

    Where the groups do not come out even, one of them, drawn at random and so of any length, is smaller and comes last;
    the others stay aligned with the micro-batches (for a group_size that is a multiple of ranks x rows).

    Args:
        lengths: tokens per sequence, shape [sequences]; equal lengths are ordered at random.
        group_size: sequences per group; by default ranks x rows, one micro-step of all ranks.
        target_counts, capacity, ranks, accumulation, rows, seed, epoch: see `plan_naive`.

    Raises:
        ValueError: a length is over the capacity, or an argument is not valid.

    >>> [step.sequences for step in plan_sorted([2, 4, 3], group_size=2, rows=2).steps]
    [(2, 1), (0,)]
    """
    lengths = as_counts(lengths)
    size = max(1, ranks * rows) if group_size is None else group_size
    if size < 1:
        raise ValueError(f"group_size must be at least 1, not {size}")
    size = min(size, max(1, len(lengths)))
    random = _generator(seed, epoch)
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

    "next_fit" (the paper's) packs a random order as it comes, so all packs are alike and M is nearly constant: 85 +- 24
    per step of 8 packs on the mixture of the module's docstring; the price is a fifth of the positions, which stays
    empty. "best_fit" needs the fewest packs (see `best_fit_decreasing`); the price is that long sequences fill most
    packs almost alone and short ones crowd into a few: M = 106 +- 87 there. The weights of Eq. 4 are exact for both.

    Args:
        lengths: tokens per sequence, shape [sequences].
        capacity: tokens that a pack can hold.
        algorithm: "next_fit" or "best_fit".
        rows: packs per micro-batch.
        target_counts, ranks, accumulation, seed, epoch: see `plan_naive`.

    Raises:
        ValueError: a length is over the capacity, or an argument is not valid.

    >>> [step.rows for step in plan_packing([2, 4, 3], capacity=6, algorithm="best_fit").steps]
    [((2,),), ((1, 0),)]
    """
    lengths, capacity = checked(lengths, capacity)
    if algorithm not in ("next_fit", "best_fit"):
        raise ValueError(f'algorithm must be "next_fit" or "best_fit", not {algorithm!r}')
    random = _generator(seed, epoch)
    order = random.permutation(len(lengths))
    pack = next_fit if algorithm == "next_fit" else best_fit_decreasing
    packs = [tuple(order[sequences].tolist()) for sequences in pack(lengths[order], capacity)]
    packs = [packs[i] for i in random.permutation(len(packs))] if algorithm == "best_fit" else packs
    return _plan("packing", packs, lengths, target_counts, capacity, ranks, accumulation, rows)


def make_plan(
    method: str, lengths: Counts, *, capacity: int | None = None, algorithm: str | None = None,
    group_size: int | None = None, target_counts: Counts | None = None,
    ranks: int = 1, accumulation: int = 1, rows: int = 1, seed: int = 0, epoch: int = 0,
) -> Plan:  # fmt: skip
    """The plan of the method with this name; options of another method are refused, not ignored.

    Args:
        method: "naive", "sorted" or "packing".
        algorithm: for "packing" only, by default "next_fit".
        group_size: for "sorted" only, by default ranks x rows.
        capacity: needed for "packing"; the other methods only check the lengths against it.
        lengths, target_counts, ranks, accumulation, rows, seed, epoch: see `plan_naive`.

    Raises:
        ValueError: an unknown method, an option that it does not have, a missing capacity, or a bad value.

    >>> make_plan("packing", [2, 4, 3], capacity=9).steps[0].rows
    ((2, 0, 1),)
    """
    if method not in ("naive", "sorted", "packing"):
        raise ValueError(f'method must be "naive", "sorted" or "packing", not {method!r}')
    if algorithm is not None and method != "packing":
        raise ValueError(f'algorithm is an option of "packing"; leave it out for {method!r}')
    if group_size is not None and method != "sorted":
        raise ValueError(f'group_size is an option of "sorted"; leave it out for {method!r}')
    common = {"target_counts": target_counts, "ranks": ranks, "accumulation": accumulation, "rows": rows}
    common |= {"seed": seed, "epoch": epoch}
    if method == "naive":
        return plan_naive(lengths, capacity=capacity, **common)
    if method == "sorted":
        return plan_sorted(lengths, group_size=group_size, capacity=capacity, **common)
    if capacity is None:
        raise ValueError("packing needs a capacity: the tokens that a pack can hold")
    return plan_packing(lengths, capacity=capacity, algorithm=algorithm or "next_fit", **common)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


def _plan(
    method: Method, rows_in_order: Sequence[Row], lengths: Counts, target_counts: Counts | None, capacity: int | None,
    ranks: int, accumulation: int, rows: int,
) -> Plan:  # fmt: skip
    """The rows, dealt; shapes and counts are checked here and in `Plan`, once for the three methods."""
    if capacity is None:
        lengths = as_counts(lengths)
    else:
        lengths, capacity = checked(lengths, capacity)
    given = np.maximum(lengths - 1, 0) if target_counts is None else as_counts(target_counts, name="target_counts")
    if len(given) != len(lengths):
        raise ValueError(f"{len(lengths)} lengths, but {len(given)} target_counts; give one per sequence")
    steps = deal(rows_in_order, ranks=ranks, accumulation=accumulation, rows=rows)
    return Plan(method, lengths, given, capacity, ranks, accumulation, rows, steps)
