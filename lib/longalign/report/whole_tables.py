"""Tables that are whole: rows that are there, each once, and numbers in them. A mean would hide what is not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from longalign.common import paths

VALUES = ("value", "loss", "recall")
"""The columns of tidy tables that hold what was measured."""


def read(folder: Path, name: str) -> pd.DataFrame:
    """The rows of `name`.csv in a folder.

    Raises FileNotFoundError where there is none, and ValueError, in one sentence, where it cannot be read, has no row,
    gives a row more than once, or has a number that is none. `VALUES` were measured, or all fractions where a table has
    none of them; the other columns say what was measured.
    """
    path = Path(folder) / f"{name}.csv"
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' errors of empty and broken files are of this kind
        raise ValueError(f"{paths.relative(path)} cannot be read: {' '.join(str(error).split())}") from None
    fractions = [column for column in table if pd.api.types.is_float_dtype(table[column])]
    measured = [column for column in VALUES if column in table] or fractions
    told = [f"{path.name} has no rows"] if table.empty else []
    for column in dict.fromkeys([*measured, *fractions]):
        wrong = (~np.isfinite(pd.to_numeric(table[column], errors="coerce"))).sum()
        told += [f"{path.name}, column {column}: {wrong:,} of {len(table):,} are no numbers"] if wrong else []
    told += doubled_rows(name, table, [column for column in table if column not in measured])
    if told:
        raise ValueError(f"{paths.relative(path.parent)}: {told[0]}; run what writes this table again")
    return table


def doubled_rows(name: str, table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """A sentence where rows of a table have the same `keys`: the mean over them would hide what they say.

    >>> doubled_rows("methods", pd.DataFrame({"arm": ["naive", "naive"], "value": [1.0, 9.0]}), ["arm"])
    ['methods.csv gives 1 row more than once; the first: arm naive']
    """
    again = table[table.duplicated(keys)]
    if again.empty:
        return []
    first = ", ".join(f"{key} {again[key].iloc[0]}" for key in keys)
    return [f"{name}.csv gives {len(again):,} row{'s' if len(again) > 1 else ''} more than once; the first: {first}"]

