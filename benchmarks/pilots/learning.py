"""Held-out losses of bases that read a part of their tokens: over shapes, and over learning rates."""

import csv
from typing import Any

from benchmarks import pilots
from benchmarks.pilots import choice
from longalign.common import paths, provenance
from longalign.experiments.base_loss import heldout_documents, heldout_loss
from longalign.miniature import tokenizer
from longalign.miniature.pretraining import Recipe, build, curriculum, train_stages
from longalign.miniature.settings import folder_name

SHAPE_TOKENS, SHAPE_RATE = 3_000_000, 3e-3
RATE_SHARE = 1 / 4


def shapes(jobs: int = 1) -> None:
    """Write results/pilots/shapes.csv: candidate, seed, loss, se, documents of mini-7b."""
    for name, sizes in choice.SHAPES.items():
        recipe = Recipe(curriculum(SHAPE_TOKENS, SHAPE_RATE), shape=sizes["mini-7b"])
        _add("shapes", {"candidate": name}, "mini-7b", recipe, jobs)


def rates(jobs: int = 1) -> None:
    """Write results/pilots/rates.csv: model, rate, seed, loss, se, documents; the smallest model first."""
    for model in choice.SHAPES[choice.TODAY]:
        while (rate := choice.next_rate(rows("rates"), model)) is not None:
            recipe = choice.recipes(_shape(), {model: rate}, len(tokenizer.load()), share=RATE_SHARE)[model]
            _add("rates", {"model": model, "rate": rate}, model, recipe, jobs)


def bases(jobs: int = 1) -> None:
    """Train the chosen bases into results/bases/next, the smallest size first; what lies there is kept."""
    from longalign.experiments import base_loss

    folder, recipes = paths.bases() / "next", chosen()
    wanted = [(model, base) for model in recipes for base in range(recipes[model].count)
              if not (folder / folder_name(model, base) / "record.json").is_file()]  # fmt: skip
    for start in range(0, len(wanted), jobs):
        build(wanted[start : start + jobs], folder, recipes, workers=jobs)
        base_loss.write(folder, folder)


def chosen() -> dict[str, Recipe]:
    """The recipes by the tables of all pilots. Raises ValueError while one is not finished."""
    rates = {model: choice.rate(rows("rates"), model) for model in choice.SHAPES[choice.TODAY]}
    return choice.recipes(_shape(), rates, len(tokenizer.load()))


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a pilot's table as text; none without a table."""
    path = pilots.table(name)
    return list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.is_file() else []


def _shape() -> str:
    return choice.shape_name(rows("speed"), rows("shapes"))


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


