"""A verdict follows from a written decision table, and from nothing else: exactly one line holds for any evidence.

The table stands in the docstring of `verdict` and is data in RULES; the price: a verdict knows p values, not how sure
one should be of the assumptions behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from longalign.evals.intervals import CONFIDENCE, RESOLUTION
from longalign.report.claim_schema import GPU, LAPTOP, MEASURABLE

ALPHA = round(1 - CONFIDENCE, 6)
NAN = float("nan")
PILOT, UNMEASURED, TOO_SMALL = "pilot", "not measured", "cannot be shown at this scale"
FEWEST_SEEDS = 3
"""With fewer seeds, what was measured on a GPU is a pilot: numbers without a verdict."""


class Evidence(NamedTuple):
    """What a verdict rests on; p after Holm, NaN where there is no interval (then nothing is significant).

    `effect` is the estimate minus its value under the null, on the scale of the test; `p` is of the claim's own test
    (two-sided, or TOST), `p_difference` of the two-sided test, asked for with "equal" only.
    """

    direction: str
    effect: float
    p: float
    margin: float = NAN
    p_difference: float = NAN

    @property
    def right(self) -> bool:
        """Whether the sign is the stated one; what is smaller than the tables' last digit has no sign."""
        return self.effect > RESOLUTION if self.direction == "greater" else self.effect < -RESOLUTION

    @property
    def wrong(self) -> bool:
        """Whether the sign is the opposite of the stated one."""
        return not self.right and abs(self.effect) > RESOLUTION

    @property
    def inside(self) -> bool:
        """Whether the estimate lies within the margin."""
        return abs(self.effect) <= self.margin + RESOLUTION


class Rule(NamedTuple):
    """A line of the decision table: for claims of this kind, in this case, this verdict."""

    kind: str
    case: str
    verdict: str
    holds: Callable[[Evidence], bool]


DIRECTED, EQUAL = "greater or less", "equal"
RULES = (
    Rule(DIRECTED, "right sign, interval excludes zero", "reproduced", lambda e: e.right and e.p < ALPHA),
    Rule(DIRECTED, "right sign, interval holds zero", "consistent", lambda e: e.right and not e.p < ALPHA),
    Rule(DIRECTED, "wrong sign or no difference, interval holds zero", "not reproduced",
         lambda e: not e.right and not (e.wrong and e.p < ALPHA)),
    Rule(DIRECTED, "wrong sign, interval excludes zero", "contradicted", lambda e: e.wrong and e.p < ALPHA),
    Rule(EQUAL, "TOST passes", "reproduced", lambda e: e.p < ALPHA),
    Rule(EQUAL, "TOST fails, estimate within the margin", "consistent", lambda e: not e.p < ALPHA and e.inside),
    Rule(EQUAL, "TOST fails, estimate beyond the margin, interval holds zero", "not reproduced",
         lambda e: not (e.p < ALPHA or e.inside or e.p_difference < ALPHA)),
    Rule(EQUAL, "TOST fails, estimate beyond the margin, interval excludes zero", "contradicted",
         lambda e: not (e.p < ALPHA or e.inside) and e.p_difference < ALPHA),
)  # fmt: skip
"""The decision table for measured claims."""
VERDICTS = (*dict.fromkeys(rule.verdict for rule in RULES), PILOT, UNMEASURED, TOO_SMALL)
"""Every verdict once, from the best to the one that no run here can change."""


def is_pilot(scale: str, seeds: int) -> bool:
    """Whether so many seeds at this scale make no verdict."""
    return scale == GPU and seeds < FEWEST_SEEDS


def verdict(evidence: Evidence | None, *, scale: str = LAPTOP, seeds: int = FEWEST_SEEDS) -> str:
    """The verdict of a claim, by the one line of the decision table that holds:

    ================  ============================================================  =============================
    claim             case                                                          verdict
    ================  ============================================================  =============================
    greater or less   right sign, interval excludes zero                            reproduced
    greater or less   right sign, interval holds zero                               consistent
    greater or less   wrong sign or no difference, interval holds zero              not reproduced
    greater or less   wrong sign, interval excludes zero                            contradicted
    equal             TOST passes                                                   reproduced
    equal             TOST fails, estimate within the margin                        consistent
    equal             TOST fails, estimate beyond the margin, interval holds zero   not reproduced
    equal             TOST fails, estimate beyond the margin, interval excludes zero  contradicted
    any               on a GPU, fewer than three seeds                              pilot
    any               the numbers are missing                                       not measured
    any               the ledger's scale is a reason, not "laptop" or "gpu"         cannot be shown at this scale
    ================  ============================================================  =============================

    "Excludes zero" and "passes" are p < 0.05 after Holm within the table or figure of the paper: the 95 % interval as
    it would be, widened for the number of claims. Zero is the contrast's value under the null, 1 x the threshold for
    a ratio. Without any interval (one seed, no items) nothing is excluded and no TOST passes.

    >>> verdict(Evidence("greater", 0.3, 0.01)), verdict(Evidence("less", 0.3, 0.2))
    ('reproduced', 'not reproduced')
    """
    if scale not in MEASURABLE:
        return TOO_SMALL
    if evidence is None:
        return UNMEASURED
    if is_pilot(scale, seeds):
        return PILOT
    kind = EQUAL if evidence.direction == EQUAL else DIRECTED
    (found,) = (rule.verdict for rule in RULES if rule.kind == kind and rule.holds(evidence))
    return found


def decision_table() -> list[dict[str, str]]:
    """The lines of the decision table as rows, to be printed."""
    lines = [{"claim": rule.kind, "case": rule.case, "verdict": rule.verdict} for rule in RULES]
    others = (
        ("on a GPU, fewer than three seeds", PILOT),
        ("the numbers are missing", UNMEASURED),
        ('the ledger\'s scale is a reason, not "laptop" or "gpu"', TOO_SMALL),
    )
    return [*lines, *({"claim": "any", "case": case, "verdict": name} for case, name in others)]
