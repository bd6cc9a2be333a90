"""What a run will take, from a run that took it: times and memory of every notebook of a run that began with nothing.

The price: it is an estimate for the machine that was measured, and says which; trainings that are there already make
it shorter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from longalign import paths, record
from longalign.execution.outcomes import Outcome, duration

NAME = "durations.csv"


def note(profile: str, found: Sequence[Outcome]) -> Path:
    """Write the times of a run that began with nothing beside its tables; `make reference` takes them along."""
    cores = record.hardware()["cores"]
    rows = [{"notebook": one.notebook, "profile": profile, "cores": cores, "seconds": one.seconds,
             "peak_memory_mb": one.peak_memory_mb} for one in found]  # fmt: skip
    return record.write_csv(paths.run_dir(profile) / NAME, rows, columns=list(rows[0]))


def estimate(profile: str, notebooks: Collection[str], *, jobs: int) -> str:
    """One sentence on time and memory for these notebooks (stems), `jobs` of them side by side."""
    for folder in (paths.run_dir(profile), paths.results()):
        try:
            table = pd.read_csv(folder / NAME)
        except (OSError, ValueError):
            continue
        table = table[(table.profile == profile) & table.notebook.isin(notebooks)]
        if len(table):
            largest = table.peak_memory_mb.nlargest(jobs).sum()
            return (
                f"about {duration(table.seconds.sum() / min(jobs, len(table)))} and {largest / 1024:.1f} GB of memory, "
                f"as measured on {table.cores.iloc[0]} cores from nothing; what is trained already is not trained again"
            )
    return f"no run of {profile} has been measured yet, so there is no estimate"
