"""Two rules that place groups of equal length into packs of a capacity; every sequence exactly once.

Both take the sequences with the longest first, and {length: how many have it} in the same order, every length at most
the capacity. Each does some operations on ints for every time that a length is put into a pack, a million sequences in
about a quarter of a second where short ones are many. Where they are few, almost every sequence is looked for alone: a
hundred thousand then take as long. `exact_fit` leaves almost no hole until the sequences run out; the price is that a
length which is used up moves all longer ones by a place, felt from some hundred thousand different lengths on.
"""

from bisect import bisect_right
from itertools import accumulate

Packs = list[list[int]]


def best_fit(order: list[int], counts: dict[int, int], capacity: int) -> Packs:
    """Best-fit decreasing: each sequence goes into the fullest pack that has room for it.

    >>> best_fit([1, 2, 0], {4: 1, 3: 1, 2: 1}, 7)
    [[1, 2], [0]]
    """
    packs: Packs = []
    room, start = _Room(capacity), 0
    for length, left in counts.items():
        while left:
            free, pack = room.take(length)
            if pack is None:
                pack = len(packs)
                packs.append([])
            # After one sequence of this length the same pack is still the fullest that fits: take as many as it can.
            count = min(left, free // length) if length else left
            packs[pack] += order[start : start + count]
            room.put(free - count * length, pack)
            start, left = start + count, left - count
    return packs


def exact_fit(order: list[int], counts: dict[int, int], capacity: int, tries: int = 64) -> Packs:
    """Pack after pack, each time the longest sequence that fits, unless it would leave a hole that nothing can fill.

    Then a pair of sequences that fills the pack exactly is looked for among the next shorter lengths (`tries` of them).

    >>> exact_fit([0, 1, 2, 3], {6: 1, 3: 1, 2: 2}, 10)  # best fit would put 3 beside 6 and leave a hole of 1
    [[0, 2, 3], [1]]
    """
    left, first = dict(counts), dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
    lengths = list(left)[::-1]
    packs: Packs = []
    while lengths:
        free, pack, shortest = capacity, [], lengths[0]
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
                left[length] = there - count
                first[length] = start + count
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


class _Room:
    """Open packs by free tokens; the smallest free size >= a length is found in a few operations on ints.

    Two levels of bits: bit b of `words[w]` says that some pack has w * width + b free tokens, bit w of `summary` says
    that `words[w]` is not zero.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.shift = (capacity.bit_length() + 1) // 2
        self.mask = (1 << self.shift) - 1
        self.words = [0] * ((capacity >> self.shift) + 1)
        self.summary = 0
        self.packs: dict[int, list[int]] = {}

    def take(self, length: int) -> tuple[int, int | None]:
        """Removes the fullest pack with room for `length`: (free tokens, pack), or (capacity, None) without one."""
        word = length >> self.shift
        bits = self.words[word] >> (length & self.mask)
        if bits:
            free = length + _lowest(bits)
        else:
            above = self.summary >> (word + 1)
            if not above:
                return self.capacity, None
            word += 1 + _lowest(above)
            free = (word << self.shift) + _lowest(self.words[word])
        stack = self.packs[free]
        pack = stack.pop()
        if not stack:
            self.words[word] ^= 1 << (free & self.mask)
            if not self.words[word]:
                self.summary ^= 1 << word
        return free, pack

    def put(self, free: int, pack: int) -> None:
        """Adds a pack with so many free tokens."""
        word = free >> self.shift
        self.words[word] |= 1 << (free & self.mask)
        self.summary |= 1 << word
        self.packs.setdefault(free, []).append(pack)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
