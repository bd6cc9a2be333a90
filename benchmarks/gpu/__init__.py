"""What a GPU shows, in minutes and in one go: `python -m benchmarks.gpu`, described in benchmarks/gpu/__main__.py.

The library of this checkout is imported, installed or not.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lib"))

REHEARSAL = "0"
STAGES = {"a": "exact", "b": "ceilings", "c": "kernels", "d": "figure5", "e": "training", "f": "learning",
          "g": "sharing"}  # fmt: skip
"""{letter: module}, in the order in which they run."""
NAMES = {REHEARSAL: "rehearsal", **STAGES}
GRACE = 30.0
"""Seconds that a stage may run over --minutes: their budgets fill six minutes, and starting takes time, too."""
RUNNING = ".running"
"""File with the letter of the stage that is running now."""
CARD_LOST = 3
"""Exit status of a process whose card answers no more; another one goes on with the next stage."""
