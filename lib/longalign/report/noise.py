"""How far seeds lie apart, calibrated: what a run with few seeds takes from the committed reference.

    python -m longalign.report.noise      (writes results/noise.csv from the tables in results/)

A row is of all arms of one table and model with eight seeds or more: the standard deviation between seeds of an arm's
mean over the tasks and lengths that claims read, each arm's own mean removed. The rules stand in
docs/project/verdicts.md, "Calibrated noise".
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from longalign.common import paths
from longalign.common.provenance import write_csv
from longalign.evals import crossed
from longalign.evals.intervals import RESOLUTION
from longalign.report.claim_schema import LAPTOP, WAITING, Claim, Number, load_ledger
from longalign.report.claim_scores import Folder, Missing

NAME = "noise.csv"
OWN = 8
"""With as many seeds of its own, a contrast needs no calibration, and an arm gives one."""


class Key(NamedTuple):
    """What a spread is of: the mean of an arm of `model` in a table, or its logarithm."""

    results: str
    model: str
    metric: str
    tasks: str
    lengths: str
    scale: str


COLUMNS = (*Key._fields, "arms", "seeds", "df", "sd", "sd_of_answers")
Noise = Mapping[Key, crossed.Spread]
"""The calibrated spread of an arm's mean, by what it is of."""


def key(claim: Claim, model: str) -> Key:
    """What the claim reads of an arm of this model."""
    tasks, lengths = (", ".join(map(str, some)) if some else "all" for some in (claim.tasks, claim.lengths))
    return Key(claim.results, model, claim.metric, tasks, lengths, "logarithm" if claim.log else "value")


def weights(claim: Claim) -> dict[Key, float]:
    """The sum of the squared weights of the claim's arms, for each spread that its contrast has."""
    found: dict[Key, float] = {}
    for arm in claim.arms:
        one = key(claim, claim.run(arm)[0])
        found[one] = found.get(one, 0.0) + arm.value**2
    return found


def of_contrast(squares: Mapping[Key, float], noise: Noise) -> crossed.Spread | None:
    """The spread of a contrast of arms that are trained independently; None where one of them is not calibrated.

    Arms of different models: degrees of freedom by Satterthwaite. With the running example's weights 1 and -1:

    >>> one = Key("methods", "mini-6b", "score", "all", "all", "value")
    >>> of_contrast({one: 2.0}, {one: crossed.Spread(3.0, 28, 2.0)})
    Spread(sd=4.242640687119285, df=28.0, answers=4.0)
    """
    if not squares or any(one not in noise for one in squares):
        return None
    parts = [(square * noise[one].sd ** 2, noise[one]) for one, square in squares.items()]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / spread.df for part, spread in parts)
    answers = sum(square * noise[one].answers for one, square in squares.items())
    return crossed.Spread(float(variance**0.5), float(df), float(answers))


def of_claim(claim: Claim, noise: Noise) -> crossed.Spread | None:
    """The spread of the claim's contrast in one run; None where it is not calibrated. Times never are."""
    return None if WAITING in claim.needs else of_contrast(weights(claim), noise)


def calibrate(folder: Folder, ledger: Iterable[Claim]) -> list[dict[str, Any]]:
    """A row for everything that claims read and eight seeds or more of an arm calibrate."""
    rows: dict[Key, dict[str, Any]] = {}
    for claim in (claim for claim in ledger if claim.scale == LAPTOP and WAITING not in claim.needs):
        for one in weights(claim):
            if one not in rows and (row := _row(one, list(_arms(claim, one.model, folder)))):
                rows[one] = row
    return list(rows.values())


def arms(claim: Claim, model: str, folder: Folder) -> dict[str, tuple[Claim, pd.DataFrame]]:
    """What a folder has of what the claim reads, for each arm of this model in its table: the claim cut to this arm,
    and its scores."""
    found = {}
    try:
        table = folder.table(f"{claim.results}.csv", ("arm", "model", "seed", "metric", "value"))
    except Missing:
        return found
    for arm in table.arm[table.model == model].unique():
        alone = replace(claim, arms=(Number(f"{model}|{arm}", 1.0),))
        try:
            found[arm] = alone, folder.scores(alone)
        except Missing:
            continue  # another kind of score
    return found


def means(claim: Claim, scores: pd.DataFrame) -> np.ndarray:
    """The mean of an arm in every seed, on the scale of the claim's test."""
    found = scores.mean().to_numpy()
    return np.log(found) if claim.log else found


def _arms(claim: Claim, model: str, folder: Folder) -> Iterator[tuple[np.ndarray, float]]:
    """For each arm with seeds enough: its mean in every seed, and the part of single answers in one of them."""
    for alone, scores in arms(claim, model, folder).values():
        if scores.shape[1] < OWN:
            continue
        try:
            items = folder.items(alone, scores)
        except Missing:
            items = None
        yield means(claim, scores), crossed.of_answers(*items) if items else 0.0


def _row(one: Key, found: list[tuple[np.ndarray, float]]) -> dict[str, Any] | None:
    """Arms pooled by their degrees of freedom; None where nothing spreads."""
    df = np.array([by_seed.size - 1 for by_seed, _ in found])
    if not df.size:
        return None
    variance, answers = (float(np.average(values, weights=df)) for values in zip(
        *((by_seed.var(ddof=1), part) for by_seed, part in found), strict=True))  # fmt: skip
    if variance**0.5 <= RESOLUTION:
        return None
    return {**one._asdict(), "arms": df.size, "seeds": int(df.max()) + 1, "df": int(df.sum()),
            "sd": variance**0.5, "sd_of_answers": answers**0.5}  # fmt: skip


def write(results: Path) -> Path:
    """Calibrate from the tables of `results` and write noise.csv beside them; returns it."""
    return write_csv(results / NAME, calibrate(Folder(results), load_ledger()), columns=COLUMNS)


def of_run(folder: Path) -> dict[Key, crossed.Spread]:
    """What is calibrated for a run: nothing where it is of another profile than the reference, which trains others."""
    other = folder.resolve().parent == paths.runs().resolve() and folder.name != LAPTOP
    return {} if other else read(paths.results())


def read(results: Path, name: str = NAME) -> dict[Key, crossed.Spread]:
    """What is calibrated in `results`; nothing where there is no such table."""
    if not (results / name).is_file():
        return {}
    rows = pd.read_csv(results / name).to_dict("records")
    return {Key(*(row[field] for field in Key._fields)):
            crossed.Spread(row["sd"], row["df"], row.get("sd_of_answers", 0.0) ** 2) for row in rows}  # fmt: skip


def main() -> int:
    """Write noise.csv of the committed tables; returns the exit status."""
    print(paths.relative(write(paths.results())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
