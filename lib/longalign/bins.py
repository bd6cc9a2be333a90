"""Two rules that place groups of equal length into packs of a capacity; every sequence exactly once.

Both take {length: sequences of that length} with the longest first, every length at most the capacity. `best_fit` does
a few operations on ints per sequence, a million in about half a second. `exact_fit` leaves almost no hole until the
sequences run out, at about three times the price.
"""

from bisect import bisect_left, bisect_right

Packs = list[list[int]]


def best_fit(groups: dict[int, list[int]], capacity: int) -> Packs:
    """Best-fit decreasing: each sequence goes into the fullest pack that has room for it.

    >>> best_fit({4: [1], 3: [2], 2: [0]}, 7)
    [[1, 2], [0]]
    """
    packs: Packs = []
    room = _Room(capacity)
    for length, group in groups.items():
        start = 0
        while start < len(group):
            free, pack = room.take(length)
            if pack is None:
                pack = len(packs)
                packs.append([])
            # After one sequence of this length the same pack is still the fullest that fits: take as many as it can.
            count = min(len(group) - start, free // length) if length else len(group)
            packs[pack] += group[start : start + count]
            room.put(free - count * length, pack)
            start += count
    return packs


def exact_fit(groups: dict[int, list[int]], capacity: int, tries: int = 64) -> Packs:
    """Pack after pack, each time the longest sequence that fits, unless it would leave a hole that nothing can fill.

    Then a pair of sequences that fills the pack exactly is looked for among the next shorter lengths (`tries` of them).

    >>> exact_fit({6: [0], 3: [1], 2: [2, 3]}, 10)  # best fit would put 3 beside 6 and leave a hole of 1
    [[0, 2, 3], [1]]
    """
    left = {length: group[::-1] for length, group in groups.items()}
    shortest_first = list(left)[::-1]
    packs: Packs = []

    def take(length: int, count: int) -> list[int]:
        stack = left[length]
        sequences = stack[: -count - 1 : -1]
        del stack[-count:]
        if not stack:
            del left[length]
            del shortest_first[bisect_left(shortest_first, length)]
        return sequences

    while left:
        free, pack = capacity, []
        while left and shortest_first[0] <= free:
            at = bisect_right(shortest_first, free) - 1
            length = shortest_first[at]
            count = min(len(left[length]), free // length) if length else len(left[length])
            hole = 0 < free - count * length < shortest_first[0]
            # All of them in one go, but the one that would leave a hole.
            chosen = [(length, count - hole)] if count > hole else _pair(left, shortest_first, at, free, tries)
            for length, count in chosen:
                pack += take(length, count)
                free -= count * length
        packs.append(pack)
    return packs


def _pair(
    left: dict[int, list[int]], shortest_first: list[int], at: int, free: int, tries: int
) -> list[tuple[int, int]]:
    """Two lengths that fill `free` exactly, the longer among the `tries` before place `at`; without any, that at it."""
    for length in shortest_first[max(0, at - tries) : at][::-1]:
        if free - length in left and (free != 2 * length or len(left[length]) > 1):
            return [(length, 1), (free - length, 1)]
    return [(shortest_first[at], 1)]


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
