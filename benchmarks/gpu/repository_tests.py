"""The tests of this repository that need a card, in a process of their own."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.gpu import ROOT, rows
from benchmarks.gpu.rows import Context, Row

TESTS = ("tests/test_attention.py", "tests/test_loss.py")
SECONDS = 180.0


def run(stage: str, context: Context) -> Iterator[Row]:
    """Tests marked `gpu`, in a process of their own, without the options of pyproject.toml (they name beartype)."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        yield rows.absent(stage, " and ".join(missing), "not installed: the repository's gpu tests are not run")
        return
    # one test says at tiny sizes that they start
    files = [f"{TESTS[1]}::test_cuda_equals_cpu"] if context.tiny else list(TESTS)
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "-m", "gpu", *files]
    paths = os.pathsep.join([str(ROOT / "lib"), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    yield from told(stage, done.stdout + done.stderr, context)


def told(stage: str, output: str, context: Context) -> Iterator[Row]:
    """The rows of what pytest printed: how many tests passed, were skipped, failed. None that passed is a failure."""
    last = next((line for line in reversed(output.splitlines()) if re.search(r"\d+ \w+.* in [\d.]+s", line)), "")
    found = re.findall(r"(\d+) (passed|skipped|failed|error)", last)
    counts = {kind: int(number) for number, kind in found}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    given = (stage, "tests marked gpu", "pytest")
    backend = context.device.type
    for kind in ("passed", "skipped"):
        value = counts.get(kind, 0)
        wrong = kind == "passed" and (not last or bad or (not value and context.device.type == "cuda"))
        if wrong:
            reason = " / ".join(line for line in output.splitlines() if line.strip())[-280:]
            yield rows.failed(*given, kind, reason, value=value, unit="tests", backend=backend)
        else:
            yield rows.measured(*given, kind, value, "tests", backend, last.strip("= "))
