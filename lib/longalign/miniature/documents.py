"""Documents: a world of facts written out in a source's style, up to a number of tokens.

Facts stand at random depths between sentences that state none; the decisions of a document keep their order. About half
of a document's tokens are facts, so a long document holds many distractors for each question: up to some 1,024 tokens,
where the words run out, and at any length where keys are `pairs` of words.
"""

from dataclasses import dataclass
from random import Random

from longalign.miniature.styles import STYLES, Style
from longalign.miniature.token_length import count_tokens
from longalign.miniature.world import Fact, FactSource, World

# Share of each kind among the fact sentences; a chain or the decisions bring several sentences at once.
KINDS = {"deed": 0.46, "note": 0.10, "gloss": 0.24, "link": 0.10, "call": 0.10}
FACT_SHARE = 0.6
SENTENCES_PER_PARAGRAPH = 12


@dataclass(frozen=True)
class Document:
    """A text, its source and language, and the world behind it."""

    text: str
    source: str
    language: str
    world: World


def write_document(
    rng: Random, source: str, tokens: int, *, facts: FactSource | None = None,
    placed: tuple[Fact, float] | None = None, pairs: bool = False,
) -> Document:  # fmt: skip
    """A document of at most `tokens` tokens (at least 24), in the style of `source`.

    A chain of facts that runs on into the next paragraph is not charged for that one's heading, so that one document in
    thirty is some tokens longer; who needs the bound measures, as `longalign.miniature.samples` does, and draws again.

    `facts` draws its facts in place of a new source (same language), in which with `pairs` keys are pairs of words.
    `placed` is a fact that was drawn from `facts` before, and its depth: the share of the other sentences that stand
    before it, to the nearest sentence.
    """
    style = STYLES[source]
    facts = FactSource(rng, style, pairs_for=tokens if pairs else 0) if facts is None else facts
    world = World()
    title = facts.filler(style.title)
    budget = tokens - count_tokens(title) - 1
    decided = rng.random() < (1.0 if tokens >= 160 else 0.35)
    decisions = facts.decisions(rng.choice((2, 3, 4)) if tokens >= 96 else 2) if decided else []
    _take(world, decisions)
    # Decisions may push the last sentences into one more paragraph, with its heading.
    budget -= _cost(decisions) + (5 if decisions else 0)
    if placed:
        _take(world, [placed[0]])
        budget -= _cost([placed[0]]) + 5
    sentences: list[str] = []
    while budget > 0:
        drawn = _draw(rng, facts, style, world)
        # A heading and a line break come with every paragraph; each sentence after the first costs no extra token.
        needed = sum(count_tokens(text) for text in drawn.texts) + (
            4 if len(sentences) % SENTENCES_PER_PARAGRAPH == 0 else 0
        )
        if needed > budget:
            break
        drawn.keep()
        sentences += drawn.texts
        budget -= needed
    rng.shuffle(sentences)
    for place, decision in zip(sorted(rng.randint(0, len(sentences)) for _ in decisions), decisions, strict=True):
        sentences.insert(place + decisions.index(decision), decision.text)
    if placed:
        fact, depth = placed
        sentences.insert(round(depth * len(sentences)), fact.text)
    return Document(_layout(rng, style, title, sentences), source, style.language, world)


@dataclass
class _Drawn:
    texts: list[str]
    facts: list[Fact]
    world: World
    chain: bool = False

    def keep(self) -> None:
        _take(self.world, self.facts)
        if self.chain:
            self.world.chains.setdefault(self.facts[0].kind, []).append(self.facts)


def _draw(rng: Random, facts: FactSource, style: Style, world: World) -> _Drawn:
    """The next sentences: a filler, one fact, or the facts of one chain."""
    kinds = facts.available()
    if rng.random() > FACT_SHARE or not kinds:
        return _Drawn([facts.filler(rng.choice(style.fillers))], [], world)
    kind = rng.choices(kinds, [KINDS[kind] for kind in kinds])[0]
    if kind in ("link", "call"):
        chain = facts.chain(kind, rng.choice((2, 3)))
        return _Drawn([fact.text for fact in chain], chain, world, chain=True)
    fact = getattr(facts, kind)()
    return _Drawn([fact.text], [fact], world)


def _take(world: World, facts: list[Fact]) -> None:
    for fact in facts:
        world.facts.setdefault(fact.kind, []).append(fact)


def _cost(facts: list[Fact]) -> int:
    return sum(count_tokens(fact.text) for fact in facts)


def _layout(rng: Random, style: Style, title: str, sentences: list[str]) -> str:
    gap = "" if style.language == "zh" else " "
    lines = [title]
    for start in range(0, len(sentences), SENTENCES_PER_PARAGRAPH):
        if start:
            lines.append(rng.choice(style.headings))
        lines.append(gap.join(sentences[start : start + SENTENCES_PER_PARAGRAPH]))
    return "\n".join(lines)
