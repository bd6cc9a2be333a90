"""Scores of a claim's arms, seed by seed: from the tidy CSVs of a run, or from the rows of one GPU.

What is missing is told by file, arm (with the nearest name) and cell. A seed counts when all arms have all of its
scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from longalign.common.config import nearest
from longalign.evals import crossed, intervals
from longalign.report.claim_schema import Claim, Number
from longalign.report.gpu_results import Card

SEED = r", seed (\d+)$"
RUN_KEYS = ("experiment", "arm", "model", "seed", "metric", "value")
"""The other columns of a tidy CSV (task, length, depth) say which cell of a benchmark a row is of."""


class Missing(LookupError):
    """Numbers that a claim needs and the folder does not hold; the message is one sentence with file and arm."""


class Folder:
    """The tidy CSVs of one run, read once each; Missing where there is none, or none that can be read."""

    where = ""
    """What a note says of the place of measurement."""

    def __init__(self, folder: Path, keep: Callable[[pd.DataFrame], pd.Series] | None = None) -> None:
        """A folder with <experiment>.csv and, where items were kept, items/<experiment>.csv.

        `keep` says which rows of a table with seeds count (default: all).
        """
        self.folder, self._keep = Path(folder), keep
        self._read: dict[str, pd.DataFrame] = {}
        self._chosen: dict[tuple[object, ...], pd.DataFrame] = {}
        self._arms: dict[tuple[object, ...], pd.DataFrame] = {}

    def table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """The CSV called `name`, which must have these columns."""
        if name not in self._read:
            try:
                self._read[name] = pd.read_csv(self.folder / name)
            except FileNotFoundError:
                raise Missing(f"there is no {name}") from None
            except (ValueError, OSError) as error:
                raise Missing(f"{name} cannot be read: {' '.join(str(error).split())}") from None
            if self._keep and "seed" in self._read[name]:
                self._read[name] = self._read[name][self._keep(self._read[name])]
        for column in columns:
            if column not in self._read[name]:
                raise Missing(f"{name} has no column {column}")
        values = self._read[name].value if "value" in columns else pd.Series(dtype=float)
        if len(values) and not pd.api.types.is_numeric_dtype(values):
            raise Missing(f"{name} has a value that is not a number")
        return self._read[name]

    def chosen(self, claim: Claim, name: str) -> pd.DataFrame:
        """The rows of the claim's metric, tasks and lengths in the table called `name`."""
        key = (name, claim.metric, claim.tasks, claim.lengths)
        if key not in self._chosen:
            self._chosen[key] = chosen_rows(self.table(name, ("metric",)), claim, name)
        return self._chosen[key]

    def scores(self, claim: Claim) -> pd.DataFrame:
        """A row per cell, a column per (arm, seed), in the order of the claim's arms; complete seeds only."""
        name = f"{claim.results}.csv"
        frames = {arm.arm: self._arm(claim, arm, name) for arm in claim.arms}
        scores = pd.concat(frames, axis=1, sort=True)
        whole = scores.notna().all()
        seeds = [s for s in sorted({seed for _, seed in scores}) if all(whole.get((arm, s), False) for arm in frames)]
        if not seeds:
            raise Missing(f"{name} has no seed with all arms and all cells ({', '.join(frames)})")
        return scores[[(arm, seed) for arm in frames for seed in seeds]]

    def _arm(self, claim: Claim, arm: Number, name: str) -> pd.DataFrame:
        """One arm, a row per cell, a column per seed; computed once for all claims that read it."""
        table = self.table(name, ("arm", "model", "seed", "metric", "value"))
        key = (name, claim.metric, claim.tasks, claim.lengths, *claim.run(arm))
        if key not in self._arms:
            self._arms[key] = _arm(table, self.chosen(claim, name), claim, arm, name)
        return self._arms[key]

    def items(self, claim: Claim, scores: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
        """The contrast of every seed and question, and the stratum of every question; None where no file has them, as
        of a metric that is no score of questions (a time, a share of the steps).

        The mean over questions of a seed is the table's. Raises Missing when the questions are not those of the table,
        or one is there twice.
        """
        name = f"items/{claim.results}.csv"
        if not (self.folder / name).exists():
            return None
        if claim.metric not in set(self.table(name, ("item", "metric")).metric):
            return None
        chosen = self.chosen(claim, name)
        seeds = list(dict.fromkeys(seed for _, seed in scores))
        runs = [[f"{'|'.join(claim.run(arm))}|{seed}" for seed in seeds] for arm in claim.arms]
        for run in (run for of_arm in runs for run in of_arm if run not in chosen):
            raise Missing(f"{name} has no column {run}")
        if (twice := chosen[[column for column in chosen if "|" not in column]].duplicated()).any():
            raise Missing(f"{name} gives the question {chosen.item[twice].iloc[0]!r} twice")
        # a table that pools the lengths says so by the one length 0, whatever length its items have
        pooled = set(scores.reset_index().get("length", [])) == {0}
        cells = [c for c in scores.index.names if c in chosen and not (pooled and c == "length")]
        strata = chosen.groupby(cells).ngroup().to_numpy() if cells else np.zeros(len(chosen), dtype=int)
        numbers = [chosen[of_arm].apply(pd.to_numeric, errors="coerce") for of_arm in runs]
        values = np.array([frame.to_numpy(dtype=float).T for frame in numbers])
        table = np.array([scores[arm.arm].mean().to_numpy() for arm in claim.arms])
        means = intervals.item_means(values, strata)
        if not np.allclose(means, table, rtol=1e-3, atol=1e-3):
            raise Missing(f"{name} has other means than {claim.results}.csv")
        values = values + (table - means)[..., None]  # the file has fewer digits than the table
        if claim.log:
            return crossed.linear_ratio(table, values, claim.weights), strata
        return intervals.contrast(values, claim.weights), strata


class OfCard(Folder):
    """The good rows of one GPU: a table for each stage, a model for each case, an arm for each system.

    A case may end with ", seed 1"; a row without it is of seed 0.
    """

    def __init__(self, card: Card) -> None:
        """The tables of `card`, under the names of its stages."""
        super().__init__(card.folder)
        self.where = f"measured on {card.name}, {card.date}"
        good = card.rows[card.rows.status == "ok"]
        seeds = good.case.str.extract(SEED, expand=False).astype(float).fillna(0).astype(int)
        tidy = pd.DataFrame({"arm": good.system, "model": good.case.str.replace(SEED, "", regex=True), "seed": seeds,
                             "metric": good.metric, "value": good.value})  # fmt: skip
        self._read = {f"{stage}.csv": tidy.loc[rows.index] for stage, rows in good.groupby("stage")}

    def table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """The rows of the stage `name` (with ".csv", as a claim names its table)."""
        if name not in self._read:
            raise Missing(f"stage {name.removesuffix('.csv')} has no good row in {self.folder.name}")
        return super().table(name, columns)


def chosen_rows(table: pd.DataFrame, claim: Claim, name: str) -> pd.DataFrame:
    """The rows of the claim's metric, tasks and lengths; Missing names the first one that is not there."""
    for column, wanted in (("metric", (claim.metric,)), ("task", claim.tasks), ("length", claim.lengths)):
        if wanted is None:
            continue
        known = set(table[column].unique()) if column in table else set()
        for value in wanted:
            if value not in known:
                raise Missing(f"{name} has no {column} {value}: {nearest(str(value), map(str, known))}")
        table = table[table[column].isin(wanted)]
    if table.empty:
        raise Missing(f"{name} has no row with metric {claim.metric} for these tasks and lengths")
    return table


def _arm(table: pd.DataFrame, chosen: pd.DataFrame, claim: Claim, arm: Number, name: str) -> pd.DataFrame:
    cells, (model, label) = [column for column in table if column not in RUN_KEYS], claim.run(arm)
    rows = chosen[(chosen.model == model) & (chosen.arm == label)]
    if rows.empty:
        known = set(table.arm[table.model == model].map(str))
        raise Missing(f"{name} has no arm {label!r} of {model} with metric {claim.metric}: {nearest(label, known)}")
    if rows.duplicated([*cells, "seed"]).any():
        raise Missing(f"{name} gives {label!r} of {model} the same cell and seed twice")
    return rows.set_index([*cells, "seed"]).value.unstack("seed") if cells else rows.set_index("seed")[["value"]].T
