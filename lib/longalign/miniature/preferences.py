"""Pairs of a right and a wrong answer to one question on a long document, for preference training.

A wrong answer has the form of the right one: one of its facts has the value of another fact of the document, of the
same kind and the same number of tokens, so no judge is needed. Look-ups, tables and translations can be told apart with
the document alone. Answers with several facts that hang together (chains, calls, summaries) often betray a wrong one by
themselves: a chain breaks, or a value comes twice.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from longalign.miniature import tasks
from longalign.miniature.benchmarks.building import draw_document, draw_language, fit, make_item, random_numbers
from longalign.miniature.settings import Corpus
from longalign.miniature.token_length import count_tokens, draws
from longalign.miniature.world import Fact, World


def pairs(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """As many pairs as the corpus has long instructions, of their lengths, kinds and question templates.

    Rows are conversations as TRL takes them: `prompt`, `chosen` and `rejected` are lists of messages. No document is
    one of a training suite or a benchmark.

    >>> row = next(pairs(Corpus(long=1, min_long=128, max_length=256)))
    >>> list(row), row["chosen"] == row["rejected"], row["chosen"][0]["role"]
    (['id', 'length', 'prompt', 'chosen', 'rejected'], False, 'assistant')
    """
    for index in range(corpus.long):
        yield _pair(f"preference-{corpus.seed}", index, corpus.min_long, corpus.max_length)


def _pair(kind: str, index: int, shortest: int, longest: int) -> dict[str, Any]:
    rng = random_numbers(kind, index)
    language, aim = draw_language(rng), rng.randint(shortest, longest)

    def make(tokens: int) -> dict[str, Any]:
        for _ in draws(tokens):
            document = draw_document(rng, language, tokens, lambda world: tasks.possible(world, language))
            asked = tasks.ask(rng, document.world, rng.choice(tasks.possible(document.world, language)),
                              language=language)  # fmt: skip
            if wrong := _wrong(rng, document.world, asked.answer):
                return make_item(kind, index, document, [(asked.question, asked.answer)], task=kind, wrong=wrong)

    item = fit(aim, make)
    question, right = item["messages"]
    return {"id": item["id"], "length": item["length"], "prompt": [question], "chosen": [right],
            "rejected": [right | {"content": item["wrong"]}]}  # fmt: skip


def _wrong(rng: Random, world: World, answer: str) -> str:
    """The answer with another value in one of its facts; "" where the document has no other of this length."""
    told = [fact for kind in world.facts.values() for fact in kind if fact.text in answer]
    for fact in rng.sample(told, len(told)):
        if others := [other for other in world.of(fact.kind) if _exchangeable(fact, other)]:
            return answer.replace(fact.text, replace(fact, value=rng.choice(others).value).text, 1)
    return ""


def _exchangeable(fact: Fact, other: Fact) -> bool:
    return other.value != fact.value and count_tokens(other.value) == count_tokens(fact.value)
