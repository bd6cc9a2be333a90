"""The benchmarks of long documents: needle, LongBench and LongBench-Chat in miniature.

Questions use trained templates; the lengths scale with the longest of the evaluation's (1,024 stands for 64k).
"""

from collections.abc import Iterator
from copy import copy
from random import Random
from typing import Any

from longalign.miniature import tasks
from longalign.miniature.benchmarks.building import (
    SOURCES,
    can_ask,
    draw_document,
    draw_language,
    evenly,
    fit,
    make_item,
    random_numbers,
)
from longalign.miniature.documents import Document, write_document
from longalign.miniature.settings import SHORTEST, Evaluation
from longalign.miniature.styles import STYLES
from longalign.miniature.world import FactSource, World

SINGLE_FAMILIES = ("lookup", "table", "note")
CATEGORIES = {
    "reasoning": ("chain",),
    "coding": ("calls",),
    "summarization": ("summary",),
    "translation": ("translation",),
    "document-qa": SINGLE_FAMILIES,
}
"""LongBench-Chat's categories and the task families that stand for them."""
CHINESE_CATEGORIES = ("summarization", "reasoning", "document-qa")


def needle(evaluation: Evaluation, *, window: int) -> Iterator[dict[str, Any]]:
    """A person's fact at each depth of English documents of each length; the other facts are distractors.

    Depth is the share of the document's other sentences that stand before the fact, from 0 to 1 in even steps.
    `id` is needle-LENGTH-DEPTH'S INDEX-INDEX. The paper's Figure 4: 1k to 60k tokens, ten depths.
    """
    for length in (length for length in evaluation.needle_lengths if length <= window):
        for place in range(evaluation.needle_depths):
            for index in range(evaluation.needle_per_cell):
                depth = place / max(1, evaluation.needle_depths - 1)
                yield needle_item(f"needle-{length}-{place}", index, length, depth)


def needle_item(kind: str, index: int, length: int, depth: float, *, pairs: bool = False) -> dict[str, Any]:
    """One needle; with `pairs` keys are pairs of words, as long documents need (`longalign.miniature.pools`)."""
    rng = random_numbers(kind, index)
    source = rng.choice(SOURCES["en"])

    def make(tokens: int) -> dict[str, Any]:
        facts = FactSource(rng, STYLES[source], pairs_for=length if pairs else 0)
        fact = facts.deed()
        document = write_document(rng, source, tokens, facts=facts, placed=(fact, depth))
        asked = tasks.ask(rng, World({"deed": [fact]}), "lookup", language="en")
        turns = [(asked.question, asked.answer)]
        return make_item(kind, index, document, turns, task="needle", asked=asked, cell=length, depth=depth)

    return fit(length, make)


def longbench(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Single-document questions, questions over two to four documents, summaries: `longbench_per_task` of each.

    Lengths are even from an eighth of the longest to the longest.
    """
    longest = max(evaluation.lengths)
    for task in ("single-document-qa", "multi-document-qa", "summarization"):
        for index, aim in enumerate(evenly(max(SHORTEST, longest / 8), longest, evaluation.longbench_per_task)):
            rng = random_numbers(task, index)
            language = draw_language(rng)
            if task == "multi-document-qa":
                yield _multi_document(rng, task, index, language, aim)
                continue
            families = SINGLE_FAMILIES if task == "single-document-qa" else ("summary",)
            families = [family for family in families if language in tasks.FAMILIES[family].trained]
            yield _single_document(rng, task, index, language, families[index % len(families)], aim, table=3)


def _single_document(
    rng: Random, kind: str, index: int, language: str, family: str, aim: int, *, table: int | None = None
) -> dict[str, Any]:
    """A question of a family on one document; a table of at most `table` facts."""

    def make(tokens: int) -> dict[str, Any]:
        document = draw_document(rng, language, tokens, can_ask(family, language))
        world = document.world
        if family == "table" and table:
            world = World({"deed": rng.sample(world.of("deed"), min(table, len(world.of("deed"))))})
        asked = tasks.ask(rng, world, family, language=language)
        return make_item(kind, index, document, [(asked.question, asked.answer)], task=kind, asked=asked)

    return fit(aim, make)


def _multi_document(rng: Random, kind: str, index: int, language: str, aim: int) -> dict[str, Any]:
    """Documents of one language, blank lines between them, and a table of two or three facts of different documents."""
    count = rng.randint(2, max(2, min(4, aim // 64)))

    def make(tokens: int) -> dict[str, Any]:
        stated, parts = [], []
        for facts in _shares(rng, language, count):
            stated.append(facts.deed())
            options = {"facts": facts, "placed": (stated[-1], rng.random())}
            parts.append(draw_document(rng, language, tokens // count, lambda world: True, **options))
        document = Document("\n\n".join(part.text for part in parts), parts[0].source, language, World())
        asked = tasks.ask(rng, World({"deed": rng.sample(stated, min(3, count))}), "table", language=language)
        turns = [(asked.question, asked.answer)]
        return make_item(kind, index, document, turns, task=kind, asked=asked, documents=count)

    return fit(aim, make)


def _shares(rng: Random, language: str, count: int) -> list[FactSource]:
    """Sources of facts for `count` documents, no word in two of them; of their style, the language alone counts."""
    words, shares = FactSource(rng, STYLES[SOURCES[language][0]]), []
    for first in range(count):
        shares.append(copy(words))
        for name, value in vars(words).items():
            if isinstance(value, list):
                setattr(shares[-1], name, value[first::count])
    return shares


def longbench_chat(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """`chat_questions` long questions, a fifth in each of `CATEGORIES` and a fifth Chinese; arXiv 2401.18058, 4.1.

    Lengths are even from 160 to 1,600 of 1,024 (10k to 100k of 64k): more than the window in a third of them.
    """
    total, longest = evaluation.chat_questions, max(evaluation.lengths)
    aims = evenly(max(SHORTEST, longest * 160 / 1024), longest * 1600 / 1024, total)
    chinese = total // 5
    for number, (category, families) in enumerate(CATEGORIES.items()):
        # Every fifth length, in turn: no category is longer than the others.
        places = [place for place in range(total) if (place + place // 5) % 5 == number]
        share = 0
        if category in CHINESE_CATEGORIES:
            share = len(range(CHINESE_CATEGORIES.index(category), chinese, len(CHINESE_CATEGORIES)))
        spoken_chinese = {round((i + 0.5) * len(places) / share - 0.5) for i in range(share)}
        for index, place in enumerate(places):
            rng = random_numbers(f"chat-{category}", index)
            language = "zh" if index in spoken_chinese else "en"
            askable = [family for family in families if language in tasks.FAMILIES[family].trained]
            yield _single_document(
                rng, f"chat-{category}", index, language, askable[index % len(askable)], aims[place]
            )  # fmt: skip
