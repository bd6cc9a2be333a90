"""Whether the last run's numbers are those of the committed reference: same seeds against same seeds.

    python -m longalign.reproduction.verify laptop      (make verify; the end of make reproduce shows the same table)

Three kinds of numbers. What no training enters (plans, weights, masks) is equal up to arithmetic. What was trained may
drift apart on another processor, as far as another seed would carry it and no farther: the tolerance of a number is

    t(1 - 0.001 / 2m, df) x sqrt(2) x s + the number's last digit

with s the standard deviation over the reference's seeds, pooled over all cells of one metric and task (df their degrees
of freedom), and m twice the count of all numbers compared, so that an honest run fails once in a thousand times at
most. Every cell is held to it, and so are means over tasks and lengths, whose s is far smaller. Times are the machine's
own and are not compared. In a single cell only a gross error can be told from chance; and some cells spread more than
their pool (a task that some seeds learn and others do not): the reference's seeds in each other's place put 2 of about
37,800 numbers out of bounds when it has three seeds, 2 of about 62,300 when it has eight.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as distributions

from longalign.common import paths
from longalign.experiments.profiles import load_profile
from longalign.reproduction.verify_gaps import broken_ledger, doubled_rows, not_compared, other_counts, other_seeds

FAMILY = 0.001
"""How often an honest run may fail, over all numbers together."""
MACHINE = ("slurm", "notebooks", "sources", "workers", "limits", "seeds", "seeds_of_slow_arms")
"""Keys of a profile that change no number of a given seed."""
ARITHMETIC = 1e-4
"""Relative difference of what no training enters: tables hold six digits, processors add in another order."""
SMALLEST = 1e-6
"""Below it a number is rounding alone, such as the difference of two ways to the same gradient."""
TIMES, CLAIMS = {"times", "composed_times"}, "claims"
WITHOUT_SEEDS = {"extension_loss", "extension_recall", "method_loss"}
"""Trained, but with one seed: their spread is that between neighbouring rows."""
NOT_OF_A_RUN = {"durations", "work", "own_model", "benchmarks", "models"}
"""Times, the few questions that are put to one model, and what `make bench` and `make models` write."""
VALUES = ("value", "loss", "recall")
WITHIN = {"task", "length", "depth", "step", "share", "domain"}
"""Columns over which the second look takes means."""


@dataclass(frozen=True)
class Finding:
    """One table's share of the comparison, and each of its numbers that is out of bounds as a sentence."""

    table: str
    kind: str
    compared: int
    identical: int
    wrong: tuple[str, ...] = ()
    within: int = 0


def compare(run: Path | str, reference: Path | str) -> list[Finding]:
    """Every table of the reference against that of the run, in the order of their names.

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
            found[name] = Finding(name, "time", 0, 0)
        elif "seed" in pair[1] or name in WITHOUT_SEEDS:
            pairs[name] = pair
        else:
            found[name] = _exact(name, *pair)
    by_level = [_with_tolerance({name: _level(name, *pair, means) for name, pair in pairs.items()})
                for means in (False, True)]  # fmt: skip
    for name, pair in pairs.items():
        trained = _trained(name, [level[name] for level in by_level if name in level])
        found[name] = replace(trained, wrong=(*_left_out(name, *pair), *trained.wrong))
    return [found[name] for name in sorted(found)]


def _left_out(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    value = next(column for column in VALUES if column in ours)
    counts = sorted({"tokens", "count"} & set(theirs))
    keys = [column for column in ours if column not in {value, "experiment", *counts}]
    doubled = doubled_rows(name, ours, [column for column in ours if column != value])
    doubled += other_counts(name, ours, theirs, keys, counts)
    return doubled + (other_seeds(name, ours, theirs) if "seed" in ours else [])


def _claims(run: Path, reference: Path) -> Finding:
    """Whether every claim of the reference is there; its numbers are those of the other tables."""
    pair = _read(run / f"{CLAIMS}.csv", reference / f"{CLAIMS}.csv")
    if isinstance(pair, str):
        return Finding(CLAIMS, "missing", 0, 0, (pair,))
    missing = [name for name in pair[1]["id"] if name not in set(pair[0]["id"])]
    return Finding(CLAIMS, "claims", 0, 0, tuple(f"{CLAIMS}.csv, id {name}: not there" for name in missing))


def changed_verdicts(run: Path | str, reference: Path | str) -> list[str]:
    """A sentence for each claim whose verdict in the run is another, with the number of seeds behind both."""
    pair = _read(*(Path(folder) / f"{CLAIMS}.csv" for folder in (run, reference)))
    if isinstance(pair, str):
        return []
    ours, theirs = (table[["id", "verdict", "seeds"]].set_index("id") for table in pair)
    both = ours.merge(theirs, left_index=True, right_index=True, suffixes=("", "_reference"))
    return [
        f"{name}: {row.verdict} ({row.seeds} seeds), in the reference {row.verdict_reference} ({row.seeds_reference})"
        for name, row in both[both.verdict != both.verdict_reference].iterrows()
    ]


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


def _exact(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> Finding:
    if len(ours) != len(theirs):
        return Finding(name, "exact", 0, 0, (f"{name}.csv has {len(ours)} rows, the reference {len(theirs)}",))
    wrong, identical = [], 0
    for column in theirs:
        a, b = ours[column], theirs[column]
        same = (a == b) | (a.isna() & b.isna())
        identical += int(same.sum())
        if pd.api.types.is_float_dtype(a) and pd.api.types.is_float_dtype(b):
            same |= np.isclose(a, b, rtol=ARITHMETIC, atol=SMALLEST, equal_nan=True)
        wrong += [f"{name}.csv, row {i + 1}, {column}: {a[i]}, in the reference {b[i]}" for i in np.flatnonzero(~same)]
    return Finding(name, "exact", theirs.size, identical, tuple(wrong), theirs.size - identical - len(wrong))


def _level(name: str, ours: pd.DataFrame, theirs: pd.DataFrame, means: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables side by side (keys, `ours`, `theirs`), as cells or as means over tasks and lengths, and the squared
    deviations of the reference's (`metric`, `task`, `sum`, `df`): over seeds, or between neighbouring rows."""
    value = next(column for column in VALUES if column in theirs)
    left_out = {value, "experiment", "tokens", "count"} | ({"step"} if "share" in theirs else set())
    keys = [column for column in theirs if column not in left_out and not (means and column in WITHIN)]
    first, second = (t.groupby(keys, dropna=False, sort=False)[value].mean().reset_index() for t in (ours, theirs))
    if "seed" in keys:
        cells = second.groupby([key for key in keys if key != "seed"], dropna=False)[value].agg(["var", "count"])
        spread = cells.reset_index().assign(df=lambda t: t["count"] - 1, sum=lambda t: t["var"].fillna(0) * t.df)
        first, second = _shared_seeds(first, second, keys), _shared_seeds(second, first, keys)
    else:
        steps = second.groupby([key for key in keys if key not in ("step", "length")], dropna=False)[value].diff()
        spread = second.assign(sum=(steps**2 / 2).fillna(0), df=steps.notna().astype(int))
    both = first.merge(second, on=keys, how="outer", suffixes=("", "_reference"))
    both = both.rename(columns={value: "ours", f"{value}_reference": "theirs"})
    return both, spread.assign(**_pool(spread, name))[["metric", "task", "sum", "df"]]


def _shared_seeds(table: pd.DataFrame, other: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows of the seeds that both have, arm by arm; an arm that the other lacks altogether stays, to be told."""
    arm = [key for key in ("arm", "model") if key in keys]
    known = other[[*arm, "seed"]].drop_duplicates().assign(shared=True)
    marked = table.merge(known, on=[*arm, "seed"], how="left").merge(
        other[arm].drop_duplicates().assign(there=True), on=arm, how="left"
    )
    return table[(marked.shared.notna() | marked.there.isna()).to_numpy()]


def _pool(table: pd.DataFrame, name: str) -> dict[str, pd.Series | str]:
    """What has a spread in common: one metric and task of all tables, or all means of one metric."""
    return {"metric": table.get("metric", name), "task": table.get("task", "")}


def _with_tolerance(tables: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables with their column `tolerance`: where the reference has one seed of all that is alike, arithmetic's
    alone, NaN where it has none."""
    if not tables:
        return {}
    pooled = pd.concat(spread for _, spread in tables.values()).groupby(["metric", "task"])[["sum", "df"]].sum()
    family = 2 * sum(len(both) for both, _ in tables.values())  # the cells are one half of it, the means the other
    found = {}
    for name, (both, _) in tables.items():
        which = pd.MultiIndex.from_frame(pd.DataFrame(_pool(both, name), index=both.index))
        spread = pooled.reindex(which).reset_index(drop=True)
        factor = distributions.t.ppf(1 - FAMILY / 2 / family, spread.df.clip(lower=1)) * np.sqrt(2)
        deviation = np.sqrt(spread["sum"] / spread.df.where(spread.df > 0))
        deviation = deviation.fillna(0.0) if "seed" in both else deviation
        found[name] = both.assign(tolerance=factor * deviation + ARITHMETIC * both.theirs.abs() + SMALLEST)
    return found


def _trained(name: str, levels: list[pd.DataFrame]) -> Finding:
    wrong, compared, identical, within = [], 0, 0, 0
    for cells in levels:
        known = cells.ours.notna() & cells.theirs.notna() & cells.tolerance.notna()
        compared += int(known.sum())
        identical += int((cells.ours == cells.theirs)[known].sum())
        out = known & ((cells.ours - cells.theirs).abs() > cells.tolerance)
        within += int((known & ~out & (cells.ours != cells.theirs)).sum())
        keys = [c for c in cells if c not in ("ours", "theirs", "tolerance")]
        for i in np.flatnonzero(out | (cells.ours.isna() != cells.theirs.isna())):
            where = ", ".join(f"{key} {cells[key][i]}" for key in keys)
            wrong.append(f"{name}.csv, {where}: {_number(cells.ours[i])}, in the reference {_number(cells.theirs[i])}"
                         + (f" ± {cells.tolerance[i]:.2g}" if out[i] else ""))  # fmt: skip
    return Finding(name, "trained", compared, identical, tuple(wrong), within)


def _number(value: float) -> str:
    return "not there" if np.isnan(value) else f"{value:.6g}"


def other_settings(run: Path | str, reference: Path | str) -> list[str]:
    """A phrase for each setting of the profile that the run had and the reference had not: then nothing compares."""
    found = {}
    for theirs in sorted(Path(reference).glob("[0-9][0-9]*_*.json")):
        ours = Path(run) / theirs.name
        if ours.is_file():
            found |= differing(_config(ours), _config(theirs))
    return list(found.values())


def differing(ours: dict, theirs: dict) -> dict[str, str]:
    """A phrase for each setting that two configurations have not in common, but for those that change no number."""
    a, b = _flat(ours), _flat(theirs)
    differ = [key for key in {**a, **b} if a.get(key) != b.get(key) and key.split(".")[0] not in MACHINE]
    return {key: f"{key} is {a.get(key)}, in the reference {b.get(key)}" for key in differ}


def table(findings: Sequence[Finding]) -> str:
    """What was found, a line per table that is not the reference's to the last digit, and the sum."""
    compared, identical = (sum(getattr(f, name) for f in findings) for name in ("compared", "identical"))
    within = sum(f.within for f in findings)
    wrong = sum(len(f.wrong) for f in findings)
    lines = [
        f"  {f.table:22} {f.compared:7,} numbers {f.identical:7,} identical {len(f.wrong):5,} out of bounds"
        for f in findings if f.wrong or f.identical < f.compared
    ]  # fmt: skip
    total = f"{compared:,} numbers of {sum(f.compared > 0 for f in findings)} tables compared with the reference: "
    return "\n".join([*lines, f"{total}{identical:,} identical, {within:,} within the "
                      f"reference's own spread, {wrong:,} out of bounds"])  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Compare the run of the profile named first with the reference; returns 0, 1 on a mismatch, 2 if none can be
    made."""
    try:
        profile = load_profile(arguments[0] if arguments else "laptop")
        run, reference = paths.run_dir(profile.name), paths.results()
        if not run.is_dir():
            raise FileNotFoundError(f"there is no run in {paths.relative(run)}: `make reproduce` makes one")
        if settings := other_settings(run, reference):
            raise ValueError(f"this run cannot be compared with the reference: {'; '.join(settings[:5])}")
        findings, verdicts = compare(run, reference), changed_verdicts(run, reference)
        broken, unseen = broken_ledger(run), not_compared(run, reference, left_out={*TIMES, CLAIMS, *NOT_OF_A_RUN})
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.reproduction.verify: {error}", file=sys.stderr)
        return 2
    print(table(findings))
    for sentence in (sentence for f in findings for sentence in f.wrong):
        print(f"out of bounds: {sentence}")
    for sentence in unseen:
        print(f"not compared: {sentence}")
    for sentence in broken:
        print(f"not computed from the tables: {sentence}")
    for sentence in verdicts:
        print(f"another verdict: {sentence}")
    return 1 if broken or unseen or any(f.wrong for f in findings) else 0


def _config(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{paths.relative(path)} is not a whole record of a run; write it again") from None


def _flat(data: dict, prefix: str = "") -> dict[str, object]:
    pairs = {}
    for key, value in data.items():
        pairs |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return pairs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
