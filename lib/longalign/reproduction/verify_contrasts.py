"""What claims are made of, compared between a run and the reference: contrasts, their signs, and verdicts.

On another processor rounding grows over the steps of a training until it is nearly another seed, so a single number
says little there. The rules stand in docs/project/verdicts.md, "Another processor".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from longalign.evals.crossed import Spread
from longalign.evals.intervals import contrast
from longalign.report import noise
from longalign.report.claim_schema import LAPTOP, WAITING, Claim
from longalign.report.claim_scores import Folder, Missing
from longalign.report.verdicts import OPPOSITE
from longalign.reproduction import drift

FAMILY = 0.01
"""How often an honest run may leave the limits, over all of one kind together."""
ROUNDING = 1e-5
"""Tables hold six digits."""
SAME_WORDS = 50 / 56
"""The least share of the measured claims that have the word of the reference's own tables, cut to the run's seeds."""


@dataclass(frozen=True)
class Contrast:
    """A claim's contrast in the run and in the reference, means over the seeds that both have, on the claim's scale.

    `limit` is how far they may lie apart; `sign` is that of the reference's interval, 0 where it holds no difference.
    """

    claim: str
    ours: float
    theirs: float
    seeds: int
    limit: float
    sign: int = 0

    def wrong(self) -> list[str]:
        """A sentence for each rule that it breaks."""
        told = f"{self.claim}: {self.ours:.4g} over {self.seeds} seed{'s' if self.seeds > 1 else ''}, in the reference "
        told += f"{self.theirs:.4g}"
        found = []
        if not abs(self.ours - self.theirs) <= self.limit:
            found.append(f"{told} ± {self.limit:.2g}")
        if self.sign and np.sign(self.ours) != self.sign:
            found.append(f"{told}: the other sign")
        return found


def shared(folder: Path, other: Path) -> Folder:
    """The tables of `folder`, cut to the arms and seeds that `other` has."""
    theirs, keys = Folder(other), ["arm", "model", "seed"]

    def keep(rows: pd.DataFrame) -> np.ndarray:
        try:
            known = theirs.table(f"{rows.experiment.iloc[0]}.csv", keys)[keys].drop_duplicates()
        except Missing:
            return np.zeros(len(rows), dtype=bool)
        return pd.MultiIndex.from_frame(rows[keys]).isin(pd.MultiIndex.from_frame(known))

    return Folder(folder, keep)


def contrasts(
    run: Folder, reference: Folder, ledger: Iterable[Claim], rows: Mapping[str, Mapping[str, Any]], results: Path
) -> tuple[list[Contrast], list[str]]:
    """The contrasts of all claims that the reference can compute, times apart, and a sentence for what the run lacks.

    `rows` are what the reference says of the claims, by id, cut to the seeds that both have. Drift and spread are those
    of `results`.
    """
    pairs, lacking = [], Counter()
    for claim in (claim for claim in ledger if claim.scale == LAPTOP and WAITING not in claim.needs):
        try:
            theirs = _by_seed(claim, reference)
        except Missing:
            continue
        try:
            pairs.append((claim, *_by_seed(claim, run).align(theirs, join="inner")))
        except Missing as missing:
            lacking[str(missing)] += 1
    spreads = noise.read(results)
    drifts, p = drift.read(results, spreads), FAMILY / max(1, len(pairs))
    found = []
    for claim, ours, theirs in pairs:
        limit = allowed(noise.weights(claim), spreads, drifts, p, theirs.to_numpy()) / np.sqrt(len(theirs)) + ROUNDING
        sign = _sign(rows[claim.id], claim)
        found.append(Contrast(claim.id, float(ours.mean()), float(theirs.mean()), len(theirs), float(limit), sign))
    gaps = [f"{reason}: {count} contrast{'s' if count > 1 else ''}" for reason, count in lacking.items()]
    return [one for one in found if one.seeds], gaps


def _by_seed(claim: Claim, folder: Folder) -> pd.Series:
    scores = folder.scores(claim)
    by_arm = np.array([scores[arm.arm].mean().to_numpy() for arm in claim.arms])
    seeds = list(dict.fromkeys(seed for _, seed in scores))
    return pd.Series(contrast(by_arm, claim.weights, log=claim.log), index=seeds)


def _sign(row: Mapping[str, Any], claim: Claim) -> int:
    none = 1 if claim.log else 0
    return int(row["low"] > none) - int(row["high"] < none)


def allowed(
    squares: Mapping[noise.Key, float], spreads: noise.Noise, drifts: noise.Noise, p: float, theirs: np.ndarray
) -> float:  # fmt: skip
    """How far drift may carry a contrast of one seed: what was measured, and never farther than another seed would.

    Where nothing is calibrated, the reference's own seeds say how far another one is.
    """
    another = noise.of_contrast(squares, spreads)
    if another is None and theirs.size > 1:
        another = Spread(float(theirs.std(ddof=1)), theirs.size - 1)
    limits = [quantile(p, one.df) * one.sd * factor
              for one, factor in ((another, 2**0.5), (noise.of_contrast(squares, drifts), 1)) if one]  # fmt: skip
    return min(limits, default=np.inf)


def quantile(p: float, df: float | np.ndarray) -> float | np.ndarray:
    """Student's t that leaves out p on both sides together.

    >>> round(float(quantile(0.05, 2)), 4)
    4.3027
    """
    return -special.stdtrit(df, p / 2)


def verdicts(
    ours: Sequence[Mapping[str, Any]], theirs: pd.DataFrame, cut: Mapping[str, Mapping[str, Any]]
) -> tuple[str, list[str], list[str]]:
    """What the words of a run's claims say: one line of counts, a sentence for each that differs, and what is wrong.

    `theirs` is the reference's claims.csv; `cut` are its rows by id, from its tables with the run's seeds alone.
    """
    theirs = theirs[theirs.estimate.notna()].set_index("id")
    measured = [row for row in ours if row["id"] in theirs.index]
    other, wrong = [], []
    for row in measured:
        word, reference = row["verdict"], theirs.loc[row["id"]]
        if word != reference["verdict"]:
            told = f"{row['id']}: {word} ({row['seeds']} seeds), in the reference {reference['verdict']}"
            other.append(f"{told} ({reference['seeds']})")
            wrong += [f"{told}: the opposite"] if (word, reference["verdict"]) in OPPOSITE else []
    same = sum(row["verdict"] == cut[row["id"]]["verdict"] for row in measured)
    if same < SAME_WORDS * len(measured):
        wrong.append(f"{same} of {len(measured)} measured claims have the word that the reference's own tables give "
                     f"with the same seeds; fewer than {SAME_WORDS:.0%}")  # fmt: skip
    line = (f"{len(measured) - len(other)} of {len(measured)} measured claims have the reference's word; "
            f"{same} the word of its tables with the same seeds")  # fmt: skip
    return line, other, wrong
