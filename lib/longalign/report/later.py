"""What later papers say of packing and loss weighting: later_claims.yaml, judged by the same rules, in families apart.

    python -m longalign.report.later      (writes results/later_claims.csv from the tables in results/)

The arms are those of PROFILE=referee. What each claim would see is computed before: the effect that 80 % of runs with
its seeds and questions would show, in the strictest test of its family, from the chance in committed scores of the same
kind (`like` in the ledger).
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longalign.common import paths
from longalign.common.config import ConfigError
from longalign.common.provenance import write_csv
from longalign.evals import crossed
from longalign.evals.power import Chance, components, planned
from longalign.report import claims, noise
from longalign.report.claim_schema import MEASURABLE, Claim, Number, load_ledger
from longalign.report.claim_scores import Folder, Missing
from longalign.report.verdicts import ABSENT, ALPHA, HIDDEN, REPRODUCED

LEDGER, TABLE = "later_claims.yaml", "later_claims.csv"
ABOUT = ("arxiv", "read", "baseline", "cannot_show")
COLUMNS = (*claims.COLUMNS, *ABOUT, "caveat", "would_see", "can_fail", "could_fail")


@dataclass(frozen=True)
class Like:
    """Committed scores whose chance stands for that of a claim: a contrast of two arms of a table, on some cells."""

    results: str
    metric: str
    arms: tuple[Number, ...]
    tasks: tuple[str, ...] | None = None
    lengths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LaterClaim(Claim):
    """A claim of a later paper; later_claims.yaml explains the fields."""

    arxiv: str = ""
    read: str = ""
    baseline: str = ""
    cannot_show: str = ""
    seeds: int = 0
    questions: int = 0
    like: Like | None = None
    premise: str = ""
    at_worst: tuple[Number, ...] = ()


def load_later(path: Path | None = None) -> tuple[LaterClaim, ...]:
    """The claims of later papers, in the ledger's order. Raises ConfigError for one that does not say what it must."""
    path = path or paths.root() / LEDGER
    ledger = load_ledger(path, LaterClaim)
    for claim in ledger:
        if claim.at_worst and claim.direction != "not_less":
            raise ConfigError(f"{paths.relative(path)}, claim {claim.id}: at_worst is said of not_less alone")
        for name in (name for name in ABOUT if not getattr(claim, name)):
            raise ConfigError(f"{paths.relative(path)}, claim {claim.id}: the key {name} is missing")
        if claim.premise and claim.premise not in {other.id for other in ledger}:
            raise ConfigError(f"{paths.relative(path)}, claim {claim.id}: no claim {claim.premise}, its premise")
        if claim.like and not (claim.seeds > 1 and claim.questions > 0):
            raise ConfigError(f"{paths.relative(path)}, claim {claim.id}: seeds and questions are needed beside like")
    return ledger


def would_see(claim: LaterClaim, folder: Folder, family: int) -> float | None:
    """The effect that 80 % of the planned runs would show, in the strictest of the tests of `family` claims.

    The spread between seeds is that of all arms of the table in `folder`, as `longalign.report.noise` calibrates it,
    the chance of questions that of the difference of the two arms; both grow with the claim's weights. None for a claim
    without `like`. Raises Missing where the committed tables lack its scores.
    """
    if claim.like is None:
        return None
    told = {name: getattr(claim, name) for name in ("id", "source", "statement", "notebook", "model")}
    like = Claim(**told, **vars(claim.like), direction="greater")
    items = folder.items(like, folder.scores(like))
    rows = noise.calibrate(folder, [like])
    if items is None or not rows:
        raise Missing(f"{like.results} has no items or no {noise.OWN} seeds that calibrate {claim.id}")
    spread = crossed.Spread(rows[0]["sd"], rows[0]["df"], rows[0]["sd_of_answers"] ** 2)
    contrast = noise.of_contrast(noise.weights(like), {noise.key(like, like.model): spread})
    values, strata = items
    of_one_seed, of_answers = max(0.0, float(contrast.sd**2 - contrast.answers)), float(contrast.answers)
    larger = sum(arm.value**2 for arm in claim.arms) / sum(arm.value**2 for arm in like.arms)
    known = Chance(of_one_seed, components(values, strata).question, of_answers * strata.size)
    chance = Chance(*(larger * variance for variance in known))
    mean = planned(chance, np.unique(strata).size, seeds=claim.seeds, questions=claim.questions)
    return float(mean.detectable(ALPHA / family))


def can_fail(claim: LaterClaim, seen: float | None) -> bool:
    """Whether 80 % of the planned runs would come out against the paper if there were no effect (or, of "no harm", if
    the harm were twice the margin): the effect that they would see is no larger than what the verdict excludes."""
    if claim.scale not in MEASURABLE:
        return False
    if claim.like is None:  # of times: what spreads is small beside any ratio that is claimed
        return claim.excluded is not None
    reach = claim.margin if claim.direction == "not_less" else abs((claim.excluded or claim.null) - claim.null)
    return bool(seen is not None and seen <= reach)


def by_premise(claim: LaterClaim, row: dict[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The row of a claim, given those of all: what is absent where its premise is not reproduced is hidden."""
    if row["verdict"] != ABSENT or not claim.premise or rows[claim.premise]["verdict"] == REPRODUCED:
        return row
    premise, word = rows[claim.premise]["statement"].rstrip("."), rows[claim.premise]["verdict"]
    note = f'needs that "{premise}", and here the verdict on this is "{word}"'
    return row | {"verdict": HIDDEN, "note": f"{note}; {row['note']}"}


def by_worst(claim: LaterClaim, row: dict[str, Any], folder: Folder) -> dict[str, Any]:
    """The row of a claim of "no harm"; it is hidden where the most harm that was possible, that of the arms `at_worst`,
    is within the margin: then nothing could have come out against the paper."""
    if row["verdict"] != REPRODUCED or not claim.at_worst:
        return row
    (most,) = claims.measure_all([replace(claim, arms=claim.at_worst)], folder)
    if most["estimate"] <= -(claim.margin or 0):
        return row
    arms = " less ".join(f'"{arm.arm}"' for arm in sorted(claim.at_worst, key=lambda arm: -arm.value))
    note = (f"needs arms that can lose more than the margin of {claim.margin:g}, and {arms} is {most['estimate']:.3f} "
            f"({most['low']:.3f} to {most['high']:.3f})")  # fmt: skip
    return row | {"verdict": HIDDEN, "note": "; ".join(filter(None, [note, row["note"]]))}


def rows(results: Path) -> list[dict[str, Any]]:
    """A row per claim: that of claims.csv, by the tables in `results`, what it is about, and what it would see."""
    ledger, folder = load_later(), Folder(results)
    families = Counter((claim.source, claim.family) for claim in ledger)
    measured = claims.measure_all(ledger, folder)
    by_id = {row["id"]: row for row in measured}
    found = []
    for claim, row in zip(ledger, measured, strict=True):
        seen = would_see(claim, folder, families[claim.source, claim.family])
        sees = row.get("detectable")  # the same, by the chance that is in the claim's own scores
        row = by_worst(claim, by_premise(claim, row, by_id), folder)
        found.append(row | {name: getattr(claim, name) for name in (*ABOUT, "caveat")}
                     | {"would_see": seen, "can_fail": can_fail(claim, seen),
                        "could_fail": "" if sees is None else can_fail(claim, sees)})  # fmt: skip
    return found


def write(results: Path) -> list[dict[str, Any]]:
    """Write later_claims.csv into `results` from its tables; returns the rows."""
    found = rows(results)
    write_csv(results / TABLE, found, columns=COLUMNS)
    return found


def read_later(results: Path) -> pd.DataFrame:
    """The table that `write` has written into `results`, in the order of the ledger."""
    order = {claim.id: number for number, claim in enumerate(load_later())}
    found = pd.read_csv(results / TABLE, dtype={"arxiv": str, "could_fail": str})
    return found.sort_values("id", key=lambda ids: ids.map(order))


def of_notebook(notebook: str) -> pd.DataFrame:
    """What the committed tables say of the claims that `notebook` (its file's stem) explains: a row each, by id."""
    found = read_later(paths.results()).query("notebook == @notebook").set_index("id")
    wanted = ["verdict", "estimate", "deciding_low", "deciding_high", "would_see", "detectable"]
    columns = found[wanted].dropna(axis="columns", how="all")
    return columns.round(3).astype(object).fillna("")


def keep_in_mind(notebook: str) -> str:
    """What a reader of these verdicts has to know of our experiments: a paragraph for each claim that has numbers."""
    found = read_later(paths.results()).query("notebook == @notebook and seeds > 0").dropna(subset="caveat")
    return "\n".join(textwrap.fill(f"{line.id}: {line.caveat}", 90, subsequent_indent="    ")
                     for line in found.itertuples())  # fmt: skip


def table(name: str) -> pd.DataFrame:
    """The committed table <name>.csv of the referee, or with "items/" before its name the scores of its questions."""
    return pd.read_csv(paths.results() / f"{name}.csv")


def main(arguments: Sequence[str] = ()) -> int:
    """Write later_claims.csv beside the committed tables and print a line per claim; returns the exit status."""
    for row in write(paths.results()):
        seen = "" if row["would_see"] is None else f"would see {row['would_see']:.3f}"
        print(f"{row['id']:55} {row['verdict']:20} {seen:16} {'can fail' if row['can_fail'] else ''}")
    print(paths.relative(paths.results() / TABLE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
