"""Every claim of the ledger gets our number, its intervals and its verdict from the tidy CSVs of one folder.

`python -m longalign.report.claims [profile]` reads the run of a profile and writes claims.csv beside its tables. Claims
of the scale "gpu" are read from the committed results/gpu/<card>/, of the card with the most seeds. A claim whose
numbers are missing says in one sentence which, and stops no other. Only the verdict uses p after Holm, over all
measured claims of one table or figure (`source`) at one scale, each with the p of its own test: two-sided for a
direction, TOST for equality. The price: intervals are printed at their plain 95 %, so an interval may leave out zero
where the verdict, which takes the number of claims into account, is `consistent`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longalign.common import paths
from longalign.common.provenance import write_csv
from longalign.evals import intervals
from longalign.experiments.profiles import load_profile
from longalign.report.claim_schema import GPU, LAPTOP, MEASURABLE, Claim, load_ledger
from longalign.report.claim_scores import Folder, Missing, OfCard
from longalign.report.gpu_results import read_cards
from longalign.report.verdicts import FEWEST_SEEDS, NAN, TOO_SMALL, UNMEASURED, Evidence, is_pilot, verdict

ENOUGH_SEEDS = 5
"""With fewer seeds a verdict is provisional."""
COLUMNS = (
    "id", "source", "statement", "notebook", "paper", "metric", "direction", "threshold", "margin", "estimate", "low",
    "high", "interval", "item_low", "item_high", "seeds", "p_holm", "verdict", "provisional", "note",
)  # fmt: skip
OVER_SEEDS, OVER_ITEMS = "t over seeds", "items"


@dataclass(frozen=True)
class Measured:
    """What a folder says about one claim, on the scale of the test (logarithms for a ratio).

    `values` holds the contrast of every seed in `seeds`; `interval` is the t interval or, as `name` says, that of the
    items; p values are NaN where there is no interval.
    """

    claim: Claim
    values: np.ndarray
    seeds: tuple[int, ...]
    interval: intervals.Interval
    name: str
    items: intervals.Interval
    p_two_sided: float
    p_equal: float
    note: str

    @property
    def estimate(self) -> float:
        """Mean contrast over the seeds."""
        return float(self.values.mean())

    @property
    def pilot(self) -> bool:
        """Whether its seeds are too few for a verdict."""
        return is_pilot(self.claim.scale, len(self.seeds))

    @property
    def p(self) -> float:
        """p of the claim's own test."""
        return self.p_equal if self.claim.direction == "equal" else self.p_two_sided


def measure(claim: Claim, folder: Folder) -> Measured:
    """The contrast of every seed with intervals and p values. Raises Missing when numbers are."""
    scores = folder.scores(claim)
    seeds = tuple(int(seed) for seed in dict.fromkeys(seed for _, seed in scores))
    by_arm = np.array([scores[arm.arm].mean().to_numpy() for arm in claim.arms])
    if claim.log and not (by_arm > 0).all():
        raise Missing(f"{claim.results}.csv has values of 0 or below, of which there is no ratio")
    values = intervals.contrast(by_arm, claim.weights, log=claim.log)
    draws, note = None, folder.where
    try:
        draws = folder.items(claim, scores)
    except Missing as missing:
        note = str(missing)
    items = intervals.NONE if draws is None else intervals.percentile_interval(draws)
    interval, name, p, p_equal = items, OVER_ITEMS, NAN, NAN
    if intervals.has_spread(values):
        interval, name, p = intervals.t_interval(values), OVER_SEEDS, intervals.p_value(values, null=claim.null)
        p_equal = intervals.tost(values, margin=claim.margin, null=claim.null) if claim.margin else NAN
    elif draws is not None:
        p = intervals.bootstrap_p(draws, null=claim.null)
        p_equal = intervals.bootstrap_tost(draws, margin=claim.margin, null=claim.null) if claim.margin else NAN
    else:
        name = ""
    return Measured(claim, values, seeds, interval, name, items, p, p_equal, note)


def measure_all(ledger: Iterable[Claim], folder: Path, cards: Path | None = None) -> list[dict[str, Any]]:
    """A row of claims.csv per claim, in the ledger's order; never raises for what the folder lacks.

    `cards` holds a folder for each GPU, those of results/gpu unless it is given; its tables must be whole (ValueError).
    """
    ledger, found, missing = tuple(ledger), {}, {}
    cards = read_cards(cards or paths.results() / "gpu")
    places = {LAPTOP: [Folder(folder)], GPU: [OfCard(card) for card in cards]}
    for claim in (claim for claim in ledger if claim.scale in MEASURABLE):
        try:
            found[claim.id] = _with_most_seeds(claim, places[claim.scale])
        except Missing as error:
            missing[claim.id] = f"{claim.id}: {error}"
    own, two_sided = _holm(found.values(), "p"), _holm(found.values(), "p_two_sided")
    rows = []
    for claim in ledger:
        if claim.id in found:
            rows.append(_row(found[claim.id], own[claim.id], two_sided[claim.id]))
        else:
            row = dict.fromkeys(COLUMNS, None) | _stated(claim) | {"seeds": 0, "provisional": False}
            note = missing.get(claim.id, claim.scale)
            rows.append(row | {"verdict": verdict(None, scale=claim.scale), "note": note})
    return rows


def _with_most_seeds(claim: Claim, places: Iterable[Folder]) -> Measured:
    """What the place with the most seeds says (the first of them). Raises Missing when none has the numbers."""
    found, missing = [], Missing("it needs a GPU, and nothing that `make gpu` measured is in results/gpu")
    for place in places:
        try:
            found.append(measure(claim, place))
        except Missing as error:
            missing = error
    if not found:
        raise missing
    return max(found, key=lambda one: len(one.seeds))


def of_notebook(notebook: str, folder: Path) -> pd.DataFrame:
    """What one run says about the claims that `notebook` (its file's stem) measures: a row per claim, by id.

    Estimates and intervals only: the verdicts of a table need all its claims, and stand in the report.
    """
    asked = [claim for claim in load_ledger() if claim.notebook == notebook and claim.scale in MEASURABLE]
    columns = ["direction", "margin", "estimate", "low", "high", "item_low", "item_high", "seeds", "interval", "note"]
    table = pd.DataFrame(measure_all(asked, folder)).set_index("id")[columns]
    return table.dropna(axis="columns", how="all").round(3).astype(object).fillna("")


def check(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What is missing, a sentence per claim that was not measured: files, arms (with the nearest name), cells."""
    return [row["note"] for row in rows if row["verdict"] == UNMEASURED]


def write(folder: Path, ledger: Iterable[Claim] | None = None, cards: Path | None = None) -> list[dict[str, Any]]:
    """Write claims.csv into `folder` from its tables (and those of `cards`, as `measure_all`); returns the rows."""
    rows = measure_all(load_ledger() if ledger is None else ledger, folder, cards)
    write_csv(Path(folder) / "claims.csv", rows, columns=COLUMNS)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Write claims.csv of a profile's run and print a line per claim; returns the exit status."""
    try:
        folder = paths.run_dir(load_profile(arguments[0] if arguments else LAPTOP).name)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no run in {paths.relative(folder)}: `make reproduce` makes one")
        rows = write(folder)
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.report.claims: {error}", file=sys.stderr)
        return 2
    for row in (row for row in rows if row["verdict"] not in (UNMEASURED, TOO_SMALL)):
        ends = f"[{row['low']:.3g}, {row['high']:.3g}]"
        says = f"{row['verdict']}{' (provisional)' if row['provisional'] else ''}"
        print(f"{row['id']:45} {round(row['estimate'], 6) + 0.0:8.3g} {ends:20} {row['seeds']:2} seeds  {says}")
    lacking = Counter(note.partition(": ")[2] for note in check(rows))
    for reason, count in lacking.items():
        print(f"{reason}: {count} claim{'s' if count > 1 else ''} not measured")
    print(f"{len(rows)} claims, {lacking.total()} not measured", paths.relative(folder / "claims.csv"), sep="\n")
    return 0


def _holm(found: Iterable[Measured], which: str) -> dict[str, float]:
    """p after Holm within each source and scale, by claim; NaN for a pilot, which is in no family."""
    found = list(found)
    adjusted = {one.claim.id: NAN for one in found}
    families: dict[tuple[str, str], list[Measured]] = {}
    for one in (one for one in found if not one.pilot):
        families.setdefault((one.claim.source, one.claim.scale), []).append(one)
    for family in families.values():
        p = intervals.holm([getattr(one, which) for one in family])
        adjusted |= {one.claim.id: float(value) for one, value in zip(family, p, strict=True)}
    return adjusted


def _stated(claim: Claim) -> dict[str, Any]:
    """The columns that come from the ledger alone."""
    paper = ", ".join(f"{number.arm} {number.value:g}" for number in claim.paper)
    paper = f"{paper} ({claim.unit})" if claim.unit else paper
    row = {name: getattr(claim, name) for name in ("id", "source", "statement", "notebook", "metric", "direction")}
    threshold = None if claim.scale not in MEASURABLE else float(np.exp(claim.null)) if claim.log else claim.null
    return row | {"threshold": threshold, "margin": claim.margin, "paper": paper}


def _row(one: Measured, p: float, p_two_sided: float) -> dict[str, Any]:
    """The row of a measured claim; a ratio is given as a ratio, not as its logarithm."""
    claim, few = one.claim, not one.pilot and len(one.seeds) < ENOUGH_SEEDS
    low, high, item_low, item_high = (*one.interval, *one.items)
    numbers = {"estimate": one.estimate, "low": low, "high": high, "item_low": item_low, "item_high": item_high}
    effect, margin = one.estimate - claim.null, NAN if claim.margin is None else claim.margin
    evidence = Evidence(claim.direction, effect, p, margin, p_two_sided)
    count = f"{len(one.seeds)} seed{'s' if len(one.seeds) > 1 else ''}"
    notes = [f"provisional: {count}, fewer than {ENOUGH_SEEDS}"] if few else []
    if one.pilot:
        notes.append(f"a pilot: {count}, fewer than {FEWEST_SEEDS}")
    if one.name != OVER_SEEDS:
        reason = "one seed" if len(one.seeds) == 1 else "seeds that do not differ"
        notes.append(f"{reason}: {'the interval is that of the items' if one.name else 'there is no interval'}")
    return _stated(claim) | {name: float(np.exp(x)) if claim.log else x for name, x in numbers.items()} | {
        "interval": one.name, "seeds": len(one.seeds), "p_holm": p, "provisional": few,
        "verdict": verdict(evidence, scale=claim.scale, seeds=len(one.seeds)),
        "note": "; ".join([*notes, *([one.note] if one.note else [])]),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
