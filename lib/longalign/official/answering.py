"""Every question answered once, in the questions' order; who gives the same command again goes on where it stopped.

The price: a question of several turns is asked turn by turn, since the next needs the answer to the last.
"""

from collections.abc import Sequence
from typing import Any

from longalign.endpoints import side_by_side
from longalign.endpoints.asker import Asker
from longalign.endpoints.errors import EndpointError
from longalign.endpoints.replies import Request
from longalign.jsonl import DataError
from longalign.official import window as windows
from longalign.official.questions import MISSING, Answer, Question

ANSWER_SHARE = 16
"""An answer has at most this part of the window, where that is less than the benchmark's own bound."""
Missing = tuple[str, Exception]
"""The id of a question without an answer, and why."""


def answer_all(
    questions: Sequence[Question], asker: Asker, *, tokenizer: Any = None, window: int | None = None, at_once: int = 1
) -> tuple[list[Answer], list[Missing]]:
    """The answers of the model that `asker` asks, a row for each turn, and the questions that have none, with why.

    With `tokenizer` and `window` (tokens), prompts that leave no room for their answer lose their middle; the room is
    the benchmark's bound, or a sixteenth of the window.
    """

    def work(question: Question) -> list[Answer] | DataError:
        try:
            return _answers(question, asker, tokenizer, window)
        except DataError as error:
            return error

    found = side_by_side.each(work, questions, asker=asker, at_once=at_once, label="answered")
    answers, missing = [], []
    for question, rows in zip(questions, found, strict=True):
        if isinstance(rows, EndpointError | DataError):
            missing.append((question.id, rows))
            rows = [_missing(question, turn, asker.model, str(rows)) for turn in range(len(question.turns))]
        answers += rows
    return answers, missing


def requests(
    questions: Sequence[Question], *, tokenizer: Any = None, window: int | None = None
) -> list[tuple[Request, int]]:
    """The first request of each question and the tokens taken out of it, to see what `answer_all` will take."""
    return [_request(question, [question.turns[0]], 0, tokenizer, window) for question in questions]


def _answers(question: Question, asker: Asker, tokenizer: Any, window: int | None) -> list[Answer]:
    said: list[str] = []
    rows = []
    for turn, words in enumerate(question.turns):
        said.append(words)
        request, truncated = _request(question, said, turn, tokenizer, window)
        reply = asker.ask(request)
        rows.append(_row(question, turn, asker.model, said, reply.text, reply.finish, truncated))
        said.append(reply.text)
    return rows


def _request(
    question: Question, said: Sequence[str], turn: int, tokenizer: Any, window: int | None
) -> tuple[Request, int]:
    messages = [{"role": "assistant" if i % 2 else "user", "content": text or "-"} for i, text in enumerate(said)]
    truncated, most = 0, question.most_tokens
    if tokenizer is not None and window is not None:
        most = min(most, window // ANSWER_SHARE)
        messages, truncated = windows.fit(messages, tokenizer, window=window, reserve=most)
    return Request(messages, most, label=_id(question, turn)), truncated


def _id(question: Question, turn: int) -> str:
    return question.id if len(question.turns) == 1 else f"{question.id}-{turn + 1}"


def _missing(question: Question, turn: int, model: str, why: str) -> Answer:
    said = [words for asked in question.turns[:turn] for words in (asked, "")] + [question.turns[turn]]
    return _row(question, turn, model, said, why, MISSING, 0)


def _row(
    question: Question, turn: int, model: str, said: Sequence[str], answer: str, finish: str, truncated: int
) -> Answer:
    several = len(question.turns) > 1
    query = "\n\n".join(f"{'User' if i % 2 == 0 else 'Assistant'}: {text}" for i, text in enumerate(said))
    references = question.references[turn : turn + 1] if several else question.references
    return Answer(
        _id(question, turn), question.id, model, question.benchmark, question.task, question.language, question.length,
        query if several else question.query, references, question.ordered, answer, finish, truncated,
    )  # fmt: skip
