"""Training runs addressed by what determines them: the same start, data, configuration and code are trained once, ever.

The key of a run is a hash of the starting weights, the token store, the resolved configuration and the code that
training uses (`longalign.common.source_hash`): evaluation and plots do not invalidate a run, a changed loss does.
"""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from longalign.common import checksums, paths, provenance
from longalign.common.source_hash import source_hash
from longalign.train import checkpoints, launcher
from longalign.train.events import read_events
from longalign.train.parallelism import ONE_PROCESS, Parallelism

SOMETIMES = {
    "balance": ("recipe.balance", "recipe.leveling", "recipe.cost"),
    "defect": ("train.released_faults",),
    "lora_rank": ("train.lora",),
}
"""Modules that only those trainings use which set a field."""
WITHOUT = (
    # read, write and name files
    "common.paths", "common.provenance", "common.checksums", "train.events", "data.jsonl", "data.store_writer",
    "train.runs._finish",
    # held to compute the same, and to go on as before
    "train.parallelism", "train.checkpoints", "train.sequence_parallel",
    # look, and leave everything as it is
    "train.preflight", "train.probes", "train.store_check", "train.frozen_head", "train.saved", "train.memory",
)  # fmt: skip
"""What a training uses that changes no number."""


class Trained:
    """What a training with a `key` leaves in its folder: `model/`, `events.jsonl`, `record.json` (written last)."""

    key: str

    @property
    def folder(self) -> Path:
        """Where it lives, with its checkpoints while it is under way."""
        return paths.trained() / self.key

    @property
    def model(self) -> Path:
        """The trained model's folder."""
        return self.folder / "model"

    @property
    def finished(self) -> bool:
        """Whether it is complete, and its files are those that it wrote."""
        return checksums.finished_record(self.folder) is not None

    def record(self) -> dict[str, Any]:
        """What was recorded when it was finished. Raises FileNotFoundError before."""
        return json.loads((self.folder / "record.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Run(Trained):
    """One training run: `start` (a model folder, or a name and seed of a new model), `store` (token store), settings.

    `label` is for people and does not enter the key. `training` holds the fields of `config.TrainingConfig` as one
    process would have them, `engine` those of `Parallelism`, which deals them to its ranks. An engine computes
    the same, so that a run may go on with another; what makes other steps enters the key: bf16, packs of two kinds, and
    with steps of like costs ("compose") the ranks that wait in every micro-step.
    """

    label: str
    store: str
    training: dict[str, Any]
    start: str = ""
    new_model: dict[str, Any] = field(default_factory=dict)
    rope_factor: float = 1.0
    max_length: int | None = None
    rope_type: str = "default"
    engine: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean equal runs. Computed once: start and store are there when it is asked
        for."""
        start, engine = provenance.hash_model(self.start) if self.start else "", Parallelism(**self.engine)
        data = json.loads((Path(self.store) / "manifest.json").read_text())["sha256"]
        # how often it saves is no part of it: who changes that goes on from the checkpoint that is there
        training = {name: value for name, value in self.training.items() if name != "checkpoint_every"}
        return provenance.config_hash({
            "start": start, "new_model": self.new_model, "rope_factor": self.rope_factor, "max_length": self.max_length,
            "data": data, "training": training, **({"bf16": True} if self.engine.get("bf16") else {}),
            **({"packs": [self.engine[name] for name in ("share_above", "sequence_parallel")]}
               if self.engine.get("share_above") is not None else {}),
            **({"rope_type": self.rope_type} if self.rope_type != "default" else {}),
            **({"steps_of_ranks": engine.batches}  # steps of like costs are others where ranks wait in micro-steps
               if self.training.get("balance") == "compose" and engine.barrier == "micro_step" else {}),
            "code": self.code,
        })  # fmt: skip

    @property
    def code(self) -> str:
        """Hash of the code that this training uses."""
        unused = [names for field, names in SOMETIMES.items() if not self.training.get(field)]
        return source_hash("train.runs._train", without=(*WITHOUT, *chain(*unused)))

    @property
    def snapshots(self) -> Path:
        """Folder of the models kept on the way, `step-00042` and so on; absent where none were asked for."""
        return self.folder / "snapshots"

    def perform(self) -> None:
        """Train, or go on from the last checkpoint: in this process, or in those of the engine."""
        engine = Parallelism(**self.engine)
        checkpoints.prepare_resume(self.folder / "work", engine)
        if engine == ONE_PROCESS:
            return _train(self)
        job = provenance.write_json(self.folder / "job.json", asdict(self))
        launcher.run(engine, "longalign.train.runs", str(job), log=self.folder / "log.txt")

    def renew_tokenizer(self) -> bool:
        """Give a finished model the tokenizer that its store has now, where it is another: the tokens are the same, but
        a template may ask in another way. Returns whether it was another."""
        from longalign.data import store_tokenizer

        manifest = json.loads((Path(self.store) / "manifest.json").read_text())
        if (used := store_tokenizer.load(manifest, self.start)) is None:
            return False
        record, path, parts = self.record(), self.folder / "record.json", ("model", "snapshots", "events.jsonl")
        begun = set(checksums.hashes(self.folder, *parts)) != set(record["files"])  # and killed before its end
        if not begun and store_tokenizer.is_in(used, self.model):
            return False
        kept = {name: value for name, value in record["files"].items() if not store_tokenizer.is_its_file(name)}
        provenance.write_json(path, record | {"files": kept})  # a kill from here on leaves it finished
        for folder in (*self.snapshots.glob("step-*"), self.model):
            store_tokenizer.write(manifest, self.start, folder)
        provenance.write_json(path, record | {"files": checksums.hashes(self.folder, *parts)})
        return True

    def progress(self) -> str:
        """Step, loss, speed and time left of a run that is under way."""
        events = read_events(self.folder / "work" / "events.jsonl")
        if not events:
            return "waiting for a core"
        last = events[-1]
        left = (last["steps"] - last["step"]) * last["seconds"] / last["step"]
        rate = f"{last['tokens'] / max(last['seconds'], 1e-9):,.0f} tokens/s"
        return f"step {last['step']}/{last['steps']} loss {last['loss']:.3f} {rate} {left:.0f} s left"

    def summary(self) -> str:
        """Steps, tokens, time and speed of a run that is finished."""
        done = self.record()
        rate = f"{done['tokens'] / max(done['seconds'], 1e-9):,.0f} tokens/s"
        return f"{done['steps']} steps, {done['tokens']:,} tokens in {done['seconds']:.0f} s ({rate})"


def extension_of(settings: Any) -> dict[str, Any]:
    """How a run, a job or a profile's extension lengthens the context of its start (`models.load_model`)."""
    return {name: getattr(settings, name) for name in ("rope_factor", "rope_type", "max_length")}


def _train(run: Run) -> None:
    from transformers import dynamic_module_utils

    from longalign.data.store import TokenStore
    from longalign.train import models, trainer

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # a model with code of its own is refused, and nobody is asked
    work, engine = run.folder / "work", Parallelism(**run.engine)
    config = trainer.TrainingConfig(**run.training)
    # before the model: under ZeRO-3 it is dealt to the ranks while it is loaded
    arguments = trainer.training_arguments(config, work, engine)
    if run.start:
        model = models.load_model(run.start, **extension_of(run))
    else:
        model = models.new_model(**run.new_model)
    store = TokenStore(Path(run.store))
    shared = {"sequence_parallel": engine.sequence_parallel, "share_above": engine.share_above}
    trained = trainer.train(model, store, config, work, arguments=arguments, **shared)
    trained.write_model(run.model)
    if arguments.process_index == 0:
        _finish(run, store)


def _finish(run: Run, store: Any) -> None:
    from longalign.data import store_tokenizer

    if (run.folder / "work" / "snapshots").is_dir():
        shutil.rmtree(run.snapshots, ignore_errors=True)
        shutil.copytree(run.folder / "work" / "snapshots", run.snapshots)  # who is killed here finds them all again
    for folder in (run.model, *run.snapshots.glob("step-*")):
        store_tokenizer.write(store.manifest, run.start, folder)
    store.verify()  # as before the first step: it may have been written over since
    shutil.copy(run.folder / "work" / "events.jsonl", run.folder / "events.jsonl")
    last = read_events(run.folder / "events.jsonl")[-1]
    where = {"start": run.start and paths.relative(run.start), "store": paths.relative(run.store)}
    provenance.write_json(run.folder / "record.json", {
        **{name: last[name] for name in ("steps", "tokens", "seconds", "cpu_seconds")},
        "files": checksums.hashes(run.folder, "model", "snapshots", "events.jsonl"),
        "key": run.key, "run": asdict(run) | where,
        "peak_memory_mb": round(provenance.peak_memory_mb(), 1), "data": store.sha256, "code": run.code,
        "versions": provenance.versions(), "hardware": provenance.hardware(),
    })  # fmt: skip
    shutil.rmtree(run.folder / "work")


def main(job: Path) -> None:
    """Be one rank of the run in `job`, which lies in the run's folder. Raises RuntimeError for that of another run."""
    os.environ["LONGALIGN_RUNS"] = str(job.parents[2])  # not every launcher hands the environment on to other nodes
    launcher.exit_with_parent()
    run = Run(**json.loads(job.read_text()))
    if run.folder.resolve() != job.parent.resolve():  # whoever waits for this one would find nothing
        raise RuntimeError("the code, the model or the data changed after this training was planned: start it again")
    _train(run)
    launcher.exit_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
