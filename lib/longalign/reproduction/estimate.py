"""What a run will take, from a run that took it: times and memory of every notebook of a run that began with nothing.

It is an estimate for the machine that was measured, and says which; trainings that are there already make it shorter.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from longalign.common import paths, provenance
from longalign.reproduction.outcomes import Outcome, duration

NAME = "durations.csv"
WORK = "work.csv"


def note(profile: str, found: Sequence[Outcome]) -> Path:
    """Write the times of a run that began with nothing beside its tables; `make reference` takes them along."""
    cores = provenance.hardware()["cores"]
    rows = [{"notebook": one.notebook, "profile": profile, "cores": cores, "seconds": one.seconds,
             "peak_memory_mb": one.peak_memory_mb} for one in found]  # fmt: skip
    return provenance.write_csv(paths.run_dir(profile) / NAME, rows, columns=list(rows[0]))


def note_work(profile: str, seconds: float, *, jobs: int) -> Path:
    """Write what of a run that began with nothing was spent in trainings and in evaluations.

    `jobs` notebooks, and as many trainings or evaluations, are under way at a time for `seconds`: shares are of the
    product, "cores" in the table.
    """
    kinds = {"cores": [seconds] * jobs}
    for kind in ("trained", "evaluated"):
        records = (paths.runs() / kind).glob("*/record.json")
        kinds[kind] = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in records]
    rows = [{"kind": kind, "number": len(taken), "seconds": round(sum(taken), 1), "share": sum(taken) / jobs / seconds}
            for kind, taken in kinds.items()]  # fmt: skip
    return provenance.write_csv(paths.run_dir(profile) / WORK, rows, columns=list(rows[0]))


def estimate(profile: str, notebooks: Collection[str], *, jobs: int) -> str:
    """One sentence on time and memory for these notebooks (stems), `jobs` of them side by side."""
    for folder in (paths.run_dir(profile), paths.results()):
        try:
            with (folder / NAME).open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["profile"] == profile]
            rows = [row for row in rows if row["notebook"] in notebooks]
            seconds = sum(float(row["seconds"]) for row in rows) / max(min(jobs, len(rows)), 1)
            largest = sum(sorted((float(row["peak_memory_mb"]) for row in rows), reverse=True)[:jobs]) / 1024
        except (OSError, ValueError, KeyError):
            continue
        if rows:
            return (
                f"about {duration(seconds)} and {largest:.1f} GB of memory, as measured on {rows[0]['cores']} cores "
                "from nothing; what is trained already is not trained again"
            )
    return f"no run of {profile} has been measured yet, so there is no estimate"
