"""Whether the instrument can show a claim at all, from the same run's tables, before the claim is read.

A claim names what it needs (`needs` in claims.yaml). A gate that fails says the number that it found, and the run that
would pass it; the claim then "cannot be shown here". The gates were committed before the runs that they judge.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from longalign.common import paths
from longalign.evals.intervals import ratio
from longalign.evals.rubric import BEST, CHANCE
from longalign.report.claim_schema import HEADROOM, SIZES, WAITING, Claim
from longalign.report.claim_scores import Folder, Missing
from longalign.report.tables import size

LOWEST, HIGHEST = 0.1, 0.9
"""Nearer to chance, or to the best score, arms cannot differ much: shares of the range between the two."""
BASE_LOSS = "items/base_loss.csv"
"""Sums of losses of each held-out document (a row) by each base (a column `model|number`)."""
FEWEST_BASES = 2
WAITS = "waits per micro-step"
"""The metric of a table of times that says how often ranks wait for each other in a micro-step."""


def failures(claim: Claim, folder: Folder) -> list[str]:
    """A sentence for each gate of the claim that fails. Raises Missing when its own table is missing."""
    return [told for need in claim.needs if (told := GATES[need](claim, folder))]


def headroom(claim: Claim, folder: Folder) -> str:
    """Scores differ where they can: the mean over the claim's own arms lies between 10 and 90 % of the range.

    Each arm counts once, however many seeds it has. The range runs from chance to the best score. A metric that is no
    score passes.
    """
    if claim.metric not in BEST:
        return ""
    name = f"{claim.results}.csv"
    rows = folder.chosen(claim, name)
    own = {claim.run(arm) for arm in claim.arms}
    rows = rows[[run in own for run in zip(rows.model, rows.arm, strict=True)]]
    lowest, best = CHANCE[claim.metric], BEST[claim.metric]
    share = (rows.groupby(["model", "arm"]).value.mean().mean() - lowest) / (best - lowest)
    if LOWEST <= share <= HIGHEST:
        return ""
    other = "harder" if share > HIGHEST else "easier"
    return (
        f"the mean over the arms that are compared lies at {share:.1%} of the score's range, and arms can differ only "
        f"between {LOWEST:.0%} and {HIGHEST:.0%}; {other} questions would show it"
    )


def sizes(claim: Claim, folder: Folder) -> str:
    """A larger base is a better one: its loss on held-out documents is lower by more than two standard errors.

    Chance is in the documents, which are the same for all bases, and in the bases of a size; both variances are added.
    """
    try:
        losses = _base_losses(folder)
    except Missing as missing:
        return f"{missing}, so nobody knows whether the larger base is the better one; `make bases` writes it"
    models = sorted({claim.run(arm)[0] for arm in claim.arms}, key=size)
    for smaller, larger in itertools.pairwise(models):
        if told := _falls(losses, smaller, larger):
            return told
    return ""


def bases(claim: Claim, folder: Folder, seeds: np.ndarray) -> np.ndarray | None:
    """The base of each seed, where sizes are compared and have several; None where bases cancel or there is one.

    Seed s starts from base s modulo the number of bases of its model, so seeds that are equal modulo the greatest
    common divisor of these numbers are tied to each other.
    """
    if SIZES not in claim.needs:
        return None
    try:
        counts = [_of_model(_base_losses(folder), claim.run(arm)[0]).shape[1] for arm in claim.arms]
    except Missing:
        return None
    return seeds % math.gcd(*counts) if min(counts) >= FEWEST_BASES else None


def _base_losses(folder: Folder) -> pd.DataFrame:
    """Those of the folder; a run has none of its own, and starts from the committed bases."""
    try:
        return folder.table(BASE_LOSS, ("targets",))
    except Missing:
        return Folder(paths.results()).table(BASE_LOSS, ("targets",))


def _of_model(losses: pd.DataFrame, model: str) -> pd.DataFrame:
    return losses[[column for column in losses if column.partition("|")[0] == model]]


def _falls(losses: pd.DataFrame, smaller: str, larger: str) -> str:
    of_small, of_large = (_of_model(losses, model) for model in (smaller, larger))
    for model, bases in ((smaller, of_small), (larger, of_large)):
        if bases.shape[1] < FEWEST_BASES:
            return (f"{BASE_LOSS} has {bases.shape[1] or 'no'} base of {model}, fewer than {FEWEST_BASES}, so nobody "
                    "knows how far bases of one size differ; `make bases` with more of them would show it")  # fmt: skip
    by_base = [bases.sum() / losses.targets.sum() for bases in (of_small, of_large)]
    lower, of_documents = ratio((of_small.mean(axis=1) - of_large.mean(axis=1)).to_numpy(), losses.targets.to_numpy())
    error = (of_documents**2 + sum(values.var() / len(values) for values in by_base)) ** 0.5
    if lower > 2 * error:
        return ""
    return (
        f"the held-out loss of {larger}'s bases is {by_base[1].mean():.3f}, of {smaller}'s {by_base[0].mean():.3f}: "
        f"not lower by 2 standard errors ({2 * error:.3f}); bases trained in proportion to their size would "
        "show it"
    )


def waiting(claim: Claim, folder: Folder) -> str:
    """Ranks wait for each other in every micro-step, as under the paper's ZeRO-3."""
    name = f"{claim.results}.csv"
    table = folder.table(name, ("model", "task", "metric", "value"))
    tasks = claim.tasks or tuple(table.task.unique())
    waits = table[(table.metric == WAITS) & (table.model == claim.model) & table.task.isin(tasks)].value
    if len(waits) and waits.min() >= 1:
        return ""
    found = f"{waits.min():.2g} times in a micro-step" if len(waits) else "once in an optimizer step"
    return (f"in {name} the ranks of {', '.join(tasks)} wait {found}, the paper's in every micro-step; times of "
            "micro-batches, composed to ranks that wait so, would show it")  # fmt: skip


GATES: dict[str, Callable[[Claim, Folder], str]] = {HEADROOM: headroom, SIZES: sizes, WAITING: waiting}
"""Each gate by its name in claims.yaml: an empty text where it passes."""
