"""How long `longalign train` takes to its first step: a small job, from the command to the first line of its events.

Measured are the wall time, which is what one waits, and the processor seconds of the whole command, to its end. Beside
another program, as in `make bench`, the wall time is longer.

    python -m benchmarks.start
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks import common
from longalign.common import paths
from longalign.data.chat import Encoded
from longalign.data.store import write_store

TARGET = "start"
UNITS = {"time": "s", "CPU, whole command": "CPU s"}


def child(folder: Path) -> None:
    """Run `longalign train` on a small job; report the seconds to the end of its first step, and its CPU to its end."""
    ids = np.arange(3, 35, dtype=np.int32)
    write_store(folder / "store", [Encoded(ids, ids)] * 8, meta={})
    job = {"model": str(paths.bases() / "mini-6b"), "data": str(folder / "store"),
           "training": {"capacity": 64, "steps": 1, "warmup_ratio": 0}, "engine": {}}  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    began, spent = time.monotonic(), common.user_seconds()
    command = [sys.executable, "-m", "longalign.cli", "train", str(folder / "job.yaml"), "--out", str(folder / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(
        file.stat().st_size for file in folder.glob("out/trained/*/work/events.jsonl")
    ):
        time.sleep(0.02)
    taken = time.monotonic() - began
    if process.wait():
        raise RuntimeError(f"longalign train ended with status {process.returncode}")
    common.report(**{"time": taken, "CPU, whole command": common.user_seconds() - spent})


def run(rounds: int = 3) -> list[common.Row]:
    """The command, a few times."""
    started = common.alternate({common.OURS: common.Command(("-m", "benchmarks.start", "child"))}, rounds)
    return common.rows_of(TARGET, "longalign train", started, UNITS, {common.OURS: "to the end of its first step"})


def main() -> int:
    """Measure, show and save."""
    return common.finish(TARGET, run())


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        with tempfile.TemporaryDirectory() as place:
            sys.exit(child(Path(place)))
    sys.exit(main())
