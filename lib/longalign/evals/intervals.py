"""Intervals over seeds, resampled questions, and Holm's method; NaN where the data cannot carry them.

Student's t takes the chance of seeds alone (draw and order of the training data). A percentile bootstrap takes that of
a benchmark's questions alone, the same questions for all arms and seeds. Verdicts need both at once: see
`longalign.evals.crossed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from longalign.common.array_types import Float, Int

CONFIDENCE = 0.95
DRAWS = 10_000
RESOLUTION = 1e-5
"""Contrasts that differ by less are one number: tables hold six digits, and sums of equal scores differ in the last."""


class Interval(NamedTuple):
    """A lower and an upper end, in the units of the values; both NaN where there is no interval."""

    low: float
    high: float


NONE = Interval(float("nan"), float("nan"))


def contrast(values: Float[np.ndarray, "arms *rest"], weights: Sequence[float], *, log: bool = False) -> np.ndarray:
    """sum over arms of weight x value (of weight x log value with `log`): one number per seed, or per draw.

    With `log` a difference is the logarithm of a ratio, so that twice as fast and half as fast lie equally far from
    1. Raises ValueError for a value of 0 or below under `log`, or when the weights are not one per arm.

    >>> contrast(np.array([[4.0, 3.0], [2.0, 2.0]]), [1, -1])
    array([2., 1.])
    >>> np.exp(contrast(np.array([[4.0, 3.0], [2.0, 2.0]]), [1, -1], log=True)).round(6)
    array([2. , 1.5])
    """
    values, weights = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    if weights.shape != values.shape[:1]:
        raise ValueError(f"{weights.size} weights for {len(values)} arms: give one weight to each arm")
    if log and not (values > 0).all():
        raise ValueError(f"a ratio needs values above 0, not {values.min()}")
    return np.tensordot(weights, np.log(values) if log else values, axes=1)


def t_interval(values: Float[np.ndarray, "seeds"]) -> Interval:
    """Student's 95 % t interval of the mean of paired contrasts, one per seed; NaN where `has_spread` is false.

    Mean 3 and standard error 1 / sqrt(3) of 2, 4, 3; t(0.975, 2 degrees of freedom) = 4.302653:

    >>> [round(end, 4) for end in t_interval(np.array([2.0, 4.0, 3.0]))]
    [0.5159, 5.4841]
    """
    if not has_spread(values):
        return NONE
    return Interval(*map(float, distributions.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)))


def has_spread(values: Float[np.ndarray, "seeds"]) -> bool:
    """Whether seeds can carry a t test: two or more, and not all equal (no spread seen is no proof that there is none).

    >>> has_spread(np.array([2.0, 4.0, 3.0])), has_spread(np.array([2.0])), has_spread(np.array([3.0, 3.0]))
    (True, False, False)
    """
    values = np.asarray(values, dtype=float)
    return values.size >= 2 and float(np.ptp(values)) > RESOLUTION


def holm(p: Sequence[float], most: int | None = None) -> Float[np.ndarray, "tests"]:
    """Holm's step-down adjustment of a family of p values (Holm 1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1, then no value may fall below an earlier one, nor exceed 1.
    Where at most `most` of the hypotheses can be true together, no factor exceeds that (Shaffer 1986). Comparing the
    result with 0.05 keeps the chance of any false rejection in the family at 5 % or below. NaN (no test was made) stays
    NaN and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()  # 3 x 0.01, 2 x 0.03, then 1 x 0.04 may not fall below 0.06
    [0.03, 0.06, 0.06]
    >>> holm([0.01, 0.04, 0.03], most=2).tolist()  # 2 x 0.01
    [0.02, 0.06, 0.06]
    """
    return np.minimum(np.asarray(p, dtype=float) * holm_factors(p, most), 1.0)


def holm_factors(p: Sequence[float], most: int | None = None) -> Float[np.ndarray, "tests"]:
    """By what `holm` multiplies each p value: the interval of confidence 1 - 0.05 / factor decides as that p does.

    >>> holm_factors([0.01, 0.04, 0.03]).tolist()
    [3.0, 1.5, 2.0]
    """
    p = np.asarray(p, dtype=float)
    found = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]  # NaN sorts last
    factors = np.minimum(np.arange(order.size, 0.0, -1), order.size if most is None else most)
    adjusted = np.maximum.accumulate(p[order] * factors)
    found[order] = np.divide(adjusted, p[order], out=factors, where=p[order] > 0)
    return found


def ratio(sums: Float[np.ndarray, "draws"], counts: Int[np.ndarray, "draws"]) -> tuple[float, float]:
    """Sum over sum, and its standard error where the n pairs are draws (delta method).

    Documents of 1 and 3 targets, with losses of 2 each target in the first, of 1 in the second:

    >>> value, error = ratio(np.array([2.0, 3.0]), np.array([1, 3]))
    >>> value, round(error, 3)
    (1.25, 0.375)
    """
    value = sums.sum() / counts.sum()
    residuals = (sums - value * counts) / counts.mean()
    return float(value), float(residuals.std(ddof=1) / np.sqrt(len(residuals)))


def item_means(values: Float[np.ndarray, "... items"], strata: Int[np.ndarray, "items"]) -> Float[np.ndarray, "..."]:
    """Mean of the strata's means: a stratum (task at a length) counts once, however many items it has.

    >>> item_means(np.array([2.0, 4.0, 3.0]), np.array([0, 0, 1]))
    array(3.)
    """
    means = [np.asarray(values)[..., np.asarray(strata) == stratum].mean(axis=-1) for stratum in np.unique(strata)]
    return np.asarray(np.mean(means, axis=0))


def item_bootstrap(
    values: Float[np.ndarray, "arms seeds items"], weights: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws"]:
    """The contrast, averaged over seeds, for `draws` resamples of the items.

    Every resample holds the same items for all arms and seeds, so what makes an item hard or easy cancels (Koehn
    2004, "Statistical significance tests for machine translation evaluation"). Resamples of n items vary by (n - 1) / n
    too little, which matters for a few items: deviations are widened by sqrt(n / (n - 1)) (Davison and Hinkley 1997,
    3.2). Same `seed`, same draws.

    >>> scores = np.array([[[1.0, 1.0, 1.0]], [[0.0, 0.0, 1.0]]])  # two arms, one seed, three items
    >>> sample = item_bootstrap(scores, [1, -1], draws=1000)
    >>> sorted(set(sample.round(3).tolist()))  # 2 / 3 + (k - 2) / 3 x sqrt(3 / 2), k = 0 to 3
    [-0.15, 0.258, 0.667, 1.075]
    """
    values = np.asarray(values, dtype=float)
    size = values.shape[-1]
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=draws)
    drawn, mean = values @ (counts.T / size), values.mean(axis=-1, keepdims=True)
    return contrast(mean + (drawn - mean) * np.sqrt(size / max(1, size - 1)), weights).mean(axis=0)


def percentile_interval(draws: Float[np.ndarray, "draws"]) -> Interval:
    """The middle 95 % of bootstrap draws.

    >>> [round(end, 3) for end in percentile_interval(np.arange(1001) / 1000)]
    [0.025, 0.975]
    """
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
