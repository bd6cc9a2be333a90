"""Items become samples: five questions, one drawn, answered, checked; what fails is counted by its reason.

Self-Instruct as in arXiv 2401.18058, 3.2: [user: document + question, assistant: answer]. An answer that fails its
checks costs another, to the next of the questions as they were drawn, up to ATTEMPTS.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from longalign.clients import concurrency
from longalign.clients.client import Asker
from longalign.clients.errors import EndpointError, NoReply
from longalign.common import provenance
from longalign.data import chat
from longalign.data.jsonl import DataError, check_messages, read_lines
from longalign.data.tokenizers import ONE_AT_A_TIME
from longalign.self_instruct import checks
from longalign.self_instruct.draw import Item
from longalign.self_instruct.teachers import Teacher

ATTEMPTS = 3
SAME = "sample: the same as another"


@dataclass(frozen=True)
class Bounds:
    """What a sample must keep to: `max_length` tokens of `tokenizer` in all, answers of at most `words` words."""

    tokenizer: Any
    max_length: int
    words: int


@dataclass(frozen=True)
class Outcome:
    """What became of an item: its `sample`, or the faults that its answers had, or the server's `error`."""

    item: Item
    sample: dict[str, Any] | None = None
    faults: tuple[str, ...] = ()
    error: str = ""
    questions: tuple[str, ...] = field(default=())


def build(
    items: Sequence[Item], teacher: Teacher, bounds: Bounds, *, asker: Asker | None = None, at_once: int = 1
) -> list[Outcome]:
    """The outcome of every item, in their order. Of samples that are the same letter by letter the first stays."""
    found = concurrency.each(
        lambda item: make(item, teacher, bounds), items, asker=asker, at_once=at_once, label="built"
    )
    outcomes = [Outcome(item, error=str(said)) if isinstance(said, EndpointError) else said
                for item, said in zip(items, found, strict=True)]  # fmt: skip
    return list(_each_once(outcomes))


def _each_once(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """A document that is taken often may get the same question twice, and a sample would count twice."""
    seen = set()
    for outcome in outcomes:
        said = outcome.sample and tuple(message["content"] for message in outcome.sample["messages"])
        yield replace(outcome, sample=None, faults=(*outcome.faults, SAME)) if said and said in seen else outcome
        seen.add(said)


def make(item: Item, teacher: Teacher, bounds: Bounds) -> Outcome:
    """One item: the questions that may be asked, in the order that the item's seed draws, until an answer may stay."""
    try:
        proposed = teacher.propose(item)
    except NoReply as error:
        return Outcome(item, faults=(f"question: {error.reason}",))
    questions = asked_in_turn(item, proposed)
    fault = checks.question_problem(proposed[0], item) if proposed and not questions else None
    faults = [] if questions else [f"question: {fault or 'none in the reply'}"]
    for question in questions:
        try:
            reply = teacher.answer(item, question)
        except NoReply as error:
            faults.append(f"answer: {error.reason}")
            continue
        fault = checks.problem(reply.text, question=question, item=item, finish=reply.finish, words=bounds.words)
        found = fault or _sample(item, question, reply.text, teacher.name, bounds)
        if isinstance(found, dict):
            return Outcome(item, found, tuple(faults), questions=tuple(proposed))
        faults.append(f"answer: {found}")
    return Outcome(item, None, tuple(faults), questions=tuple(proposed))


def asked_in_turn(item: Item, proposed: Sequence[str]) -> list[str]:
    """Of the proposed questions those that pass their checks, in the item's own order, at most ATTEMPTS.

    Items of the same text and task, to which a teacher proposes the same, begin each with another one.
    """
    good = [question for question in proposed if checks.question_problem(question, item) is None]
    order = Random(item.seed if item.first is None else item.first).sample(good, len(good))
    begin = item.again % max(1, len(order))
    return [*order[begin:], *order[:begin]][:ATTEMPTS]


def write(path: Path, outcomes: Iterable[Outcome]) -> int:
    """The samples as JSONL in LongAlign-10k's schema, read back and checked as training does; returns how many."""
    samples = [outcome.sample for outcome in outcomes if outcome.sample is not None]
    with provenance.atomic(path) as file:
        file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    return sum(1 for line in read_lines(path) if check_messages(line.row()["messages"]))


def faults(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How often each fault was met, over all answers and questions, most frequent first.

    >>> faults([Outcome(None, faults=("answer: empty", "answer: refusal")), Outcome(None, faults=("answer: empty",))])
    {'answer: empty': 2, 'answer: refusal': 1}
    """
    return dict(Counter(fault for outcome in outcomes for fault in outcome.faults).most_common())


def _sample(item: Item, question: str, answer: str, teacher: str, bounds: Bounds) -> dict[str, Any] | str:
    """The sample, or its fault: it is too long, or cannot become tokens."""
    messages = [
        {"role": "user", "content": f"{item.text}\n\n{question}"}, {"role": "assistant", "content": answer.strip()},
    ]  # fmt: skip
    try:
        with ONE_AT_A_TIME:
            tokens = len(chat.encode(messages, bounds.tokenizer).input_ids)
    except DataError as error:
        return error.reason
    if tokens > bounds.max_length:
        return "over the maximum length"
    document = item.document
    return {
        "id": item.id, "messages": messages, "source": document.source, "language": document.language,
        "type": item.task, "length": tokens, "document": document.name, "document_sha256": document.sha256,
        "license": document.license, "teacher": teacher,
    }  # fmt: skip
