"""From one YAML file to a training on any number of devices, and what it will take before it is started.

    python -m longalign.train.jobs job.yaml --out trained --dry-run       (longalign train)

The file holds `model` (a folder), `data` (a token store), `training` (the fields of `config.TrainingConfig` as one
process would have them: the engine's ranks share the micro-batches of a step), `engine` (the fields of `Parallelism`),
and for a longer context `rope_factor`, `rope_type` and `max_length`. A job that was interrupted goes on where it was,
on other ranks if need be; the same job is done once.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from longalign.common import paths
from longalign.common.config import ConfigError, read_yaml, typed
from longalign.data import store_tokenizer
from longalign.data.store import TokenStore
from longalign.recipe.batching import Plan
from longalign.recipe.cost import A800, LLAMA_2_7B, SequenceCost
from longalign.recipe.packing import ALGORITHMS
from longalign.recipe.summary import summarize
from longalign.recipe.weights import loss_weights
from longalign.train import language_part, launcher, models, workers
from longalign.train.config import SCHEDULES, TrainingConfig
from longalign.train.memory import Footprint, ModelShape, footprint, free_memory, smallest_that_fits
from longalign.train.needs import largest_micro_batch, layers_differ, model_shape, windows_in_full
from longalign.train.parallelism import Parallelism, deepspeed_config
from longalign.train.prediction import SENT_PER_SECOND, Pace, predict
from longalign.train.runs import Run, extension_of
from longalign.train.sequence_parallel import check_heads
from longalign.train.trainer import make_plans

SOON = 2**31
"""Bytes of a model that is loaded once more before a training, so that its refusal takes one line and no rank."""
LEAST = {"epochs": 1, "checkpoint_every": 1, "steps": 0, "snapshots": 0, "group_size": 0, "lora_rank": 0,
         "max_grad_norm": 0, "weight_decay": 0, "learning_rate": 0, "warmup_ratio": 0, "beta1": 0, "beta2": 0,
         "exponent": 0, "seed": 0}  # fmt: skip
"""What numbers of a training must be at least."""
BELOW = {"warmup_ratio": 1, "beta1": 1, "beta2": 1, "seed": 2**32}


@dataclass(frozen=True)
class Job:
    """What is trained, on what, how, and where; paths as in the file."""

    model: str
    data: str
    training: TrainingConfig = field(default_factory=TrainingConfig)
    engine: Parallelism = field(default_factory=Parallelism)
    rope_factor: float = 1.0
    rope_type: str = "default"
    max_length: int | None = None

    def plans(self, store: TokenStore) -> list[Plan]:
        """A plan for every epoch, for the engine's ranks. Raises ValueError when they cannot share the work evenly."""
        cost, engine = self.cost() if self.training.balance else LLAMA_2_7B, self.engine
        room = self.training.capacity * engine.mixed.get("degree", 1)
        if (longest := int(store.lengths.max(initial=0))) > room:
            raise ValueError(f"the longest sequence has {longest:,} tokens, over the capacity of {room:,}: raise "
                             f"training.capacity, or tokenize with --max-length {room}")  # fmt: skip
        made = make_plans(store, self.training, ranks=engine.batches, cost=cost, barrier=engine.barrier, **engine.mixed)
        most = sum(len(plan.steps) for plan in made)
        for name, there in (("steps", most), ("snapshots", self.training.steps or most)):
            if (given := getattr(self.training, name)) > there:
                raise ValueError(f"training.{name} is {given:,}, and there are {there:,} steps: lower {name}, or train "
                                 "more epochs or steps")  # fmt: skip
        if (self.training.steps or most) == 1 and self.training.warmup_ratio:
            raise ValueError(f"the only step is the warm-up of training.warmup_ratio ({self.training.warmup_ratio}), "
                             "whose first learning rate is 0, so that nothing would be trained: set warmup_ratio to 0, "
                             "or train more steps")  # fmt: skip
        return made

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        with models.in_a_sentence(self.model):
            return AutoConfig.from_pretrained(self.model, trust_remote_code=False)

    def cost(self) -> SequenceCost:
        """What a sequence costs the model. Raises ValueError where that takes more than a layer's sizes."""
        if layers_differ(self.config):
            raise ValueError(f"training.balance is {self.training.balance!r}, which goes by the sizes of a layer, and "
                             f"the layers of {self.model} have several: leave balance out")  # fmt: skip
        return models.sequence_cost(self.config)

    def run(self) -> Run:
        """The training run; equal jobs are equal runs."""
        return Run(Path(self.model).name, self.data, asdict(self.training), start=self.model,
                   engine=self.engine.run_settings(), **extension_of(self))  # fmt: skip


def load_job(path: Path | str) -> Job:
    """The job in a YAML file. Raises ConfigError, naming file and key, for what is unknown, missing or cannot be."""
    where = str(path)
    job = typed(read_yaml(path), Job, where=where)
    for key, value in (("model", job.model), ("data", job.data)):
        if not Path(value).is_dir():
            raise ConfigError(f"{where}: {key} is {value}, where there is no folder (paths count from {Path.cwd()})")
    if not (Path(job.model) / "config.json").is_file():
        found = "an adapter alone" if (Path(job.model) / "adapter_config.json").is_file() else "no model (config.json)"
        raise ConfigError(f"{where}: model is {job.model}, which holds {found}: name the folder of a model, with an "
                          "adapter merged into it (of a training by longalign, the folder above)")  # fmt: skip
    try:
        _check_settings(job.training)
        if (job.rope_factor, job.rope_type) != (1.0, "default"):
            config = copy.deepcopy(job.config)  # which is extended in place
            models.extend_rope(config, job.rope_factor, job.rope_type, job.max_length, Path(job.model))
        if job.engine.sequence_parallel > 1:
            if job.training.method != "packing":
                raise ValueError(f"sequence_parallel is for method packing, not {job.training.method}")
            check_heads(job.config, job.engine.sequence_parallel)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return job


def _check_settings(training: TrainingConfig) -> None:
    """Raise ValueError for what the Trainer would refuse late, or read otherwise: steps: -1 leaves out the last."""
    for name, valid in (("schedule", SCHEDULES), ("packing_algorithm", ALGORITHMS)):
        if (given := getattr(training, name)) not in valid:
            raise ValueError(f"training.{name} is {given!r}; it is one of {', '.join(valid)}")
    if training.packing_algorithm != TrainingConfig.packing_algorithm and training.method != "packing":
        raise ValueError(f"training.packing_algorithm is for method packing, not {training.method}: leave it out")
    if training.group_size and training.method != "sorted":
        raise ValueError(f"training.group_size is for method sorted, not {training.method}: leave it out")
    for name, least in LEAST.items():
        if not (given := getattr(training, name)) >= least:
            raise ValueError(f"training.{name} is {given}; it must be at least {least}")
    for name, most in BELOW.items():
        if not (given := getattr(training, name)) < most:
            raise ValueError(f"training.{name} is {given}; it must be below {most}")
    loss_weights([1], training.exponent)
    if training.defect:
        from longalign.train.released_faults import DEFECTS

        if training.defect not in DEFECTS:
            raise ValueError(f"training.defect is {training.defect!r}; it is one of {', '.join(DEFECTS)}")


def describe(job: Job, *, tflops: float, utilisation: float) -> Iterator[str]:
    """What `--dry-run` prints: the resolved job, DeepSpeed's JSON, the command, memory, tokens, steps and hours."""
    store, run = TokenStore(Path(job.data), verify=True), job.run()
    notes = store_tokenizer.compare(store.manifest, job.model)
    plans, notes = job.plans(store), [*notes, *proofs(job, store)]
    yield f"job: {json.dumps(asdict(job), indent=2)}"
    if job.engine.zero is not None:
        options = {"accumulation": plans[0].accumulation, "max_grad_norm": job.training.max_grad_norm}
        yield f"deepspeed: {json.dumps(deepspeed_config(job.engine, **options), indent=2)}"
    hosts = launcher.allocated() or [f"node{number}" for number in range(job.engine.nodes)]
    command = launcher.command(job.engine, "longalign.train.runs", f"{run.folder}/job.json", hosts=hosts)
    yield f"command: {shlex.join(command)}"
    found = estimated(job, store, plans)
    parts = {name: value for name, value in asdict(found).items() if name != "node"}
    yield (
        f"memory of a device: about {found.device:.2f} GiB ("
        + ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
        + f"), of a node {found.node:.2f} GiB; an estimate"
    )
    steps = [step for plan in plans for step in plan.steps][: job.training.steps or None]
    tokens = sum(int(store.lengths[i]) for step in steps for i in step.sequences)
    summary = summarize(plans[0])
    yield f"{len(steps):,} steps, {tokens:,} tokens, {summary['sequences_per_step']:.1f} sequences a step"
    found = predict(plans, _shape(job), job.engine, Pace(flops=tflops * 1e12 * utilisation))
    hours = found.hours * len(steps) / max(1, sum(len(plan.steps) for plan in plans))
    rate = f"{tflops:g} TFLOP/s used at {utilisation:.0%}"
    if job.engine.sequence_parallel > 1:
        rate += f" and {SENT_PER_SECOND / 1e9:g} GB/s between them"
    yield (
        f"about {hours:.2g} hours on {job.engine.world_size} devices of {rate}, of which they wait {found.idle:.0%} "
        f"and send {found.sending:.0%}; an estimate, without what ZeRO sends"
    )
    yield from [*windows_in_full(job.config, int(store.lengths.max(initial=0))), *notes]


def proofs(job: Job, store: TokenStore, *, room: float = 2**63) -> Iterator[str]:
    """What the preflight says of the job's model and data (`longalign.train.preflight`), on the model itself where it
    takes no more than `room` bytes and memory has them. Raises ValueError where the job cannot be trained exactly."""
    from transformers.utils import logging

    from longalign.train import preflight

    method, rank = job.training.method, job.training.lora_rank
    extension = extension_of(job)
    outline = models.outline(job.model, **extension)
    store_tokenizer.check_kept(store.manifest, job.model, outline.config)
    notes, longest = preflight.look(outline, method, store)
    further = language_part.further_notes(job.model, job.config)
    yield from [*language_part.notes(job.config, outline), *further, *notes]
    needed = 6 * _shape(job).parameters  # fp32, and what loading takes
    if needed > min(room, free_memory()):
        yield f"the model itself, {needed / 2**30:.0f} GiB, is tried by the training, before its first step"
        return
    logging.disable_progress_bar()  # a refusal is one line
    model = models.load_model(job.model, **extension)
    if rank:
        from longalign.train import frozen_head, lora

        lora.adapt(model, rank, seed=job.training.seed)
        yield from frozen_head.notes(model, store)
    preflight.prove(model, method, longest=longest)
    yield "preflight: a few sequences through the model, together and alone, gave the same outputs, loss and gradients"


def _shape(job: Job) -> ModelShape:
    return model_shape(job.model, lora_rank=job.training.lora_rank)


def estimated(job: Job, store: TokenStore, plans: list[Plan]) -> Footprint:
    """The memory that the job is going to take of each device."""
    positions, targets = largest_micro_batch(plans, store.target_counts)
    return footprint(_shape(job), job.engine, positions=positions, targets=targets)


def check_devices(job: Job, store: TokenStore, plans: list[Plan]) -> None:
    """Raises ValueError, saying what would fit, when this machine has too few devices or too little memory."""
    import torch

    if not torch.cuda.is_available():
        return
    there, needed = torch.cuda.device_count(), job.engine.ranks
    if there < needed:
        raise ValueError(f"the engine needs {needed} GPUs a node, this node has {there}: set engine.ranks to {there}")
    device = min(torch.cuda.mem_get_info(number)[1] for number in range(needed)) / 2**30
    found = estimated(job, store, plans).device
    if found > device:
        positions, targets = largest_micro_batch(plans, store.target_counts)
        fits = smallest_that_fits(_shape(job), job.engine, positions=positions, targets=targets, device=device)
        offer = f"this would fit: {asdict(fits)}" if fits else "nothing on these devices would fit: take more of them"
        raise ValueError(f"each device needs about {found:.1f} GiB and has {device:.1f}; {offer}")


def main(arguments: list[str] | None = None) -> int:
    """Train the job of a file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m longalign.train.jobs", description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="a YAML file")
    parser.add_argument("--out", type=Path, help="folder for what is trained (default: results/run)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and what it would take")
    parser.add_argument("--tflops", type=float, default=A800, help=f"of a device, for the hours (default: {A800:g})")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of them that is used (default: 0.4)")
    options = parser.parse_args(arguments)
    if options.out:
        os.environ["LONGALIGN_RUNS"] = str(options.out.resolve())
    try:
        job = load_job(options.job)
        if options.dry_run:
            for text in describe(job, tflops=options.tflops, utilisation=options.utilisation):
                print(text)
            return 0
        store = TokenStore(Path(job.data), verify=True)
        check_devices(job, store, job.plans(store))
        run = job.run()
        if run.finished and run.renew_tokenizer():
            print("longalign: the trained model has the tokenizer of the store now, which was another", file=sys.stderr)
        elif not run.finished:
            compared = store_tokenizer.compare(store.manifest, job.model)
            for note in [*compared, *proofs(job, store, room=SOON)]:  # a refusal stands alone
                print(f"longalign: {note}", file=sys.stderr)
        workers.execute_all([run])
    except (ValueError, RuntimeError, OSError) as error:
        print(f"longalign: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130
    print(f"trained: {paths.relative(run.model)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
