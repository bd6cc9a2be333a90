"""Calling the repository's own make from a test, as if from a fresh shell even where make runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

from longalign.common import paths


def make(*arguments: str, root: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """`make` with these arguments in `root` (default: the repository's), and these variables of its environment."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=root or paths.root(), env=clean | environment, capture_output=True, text=True
    )


def with_this_python(folder: Path) -> list[str]:
    """Arguments that make `make` run notebooks into `folder` with the Python of the test, and install nothing."""
    return [f"RUNS={folder}/run", f"STAMPS={folder}/stamps", f"VENV={sys.prefix}", "READY="]
