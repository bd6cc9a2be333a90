"""Which verdicts a run with a profile's own seeds returns: the committed tables, cut to its seeds, judged anew."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from longalign.experiments.profiles import Profile
from longalign.experiments.repetitions import slow
from longalign.report import noise
from longalign.report.claim_schema import load_ledger
from longalign.report.claim_scores import Folder
from longalign.report.claims import measure_all
from longalign.report.verdicts import OPPOSITE

TABLES = {name: name for name in ("data_scale", "data_source", "methods", "model_scale", "times", "composed_times")}
TABLES["needle"] = "data_source"
"""The tables whose arms may be slow, and where it says which."""


class Words(NamedTuple):
    """Of the claims that the reference measured, how many have its word in such a run, and how many the opposite."""

    measured: int
    same: int
    opposite: int


def trained_by_default(rows: pd.DataFrame, profile: Profile, first: int = 0) -> pd.Series:
    """Which rows of a table a run of this profile has, by arm, model and seed; `first` is the seed that it begins with.

    Seeds that not all arms of the table have are left out, and after the last one comes 0.
    """
    arms = rows[["experiment", "arm", "model"]].drop_duplicates()
    few = [name in TABLES and slow(TABLES[name], arm, model == profile.models[0])
           for name, arm, model in arms.itertuples(index=False)]  # fmt: skip
    most = arms.assign(most=[profile.seeds_of_slow_arms if one else profile.seeds for one in few])
    last = rows.groupby(["arm", "model"]).seed.max().min()
    seeds = (rows.seed - first) % (last + 1)
    return (rows.seed <= last) & (seeds < rows.merge(most, how="left").most.to_numpy())


def words(results: Path, profile: Profile, first: int = 0) -> Words:
    """The verdicts of a run of this profile that trains what the tables of `results` hold, from seed `first` on."""
    folder = Folder(results, lambda rows: trained_by_default(rows, profile, first))
    claims = pd.read_csv(results / "claims.csv")
    reference = dict(claims[claims.estimate.notna()][["id", "verdict"]].itertuples(index=False))
    pairs = [(row["verdict"], reference[row["id"]])
             for row in measure_all(load_ledger(), folder, calibrated=noise.read(results)) if row["id"] in reference]
    return Words(len(pairs), sum(a == b for a, b in pairs), sum(pair in OPPOSITE for pair in pairs))
