"""Drift: how far another processor carries the mean of an arm, with the same seed and the same code.

    python -m longalign.reproduction.drift results RUN [RUN ...]

writes results/drift.csv. The first folder is compared with each of the others: the mean over tasks and lengths of each
arm and seed that both have. Without drift their difference is 0, so its standard deviation is sqrt(mean of squares),
with a degree of freedom for each pair. The long base of a model is trained once on each processor, so arms drift in
part together: of a contrast, in which that cancels, this says rather too much than too little.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common import paths
from longalign.common.provenance import write_csv
from longalign.evals.crossed import Spread
from longalign.report import noise
from longalign.report.claim_schema import LAPTOP, WAITING, Claim, load_ledger
from longalign.report.claim_scores import Folder

NAME = "drift.csv"
COLUMNS = (*noise.Key._fields, "arms", "seeds", "df", "sd", "processors")


def measure(first: Path, others: Iterable[Path], ledger: Iterable[Claim]) -> list[dict[str, Any]]:
    """A row for everything that claims read and that two of the folders have of one arm and seed."""
    pairs = [(Folder(first), Folder(other)) for other in others]
    rows: dict[noise.Key, dict[str, Any]] = {}
    for claim in (claim for claim in ledger if claim.scale == LAPTOP and WAITING not in claim.needs):
        for key in (key for key in noise.weights(claim) if key not in rows):
            found = [drift for pair in pairs for drift in _differences(claim, key.model, *pair)]
            if found:
                arms, seeds, values, processors = zip(*found, strict=True)
                rows[key] = {**key._asdict(), "arms": len(set(arms)), "seeds": len(set(seeds)), "df": len(values),
                             "sd": float(np.sqrt(np.mean(np.square(values)))),
                             "processors": ", ".join(sorted(set(processors)))}  # fmt: skip
    return list(rows.values())


def _differences(claim: Claim, model: str, ours: Folder, theirs: Folder) -> list[tuple[str, int, float, str]]:
    """Arm, seed, how far the second folder lies from the first, and on which processors."""
    found, first = [], noise.arms(claim, model, ours)
    processors = " / ".join(_processor(folder.folder / f"{claim.notebook}.json") for folder in (ours, theirs))
    for arm, (_, other) in noise.arms(claim, model, theirs).items():
        if arm not in first:
            continue
        one, other = (scores.droplevel(0, axis=1) for scores in (first[arm][1], other))
        both = sorted(set(one) & set(other))
        shared = noise.means(claim, other[both]) - noise.means(claim, one[both])
        found += [(arm, seed, value, processors) for seed, value in zip(both, shared, strict=True)]
    return found


def _processor(record: Path) -> str:
    """The kind of processor that a record names."""
    if not record.is_file():
        return "unknown"
    hardware = json.loads(record.read_text(encoding="utf-8"))["hardware"]
    return " ".join(filter(None, (hardware["processor"], hardware.get("kind"))))


def read(results: Path, spreads: noise.Noise) -> dict[noise.Key, Spread]:
    """The drift of an arm's mean, for everything whose model and metric were measured.

    One measurement of seven pairs is too few to say how far a single group of tasks drifts (all of one came out the
    same). So drift is a share of the spread between seeds, in the mean square over all that was measured of a model and
    metric; its degrees of freedom are the number of pairs, for one training gives the scores of all tasks.
    """
    if not (results / NAME).is_file():
        return {}
    measured: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for key, drift in noise.read(results, NAME).items():
        if key in spreads:
            measured.setdefault((key.model, key.metric), []).append(((drift.sd / spreads[key].sd) ** 2, int(drift.df)))
    return {key: _share_of(spread, measured[key.model, key.metric]) for key, spread in spreads.items()
            if (key.model, key.metric) in measured}  # fmt: skip


def _share_of(spread: Spread, shares: Sequence[tuple[float, int]]) -> Spread:
    squares, pairs = zip(*shares, strict=True)
    return Spread(float(spread.sd * np.mean(squares) ** 0.5), max(pairs))


def main(arguments: Sequence[str]) -> int:
    """Measure drift between the first folder and each of the others; returns the exit status."""
    folders = [Path(name) for name in arguments]
    try:
        if len(folders) < 2:
            raise ValueError("name two folders of results or more: the first is compared with each of the others")
        if missing := [path for path in folders if not path.is_dir()]:
            raise ValueError(f"there is no folder {missing[0]}")
        rows = measure(folders[0], folders[1:], load_ledger())
        if not rows:
            raise ValueError("the folders share no arm and seed of what claims read")
    except ValueError as error:
        print(f"longalign.reproduction.drift: {error}", file=sys.stderr)
        return 2
    print(paths.relative(write_csv(paths.results() / NAME, rows, columns=COLUMNS)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
