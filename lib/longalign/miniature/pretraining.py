"""The committed short base models and the recipes that give them: `make bases` trains them anew, or a part of them.

Like the paper's base models they have read short documents only (up to 128 tokens, 8k at 1:64) at RoPE base 10,000.
They are committed because they take longer than a reader waits; each folder's record holds the recipe, the hashes of
its data and the losses of a rehearsal (the recipe's first stage with a few steps), so that a test can hold the code
against what is committed.

    python -m longalign.miniature.pretraining --models mini-7b --bases 1 2

trains two bases of one size; what is finished is reused, and what was stopped goes on from its last checkpoint.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from longalign.common import paths, provenance
from longalign.common.source_hash import source_hash
from longalign.data.store import TokenStore
from longalign.data.tokenize_files import WITHOUT
from longalign.miniature import tokenizer, training_sets
from longalign.miniature.settings import folder_name
from longalign.train.events import read_events
from longalign.train.memory import ModelShape
from longalign.train.models import MINIATURES, load_model
from longalign.train.runs import Run
from longalign.train.workers import execute_all

MAX_LENGTH = 128
TOKENS_PER_STEP = 4096
REHEARSAL_STEPS = 10


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: documents of `lengths` tokens, `tokens` in all, a share of them recall documents."""

    name: str
    lengths: tuple[int, int]
    tokens: int
    recall_share: float
    learning_rate: float
    schedule: str


# Looking words up must be learned first, from the densest lessons; everything else builds on it.
FIRST = Stage("first", (64, 64), 1_800_000, 1.0, 3e-3, "constant_with_warmup")
SECOND = Stage("second", (64, MAX_LENGTH), 5_600_000, 0.25, 3e-3, "cosine")


@dataclass(frozen=True)
class Recipe:
    """How the bases of a size come to be: base b has the seed `seeds[b]` in its weights, documents and order.

    `shape` is that of `longalign.train.models.MINIATURES` where there is none here.
    """

    stages: tuple[Stage, ...] = (FIRST, SECOND)
    seeds: tuple[int, ...] = (0,)
    shape: ModelShape | None = None


def curriculum(tokens: int, learning_rate: float) -> tuple[Stage, ...]:
    """Both stages with `tokens` tokens in all, shared between them as in `FIRST` and `SECOND`, at a learning rate.

    >>> [stage.tokens for stage in curriculum(7_400_000, 3e-3)]
    [1800000, 5600000]
    """
    share = tokens / (FIRST.tokens + SECOND.tokens)
    return tuple(
        replace(stage, tokens=round(stage.tokens * share), learning_rate=learning_rate) for stage in (FIRST, SECOND)
    )


# 14 tokens for each weight. Left out are seeds of which the base has not learnt to look words up (benchmarks.pilots).
RECIPES = {
    "mini-6b": Recipe(curriculum(6_705_216, 3e-3)),
    "mini-7b": Recipe(curriculum(7_866_432, 3e-3), seeds=(0, 2, 3)),
    "mini-13b": Recipe(curriculum(16_972_032, 3e-3), seeds=(0, 1, 2)),
}


def shape_of(model: str, recipe: Recipe | None = None) -> ModelShape:
    """The shape of a miniature, by a recipe or by the committed one's.

    >>> shape_of("mini-13b").hidden_size
    128
    """
    return (recipe or RECIPES[model]).shape or MINIATURES[model]


def training(stage: Stage, width: int, seed: int = 0) -> dict[str, Any]:
    """The configuration of a stage: packs of 4,096 tokens, the mean over target tokens (exponent 1).

    The learning rate, given for a width of 96, falls with the `width` of the model.
    """
    return {
        "method": "packing", "exponent": 1.0, "epochs": 1, "capacity": TOKENS_PER_STEP, "rows": 1,
        "micro_batches_per_step": 1, "learning_rate": stage.learning_rate * 96 / width, "schedule": stage.schedule,
        "checkpoint_every": 200,
        **({"seed": seed} if seed else {}),
    }  # fmt: skip


def documents(stage: Stage, folder: Path, seed: int = 0) -> TokenStore:
    """The documents of a stage as a token store below `folder`, in a folder of its own for every stage, seed and code.
    Whatever the rate, they are the same; fewer tokens are the first of more."""
    code = source_hash("miniature.training_sets.documents_store", without=WITHOUT)
    read = {name: value for name, value in asdict(stage).items() if name not in ("learning_rate", "schedule")}
    key = provenance.config_hash({**read, "seed": seed, "code": code})
    print(f"documents of the {stage.name} stage: {stage.tokens:,} tokens", flush=True)
    return training_sets.documents_store(
        f"base-{stage.name}", folder / f"{stage.name}-{key}",
        tokens=stage.tokens, lengths=stage.lengths, recall_share=stage.recall_share, seed=seed,
    )  # fmt: skip


def stage_run(
    model: str, stage: Stage, store: TokenStore, *, before: Run | None = None, seed: int = 0,
    shape: ModelShape | None = None,
) -> Run:  # fmt: skip
    """One stage of a model: from the run of the stage `before`, or from a random initialisation by `seed`."""
    new_model = {"name": model, "vocab_size": len(tokenizer.load()), "max_length": MAX_LENGTH, "seed": seed}
    if shape:
        new_model["shape"] = asdict(shape)
    start = {"start": str(before.model)} if before else {"new_model": new_model}
    width = (shape or MINIATURES[model]).hidden_size
    return Run(f"{model} base {seed} {stage.name} stage", str(store.folder), training(stage, width, seed), **start)


def rehearse(model: str, folder: Path, recipe: Recipe | None = None, seed: int = 0) -> list[float]:
    """Losses of the first stage cut to a few steps: what tells that code, data and initialisation are still the
    same."""
    recipe = recipe or RECIPES[model]
    stage = replace(recipe.stages[0], tokens=REHEARSAL_STEPS * TOKENS_PER_STEP)
    run = stage_run(model, stage, documents(stage, folder, seed), seed=seed, shape=recipe.shape)
    execute_all([run])
    return [event["loss"] for event in read_events(run.folder / "events.jsonl")]


def train_stages(wanted: Iterable[tuple[str, Recipe, int]], *, workers: int = 1) -> list[list[Run]]:
    """The finished runs of all stages of some bases, given as model, recipe and seed: a stage of all, then the next."""
    wanted, data = list(wanted), paths.runs() / "bases"
    runs: list[list[Run]] = [[] for _ in wanted]
    for number in range(max((len(recipe.stages) for _, recipe, _ in wanted), default=0)):
        for (model, recipe, seed), done in zip(wanted, runs, strict=True):
            stage = recipe.stages[number]
            store, before = documents(stage, data, seed), done[-1] if done else None
            done.append(stage_run(model, stage, store, before=before, seed=seed, shape=recipe.shape))
        execute_all([done[-1] for done in runs], workers=workers)
    return runs


def build(
    wanted: Sequence[tuple[str, int]], folder: Path, recipes: dict[str, Recipe] = RECIPES, *, workers: int = 1
) -> None:
    """Train bases, given as model and number, and put each into `folder`: config, safetensors, record.json. As many as
    there are workers are trained side by side, and put there before the next ones begin."""
    for start in range(0, len(wanted), workers):
        some = wanted[start : start + workers]
        seeded = [(model, recipes[model], recipes[model].seeds[base]) for model, base in some]
        for (model, base), one, runs in zip(some, seeded, train_stages(seeded, workers=workers), strict=True):
            _, recipe, seed = one
            rehearsal = rehearse(model, paths.runs() / "bases", recipe, seed)
            _commit(model, recipe, base, runs, folder / folder_name(model, base), rehearsal=rehearsal)


def _commit(
    model: str, recipe: Recipe, base: int, runs: list[Run], target: Path, *, rehearsal: list[float]
) -> None:
    target.mkdir(parents=True, exist_ok=True)
    load_model(runs[-1].model).half().save_pretrained(target)
    (target / "generation_config.json").unlink(missing_ok=True)
    records = [run.record() for run in runs]
    provenance.write_json(target / "record.json", {
        "model": model, "base": base, "seed": recipe.seeds[base], "shape": asdict(shape_of(model, recipe)),
        "stages": [asdict(stage) for stage in recipe.stages],
        "data": [entry["data"] for entry in records], "tokens": sum(entry["tokens"] for entry in records),
        "seconds": sum(entry["seconds"] for entry in records), "hardware": records[-1]["hardware"],
        "versions": records[-1]["versions"], "sha256": provenance.hash_files(target / "model.safetensors"),
        "rehearsal_losses": rehearsal,
        "last_loss": read_events(runs[-1].folder / "events.jsonl")[-1]["loss"],
    })  # fmt: skip


def main() -> None:
    """Command line of `make bases`."""
    parser = argparse.ArgumentParser(prog="python -m longalign.miniature.pretraining", description=main.__doc__)
    parser.add_argument("--models", nargs="+", default=list(MINIATURES), choices=list(MINIATURES))
    parser.add_argument("--bases", nargs="+", type=int, help="numbers of bases, from 0 (default: all)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    wanted = [
        (model, base) for model in arguments.models for base in range(len(RECIPES[model].seeds))
        if arguments.bases is None or base in arguments.bases
    ]  # fmt: skip
    build(wanted, paths.bases(), workers=arguments.workers)


if __name__ == "__main__":
    main()
