"""Training runs addressed by what determines them: the same start, data, configuration and code are trained once, ever.

The key of a run is a hash of the starting weights, the token store, the resolved configuration and the code that
training uses (without comments, docstrings and formatting): evaluation and plots do not invalidate a run, a changed
loss does.
"""

import ast
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from longalign import paths, record
from longalign.events import read_events

CODE = (
    "bins",
    "packing",
    "plan",
    "batching",
    "weights",
    "loss",
    "attention",
    "collators",
    "planned",
    "store",
    "models",
    "trainer",
)
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

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits; equal keys mean equal runs. Computed once: start and store are there when it is asked
        for."""
        start = (
            record.hash_files(*(Path(self.start) / name for name in ("config.json", "model.safetensors")))
            if self.start
            else ""
        )
        data = json.loads((Path(self.store) / "manifest.json").read_text())["sha256"]
        return record.config_hash({
            "start": start, "new_model": self.new_model, "rope_factor": self.rope_factor, "max_length": self.max_length,
            "data": data, "training": self.training, "code": source_hash(*CODE),
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
def source_hash(*names: str) -> str:
    """Hash of modules and packages of the library, by name, blind to comments, docstrings and layout."""
    folder = Path(__file__).parent
    files = [file for name in names for file in sorted(folder.glob(f"{name}.py")) + sorted(folder.glob(f"{name}/*.py"))]
    sources = {file.relative_to(folder).as_posix(): normalized_source(file.read_text()) for file in files}
    return record.config_hash(sources)


def normalized_source(source: str) -> str:
    """Source as its syntax tree prints it, docstrings taken out.

    >>> normalized_source('def f(x):  # why\\n    "doc"\\n    return (x)') == normalized_source('def f(x): return x')
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def execute(run: Run) -> None:
    """Train a run in this process, or go on with it from its last checkpoint; nothing happens when it is finished.

    Where another process trains the same run, this one waits until that one has finished it, or takes over.
    """
    if run.finished:
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the process ends, however it ends
        if not run.finished:
            _train(run)


def _train(run: Run) -> None:
    from longalign import models, trainer
    from longalign.store import TokenStore

    if run.start:
        model = models.load_model(run.start, rope_factor=run.rope_factor, max_length=run.max_length)
    else:
        model = models.new_model(**run.new_model)
    store = TokenStore(Path(run.store))
    _drop_unfinished_checkpoints(run.folder / "work")
    trainer.train(model, store, trainer.TrainingConfig(**run.training), run.folder / "work")
    models.save_model(model, run.model)
    shutil.copy(run.folder / "work" / "events.jsonl", run.folder / "events.jsonl")
    last = read_events(run.folder / "events.jsonl")[-1]
    where = {"start": run.start and paths.relative(run.start), "store": paths.relative(run.store)}
    record.write_json(run.folder / "record.json", {
        **{name: last[name] for name in ("steps", "tokens", "seconds", "cpu_seconds")},
        "key": run.key, "run": asdict(run) | where,
        "peak_memory_mb": round(record.peak_memory_mb(), 1), "data": store.sha256, "code": source_hash(*CODE),
        "versions": record.versions(), "hardware": record.hardware(),
    })  # fmt: skip
    shutil.rmtree(run.folder / "work")


def _drop_unfinished_checkpoints(work: Path) -> None:
    # The engine goes on from the checkpoint with the highest number, whole or not; trainer_state.json is written last.
    for checkpoint in work.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (FileNotFoundError, ValueError):
            shutil.rmtree(checkpoint)


def execute_all(runs: Sequence[Run], *, workers: int = 1) -> None:
    """Finish all runs, `workers` one-thread processes side by side, with a progress line; finished ones are reused.

    Raises RuntimeError naming the run and its log when one fails; the others' checkpoints stay. ValueError for no
    workers.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process must train")
    waiting = list({run.key: run for run in runs if not run.finished}.values())
    reused = len({run.key for run in runs}) - len(waiting)
    if reused:
        print(f"{reused} of {len(runs)} runs are finished already and reused")
    with ExitStack() as stack:
        progress = stack.enter_context(_Progress())
        crew = [stack.enter_context(_Worker()) for _ in range(min(workers, len(waiting)))]
        while waiting or any(worker.run for worker in crew):
            for worker in crew:
                if worker.run is None and waiting:
                    worker.give(waiting.pop(0))
            time.sleep(0.2)
            progress.show([worker.run for worker in crew if worker.run], len(waiting))
            for worker in crew:
                if run := worker.finished_run():
                    progress.finished(run)


class _Worker:
    """A one-thread process that trains the runs it is given, one by one: torch is imported once. Ended with the
    block."""

    def __init__(self) -> None:
        self.run: Run | None = None

    def __enter__(self) -> "_Worker":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longalign.runs"], stdin=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def give(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self.run = run
        with suppress(BrokenPipeError):  # it has died: `finished_run` says so, with its log
            self.process.stdin.write(json.dumps({**asdict(run), "key": run.key}) + "\n")
            self.process.stdin.flush()

    def finished_run(self) -> Run | None:
        """The run that has just been finished, else None; RuntimeError when the process has died."""
        if self.run is None:
            return None
        if self.run.finished:
            run, self.run = self.run, None
            return run
        if self.process.poll() is None:
            return None
        log = self.run.folder / "log.txt"
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-3:]) if log.is_file() else ""
        raise RuntimeError(
            f"the run {self.run.label!r} failed (exit {self.process.returncode}); "
            f"its log is {paths.relative(log)}:\n{tail}"
        )


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

    def finished(self, run: Run) -> None:
        done = run.record()
        rate = f"{done['tokens'] / max(done['seconds'], 1e-9):,.0f} tokens/s"
        text = f"{run.label}: {done['steps']} steps, {done['tokens']:,} tokens in {done['seconds']:.0f} s ({rate})"
        print(f"\r{text:<110}" if self.live else text, flush=True)


def _state(run: Run) -> str:
    events = read_events(run.folder / "work" / "events.jsonl")
    if not events:
        return f"{run.label}: starting"
    last = events[-1]
    left = (last["steps"] - last["step"]) * last["seconds"] / last["step"]
    rate = f"{last['tokens'] / max(last['seconds'], 1e-9):,.0f} tokens/s"
    return f"{run.label}: step {last['step']}/{last['steps']} loss {last['loss']:.3f} {rate} {left:.0f} s left"


def _serve() -> None:
    """Train the runs that come as JSON lines on standard input; output goes to each run's log."""
    parent = os.getppid()
    from longalign import trainer  # noqa: F401  seconds, in which the process that asked may have gone

    for line in sys.stdin:
        if os.getppid() != parent:
            sys.exit("the process that asked for this run has ended")
        fields = json.loads(line)
        key = fields.pop("key")
        run = Run(**fields)
        with (paths.trained() / key / "log.txt").open("a") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
        if run.key != key:
            sys.exit("the code or the data changed after this run was planned; start again")
        execute(run)


if __name__ == "__main__":
    _serve()
