"""The short benchmarks, at most 128 tokens: conversations (for MT-Bench) and four multiple-choice sets of four options.

| set | in the place of | right | wrong |
|---|---|---|---|
| reasoning | ARC | the end of the chain of people or calls, without the steps | other people or calls as its end |
| continuation | HellaSwag | the fact that follows in a text that is told again | other facts of the text |
| truthfulness | TruthfulQA | the list of facts asked for | the same with one fact about somebody else |
| knowledge | MMLU | an answer of three or more facts, of any family | the same facts, two of them exchanged |

How hard they are was chosen on pilot models (seed 100) and other items, by the mean over models: about 84, 45, 85 and
72 %. Options have the same number of facts and stand in a random order. Continuation is plain text as in pre-training
(`form` "text"), the others are conversations (`form` "chat").
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, count, pairwise
from random import Random
from typing import Any

from longalign.corpus import samples, tasks
from longalign.corpus.benchmarks.building import SOURCES, draw_document, draw_language, make_item, random_numbers
from longalign.corpus.documents import Document
from longalign.corpus.styles import STYLES
from longalign.corpus.tokenizer import count_tokens
from longalign.corpus.world import Fact, FactSource, World
from longalign.profiles import Evaluation

LONGEST = 128
DOCUMENT_TOKENS = (76, 100)
WRONG = 3
REASONING = {"chain": ("link", "deed", "note"), "calls": ("call",)}
"""Families of the reasoning set: the kind of their links, and the kinds whose keys could stand at their end as well."""

Drawn = tuple[Document, tasks.Item, list[str]]


def short(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """`short_per_task` conversations and as many items of each multiple-choice set."""
    yield from _conversations(evaluation.short_per_task)
    for task, draw in CHOICES.items():
        yield from (_choice(task, index, draw) for index in range(evaluation.short_per_task))


def _conversations(wanted: int) -> Iterator[dict[str, Any]]:
    """Conversations of two or three turns with different answers."""
    for index in count():
        if not wanted:
            return
        sample = samples.dialogue("multi-turn", 0, index, max_length=LONGEST)
        answers = [message["content"] for message in sample["messages"][1::2]]
        if len(set(answers)) == len(answers) >= 2:
            wanted -= 1
            yield {**sample, "task": "multi-turn", "family": sample["task"], "cell": 0}


def _choice(task: str, index: int, draw: Callable[[Random, str], Drawn | None]) -> dict[str, Any]:
    rng = random_numbers(f"choice-{task}", index)
    language = draw_language(rng)
    while True:
        drawn = draw(rng, language)
        if not drawn:
            continue
        document, asked, wrong = drawn
        right = rng.randrange(WRONG + 1)
        options = [*wrong[:right], asked.answer, *wrong[right:]]
        more = {"options": options, "right": right, "form": "text" if task == "continuation" else "chat"}
        item = make_item(task, index, document, [(asked.question, asked.answer)], task=task, asked=asked, **more)
        longer = max(count_tokens(option) for option in options) - count_tokens(asked.answer)
        if item["length"] + longer <= LONGEST:
            return item


def _document(rng: Random, language: str, suits: Callable[[World], Any]) -> Document:
    return draw_document(rng, language, rng.randint(*DOCUMENT_TOKENS), suits)


def _reasoning(rng: Random, language: str) -> Drawn | None:
    family = rng.choice([name for name in REASONING if language in tasks.FAMILIES[name].trained])
    kind = REASONING[family][0]
    document = _document(rng, language, lambda world: kind in world.chains)
    asked = tasks.ask(rng, document.world, family, language=language)
    (chain,) = (c for c in document.world.chains[kind] if _joined(c) == asked.answer)
    keys = {fact.key for kind in REASONING[family] for fact in document.world.of(kind)}
    others = sorted(keys - {chain[0].key, chain[-1].key})
    if len(others) < WRONG:
        return None
    wrong = [replace(chain[-1], key=key).text for key in rng.sample(others, WRONG)]
    return document, replace(asked, answer=chain[-1].text), wrong


def _continuation(rng: Random, language: str) -> Drawn | None:
    """A document as in `samples.recall_document`, told again from one of its facts on and cut after that."""
    style = STYLES[rng.choice(SOURCES[language])]
    source, facts, room = FactSource(rng, style), [], rng.randint(50, 62)
    while room > 0:
        facts.append(source.gloss() if "gloss" in source.available() and rng.random() < 0.3 else source.deed())
        room -= count_tokens(facts[-1].text)
    told, following = rng.choice(list(pairwise(facts)))
    others = [fact.text for fact in facts if fact.kind == following.kind and fact not in (told, following)]
    if len(others) < WRONG:
        return None
    asked = tasks.Item("recall", "continuation", f"{_joined(facts)}\nA: {told.text}", following.text, "")
    return Document("", style.source, language, World()), asked, rng.sample(others, WRONG)


def _truthfulness(rng: Random, language: str) -> Drawn | None:
    document = _document(rng, language, lambda world: "table" in tasks.possible(world, language))
    asked = tasks.ask(rng, document.world, "table", language=language)
    facts = _told(document.world, asked.answer)
    others = [fact for fact in document.world.of("deed") if fact not in facts]
    wrong = [_joined([*facts[:at], other, *facts[at + 1 :]]) for at in range(len(facts)) for other in others]
    return (document, asked, rng.sample(wrong, WRONG)) if len(wrong) >= WRONG else None


def _knowledge(rng: Random, language: str) -> Drawn | None:
    document = _document(rng, language, lambda world: tasks.possible(world, language))
    asked = tasks.ask(rng, document.world, rng.choice(tasks.possible(document.world, language)), language=language)
    facts = _told(document.world, asked.answer)
    wrong = []
    for first, second in combinations(range(len(facts)), 2):
        exchanged = list(facts)
        exchanged[first], exchanged[second] = facts[second], facts[first]
        wrong.append(_joined(exchanged))
    return (document, asked, rng.sample(wrong, WRONG)) if len(wrong) >= WRONG else None


CHOICES = {
    "reasoning": _reasoning, "continuation": _continuation, "truthfulness": _truthfulness, "knowledge": _knowledge,
}  # fmt: skip
"""The multiple-choice sets: what draws a document, a question and three wrong options, or None to try again."""


def _joined(facts: list[Fact]) -> str:
    return ("" if facts[0].language == "zh" else " ").join(fact.text for fact in facts)


def _told(world: World, answer: str) -> list[Fact]:
    """The facts of an answer, in its order."""
    facts = [fact for kind in world.facts.values() for fact in kind if fact.text in answer]
    return sorted(facts, key=lambda fact: answer.index(fact.text))
