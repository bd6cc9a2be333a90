"""Places whole sequences into packs of a capacity: every sequence exactly once, none split, the last pack included.

`next_fit` is the paper's rule (arXiv 2401.18058): it keeps the order of arrival and needs no look-ahead;
the price is that about a fifth of the positions stays empty on long-tailed lengths. `best_fit_decreasing` needs all
lengths at once and reaches `lower_bound`, which no packing can beat, wherever many sequences are short (without short
ones it is a pack or a few above it); the price is that one pack holds a single long sequence and another a hundred
short ones. Neither looks at the cost of attention.

A sequence of length 0 takes no room and is placed like any other. No sequences give no packs. Packs are lists of
indices into `lengths`.
"""

from collections.abc import Sequence
from operator import index
from typing import SupportsIndex

import numpy as np

from longalign.recipe.array_types import Counts, Int, as_counts
from longalign.recipe.bin_packing import Packs, best_fit, exact_fit


def next_fit(lengths: Counts, capacity: SupportsIndex) -> Packs:
    """Packs in order of arrival: a sequence that does not fit closes the pack and opens the next one.

    The released code differs in two ways that are not repeated here: it never writes the last pack, and it closes a
    pack that would be exactly full.

    Args:
        lengths: tokens per sequence, shape [sequences], in order of arrival.
        capacity: tokens that a pack can hold.

    Raises:
        ValueError: a length is over the capacity, or an argument is not a valid count.

    >>> next_fit([2, 4, 3], 7)
    [[0, 1], [2]]
    >>> next_fit([2, 4, 3], 5)
    [[0], [1], [2]]
    """
    lengths, capacity = checked(lengths, capacity)
    ends = np.cumsum(lengths)
    packs, start, used = [], 0, 0
    while start < len(lengths):
        stop = int(np.searchsorted(ends, used + capacity, side="right"))
        packs.append(list(range(start, stop)))
        start, used = stop, int(ends[stop - 1])
    return packs


def best_fit_decreasing(lengths: Counts, capacity: SupportsIndex) -> Packs:
    """Longest first, each into the fullest pack that still has room; in practice the fewest packs possible.

    Never more than 11/9 of the optimum plus four (Johnson et al., SIAM J. Comput. 3, 1974). A second rule, which fills
    pack after pack and prefers pairs that leave no hole, is tried first, and its packing returned where that reaches
    `lower_bound` or has fewer packs. Deterministic; the order of `lengths` decides ties only.

    Args:
        lengths: tokens per sequence, shape [sequences].
        capacity: tokens that a pack can hold.

    Raises:
        ValueError: a length is over the capacity, or an argument is not a valid count.

    >>> best_fit_decreasing([2, 4, 3], 7)
    [[1, 2], [0]]
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

    Raises:
        ValueError: a length is over the capacity, or an argument is not a valid count.

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


def fit_lengths(
    lengths: Counts, capacity: SupportsIndex, *, overlong: str = "error"
) -> tuple[Int[np.ndarray, " sequences"], Int[np.ndarray, " truncated"]]:
    """The lengths as a packer may take them, and the indices of those that were cut: nothing goes silently.

    Args:
        lengths: tokens per sequence, shape [sequences].
        capacity: tokens that a pack can hold.
        overlong: "error" refuses a length over the capacity; "truncate" cuts it and reports its index. Whoever holds
            the tokens must then truncate these.

    Raises:
        ValueError: a length is over the capacity under "error" (the message names index, length, capacity and how
            many more), or an argument is not valid.

    >>> fit_lengths([2, 4, 3], 3, overlong="truncate")
    (array([2, 3, 3]), array([1]))
    """
    if overlong not in ("error", "truncate"):
        raise ValueError(f'overlong must be "error" or "truncate", not {overlong!r}')
    if overlong == "error":
        return checked(lengths, capacity)[0], np.empty(0, dtype=np.int64)
    lengths = as_counts(lengths)
    capacity = _checked_capacity(capacity, len(lengths))
    return np.minimum(lengths, capacity), np.flatnonzero(lengths > capacity)


def cu_seqlens(lengths: Counts) -> Int[np.ndarray, " offsets"]:
    """Where each sequence of a pack begins, and where the last one ends: int32, shape [sequences + 1].

    Raises:
        ValueError: the lengths are not valid counts, or their sum does not fit into int32, which kernels ask for.

    >>> cu_seqlens([2, 4, 3])
    array([0, 2, 6, 9], dtype=int32)
    """
    lengths = as_counts(lengths)
    if (tokens := sum(lengths.tolist())) > np.iinfo(np.int32).max:
        raise ValueError(f"the pack holds {tokens} tokens, more than int32 offsets can address; use a smaller capacity")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets.astype(np.int32)


def position_ids(lengths: Counts) -> Int[np.ndarray, " tokens"]:
    """Position of every token within its own sequence: int64, shape [tokens], restarting at 0 with each sequence.

    Raises:
        ValueError: the lengths are not valid counts.

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
    tokens = sum(int(lengths[list(pack)].sum()) for pack in packs)
    return tokens / (len(packs) * capacity) if packs else 1.0


def checked(lengths: Counts, capacity: SupportsIndex) -> tuple[Int[np.ndarray, " sequences"], int]:
    """The lengths as int64 and the capacity as int, once every length is known to fit.

    Raises:
        ValueError: a length is over the capacity, the capacity is not positive or too large to add up, or the lengths
            are not valid counts.
    """
    lengths = as_counts(lengths)
    capacity = _checked_capacity(capacity, len(lengths))
    over = np.flatnonzero(lengths > capacity)
    if len(over):
        more = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
        raise ValueError(
            f"sequence {over[0]} has {lengths[over[0]]} tokens, over the capacity of {capacity}{more}; raise the "
            f'capacity, or truncate the data (fit_lengths with overlong="truncate" says which)'
        )
    return lengths, capacity


def _checked_capacity(capacity: SupportsIndex, sequences: int) -> int:
    if index(capacity) < 1:
        raise ValueError(f"capacity must be at least 1 token, not {capacity}")
    if index(capacity) * max(1, sequences) >= 2**63:
        raise ValueError(f"{sequences} sequences of up to {capacity} tokens do not add up in 64 bits; use a capacity "
                         "nearer to the longest of them")  # fmt: skip
    return index(capacity)
