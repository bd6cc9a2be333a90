"""What chance does to a mean over runs and questions, of both of which one has drawn only a few.

Seeds (the draw and order of the training data) and questions are crossed: every run answers every question. With c the
contrast of arms for each seed s and question q, the variance of its mean over S seeds and Q questions is

    (MS_seeds + MS_questions - MS_residual) / (S Q)

(Clark 1973; Raaijmakers 2003). Strata (a task at a length) are fixed, each has questions of its own and counts once,
so each stratum k of K gives its questions' and residual mean squares apart, with the weight 1 / (K^2 Q_k). Where models
of two sizes are compared, and seeds share base models, a base is the unit that is drawn: MS_seeds is then the mean
square of the bases' means, with as many degrees of freedom as there are bases, less one.

The interval is Banerjee's (1960): half of its width is sqrt(sum of t_i^2 V_i) over independent parts V_i, each with the
Student quantile of its own degrees of freedom. V_seeds = MS_seeds / (S Q) has S - 1 of them; V_questions is
max(0, MS_questions - MS_residual) / (S Q), so that a negative estimate never shortens an interval. It covers at least
what it says, for normal effects, whatever the parts are. Satterthwaite's approximation does not: with three seeds its
95 % interval held the truth in 92.5 % of simulated tables (tests/test_crossed.py prints both).

A few seeds lie closely together now and then by luck. But MS_seeds estimates the residual and what seeds add to it, and
the residual is known from all answers. So the part of seeds is never narrower than the residual alone makes it.

One to three seeds say little about their own spread. A reference with more of them calibrates it (`Spread`), as a
balance is calibrated before it weighs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from longalign.common.array_types import Float, Int
from longalign.evals.intervals import CONFIDENCE, NONE, RESOLUTION, Interval

POWER = 0.8
"""How often an effect is to be seen that is called detectable."""
SMALLEST = -30.0
"""log10 of the smallest p that is told from smaller ones."""
MISFIT = 0.01
"""p of the F test below which runs do not fit a calibrated spread."""
HALVINGS = 50
"""Of the interval in which the logarithm of p is sought: as many digits as a float has."""


class Part(NamedTuple):
    """A part of the variance of a mean (in squared units of the mean), and its degrees of freedom."""

    variance: np.ndarray
    df: np.ndarray


class Spread(NamedTuple):
    """The standard deviation of a run's mean between seeds, as a reference calibrated it, and its degrees of freedom.

    `answers` is the part of its square that single answers (a question in a run) make. Arrays describe many tables.
    """

    sd: float | np.ndarray
    df: float | np.ndarray
    answers: float | np.ndarray = 0.0


@dataclass(frozen=True)
class Mean:
    """A mean with the parts of its variance; no parts, no interval: every number below is then NaN.

    Arrays instead of numbers describe many tables at once (simulations).
    """

    estimate: np.ndarray
    parts: tuple[Part, ...] = ()
    floor: Part | None = None
    """What single answers alone make of the first part: it is never narrower."""

    def half(self, p: float = 1 - CONFIDENCE) -> np.ndarray:
        """Half of the width of the two-sided interval that leaves out p: sqrt(sum of t_i^2 V_i)."""
        if not self.parts:
            return np.full(np.shape(self.estimate), np.nan)
        first, *squares = (special.stdtrit(part.df, p / 2) ** 2 * part.variance for part in self.parts)
        if self.floor:
            first = np.maximum(first, special.stdtrit(self.floor.df, p / 2) ** 2 * self.floor.variance)
        return np.sqrt(first + sum(squares))

    def interval(self) -> Interval:
        """The 95 % interval."""
        if not self.parts:
            return NONE
        half = float(self.half())
        return Interval(float(self.estimate) - half, float(self.estimate) + half)

    def p_value(self, null: float = 0.0, alternative: str = "two-sided") -> np.ndarray:
        """p of the test that the mean is `null`, which the interval of that p just reaches.

        `alternative` is "two-sided", "greater" or "less" (half of the two-sided p on that side of `null`).
        """
        distance = np.asarray(self.estimate, dtype=float) - null
        if not self.parts:
            return np.full(distance.shape, np.nan)
        low, high = np.full(distance.shape, SMALLEST), np.zeros(distance.shape)  # log10 of p
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            wider = self.half(10**middle) > np.abs(distance)
            low, high = np.where(wider, middle, low), np.where(wider, high, middle)
        two_sided = 10**high
        if alternative == "two-sided":
            return two_sided
        return np.where((distance > 0) == (alternative == "greater"), two_sided / 2, 1 - two_sided / 2)

    def p_within(self, margin: float, null: float = 0.0) -> np.ndarray:
        """p of two one-sided tests (Schuirmann 1987): small where the mean lies within `margin` of `null`.

        Raises ValueError for a margin of 0 or below.
        """
        if not margin > 0:
            raise ValueError(f"the margin of an equality must be above 0, not {margin}")
        return np.maximum(self.p_value(null - margin, "greater"), self.p_value(null + margin, "less"))

    def detectable(self, p: float = 1 - CONFIDENCE, power: float = POWER) -> np.ndarray:
        """The effect that a two-sided test at p sees with this power: noncentral t (Johnson and Kotz's approximation).

        >>> float(mean(np.array([2.0, 4.0, 3.0])[:, None]).detectable().round(2))  # exactly 3.26
        3.29
        """
        if not self.parts:
            return np.full(np.shape(self.estimate), np.nan)
        variance = sum(part.variance for part in self.parts)
        if self.floor:
            variance = variance + np.maximum(0, self.floor.variance - self.parts[0].variance)
        df = variance**2 / sum(part.variance**2 / part.df for part in self.parts)
        shrinks = np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2)) * np.sqrt(2 / df)
        quantile = self.half(p) / np.sqrt(variance)
        spread = np.sqrt(1 + quantile**2 * (1 - shrinks**2))
        return np.sqrt(variance) * (quantile * shrinks + special.ndtri(power) * spread)


def mean(
    values: Float[np.ndarray, "*tables seeds items"],
    strata: Int[np.ndarray, "items"] | None = None,
    *,
    spread: Spread | None = None,
    bases: Int[np.ndarray, "seeds"] | None = None,
) -> Mean:
    """The mean over seeds and strata, with the chance of seeds and questions; of bases, where seeds share them.

    A table without questions has one item, whose chance is then that of seeds alone. A calibrated `spread` stands in
    the place of the seeds' own, unless theirs is larger and does not fit it; and where there is one seed, its `answers`
    are told from the questions' part. One seed, seeds that do not differ, and one base carry no interval without it.
    `bases` is the base of each seed, where it does not cancel in the values.

    Seeds 2, 4, 3 on one item: the t interval 3 +- 4.302653 / sqrt(3), and with a calibrated spread of 1 and 28 degrees
    of freedom 3 +- 2.048407 / sqrt(3).

    >>> seeds = np.array([2.0, 4.0, 3.0])[:, None]
    >>> [[round(end, 4) for end in mean(seeds, spread=one).interval()] for one in (None, Spread(1.0, 28))]
    [[0.5159, 5.4841], [1.8174, 4.1826]]
    """
    groups = _by_stratum(np.asarray(values, dtype=float), strata)
    runs = np.mean([group.mean(axis=-1) for group in groups], axis=0)  # [*tables, seeds]
    estimate, bases = runs.mean(axis=-1), np.arange(runs.shape[-1]) if bases is None else bases
    if spread is not None:
        part = _calibrated(runs, spread)
    elif np.unique(bases).size < 2 or (runs.ndim == 1 and np.ptp(runs) <= RESOLUTION):
        return Mean(estimate)
    else:
        part = _between(runs, bases)
    of_questions, floor = _of_questions(groups, None if spread is None else spread.answers)
    return Mean(estimate, (part, *of_questions), None if spread else floor)


def fits(runs: Float[np.ndarray, "*tables runs"], spread: Spread) -> np.ndarray:
    """p of the two-sided F test that runs, of which there are two or more, spread as calibrated.

    A variance of 1 with 2 degrees of freedom, against 1 with 28: F = 1.

    >>> fits(np.array([2.0, 4.0, 3.0]), Spread(1.0, 28)).round(4)
    np.float64(0.7613)
    """
    df = runs.shape[-1] - 1
    f = runs.var(axis=-1, ddof=1) / np.square(spread.sd)
    return 2 * np.minimum(special.fdtr(df, spread.df, f), special.fdtrc(df, spread.df, f))


def of_answers(values: Float[np.ndarray, "seeds items"], strata: Int[np.ndarray, "items"] | None = None) -> float:
    """The part that single answers have in the variance of one run's mean: what is left when seeds and questions have
    taken theirs."""
    groups = _by_stratum(np.asarray(values, dtype=float), strata)
    return float(sum(_mean_squares(group)[1] / (len(groups) ** 2 * group.shape[-1])
                     for group in groups if group.shape[-1] > 1) * len(values))  # fmt: skip


def linear_ratio(means: Float[np.ndarray, "arms *runs"], values: Float[np.ndarray, "arms *runs items"],
                 weights: Sequence[float]) -> np.ndarray:  # fmt: skip
    """The logarithm of a ratio of means, split over questions (delta method): the mean over questions is exact.

    Question q of a run gives sum over arms of weight x (log m + x_q / m - 1), m being the arm's mean in that run.

    >>> scores = np.array([[2.0, 4.0, 3.0], [1.0, 3.0, 2.0]])
    >>> bool(np.isclose(linear_ratio(scores.mean(axis=1), scores, [1, -1]).mean(), np.log(3 / 2)))
    True
    """
    means = np.asarray(means, dtype=float)[..., None]
    return np.tensordot(np.asarray(weights, dtype=float), np.log(means) + values / means - 1, axes=1)


def _by_stratum(values: np.ndarray, strata: np.ndarray | None) -> list[np.ndarray]:
    strata = np.zeros(values.shape[-1], dtype=int) if strata is None else np.asarray(strata)
    return [values[..., strata == one] for one in np.unique(strata)]


def _calibrated(runs: np.ndarray, spread: Spread) -> Part:
    """The part of seeds with the calibrated variance, or with that of the runs themselves where it is too large."""
    count, tables = runs.shape[-1], runs.shape[:-1]
    part = Part(np.broadcast_to(np.square(spread.sd) / count, tables), np.broadcast_to(spread.df, tables))
    if count == 1:
        return part
    own = _between(runs, np.arange(count))
    larger = (fits(runs, spread) < MISFIT) & (own.variance > part.variance)
    return Part(*(np.where(larger, *both) for both in zip(own, part, strict=True)))


def _between(runs: np.ndarray, bases: np.ndarray) -> Part:
    """The part of seeds: from the means of the bases, each weighted by its seeds."""
    _, of, sizes = np.unique(bases, return_inverse=True, return_counts=True)
    means = np.stack([runs[..., of == base].mean(axis=-1) for base in range(sizes.size)], axis=-1)
    square = (sizes * (means - runs.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1) / (sizes.size - 1)
    return Part(square / runs.shape[-1], np.full(square.shape, sizes.size - 1.0))


def _of_questions(
    groups: list[np.ndarray], answers: float | np.ndarray | None
) -> tuple[list[Part], Part | None]:
    """The part of questions, over the strata that have two or more, and that of single answers; degrees of freedom by
    Satterthwaite over strata.

    One run cannot tell them apart; `answers` is the second where it is calibrated.
    """
    weights = [1 / (len(groups) ** 2 * group.shape[-1]) for group in groups]
    squares = [(*_mean_squares(group), weight) for group, weight in zip(groups, weights, strict=True)
               if group.shape[-1] > 1]  # fmt: skip
    if not squares:
        return [], None
    between, runs = sum(weight * question for question, _, _, weight in squares), groups[0].shape[-2]
    rest = sum(weight * rest for _, rest, _, weight in squares)
    residual = answers if runs == 1 and answers is not None else rest
    df = _satterthwaite([(weight * question, df) for question, _, df, weight in squares])
    part = Part(np.maximum(0, between - residual), df)
    if runs == 1:
        return [part], None
    return [part], Part(rest, _satterthwaite([(weight * one, df * (runs - 1)) for _, one, df, weight in squares]))


def _satterthwaite(parts: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """The degrees of freedom of a sum of variances; 1 where they are 0."""
    spread = sum(variance**2 / df for variance, df in parts)
    total = sum(variance for variance, _ in parts)
    return np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1), 1.0)


def _mean_squares(group: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Of one stratum [*tables, seeds, items]: mean squares of questions and of the residual, each of means over the
    seeds, and the degrees of freedom of questions. One seed has no residual: all its spread is then the questions'.
    """
    runs, items = group.shape[-2:]
    means = group.mean(axis=-2)
    rest = group - means[..., None, :] - group.mean(axis=-1, keepdims=True) + means.mean(axis=-1)[..., None, None]
    residual = (rest**2).sum(axis=(-2, -1)) / (max(1, runs - 1) * (items - 1)) / runs
    return means.var(axis=-1, ddof=1), residual, items - 1
