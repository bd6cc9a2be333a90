"""Held-out losses of bases that read a part of their tokens: over shapes, and over learning rates."""

import csv
from typing import Any

from benchmarks import pilots
from benchmarks.pilots import choice
from longalign.common import paths, provenance
from longalign.experiments.base_loss import heldout_documents, heldout_loss
from longalign.miniature import tokenizer
from longalign.miniature.pretraining import Recipe, build, curriculum, folder_name, train_stages

SHAPE_TOKENS, SHAPE_RATE = 3_000_000, 3e-3
RATE_SHARE = 1 / 4


def shapes() -> None:
    """Write results/pilots/shapes.csv: candidate, seed, loss, se, documents of mini-7b."""
    for seed in pilots.SEEDS:
        for name, sizes in choice.SHAPES.items():
            recipe = Recipe(curriculum(SHAPE_TOKENS, SHAPE_RATE), shape=sizes["mini-7b"])
            _add("shapes", {"candidate": name, "seed": seed}, "mini-7b", recipe, seed)


def rates() -> None:
    """Write results/pilots/rates.csv: model, rate, seed, loss, se, documents; the smallest model first."""
    for model in choice.SHAPES[choice.TODAY]:
        while (rate := choice.next_rate(rows("rates"), model)) is not None:
            recipe = choice.recipes(_shape(), {model: rate}, len(tokenizer.load()), share=RATE_SHARE)[model]
            for seed in pilots.SEEDS:
                _add("rates", {"model": model, "rate": rate, "seed": seed}, model, recipe, seed)


def bases() -> None:
    """Train the chosen bases into results/bases/next, base 0 of every size first; what lies there is kept."""
    from longalign.experiments import base_loss

    folder, recipes = paths.bases() / "next", chosen()
    for base in range(choice.BASES):
        for model in recipes:
            if not (folder / folder_name(model, base) / "record.json").is_file():
                build([(model, base)], folder, recipes)
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


def _add(name: str, about: dict[str, Any], model: str, recipe: Recipe, seed: int) -> None:
    """Add a row to a table, unless it is there."""
    known = rows(name)
    if any(all(float(row[key]) == value if isinstance(value, int | float) else row[key] == value
               for key, value in about.items()) for row in known):  # fmt: skip
        return
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in about.items())}", flush=True)
    ((*_, last),) = train_stages([(model, recipe, seed)])
    found = about | heldout_loss(last.model, heldout_documents()) | {"cpu_seconds": last.record()["cpu_seconds"]}
    provenance.write_csv(pilots.table(name), [*({**row, **_typed(row)} for row in known), found])
    print(found, flush=True)


def _typed(row: dict[str, str]) -> dict[str, Any]:
    texts = ("candidate", "model")
    whole = ("seed", "documents")
    return {key: value if key in texts else int(value) if key in whole else float(value) for key, value in row.items()}


