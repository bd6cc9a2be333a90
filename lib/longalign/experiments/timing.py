"""Training time of one epoch, measured on real processes of this machine; each measurement is made once and kept.

The processes follow the same plan with the same engine as a training run (`longalign.train.trainer`); nothing of them
is kept but their times. Processor time counts what a process computes, not what it waits for and not what other
programs do meanwhile, so the slower rank of every step, summed (`slowest_seconds`), is the epoch's time on a machine of
one's own; communication is in the wall time (`seconds`) only.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common import provenance
from longalign.common.array_types import Float
from longalign.common.source_hash import source_hash
from longalign.data.store import TokenStore
from longalign.experiments.operations import Pace, step_seconds, step_work
from longalign.recipe.batching import Plan
from longalign.train.events import read_events
from longalign.train.runs import WITHOUT, Run, extension_of


def on_devices(run: Run, *, ranks: int, steps: int = 0) -> Run:
    """One epoch of `run` (or its first `steps` steps), dealt to so many devices with one row each.

    A step keeps its number of padded rows or packs as nearly as the ranks allow: 24 rows are 12 micro-steps of 2 ranks,
    3 packs 2. Sorted batching takes as many rows of about one length as compute at a time. For one rank all stays.
    """
    training = {**run.training, "epochs": 1, "steps": steps, "snapshots": 0, "checkpoint_every": 1_000_000}
    if ranks > 1:
        rows = training.get("rows", 1) * training.get("micro_batches_per_step", 1)
        training |= {"rows": 1, "micro_batches_per_step": ranks * max(1, round(rows / ranks)),
                     "group_size": training.get("group_size", 0) or ranks}  # fmt: skip
    return replace(run, training=training)


def key(run: Run, *, ranks: int) -> str:
    """Sixteen hex digits: the key of the run (start, data, settings, training's code), the ranks, and what measures."""
    without = ("train.runs", "train.trainer", "train.models", "data.store", *WITHOUT)  # they are in the run's own key
    code = source_hash("experiments.timing.measure", "experiments.timing.main", without=without)
    return provenance.config_hash({"run": run.key, "ranks": ranks, "code": code})


def measure(runs: Sequence[Run], folder: Path | str, *, ranks: int = 1) -> list[dict[str, Any]]:
    """Train each run on `ranks` processes (gloo, one thread each) and return what was measured, in the order of `runs`.

    Measurements lie in `folder` as KEY.json and are reused; one that is interrupted leaves nothing there. Keys:
    world_size, steps, tokens, seconds (wall, from the first to the last step on rank 0), slowest_seconds (processor
    time of the slower rank, summed over steps), cpu_seconds (processor time, [ranks][steps]), load (jobs that wanted a
    core at the end). Processes are started once for all runs that are missing.

    Raises:
        RuntimeError: a process failed; the message holds the end of its log. What was measured before is kept.
    """
    files = [Path(folder) / f"{key(run, ranks=ranks)}.json" for run in runs]
    missing = {file: run for file, run in zip(files, runs, strict=True) if not _is_whole(file)}
    if missing:
        with tempfile.TemporaryDirectory(prefix="longalign-timing-") as work:
            _measure(missing, Path(work), ranks)
    return [json.loads(file.read_text()) for file in files]


def model_of(run: Run) -> Any:
    """The model with which `run` starts."""
    from longalign.train import models

    return models.load_model(run.start, **extension_of(run)) if run.start else models.new_model(**run.new_model)


def step_times(run: Run) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
    """Work (see `operations.step_work`) and processor seconds of the steps of a finished run, trained by one process.

    Left out is the first step, which loads what is loaded once. Checkpoints are in the others' time: about a fiftieth
    of a second each, one in fifty steps; so are the models kept for the learning curves.
    """
    from longalign.train.trainer import TrainingConfig, make_plans

    plans = make_plans(TokenStore(Path(run.store)), TrainingConfig(**run.training))
    work = np.concatenate([step_work(plan)[:, 0] for plan in plans])
    seconds = np.diff([event["cpu_seconds"] for event in read_events(run.folder / "events.jsonl")], prepend=0.0)
    return work[1 : len(seconds)], seconds[1:]


def epoch_seconds(run: Run, measured: dict[str, Any], pace: Pace) -> float:
    """Processor time of the slower rank for a whole epoch; steps that were not measured are added by the cost model.

    The measured time, its first step (which loads what is loaded once) left out, times what the pace says of all steps
    over what it says of those. Raises ValueError when fewer than two steps were measured.
    """
    if measured["steps"] < 2:
        raise ValueError(f"{run.label!r} was measured for {measured['steps']} step; measure at least 2")
    modelled = step_seconds(_plan(run, measured), pace)
    seconds = np.array(measured["cpu_seconds"])[:, 1:].max(axis=0).sum()
    return float(seconds * modelled.sum() / modelled[1 : measured["steps"]].sum())


def _plan(run: Run, measured: dict[str, Any]) -> Plan:
    from longalign.train.trainer import TrainingConfig, make_plans

    store, config = TokenStore(Path(run.store)), TrainingConfig(**run.training)
    return make_plans(store, config, ranks=measured["world_size"])[0]


def _measure(missing: dict[Path, Run], work: Path, ranks: int) -> None:
    provenance.write_json(work / "jobs.json", [asdict(run) for run in missing.values()])
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *several, "-m", "longalign.experiments.timing", str(work / "jobs.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    with (work / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    left = dict(enumerate(missing.items()))
    try:
        while process.poll() is None:
            time.sleep(0.1)
            _collect(left, work, ranks)
    finally:
        process.terminate()  # torchrun ends its ranks
        process.wait()
        _collect(left, work, ranks)
    if left:
        run = next(iter(left.values()))[1]
        reports = sorted(work.glob("failed-*.txt")) or [work / "log.txt"]
        tail = "\n".join(reports[0].read_text(errors="replace").strip().splitlines()[-4:])
        raise RuntimeError(
            f"the time of {run.label!r} could not be measured in {_processes(ranks)} (exit {process.returncode}); "
            f"the log ends:\n{tail}"
        )


def _is_whole(file: Path) -> bool:
    try:
        return json.loads(file.read_text())["key"] == file.stem
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _processes(ranks: int) -> str:
    return "one process" if ranks == 1 else f"{ranks} processes"


def _collect(left: dict[int, tuple[Path, Run]], work: Path, ranks: int) -> None:
    """Keep what all ranks have finished, and take it off `left`."""
    for number, (file, run) in list(left.items()):
        parts = [work / f"{number}-{rank}.json" for rank in range(ranks)]
        if not all(part.is_file() for part in parts):
            continue
        first, *others = (json.loads(part.read_text()) for part in parts)
        cpu = np.array([part.pop("cpu_seconds") for part in (first, *others)])
        slowest = round(float(cpu.max(axis=0).sum()), 3)
        provenance.write_json(file, {
            **first, "label": run.label, "key": file.stem, "training": run.training, "cpu_seconds": cpu.round(4),
            "slowest_seconds": slowest, "load": os.getloadavg()[0], "versions": provenance.versions(),
            "hardware": provenance.hardware(),
        })  # fmt: skip
        print(f"{run.label}, {_processes(ranks)}: {first['steps']} steps in {first['seconds']:.1f} s", flush=True)
        del left[number]


@contextlib.contextmanager
def _step_clock(model: Any) -> Iterator[list[float]]:
    """This process's processor time at the first forward pass and after every optimizer step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    marks: list[float] = []

    def begin(*_: Any) -> None:
        if not marks:
            marks.append(time.process_time())

    begun = model.register_forward_pre_hook(begin)
    stepped = register_optimizer_step_post_hook(lambda *_: marks.append(time.process_time()))
    try:
        yield marks
    finally:
        begun.remove()
        stepped.remove()


def _train(run: Run, number: int, work: Path) -> None:
    """Train one run as this rank and write what it took to NUMBER-RANK.json."""
    import torch

    from longalign.train import trainer

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)
    model = model_of(run)
    with _step_clock(model) as marks:
        trainer.train(model, TokenStore(Path(run.store)), trainer.TrainingConfig(**run.training), work / str(number))
    last = read_events(work / str(number) / "events.jsonl")[-1]
    provenance.write_json(work / f"{number}-{rank}.json", {
        "world_size": world_size, "steps": last["steps"], "tokens": last["tokens"], "seconds": last["seconds"],
        "cpu_seconds": np.diff(marks),
    })  # fmt: skip


def main(jobs: Path) -> None:
    """Be one rank: train the runs listed in `jobs`, one after the other; what fails is written beside them."""
    for number, fields in enumerate(json.loads(jobs.read_text())):
        try:
            _train(Run(**fields), number, jobs.parent)
        except Exception:
            (jobs.parent / f"failed-{number}-{os.environ.get('RANK', 0)}.txt").write_text(traceback.format_exc())
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
