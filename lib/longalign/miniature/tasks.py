"""Task families: a question on a document's world and its exact answer, in the paper's four types plus coding and
translation.

Answers repeat whole sentences of the document, so that an answer of several facts is a sequence of look-ups, and target
lengths vary from 4 to about 60 tokens. Every family has question templates that training never sees (`heldout`).
"""

from dataclasses import dataclass
from random import Random

from longalign.miniature.world import Fact, World


@dataclass(frozen=True)
class Family:
    """One task family: its type in the paper's terms and its question templates (`{keys}` is filled)."""

    name: str
    type: str
    trained: dict[str, tuple[str, ...]]
    heldout: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Item:
    """A question with its exact answer."""

    family: str
    type: str
    question: str
    answer: str
    template: str


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "lookup",
            "information extraction",
            {
                "en": ("What does the text say of {keys}?", "Quote what is stated about {keys}.", "What about {keys}?"),
                "zh": ("文中怎样说{keys}？", "请找出{keys}的事。"),
            },
            {"en": ("Copy the sentence on {keys}.",), "zh": ("说说{keys}。",)},
        ),
        Family(
            "table",
            "information extraction",
            {
                "en": ("List the facts on {keys}.", "Make a table for {keys}.", "What is stated about {keys}?"),
                "zh": ("请列出{keys}的事。", "请列表：{keys}。"),
            },
            {"en": ("Tell me of {keys}.",), "zh": ("请说明{keys}。",)},
        ),
        Family(
            "note",
            "general",
            {"en": ("What is in the note of {keys}?", "Repeat the note on {keys}.", "Give the full note on {keys}.")},
            {"en": ("Which things belong to {keys}?",)},
        ),
        Family(
            "translation",
            "general",
            {
                "en": (
                    "Translate with the word list: {keys}.",
                    "What do these words mean: {keys}?",
                    "Look up these words: {keys}.",
                )
            },
            {"en": ("Explain the words {keys}.",)},
        ),
        Family(
            "chain",
            "reasoning",
            {
                "en": (
                    "Follow the line from {keys}.",
                    "Who comes after {keys}, up to the leader?",
                    "Trace the people from {keys}.",
                ),
                "zh": ("请从{keys}找到领头的人。", "从{keys}开始，后面是谁？"),
            },
            {"en": ("Starting at {keys}, who leads?",), "zh": ("谁在{keys}的后面？",)},
        ),
        Family(
            "calls",
            "coding",
            {"en": ("Trace the calls from {keys}.", "What happens when {keys} runs?", "Follow the calls of {keys}.")},
            {"en": ("Run {keys} by hand.",)},
        ),
        Family(
            "summary",
            "summary",
            {
                "en": ("Sum up the decisions.", "What was decided?", "List all decisions in order."),
                "zh": ("请总结决定。", "决定了什么？"),
            },
            {"en": ("Give me the outcome.",), "zh": ("结果是什么？",)},
        ),
    )
}


def all_texts() -> list[str]:
    """Every question template and joining word, for the vocabulary."""
    templates = [
        text
        for family in FAMILIES.values()
        for split in (family.trained, family.heldout)
        for texts in split.values()
        for text in texts
    ]
    return [*templates, "leads zero Q: A:", "、领头。？："]


def possible(world: World, language: str) -> list[str]:
    """Families that can be asked of this document."""
    found = {
        "lookup": world.of("deed"),
        "table": world.of("deed")[1:],
        "note": world.of("note"),
        "translation": world.of("gloss"),
        "chain": world.chains.get("link"),
        "calls": world.chains.get("call"),
        "summary": world.of("decision"),
    }
    return [name for name, facts in found.items() if facts and language in FAMILIES[name].trained]


def ask(rng: Random, world: World, family: str, *, language: str, heldout: bool = False) -> Item:
    """Draw one question of a family on this document, with its exact answer."""
    facts, keys = _select(rng, world, family)
    spec = FAMILIES[family]
    template = rng.choice((spec.heldout if heldout else spec.trained)[language])
    comma, gap = ("、", "") if language == "zh" else (", ", " ")
    answer = gap.join(fact.text for fact in facts)
    return Item(family, spec.type, template.format(keys=comma.join(keys)), answer, template)


def _select(rng: Random, world: World, family: str) -> tuple[list[Fact], list[str]]:
    """The facts of the answer in order, and the keys that the question names."""
    if family == "summary":
        return world.of("decision"), []
    if family in ("chain", "calls"):
        chain = rng.choice(world.chains["link" if family == "chain" else "call"])
        return chain, [chain[0].key]
    kind = {"lookup": "deed", "table": "deed", "note": "note", "translation": "gloss"}[family]
    pool = world.of(kind)
    most = {"lookup": 1, "note": 1, "table": 6, "translation": 6}[family]
    least = 2 if family == "table" else 1
    count = rng.randint(min(least, len(pool)), min(most, len(pool)))
    facts = rng.sample(pool, count)
    return facts, [fact.key for fact in facts]
