"""ARC, HellaSwag, TruthfulQA and MMLU exactly as lm-evaluation-harness asks and scores them, one tidy row an item.

The settings are those of the first Open LLM Leaderboard, in which arXiv 2401.18058 reports short tasks. The prompts are
the harness's own; only the place of the data and the number of examples are replaced. Today's harness draws the
examples, with one fixed seed, so they are not the ones that the leaderboard drew.
"""

import contextlib
import logging
import os
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longalign.data.jsonl import VISIBLE, DataError, read_lines
from longalign.data.text_tokens import tokens_behind_text

Row = dict[str, Any]
Schema = Mapping[str, tuple[str, Callable[[Row], bool]]]


class ShortTask(NamedTuple):
    """A task's `name` in the harness (MMLU: before the subject), the `examples` in a prompt, and the metric.

    `key` is the harness's word for the metric. `splits` are the files of examples (None without) and of items; the
    first must hold at least `pool` rows.
    """

    name: str
    examples: int
    metric: str
    key: str
    splits: tuple[str | None, str]
    pool: int


SHORT_TASKS = {
    "arc": ShortTask("arc_challenge", 25, "acc_norm", "acc_norm", ("train", "test"), 25),
    # Where it knows no test split, the harness draws one example more than it shows, in case the item is among them.
    "hellaswag": ShortTask("hellaswag", 10, "acc_norm", "acc_norm", ("train", "validation"), 11),
    "truthfulqa": ShortTask("truthfulqa_mc2", 0, "mc2", "acc", (None, "validation"), 0),
    "mmlu": ShortTask("mmlu_", 5, "acc", "acc", ("dev", "test"), 5),
}
BENCHMARK = "short_tasks"
SEED = 1234
"""Of the drawing of examples; the harness's default."""
SHIPPED = Path(__file__).parent / "data" / "short_tasks"
"""Some rows of each task, made up for tests: a score on them says nothing of a model."""


def evaluate(
    model: Any,
    tokenizer: Any,
    *,
    tasks: Iterable[str] = tuple(SHORT_TASKS),
    data: Path | None = None,
    limit: int | None = None,
    batch_size: int | str = 1,
    max_length: int | None = None,
) -> list[Row]:
    """Rows (benchmark, task, length, item, metric, value) of a loaded causal language model, in the order of the items.

    `task` is "arc", "hellaswag", "truthfulqa" or "mmlu-<subject>"; `length` is 0; `item` is the task and the item's
    place in its split, from 0 ("arc-17"). acc and acc_norm are 1 where the right answer has the highest log-likelihood
    (for acc_norm divided by the answer's characters), else 0. mc2 is the share of the true answers in the likelihood
    of all, and nan where the likelihood of each is below the smallest float.

    `data` is a folder of JSON lines in the schemas of the Hub: arc/{train,test}.jsonl, truthfulqa/validation.jsonl,
    hellaswag/{train,validation}.jsonl and mmlu/<subject>/{dev,test}.jsonl. Nothing is loaded from elsewhere then, and
    MMLU has the subjects that lie there. None: the harness loads all from the Hub. `limit`: the first items of a task
    or subject. `batch_size` as the harness has it. `max_length`: tokens that the model may read, None for what its
    configuration says; of longer prompts the start is cut, with a warning. A tokenizer without padding token gets one.

    Raises ValueError for an unknown task and a limit below 1, DataError for data that are missing, wrong or too few.
    """
    tasks = tuple(dict.fromkeys(tasks))
    if unknown := [task for task in tasks if task not in SHORT_TASKS]:
        raise ValueError(f"unknown short task {unknown[0]!r}: there are {', '.join(SHORT_TASKS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a number of items from 1, or None for all")
    read = {"pretrained": model, "tokenizer": tokenizer, "batch_size": batch_size, "max_length": max_length}
    with _without_trace(model):
        samples, cut = _asked(_loaded(tasks, data), limit, read)
    if cut:
        warnings.warn(f"prompts of {cut} items are longer than the model may read: their start was cut", stacklevel=2)
    return [_row(name, sample) for name, part in samples.items() for sample in part]


def means(rows: Iterable[Row]) -> dict[str, float]:
    """The score of each short task in percent: the mean over its items; of MMLU the mean over its subjects' means.

    The leaderboard defines MMLU so, while the harness's own group weights the subjects by their items. Rows of other
    benchmarks do not count.

    >>> row = {"benchmark": "short_tasks", "length": 0, "item": "", "metric": "acc"}
    >>> right, wrong = {**row, "task": "mmlu-anatomy", "value": 1.0}, {**row, "task": "mmlu-virology", "value": 0.0}
    >>> means([right, right, right, wrong])
    {'mmlu': 50.0}
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["benchmark"] == BENCHMARK:
            values[_task(row["task"])][row["task"]].append(row["value"])
    return {name: 100 * float(np.mean([np.mean(part) for part in parts.values()])) for name, parts in values.items()}


def _asked(loaded: dict[str, Any], limit: int | None, read: dict[str, Any]) -> tuple[dict[str, list[Row]], int]:
    """The harness's samples of each task, and the number of items of which a prompt with its answer was cut."""
    from lm_eval import evaluator

    reader = _reader(read)
    # Not `simple_evaluate`, which seeds the caller's generators and asks the Hub for the model.
    samples = evaluator.evaluate(reader, {"tasks": loaded}, limit=limit, bootstrap_iters=0, log_samples=True)["samples"]
    asked = [map(tuple, sample["arguments"]) for part in samples.values() for sample in part]
    return samples, sum(any(pair in reader.cut for pair in pairs) for pairs in asked)


def _reader(read: dict[str, Any]) -> Any:
    """The harness's reader of a model; `cut` are the pairs of prompt and answer that are longer than it may read."""
    from lm_eval.models.huggingface import HFLM

    behind = tokens_behind_text(read["tokenizer"])

    class Reader(HFLM):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.cut: set[tuple[str, str]] = set()

        def tok_encode(self, string: str, *given: Any, **options: Any) -> list[int]:
            """The tokens of a text without those that a tokenizer puts behind it: the harness takes as an answer's what
            a prompt with it has beyond the prompt alone, which would be the end token and not the answer's first."""
            ids = super().tok_encode(string, *given, **options)
            return ids[: -len(behind)] if behind and ids[-len(behind) :] == behind else ids

        def _loglikelihood_tokens(self, requests: list[Any], *given: Any, **options: Any) -> list[Any]:
            for (_, answer), _, ids in requests:
                if len(ids) > self.max_length:
                    told = f"{answer.strip()!a:.60} takes {len(ids):,} tokens, and the model reads {self.max_length:,}"
                    raise DataError("no room for an answer", f"{told}; take a larger window")
            self.cut |= {pair for pair, before, ids in requests if len(before) + len(ids) > self.max_length + 1}
            return super()._loglikelihood_tokens(requests, *given, **options)

    # In the leaderboard's days transformers gave fp32 logits; today's have the dtype of the weights.
    return Reader(**read, softmax_dtype="float32", trust_remote_code=False)


def _loaded(tasks: Iterable[str], data: Path | None) -> dict[str, Any]:
    """The harness's tasks, with their data, by the names in our rows."""
    import lm_eval.tasks

    places = [Path(lm_eval.tasks.__file__).parent / name for name in ("arc", "hellaswag", "truthfulqa", "mmlu/default")]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=places)
    known = [name.removeprefix("mmlu_") for name in manager.all_subtasks if name.startswith("mmlu_")]
    labels = [task for task in tasks if task != "mmlu"]
    if "mmlu" in tasks:
        labels += [f"mmlu-{subject}" for subject in (known if data is None else _subjects(Path(data) / "mmlu", known))]
    names = {label: SHORT_TASKS[_task(label)].name + label.partition("-")[2] for label in labels}
    replaced = [{"task": name, **_replaced(label, data)} for label, name in names.items()]
    built = manager.load([{"group": BENCHMARK, "task": replaced}])["tasks"]
    for task in built.values():
        task.set_fewshot_seed(SEED)
    return {label: built[name] for label, name in names.items()}


def _replaced(label: str, data: Path | None) -> dict[str, Any]:
    examples = {"num_fewshot": SHORT_TASKS[_task(label)].examples}
    if data is None:
        return examples
    folder = str(Path(data) / label.replace("-", "/"))
    return {**examples, "custom_dataset": _splits, "dataset_kwargs": {"task": _task(label), "folder": folder}}


def _splits(*, task: str, folder: str, **_: Any) -> dict[str, Any]:
    """What the harness calls for its data: they stay in memory, so that nothing is written to the user's cache."""
    from datasets import Dataset

    setting, (examples, items) = SHORT_TASKS[task], SHORT_TASKS[task].splits
    rows = {split: _rows(Path(folder) / f"{split}.jsonl", SCHEMAS[task]) for split in (examples, items) if split}
    if examples and (found := len(rows[examples])) < setting.pool:
        detail = f"it holds {found} rows; the leaderboard's {setting.examples} examples need {setting.pool}"
        raise DataError("too few examples", detail).at(Path(folder) / f"{examples}.jsonl")
    return {split: Dataset.from_list(part) for split, part in rows.items()}


def _rows(path: Path, schema: Schema) -> list[Row]:
    if not path.is_file():
        raise DataError("no such file", "put the split there as JSON lines, or give no data to load the Hub's").at(path)
    rows = []
    for line in read_lines(path):
        try:
            rows.append(_checked(line.row(), schema))
        except DataError as error:
            raise error.at(path, line.number) from None
    return rows


def _checked(row: Row, schema: Schema) -> Row:
    for field, (form, holds) in schema.items():
        if field not in row or not holds(row):
            raise DataError("wrong field" if field in row else "missing field", f"it must be {form}", field=field)
    return {field: row[field] for field in schema}


def _subjects(folder: Path, known: list[str]) -> list[str]:
    found = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    if not found:
        raise DataError("no subjects", "make folders named as astronomy with dev.jsonl and test.jsonl").at(folder)
    if unknown := [name for name in found if name not in known]:
        raise DataError("unknown subject", f"it is none of MMLU's {len(known)}").at(folder / unknown[0])
    return found


def _row(label: str, sample: Row) -> Row:
    setting = SHORT_TASKS[_task(label)]
    return {
        "benchmark": BENCHMARK, "task": label, "length": 0, "item": f"{label}-{sample['doc_id']}",
        "metric": setting.metric, "value": float(sample[setting.key]),
    }  # fmt: skip


def _task(label: str) -> str:
    return label.partition("-")[0]


@contextlib.contextmanager
def _without_trace(model: Any) -> Iterator[None]:
    """Mutes the harness's log below errors and its progress bars, which no option turns off, and puts back the model's
    mode and the state of `random`, from which the harness draws names that it does not use."""
    logger = logging.getLogger("lm_eval")
    level, training, state = logger.level, model.training, random.getstate()
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logger.setLevel(level)
        model.train(training)
        random.setstate(state)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(VISIBLE.search(value)) and not re.search("[\ud800-\udfff]", value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_is_text, value))


def _paired(value: Any, texts: str, labels: str, holds: Callable[[Any], bool]) -> bool:
    if not isinstance(value, dict) or not _are_texts(value.get(texts)) or not isinstance(value.get(labels), list):
        return False
    return len(value[texts]) == len(value[labels]) and all(map(holds, value[labels]))


def _place(value: Any, count: int) -> bool:
    return type(value) is int and value in range(count)


SCHEMAS: dict[str, Schema] = {
    "arc": {
        "question": ("a text", lambda row: _is_text(row["question"])),
        "choices": ('{"text": [...], "label": [...]}', lambda row: _paired(row["choices"], "text", "label", _is_text)),
        "answerKey": ("one of the labels", lambda row: row["answerKey"] in row["choices"]["label"]),
    },
    "hellaswag": {
        "activity_label": ("a text", lambda row: _is_text(row["activity_label"])),
        "ctx_a": ("a text", lambda row: _is_text(row["ctx_a"])),
        "ctx_b": ('a text or ""', lambda row: row["ctx_b"] == "" or _is_text(row["ctx_b"])),
        "endings": ("a list of texts", lambda row: _are_texts(row["endings"])),
        "label": ('a string, "0" for the first', lambda row: row["label"] in map(str, range(len(row["endings"])))),
    },
    "truthfulqa": {
        "question": ("a text", lambda row: _is_text(row["question"])),
        "mc2_targets": (
            '{"choices": [...], "labels": [...]}, 1 for each true text and 0 for each other',
            lambda row: _paired(row["mc2_targets"], "choices", "labels", lambda label: _place(label, 2)),
        ),
    },
    "mmlu": {
        "question": ("a text", lambda row: _is_text(row["question"])),
        "choices": ("a list of four texts", lambda row: _are_texts(row["choices"]) and len(row["choices"]) == 4),
        "answer": ("0, 1, 2 or 3", lambda row: _place(row["answer"], 4)),
    },
}
"""Of each field that the harness reads: what it must be, and whether it is (asked in this order)."""
