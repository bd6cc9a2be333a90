"""Every claim of the ledger gets our number, its interval and its verdict from the tidy CSVs of one folder.

`python -m longalign.report.claims [profile]` reads the run of a profile and writes claims.csv beside its tables. Claims
of the scale "gpu" are read from the committed results/gpu/<card>/, of the card with the most seeds. A claim whose
numbers are missing says in one sentence which, and stops no other.

Gates come first (`longalign.report.gates`). Then the contrast of every seed and question gives estimate and interval
(`longalign.evals.crossed`; with fewer than eight seeds, theirs spread as the reference has calibrated it,
`longalign.report.noise`), and two tests: the claim's own, and one against it (the effect is smaller than the paper's
own; an equality lies beyond its margin). Both cannot be false alarms at once, and all claims of one table or figure
(`source`, or that of the claim that is restated) at one scale are one family for Holm's method, in Shaffer's form. The
ledger alone fixes a family: a claim without numbers, or behind a gate, counts as a test that shows nothing. `low` and
`high` are the plain 95 % interval of a claim alone; `deciding_low` and `deciding_high` are the interval from which its
verdict follows, and `confidence` says at which level Holm's method makes that test.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longalign.common import paths
from longalign.common.provenance import write_csv
from longalign.evals import crossed, intervals
from longalign.evals.rubric import BEST
from longalign.experiments.profiles import load_profile
from longalign.report import claim_notes, gates, noise, verdicts
from longalign.report.claim_schema import GPU, LAPTOP, MEASURABLE, Claim, load_ledger
from longalign.report.claim_scores import Folder, Missing, OfCard
from longalign.report.gpu_results import read_cards
from longalign.report.verdicts import ABSENT, ALPHA, HIDDEN, INCONCLUSIVE, NAN, UNMEASURED, Adjusted, Evidence, verdict

COLUMNS = (
    "id", "source", "statement", "notebook", "paper", "metric", "direction", "threshold", "margin", "paper_effect",
    "estimate", "low", "high", "chance", "seeds", "questions", "p_holm", "p_against", "deciding_low", "deciding_high",
    "confidence", "detectable", "verdict", "note",
)  # fmt: skip
FEWEST_SEEDS = 3
"""With fewer seeds there is no verdict, unless a reference has calibrated how far seeds lie apart."""
FEWEST_QUESTIONS = 2
"""One question in a stratum says nothing of how far questions lie apart."""
OF_BOTH, OF_SEEDS = "seeds and questions", "seeds"
"""What an interval holds the chance of."""


@dataclass(frozen=True)
class Measured:
    """What a folder says about one claim, on the scale of the test (logarithms for a ratio).

    `spread` says which calibrated spread was used or that bases are counted, `gate` which gates failed, and `lacks` why
    there can be no verdict: empty texts where there is nothing to say. `tests` holds p of the claim's own test and of
    the test against it, NaN where it was not made.
    """

    claim: Claim
    mean: crossed.Mean
    seeds: int
    questions: int
    note: str
    spread: str
    gate: str
    lacks: str
    tests: tuple[float, float]

    @property
    def judged(self) -> bool:
        """Whether it gets one of the words that read its numbers."""
        return not (self.gate or self.lacks)


def measure(claim: Claim, folder: Folder, calibrated: noise.Noise) -> Measured:
    """The contrast over seeds and questions, with its tests. Raises Missing when numbers are."""
    gate = "; ".join(gates.failures(claim, folder))
    scores = folder.scores(claim)
    seeds = np.array(list(dict.fromkeys(seed for _, seed in scores)))
    by_arm = np.array([scores[arm.arm].mean().to_numpy() for arm in claim.arms])
    if claim.log and not (by_arm > 0).all():
        raise Missing(f"{claim.results}.csv has values of 0 or below, of which there is no ratio")
    by_seed, strata, lacks = intervals.contrast(by_arm, claim.weights, log=claim.log), None, ""
    values = by_seed[:, None]
    try:
        values, strata = folder.items(claim, scores) or (values, None)
    except Missing as missing:
        lacks = str(missing)
    if strata is None and claim.metric in BEST:
        lacks = lacks or f"no items/{claim.results}.csv has its {claim.metric}"
        lacks = f"{lacks}: the chance of the questions is not known"
    elif strata is not None and np.bincount(strata).min() < FEWEST_QUESTIONS:
        lacks = "a task has one question at a length, so the chance of the questions is not known"
    bases = gates.bases(claim, folder, seeds)
    spread = noise.of_claim(claim, calibrated) if seeds.size < noise.OWN and bases is None else None
    if seeds.size < FEWEST_SEEDS and spread is None:
        lacks = f"{seeds.size} seed{'s' if seeds.size > 1 else ''}, fewer than the {FEWEST_SEEDS} that a verdict needs"
    mean = crossed.mean(values, strata, spread=spread, bases=bases)
    tests = (NAN, NAN) if gate or lacks else _tests(claim, mean, not gates.headroom(claim, folder))
    questions = 0 if strata is None else strata.size
    told = claim_notes.spread(by_seed, spread, bases)
    return Measured(claim, mean, seeds.size, questions, folder.where, told, gate, lacks, tests)


def _tests(claim: Claim, mean: crossed.Mean, headroom: bool) -> tuple[float, float]:
    """p of the claim's own test, and p of the test against it: that the effect is smaller than the paper's (not where
    the score has no room for it), or lies beyond the margin."""
    distance = float(mean.estimate) - claim.null
    if claim.direction == "not_less":
        return float(mean.p_value(claim.null - claim.margin)), NAN
    if claim.direction == "equal":
        beyond = float(mean.p_value(claim.null + np.copysign(claim.margin, distance)))
        return float(mean.p_within(claim.margin, claim.null)), beyond if abs(distance) > claim.margin else 1.0
    against = NAN
    if claim.excluded is not None and headroom:
        smaller = claim.sign * (mean.estimate - claim.excluded) < 0
        against = float(mean.p_value(claim.excluded)) if smaller else 1.0
    return float(mean.p_value(claim.null)), against


def measure_all(
    ledger: Iterable[Claim],
    folder: Path | Folder,
    cards: Path | None = None,
    calibrated: noise.Noise | None = None,
) -> list[dict[str, Any]]:
    """A row of claims.csv per claim, in the ledger's order; never raises for what the folder lacks.

    `cards` holds a folder for each GPU, those of results/gpu unless it is given; its tables must be whole (ValueError).
    `calibrated` is how seeds spread, as results/noise.csv says unless it is given (and the run is of another profile).
    """
    ledger, found, missing = tuple(ledger), {}, {}
    cards = read_cards(cards or paths.results() / "gpu")
    laptop = folder if isinstance(folder, Folder) else Folder(folder)
    calibrated = noise.of_run(laptop.folder) if calibrated is None else calibrated
    places = {LAPTOP: [laptop], GPU: [OfCard(card) for card in cards]}
    for claim in (claim for claim in ledger if claim.scale in MEASURABLE):
        try:
            found[claim.id] = _with_most_seeds(claim, places[claim.scale], calibrated)
        except Missing as error:
            missing[claim.id] = f"{claim.id}: {error}"
    adjusted = _holm(found, ledger)
    rows = []
    for claim in ledger:
        if claim.id in found:
            rows.append(_row(found[claim.id], adjusted.get(claim.id, Adjusted())))
        else:
            row = dict.fromkeys(COLUMNS, None) | _stated(claim) | {"seeds": 0, "questions": 0}
            note = missing.get(claim.id, claim.scale)
            rows.append(row | {"verdict": verdict(None, scale=claim.scale), "note": note})
    return rows


def _with_most_seeds(claim: Claim, places: Iterable[Folder], calibrated: noise.Noise) -> Measured:
    """What the place with the most seeds says (the first of them). Raises Missing when none has the numbers."""
    found, missing = [], Missing("it needs a GPU, and nothing that `make gpu` measured is in results/gpu")
    for place in places:
        try:
            found.append(measure(claim, place, calibrated))
        except Missing as error:
            missing = error
    if not found:
        raise missing
    return max(found, key=lambda one: one.seeds)


def of_notebook(notebook: str, folder: Path) -> pd.DataFrame:
    """What one run says about the claims that `notebook` (its file's stem) measures: a row per claim, by id.

    Estimates and intervals only: the verdicts of a table need all its claims, and stand in the report.
    """
    asked = [claim for claim in load_ledger() if claim.notebook == notebook and claim.scale in MEASURABLE]
    columns = ["direction", "margin", "paper_effect", "estimate", "low", "high", "chance", "seeds", "questions"]
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
    for row in (row for row in rows if row["seeds"] and row["verdict"] != UNMEASURED):
        ends, estimate = f"[{row['low']:.3g}, {row['high']:.3g}]", round(row["estimate"], 6) + 0.0
        print(f"{row['id']:45} {estimate:8.3g} {ends:20} {row['seeds']:2} seeds  {row['verdict']}")
    lacking = Counter(note.partition(": ")[2] for note in check(rows))
    for reason, count in lacking.items():
        print(f"{reason}: {count} claim{'s' if count > 1 else ''} not measured")
    print(f"{len(rows)} claims, {lacking.total()} not measured", paths.relative(folder / "claims.csv"), sep="\n")
    return 0


def _holm(found: Mapping[str, Measured], ledger: Sequence[Claim]) -> dict[str, Adjusted]:
    """What Holm's method makes of the tests of each judged claim.

    A family holds all claims on one source (a claim that restates another is tested with it) at one scale; those that
    are not judged, or were withdrawn, count as tests with p = 1. A claim's two tests cannot both be of true hypotheses,
    so no more of them are true than there are claims.
    """
    sources = {claim.id: claim.source for claim in ledger}
    families: dict[tuple[str, str], list[str]] = {}
    for claim in (claim for claim in ledger if claim.family in MEASURABLE):
        families.setdefault((sources.get(claim.restates, claim.source), claim.family), []).append(claim.id)
    adjusted = {}
    for family in families.values():
        judged = [name for name in family if name in found and found[name].judged]
        tests = [(1.0, NAN) if name not in judged else found[name].tests for name in family]
        p = intervals.holm(np.ravel(tests), most=len(family)).reshape(-1, 2)
        levels = ALPHA / intervals.holm_factors(np.ravel(tests), most=len(family)).reshape(-1, 2)
        both = dict(zip(family, np.hstack([p, levels]), strict=True))
        adjusted |= {name: Adjusted(*map(float, both[name]), len(family)) for name in judged}
    return adjusted


def _stated(claim: Claim) -> dict[str, Any]:
    """The columns that come from the ledger alone."""
    paper = ", ".join(f"{number.arm} {number.value:g}" for number in claim.paper)
    paper = f"{paper} ({claim.unit})" if claim.unit else paper
    row = {name: getattr(claim, name) for name in ("id", "source", "statement", "notebook", "metric", "direction")}
    row |= {"threshold": None, "paper_effect": None}
    if claim.scale in MEASURABLE:
        row |= {"threshold": _printed(claim, claim.null), "paper_effect": _printed(claim, claim.paper_effect)}
    return row | {"margin": claim.margin, "paper": paper}


def _printed(claim: Claim, value: float | None) -> float | None:
    """A ratio is given as a ratio, not as its logarithm."""
    return None if value is None else float(np.exp(value) if claim.log else value)


def _row(one: Measured, adjusted: Adjusted) -> dict[str, Any]:
    """The row of a measured claim."""
    claim, (low, high) = one.claim, one.mean.interval()
    against = claim.null - claim.margin if claim.direction == "not_less" else claim.null
    none = claim.null == 0 or low <= 0 <= high  # without a threshold, the claim's own test says it
    evidence = Evidence(claim.direction, float(one.mean.estimate) - against, adjusted.p, adjusted.p_against, none)
    word = verdict(evidence if not one.lacks else None, scale=claim.scale, gate=not one.gate)
    alone = verdict(evidence._replace(p=one.tests[0], p_against=one.tests[1]))
    seen = float(_seen(one, adjusted.claims)) if adjusted.claims else NAN
    level = verdicts.deciding_level(claim.direction, word, adjusted.level, adjusted.level_against)
    half = float(one.mean.half(level))
    numbers = {"estimate": float(one.mean.estimate), "low": low, "high": high,
               "deciding_low": one.mean.estimate - half, "deciding_high": one.mean.estimate + half}  # fmt: skip
    row = _stated(claim) | {name: _printed(claim, value) for name, value in numbers.items()} | {
        "chance": (OF_BOTH if one.questions else OF_SEEDS) if one.mean.parts else "", "seeds": one.seeds,
        "questions": one.questions, "p_holm": adjusted.p, "p_against": adjusted.p_against, "confidence": 1 - level,
        "detectable": _printed(claim, claim.null + claim.sign * seen if claim.log else seen), "verdict": word,
    }  # fmt: skip
    told = _notes(one, word, row)
    if word in (INCONCLUSIVE, ABSENT) and alone != word:
        told.insert(1, f'alone it would be "{alone}", but the verdict counts all {adjusted.claims} claims of its table')
    return row | {"note": "; ".join(told)}


def _seen(one: Measured, family: int) -> np.ndarray:
    """What 80 % of such runs would see in the strictest test of the family: an effect; for "equal" and "not_less" the
    margin within which they would show that there is none, if there is none."""
    if one.claim.direction == "equal":  # both one-sided tests must pass
        return one.mean.detectable(2 * ALPHA / family, (1 + crossed.POWER) / 2)
    return one.mean.detectable(ALPHA / family)


def _notes(one: Measured, word: str, row: dict[str, Any]) -> list[str]:
    """Why there is no verdict, or what an inconclusive one would have seen; then how to read it, spread and place."""
    told = [f"the instrument: {one.gate}"] if word == HIDDEN else [f"{one.claim.id}: {one.lacks}"] * bool(one.lacks)
    if word == INCONCLUSIVE and one.mean.parts:
        told.append(claim_notes.detectable(one.claim, row["detectable"]))
    if not one.mean.parts and one.seeds > 1:
        told.append("the seeds do not differ, or share one base, so there is no interval")
    return [*told, *filter(None, (one.claim.caveat, one.spread, one.note))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
