"""Held-out losses of bases that read a part of their tokens: over shapes, and over learning rates."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import pilots
from benchmarks.pilots import choice
from longalign.common import paths, provenance
from longalign.evals.teacher_forced import token_recall
from longalign.experiments.base_loss import heldout_documents, heldout_loss
from longalign.miniature import tokenizer
from longalign.miniature.pretraining import MAX_LENGTH, Recipe, build, curriculum, shape_of, train_stages
from longalign.miniature.settings import folder_name
from longalign.miniature.training_sets import recall_probe
from longalign.train.models import load_model

SHAPE_TOKENS, SHAPE_RATE = 3_000_000, 3e-3
RATE_SHARE, PROBES = 1 / 4, 100


def shapes(jobs: int = 1) -> None:
    """Write results/pilots/shapes.csv: candidate, seed, loss, se, documents of mini-7b."""
    for name, sizes in choice.SHAPES.items():
        recipe = Recipe(curriculum(SHAPE_TOKENS, SHAPE_RATE), shape=sizes["mini-7b"])
        _add("shapes", {"candidate": name}, "mini-7b", recipe, jobs)


def rates(jobs: int = 1) -> None:
    """Write results/pilots/rates.csv: candidate, model, rate, seed, loss, se, documents; the smallest model first."""
    for model in choice.SHAPES[choice.NARROW]:
        candidate = _attention(model)
        while (rate := choice.next_rate(_rates(candidate), model)) is not None:
            recipe = choice.recipe(model, candidate, rate, len(tokenizer.load()), share=RATE_SHARE)
            _add("rates", {"candidate": candidate, "model": model, "rate": rate}, model, recipe, jobs)


def bases(jobs: int = 1) -> None:
    """Train the chosen bases into results/bases/next, the smallest size first; what lies there is kept.

    Writes results/pilots/recall.csv: candidate, model, seed, recall. Another seed takes the place of a base that has
    not learnt to recall. Raises ValueError where that was the first one: its size goes back to the pilot of the rates.
    """
    from longalign.experiments import base_loss

    folder = paths.bases() / "next"
    while wanted := [(model, base) for model, recipe in chosen().items() for base in range(len(recipe.seeds))
                     if not _is_there(folder / folder_name(model, base), model, base)][:jobs]:  # fmt: skip
        build(wanted, folder, chosen(), workers=jobs)
        for model, base in wanted:
            recall(folder / folder_name(model, base))
        base_loss.write(folder, folder)


def recall(base: Path) -> None:
    """Add the recall of a base to the table."""
    entry = json.loads((base / "record.json").read_text())
    about = {"candidate": _attention(entry["model"]), "model": entry["model"], "seed": entry["seed"]}
    found = token_recall(load_model(base), recall_probe(MAX_LENGTH, PROBES))
    provenance.write_csv(pilots.table("recall"), [*map(_typed, rows("recall")), {**about, "recall": found}])


def _is_there(folder: Path, model: str, base: int) -> bool:
    """Whether the base in a folder is the one that is chosen."""
    if not (folder / "record.json").is_file():
        return False
    entry, recipe = json.loads((folder / "record.json").read_text()), chosen()[model]
    return entry["seed"] == recipe.seeds[base] and entry["shape"] == asdict(shape_of(model, recipe))


def chosen() -> dict[str, Recipe]:
    """The recipes by the tables of all pilots. Raises ValueError while one is not finished."""
    found = {}
    for model in choice.SHAPES[choice.NARROW]:
        candidate = _attention(model)
        rate, seeds = choice.rate(_rates(candidate), model), choice.seeds(model, candidate, rows("recall"))
        found[model] = choice.recipe(model, candidate, rate, len(tokenizer.load()), seeds=seeds)
    return found


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a pilot's table as text; none without a table."""
    path = pilots.table(name)
    return list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.is_file() else []


def _attention(model: str) -> str:
    return choice.attention(model, choice.shape_name(rows("speed"), rows("shapes")), rows("recall"))


def _rates(candidate: str) -> list[dict[str, str]]:
    return choice.rows_of(rows("rates"), candidate=candidate)


def _add(name: str, about: dict[str, Any], model: str, recipe: Recipe, jobs: int) -> None:
    """Add to a table the rows of one setting, a row for each seed that it lacks."""
    known = [_typed(row) for row in rows(name)]
    seeds = [seed for seed in pilots.SEEDS if not any((about | {"seed": seed}).items() <= row.items() for row in known)]
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in about.items())}, seeds {seeds}", flush=True)
    trained = train_stages([(model, recipe, seed) for seed in seeds], workers=jobs)
    documents = heldout_documents()
    for seed, runs in zip(seeds, trained, strict=True):
        known.append({**about, "seed": seed, **heldout_loss(runs[-1].model, documents),
                      "cpu_seconds": sum(run.record()["cpu_seconds"] for run in runs)})  # fmt: skip
        print(known[-1], flush=True)
    if seeds:
        provenance.write_csv(pilots.table(name), known)


def _typed(row: dict[str, str]) -> dict[str, Any]:
    texts = ("candidate", "model")
    whole = ("seed", "documents")
    return {key: value if key in texts else int(value) if key in whole else float(value) for key, value in row.items()}


