"""Samples: long instructions, short multi-turn instructions and the documents of pre-training, each from (seed, index)
alone.

Sample `i` of a kind is the same whatever else is drawn, so suites are nested (LongAlign-5k is the first half of -10k)
and a test set never meets a training sample: the kind's name is part of the seed.
"""

from random import Random
from typing import Any

from longalign.miniature import tasks
from longalign.miniature.documents import Document, write_document
from longalign.miniature.styles import CHINESE, ENGLISH, STYLES
from longalign.miniature.token_length import count_chat, count_tokens, draws
from longalign.miniature.world import Fact, FactSource

CHINESE_SHARE = 0.1
ANSWER_RESERVE = 80
SAME_ORDER_SHARE = 0.6
KNOWN = 50
"""Facts that memory documents teach."""
ALPACA_SOURCES = ("arxiv", "books3")
ALPACA_FAMILIES = ("lookup", "note")


def _source(rng: Random, sources: tuple[str, ...] | None = None) -> str:
    if sources:
        return rng.choice(sources)
    return rng.choice(CHINESE if rng.random() < CHINESE_SHARE else ENGLISH)


def _askable(
    rng: Random, tokens: int, families: tuple[str, ...], sources: tuple[str, ...] | None = None, pairs: bool = False
) -> tuple[Document, list[str]]:
    """A document on which at least one of the families can be asked (source and document drawn anew until there is
    one)."""
    for _ in draws(tokens):
        document = write_document(rng, _source(rng, sources), tokens, pairs=pairs)
        found = [name for name in tasks.possible(document.world, document.language) if name in families]
        if found:
            return document, found


def _draw_family(rng: Random, families: list[str]) -> str:
    """One of the task types first, then a family of it, so that no type is rare."""
    chosen = rng.choice(sorted({tasks.FAMILIES[name].type for name in families}))
    return rng.choice([name for name in families if tasks.FAMILIES[name].type == chosen])


def _sample(kind: str, index: int, document: Document, items: list[tasks.Item]) -> dict[str, Any]:
    messages = []
    for turn, item in enumerate(items):
        question = f"{document.text}\n\n{item.question}" if turn == 0 else item.question
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": item.answer}]
    return {
        "id": f"{kind}-{index}",
        "messages": messages,
        "source": document.source,
        "language": document.language,
        "task": items[-1].family,
        "type": items[-1].type,
        "template": items[-1].template,
        "length": count_chat(messages),
    }


def instruction(
    kind: str,
    seed: int,
    index: int,
    *,
    min_length: int,
    max_length: int,
    heldout: bool = False,
    sources: tuple[str, ...] | None = None,
    families: tuple[str, ...] = tuple(tasks.FAMILIES),
    pairs: bool = False,
) -> dict[str, Any]:
    """One single-turn instruction [document + question, answer]; its aim is drawn evenly from `min_length` to
    `max_length` tokens.

    `length` counts every token of the chat form. The aim is reached from below, since the document stops at the last
    sentence that fits: up to some 30 tokens are missing, so that `length` may be below `min_length`. With `pairs`
    keys are pairs of words, so that facts keep their share of a document of any length (`longalign.miniature.pools`).
    """
    rng = Random(f"{kind}:{seed}:{index}")
    length = rng.randint(min_length, max_length)
    reserve = min(ANSWER_RESERVE, length // 2)
    for _ in draws(length):
        document, found = _askable(rng, length - reserve, families, sources, pairs)
        items = [tasks.ask(rng, document.world, _draw_family(rng, found), language=document.language, heldout=heldout)]
        sample = _sample(kind, index, document, items)
        # The answer's length is known only now: draw anew with more or less kept back for it, until the aim is met.
        if sample["length"] <= length and (reserve <= 24 or length - sample["length"] < 24):
            return sample
        reserve = max(24, reserve - max(8, length - sample["length"])) if sample["length"] <= length else reserve + 24


def dialogue(kind: str, seed: int, index: int, *, max_length: int) -> dict[str, Any]:
    """One short instruction of one to three turns, at most `max_length` tokens: a short document and questions on
    it."""
    rng = Random(f"{kind}:{seed}:{index}")
    for _ in draws(max_length):
        document, found = _askable(rng, rng.randint(24, max(24, max_length // 2)), tuple(tasks.FAMILIES))
        turns = rng.choice((1, 1, 2, 3))
        items = [
            tasks.ask(rng, document.world, _draw_family(rng, found), language=document.language) for _ in range(turns)
        ]
        while items:
            sample = _sample(kind, index, document, items)
            if sample["length"] <= max_length:
                return sample
            items.pop()


def base_document(kind: str, seed: int, index: int, *, length: int, pairs: bool = False) -> dict[str, Any]:
    """A document of pre-training, at most `length` tokens (at least 64): a text, then questions on it with their
    answers.

    Returns `text` and `answers`, the character spans of the answers: what a model can predict from the text before.
    `pairs` as in `instruction`.
    """
    rng = Random(f"{kind}:{seed}:{index}")
    for _ in draws(length):
        text_length = int(length * rng.uniform(0.4, 0.65))
        document, found = _askable(rng, text_length, tuple(tasks.FAMILIES), pairs=pairs)
        text, answers = document.text, []
        tokens = count_tokens(text)
        while True:
            item = tasks.ask(rng, document.world, rng.choice(found), language=document.language)
            question = f"\nQ: {item.question}\nA: "
            tokens += count_tokens(question) + count_tokens(item.answer)
            if tokens > length:
                break
            start = len(text) + len(question)
            text += question + item.answer
            answers.append((start, start + len(item.answer)))
        if answers:
            return {"text": text, "answers": answers}


def recall_document(
    kind: str, seed: int, index: int, *, length: int, pairs: bool = False, same_order: float = SAME_ORDER_SHARE
) -> dict[str, Any]:
    """A document of pre-training, at most `length` tokens: short facts, then the same facts again, in a share
    `same_order` of the documents in the same order.

    The densest lesson in looking things up: in the same order every token can be foreseen from where the one before
    stood. `text`, `answers` and `pairs` as in `base_document`.
    """
    rng = Random(f"{kind}:{seed}:{index}")
    style = STYLES[_source(rng)]
    source, facts = FactSource(rng, style, pairs_for=length // 2 if pairs else 0), []
    tokens = 3
    while kinds := [name for name in source.available() if name in ("deed", "gloss")]:
        fact = getattr(source, rng.choice(kinds))()
        tokens += 2 * count_tokens(fact.text)
        if tokens > length:
            break
        facts.append(fact)
    gap = "" if style.language == "zh" else " "
    text = gap.join(fact.text for fact in facts) + "\nA: "
    again = facts if rng.random() < same_order else rng.sample(facts, len(facts))
    answer = gap.join(fact.text for fact in again)
    return {"text": text + answer, "answers": [(len(text), len(text) + len(answer))]}


def known_facts() -> list[Fact]:
    """The facts that are to be learnt by heart, always the same: keys of two names, which no other short text has.

    >>> len({fact.key for fact in known_facts()}) == len(known_facts()) == KNOWN
    True
    """
    source = FactSource(Random("known facts"), STYLES[ENGLISH[0]], pairs_for=16 * KNOWN)
    return [source.deed() for _ in range(KNOWN)]


def memory_document(kind: str, seed: int, index: int, *, length: int) -> dict[str, Any]:
    """A document of continual training, at most `length` tokens: questions on known facts and their answers, without a
    text that they could be looked up in. `text` and `answers` as in `base_document`."""
    rng = Random(f"{kind}-memory:{seed}:{index}")
    text, answers, tokens = "", [], 0
    for fact in rng.sample(known := known_facts(), len(known)):
        question = f"Q: {rng.choice(tasks.FAMILIES['lookup'].trained['en']).format(keys=fact.key)}\nA: "
        tokens += count_tokens(question) + count_tokens(fact.text)
        if tokens > length:
            break
        text += ("\n" if text else "") + question
        answers.append((len(text), len(text) + len(fact.text)))
        text += fact.text
    return {"text": text, "answers": answers}
