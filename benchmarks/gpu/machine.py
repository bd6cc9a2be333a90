"""What the numbers were measured on: card, driver, clocks, versions, commit. It is read only; nothing is set."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from typing import Any

import torch

from benchmarks.gpu import ROOT

USED = ("torch", "transformers", "numpy", "triton", "accelerate", "peft", "flash-attn", "liger-kernel", "trl")
QUERY = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"


def describe(device: torch.device, commit: str) -> dict[str, Any]:
    """Card, driver and clocks as the driver tells them, versions, commit, and the time in UTC."""
    return {
        "card": card(device), "driver": _driver(), "cuda": torch.version.cuda, "cores": os.cpu_count(),
        "python": platform.python_version(), "versions": versions(), "commit": commit,
        "clock": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def card(device: torch.device) -> str:
    """The card's name; on a CPU the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that the stages use, where they are installed."""
    found = {}
    for name in USED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this checkout, with "+" when files differ from it; "unknown" without git."""
    git = ("git", "-C", str(ROOT))
    head, *below = _told(*git, "rev-parse", "HEAD", "--show-prefix").split() or [""]
    if not head or below:  # none, or a repository in which this checkout is a folder
        return "unknown"
    return head + ("+" if _told(*git, "status", "--short") else "")


def _driver() -> dict[str, str]:
    told = _told("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader")
    first = told.splitlines()[0] if told else ""
    return dict(zip(QUERY.split(","), (part.strip() for part in first.split(",")), strict=True)) if first else {}


def _told(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_installed(name: str) -> bool:
    """Whether a package of this name is installed; that it works is known only when it has been called."""
    return name in versions()
