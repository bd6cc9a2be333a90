"""What the note of a claim says of chance: the spread that was used, and what such runs would have seen."""

from __future__ import annotations

import numpy as np

from longalign.evals import crossed
from longalign.report.claim_schema import WITHIN_MARGIN, Claim


def spread(by_seed: np.ndarray, calibrated: crossed.Spread | None, bases: np.ndarray | None) -> str:
    """Which spread between seeds was used, and whether the run's own fits it; or how many bases the seeds share."""
    if calibrated is None:
        return "" if bases is None else f"{np.unique(bases).size} bases of each size, each of them one draw"
    told = ("how far repetitions of a training lie apart is taken from our committed runs: a standard deviation of "
            f"{calibrated.sd:.2g} ({calibrated.df:.0f} degrees of freedom)")  # fmt: skip
    if by_seed.size < 2 or (p := crossed.fits(by_seed, calibrated)) >= crossed.MISFIT:
        return told
    own = by_seed.std(ddof=1)
    used = "the larger one, the run's own, is used" if own > calibrated.sd else "the larger one is used"
    return f"{told}; this run's own is {own:.2g}, which does not fit (F test, p = {p:.2g}), and {used}"


def detectable(claim: Claim, seen: float) -> str:
    """What 80 % of such runs would have seen (or excluded, where a margin is asked for), in words.

    >>> claim = Claim("a", "Table 2", "No harm.", "05_data_scale", direction="not_less", margin=0.05)
    >>> detectable(claim, 0.2)
    'without any, 80 % of such runs would exclude a loss of more than 0.2 (the margin: 0.05)'
    """
    if claim.direction in WITHIN_MARGIN:
        kind = "a loss" if claim.direction == "not_less" else "a difference"
        told = f"without any, 80 % of such runs would exclude {kind} of more than {seen:.2g}"
        return f"{told} (the margin: {claim.margin:g})"
    effect = f"a ratio of {seen:.3g}" if claim.log else f"an effect of {seen:.2g}"
    return f"{effect} would have been seen in 80 % of such runs"
