"""MT-Bench as published (arXiv 2306.05685): question.jsonl, two turns a question, each rated by a judge, 1 to 10.

    {"question_id", "category", "turns": [first, second], "reference": [for each turn, or none]}, one a line

One judge rates one answer at a time; pairs of models are not compared.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longalign.data.chinese import language_of
from longalign.data.jsonl import DataError, read_lines
from longalign.evals.benchmarks.questions import Question, check_ids

SHIPPED = Path(__file__).parent / "data" / "mt_bench" / "question.jsonl"
MOST_TOKENS = 1024


def questions(file: Path | str = SHIPPED) -> list[Question]:
    """The questions of a file. Raises DataError with file, line and field."""
    found = []
    for line in read_lines(file):
        try:
            found.append(_question(line.row()))
        except DataError as error:
            raise error.at(file, line.number) from None
    return check_ids(found, file)


def _question(row: Mapping[str, Any]) -> Question:
    if type(row.get("question_id")) is not int:
        raise DataError("no question of MT-Bench", "question_id is a number", field="question_id")
    for name, texts in (("turns", row.get("turns")), ("reference", row.get("reference") or [])):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError("no question of MT-Bench", "it is a list of texts", field=name)
    if not row["turns"]:
        raise DataError("no question of MT-Bench", "it has no turn", field="turns")
    return Question(
        id=f"mt-{row['question_id']}", benchmark="mt_bench", task=str(row.get("category", "mt_bench")),
        language=language_of(row["turns"][0]), turns=tuple(row["turns"]), query=row["turns"][0],
        references=tuple(row.get("reference") or ()), most_tokens=MOST_TOKENS,
    )  # fmt: skip
