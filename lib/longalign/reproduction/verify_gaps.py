"""What a comparison with the reference would leave out in silence, as sentences that make
`longalign.reproduction.verify` fail.

A run is compared number by number where both have the same seed of the same arm. So a row that stands twice, a seed in
the place of another, and a ledger that was not computed from the run's tables would never be seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longalign.report.whole_tables import doubled_rows

NUMBERS = ("estimate", "low", "high", "p_holm", "p_against", "seeds", "questions")
WORDS = ("source", "statement", "notebook", "paper", "metric", "direction")
DIGITS = 1e-4
"""Relative difference of a number that was written with six digits, and of p values that are computed from such."""
_RECORD = re.compile(r"\d\d[a-z]?_.*\.json")


def other_seeds(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """A sentence for each arm of which the run has other seeds in the place of the reference's.

    Fewer seeds than the reference has are compared, and so are more: all that the reference says is held against them.

    >>> ours, theirs = (pd.DataFrame({"arm": "naive", "seed": seeds}) for seeds in ([0, 100], [0, 1, 2]))
    >>> other_seeds("methods", ours, theirs)
    ['methods.csv, arm naive: seed 100 cannot be compared, the reference has 0, 1, 2']
    """
    arm = [column for column in ("model", "arm") if column in ours]
    known = {key: set(rows.seed) for key, rows in _by(theirs, arm)}
    found = []
    for key, rows in _by(ours, arm):
        seeds = set(rows.seed)
        strange, missing = sorted(seeds - known.get(key, seeds)), known.get(key, set()) - seeds
        if strange and missing:
            where = ", ".join(f"{column} {value}" for column, value in zip(arm, key, strict=True))
            found.append(
                f"{name}.csv, {where or 'all rows'}: seed{'s' if len(strange) > 1 else ''} {_listed(strange)} "
                f"cannot be compared, the reference has {_listed(sorted(known[key]))}"
            )
    return found


def other_counts(
    name: str, ours: pd.DataFrame, theirs: pd.DataFrame, keys: Sequence[str], counts: Sequence[str]
) -> list[str]:  # fmt: skip
    """A sentence for each column of `counts`, such as tokens, that differs in rows of the same `keys`.

    >>> ours, theirs = (pd.DataFrame({"step": [1, 2], "tokens": tokens}) for tokens in ([10, 20], [10, 30]))
    >>> other_counts("loss", ours, theirs, ["step"], ["tokens"])
    ['loss.csv, step 2: tokens 20, in the reference 30 (1 row differs)']
    """
    both, found = ours.merge(theirs, on=list(keys), suffixes=("", "_reference")), []
    for column in counts:
        differs = both[both[column] != both[f"{column}_reference"]]
        if not differs.empty:
            first, rows = differs.iloc[0], len(differs)
            where = ", ".join(f"{key} {first[key]}" for key in keys)
            they = f"{rows:,} row{'s differ' if rows > 1 else ' differs'}"
            said = f"{column} {first[column]}, in the reference {first[f'{column}_reference']}"
            found.append(f"{name}.csv, {where}: {said} ({they})")
    return found


def not_compared(run: Path | str, reference: Path | str, *, left_out: Collection[str] = ()) -> list[str]:
    """A sentence for the tables of a run that the reference lacks, but those `left_out`, and one for the records that
    the run lacks, without which nobody knows its settings."""
    ours, theirs = ({path.name for path in Path(folder).glob("*") if path.is_file()} for folder in (run, reference))
    tables = sorted(name for name in ours - theirs if name.endswith(".csv") and name[:-4] not in left_out)
    records = sorted(name for name in theirs - ours if _RECORD.fullmatch(name))
    found = [f"{', '.join(tables)}: the reference has no such table"] if tables else []
    return found + ([f"the settings of {', '.join(records)}, for the run has no such record"] if records else [])


def broken_ledger(run: Path | str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each claim of a run that is not the ledger's, or whose numbers or verdict are not `rows`, which
    follow from the run's own tables."""
    path = Path(run) / "claims.csv"
    try:
        told = pd.read_csv(path)
    except (FileNotFoundError, ValueError):
        return []  # the comparison says so
    if twice := doubled_rows("claims", told, ["id"]):
        return twice
    given = told.set_index("id")
    unknown = [name for name in given.index if name not in {row["id"] for row in rows}]
    found = [f"claims.csv, id {name}: claims.yaml has no such claim" for name in unknown]
    for row in rows:
        if row["id"] not in given.index:
            continue
        claimed = given.loc[row["id"]]
        if other := [name for name in WORDS if name in claimed and _words(claimed[name]) != _words(row[name])]:
            found.append(f"claims.csv, id {row['id']}: {other[0]} is not that of claims.yaml")
        differs = [name for name in NUMBERS if name in claimed and not _same(claimed[name], row[name])]
        differs += ["verdict"] if claimed.get("verdict") != row["verdict"] else []
        if differs:
            first = differs[0]
            computed = f"but the run's tables give {row[first]}"
            found.append(f"claims.csv, id {row['id']}: {first} {claimed[first]}, {computed}")
    return found


def _by(table: pd.DataFrame, columns: list[str]) -> list[tuple[tuple, pd.DataFrame]]:
    return list(table.groupby(columns, dropna=False)) if columns else [((), table)]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")


def _words(value: object) -> str:
    return "" if value is None or value != value else " ".join(str(value).split())


def _same(told: object, computed: object) -> bool:
    a, b = (np.nan if value is None else float(value) for value in (told, computed))
    return bool(np.isclose(a, b, rtol=DIGITS, atol=1e-6, equal_nan=True))
