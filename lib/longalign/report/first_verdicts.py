"""The verdicts of the first rules beside today's, each with its reason: a block of docs/project/verdicts.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from longalign.report.verdicts import ABSENT, HIDDEN, INCONCLUSIVE, UNMEASURED

FIRST = Path("docs") / "project" / "first_verdicts.csv"
"""Verdicts, estimates and intervals by the rules of version 0.1: committed, and never written again."""
OPEN = {
    "reproduced": "with the chance of the questions, and widened for all claims of its table, the interval reaches the "
    "other side of what the claim says",
    "contradicted": "the interval, widened for all claims of its table, reaches what the claim says",
}
"""Why a verdict of the first rules is inconclusive by today's; for the two weak ones see `why`."""


def before_and_after(results: Path) -> list[list[str]]:
    """A row per claim of claims.csv, in its order: claim, before, after, why. Raises KeyError for an unknown claim."""
    first = pd.read_csv(results.parent / FIRST).set_index("id").verdict
    claims = pd.read_csv(results / "claims.csv", keep_default_na=False).to_dict("records")
    return [[f"`{row['id']}`", first[row["id"]], row["verdict"], why(first[row["id"]], row)] for row in claims]


def why(before: str, row: Mapping[str, Any]) -> str:
    """The reason for a verdict beside that of the first rules, from the row of claims.csv.

    >>> row = {"id": "a", "source": "Table 2", "verdict": "reproduced", "direction": "not_less", "seeds": 8, "note": ""}
    >>> why("not reproduced", row)
    '"no harm" asks for no loss beyond the margin, and a gain does no harm'
    """
    note = row["note"].removeprefix(f"{row['id']}: ")
    if row["verdict"] in (HIDDEN, UNMEASURED):
        return note if row["seeds"] else f"no numbers then and now: {note}"
    raw = "read from raw scores; " if row["source"] == "Figure 6" else ""
    if row["direction"] == "not_less":
        told = '"no harm" asks for no loss beyond the margin, and a gain does no harm'
    elif row["verdict"] == INCONCLUSIVE:
        told = OPEN.get(before, "the sign alone says nothing: the interval, widened for all claims of its table, "
                        "decides nothing")  # fmt: skip
    elif row["verdict"] == ABSENT:
        told = ("the interval, widened for all claims of its table, holds no difference and excludes the paper's, or "
                "the margin where the paper has none")  # fmt: skip
    else:
        told = "the interval with both kinds of chance says so"
    return raw + (f"{told}; {note}" if note else told)
