"""The hidden world of one document: facts with unique keys, from which the text is written and every answer follows exactly.

A fact is a sentence `key value.` in which the value follows its key directly ("Marlow guards a copper lantern."): small
models learn to look such facts up, the key being the only link between question and document.
"""

from dataclasses import dataclass, field
from random import Random

from longalign.corpus import lexicon
from longalign.corpus.styles import STYLES, Style


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

    >>> source = FactSource(Random(0), STYLES["books3"])
    >>> source.deed().text
    'Torric carries a wild boat.'
    """

    def __init__(self, rng: Random, style: Style):
        self.rng, self.style = rng, style
        self.names = self._names()
        self.words = rng.sample(lexicon.MADE_UP_WORDS, len(lexicon.MADE_UP_WORDS))
        self.functions = rng.sample(lexicon.FUNCTIONS, len(lexicon.FUNCTIONS))

    def _names(self) -> list[str]:
        if self.style.language == "zh":
            given = self.rng.sample(lexicon.ZH_GIVEN, len(lexicon.ZH_GIVEN))
            return [self.rng.choice(lexicon.ZH_SURNAMES) + name for name in given]
        return self.rng.sample(lexicon.NAMES, len(lexicon.NAMES))

    def _fact(self, kind: str, key: str, value: str) -> Fact:
        return Fact(kind, key, value, self.style.language)

    def _thing(self) -> str:
        if self.style.language == "zh":
            return self.rng.choice(lexicon.ZH_ADJECTIVES) + self.rng.choice(lexicon.ZH_NOUNS)
        return f"{self.rng.choice(lexicon.ADJECTIVES)} {self.rng.choice(lexicon.NOUNS)}"

    def deed(self) -> Fact:
        """A short fact about a person: `Marlow guards copper lantern`-like, 3 value words."""
        return self._fact("deed", self.names.pop(), f"{self.rng.choice(self.style.verbs)}{self._gap()}{self._thing()}")

    def _gap(self) -> str:
        return "" if self.style.language == "zh" else " "

    def note(self) -> Fact:
        """A long fact about a person, 7 to 22 value words: what makes target lengths vary."""
        pairs = self.rng.randint(2, 6)
        if self.style.language == "zh":
            value = "记下" + "，".join(self._thing() for _ in range(pairs))
        else:
            joints = [f" {self.rng.choice(lexicon.PREPOSITIONS)} " for _ in range(pairs)]
            value = "noted " + "".join(self._thing() + joint for joint in joints) + self.rng.choice(lexicon.PLACES)
        return self._fact("note", self.names.pop(), value)

    def gloss(self) -> Fact:
        """A dictionary entry: a made-up word, then its meaning."""
        return self._fact("gloss", self.words.pop(), self.rng.choice(lexicon.NOUNS))

    def chain(self, kind: str, links: int) -> list[Fact]:
        """`links` facts, each naming the key of the next; the last names none (an end that can be recognised)."""
        keys = [(self.functions if kind == "call" else self.names).pop() for _ in range(links)]
        zh = self.style.language == "zh"
        verb, end = ("calls", "returns zero") if kind == "call" else (("跟随", "领头") if zh else ("follows", "leads"))
        values = [f"{verb}{self._gap()}{key}" for key in keys[1:]] + [end]
        return [self._fact(kind, key, value) for key, value in zip(keys, values)]

    def decisions(self, count: int) -> list[Fact]:
        """The document's decisions, numbered by First, Second, Third, Finally; the last one is always Finally."""
        zh = self.style.language == "zh"
        ordinals = lexicon.ZH_ORDINALS if zh else lexicon.ORDINALS
        keys = (*ordinals[: count - 1], ordinals[-1])
        verbs = lexicon.ZH_VERBS if zh else lexicon.ACTIONS
        return [self._fact("decision", key, f"{self.rng.choice(verbs)}{self._gap()}{self._thing()}") for key in keys]

    def filler(self, template: str) -> str:
        """A sentence that states no fact."""
        zh = self.style.language == "zh"
        return template.format(
            adjective=self.rng.choice(lexicon.ZH_ADJECTIVES if zh else lexicon.ADJECTIVES),
            noun=self.rng.choice(lexicon.ZH_NOUNS if zh else lexicon.NOUNS),
            place=self.rng.choice(lexicon.ZH_PLACES if zh else lexicon.PLACES),
            preposition=self.rng.choice(lexicon.PREPOSITIONS),
        )
