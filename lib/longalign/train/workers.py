"""Jobs done once, side by side, by one-thread processes: training runs and evaluations, each addressed by its key.

A job that is finished is reused; one that another process does is waited for. However many processes ask for jobs, no
more are done at a time than one of them may do side by side: more would only take the cores from each other. A job is
plain data, which its worker gets as one JSON line.
"""

import atexit
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from longalign.common import disk, paths, provenance
from longalign.common.parents import end_with
from longalign.train.progress import Progress, Quiet, Told

POLL_SECONDS = 0.05
IDLE_SECONDS = 60.0
"""A worker without an order for so long leaves; until then the next jobs of the same process find it ready."""
PLACES = "LONGALIGN_PLACES"
"""Environment variable of the workers: how many of all workers of all processes may do a job at a time."""
SET_BY_TORCH = ("TORCHINDUCTOR_CACHE_DIR",)
"""Set when torch is imported: a worker that was started before would seem to have another environment."""


class Job(Told, Protocol):
    """A dataclass of plain data. Equal keys mean equal jobs; `folder` holds its `log.txt` and whatever it writes."""

    key: str
    folder: Path
    finished: bool

    def perform(self) -> None:
        """Do it in this process; afterwards it is `finished`."""


def execute(job: Job, *, place: Callable[[], AbstractContextManager] = nullcontext) -> None:
    """Do a job in this process, in a `place` if places are counted; nothing happens when it is finished.

    Where another process does the same job, this one waits until that one has finished it, or takes over.
    """
    if job.finished:
        return
    with provenance.alone(job.folder / "lock"):
        if not job.finished:
            # a record of files that were damaged: it would hold again before all of them are written anew
            (job.folder / "record.json").unlink(missing_ok=True)
            with place():
                _perform(job)


def _perform(job: Job) -> None:
    try:
        job.perform()
    except Exception as error:
        if not disk.is_full(error):
            raise
        raise _full(job, str(error)) from error


def _full(job: Job, told: str) -> OSError:
    return OSError(f"{paths.relative(job.folder)}: the disk became full ({told}): make room, or name a folder on "
                   "another disk with LONGALIGN_RUNS; what is finished stays")  # fmt: skip


def execute_all(jobs: Sequence[Job], *, workers: int = 1, log: Path | None = None) -> None:
    """Finish all jobs, `workers` one-thread processes side by side, with a progress line; finished ones are reused.

    With a `log`, as in a notebook, one line is shown, which changes; what each job was goes to the end of this file.

    Raises RuntimeError naming the job and its log when one fails; what the others have written stays. ValueError for
    no workers. InterruptedError before jobs are left when the one around this process is about to be ended.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process must work")
    each = {job.key: job for job in jobs}.values()
    waiting = [job for job in each if not job.finished]
    reused = len(each) - len(waiting)
    for job in each:
        if job not in waiting:
            _remove_work(job)
    progress = Progress() if log is None else Quiet(log, len(waiting), reused)
    if reused:
        progress.tell(f"{reused} of {reused + len(waiting)} are finished already and reused")
    for job in (job for job in waiting if (job.folder / "record.json").exists()):
        progress.tell(f"{job.label}: its files are not those that were written; it is done again")
    crew = _hire(min(workers, len(waiting)), places=workers)
    left = 0  # jobs that were begun and stopped when the one around this process was warned
    try:
        while waiting or left or any(worker.job for worker in crew):
            if (left or paths.warned()) and not any(worker.job for worker in crew):
                raise InterruptedError(f"the time of this job is nearly over; {len(waiting) + left} are left to do")
            for worker in crew:
                if worker.job is None and waiting and not paths.warned():
                    worker.give(waiting.pop(0))
            time.sleep(POLL_SECONDS)
            progress.show([worker.job for worker in crew if worker.job], len(waiting))
            for worker in crew:
                try:
                    job = worker.finished_job()
                except RuntimeError:
                    if not paths.warned():
                        raise
                    worker.job, left, job = None, left + 1, None  # the others save what they have, too
                if job:
                    progress.finished(job)
    except BaseException:
        _dismiss(crew)
        raise
    _idle.extend(crew)
    progress.end()


def _remove_work(job: Job) -> None:
    """Remove the checkpoints that a kill left between the record, which says that the job is finished, and its end."""
    if (job.folder / "work").is_dir():
        with provenance.alone(job.folder / "lock"):  # not while another process removes them
            shutil.rmtree(job.folder / "work", ignore_errors=True)


def order(job: Job) -> str:
    """The JSON line from which a worker makes the job again."""
    kind = type(job)
    return json.dumps({
        "module": kind.__module__, "class": kind.__qualname__, "fields": asdict(job),
        "key": job.key, "log": str(job.folder / "log.txt"),
    })  # fmt: skip


class _Worker:
    """A one-thread process that does the jobs it is given, one by one: torch is imported once."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.job: Any = None
        self.environment, self.fresh = environment, True
        self._start()

    def _start(self) -> None:
        # an interrupt is for who gives the jobs, and then ends its workers; one that is starting would show a traceback
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longalign.train.workers", str(os.getpid())],
            stdin=subprocess.PIPE, text=True, env=self.environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )  # fmt: skip

    def give(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        self.job = job
        with suppress(BrokenPipeError, ValueError):  # it has gone: `finished_job` finds that out
            self.process.stdin.write(order(job) + "\n")
            self.process.stdin.flush()

    def finished_job(self) -> Any:
        """The job that has just been finished, else None; RuntimeError when the process has died."""
        if self.job is None:
            return None
        if self.job.finished:
            job, self.job, self.fresh = self.job, None, False
            return job
        if self.process.poll() is None:
            return None
        if self.process.returncode == 0 and not self.fresh:  # it was leaving, for want of work, when the job came
            self.fresh = True
            self._start()
            self.give(self.job)
            return None
        log, told = self.job.folder / "log.txt", f"{self.job.label!r} failed (exit {self.process.returncode})"
        if disk.has_no_room(self.job.folder):  # which cuts the log short, too
            raise RuntimeError(f"{_full(self.job, told)}")
        raise RuntimeError(f"{told}; its log is {paths.relative(log)}:\n{_end(log)}")


def _end(log: Path) -> str:
    """The last lines of a log, without those of a traceback that are places in the code."""
    last = log.read_text(errors="replace").strip().splitlines()[-3:] if log.is_file() else []
    return "\n".join([line for line in last if not line.startswith("  ")] or last)


_idle: list[_Worker] = []


def prestart_workers(workers: int = 1) -> None:
    """Start workers that `execute_all` will find ready, while this process loads what it needs itself."""
    _idle.extend(_hire(workers, places=workers))


def _hire(count: int, *, places: int) -> list[_Worker]:
    """`count` workers, those first that wait from an earlier call in the same environment."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_BY_TORCH}
    environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", PLACES: str(places)}
    ready = [worker for worker in _idle if worker.environment == environment and worker.process.poll() is None]
    _dismiss([worker for worker in _idle if worker not in ready])
    crew = ready[:count]
    _idle[:] = ready[count:]
    return crew + [_Worker(environment) for _ in range(count - len(crew))]


@atexit.register
def _dismiss(workers: Sequence[_Worker] = _idle) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.wait()


def _serve(parent: int) -> None:
    """Do the jobs that come as JSON lines on standard input; output goes to each job's log."""
    end_with(parent)  # a notebook that was killed must not leave its training processes behind
    from longalign.train import trainer  # noqa: F401  seconds, which the first job does not wait for

    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.readline()):
        given = json.loads(line)
        with Path(given["log"]).open("a") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
        job = getattr(importlib.import_module(given["module"]), given["class"])(**given["fields"])
        if job.key != given["key"]:
            sys.exit("the code or the data changed after this job was planned; start again")
        execute(job, place=_place)


@contextmanager
def _place() -> Iterator[None]:
    """One of the places for workers at their work, as soon as one is free."""
    # an allocation of Slurm's has processors of its own
    folder = paths.runs() / "places" / os.environ.get("SLURM_JOB_ID", "")
    files = [folder / f"{number}.lock" for number in range(int(os.environ.get(PLACES, "1")))]
    while True:
        for file in files:
            with ExitStack() as stack:
                try:
                    stack.enter_context(provenance.alone(file, wait=False))
                except provenance.LockedError:
                    continue
                yield
                return
        time.sleep(0.1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
