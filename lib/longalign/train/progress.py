"""What is shown of jobs that are done side by side: one live line on a terminal, plain lines now and then elsewhere."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from longalign.common import paths

REPORT_SECONDS = {True: 1.0, False: 15.0}
LIVE = "LONGALIGN_LIVE"
"""Environment variable: whoever reads this process's output shows lines that end in a carriage return."""


class Told(Protocol):
    """A job as it is told of."""

    label: str

    def progress(self) -> str:
        """One phrase on a job that is under way."""

    def summary(self) -> str:
        """One phrase on a job that is finished."""


class Progress:
    """One live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        self.live, self.shown = sys.stdout.isatty() or LIVE in os.environ, time.monotonic()

    def show(self, running: Sequence[Told], waiting: int) -> None:
        if not running or time.monotonic() - self.shown < REPORT_SECONDS[self.live]:
            return
        self.shown = time.monotonic()
        text = " | ".join(f"{job.label}: {job.progress()}" for job in running)
        text += f" | {waiting} waiting" if waiting else ""
        print(f"{text:<110}" if self.live else text, end="\r" if self.live else "\n", flush=True)

    def finished(self, job: Told) -> None:
        self.tell(f"{job.label}: {job.summary()}")

    def tell(self, text: str) -> None:
        print(f"{text:<110}" if self.live else text, flush=True)

    def end(self) -> None:
        """Nothing is left to be said."""


class Quiet(Progress):
    """One line that changes; everything else goes to a file, which the last line names."""

    def __init__(self, log: Path, jobs: int, reused: int) -> None:
        super().__init__()
        self.live, self.log, self.jobs, self.reused, self.done, self.began = True, log, jobs, reused, 0, self.shown
        log.parent.mkdir(parents=True, exist_ok=True)

    def finished(self, job: Told) -> None:
        self.done += 1
        super().finished(job)

    def tell(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def end(self) -> None:
        """The one line that stays."""
        if self.jobs + self.reused:
            took = f" in {time.monotonic() - self.began:.0f} s" if self.jobs else ""
            text = f"{self.done} jobs done{took}, {self.reused} were there already; log: {paths.relative(self.log)}"
            print(f"{text:<110}", flush=True)
