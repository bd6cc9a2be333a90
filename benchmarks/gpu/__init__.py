"""What a GPU shows, in minutes and in one go: `python -m benchmarks.gpu`, described in benchmarks/gpu/__main__.py.

The library of this checkout is imported, installed or not.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lib"))
