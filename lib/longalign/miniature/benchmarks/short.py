"""The short benchmarks, at most 128 tokens: conversations (for MT-Bench) and four multiple-choice sets of four options.

| set | in the place of | right | wrong |
|---|---|---|---|
| reasoning | ARC | the end of the chain of people or calls, without the steps | other people or calls as its end |
| continuation | HellaSwag | the rest of a list that has begun, as text | one of its facts is not asked for |
| truthfulness | TruthfulQA | the list of four facts or more that are asked for | one of them is about somebody else |
| knowledge | MMLU | four facts or more, asked in words that training never uses | one of them is replaced |

Among the answers of a conversation is one of three facts or more. How hard all this is was chosen on pilot models
(seeds 100 and 101) and other items, by the mean over all arms: about 80, 82, 80 and 70 % of the choices are right, and
80 % of the turns. With two facts it was more than 95 %, and arms could hardly differ.

Each question decides between its options: a wrong one holds a fact that was not asked for, or another end. Options have
the same number of facts and stand in a random order. Continuation is plain text as in pre-training (`form` "text"), the
others are conversations (`form` "chat").
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

from longalign.miniature import samples, tasks
from longalign.miniature.benchmarks.building import draw_document, draw_language, make_item, random_numbers
from longalign.miniature.documents import Document
from longalign.miniature.settings import Evaluation
from longalign.miniature.token_length import count_tokens, draws
from longalign.miniature.world import Fact, World

LONGEST = 128
DOCUMENT_TOKENS = (76, 100)
WRONG = 3
FEWEST_FACTS, FEWEST_IN_CONVERSATIONS = 4, 3
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
        longest = max(len(_sentences(answer)) for answer in answers)
        if len(set(answers)) == len(answers) >= 2 and longest >= FEWEST_IN_CONVERSATIONS:
            wanted -= 1
            yield {**sample, "task": "multi-turn", "family": sample["task"], "cell": 0}


def _choice(task: str, index: int, draw: Callable[[Random, str], Drawn | None]) -> dict[str, Any]:
    rng = random_numbers(f"choice-{task}", index)
    language = draw_language(rng)
    for _ in draws(LONGEST):
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
    """A document of pre-training (`samples.base_document`) that ends within an answer, after its first fact."""
    document = _document(rng, language, lambda world: _lists(world, language))
    asked = tasks.ask(rng, document.world, rng.choice(_lists(document.world, language)), language=language)
    facts = _told(document.world, asked.answer)
    wrong = [_joined(other[1:]) for other in _replaced(document.world, facts, kept=1)]
    text = f"{document.text}\nQ: {asked.question}\nA: {facts[0].text}"
    asked = replace(asked, question=text, answer=_joined(facts[1:]))
    return _choose(rng, replace(document, text=""), asked, wrong)


def _truthfulness(rng: Random, language: str) -> Drawn | None:
    document = _document(rng, language, lambda world: "table" in tasks.possible(world, language))
    asked = tasks.ask(rng, document.world, "table", language=language)
    told = _told(document.world, asked.answer)
    wrong = _replaced(document.world, told) if len(told) >= FEWEST_FACTS else []
    return _choose(rng, document, asked, [_joined(other) for other in wrong])


def _knowledge(rng: Random, language: str) -> Drawn | None:
    document = _document(rng, language, lambda world: tasks.possible(world, language))
    family = rng.choice(tasks.possible(document.world, language))
    asked = tasks.ask(rng, document.world, family, language=language, heldout=True)
    told = _told(document.world, asked.answer)
    wrong = _replaced(document.world, told, kept=1) if len(told) >= FEWEST_FACTS else []
    return _choose(rng, document, asked, [_joined(other) for other in wrong])


CHOICES = {
    "reasoning": _reasoning, "continuation": _continuation, "truthfulness": _truthfulness, "knowledge": _knowledge,
}  # fmt: skip
"""The multiple-choice sets: what draws a document, a question and three wrong options, or None to try again."""


def _lists(world: World, language: str) -> list[str]:
    """The families of which an answer lists facts that the question names."""
    return [family for family in ("table", "translation") if family in tasks.possible(world, language)]


def _choose(rng: Random, document: Document, asked: tasks.Item, wrong: list[str]) -> Drawn | None:
    return (document, asked, rng.sample(wrong, WRONG)) if len(wrong) >= WRONG else None


def _replaced(world: World, facts: list[Fact], *, kept: int = 0) -> list[list[Fact]]:
    """Every way to put an untold fact of the same kind in the place of one, the first `kept` excepted."""
    others = [fact for fact in world.of(facts[0].kind) if fact not in facts]
    return [[*facts[:at], other, *facts[at + 1 :]] for at in range(kept, len(facts)) for other in others]


def _joined(facts: list[Fact]) -> str:
    """The facts' sentences as they stand in an answer."""
    if not facts:
        return ""
    return ("" if facts[0].language == "zh" else " ").join(fact.text for fact in facts)


def _told(world: World, answer: str) -> list[Fact]:
    """The facts of an answer, in its order."""
    facts = {fact.text: fact for kind in world.facts.values() for fact in kind}
    return [facts[sentence] for sentence in _sentences(answer)]


def _sentences(answer: str) -> list[str]:
    return [sentence.strip() for sentence in re.findall(r"[^.。]+[.。]", answer)]
