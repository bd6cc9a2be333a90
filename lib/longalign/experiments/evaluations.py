"""Evaluations addressed by what determines them: a model is scored on a benchmark's items by the same code once.

Every item's score is kept, so that intervals over items can be drawn later; tables are means over items.
"""

import csv
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longalign.common import checksums, paths, provenance
from longalign.common.source_hash import source_hash
from longalign.data.chat import encode as encode_chat
from longalign.data.chat import tokenizer_hash
from longalign.data.store import TokenStore
from longalign.experiments.base_models import load_tokenizer
from longalign.miniature import tokenizer

WITHOUT = ("common.paths", "common.provenance", "common.checksums", "data.store_writer")
"""What an evaluation uses to read, write and name files."""
COLUMNS = ("benchmark", "task", "length", "item", "metric", "value")
LOSS = "loss"
"""In the place of a benchmark: the mean loss on training data and on the items of `test`."""
MOST_LOSSES = 2000
"""Sequences of the training data, evenly spaced in their order, of which the loss is taken."""


class Scored(NamedTuple):
    """What an evaluation is of: one trained model of an experiment, and a benchmark."""

    arm: str
    model: str
    seed: int
    benchmark: str


@dataclass(frozen=True)
class Evaluation:
    """Scores of the model in a folder on a benchmark, whose items are the JSONL file `items`/<benchmark>.jsonl.

    Prompts longer than `window` tokens lose their middle. The benchmark `LOSS` takes the mean loss on `train`, a token
    store, and on the items of `test`. `tokenizer` is the folder of the model's, "" the miniature's, and `chat_format`
    how it writes conversations, "" as it says itself. `dtype` is that of the weights while they are used. `label` is
    for people and does not enter the key.
    """

    label: str
    model: str
    items: str
    benchmark: str
    window: int
    train: str = ""
    tokenizer: str = ""
    chat_format: str = ""
    dtype: str = "float32"

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean equal scores."""
        return provenance.config_hash({
            "model": provenance.hash_model(self.model),
            "items": provenance.hash_files(self._file), "window": self.window, "benchmark": self.benchmark,
            "train": self.train and TokenStore(Path(self.train)).sha256,
            "code": source_hash("experiments.evaluations.Evaluation", without=WITHOUT),
            **({"tokenizer": tokenizer_hash(self._encode())} if self.tokenizer else {}),
            **({"dtype": self.dtype} if self.dtype != "float32" else {}),
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where the scores lie: `items.csv`, `answers.jsonl` (what was decoded), `record.json` (written last)."""
        return paths.runs() / "evaluated" / self.key

    @property
    def finished(self) -> bool:
        """Whether the scores are complete, and the files those that were written."""
        return checksums.finished_record(self.folder) is not None

    def perform(self) -> None:
        """Score the model in this process, on its GPU if there is one."""
        began = time.monotonic()
        with loaded(self.model, self.dtype) as model:
            rows, answers = self._scores(model)
        provenance.write_csv(self.folder / "items.csv", rows, columns=COLUMNS)
        with provenance.atomic(self.folder / "answers.jsonl") as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        provenance.write_json(self.folder / "record.json", {
            "files": checksums.hashes(self.folder, "items.csv", "answers.jsonl"), "key": self.key,
            "evaluation": asdict(self), "rows": len(rows), "seconds": round(time.monotonic() - began, 1),
        })  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per item and metric (`COLUMNS`) of the finished evaluation."""
        with (self.folder / "items.csv").open(encoding="utf-8", newline="") as file:
            return [{**row, "length": int(row["length"]), "value": float(row["value"])} for row in csv.DictReader(file)]

    def answers(self) -> list[dict[str, Any]]:
        """What was decoded: item, question, reference, answer, score, ceiling."""
        return _read(self.folder / "answers.jsonl")

    def progress(self) -> str:
        """One phrase while it is under way."""
        return "scoring"

    def summary(self) -> str:
        """One phrase when it is finished."""
        return f"{json.loads((self.folder / 'record.json').read_text())['rows']:,} scores"

    def _encode(self) -> Any:
        return load_tokenizer(self.tokenizer, self.chat_format) if self.tokenizer else tokenizer.load()

    @property
    def _file(self) -> Path:
        return Path(self.items) / f"{'test' if self.benchmark == LOSS else self.benchmark}.jsonl"

    def _items(self) -> list[dict[str, Any]]:
        return _read(self._file)

    def _scores(self, model: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        from longalign.evals.scores import score

        if self.benchmark == LOSS:
            return self._losses(model), []
        return score(model, self.benchmark, self._items(), window=self.window, encode=self._encode())

    def _losses(self, model: Any) -> list[dict[str, Any]]:
        from longalign.evals.scores import mean_loss

        store = TokenStore(Path(self.train))
        sample = np.linspace(0, len(store) - 1, min(len(store), MOST_LOSSES)).astype(int)
        losses = {"train-loss": mean_loss(model, [store[int(i)] for i in sample]),
                  "test-loss": mean_loss(model, list(self._test_sequences()))}  # fmt: skip
        return [{"benchmark": LOSS, "task": task, "length": 0, "item": task, "metric": "nll", "value": value}
                for task, value in losses.items()]  # fmt: skip

    def _test_sequences(self) -> Iterator[dict[str, Any]]:
        for item in self._items():
            encoded = encode_chat(item["messages"], self._encode(), max_length=self.window)
            yield {"input_ids": encoded.input_ids, "labels": encoded.labels}


def _read(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, which end at a line feed alone: a text may hold other ends of lines (U+2028)."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def loaded(folder: Path | str, dtype: str = "float32") -> Iterator[Any]:
    """The model in a folder on the device that scores it, which is given back at the end.

    `dtype` is that of the weights; RoPE's frequencies stay fp32, or positions far apart would become one.
    """
    import torch
    from transformers import dynamic_module_utils

    from longalign.train.models import device, load_model

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # a model with code of its own is refused, and nobody is asked
    model = load_model(folder)
    for weight in model.parameters():
        weight.data = weight.data.to(getattr(torch, dtype))
    try:
        yield model.to(device()).eval()
    finally:
        model.to("cpu")
        torch.cuda.empty_cache()  # a training in another process may need the room


def answer(model: Path | str, item: dict[str, Any], *, encode: Any = None) -> str:
    """Question, reference and the answer to a benchmark's item that the model in a folder writes, as three lines.

    `encode` is the model's tokenizer; None is the miniature's.
    """
    from longalign.evals.chat_answers import ANSWER_ROOM, answers

    with loaded(model) as ready:
        (told,) = answers(ready, [item], window=item["length"] + ANSWER_ROOM, encode=encode)
    return f"question:  {told['question']}\nreference: {told['reference']}\nwritten:   {told['answer']}"


def tidy(experiment: str, evaluations: Mapping[Scored, Evaluation]) -> list[dict[str, Any]]:
    """Means over items: one row per arm, model, seed, task, length and metric, as `results/<experiment>.csv` holds
    them.

    A task with several lengths has a row for each.
    """
    found = []
    for (arm, model, seed, _), evaluation in evaluations.items():
        cells: dict[tuple[str, int, str], list[float]] = {}
        for row in evaluation.rows():
            cells.setdefault((row["task"], row["length"], row["metric"]), []).append(row["value"])
        found += [
            {"experiment": experiment, "arm": arm, "model": model, "seed": seed, "task": task, "length": length,
             "metric": metric, "value": float(np.mean(values))}
            for (task, length, metric), values in cells.items()
        ]  # fmt: skip
    return found


def write_items(path: Path, evaluations: Mapping[Scored, Evaluation]) -> Path:
    """The score of every item, wide: a row per item and metric, a column `model|arm|seed` per trained model."""
    table: dict[tuple, dict[str, float]] = {}
    names = list(dict.fromkeys(f"{model}|{arm}|{seed}" for arm, model, seed, _ in evaluations))
    for (arm, model, seed, _), evaluation in evaluations.items():
        for row in evaluation.rows():
            key = tuple(row[name] for name in COLUMNS[:-1])
            table.setdefault(key, {})[f"{model}|{arm}|{seed}"] = row["value"]
    rows = [dict(zip(COLUMNS[:-1], key, strict=True)) | {name: values.get(name) for name in names}
            for key, values in table.items()]  # fmt: skip
    return provenance.write_csv(path, rows, columns=[*COLUMNS[:-1], *names], digits=4)
