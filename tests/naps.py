"""A job that takes a while and does nothing, for tests of who does which job when."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Nap:
    """Sleeps, then writes when it began and ended, and in which process; or `fails` instead."""

    label: str
    where: str
    seconds: float = 0.3
    fails: bool = False

    @property
    def key(self):
        return self.label

    @property
    def folder(self):
        return Path(self.where) / self.label

    @property
    def finished(self):
        return (self.folder / "record.json").exists()

    def perform(self):
        began = time.time()
        time.sleep(self.seconds)
        if self.fails:
            raise InterruptedError("woken")
        told = json.dumps({"began": began, "ended": time.time(), "process": os.getpid()})
        (self.folder / "part").write_text(told)
        (self.folder / "part").rename(self.folder / "record.json")

    def progress(self):
        return "napping"

    def summary(self):
        return "rested"

    def record(self):
        return json.loads((self.folder / "record.json").read_text())
