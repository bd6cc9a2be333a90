"""A whole run: one at a time in a clone, its estimate first, every notebook through make, the sum of it at the end.

    python -m longalign.reproduction.reproduce laptop --jobs 2 --notebooks notebooks/*.ipynb     (make reproduce)

make is the dependency graph and decides what is out of date; this is what stands around it: the lock, the terminal, the
files that were damaged since, the summary.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # the imports below take a second or more, in which nothing has been started
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import psutil

from longalign.common import paths
from longalign.common.config import ConfigError
from longalign.common.provenance import LockedError, alone
from longalign.experiments.profiles import load_profile
from longalign.reproduction import estimate, outcomes, terminal
from longalign.reproduction.askers import Askers
from longalign.reproduction.monitor import LOOK
from longalign.reproduction.outcomes import Outcome, duration

INTERRUPTED = 130
PATIENCE = 60.0
"""Seconds that a killed run's notebooks are given to end."""


class Make:
    """Calls of make in which the variables of the make that called this process hold."""

    def __init__(self, lock: IO[str] | None) -> None:
        self.lock, self.process, self.interrupted = lock, None, False
        self.command = os.environ.get("MAKE_COMMAND", "make")
        words = os.environ.get("MAKEFLAGS", "").split(" ")
        # the first make's own job slots cannot be reached from here, and each stage has its number
        self.flags = [word for word in words if not re.match(r"--?j(observer-.*|\d*)$", word)]
        own = words[: words.index("--")] if "--" in words else words
        self.keep_going = any(re.fullmatch(r"-?[a-zA-Z]*k[a-zA-Z]*|--keep-going", word) for word in own)

    def would_execute(self, target: str) -> list[str]:
        """The notebooks (stems) that are out of date."""
        told = subprocess.run(self._call("--dry-run", target), capture_output=True, text=True, env=self._environment())
        return re.findall(r"longalign\.reproduction\.execute \S*?([^/\s]+)\.ipynb", told.stdout)

    def database(self, target: str) -> str:
        """All rules that make knows of a target, as it prints them."""
        call = self._call("--dry-run", "--print-data-base", target)
        return subprocess.run(call, capture_output=True, text=True, env=self._environment()).stdout

    def run(self, target: str, *, jobs: int, board: terminal.Board) -> int:
        """Bring a target up to date, with its lines on the board; returns the exit status."""
        if self.interrupted:
            return INTERRUPTED
        environment = self._environment() | ({"LONGALIGN_LIVE": "1"} if board.terminal else {})
        self.process = subprocess.Popen(
            self._call("-j", str(jobs), target), env=environment, pass_fds=[self.lock.fileno()],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if self.interrupted:  # in the moment of the start
            self.process.terminate()
        for line in _lines(self.process.stdout):
            board.write(line)
        return self.process.wait()

    def stop(self, *_: object) -> None:
        """End what runs; every notebook tells how far it came."""
        self.interrupted = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop_with_parent(self) -> None:
        """Watch the process that started this one, and the makes above it; nobody waits for the run without them."""
        askers = Askers()

        def watch() -> None:
            while not askers.gone():
                time.sleep(LOOK)
            self.stop()

        threading.Thread(target=watch, daemon=True).start()

    def _call(self, *arguments: str) -> list[str]:
        return [self.command, "--no-print-directory", "--silent", *arguments]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MFLAGS")}
        return kept | {"MAKEFLAGS": " ".join(self.flags)}


def reproduce(profile: str, notebooks: Sequence[str], *, jobs: int, lock: IO[str], stream: IO[str]) -> int:
    """Execute what is out of date of these notebooks (stems); returns 0, 1 when one failed, 130 when interrupted."""
    make, board, began = Make(lock), terminal.Board(stream), time.time()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, make.stop)
    make.stop_with_parent()
    cold = not paths.trained().exists()
    for line in execute_damaged_again(profile, notebooks):
        board.write(line + "\n")
    waiting = make.would_execute("one-by-one")
    if make.interrupted:
        board.write("interrupted before a notebook was started\n")
        return INTERRUPTED
    if waiting:
        told = estimate.estimate(profile, waiting, jobs=jobs)
        board.write(f"{len(waiting)} of {len(notebooks)} notebooks are to be executed: {told}\n")
    status = make.run("side-by-side", jobs=jobs, board=board)
    if not make.interrupted and (status == 0 or make.keep_going):
        status = make.run("one-by-one", jobs=1, board=board) or status
    found = [one for name in notebooks if (one := outcomes.read(profile, name)) and one.began >= began]
    if waiting or status == 0:
        broken = status != 0 and not make.interrupted
        for line in summary(found, waiting, len(notebooks), time.time() - began, broken=broken):
            board.write(line + "\n")
    if status:
        return INTERRUPTED if make.interrupted else 1
    if cold and len(found) == len(notebooks):
        estimate.note(profile, found)
        estimate.note_work(profile, time.time() - began, jobs=jobs)
    for line in (*against_reference(profile), *written(profile)):
        board.write(line + "\n")
    return 0


def execute_damaged_again(profile: str, notebooks: Sequence[str]) -> Iterator[str]:
    """Have make execute those notebooks again whose files have changed since; a line for each."""
    for name, wrong in outcomes.damaged(profile, notebooks).items():
        yield f"{name} is executed again, since these are not as it wrote them: {', '.join(wrong)}"
        outcomes.execute_again(profile, name, wrong)


def summary(
    found: Sequence[Outcome], waiting: Sequence[str], notebooks: int, seconds: float, *, broken: bool = False
) -> Iterator[str]:
    """What ran, what was up to date, what failed: a line for each that did not end well, and the sum.

    `broken` is a run that failed; where no outcome says of which notebook, as on a full disk, one at least did.

    >>> list(summary([], [], 17, 0.4))
    ['nothing to do: all 17 notebooks are up to date']
    """
    if not waiting:
        yield f"nothing to do: all {notebooks} notebooks are up to date"
        return
    good = [one for one in found if one.state == outcomes.EXECUTED]
    bad = [one for one in found if one.state != outcomes.EXECUTED]
    for one in bad:
        first = next(iter(one.error.splitlines()), "")
        yield f"{one.notebook}: {one.state}{': ' if first else ''}{first} (log: {one.log})"
    parts = [f"ran {len(good)}", f"up to date {notebooks - len(set(waiting) | {one.notebook for one in found})}",
             f"failed {len(bad)}" if bad or not broken else "failed 1 or more, which left no outcome"]  # fmt: skip
    left = len(waiting) - len(found)
    if left > 0:
        parts.append(f"not reached {left}")
    work = sum(one.seconds for one in found)
    yield f"{', '.join(parts)} in {duration(seconds)} ({duration(work)} of notebooks)"
    if bad or left > 0:
        yield "the same command goes on from here; what is finished is not done again"


def against_reference(profile: str) -> Iterator[str]:
    """For information: the counts of `make verify`, where the reference is one of the same settings."""
    from longalign.reproduction import verify  # seconds, in which a first line can be shown

    run, reference = paths.run_dir(profile), paths.results()
    try:
        if verify.other_settings(run, reference):
            return
        report = verify.judge(run, reference)
    except (ValueError, OSError) as error:
        yield f"not compared with the reference: {error}"
        return
    if any(f.compared for f in report.findings):
        yield f"{verify.table(report.findings).splitlines()[-1]} (make verify says more)"
        yield from report.lines
        yield from (f"another verdict: {sentence}" for sentence in report.other_words)


def written(profile: str) -> Iterator[str]:
    """Where a reader finds what the run wrote."""
    run = paths.relative(paths.run_dir(profile))
    if (paths.run_dir(profile) / "report.html").is_file():
        yield f"report     {run}/report.html"
    yield f"results    {run}/*.csv, {run}/*.json"
    yield f"figures    {run}/figures/"
    yield f"notebooks  {run}/notebooks/"


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines with their ends, which may be carriage returns, as soon as they come."""
    rest = b""
    while block := os.read(stream.fileno(), 1 << 16):
        *whole, rest = re.split(rb"(?<=[\r\n])", rest + block)
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace") + "\n"


@contextmanager
def _lock(path: Path) -> Iterator[IO[str]]:
    """The clone for this process alone; a run whose head was killed is waited for while its notebooks end."""
    until = time.monotonic() + PATIENCE
    while True:
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(alone(path, wait=False))
            except LockedError as taken:
                holder = re.search(r"process (\d+)", str(taken))
                if holder is None or psutil.pid_exists(int(holder[1])) or time.monotonic() > until:
                    raise
                time.sleep(LOOK)
                continue
            yield lock
            return


def main(arguments: list[str] | None = None) -> int:
    """Reproduce a profile from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m longalign.reproduction.reproduce", description=__doc__.splitlines()[0]
    )
    parser.add_argument("profile", nargs="?", default="laptop")
    parser.add_argument("--notebooks", nargs="+", required=True, type=Path, help="all notebooks, in their order")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks side by side (default: 2)")
    parser.add_argument("--lock", type=Path, default=Path(".make/lock"), help="file that keeps a second run out")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile).name
        with _lock(options.lock) as lock:
            return reproduce(
                profile, [path.stem for path in options.notebooks], jobs=options.jobs, lock=lock, stream=sys.stdout
            )
    except LockedError as taken:
        told = f"{taken}: wait until it has ended, or stop it, then start again"
        print(f"longalign.reproduction.reproduce: {told}", file=sys.stderr)
    except ConfigError as error:
        print(f"longalign.reproduction.reproduce: {error}", file=sys.stderr)
    return outcomes.EXIT_STATUS[outcomes.REFUSED]


if __name__ == "__main__":
    sys.exit(main())
