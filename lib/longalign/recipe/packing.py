"""Places whole sequences into packs of a capacity: every sequence exactly once, none split, the last pack included.

`next_fit` is the paper's rule (arXiv 2401.18058): it keeps the order of arrival, and leaves about a fifth of the
positions empty on long-tailed lengths. `best_fit_decreasing` needs all lengths at once and reaches `lower_bound`
wherever many sequences are short; then one pack holds a single long sequence and another a hundred short ones.

All functions raise ValueError for lengths and capacities that are no counts of tokens, and a length over the capacity.
Packs are lists of indices into the lengths; a sequence of length 0 takes no room and is placed like any other.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from itertools import accumulate
from operator import index
from typing import SupportsIndex

import numpy as np

from longalign.common.array_types import Counts, Int, as_counts

Packs = list[list[int]]


def next_fit(lengths: Counts, capacity: SupportsIndex) -> Packs:
    """Packs in order of arrival: a sequence that does not fit closes the pack and opens the next one.

    The released code differs in two ways that are not repeated here: it never writes the last pack, and it closes a
    pack that would be exactly full.

    >>> next_fit([2, 4, 3], 7)
    [[0, 1], [2]]
    """
    lengths, capacity = checked(lengths, capacity)
    ends = np.cumsum(lengths)
    packs: Packs = []
    start = used = 0
    while start < len(lengths):
        stop = int(np.searchsorted(ends, used + capacity, side="right"))
        packs.append(list(range(start, stop)))
        start, used = stop, int(ends[stop - 1])
    return packs


def best_fit_decreasing(lengths: Counts, capacity: SupportsIndex) -> Packs:
    """Longest first, each into the fullest pack that still has room; in practice the fewest packs possible.

    Never more than 11/9 of the optimum plus four (Johnson et al., SIAM J. Comput. 3, 1974). `exact_fit` is tried first,
    and its packing returned where that reaches `lower_bound` or has fewer packs. Deterministic; the order of `lengths`
    decides ties only.

    >>> best_fit_decreasing([2, 4, 3], 6)
    [[1, 0], [2]]
    """
    lengths, capacity = checked(lengths, capacity)
    if not len(lengths):
        return []
    order, values, counts = _longest_first(lengths, capacity)
    order, how_many = order.tolist(), dict(zip(values.tolist(), counts.tolist(), strict=True))
    packs = exact_fit(order, how_many, capacity)
    if len(packs) > _lower_bound(values[::-1], counts[::-1], capacity):
        packs = min(best_fit(order, how_many, capacity), packs, key=len)
    return packs


def best_fit(order: list[int], counts: dict[int, int], capacity: int) -> Packs:
    """Best-fit decreasing: each sequence goes into the fullest pack that has room for it.

    `order` holds the sequences with the longest first, `counts` how many have each length, in the same order.

    >>> best_fit([1, 2, 0], {4: 1, 3: 1, 2: 1}, 7)
    [[1, 2], [0]]
    """
    packs: Packs = []
    free: list[int] = []  # tokens that some pack has free, ascending
    having: dict[int, list[int]] = {}  # packs by free tokens
    start = 0
    for length, left in counts.items():
        while left:
            at = bisect_left(free, length)
            room = free[at] if at < len(free) else capacity
            if at < len(free):
                pack = having[room].pop()
                if not having[room]:
                    del free[at]
            else:
                pack = len(packs)
                packs.append([])
            # After one sequence of this length the same pack is still the fullest that fits: take as many as it can.
            count = min(left, room // length) if length else left
            packs[pack] += order[start : start + count]
            room -= count * length
            stack = having.setdefault(room, [])
            if not stack:
                insort(free, room)
            stack.append(pack)
            start, left = start + count, left - count
    return packs


def exact_fit(order: list[int], counts: dict[int, int], capacity: int, tries: int = 64) -> Packs:
    """Pack after pack, each time the longest sequence that fits, unless it would leave a hole that nothing can fill.

    Then a pair that fills the pack exactly is looked for among the next `tries` shorter lengths. Arguments: `best_fit`.

    >>> exact_fit([0, 1, 2, 3], {6: 1, 3: 1, 2: 2}, 10)  # best fit would put 3 beside 6 and leave a hole of 1
    [[0, 2, 3], [1]]
    """
    left, first = dict(counts), dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
    lengths = list(left)[::-1]
    packs: Packs = []
    while lengths:
        free, shortest = capacity, lengths[0]
        pack: list[int] = []
        while shortest <= free:
            at = bisect_right(lengths, free) - 1
            length = lengths[at]
            there = count = left[length]
            if there * length > free:
                count = free // length
            if 0 < free - count * length < shortest:
                count -= 1  # all in one go, but the one that would leave a hole
            if not count:
                at, count = _paired(left, lengths, at, free, tries), 1
                length = lengths[at]
                there = left[length]
            start = first[length]
            if count == 1:  # nearly always, and a slice costs more
                pack.append(order[start])
            else:
                pack += order[start : start + count]
            free -= count * length
            if there > count:
                left[length], first[length] = there - count, start + count
                continue
            del left[length], lengths[at]
            if not lengths:
                break
            shortest = lengths[0]
        packs.append(pack)
    return packs


def _paired(left: dict[int, int], lengths: list[int], at: int, free: int, tries: int) -> int:
    """The place, among the `tries` before `at`, of the longest length that another one fills up to `free` exactly; the
    other is then what fits best. Without such a pair, `at`."""
    for back, longer in enumerate(reversed(lengths[max(0, at - tries) : at]), 1):
        if free - longer in left and (free != 2 * longer or left[longer] > 1):
            return at - back
    return at


def _longest_first(
    lengths: Int[np.ndarray, " sequences"], capacity: int
) -> tuple[Int[np.ndarray, " sequences"], Int[np.ndarray, " values"], Int[np.ndarray, " values"]]:
    """The sequences in stable order, the values that their lengths have, and how many have each.

    Room that fits into 16 bits is sorted digit by digit, several times as fast.
    """
    room = capacity - lengths
    room = room.astype(np.uint16) if room.max() < 2**16 else room
    order = np.argsort(room, kind="stable")
    room = room[order]
    starts = np.flatnonzero(np.concatenate([[True], room[1:] != room[:-1]]))
    return order, capacity - room[starts].astype(np.int64), np.diff(starts, append=len(order))


def lower_bound(lengths: Counts, capacity: SupportsIndex) -> int:
    """A number of packs that no packing of these lengths can beat (it may be below the true minimum).

    The largest of the volume bound, ceil(tokens / capacity), and Martello and Toth's L2 (Discrete Applied Mathematics
    28, 1990): for a threshold t <= capacity / 2, sequences over capacity - t get a pack alone, those over capacity / 2
    get one each, and what does not fit beside them of the sequences in [t, capacity / 2] needs further packs.

    >>> lower_bound([2, 4, 3], 9)
    1
    >>> lower_bound([4, 4, 4], 7)  # 12 tokens would fit into 2 packs, but no two of these sequences share one
    3
    """
    lengths, capacity = checked(lengths, capacity)
    return _lower_bound(*np.unique(lengths, return_counts=True), capacity) if len(lengths) else 0


def _lower_bound(values: Int[np.ndarray, " values"], counts: Int[np.ndarray, " values"], capacity: int) -> int:
    """`lower_bound` of the ascending `values` of the lengths, at least one, and how many sequences have each."""
    sequences = np.concatenate([[0], np.cumsum(counts)])  # sequences[i], tokens[i]: of the i smallest values
    tokens = np.concatenate([[0], np.cumsum(values * counts)])
    half = int(np.searchsorted(values, capacity // 2, side="right"))  # first value over capacity / 2
    threshold = np.append(values[:half], 0)  # 0: no small sequence is counted
    alone = np.searchsorted(values, capacity - threshold, side="right")
    beside = (sequences[alone] - sequences[half]) * capacity - (tokens[alone] - tokens[half])
    excess = np.maximum(0, tokens[half] - tokens[: half + 1] - beside)
    packs = sequences[-1] - sequences[half] + -(-excess // capacity)
    return max(1, int(packs.max()), -(-int(tokens[-1]) // capacity))


def cu_seqlens(lengths: Counts) -> Int[np.ndarray, " offsets"]:
    """Where each sequence of a pack begins, and where the last one ends: int32, as kernels ask for it.

    >>> cu_seqlens([2, 4, 3])
    array([0, 2, 6, 9], dtype=int32)
    """
    lengths = as_counts(lengths)
    if (tokens := sum(lengths.tolist())) > np.iinfo(np.int32).max:
        raise ValueError(f"the pack holds {tokens} tokens, more than int32 offsets can address; use a smaller capacity")
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def position_ids(lengths: Counts) -> Int[np.ndarray, " tokens"]:
    """Position of every token within its own sequence: int64, shape [tokens], restarting at 0 with each sequence.

    >>> position_ids([2, 4, 3])
    array([0, 1, 0, 1, 2, 3, 0, 1, 2])
    """
    lengths = as_counts(lengths)
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def fill(packs: Sequence[Sequence[SupportsIndex]], lengths: Counts, capacity: SupportsIndex) -> float:
    """Share of the packs' positions that hold a token, in [0, 1]; 1.0 for no packs (nothing is empty).

    >>> fill([[0, 1], [2]], [2, 4, 3], 7)
    0.6428571428571429
    """
    lengths, capacity = checked(lengths, capacity)
    tokens = sum(int(lengths[[index(sequence) for sequence in pack]].sum()) for pack in packs)
    return tokens / (len(packs) * capacity) if packs else 1.0


def checked(lengths: Counts, capacity: SupportsIndex) -> tuple[Int[np.ndarray, " sequences"], int]:
    """The lengths as int64 and the capacity as int, once every length is known to fit and all of them to add up."""
    lengths = as_counts(lengths)
    capacity = index(capacity)
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1 token, not {capacity}")
    if capacity * max(1, len(lengths)) >= 2**63:
        raise ValueError(
            f"{len(lengths)} sequences of up to {capacity} tokens do not add up in 64 bits; use a capacity nearer to "
            "the longest of them"
        )
    over = np.flatnonzero(lengths > capacity)
    if len(over):
        more = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
        raise ValueError(
            f"sequence {over[0]} has {lengths[over[0]]} tokens, over the capacity of {capacity}{more}; raise the "
            f'capacity, or truncate the data (fit_lengths with overlong="truncate" says which)'
        )
    return lengths, capacity


ALGORITHMS = {"next_fit": next_fit, "best_fit": best_fit_decreasing}
"""The algorithms of plans, by their short names."""
