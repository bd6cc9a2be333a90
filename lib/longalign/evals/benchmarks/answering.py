"""Every question answered once, in the questions' order; who gives the same command again goes on where it stopped."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from longalign.clients import concurrency
from longalign.clients.client import Asker
from longalign.clients.errors import THOUGHTS_ALONE, EndpointError, NoReply
from longalign.clients.reply_store import Request
from longalign.clients.thoughts import opened_elsewhere
from longalign.data.jsonl import DataError
from longalign.data.tokenizers import ONE_AT_A_TIME
from longalign.evals.benchmarks import window as windows
from longalign.evals.benchmarks.questions import MISSING, Answer, Question

ANSWER_SHARE = 16
"""An answer has at most this part of the window, where that is less than the benchmark's own bound."""
Missing = tuple[str, Exception]
"""The id of a question without an answer, and why."""


class Fit(NamedTuple):
    """What a prompt must fit into: a `window` of tokens of `tokenizer`, its answer and what the model may think before
    it included; no bound where one of the two is None."""

    tokenizer: Any = None
    window: int | None = None
    thinking_tokens: int = 0


def answer_all(
    questions: Sequence[Question], asker: Asker, *, tokenizer: Any = None, window: int | None = None, at_once: int = 1
) -> tuple[list[Answer], list[Missing]]:
    """The answers of the model that `asker` asks, a row for each turn, and the questions that have none, with why.

    With `tokenizer` and `window` (tokens), prompts that leave no room for their answer lose their middle; the room is
    the benchmark's bound, or a sixteenth of the window, and what the model may think before it. Turns are answered as
    far as there are replies: what a reasoning model thought is no part of the conversation, as servers expect it.
    """
    fit = Fit(tokenizer, window, asker.thinking_tokens)

    def work(question: Question) -> tuple[list[Answer], Exception | None]:
        return _answers(question, asker, fit)

    found = concurrency.each(work, questions, asker=asker, at_once=at_once, label="answered")
    told = [([], said) if isinstance(said, EndpointError) else said for said in found]
    if any(opened_elsewhere(row.thoughts) for rows, _ in told for row in rows):
        told = [_without_open_thoughts(rows, error) for rows, error in told]
    answers, missing = [], []
    for question, (rows, error) in zip(questions, told, strict=True):
        if error is not None:
            missing.append((question.id, error))
            rows = rows + [_missing(question, turn, asker.model, str(error))
                           for turn in range(len(rows), len(question.turns))]  # fmt: skip
        answers += rows
    return answers, missing


def requests(
    questions: Sequence[Question], *, tokenizer: Any = None, window: int | None = None, thinking_tokens: int = 0
) -> list[tuple[Request, int]]:
    """The first request of each question and the tokens taken out of it, to see what `answer_all` will take."""
    fit = Fit(tokenizer, window, thinking_tokens)
    return [_request(question, [question.turns[0]], 0, fit) for question in questions]


def expected(
    questions: Sequence[Question], asker: Asker, *, tokenizer: Any = None, window: int | None = None
) -> Iterator[tuple[Request, int]]:
    """What `answer_all` will ask, turn by turn, each with the most tokens of earlier answers that are not there yet.

    A blank stands in the request for such an answer. Turns that leave no room for their answer are not asked.
    """
    fit = Fit(tokenizer, window, asker.thinking_tokens)
    for question in questions:
        with suppress(DataError):
            yield from _expected(question, asker, fit)


def _expected(question: Question, asker: Asker, fit: Fit) -> Iterator[tuple[Request, int]]:
    said: list[str] = []
    ahead = 0
    for turn, words in enumerate(question.turns):
        said.append(words)
        request, _ = _request(question, said, turn, fit)
        yield request, ahead
        reply = asker.known(request)
        if reply is None:
            ahead += request.max_tokens
        elif reply.thoughts_alone:
            return
        said.append(reply.text if reply else "")


def _answers(question: Question, asker: Asker, fit: Fit) -> tuple[list[Answer], Exception | None]:
    """The rows of the turns, and why there are no more of them."""
    said: list[str] = []
    rows: list[Answer] = []
    for turn, words in enumerate(question.turns):
        said.append(words)
        try:
            request, truncated = _request(question, said, turn, fit)
            reply = asker.ask(request)
        except (DataError, NoReply) as error:
            return rows, error
        rows.append(_row(question, turn, asker.model, said, reply.text, reply.finish, truncated, reply.thoughts))
        said.append(reply.text)
    return rows, None


def _without_open_thoughts(rows: list[Answer], error: Exception | None) -> tuple[list[Answer], Exception | None]:
    """The rows before one that was cut off without a sign of the thoughts that the model's template opens."""
    for place, row in enumerate(rows):
        if row.finish == "length" and not row.thoughts:
            return rows[:place], NoReply(THOUGHTS_ALONE)
    return rows, error


def _request(question: Question, said: Sequence[str], turn: int, fit: Fit) -> tuple[Request, int]:
    messages = [{"role": "assistant" if i % 2 else "user", "content": text or "-"} for i, text in enumerate(said)]
    truncated, most = 0, question.most_tokens
    if fit.tokenizer is not None and fit.window is not None:
        most = min(most, fit.window // ANSWER_SHARE)
        with ONE_AT_A_TIME:
            messages, truncated = windows.fit(
                messages, fit.tokenizer, window=fit.window, reserve=most + fit.thinking_tokens
            )
    return Request(messages, most, label=_id(question, turn)), truncated


def _id(question: Question, turn: int) -> str:
    return question.id if len(question.turns) == 1 else f"{question.id}-{turn + 1}"


def _missing(question: Question, turn: int, model: str, why: str) -> Answer:
    said = [words for asked in question.turns[:turn] for words in (asked, "")] + [question.turns[turn]]
    return _row(question, turn, model, said, why, MISSING, 0)


def _row(
    question: Question, turn: int, model: str, said: Sequence[str], answer: str, finish: str, truncated: int,
    thoughts: str = "",
) -> Answer:  # fmt: skip
    several = len(question.turns) > 1
    query = "\n\n".join(f"{'User' if i % 2 == 0 else 'Assistant'}: {text}" for i, text in enumerate(said))
    references = question.references[turn : turn + 1] if several else question.references
    return Answer(
        _id(question, turn), question.id, model, question.benchmark, question.task, question.language, question.length,
        query if several else question.query, references, question.ordered, answer, finish, truncated,
        thoughts,
    )  # fmt: skip
