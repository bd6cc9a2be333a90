"""Deals items of a length and a cost to members, ranks or micro-batches, so that none has much more to do than others.

Every item is dealt once, no bin holds more than the capacity, and what finds no room is returned. Longest first to
whoever has least is a rule of thumb (LPT; Graham, SIAM J. Appl. Math. 17, 1969: at most 4/3 of the optimum where
nothing limits the room).
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

from longalign.common.array_types import Float, Int

Dealt = list[list[list[int]]]
"""Items by member and bin."""


def assign_balanced(
    lengths: Sequence[int], costs: Sequence[float], targets: Sequence[float],
    *, bins: int | Sequence[int], capacity: int,
) -> tuple[Dealt, list[int]]:  # fmt: skip
    """Item after item to the member that lacks most of its target, into that member's emptiest bin.

    Items are given longest first, `targets` in the unit of their costs (only differences count), `bins` of every member
    or of each, and `capacity` as the sum of lengths that a bin can hold. Returns item numbers by member and bin, and
    the items that no member had room for.

    >>> assign_balanced([4, 3, 2], [4.0, 3.0, 2.0], [0.0, 0.0], bins=1, capacity=4)
    ([[[0]], [[1]]], [2])
    """
    counts = [bins] * len(targets) if isinstance(bins, int) else bins
    room = [[capacity] * count for count in counts]
    dealt: Dealt = [[[] for _ in range(count)] for count in counts]
    left = []
    ready = [(-target, member) for member, target in enumerate(targets) if counts[member]]  # by what is lacking
    waiting: list[tuple[int, float, int]] = []  # by room: those who may have room again for a shorter item
    heapify(ready)
    for item, (length, cost) in enumerate(zip(lengths, costs, strict=True)):
        while waiting and -waiting[0][0] >= length:
            heappush(ready, heappop(waiting)[1:])
        while ready and max(room[ready[0][1]]) < length:
            excess, member = heappop(ready)
            heappush(waiting, (-max(room[member]), excess, member))
        if not ready:
            left.append(item)
            continue
        excess, member = ready[0]
        heapreplace(ready, (excess + cost, member))
        emptiest = room[member].index(max(room[member]))
        room[member][emptiest] -= length
        dealt[member][emptiest].append(item)
    return dealt, left


def group_targets(
    lengths: Int[np.ndarray, " items"], costs: Float[np.ndarray, " items"],
    *, groups: int, ranks: int, bins: int, capacity: int,
) -> Float[np.ndarray, " members"]:  # fmt: skip
    """Levels for groups of `ranks` members that wait for each other within the group only.

    A group costs what its costliest member does. Items over capacity / 2 cannot share a bin, so they are laid out
    costliest first, and the level of a group is at least its first one's; the groups below a common level are raised
    to it, just so far that all items fit. What a member can hold is taken as its own long items, and the rest of its
    room at the mean cost per token of the short ones. Items are given longest first; levels are in the costs' unit.

    >>> found = group_targets(np.array([6, 2, 2]), np.array([36.0, 4, 4]), groups=2, ranks=1, bins=1, capacity=8)
    >>> found.round(6).tolist()
    [36.0, 8.0]
    """
    long = int(np.count_nonzero(2 * lengths > capacity))
    laid_out = np.zeros((2, max(groups * ranks * bins, long)))
    laid_out[:, :long] = lengths[:long], costs[:long]
    own = laid_out[:, : groups * ranks * bins].reshape(2, groups, bins, ranks)
    per_token = costs[long:].sum() / max(1, lengths[long:].sum())
    most = (own[1] + per_token * (capacity - own[0])).sum(axis=1)
    least = own[1, :, 0, 0]
    low, high = 0.0, float(most.max())
    for _ in range(40):
        level = (low + high) / 2
        enough = np.minimum(np.maximum(least, level)[:, None], most).sum() >= costs.sum()
        low, high = (low, level) if enough else (level, high)
    return np.repeat(np.maximum(least, high), ranks)


def fill_empty(dealt: Dealt) -> None:
    """No bin stays empty while another holds two items: the last, shortest one of the fullest bin moves, in place.

    >>> dealt = [[[0, 1, 2], []], [[3], []]]
    >>> fill_empty(dealt)
    >>> dealt
    [[[0], [2]], [[3], [1]]]
    """
    bins = [bin_ for member in dealt for bin_ in member]
    fullest = [(-len(bin_), number) for number, bin_ in enumerate(bins)]
    heapify(fullest)
    for bin_ in [bin_ for bin_ in bins if not bin_]:
        size, number = fullest[0]
        if size >= -1:
            return
        bin_.append(bins[number].pop())
        heapreplace(fullest, (size + 1, number))


def improve_by_swaps(costs: Sequence[float], dealt: Dealt) -> Dealt:
    """Whole bins change places between the costliest member and another, as long as the costlier of the two gets less.

    Every bin holds one item or none.

    >>> improve_by_swaps([5.0, 4.0, 3.0, 2.0], [[[0], [1]], [[2], [3]]])
    [[[2], [1]], [[0], [3]]]
    """
    place = np.array([[bin_[0] if bin_ else -1 for bin_ in member] for member in dealt])
    cost = np.append(np.asarray(costs, dtype=np.float64), 0.0)[place]
    total = cost.sum(axis=1)
    for _ in range(cost.size):
        first = int(total.argmax())
        less = cost[first][:, None, None] - cost  # [bins of the costliest, members, bins]
        worse = np.maximum(total[first] - less, total[:, None] + less)
        worse[:, first] = np.inf
        mine, other, its = np.unravel_index(worse.argmin(), worse.shape)
        if worse[mine, other, its] >= total[first] * (1 - 1e-12):
            break
        total[first], total[other] = total[first] - less[mine, other, its], total[other] + less[mine, other, its]
        for table in (place, cost):
            table[first, mine], table[other, its] = table[other, its], table[first, mine]
    return [[[] if item < 0 else [item] for item in member] for member in place.tolist()]
