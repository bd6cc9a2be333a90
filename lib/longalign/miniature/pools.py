"""Words for the facts of one document of any length: keys of two words, each pair once, and values that come again.

Single words run out after some 138 facts, which are half of 1,024 tokens and under 1 % of 65,536. A pair of words is
what small models learn best: after 0.6 million tokens of documents of 64 to 512 tokens, mini-6b stated .90 of the facts
of 128 tokens from keys of two names ("Marlow Kelton"), and .12 from a name with a number of two digits ("Marlow47"). A
digit stands in a tenth of all keys and says little; a second name says nearly all by itself.

The pools grow with the document, so that about a third of the pairs is used at any length: two facts share a word of
their keys as often in 128 tokens as in 65,536, and a model has to read the whole key from the start.
"""

import math
from collections.abc import Sequence
from random import Random

TOKENS_PER_PAIR = 6
"""One pair of words for so many tokens of the document; facts about persons need one for 15 to 20."""
FEWEST_VALUES = 8


class PairedKeys:
    """Keys of two words, each pair once, from as few words as give a pair to every 6 of `tokens` tokens.

    >>> keys = PairedKeys(Random(0), ["Marlow", "Kelton"], ["Fenwick", "Torvik"], tokens=24)
    >>> len(keys), keys.pop(), len(keys)
    (4, 'Kelton Fenwick', 3)
    """

    def __init__(self, rng: Random, firsts: Sequence[str], seconds: Sequence[str], tokens: int, gap: str = " "):
        pairs = tokens / TOKENS_PER_PAIR
        second = min(len(seconds), math.ceil(math.sqrt(pairs)))
        self.seconds = rng.sample(seconds, second)
        self.firsts = rng.sample(firsts, min(len(firsts), math.ceil(pairs / second)))
        self.rng, self.gap, self.drawn = rng, gap, set()

    def __len__(self) -> int:
        return len(self.firsts) * len(self.seconds) - len(self.drawn)

    def pop(self) -> str:
        """A pair that was not drawn before; raises IndexError, as a list does, when there is none left."""
        if not len(self):
            raise IndexError("pop from PairedKeys of which every pair was drawn")
        while (pair := (self.rng.choice(self.firsts), self.rng.choice(self.seconds))) in self.drawn:
            pass
        self.drawn.add(pair)
        return self.gap.join(pair)


class RepeatedWords:
    """Words of values, which never run out: all are drawn in random order, then all again in another."""

    def __init__(self, rng: Random, words: Sequence[str], tokens: int):
        distinct = max(FEWEST_VALUES, math.ceil(math.sqrt(tokens / TOKENS_PER_PAIR)))
        self.rng, self.words, self.left = rng, rng.sample(words, min(len(words), distinct)), []

    def __len__(self) -> int:
        return len(self.words)

    def pop(self) -> str:
        """The next word."""
        if not self.left:
            self.left = self.rng.sample(self.words, len(self.words))
        return self.left.pop()


Pool = list[str] | PairedKeys | RepeatedWords
