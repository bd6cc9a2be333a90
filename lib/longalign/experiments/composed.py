"""Training time on many ranks, composed: every micro-batch of a plan is timed alone, and a step ends with its slowest.

One process passes each micro-batch forward and backward, with the model, the collator and the loss of a training run,
in processor time, which counts what a process computes and not what other programs do meanwhile. From these times
follows what a plan takes on as many ranks as it has, which wait for each other in every micro-step (ZeRO-3 gathers the
weights from all ranks) or once in a step: "measured micro-batches, composed ranks". Communication is not in it.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common import checksums, paths, provenance
from longalign.common.array_types import Float
from longalign.common.source_hash import source_hash
from longalign.data.store import TokenStore
from longalign.experiments import timing
from longalign.experiments.design import Arm
from longalign.experiments.operations import PAPER_ACCUMULATION
from longalign.recipe.batching import MicroBatch, Plan
from longalign.recipe.cost import slowest
from longalign.train.runs import WITHOUT, Run

LABEL = "measured micro-batches, composed ranks"
PASSES = 2
"""Times that every micro-batch is timed; what interrupts a process only makes it slower, so the least time counts."""
OPTIMIZER_STEPS = 10


@dataclass(frozen=True)
class Times:
    """Processor seconds of each micro-batch, by its rows, and of what the optimizer does in a step.

    >>> from longalign.recipe.batching import plan_naive
    >>> plan = plan_naive([2, 4, 3], ranks=2, accumulation=2, seed=1)                # rank 0: 2, 3; rank 1: 4, a filler
    >>> times = Times({((0,),): 2.0, ((1,),): 4.0, ((2,),): 3.0, (): 0.5}, optimizer=0.25)
    >>> times.of(plan).tolist()
    [[[2.0, 3.0], [4.0, 0.5]]]
    >>> times.epoch(plan, barrier="micro_step"), times.epoch(plan, barrier="step")
    (7.25, 5.25)
    """

    micro_batches: dict[MicroBatch, float]
    optimizer: float

    def of(self, plan: Plan) -> Float[np.ndarray, "steps ranks accumulation"]:
        """Seconds of every micro-batch of a plan. Raises KeyError for one that was not timed."""
        return np.array([[[self.micro_batches[rows] for rows in rank] for rank in step.micro_batches]
                         for step in plan.steps])  # fmt: skip

    def epoch(self, plan: Plan, *, barrier: str) -> float:
        """Seconds of the plan's steps on its ranks; they wait in every "micro_step", or at the end of a "step"."""
        return float(slowest(self.of(plan), barrier).sum() + len(plan.steps) * self.optimizer)


@dataclass(frozen=True)
class Timed:
    """A job (`longalign.train.workers.Job`): the times of all micro-batches of the first epoch of `run` on `ranks`.

    `run` holds the fields of a `Run`. `label` is for people and does not enter the key.
    """

    label: str
    run: dict[str, Any]
    ranks: int

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean the same micro-batches, timed by the same code."""
        without = ("train.runs", "train.trainer", "train.models", "data.store", *WITHOUT)  # in the run's own key
        code = source_hash("experiments.composed._seconds", without=without)
        return provenance.config_hash({"run": self._run.key, "ranks": self.ranks, "passes": PASSES, "code": code})

    @property
    def folder(self) -> Path:
        """Where the times lie: `seconds.json`, `record.json` (written last)."""
        return paths.runs() / "timed" / self.key

    @property
    def finished(self) -> bool:
        """Whether the times are complete."""
        return checksums.finished_record(self.folder) is not None

    def perform(self) -> None:
        """Time every micro-batch in this process, with one thread."""
        import torch

        began = time.monotonic()
        torch.set_num_threads(1)
        seconds = _seconds(self._run, self.ranks)
        provenance.write_json(self.folder / "seconds.json", seconds)
        provenance.write_json(self.folder / "record.json", {
            "files": checksums.hashes(self.folder, "seconds.json"), "key": self.key, "timed": asdict(self),
            "seconds": round(time.monotonic() - began, 1), "micro_batches": len(seconds["rows"]),
            "versions": provenance.versions(), "hardware": provenance.hardware(),
        })  # fmt: skip

    def times(self, only: int | None = None) -> Times:
        """The least time of each micro-batch, or that of one pass; of the optimizer's steps the median."""
        kept = json.loads((self.folder / "seconds.json").read_text(encoding="utf-8"))
        seconds = np.array(kept["seconds"])
        chosen = (seconds.min(axis=0) if only is None else seconds[only]).tolist()
        rows = (tuple(map(tuple, micro_batch)) for micro_batch in kept["rows"])
        return Times(dict(zip(rows, chosen, strict=True)), float(np.median(kept["optimizer"])))

    @property
    def processor(self) -> str:
        """The processor on which the times were taken, from the record."""
        return json.loads((self.folder / "record.json").read_text(encoding="utf-8"))["hardware"]["processor"]

    def progress(self) -> str:
        """One phrase while it is under way."""
        return "timing"

    def summary(self) -> str:
        """One phrase when it is finished."""
        record = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))
        return f"{record['micro_batches']:,} micro-batches timed in {record['seconds']:.0f} s"

    @property
    def _run(self) -> Run:
        return Run(**self.run)


def as_in_the_paper(run: Run) -> Run:
    """One epoch of `run` as on the paper's 8 ranks: one row at a time, 12 rows of each rank in a step; or one pack."""
    accumulation = 1 if run.training["method"] == "packing" else PAPER_ACCUMULATION
    alone = timing.on_devices(run, ranks=8)
    return replace(alone, training={**alone.training, "micro_batches_per_step": 8 * accumulation})


def timed(run: Run, *, ranks: int) -> Timed:
    """The job that times the micro-batches of one epoch of `run` on `ranks`."""
    return Timed(f"{run.label}, {ranks} ranks", asdict(run), ranks)


def tidy(arm: Arm, task: str, plan: Plan, timed: Timed, *, barrier: str) -> list[dict[str, Any]]:
    """Rows of composed_times.csv: what a plan takes on its ranks, the share of it that they wait, and how often."""
    times = timed.times()
    computed = slowest(times.of(plan), barrier).sum()
    found = {
        "seconds": times.epoch(plan, barrier=barrier),
        "idle share": 1 - times.of(plan).sum() / (plan.ranks * computed),
        "waits per micro-step": 1.0 if barrier == "micro_step" else 1 / plan.accumulation,
    }
    return [{"experiment": "composed_times", **arm._asdict(), "task": task, "length": 0, "metric": metric,
             "value": float(value), "kind": LABEL, "processor": timed.processor}
            for metric, value in found.items()]  # fmt: skip


def _seconds(run: Run, ranks: int) -> dict[str, Any]:
    """Rows of each micro-batch (the filler first), their seconds [passes][micro-batches], seconds of optimizer steps.

    In every pass the micro-batches come in the order of the plan.
    """
    from longalign.recipe.loss import attach_loss_head

    model = timing.model_of(run)
    attach_loss_head(model)
    model.train()
    rows, batches = _micro_batches(run, ranks)
    _pass(model, max(batches, key=lambda batch: batch["input_ids"].numel()))  # loads what is loaded once
    seconds = [[_pass(model, batch) for batch in batches] for _ in range(PASSES)]
    return {"rows": rows, "seconds": seconds, "optimizer": _optimizer_seconds(model, run)}


def _micro_batches(run: Run, ranks: int) -> tuple[list[MicroBatch], list[dict[str, Any]]]:
    from longalign.recipe.collators import PackedCollator, PaddedCollator
    from longalign.recipe.dataset import PlannedDataset
    from longalign.train.trainer import TrainingConfig, make_plans

    store, config = TokenStore(Path(run.store)), TrainingConfig(**run.training)
    plan = make_plans(store, config, ranks=ranks)[0]
    dataset = PlannedDataset(store, [plan], exponent=config.exponent, weighting=config.weighting)
    collator = (PackedCollator if config.method == "packing" else PaddedCollator)(0)
    planned = chain.from_iterable(_in_turn(step.micro_batches) for step in plan.steps)
    found = {rows: features for rows, features in zip(planned, dataset, strict=True) if rows}
    return [(), *found], [collator(features) for features in ([], *found.values())]


def _in_turn(micro_batches: Iterable[Iterable[MicroBatch]]) -> Iterable[MicroBatch]:
    """Micro-step by micro-step, rank by rank: the order of a dataset that holds all ranks."""
    return chain.from_iterable(zip(*micro_batches, strict=True))


def _pass(model: Any, batch: dict[str, Any]) -> float:
    from longalign.recipe.loss import weighted_loss

    begun = time.process_time()
    weighted_loss(model, dict(batch)).backward()
    return time.process_time() - begun


def _optimizer_seconds(model: Any, run: Run) -> list[float]:
    """Of clipping the gradients, AdamW's step and forgetting the gradients, as the Trainer does once in a step."""
    import torch

    settings = run.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"])
    found = []
    for _ in range(OPTIMIZER_STEPS + 1):
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, 1e-4)
        begun = time.process_time()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        found.append(time.process_time() - begun)
    return found[1:]  # the first makes the optimizer's state
