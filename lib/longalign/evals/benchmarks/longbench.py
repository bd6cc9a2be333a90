"""LongBench as published (arXiv 2308.14508): its JSONL files, prompts and string metrics, for the paper's three groups.

    {"input", "context", "answers": [...], "length", "dataset", "language", "all_classes", "_id"}, one a line

Prompts, lengths of answers and metrics (F1, ROUGE-L; Chinese cut into words by jieba) are those that
lm-evaluation-harness keeps of LongBench, called as they stand there. The other groups (few-shot, synthetic, code) are
left out, as in the paper; a row of a dataset that is none of the twelve is refused.
"""

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from longalign.data.jsonl import DataError, read_lines
from longalign.evals.benchmarks.questions import MISSING, Answer, Question, check_ids

GROUPS = {
    "single-document-qa": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "multi-document-qa": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "summarization": ("gov_report", "qmsum", "multi_news", "vcsum"),
}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
SHIPPED = Path(__file__).parent / "data" / "longbench"
OTHERS = re.compile(r"trec|triviaqa|samsum|lsht|passage_\w+|lcc|repobench-p|\w+_e")
"""Files of data.zip that hold no dataset of the three groups; those in _e hold other samples, by length."""
MINIATURE = "miniature_"
"""Begins the names of the miniature's datasets; what follows is the official one whose prompt and metric they take."""
FIELDS = {"input": str, "context": str, "answers": list, "dataset": str, "language": str, "_id": str}


def questions(folder: Path | str = SHIPPED) -> list[Question]:
    """The questions of a folder's .jsonl files, sorted by their names; LongBench's other datasets are passed over.

    Raises DataError with file, line and field.
    """
    files = [file for file in sorted(Path(folder).glob("*.jsonl")) if not OTHERS.fullmatch(file.stem)]
    if not files:
        detail = "LongBench's data.zip, unpacked, has qasper.jsonl and eleven more"
        raise DataError("no file of the three groups", detail).at(folder)
    return check_ids([question for file in files for question in _read(file)], folder)


def metrics(answers: list[Answer]) -> list[dict[str, Any]]:
    """Tidy rows: the official string metric of each answer that is there, 0 to 100, the best over the references.

    Raises DataError for an answer to another dataset than the twelve, and for one without a reference.
    """
    for answer in answers:
        _check_dataset(answer.task, "task")
        if not answer.references:
            raise DataError(f"answer {answer.id!a:.60} has no reference", "references is a list of texts, one or more")
    return [
        {"benchmark": a.benchmark, "task": a.task, "length": a.length, "item": a.id,
         "metric": metric_of(a), "value": 100 * _metric(a)}
        for a in answers if a.finish != MISSING
    ]  # fmt: skip


def metric_of(answer: Answer) -> str:
    """The name of the string metric that an answer gets, or would."""
    return _settings(answer.task)["metric"]


def group_of(answer: Answer) -> str:
    """single-document-qa, multi-document-qa or summarization."""
    return GROUP_OF[_official(answer.task)]


def scale_of(answer: Answer) -> str:
    """The judge's scale (`longalign.evals.judges.prompts`): "summary" for summaries, "qa" for the others."""
    return "summary" if group_of(answer) == "summarization" else "qa"


def scaled(rating: float, lowest: int, highest: int) -> float:
    """A rating from 0 (the lowest) to 100 (the highest); the paper says "normalized between 0-100" and no more.

    >>> scaled(2, 1, 3), scaled(1, 1, 5), scaled(4.5, 1, 5)
    (50.0, 0.0, 87.5)
    """
    return 100 * (rating - lowest) / (highest - lowest)


def _read(file: Path) -> Iterator[Question]:
    for line in read_lines(file):
        try:
            yield _question(line.row())
        except DataError as error:
            raise error.at(file, line.number) from None


def _question(row: Mapping[str, Any]) -> Question:
    for name, kind in FIELDS.items():
        if not isinstance(row.get(name), kind):
            raise DataError("no question of LongBench", f"an item holds {', '.join(FIELDS)}", field=name)
    if not row["answers"] or not all(isinstance(text, str) for text in row["answers"]):
        raise DataError("no reference", "answers is a list of texts, one or more", field="answers")
    _check_dataset(row["dataset"], "dataset")
    settings = _settings(row["dataset"])
    return Question(
        id=f"{row['dataset']}-{row['_id']}", benchmark="longbench", task=row["dataset"], language=row["language"],
        turns=(_prompt(settings["prompt"], row),), query=row["input"], references=tuple(row["answers"]),
        most_tokens=settings["most_tokens"], ordered=row.get("ordered") is True,
    )  # fmt: skip


def _check_dataset(name: str, field: str) -> None:
    if _official(name) not in GROUP_OF:
        raise DataError("unknown dataset", f"{name!a:.40}; one of {', '.join(GROUP_OF)}", field=field)


def _official(dataset: str) -> str:
    return dataset.removeprefix(MINIATURE)


def _prompt(template: str, row: Mapping[str, Any]) -> str:
    # one pass over the template: what a document says is never read as a place of it
    pieces = template.replace("{{question}}", "{{input}}").split("{{input}}")
    return row["input"].join(row["context"].join(piece.split("{{context}}")) for piece in pieces)


def _metric(answer: Answer) -> float:
    functions = _functions()
    metric = getattr(functions, _settings(answer.task)["function"])
    score = float(metric({"answers": list(answer.references)}, [answer.answer])["score"])
    if failure := functions.rouge.take_failure():
        raise failure
    return score


class _HeardRouge:
    """ROUGE as the harness calls it, which takes any failure for 0 points: also an interrupt, and a sentence of so many
    words that the library, which goes back over them by recursion, cannot end (in Chinese a whole text is one)."""

    DEPTH = 10_000

    def __init__(self, rouge: Any) -> None:
        self._rouge, self._failure = rouge, None

    def get_scores(self, *given: Any, **options: Any) -> Any:
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, self.DEPTH))
        try:
            return self._rouge.get_scores(*given, **options)
        except ValueError:  # there is no word, which is worth 0 points
            raise
        except BaseException as error:
            self._failure = error
            raise
        finally:
            sys.setrecursionlimit(before)

    def take_failure(self) -> BaseException | None:
        """What failed since this was asked last."""
        failure, self._failure = self._failure, None
        return failure


@cache
def _functions() -> ModuleType:
    """The harness's metrics; what they import tells of its dictionary and of a faster library, both no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = import_module("lm_eval.tasks.longbench.metrics")
    found.rouge = _HeardRouge(found.Rouge())
    logging.getLogger("jieba").setLevel(logging.WARNING)  # it sets its own level when it is imported
    return found


@cache
def _settings(dataset: str) -> dict[str, Any]:
    """The official prompt, most tokens of an answer, and metric of a dataset, from the harness's own file."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node).rpartition(".")[2])
    file = resources.files("lm_eval") / "tasks" / "longbench" / f"{_official(dataset)}.yaml"
    told = yaml.load(file.read_text(encoding="utf-8"), Loader=Loader)
    names = [metric["metric"] for metric in told["metric_list"] if metric["metric"] != "score"]
    return {"prompt": told["doc_to_text"], "most_tokens": told["generation_kwargs"]["max_gen_toks"],
            "function": told["process_results"], "metric": names[0]}  # fmt: skip
