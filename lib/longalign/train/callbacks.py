"""What happens at the steps of a training beside the training: events, seals, snapshots, and the end of a run that
has lost its way.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch.utils.data import DataLoader, RandomSampler, Subset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from longalign.common import paths, provenance
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe import architectures
from longalign.recipe.batching import Step
from longalign.recipe.collators import PaddedCollator
from longalign.recipe.dataset import EvaluationDataset, PlannedDataset
from longalign.train import arguments, checkpoints, preflight, resumed
from longalign.train.events import read_events


class EventLog(TrainerCallback):
    """Appends one JSON line per optimizer step: step, steps, loss, grad_norm, learning_rate, tokens, seconds,
    cpu_seconds, memory_mb (the largest so far, of rank 0's device or process).

    After a resume the lines past the checkpoint are dropped, and time goes on from the last line kept.
    """

    def __init__(self, path: Path, tokens_per_step: list[int]):
        self.path, self.tokens_per_step = path, tokens_per_step
        self.offset = {"seconds": 0.0, "cpu_seconds": 0.0}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, D102
        kept = [event for event in read_events(self.path) if event["step"] <= state.global_step]
        if kept:
            self.offset = {name: kept[-1][name] for name in self.offset}
        if state.is_world_process_zero:
            whole = self.path.with_suffix(".part")  # in one step: who is killed meanwhile loses no line
            whole.write_text("".join(json.dumps(event) + "\n" for event in kept))
            whole.replace(self.path)
        self.tokens = sum(self.tokens_per_step[: state.global_step])
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN001, ANN003, D102
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        self.tokens += self.tokens_per_step[state.global_step - 1]
        event = {
            "step": state.global_step, "steps": state.max_steps, "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"), "learning_rate": logs["learning_rate"], "tokens": self.tokens,
            "seconds": round(self.offset["seconds"] + time.perf_counter() - self.started, 3),
            "cpu_seconds": round(self.offset["cpu_seconds"] + time.process_time() - self.cpu_started, 3),
            "memory_mb": round(_peak_memory_mb()),
        }  # fmt: skip
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")


class Preflight(TrainerCallback):
    """Proves, before the first step and with the engine ready, that this training is exact (`preflight`), however many
    ranks share a micro-batch."""

    def __init__(self, method: str, longest: int, shared_by: set[int]):
        self.method, self.longest, self.shared_by = method, longest, sorted(shared_by)

    def on_train_begin(self, args, state, control, model=None, **kwargs):  # noqa: ANN001, ANN003, D102
        for count in self.shared_by:
            preflight.prove(model, self.method, longest=self.longest, sequence_parallel=count)


class PlanGuard(TrainerCallback):
    """Notes in every checkpoint which sequences and targets the steps of a `PlannedDataset` have trained, with which
    weights, and refuses to go on from one that has trained others: the Trainer would pass over as many steps, whatever
    they hold.

    Other ranks, another accumulation per rank and more epochs behind are the same plan. Refused are also a Trainer's
    dataset that does not hold the plan's micro-batches in their order (COMPARED of them are compared, evenly spaced, of
    a stream the first), a schedule of weightings where the Trainer makes another number of steps than the plans have, a
    model of which no weight is trained, what `preflight` refuses by a look at the model and the arguments, which may
    have become others since, weights other than those with which the checkpoint was written (the Trainer passes over
    what it does not find there under the model's own names, such as experts that are saved one by one), weights that
    are not trained and have become others, and a checkpoint of the model alone, without which the optimizer and the
    learning rate would begin anew. Raises ValueError before the first step, for a best model that is loaded at the end
    after the last, for an evaluation that leaves out a part of its `EvaluationDataset` at its first batch; the
    checkpoint stays.
    """

    KEY = "longalign_targets"
    COMPARED = 64

    def __init__(self, dataset: PlannedDataset):
        self.dataset = dataset

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, lr_scheduler=None, **kwargs):  # noqa: ANN001, ANN003, D102
        steps, name = len(self.dataset.steps), f"checkpoint-{state.global_step}"
        self._look(args, model)
        if train_dataloader is not None and self.dataset.rank is None:
            self._compare(train_dataloader)
        if len(self.dataset.stages) > 1 and state.max_steps != steps:
            raise ValueError(
                f"the weighting is a schedule over {steps:,} steps, and the Trainer makes {state.max_steps:,}: make a "
                "plan for each epoch and set num_train_epochs to 1; where max_steps ends it, give PlannedDataset steps"
            )
        self.trained, self.ahead = "", cycle(range(steps))
        for number in islice(self.ahead, state.global_step):
            self._count(number)
        if state.global_step and self.KEY not in state.stateful_callbacks and state.is_world_process_zero:
            print(f"the checkpoint of step {state.global_step} does not say which sequences it has trained; training "
                  "goes on as if they were those of this plan")  # fmt: skip
        if state.stateful_callbacks.get(self.KEY, self.trained) != self.trained:
            raise ValueError(
                f"the checkpoint of step {state.global_step} has trained other sequences, or with other weights, than "
                f"the first {state.global_step} steps of this plan: go on with the data, the plan and the weighting of "
                f"its start, or begin again in another folder than {args.output_dir}"
            )
        resumed.check_states(lr_scheduler, name, step=state.global_step)
        if model is not None:
            resumed.check_best(model, args)
            resumed.check_weights(state.stateful_callbacks, model, name, step=state.global_step)

    def on_train_end(self, args, state, control, model=None, **kwargs):  # noqa: ANN001, ANN003, D102
        if args.load_best_model_at_end and state.best_model_checkpoint and model is not None:
            best = Path(state.best_model_checkpoint)
            if (file := best / "trainer_state.json").is_file():  # it may lie on the first node alone
                told = json.loads(file.read_text(encoding="utf-8"))
                resumed.check_weights(told["stateful_callbacks"], model, best.name, step=told["global_step"])

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):  # noqa: ANN001, ANN003, D102
        dataset, shared = getattr(eval_dataloader, "dataset", None), args.world_size * args.eval_batch_size
        whole = dataset.dataset if isinstance(dataset, Subset) else dataset
        if not isinstance(whole, EvaluationDataset):
            return
        read = len(dataset) - len(dataset) % shared * args.dataloader_drop_last
        if dataset is not whole or read < len(whole):
            raise ValueError(
                f"the evaluation reads {read:,} of the {len(whole):,} elements of its EvaluationDataset, which are "
                f"weighted for all: give the Trainer the whole of one that is made with ranks={args.world_size}"
            )

    def _look(self, args: TrainingArguments, model: PreTrainedModel | None) -> None:
        if self.dataset.rank is None:  # else the micro-batches were dealt by who knows the processes
            arguments.check_steps(args, self.dataset.ranks, self.dataset.accumulation)
        if model is None or not self.dataset.steps:
            return
        plan, _ = self.dataset.steps[0]
        arguments.check_router(model, args)  # first, since TRL changes what the model's configuration says
        reason = architectures.why_not_trained(model, plan.method, int(plan.lengths.max()))
        if reason := reason or arguments.why_nothing_learnt(model):
            raise ValueError(reason)

    def _compare(self, loader: DataLoader) -> None:
        given, count, sampler = loader.dataset, len(self.dataset), loader.batch_sampler
        while hasattr(sampler, "batch_sampler"):  # accelerate deals what it gives to the processes
            sampler = sampler.batch_sampler
        order = loader.sampler if sampler is None else getattr(sampler, "sampler", chain.from_iterable(sampler))
        places, found, told = range(count), given, None
        if isinstance(order, RandomSampler):
            told = "the Trainer's DataLoader shuffles"
        elif isinstance(loader, DataLoaderDispatcher):  # which slices every tensor of a batch
            told = "the Trainer's dataset is a stream, whose batches accelerate cuts"
        elif hasattr(given, "__len__") and len(given) != count:
            told = f"the Trainer's dataset has {len(given):,} elements, and the plans have {count:,} micro-batches"
        elif hasattr(given, "__len__") and not _in_order(order, count):
            told = "the sampler of the Trainer's DataLoader takes another order than the plans"
        elif given is not self.dataset:
            if hasattr(given, "__len__"):
                places = range(0, count, -(-count // self.COMPARED) or 1)
                found = (given[place] for place in places)
            for place, element in zip(places[: self.COMPARED], found, strict=False):
                wanted = (PaddedCollator(0)([feature]) for feature in self.dataset[place])
                if not np.allclose(_learnt([loader.collate_fn([element])]), _learnt(wanted), rtol=1e-5, atol=0):
                    told = f"element {place:,} of the Trainer's dataset is another micro-batch than the plan has there"
                    break
        if told:
            raise ValueError(
                f"{told}, so that micro-batches would leave the step that they are weighted for: give the Trainer all "
                "micro-batches of the PlannedDataset in their order, without shuffle, filter or select (max_steps ends "
                "a training earlier)"
            )

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, D102
        self._count(next(self.ahead))
        state.stateful_callbacks[self.KEY] = self.trained

    def on_save(self, args, state, control, model=None, **kwargs):  # noqa: ANN001, ANN003, D102
        told = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "trainer_state.json"
        if model is None or not args.should_save or not told.is_file():
            return
        # here and not at the step's end, when others may still ask for a checkpoint
        state.stateful_callbacks[resumed.WEIGHTS] = [state.global_step, *resumed.bits_of(model)]
        state.save_to_json(str(whole := told.with_suffix(".part")))
        whole.replace(told)

    def _count(self, number: int) -> None:
        plan, step = self.dataset.steps[number]
        digest, weights = hashlib.sha256(self.trained.encode()), self.dataset.weights_of(number)
        for index in sorted(step.sequences):
            digest.update(f"{weights[index]:.4e}".encode())  # sums of other ranks may round otherwise
            sequence = self.dataset.sequences[index]
            ids, labels = sequence["input_ids"], np.asarray(sequence["labels"])
            some = np.asarray(ids[:: 1 + len(ids) // 64], dtype=np.int64)  # of which two sequences hardly share all
            places = np.flatnonzero(labels != IGNORE_INDEX).sum()
            digest.update(np.int64([index, len(ids), plan.target_counts[index], places, *some]).tobytes())
        self.trained = digest.hexdigest()


class StopOnNonFinite(TrainerCallback):
    """Stops at the first step whose loss is no number, before it can be saved; `steps` are the plan's."""

    def __init__(self, steps: list[Step]):
        self.steps = steps

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN001, ANN003, D102
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(
                f"the loss of step {state.global_step} is {logs['loss']}; its sequences are "
                f"{sorted(self.steps[state.global_step - 1].sequences)}. The last checkpoint is kept: check these "
                "sequences, or lower the learning rate"
            )


class Seal(TrainerCallback):
    """Seals every checkpoint: only a sealed one is gone on from. Mends what is amiss with one that was loaded."""

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):  # noqa: ANN001, ANN003, D102
        if args.deepspeed and args.deepspeed["checkpoint"]["load_universal"]:
            checkpoints.separate_steps(optimizer.optimizer.optimizer, args.weight_decay)

    def on_save(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, D102
        if args.world_size > 1:
            torch.distributed.barrier()  # every rank has written its part
        if state.is_world_process_zero:
            zero = args.deepspeed["zero_optimization"]["stage"] if args.deepspeed else None
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            checkpoints.finish(checkpoint, world_size=args.world_size, zero=zero)
        if args.world_size > 1:
            torch.distributed.barrier()  # it is sealed: whoever ends now ends nobody's work


class StopOnWarning(TrainerCallback):
    """Saves a checkpoint and stops, all ranks at the same step, when the job around it is about to be ended; `stopped`
    says whether it did."""

    stopped = False

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, D102
        warned = torch.tensor(float(paths.warned()), device=args.device)
        if args.world_size > 1:
            torch.distributed.broadcast(warned, src=0)
        if warned.item() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


class Snapshots(TrainerCallback):
    """Keeps the model at `count` evenly spaced steps, the last one included, as `snapshots/step-00042` and so on."""

    def __init__(self, trainer: Any, folder: Path, steps: int, count: int):
        self.trainer, self.folder = trainer, folder
        self.steps = {round(steps * (i + 1) / count) for i in range(count)} - {0}

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, D102
        if state.global_step in self.steps:
            self.trainer.write_model(self.folder / "snapshots" / f"step-{state.global_step:05d}")


def _in_order(order: Iterable[int], count: int) -> bool:
    """Whether a sampler takes each of `count` elements once, from the first to the last; of them, as torch's
    DistributedSampler does, those of its rank."""
    rank, ranks = getattr(order, "rank", 0), getattr(order, "num_replicas", 1)
    return list(islice(order, count + 1)) == [*range(count)][rank::ranks]


def _learnt(batches: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Two numbers that say which targets batches hold, with which weights, whatever rows these lie in."""
    numbers = np.zeros(2)
    for labels, weights in ((batch["labels"], batch["loss_weights"].double()) for batch in batches):
        numbers += float((labels != IGNORE_INDEX).sum()), float((weights * (labels + 1))[labels != IGNORE_INDEX].sum())
    return numbers


def _peak_memory_mb() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else provenance.peak_memory_mb()
