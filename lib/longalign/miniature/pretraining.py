"""The committed short base models and the recipe that gives them: `make bases` trains them anew (some twenty
minutes on 2 cores).

Like the paper's base models they have read short documents only (up to 128 tokens, 8k at 1:64) at RoPE base 10,000.
They are committed because they take longer than a reader waits; each folder's record holds the recipe, the hashes of
its data and the losses of a rehearsal (the recipe's first stage with a few steps), so that a test can hold the code
against what is committed.
"""

import argparse
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from longalign.common import paths, provenance
from longalign.common.source_hash import source_hash
from longalign.data.store import TokenStore
from longalign.data.tokenize_files import WITHOUT
from longalign.miniature import tokenizer, training_sets
from longalign.train.events import read_events
from longalign.train.models import MINIATURES
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
CURRICULA = {
    "mini-6b": (FIRST, SECOND),
    "mini-7b": (FIRST, SECOND),
    "mini-13b": (FIRST, SECOND),
}


def training(stage: Stage, model: str) -> dict[str, Any]:
    """The configuration of a stage: packs of 4,096 tokens, the mean over target tokens (exponent 1).

    The learning rate, given for a width of 96, falls with the width of the model.
    """
    learning_rate = stage.learning_rate * 96 / MINIATURES[model].hidden_size
    return {
        "method": "packing", "exponent": 1.0, "epochs": 1, "capacity": TOKENS_PER_STEP, "rows": 1, "accumulation": 1,
        "learning_rate": learning_rate, "schedule": stage.schedule, "checkpoint_every": 200,
    }  # fmt: skip


def documents(stage: Stage, folder: Path) -> TokenStore:
    """The documents of a stage as a token store below `folder`, in a folder of its own for every stage and code."""
    code = source_hash("miniature.training_sets.documents_store", without=WITHOUT)
    key = provenance.config_hash({**asdict(stage), "code": code})
    print(f"documents of the {stage.name} stage: {stage.tokens:,} tokens")
    return training_sets.documents_store(
        f"base-{stage.name}", folder / f"{stage.name}-{key}",
        tokens=stage.tokens, lengths=stage.lengths, recall_share=stage.recall_share,
    )  # fmt: skip


def stage_run(model: str, stage: Stage, store: TokenStore, *, before: Run | None = None) -> Run:
    """One stage of a model: from the run of the stage `before`, or from a random initialisation."""
    new_model = {"name": model, "vocab_size": len(tokenizer.load()), "max_length": MAX_LENGTH, "seed": 0}
    start = {"start": str(before.model)} if before else {"new_model": new_model}
    return Run(f"{model} {stage.name} stage", str(store.folder), training(stage, model), **start)


def rehearse(model: str, folder: Path) -> list[float]:
    """Losses of the first stage cut to a few steps: what tells that code, data and initialisation are still the
    same."""
    run = stage_run(model, FIRST, documents(replace(FIRST, tokens=REHEARSAL_STEPS * TOKENS_PER_STEP), folder))
    execute_all([run])
    return [event["loss"] for event in read_events(run.folder / "events.jsonl")]


def build(models: list[str], folder: Path, *, workers: int = 2) -> None:
    """Train the short bases and put them into `folder`/<model>: config, safetensors, record.json."""
    data = paths.runs() / "bases"
    runs: dict[str, list[Run]] = {model: [] for model in models}
    for number in range(max(len(CURRICULA[model]) for model in models)):
        learners = {model: CURRICULA[model][number] for model in models if number < len(CURRICULA[model])}
        for model, stage in learners.items():
            before = runs[model][-1] if runs[model] else None
            runs[model].append(stage_run(model, stage, documents(stage, data), before=before))
        execute_all([runs[model][-1] for model in learners], workers=workers)
    for model in models:
        _commit(model, runs[model], folder / model, rehearsal=rehearse(model, data))


def _commit(model: str, runs: list[Run], target: Path, *, rehearsal: list[float]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(runs[-1].model / name, target / name)
    records = [run.record() for run in runs]
    provenance.write_json(target / "record.json", {
        "model": model, "shape": asdict(MINIATURES[model]), "stages": [asdict(stage) for stage in CURRICULA[model]],
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
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    build(arguments.models, paths.bases(), workers=arguments.workers)


if __name__ == "__main__":
    main()
