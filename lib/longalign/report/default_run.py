"""How many claims a run with a profile's own seeds can decide: the committed tables, cut to its seeds, judged anew."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from longalign.experiments.design import slow
from longalign.experiments.profiles import Profile
from longalign.report.claim_schema import LAPTOP, load_ledger
from longalign.report.claim_scores import Folder
from longalign.report.claims import measure_all
from longalign.report.verdicts import DECIDED

TABLES = {name: name for name in ("data_scale", "data_source", "methods", "model_scale", "times", "composed_times")}
TABLES["needle"] = "data_source"
"""The tables whose arms may be slow, and where it says which."""


def trained_by_default(rows: pd.DataFrame, profile: Profile) -> pd.Series:
    """Which rows of a table a run of this profile has, by arm, model and seed."""
    arms = rows[["experiment", "arm", "model"]].drop_duplicates()
    few = [name in TABLES and slow(TABLES[name], arm, model == profile.models[0])
           for name, arm, model in arms.itertuples(index=False)]  # fmt: skip
    most = arms.assign(most=[profile.seeds_of_slow_arms if one else profile.seeds for one in few])
    return rows.seed.to_numpy() < rows.merge(most, how="left").most.to_numpy()


def decided(results: Path, profile: Profile) -> int:
    """How many of the laptop's claims get a word on the paper with the seeds of a run of this profile."""
    ledger = [claim for claim in load_ledger() if claim.scale == LAPTOP and not claim.restates]
    folder = Folder(results, lambda rows: trained_by_default(rows, profile))
    return sum(row["verdict"] in DECIDED for row in measure_all(ledger, folder))
