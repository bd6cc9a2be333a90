"""Jobs done once, side by side, by one-thread processes: training runs and evaluations, each addressed by its key.

A job that is finished is reused; one that another process does is waited for. The price: a job is plain data, which
its worker gets as one JSON line and imports by its class's name.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from longalign import paths, record

REPORT_SECONDS = {True: 1.0, False: 15.0}


class Job(Protocol):
    """A dataclass of plain data. Equal keys mean equal jobs; `folder` holds its `log.txt` and whatever it writes."""

    label: str
    key: str
    folder: Path
    finished: bool

    def perform(self) -> None:
        """Do it in this process; afterwards it is `finished`."""

    def progress(self) -> str:
        """One phrase on a job that is under way."""

    def summary(self) -> str:
        """One phrase on a job that is finished."""


def execute(job: Job) -> None:
    """Do a job in this process; nothing happens when it is finished.

    Where another process does the same job, this one waits until that one has finished it, or takes over.
    """
    if job.finished:
        return
    with record.alone(job.folder / "lock"):
        if not job.finished:
            job.perform()


def execute_all(jobs: Sequence[Job], *, workers: int = 1) -> None:
    """Finish all jobs, `workers` one-thread processes side by side, with a progress line; finished ones are reused.

    Raises RuntimeError naming the job and its log when one fails; what the others have written stays. ValueError for
    no workers.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process must work")
    waiting = list({job.key: job for job in jobs if not job.finished}.values())
    reused = len({job.key for job in jobs}) - len(waiting)
    if reused:
        print(f"{reused} of {reused + len(waiting)} are finished already and reused")
    with ExitStack() as stack:
        progress = stack.enter_context(_Progress())
        crew = [stack.enter_context(_Worker()) for _ in range(min(workers, len(waiting)))]
        while waiting or any(worker.job for worker in crew):
            for worker in crew:
                if worker.job is None and waiting:
                    worker.give(waiting.pop(0))
            time.sleep(0.2)
            progress.show([worker.job for worker in crew if worker.job], len(waiting))
            for worker in crew:
                if job := worker.finished_job():
                    progress.finished(job)


def order(job: Job) -> str:
    """The JSON line from which a worker makes the job again."""
    kind = type(job)
    return json.dumps({
        "module": kind.__module__, "class": kind.__qualname__, "fields": asdict(job),
        "key": job.key, "log": str(job.folder / "log.txt"),
    })  # fmt: skip


class _Worker:
    """A one-thread process that does the jobs it is given, one by one: torch is imported once. Ended with the
    block."""

    def __init__(self) -> None:
        self.job: Any = None

    def __enter__(self) -> "_Worker":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longalign.crew"], stdin=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def give(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        self.job = job
        with suppress(BrokenPipeError):  # it has died: `finished_job` says so, with its log
            self.process.stdin.write(order(job) + "\n")
            self.process.stdin.flush()

    def finished_job(self) -> Any:
        """The job that has just been finished, else None; RuntimeError when the process has died."""
        if self.job is None:
            return None
        if self.job.finished:
            job, self.job = self.job, None
            return job
        if self.process.poll() is None:
            return None
        log = self.job.folder / "log.txt"
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-3:]) if log.is_file() else ""
        raise RuntimeError(
            f"{self.job.label!r} failed (exit {self.process.returncode}); its log is {paths.relative(log)}:\n{tail}"
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

    def show(self, running: list[Job], waiting: int) -> None:
        if not running or time.monotonic() - self.shown < REPORT_SECONDS[self.live]:
            return
        self.shown = time.monotonic()
        text = " | ".join(f"{job.label}: {job.progress()}" for job in running)
        text += f" | {waiting} waiting" if waiting else ""
        print(f"\r{text:<110}" if self.live else text, end="" if self.live else "\n", flush=True)

    def finished(self, job: Job) -> None:
        text = f"{job.label}: {job.summary()}"
        print(f"\r{text:<110}" if self.live else text, flush=True)


def _serve() -> None:
    """Do the jobs that come as JSON lines on standard input; output goes to each job's log."""
    parent = os.getppid()
    from longalign import trainer  # noqa: F401  seconds, in which the process that asked may have gone

    for line in sys.stdin:
        if os.getppid() != parent:
            sys.exit("the process that asked for this job has ended")
        given = json.loads(line)
        with Path(given["log"]).open("a") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
        job = getattr(importlib.import_module(given["module"]), given["class"])(**given["fields"])
        if job.key != given["key"]:
            sys.exit("the code or the data changed after this job was planned; start again")
        execute(job)


if __name__ == "__main__":
    _serve()
