"""A run's tables against the reference's: what must be there, what arithmetic fixes, and how far means may lie apart.

What no training enters (plans, weights, masks) is equal up to arithmetic. What was trained is compared digit by digit
on the same kind of processor. Elsewhere the mean of every arm and metric may lie as far from the reference's as another
seed would,

    t(1 - 0.01 / 2m, df) x sqrt(2) x s / sqrt(S)

with s the standard deviation between the reference's seeds, pooled over the arms of a table, model and metric (df their
degrees of freedom), S the seeds that both have, and m the count of all such means. Tables with one seed have no other
spread than that between neighbouring rows, and are compared row by row. Times are the machine's own and are not
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from longalign.report.whole_tables import VALUES, doubled_rows
from longalign.reproduction.verify_contrasts import FAMILY, quantile
from longalign.reproduction.verify_gaps import other_counts, other_seeds

ARITHMETIC = 1e-4
"""Relative difference of what no training enters: tables hold six digits, processors add in another order."""
SMALLEST = 1e-6
"""Below it a number is rounding alone, such as the difference of two ways to the same gradient."""
TIMES, CLAIMS = {"times", "composed_times"}, "claims"
WITHOUT_SEEDS = {"extension_loss", "extension_recall", "method_loss"}
"""Trained, but with one seed: their spread is that between neighbouring rows."""
NOT_OF_A_RUN = {"durations", "work", "own_model", "benchmarks", "models", "noise", "drift", "later_claims",
                "normalisers", "continual", "preferences", "stages"}  # fmt: skip
"""Times, the few questions that are put to one model, and what `make bench`, `make models`, `make referee` and the
reference write."""
WITHIN = {"task", "length", "depth", "step", "share", "domain"}
"""Columns over which an arm's mean is taken."""


@dataclass(frozen=True)
class Finding:
    """One table's share of the comparison, and each of its numbers that is out of bounds as a sentence."""

    table: str
    kind: str
    compared: int
    identical: int
    wrong: tuple[str, ...] = ()
    within: int = 0


def compare(run: Path | str, reference: Path | str, *, same: bool = False) -> list[Finding]:
    """Every table of the reference against that of the run, in the order of their names; `same`: to the last digit.

    A table, row or column that is missing is wrong, and so are a row that stands twice and seeds in the place of the
    reference's. A run may have fewer seeds, or more.
    """
    names = sorted(p.stem for p in Path(reference).glob("*.csv") if p.stem not in {CLAIMS, *NOT_OF_A_RUN})
    there = (Path(reference) / f"{CLAIMS}.csv").is_file()
    found, pairs = {CLAIMS: _claims(Path(run), Path(reference))} if there else {}, {}
    for name in names:
        pair = _read(Path(run) / f"{name}.csv", Path(reference) / f"{name}.csv")
        if isinstance(pair, str):
            found[name] = Finding(name, "missing", 0, 0, (pair,))
        elif name in TIMES:
            found[name] = Finding(name, "time", 0, 0, tuple(_without_times(name, *pair)))
        elif "seed" in pair[1] or name in WITHOUT_SEEDS:
            pairs[name] = pair
        else:
            found[name] = _exact(name, *pair, same=same)
    distant = {} if same else _distant_means(pairs)
    for name, pair in pairs.items():
        trained = _trained(name, *pair, same=same)
        found[name] = replace(trained, wrong=(*_left_out(name, *pair), *trained.wrong, *distant.get(name, ())))
    return [found[name] for name in sorted(found)]


def _left_out(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    value = next(column for column in VALUES if column in ours)
    counts = sorted({"tokens", "count"} & set(theirs))
    keys = [column for column in ours if column not in {value, "experiment", *counts}]
    doubled = doubled_rows(name, ours, [column for column in ours if column != value])
    doubled += other_counts(name, ours, theirs, keys, counts)
    return doubled + (other_seeds(name, ours, theirs) if "seed" in ours else [])


def _without_times(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """Times are the machine's own, but there is one of each that the reference has: rows are missing, no numbers, or
    there twice, as in a table that was cut off."""
    keys = [column for column in theirs if column not in ("value", "seed", "experiment")]
    known = set(map(tuple, ours[keys].to_numpy().tolist()))
    cells = theirs[keys].drop_duplicates().to_numpy().tolist()
    found = [f"{name}.csv has no row of {', '.join(map(str, cell))}" for cell in cells if tuple(cell) not in known]
    numbers = int((~np.isfinite(ours.value)).sum())
    found += [f"{name}.csv: {numbers:,} values are no numbers"] if numbers else []
    return found + doubled_rows(name, ours, [column for column in ours if column != "value"])


def _claims(run: Path, reference: Path) -> Finding:
    """Whether every claim of the reference is there; its numbers are those of the other tables."""
    pair = _read(run / f"{CLAIMS}.csv", reference / f"{CLAIMS}.csv")
    if isinstance(pair, str):
        return Finding(CLAIMS, "missing", 0, 0, (pair,))
    missing = [name for name in pair[1]["id"] if name not in set(pair[0]["id"])]
    return Finding(CLAIMS, "claims", 0, 0, tuple(f"{CLAIMS}.csv, id {name}: not there" for name in missing))


def _read(ours: Path, theirs: Path) -> tuple[pd.DataFrame, pd.DataFrame] | str:
    """Both tables, or the sentence that says why there are none."""
    try:
        pair = pd.read_csv(ours), pd.read_csv(theirs)
    except FileNotFoundError:
        return f"{ours.name} is not there"
    except (ValueError, OSError) as error:
        return f"{ours.name} cannot be read: {' '.join(str(error).split())}"
    if list(pair[0]) != list(pair[1]):
        return f"{ours.name} has the columns {', '.join(pair[0])}, the reference {', '.join(pair[1])}"
    for column in (*VALUES, "seed"):
        if column in pair[0] and not all(pd.api.types.is_numeric_dtype(table[column]) for table in pair):
            return f"{ours.name}: the column {column} holds something else than numbers"
    return pair


def _exact(name: str, ours: pd.DataFrame, theirs: pd.DataFrame, *, same: bool) -> Finding:
    if len(ours) != len(theirs):
        return Finding(name, "exact", 0, 0, (f"{name}.csv has {len(ours)} rows, the reference {len(theirs)}",))
    wrong, identical = [], 0
    for column in theirs:
        a, b = ours[column], theirs[column]
        equal = (a == b) | (a.isna() & b.isna())
        identical += int(equal.sum())
        if not same and pd.api.types.is_float_dtype(a) and pd.api.types.is_float_dtype(b):
            equal |= np.isclose(a, b, rtol=ARITHMETIC, atol=SMALLEST, equal_nan=True)
        wrong += [f"{name}.csv, row {i + 1}, {column}: {a[i]}, in the reference {b[i]}" for i in np.flatnonzero(~equal)]
    return Finding(name, "exact", theirs.size, identical, tuple(wrong), theirs.size - identical - len(wrong))


def _keys(name: str, table: pd.DataFrame) -> tuple[str, list[str]]:
    """The column of values, and those that say which value a row has."""
    value = next(column for column in VALUES if column in table)
    left_out = {value, "experiment", "tokens", "count"} | ({"step"} if "share" in table else set())
    return value, [column for column in table if column not in left_out]


def _shared_seeds(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds that both have, arm by arm; an arm that the other lacks altogether stays, to be told."""
    if "seed" not in table:
        return table
    arm = [key for key in ("arm", "model") if key in table]
    known = other[[*arm, "seed"]].drop_duplicates().assign(shared=True)
    marked = table.merge(known, on=[*arm, "seed"], how="left").merge(
        other[arm].drop_duplicates().assign(there=True), on=arm, how="left"
    )
    return table[(marked.shared.notna() | marked.there.isna()).to_numpy()]


def _trained(name: str, ours: pd.DataFrame, theirs: pd.DataFrame, *, same: bool) -> Finding:
    """Cell by cell: all that both must have is there, and with `same` it has the same digits."""
    value, keys = _keys(name, theirs)
    first, second = (_shared_seeds(*pair)[[*keys, value]] for pair in ((ours, theirs), (theirs, ours)))
    cells = first.merge(second, on=keys, how="outer", suffixes=("", "_reference"))
    a, b = cells[value], cells[f"{value}_reference"]
    known, identical = a.notna() & b.notna(), a == b
    out = (a.notna() != b.notna()) | (known & ~identical & same)
    wrong = [f"{name}.csv, {_where(cells, keys, i)}: {_number(a[i])}, in the reference {_number(b[i])}"
             for i in np.flatnonzero(out)]  # fmt: skip
    count = int(known.sum())
    return Finding(name, "trained", count, int(identical.sum()), tuple(wrong), count - int(identical.sum()))


def _distant_means(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, list[str]]:
    """A sentence for each mean of an arm and metric that lies farther from the reference's than another seed would."""
    tables = {name: (_cells if name in WITHOUT_SEEDS else _means)(name, *pair) for name, pair in pairs.items()}
    p, found = FAMILY / max(1, sum(map(len, tables.values()))), {}
    for name, means in tables.items():
        limit = quantile(p, means.df.clip(lower=1)) * np.sqrt(2 / means.seeds * means.variance)
        limit += ARITHMETIC * means.theirs.abs() + SMALLEST
        keys = [key for key in means if key not in ("ours", "theirs", "seeds", "variance", "df")]
        found[name] = [
            f"{name}.csv, {_where(means, keys, i)}: {_number(means.ours[i])}, in the reference "
            f"{_number(means.theirs[i])} ± {limit[i]:.2g}"
            for i in np.flatnonzero((means.ours - means.theirs).abs() > limit)
        ]
    return found


def _means(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The mean of each arm and metric in both, over the seeds that both have, with the reference's variance between
    seeds, pooled over arms, and its degrees of freedom."""
    value, keys = _keys(name, theirs)
    keys = [key for key in keys if key not in WITHIN]
    groups = [key for key in keys if key != "seed"]
    by_seed = theirs.groupby(keys, dropna=False)[value].mean().reset_index()
    spread = by_seed.groupby(groups, dropna=False)[value].agg(["var", "count"]).reset_index()
    spread = spread.assign(df=spread["count"] - 1, sum=spread["var"].fillna(0) * (spread["count"] - 1))
    pool = [key for key in groups if key != "arm"]
    sums = spread.groupby(pool, dropna=False)[["sum", "df"]].transform("sum") if pool else spread[["sum", "df"]]
    spread = spread[groups].assign(variance=(sums["sum"] / sums.df).fillna(0), df=sums.df)
    first, second = (_shared_seeds(*pair).groupby(groups, dropna=False) for pair in ((ours, theirs), (theirs, ours)))
    both = pd.concat({"ours": first[value].mean(), "theirs": second[value].mean(), "seeds": second.seed.nunique()},
                     axis=1).dropna().reset_index()  # fmt: skip
    return both.merge(spread, on=groups)


def _cells(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """As `_means`, each row alone, with the variance between neighbouring rows."""
    value, keys = _keys(name, theirs)
    curve = [key for key in keys if key not in ("step", "length")]
    steps = theirs.groupby(curve, dropna=False)[value].diff()
    both = ours[[*keys, value]].merge(theirs[[*keys, value]], on=keys, suffixes=("", "_reference"))
    both = both.rename(columns={value: "ours", f"{value}_reference": "theirs"})
    return both.assign(seeds=1, variance=(steps**2 / 2).mean(), df=int(steps.notna().sum()))


def _where(table: pd.DataFrame, keys: Sequence[str], row: int) -> str:
    return ", ".join(f"{key} {table[key][row]}" for key in keys)


def _number(value: float) -> str:
    return "not there" if np.isnan(value) else f"{value:.6g}"
