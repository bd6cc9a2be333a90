"""Evaluations addressed by what determines them: a model is scored on the same items by the same code once.

Every item's score is kept, so that intervals over items can be drawn later; tables are means over items. The price: a
change of a scorer or of one item scores all models anew.
"""

import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from longalign import paths, record, seals
from longalign.corpus import tokenizer
from longalign.runs import source_hash
from longalign.store import TokenStore

CODE = ("evals", "attention", "collators", "packing", "chat", "rendering", "models", "store",
        "corpus/tokenizer")  # fmt: skip
COLUMNS = ("benchmark", "task", "length", "item", "metric", "value")


@dataclass(frozen=True)
class Evaluation:
    """Scores of the model in a folder on benchmarks, whose items are the JSONL files `items`/<benchmark>.jsonl.

    Prompts longer than `window` tokens lose their middle. With `train`, a token store, the mean loss on it and on the
    items of `test` is taken too. `label` is for people and does not enter the key.
    """

    label: str
    model: str
    items: str
    benchmarks: Sequence[str]
    window: int
    train: str = ""

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean equal scores."""
        return record.config_hash({
            "model": record.hash_files(*(Path(self.model) / name for name in ("config.json", "model.safetensors"))),
            "items": record.hash_files(*(self._file(name) for name in self._read())), "window": self.window,
            "benchmarks": list(self.benchmarks), "train": self.train and TokenStore(Path(self.train)).sha256,
            "code": source_hash(*CODE),
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where the scores lie: `items.csv`, `answers.jsonl` (what was decoded), `record.json` (written last)."""
        return paths.runs() / "evaluated" / self.key

    @property
    def finished(self) -> bool:
        """Whether the scores are complete, and the files those that were written."""
        return seals.finished_record(self.folder) is not None

    def perform(self) -> None:
        """Score the model in this process."""
        from longalign.evals.score import mean_loss, score
        from longalign.models import load_model

        began, model = time.monotonic(), load_model(self.model)
        rows, answers = [], []
        for name in self.benchmarks:
            found, written = score(model, name, self._items(name), window=self.window)
            rows, answers = rows + found, answers + written
        if self.train:
            store = TokenStore(Path(self.train))
            losses = {"train-loss": mean_loss(model, [store[i] for i in range(len(store))]),
                      "test-loss": mean_loss(model, list(self._test_sequences()))}  # fmt: skip
            rows += [{"benchmark": "loss", "task": task, "length": 0, "item": task, "metric": "nll", "value": value}
                     for task, value in losses.items()]  # fmt: skip
        record.write_csv(self.folder / "items.csv", rows, columns=COLUMNS)
        with record.atomic(self.folder / "answers.jsonl") as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        record.write_json(self.folder / "record.json", {
            "files": seals.hashes(self.folder, "items.csv", "answers.jsonl"), "key": self.key,
            "evaluation": asdict(self), "rows": len(rows), "seconds": round(time.monotonic() - began, 1),
        })  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per item and metric (`COLUMNS`) of the finished evaluation."""
        with (self.folder / "items.csv").open(encoding="utf-8", newline="") as file:
            return [{**row, "length": int(row["length"]), "value": float(row["value"])} for row in csv.DictReader(file)]

    def answers(self) -> list[dict[str, Any]]:
        """What was decoded: item, question, reference, answer, score, ceiling."""
        return [json.loads(line) for line in (self.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]

    def progress(self) -> str:
        """One phrase while it is under way."""
        return "scoring"

    def summary(self) -> str:
        """One phrase when it is finished."""
        return f"{json.loads((self.folder / 'record.json').read_text())['rows']:,} scores"

    def _read(self) -> list[str]:
        return [*self.benchmarks, *(["test"] if self.train and "test" not in self.benchmarks else [])]

    def _file(self, name: str) -> Path:
        return Path(self.items) / f"{name}.jsonl"

    def _items(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file(name).read_text(encoding="utf-8").splitlines()]

    def _test_sequences(self) -> Iterator[dict[str, Any]]:
        from longalign.chat import encode

        for item in self._items("test"):
            encoded = encode(item["messages"], tokenizer.load(), max_length=self.window)
            yield {"input_ids": encoded.input_ids, "labels": encoded.labels}


def tidy(experiment: str, evaluations: Mapping[Any, Evaluation]) -> list[dict[str, Any]]:
    """Means over items: one row per arm, model, seed, task, length and metric, as `results/<experiment>.csv` holds
    them.

    The keys of `evaluations` are `experiments.Arm`s. A task with several lengths has a row for each.
    """
    found = []
    for (arm, model, seed), evaluation in evaluations.items():
        cells: dict[tuple[str, int, str], list[float]] = {}
        for row in evaluation.rows():
            cells.setdefault((row["task"], row["length"], row["metric"]), []).append(row["value"])
        found += [
            {"experiment": experiment, "arm": arm, "model": model, "seed": seed, "task": task, "length": length,
             "metric": metric, "value": float(np.mean(values))}
            for (task, length, metric), values in cells.items()
        ]  # fmt: skip
    return found


def write_items(path: Path, evaluations: Mapping[Any, Evaluation]) -> Path:
    """The score of every item, wide: a row per item and metric, a column `model|arm|seed` per evaluation."""
    table: dict[tuple, dict[str, float]] = {}
    for (arm, model, seed), evaluation in evaluations.items():
        for row in evaluation.rows():
            key = tuple(row[name] for name in COLUMNS[:-1])
            table.setdefault(key, {})[f"{model}|{arm}|{seed}"] = row["value"]
    names = [f"{model}|{arm}|{seed}" for arm, model, seed in evaluations]
    rows = [dict(zip(COLUMNS[:-1], key, strict=True)) | {name: values.get(name) for name in names}
            for key, values in table.items()]  # fmt: skip
    return record.write_csv(path, rows, columns=[*COLUMNS[:-1], *names], digits=4)
