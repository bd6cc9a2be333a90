"""Training runs addressed by what determines them: the same start, data, configuration and code are trained once, ever.

The key of a run is a hash of the starting weights, the token store, the resolved configuration and the code that training
uses (without comments, docstrings and formatting): evaluation and plots do not invalidate a run, a changed loss does.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from longalign import paths, record
from longalign.events import read_events

CODE = ("bins", "packing", "plan", "batching", "weights", "loss", "attention", "collators", "planned", "store", "models", "trainer")
REPORT_SECONDS = {True: 1.0, False: 15.0}


@dataclass(frozen=True)
class Run:
    """One training run: `start` (a model folder, or a name and seed of a new model), `store` (token store), settings.

    `label` is for people and does not enter the key. `training` holds the fields of `trainer.TrainingConfig`.
    """

    label: str
    store: str
    training: dict[str, Any]
    start: str = ""
    new_model: dict[str, Any] = field(default_factory=dict)
    rope_factor: float = 1.0
    max_length: int | None = None

    @property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean equal runs."""
        start = record.hash_files(*(Path(self.start) / name for name in ("config.json", "model.safetensors"))) if self.start else ""
        data = json.loads((Path(self.store) / "manifest.json").read_text())["sha256"]
        return record.config_hash({
            "start": start, "new_model": self.new_model, "rope_factor": self.rope_factor, "max_length": self.max_length,
            "data": data, "training": self.training, "code": code_hash(),
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where the run lives: `model/`, `events.jsonl`, `record.json` (written last), checkpoints while it runs."""
        return paths.trained() / self.key

    @property
    def model(self) -> Path:
        """The trained model's folder."""
        return self.folder / "model"

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / "record.json").is_file()

    def record(self) -> dict[str, Any]:
        """What the finished run recorded. Raises FileNotFoundError before."""
        return json.loads((self.folder / "record.json").read_text())


@cache
def code_hash() -> str:
    """Hash of the modules that training uses, blind to comments, docstrings and layout."""
    folder = Path(__file__).parent
    return record.config_hash({name: normalized_source((folder / f"{name}.py").read_text()) for name in CODE})


def normalized_source(source: str) -> str:
    """Source as its syntax tree prints it, docstrings taken out.

    >>> normalized_source('def f(x):  # why\\n    "doc"\\n    return (x)') == normalized_source('def f(x): return x')
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def execute(run: Run) -> None:
    """Train a run in this process, or go on with it from its last checkpoint; nothing happens when it is finished."""
    from longalign import models, trainer
    from longalign.store import TokenStore

    if run.finished:
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.start:
        model = models.load_model(run.start, rope_factor=run.rope_factor, max_length=run.max_length)
    else:
        model = models.new_model(**run.new_model)
    store = TokenStore(Path(run.store))
    trainer.train(model, store, trainer.TrainingConfig(**run.training), run.folder / "work")
    models.save_model(model, run.model)
    shutil.copy(run.folder / "work" / "events.jsonl", run.folder / "events.jsonl")
    last = read_events(run.folder / "events.jsonl")[-1]
    shutil.rmtree(run.folder / "work")
    record.write_json(run.folder / "record.json", {
        "key": run.key, "run": {**asdict(run), "start": paths.relative(run.start) if run.start else "", "store": paths.relative(run.store)},
        "steps": last["steps"], "tokens": last["tokens"], "seconds": last["seconds"], "cpu_seconds": last["cpu_seconds"],
        "peak_memory_mb": round(record.peak_memory_mb(), 1), "data": store.sha256, "code": code_hash(),
        "versions": record.versions(), "hardware": record.hardware(),
    })  # fmt: skip


def execute_all(runs: Sequence[Run], *, workers: int = 1) -> None:
    """Finish all runs, `workers` one-thread processes side by side, with a progress line; finished ones are reused.

    Raises RuntimeError naming the run and its log when one fails; the others' checkpoints stay.
    """
    waiting = list({run.key: run for run in runs if not run.finished}.values())
    reused = len({run.key for run in runs}) - len(waiting)
    if reused:
        print(f"{reused} of {len(runs)} runs are finished already and reused")
    with _Progress() as progress, ExitStack() as stack:
        running: dict[str, tuple[Run, subprocess.Popen]] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                run = waiting.pop(0)
                running[run.key] = (run, stack.enter_context(_process(run)))
            time.sleep(0.2)
            progress.show([run for run, _ in running.values()], len(waiting))
            for key, (run, process) in list(running.items()):
                if process.poll() is not None:
                    del running[key]
                    progress.finish(run, process.returncode)


@contextmanager
def _process(run: Run) -> Iterator[subprocess.Popen]:
    """A one-thread process that executes the run; it is ended with the block."""
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    specification = record.write_json(run.folder / "run.json", asdict(run))
    with (run.folder / "log.txt").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "longalign.runs", str(specification)], stdout=log, stderr=log, env=environment
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


class _Progress:
    """One live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        self.live, self.shown = sys.stdout.isatty(), time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            print()

    def show(self, running: list[Run], waiting: int) -> None:
        if not running or time.monotonic() - self.shown < REPORT_SECONDS[self.live]:
            return
        self.shown = time.monotonic()
        text = " | ".join(_state(run) for run in running) + (f" | {waiting} waiting" if waiting else "")
        print(f"\r{text:<110}" if self.live else text, end="" if self.live else "\n", flush=True)

    def finish(self, run: Run, code: int) -> None:
        if code != 0 or not run.finished:
            log = run.folder / "log.txt"
            tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            raise RuntimeError(f"the run {run.label!r} failed (exit {code}); the whole log is {paths.relative(log)}; its end:\n{tail}")
        done = run.record()
        rate = done["tokens"] / max(done["seconds"], 1e-9)
        text = f"{run.label}: {done['steps']} steps, {done['tokens']:,} tokens in {done['seconds']:.0f} s ({rate:,.0f} tokens/s)"
        print(f"\r{text:<110}" if self.live else text, flush=True)


def _state(run: Run) -> str:
    events = read_events(run.folder / "work" / "events.jsonl")
    if not events:
        return f"{run.label}: starting"
    last = events[-1]
    left = (last["steps"] - last["step"]) * last["seconds"] / last["step"]
    rate = last["tokens"] / max(last["seconds"], 1e-9)
    return f"{run.label}: step {last['step']}/{last['steps']} loss {last['loss']:.3f} {rate:,.0f} tokens/s {left:.0f} s left"


if __name__ == "__main__":
    execute(Run(**json.loads(Path(sys.argv[1]).read_text())))
