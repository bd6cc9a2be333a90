"""Every claim of the ledger gets our number, its intervals and its verdict from the tidy CSVs of one folder.

`python -m longalign.claims [profile]` reads the run of a profile and writes claims.csv beside its tables. A claim
whose numbers are missing says in one sentence which, and stops no other. Only the verdict uses p after Holm, over all
measured claims of one table or figure (`source`), each with the p of its own test: two-sided for a direction, TOST
for equality. The price: intervals are printed at their plain 95 %, so an interval may leave out zero where the
verdict, which takes the number of claims into account, is `consistent`.
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

from longalign import paths, stats
from longalign.ledger import LAPTOP, Claim, Number, load_ledger
from longalign.profiles import load_profile
from longalign.record import write_csv
from longalign.typed import nearest
from longalign.verdicts import NAN, TOO_SMALL, UNMEASURED, Evidence, verdict

ENOUGH_SEEDS = 5
"""With fewer seeds a verdict is provisional."""
COLUMNS = (
    "id", "source", "statement", "notebook", "paper", "metric", "direction", "threshold", "margin", "estimate", "low",
    "high", "interval", "item_low", "item_high", "seeds", "p_holm", "verdict", "provisional", "note",
)  # fmt: skip
OVER_SEEDS, OVER_ITEMS = "t over seeds", "items"
ITEM_KEYS = ("benchmark", "task", "length", "item", "metric")
RUN_KEYS = ("experiment", "arm", "model", "seed", "metric", "value")
"""The other columns of a tidy CSV (task, length, depth) say which cell of a benchmark a row is of."""


class Missing(LookupError):
    """Numbers that a claim needs and the folder does not hold; the message is one sentence with file and arm."""


@dataclass(frozen=True)
class Measured:
    """What a folder says about one claim, on the scale of the test (logarithms for a ratio).

    `values` holds the contrast of every seed in `seeds`; `interval` is the t interval or, as `name` says, that of the
    items; p values are NaN where there is no interval.
    """

    claim: Claim
    values: np.ndarray
    seeds: tuple[int, ...]
    interval: stats.Interval
    name: str
    items: stats.Interval
    p_two_sided: float
    p_equal: float
    note: str

    @property
    def estimate(self) -> float:
        """Mean contrast over the seeds."""
        return float(self.values.mean())

    @property
    def p(self) -> float:
        """p of the claim's own test."""
        return self.p_equal if self.claim.direction == "equal" else self.p_two_sided


class Folder:
    """The tidy CSVs of one run, read once each; Missing where there is none, or none that can be read."""

    def __init__(self, folder: Path) -> None:
        """A folder with <experiment>.csv and, where items were kept, items/<experiment>.csv."""
        self.folder = Path(folder)
        self._read: dict[str, pd.DataFrame] = {}

    def table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """The CSV called `name`, which must have these columns."""
        if name not in self._read:
            try:
                self._read[name] = pd.read_csv(self.folder / name)
            except FileNotFoundError:
                raise Missing(f"there is no {name}") from None
            except (ValueError, OSError) as error:
                raise Missing(f"{name} cannot be read: {' '.join(str(error).split())}") from None
        for column in columns:
            if column not in self._read[name]:
                raise Missing(f"{name} has no column {column}")
        values = self._read[name].value if "value" in columns else pd.Series(dtype=float)
        if len(values) and not pd.api.types.is_numeric_dtype(values):
            raise Missing(f"{name} has a value that is not a number")
        return self._read[name]

    def scores(self, claim: Claim) -> pd.DataFrame:
        """A row per cell, a column per (arm, seed), in the order of the claim's arms; complete seeds only."""
        name = f"{claim.results}.csv"
        table = self.table(name, ("arm", "model", "seed", "metric", "value"))
        cells = [column for column in table if column not in RUN_KEYS]
        chosen = _chosen(table, claim, name)
        frames = {arm.arm: _arm(table, chosen, claim, arm, cells, name) for arm in claim.arms}
        scores = pd.concat(frames, axis=1, sort=True)
        whole = scores.notna().all()
        seeds = [s for s in sorted({seed for _, seed in scores}) if all(whole.get((arm, s), False) for arm in frames)]
        if not seeds:
            raise Missing(f"{name} has no seed with all arms and all cells ({', '.join(frames)})")
        return scores[[(arm, seed) for arm in frames for seed in seeds]]

    def items(self, claim: Claim, scores: pd.DataFrame) -> np.ndarray | None:
        """The bootstrap draws of the contrast from the item file; None where there is none.

        Raises Missing when the items are not those of the table.
        """
        name = f"items/{claim.results}.csv"
        if not (self.folder / name).exists():
            return None
        chosen = _chosen(self.table(name, ("item", "metric")), claim, name)
        seeds = list(dict.fromkeys(seed for _, seed in scores))
        runs = [[f"{'|'.join(claim.run(arm))}|{seed}" for seed in seeds] for arm in claim.arms]
        for run in (run for of_arm in runs for run in of_arm if run not in chosen):
            raise Missing(f"{name} has no column {run}")
        # a table that pools the lengths says so by the one length 0, whatever length its items have
        pooled = set(scores.reset_index().get("length", [])) == {0}
        cells = [c for c in scores.index.names if c in chosen and not (pooled and c == "length")]
        strata = chosen.groupby(cells).ngroup().to_numpy() if cells else np.zeros(len(chosen), dtype=int)
        numbers = [chosen[of_arm].apply(pd.to_numeric, errors="coerce") for of_arm in runs]
        values = np.array([frame.to_numpy(dtype=float).T for frame in numbers])
        table = np.array([scores[arm.arm].mean().to_numpy() for arm in claim.arms])
        if not np.allclose(stats.item_means(values, strata), table, rtol=1e-3, atol=1e-3):
            raise Missing(f"{name} has other means than {claim.results}.csv: its items are left out")
        return stats.item_bootstrap(values, claim.weights, strata=strata, log=claim.log)


def measure(claim: Claim, folder: Folder) -> Measured:
    """The contrast of every seed with intervals and p values. Raises Missing when numbers are."""
    scores = folder.scores(claim)
    seeds = tuple(int(seed) for seed in dict.fromkeys(seed for _, seed in scores))
    by_arm = np.array([scores[arm.arm].mean().to_numpy() for arm in claim.arms])
    if claim.log and not (by_arm > 0).all():
        raise Missing(f"{claim.results}.csv has values of 0 or below, of which there is no ratio")
    values = stats.contrast(by_arm, claim.weights, log=claim.log)
    draws, note = None, ""
    try:
        draws = folder.items(claim, scores)
    except Missing as missing:
        note = str(missing)
    items = stats.NONE if draws is None else stats.percentile_interval(draws)
    interval, name, p, p_equal = items, OVER_ITEMS, NAN, NAN
    if stats.has_spread(values):
        interval, name, p = stats.t_interval(values), OVER_SEEDS, stats.p_value(values, null=claim.null)
        p_equal = stats.tost(values, margin=claim.margin, null=claim.null) if claim.margin else NAN
    elif draws is not None:
        p = stats.bootstrap_p(draws, null=claim.null)
        p_equal = stats.bootstrap_tost(draws, margin=claim.margin, null=claim.null) if claim.margin else NAN
    else:
        name = ""
    return Measured(claim, values, seeds, interval, name, items, p, p_equal, note)


def measure_all(ledger: Iterable[Claim], folder: Path) -> list[dict[str, Any]]:
    """A row of claims.csv per claim, in the ledger's order; never raises for what the folder lacks."""
    ledger, tables, found, missing = tuple(ledger), Folder(folder), {}, {}
    for claim in (claim for claim in ledger if claim.scale == LAPTOP):
        try:
            found[claim.id] = measure(claim, tables)
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


def of_notebook(notebook: str, folder: Path) -> pd.DataFrame:
    """What one run says about the claims that `notebook` (its file's stem) measures: a row per claim, by id.

    Estimates and intervals only: the verdicts of a table need all its claims, and stand in the report.
    """
    asked = [claim for claim in load_ledger() if claim.notebook == notebook and claim.scale == LAPTOP]
    columns = ["direction", "margin", "estimate", "low", "high", "item_low", "item_high", "seeds", "interval", "note"]
    table = pd.DataFrame(measure_all(asked, folder)).set_index("id")[columns]
    return table.dropna(axis="columns", how="all").round(3).astype(object).fillna("")


def check(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What is missing, a sentence per claim that was not measured: files, arms (with the nearest name), cells."""
    return [row["note"] for row in rows if row["verdict"] == UNMEASURED]


def write(folder: Path, ledger: Iterable[Claim] | None = None) -> list[dict[str, Any]]:
    """Write claims.csv into `folder` from its tables; the rows are returned."""
    rows = measure_all(load_ledger() if ledger is None else ledger, folder)
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
        print(f"longalign.claims: {error}", file=sys.stderr)
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


def _chosen(table: pd.DataFrame, claim: Claim, name: str) -> pd.DataFrame:
    """The rows of the claim's metric, tasks and lengths; Missing names the first one that is not there."""
    for column, wanted in (("metric", (claim.metric,)), ("task", claim.tasks), ("length", claim.lengths)):
        if wanted is None:
            continue
        known = set(table[column]) if column in table else set()
        for value in wanted:
            if value not in known:
                raise Missing(f"{name} has no {column} {value}: {nearest(str(value), map(str, known))}")
        table = table[table[column].isin(wanted)]
    if table.empty:
        raise Missing(f"{name} has no row with metric {claim.metric} for these tasks and lengths")
    return table


def _arm(
    table: pd.DataFrame, chosen: pd.DataFrame, claim: Claim, arm: Number, cells: list[str], name: str
) -> pd.DataFrame:
    """One arm, a row per cell, a column per seed."""
    model, label = claim.run(arm)
    rows = chosen[(chosen.model == model) & (chosen.arm == label)]
    if rows.empty:
        known = set(table.arm[table.model == model].map(str))
        raise Missing(f"{name} has no arm {label!r} of {model} with metric {claim.metric}: {nearest(label, known)}")
    if rows.duplicated([*cells, "seed"]).any():
        raise Missing(f"{name} gives {label!r} of {model} the same cell and seed twice")
    return rows.set_index([*cells, "seed"]).value.unstack("seed") if cells else rows.set_index("seed")[["value"]].T


def _holm(found: Iterable[Measured], which: str) -> dict[str, float]:
    """p after Holm within each source, by claim."""
    found, adjusted = list(found), {}
    for source in dict.fromkeys(one.claim.source for one in found):
        family = [one for one in found if one.claim.source == source]
        p = stats.holm([getattr(one, which) for one in family])
        adjusted |= {one.claim.id: float(value) for one, value in zip(family, p, strict=True)}
    return adjusted


def _stated(claim: Claim) -> dict[str, Any]:
    """The columns that come from the ledger alone."""
    paper = ", ".join(f"{number.arm} {number.value:g}" for number in claim.paper)
    paper = f"{paper} ({claim.unit})" if claim.unit else paper
    row = {name: getattr(claim, name) for name in ("id", "source", "statement", "notebook", "metric", "direction")}
    threshold = None if claim.scale != LAPTOP else float(np.exp(claim.null)) if claim.log else claim.null
    return row | {"threshold": threshold, "margin": claim.margin, "paper": paper}


def _row(one: Measured, p: float, p_two_sided: float) -> dict[str, Any]:
    """The row of a measured claim; a ratio is given as a ratio, not as its logarithm."""
    claim, few = one.claim, len(one.seeds) < ENOUGH_SEEDS
    low, high, item_low, item_high = (*one.interval, *one.items)
    numbers = {"estimate": one.estimate, "low": low, "high": high, "item_low": item_low, "item_high": item_high}
    effect, margin = one.estimate - claim.null, NAN if claim.margin is None else claim.margin
    count = f"{len(one.seeds)} seed{'s' if len(one.seeds) > 1 else ''}"
    notes = [f"provisional: {count}, fewer than {ENOUGH_SEEDS}"] if few else []
    if one.name != OVER_SEEDS:
        reason = "one seed" if len(one.seeds) == 1 else "seeds that do not differ"
        notes.append(f"{reason}: {'the interval is that of the items' if one.name else 'there is no interval'}")
    return _stated(claim) | {name: float(np.exp(x)) if claim.log else x for name, x in numbers.items()} | {
        "interval": one.name, "seeds": len(one.seeds), "p_holm": p, "provisional": few,
        "verdict": verdict(Evidence(claim.direction, effect, p, margin, p_two_sided)),
        "note": "; ".join([*notes, *([one.note] if one.note else [])]),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
