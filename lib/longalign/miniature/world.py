"""The hidden world of one document: facts with unique keys, from which the text is written and every answer follows
exactly.

A fact is a sentence `key value.` in which the value follows its key directly and no word stands in two facts of a
document ("Marlow guards copper lantern."): small models learn to look such facts up word by word, the key being the
only link between question and document.

The words are enough for some 138 facts, half of a document of 1,024 tokens. In longer ones a fact's key is two words
("Marlow Kelton guards copper lantern."): keys stay unique, of thousands of facts, while words are drawn again and
again. `longalign.miniature.pools` has the reasons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from longalign.miniature import lexicon
from longalign.miniature.pools import PairedKeys, Pool, RepeatedWords
from longalign.miniature.styles import Style


@dataclass(frozen=True)
class Fact:
    """One sentence of the document: `key` (unique in it), `value` (what follows), in the language's own punctuation."""

    kind: str
    key: str
    value: str
    language: str

    @property
    def text(self) -> str:
        """The sentence as it stands in the document and in an answer."""
        return f"{self.key}{self.value}。" if self.language == "zh" else f"{self.key} {self.value}."


@dataclass
class World:
    """All facts of one document by kind, and the chains (lists of linked facts, first key first)."""

    facts: dict[str, list[Fact]] = field(default_factory=dict)
    chains: dict[str, list[list[Fact]]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Fact]:
        """The facts of a kind, in the order in which they were drawn (decisions: in the order of the document)."""
        return self.facts.get(kind, [])


class FactSource:
    """Draws facts for one document; keys never repeat, whatever the kind.

    With `pairs_for`, the tokens of the document, keys are pairs of words and last for a document of that length.
    Without, keys are words, no word stands in two facts, and facts end with the words.

    >>> from longalign.miniature.styles import STYLES
    >>> fact = FactSource(Random(0), STYLES["books3"]).deed()
    >>> fact.text == f"{fact.key} {fact.value}."
    True
    """

    def __init__(self, rng: Random, style: Style, *, pairs_for: int = 0):
        self.rng, self.style, self.chinese = rng, style, style.language == "zh"

        def keys(words: Sequence[str]) -> Pool:
            gap = "" if self.chinese else " "
            return PairedKeys(rng, firsts, words, pairs_for, gap) if pairs_for else rng.sample(words, len(words))

        def values(words: Sequence[str]) -> Pool:
            return RepeatedWords(rng, words, pairs_for) if pairs_for else rng.sample(words, len(words))

        firsts = lexicon.ZH_NAMES if self.chinese else lexicon.NAMES
        self.names = keys(lexicon.ZH_GIVEN if self.chinese else lexicon.NAMES)
        if self.chinese and not pairs_for:
            self.names = [rng.choice(lexicon.ZH_SURNAMES) + given for given in self.names]
        self.glossary = keys(lexicon.MADE_UP_WORDS)
        self.functions = keys(lexicon.FUNCTIONS)
        self.verbs = values(lexicon.ZH_VERBS if self.chinese else lexicon.VERBS)
        self.adjectives = values(lexicon.ZH_ADJECTIVES if self.chinese else lexicon.ADJECTIVES)
        self.nouns = values(lexicon.ZH_NOUNS if self.chinese else lexicon.NOUNS)

    def available(self) -> list[str]:
        """Kinds of facts that can still be drawn without repeating a word; Chinese documents hold no glossary and no
        code."""
        values = min(len(self.adjectives), len(self.nouns)) >= 6
        kinds = {
            "deed": bool(self.names and self.verbs) and values,
            "note": bool(self.names and self.verbs) and values,
            "link": min(len(self.names), len(self.verbs)) >= 3,
            "gloss": not self.chinese and bool(self.glossary and self.nouns),
            "call": not self.chinese and len(self.functions) >= 3,
        }
        return [kind for kind, possible in kinds.items() if possible]

    def _fact(self, kind: str, key: str, *value: str) -> Fact:
        return Fact(kind, key, ("" if self.chinese else " ").join(value), self.style.language)

    def deed(self) -> Fact:
        """A short fact about a person: verb, adjective, noun."""
        return self._fact("deed", self.names.pop(), self.verbs.pop(), self.adjectives.pop(), self.nouns.pop())

    def note(self) -> Fact:
        """A long fact about a person: a verb and two to six things, 5 to 13 words; what makes target lengths vary."""
        things = [word for _ in range(self.rng.randint(2, 6)) for word in (self.adjectives.pop(), self.nouns.pop())]
        return self._fact("note", self.names.pop(), self.verbs.pop(), *things)

    def gloss(self) -> Fact:
        """A dictionary entry: a made-up word, then its meaning."""
        return self._fact("gloss", self.glossary.pop(), self.nouns.pop())

    def chain(self, kind: str, links: int) -> list[Fact]:
        """`links` facts, each naming the key of the next; the last names none (an end that can be recognised)."""
        if kind == "call":
            keys = [self.functions.pop() for _ in range(links)]
            return [self._fact(kind, key, following) for key, following in zip(keys, [*keys[1:], "zero"], strict=True)]
        keys = [self.names.pop() for _ in range(links)]
        ends = [(self.verbs.pop(), following) for following in keys[1:]] + [("领头" if self.chinese else "leads",)]
        return [self._fact(kind, key, *value) for key, value in zip(keys, ends, strict=True)]

    def decisions(self, count: int) -> list[Fact]:
        """The document's decisions, numbered by First, Second, Third, Finally; the last one is always Finally."""
        ordinals = lexicon.ZH_ORDINALS if self.chinese else lexicon.ORDINALS
        keys = (*ordinals[: count - 1], ordinals[-1])
        return [self._fact("decision", key, self.verbs.pop(), self.adjectives.pop(), self.nouns.pop()) for key in keys]

    def filler(self, template: str) -> str:
        """A sentence that states no fact."""
        return template.format(
            adjective=self.rng.choice(lexicon.FILLER_ADJECTIVES),
            noun=self.rng.choice(lexicon.ZH_FILLER_NOUNS if self.chinese else lexicon.FILLER_NOUNS),
            place=self.rng.choice(lexicon.ZH_PLACES if self.chinese else lexicon.PLACES),
            preposition=self.rng.choice(lexicon.PREPOSITIONS),
        )
