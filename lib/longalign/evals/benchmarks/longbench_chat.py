"""LongBench-Chat as published (arXiv 2401.18058, 3.4): the official files, or the miniature's shipped in their form.

    test_cases.json   a list of {idx, prompt, query, answer}; idx from 1, prompt = document and question
    few_shots.json    a list of lists of three {answer, score}; the idx-th is of question idx
    prompt_fs.txt     the judge's prompt in the paper's words, used where it lies beside them

An official file tells neither language nor category; the language is that of the question.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longalign.data.chinese import language_of
from longalign.data.jsonl import DataError
from longalign.evals.benchmarks.questions import Example, Question, check_ids
from longalign.evals.rubric import HIGHEST, LOWEST

SHIPPED = Path(__file__).parent / "data" / "longbench_chat"
CASES, SHOTS, TEMPLATE = "test_cases.json", "few_shots.json", "prompt_fs.txt"
MOST_TOKENS = 1024
"""Of an answer, as in the paper's own evaluation."""


def questions(folder: Path | str = SHIPPED) -> list[Question]:
    """The questions of a folder. Raises DataError that names file, item and field.

    Beyond the official fields an item may say its `category`, and whether its answer is `ordered`, as the
    miniature's do.
    """
    file = Path(folder) / CASES
    rows = _list(file)
    found = []
    for place, row in enumerate(rows):
        for name, kind in {"idx": int, "prompt": str, "query": str, "answer": str}.items():
            if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                detail = "an item holds idx (a number), prompt, query, answer (texts)"
                raise DataError("no question", detail, field=f"[{place}].{name}").at(file)
        found.append(_question(row))
    return check_ids(found, file)


def examples(folder: Path | str = SHIPPED) -> dict[str, tuple[Example, ...]]:
    """Three scored answers for every question, by the question's id. Raises DataError."""
    file = Path(folder) / SHOTS
    found = {}
    for place, shots in enumerate(_list(file)):
        if not isinstance(shots, list) or len(shots) != 3:
            detail = "each item is a list of three {answer, score}"
            raise DataError("not three answers", detail, field=f"[{place}]").at(file)
        found[_id(place + 1)] = tuple(_example(shot, f"[{place}][{i}]", file) for i, shot in enumerate(shots))
    return found


def template(folder: Path | str) -> str:
    """The judge's prompt in the paper's words, "" where the folder has none."""
    file = Path(folder) / TEMPLATE
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError:
        raise DataError("not UTF-8", "save the file as UTF-8").at(file) from None


def _question(row: Mapping[str, Any]) -> Question:
    language = language_of(row["query"])
    return Question(
        id=_id(row["idx"]), benchmark="longbench_chat", task=str(row.get("category", "longbench_chat")),
        language=language, turns=(row["prompt"],), query=row["query"], references=(row["answer"],),
        most_tokens=MOST_TOKENS, ordered=row.get("ordered") is True,
    )  # fmt: skip


def _example(shot: Any, field: str, file: Path) -> Example:
    score = shot.get("score") if isinstance(shot, dict) else None
    if isinstance(score, str) and re.fullmatch("[0-9]{1,2}", score.strip()):
        score = int(score)
    if isinstance(score, float) and score.is_integer():
        score = int(score)
    if type(score) is not int or not LOWEST <= score <= HIGHEST or not isinstance(shot.get("answer"), str):
        detail = f"it holds an answer (text) and a score from {LOWEST} to {HIGHEST}"
        raise DataError("no scored answer", detail, field=field).at(file)
    return shot["answer"], score


def _id(number: int) -> str:
    return f"chat-{number}"


def _list(file: Path) -> list[Any]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        advice = "longalign fetch --benchmark longbench-chat brings the official files"
        raise DataError("cannot be read", f"{str(error.strerror).lower()}; {advice}").at(file) from None
    except (ValueError, RecursionError) as error:
        raise DataError("not JSON", str(error)).at(file) from None
    if not isinstance(rows, list) or not rows:
        raise DataError("not a list", "the official file is one list").at(file)
    return rows
