"""What every benchmark asks, whatever its format: questions in, rows of answers out, read again as they were written.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longalign.clients.errors import THOUGHTS_ALONE
from longalign.clients.thoughts import Parts, split
from longalign.common import provenance
from longalign.data.jsonl import DataError, read_lines

Example = tuple[str, int]
"""An answer and the rating that it got from people."""


MISSING = "missing"
FINISHES = ("stop", "length", MISSING)


@dataclass(frozen=True)
class Question:
    """One item: `turns` are what the user says, one after the other, the document in the first.

    `query` is the question alone, as a judge sees it, `references` what counts as right, `task` and `length` the row's
    (`longalign.experiments.evaluations.COLUMNS`; 0 where length is no class), `most_tokens` those of an answer.
    `ordered`: the order of the reference's sentences is part of the answer (`longalign.evals.rubric`).
    """

    id: str
    benchmark: str
    task: str
    language: str
    turns: tuple[str, ...]
    query: str
    references: tuple[str, ...]
    most_tokens: int
    length: int = 0
    ordered: bool = False


@dataclass(frozen=True)
class Answer:
    """What a model answered: a `Question` without its prompt, and `answer`; `truncated` tokens were left out of it.

    Several turns are several answers to one `question` (its id). `finish` is "stop", "length" where the answer was cut
    off at the most tokens it may have, MISSING where there is none; then `answer` says why. `thoughts` are those of a
    reasoning model, which nobody judges.
    """

    id: str
    question: str
    model: str
    benchmark: str
    task: str
    language: str
    length: int
    query: str
    references: tuple[str, ...]
    ordered: bool
    answer: str
    finish: str
    truncated: int
    thoughts: str = ""


def check_ids(questions: Sequence[Question], where: Path | str) -> list[Question]:
    """The questions, whose ids must differ. Raises DataError."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError("id occurs twice", question.id).at(where)
        seen.add(question.id)
    return list(questions)


def evenly(questions: Sequence[Question], count: int) -> list[Question]:
    """At most `count` of the questions, evenly spaced: benchmarks are ordered by category.

    >>> evenly("abcdefghi", 3), evenly("ab", 9)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    count = min(count, len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]


def write(path: Path | str, rows: Iterable[Any]) -> Path:
    """Rows (dataclasses) as JSONL, written atomically."""
    with provenance.atomic(path) as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    return Path(path)


def read_answers(path: Path | str) -> Iterator[Answer]:
    """The answers of a file. Raises DataError, with the line, for another file and for an id that stands twice."""
    seen = set()
    for line in read_lines(path):
        try:
            answer = _answer(line.row())
            if answer.id in seen:
                raise DataError("id occurs twice", answer.id, field="id")
            seen.add(answer.id)
            yield answer
        except DataError as error:
            raise error.at(path, line.number) from None


def _with_thoughts_apart(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of an older file, in which a reasoning model's thoughts stand in its answer."""
    found = split(row["answer"]) if isinstance(row.get("answer"), str) else Parts("", "")
    if not found.thoughts:
        return {**row, "thoughts": ""}
    gone = {} if found.answer.strip() else {"answer": THOUGHTS_ALONE, "finish": MISSING}
    return {**row, "answer": found.answer, "thoughts": found.thoughts, **gone}


def _answer(row: Mapping[str, Any]) -> Answer:
    row = row if "thoughts" in row else _with_thoughts_apart(row)
    for name, kind in Answer.__annotations__.items():
        wanted = list if name == "references" else kind
        if not isinstance(row.get(name), wanted):
            detail = "an answer holds " + ", ".join(Answer.__annotations__)
            raise DataError("no answer", detail, field=name)
    if not all(isinstance(text, str) for text in row["references"]):
        raise DataError("no reference", "references is a list of texts", field="references")
    if row["finish"] not in FINISHES:
        detail = f"{row['finish']!a:.40}; it is 'stop', 'length' if the answer was cut off, 'missing' if there is none"
        raise DataError("unknown finish", detail, field="finish")
    for name in ("length", "truncated"):
        if row[name] < 0:
            raise DataError("below zero", f"{row[name]} tokens", field=name)
    return Answer(**{name: row[name] for name in Answer.__annotations__} | {"references": tuple(row["references"])})
