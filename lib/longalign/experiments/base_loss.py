"""The loss of short bases on documents that none has read, with its standard error: what a claim on sizes rests on.

    python -m longalign.experiments.base_loss          (the end of `make bases`) writes results/base_loss.csv

Documents and targets are drawn as in the last stage of pre-training (`longalign.miniature.pretraining`): every token of
an answer, one in ten of the others. All models read the same ones.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common import paths, provenance
from longalign.evals import intervals
from longalign.miniature import pretraining, training_sets

TOKENS = 192_000
"""Of held-out documents in all, some 2,000 documents."""


def heldout_documents(tokens: int = TOKENS) -> list[dict[str, Any]]:
    """Documents of the last stage's kinds and lengths that are in no training data, with their targets."""
    stage = replace(pretraining.SECOND, tokens=tokens)
    store = training_sets.documents_store(
        "base-heldout", paths.runs() / "bases" / f"heldout-{tokens}", tokens=tokens, lengths=stage.lengths,
        recall_share=stage.recall_share,
    )  # fmt: skip
    return [store[number] for number in range(len(store))]


def heldout_loss(folder: Path | str, documents: list[dict[str, Any]]) -> dict[str, float]:
    """The mean loss of a model's target tokens (nats), its standard error over documents, and their number."""
    return _summary(*_sums(folder, documents))


def _sums(folder: Path | str, documents: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    from longalign.evals.teacher_forced import sequence_nll
    from longalign.train.models import load_model

    return sequence_nll(load_model(folder), documents)


def _summary(sums: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    loss, error = intervals.ratio(sums, counts)
    return {"loss": loss, "se": error, "documents": len(counts)}


def losses(folders: Iterable[Path], items: Path) -> list[dict[str, Any]]:
    """A row for each base: model, base_seed, the tokens that it has read, loss, se, documents.

    The file `items` gets a row for each document: its number, its target tokens, and the sum of their losses by each
    base in a column `model|base_seed`. Documents differ far more than bases, so that a difference between two bases is
    judged document by document.
    """
    documents, rows, table = heldout_documents(TOKENS), [], {}
    for folder in folders:
        entry = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        about = {"model": entry["model"], "base_seed": entry.get("base", 0)}
        sums, counts = _sums(folder, documents)
        rows.append(about | {"tokens": entry["tokens"]} | _summary(sums, counts))
        table |= {"targets": counts.tolist(), "|".join(map(str, about.values())): sums.tolist()}
    columns = {"document": range(len(documents)), **table}
    provenance.write_csv(items, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    return rows


def write(bases: Path, results: Path) -> Path:
    """The tables base_loss.csv and items/base_loss.csv, below the folder `results`, of all bases below a folder."""
    folders = sorted(record.parent for record in bases.glob("*/record.json"))
    return provenance.write_csv(results / "base_loss.csv", losses(folders, results / "items" / "base_loss.csv"))


def main() -> int:
    """Of the committed bases."""
    print(write(paths.bases(), paths.results()).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
