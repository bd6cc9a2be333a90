"""Processor time of a training step, for each candidate shape: same batches, in turn, in one process, one thread."""

import time
from statistics import median
from typing import Any

from benchmarks import pilots
from benchmarks.pilots.choice import NARROW, SHAPES
from longalign.common import paths, provenance

ROUNDS = 3
VARIETY = 4
"""Optimizer steps in a round, each on other sequences."""
EXTENSION = (128, 1024)


def measure(jobs: int = 1) -> None:
    """Write results/pilots/speed.csv: candidate, model, batch, weights, milliseconds (median), ratio to heads of 32.

    What is timed has one job, whatever `jobs` says.
    """
    import torch

    torch.set_num_threads(1)
    kinds, rows = batches(), []
    for model in SHAPES[NARROW]:
        steps = {name: stepper(shapes[model], model) for name, shapes in SHAPES.items()}
        for kind, steps_of_kind in kinds.items():
            taken: dict[str, list[float]] = {name: [] for name in SHAPES}
            for _ in range(ROUNDS):
                for name, step in steps.items():
                    begun = time.process_time()
                    for micro_batches in steps_of_kind:
                        step(micro_batches)
                    taken[name].append((time.process_time() - begun) / len(steps_of_kind))
            narrow = median(taken[NARROW])
            rows += [
                {"candidate": name, "model": model, "batch": kind, "weights": steps[name].weights,
                 "milliseconds": round(1000 * median(values), 1), "ratio": round(median(values) / narrow, 4)}
                for name, values in taken.items()
            ]  # fmt: skip
            print(*rows[-len(SHAPES):], sep="\n", flush=True)
    provenance.write_csv(pilots.table("speed"), rows)


def batches() -> dict[str, list[list[Any]]]:
    """The micro-batches of some optimizer steps of each kind of training, as the laptop's profile has them."""
    from longalign.experiments.profiles import load_profile
    from longalign.miniature import pretraining, training_sets
    from longalign.train.trainer import TrainingConfig

    folder, profile = paths.runs() / "pilots" / "speed", load_profile("laptop")
    training, size = profile.training, pretraining.TOKENS_PER_STEP
    read = {"exponent": 1.0, "capacity": size}
    stores = {
        "base": training_sets.documents_store(
            "speed", folder / "base", tokens=2 * VARIETY * size, lengths=pretraining.SECOND.lengths, recall_share=0.25
        ),
        "extension": training_sets.documents_store(
            "speed", folder / "extension", tokens=2 * VARIETY * size, lengths=EXTENSION, recall_share=0.25
        ),
        "fine-tuning": training_sets.suite_store("LongAlign-10k", profile.corpus, folder / "suite"),
    }
    return {
        "base": _steps(stores["base"], TrainingConfig(**read)),
        "extension": _steps(stores["extension"], TrainingConfig(**read)),
        "packs": _steps(stores["fine-tuning"],
                        TrainingConfig(capacity=training.capacity, micro_batches_per_step=training.packs_per_step)),
        "sorted rows": _steps(stores["fine-tuning"], TrainingConfig(
            method="sorted", rows=training.rows, micro_batches_per_step=training.micro_batches_per_step)),
    }  # fmt: skip


def _steps(store: Any, config: Any) -> list[list[Any]]:
    """Optimizer steps that lie evenly in the plan, since its batches grow or are long here and short there."""
    from longalign.recipe.collators import PackedCollator, PaddedCollator
    from longalign.recipe.dataset import PlannedDataset
    from longalign.train.trainer import make_plans

    dataset = PlannedDataset(store, make_plans(store, config), exponent=config.exponent)
    collate = (PackedCollator if config.method == "packing" else PaddedCollator)(0)
    steps = [range(start, start + dataset.per_step) for start in range(0, len(dataset), dataset.per_step)]
    chosen = [steps[(2 * number + 1) * len(steps) // (2 * VARIETY)] for number in range(VARIETY)]
    return [[collate([dataset[index]]) for index in step] for step in chosen]


class stepper:  # noqa: N801  it is called like a function
    """A model of a shape and its optimizer; called with the micro-batches of a step, it takes the step."""

    def __init__(self, shape: Any, model: str) -> None:
        from dataclasses import asdict

        import torch

        from longalign.miniature import tokenizer
        from longalign.train.models import new_model

        self.model = new_model(model, vocab_size=len(tokenizer.load()), max_length=1024, seed=0, shape=asdict(shape))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.weights = self.model.num_parameters()

    def __call__(self, micro_batches: list[Any]) -> None:
        from torch.nn.utils import clip_grad_norm_

        from longalign.recipe.loss import weighted_loss

        for batch in micro_batches:
            weighted_loss(self.model, batch).backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


