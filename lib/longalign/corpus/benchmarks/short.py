"""The short benchmarks, at most 128 tokens: conversations (for MT-Bench) and four multiple-choice sets of four options.

| set | in the place of | right | wrong |
|---|---|---|---|
| reasoning | ARC | the chain of people, or of calls | the same chain through other people or calls of the document |
| continuation | HellaSwag | the end of a fact that is told again | the ends of other facts |
| truthfulness | TruthfulQA | the fact asked for | the same with one word of another fact |
| knowledge | MMLU | the answer to a question of any family | answers to other questions on the document |

Options differ from each other, have the same number of facts where the document allows it, and stand in a random order.
Continuation is plain text as in pre-training (`form` "text"), the others are conversations (`form` "chat").
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, permutations
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
DOCUMENT_TOKENS = (56, 92)
WRONG = 3
LONGEST_CHAIN = 3
REASONING = {"chain": ("link", "deed", "note"), "calls": ("call",)}
"""Families of the reasoning set: the kind of their links, and the kinds whose keys could stand in them as well."""

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


def _reasoning(rng: Random, language: str) -> Drawn:
    family = rng.choice([name for name in REASONING if language in tasks.FAMILIES[name].trained])
    kind, needed = REASONING[family][0], WRONG + LONGEST_CHAIN

    def keys(world: World) -> list[str]:
        return [fact.key for kind in REASONING[family] for fact in world.of(kind)]

    document = _document(rng, language, lambda world: kind in world.chains and len(keys(world)) >= needed)
    asked = tasks.ask(rng, document.world, family, language=language)
    (chain,) = (c for c in document.world.chains[kind] if _joined(c) == asked.answer)
    others = sorted(set(keys(document.world)) - {fact.key for fact in chain})
    return document, asked, rng.sample([_detour(chain, d) for d in permutations(others, len(chain) - 1)], WRONG)


def _detour(chain: list[Fact], keys: tuple[str, ...]) -> str:
    """The chain as it would be if other `keys` stood in it, from the second on: each link leads to the next."""
    values = [
        link.value.removesuffix(following.key) + key
        for link, following, key in zip(chain[:-1], chain[1:], keys, strict=True)
    ]
    told = zip(chain, [chain[0].key, *keys], [*values, chain[-1].value], strict=True)
    return _joined([replace(link, key=key, value=value) for link, key, value in told])


def _continuation(rng: Random, language: str) -> Drawn | None:
    """A document as in `samples.recall_document`, cut in the second telling of a fact, after its key."""
    style = STYLES[rng.choice(SOURCES[language])]
    source, facts, room = FactSource(rng, style), [], rng.randint(40, 54)
    while room > 0:
        facts.append(source.gloss() if "gloss" in source.available() and rng.random() < 0.3 else source.deed())
        room -= count_tokens(facts[-1].text)
    again = facts if rng.random() < samples.SAME_ORDER_SHARE else rng.sample(facts, len(facts))
    told = rng.randrange(len(facts))
    ends = [_end(fact) for fact in facts if fact.kind == again[told].kind and fact is not again[told]]
    if len(ends) < WRONG:
        return None
    gap = "" if language == "zh" else " "
    before = gap.join([*(fact.text for fact in again[:told]), again[told].key])
    text = f"{_joined(facts)}\nA: {before}"
    asked = tasks.Item("recall", "continuation", text, _end(again[told]), "")
    return Document("", style.source, language, World()), asked, rng.sample(ends, WRONG)


def _truthfulness(rng: Random, language: str) -> Drawn | None:
    document = _document(rng, language, lambda world: world.of("deed")[2:])
    asked = tasks.ask(rng, document.world, "lookup", language=language)
    (true,) = (fact for fact in document.world.of("deed") if fact.text == asked.answer)
    own, gap = _words(true), "" if language == "zh" else " "
    false = [
        gap.join([*own[:place], _words(other)[place], *own[place + 1 :]])
        for other in document.world.of("deed") if other is not true for place in range(len(own))
    ]  # fmt: skip
    return document, asked, [replace(true, value=value).text for value in rng.sample(false, WRONG)]


def _knowledge(rng: Random, language: str) -> Drawn | None:
    document = _document(rng, language, lambda world: tasks.possible(world, language))
    families = tasks.possible(document.world, language)
    asked, *others = (tasks.ask(rng, document.world, rng.choice(families), language=language) for _ in range(40))
    # An answer in another order would be right as well: options are told apart by their facts.
    different = {_facts(other.answer): other for other in others if _facts(other.answer) != _facts(asked.answer)}
    size = len(_facts(asked.answer))
    nearest = sorted(different, key=lambda facts: (abs(len(facts) - size), different[facts].family != asked.family))
    return (document, asked, [different[facts].answer for facts in nearest[:WRONG]]) if nearest[WRONG - 1 :] else None


CHOICES = {
    "reasoning": _reasoning, "continuation": _continuation, "truthfulness": _truthfulness, "knowledge": _knowledge,
}  # fmt: skip
"""The multiple-choice sets: what draws a document, a question and three wrong options, or None to try again."""


def _joined(facts: list[Fact] | tuple[Fact, ...]) -> str:
    return ("" if facts[0].language == "zh" else " ").join(fact.text for fact in facts)


def _end(fact: Fact) -> str:
    """What follows the key in a fact's sentence."""
    return fact.text[len(fact.key) :].removeprefix(" ")


def _words(fact: Fact) -> list[str]:
    """Verb, adjective and noun of a deed; each is one character in Chinese."""
    return list(fact.value) if fact.language == "zh" else fact.value.split()


def _facts(answer: str) -> frozenset[str]:
    return frozenset(sentence.strip() for sentence in re.findall(r"[^.。]+[.。]", answer))
