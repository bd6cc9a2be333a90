"""A verdict follows from a written decision table, and from nothing else: exactly one line holds for any evidence.

The table stands in the docstring of `verdict` and is data in RULES.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from longalign.evals.intervals import CONFIDENCE
from longalign.report.claim_schema import LAPTOP, MEASURABLE

ALPHA = round(1 - CONFIDENCE, 6)
NAN = float("nan")
REPRODUCED, CONTRADICTED, ABSENT, INCONCLUSIVE = "reproduced", "contradicted", "no such effect", "inconclusive"
OPPOSITE = {(REPRODUCED, CONTRADICTED), (CONTRADICTED, REPRODUCED)}
"""Two words on one claim that cannot both be right."""
HIDDEN, UNMEASURED = "cannot be shown here", "not measured"
DECIDED = (REPRODUCED, CONTRADICTED, ABSENT)
"""The words that say something of the claim; the others say something of our experiments."""


class Evidence(NamedTuple):
    """What a verdict rests on; p after Holm over the table, NaN where no test was made (then nothing is shown).

    `effect` is the estimate minus the value that it is compared with (not_less: minus -margin), on the scale of the
    test. `p` is of the claim's own test: two-sided, or TOST for "equal". `p_against` is of the second test: that the
    effect is smaller than the paper's own (greater, less), or lies beyond the margin (equal). `holds_none` says whether
    no difference at all is possible, which a threshold leaves open.
    """

    direction: str
    effect: float
    p: float
    p_against: float = NAN
    holds_none: bool = True

    @property
    def shown(self) -> bool:
        """Whether the claim's own test says so, on either side."""
        return self.p < ALPHA and self.effect != 0

    @property
    def right(self) -> bool:
        """Whether the estimate lies on the claim's side."""
        return self.effect < 0 if self.direction == "less" else self.effect > 0

    @property
    def small(self) -> bool:
        """Whether there is no effect of the paper's size, and perhaps none."""
        return not self.shown and self.p_against < ALPHA and self.holds_none


class Adjusted(NamedTuple):
    """Both p of a claim after Holm, the levels at which Holm's method makes its tests, and its family's claims."""

    p: float = NAN
    p_against: float = NAN
    level: float = NAN
    level_against: float = NAN
    claims: int = 0


class Rule(NamedTuple):
    """A line of the decision table: for claims of this kind, in this case, this verdict."""

    kind: str
    case: str
    verdict: str
    holds: Callable[[Evidence], bool]


KINDS = {"greater": "greater or less", "less": "greater or less", "not_less": "not less", "equal": "equal"}
DIRECTED, NOT_LESS, EQUAL = "greater or less", "not less", "equal"
RULES = (
    Rule(DIRECTED, "interval on the claim's side", REPRODUCED, lambda e: e.shown and e.right),
    Rule(DIRECTED, "interval on the other side", CONTRADICTED, lambda e: e.shown and not e.right),
    Rule(DIRECTED, "interval holds zero and excludes the paper's effect", ABSENT, lambda e: e.small),
    Rule(DIRECTED, "interval holds zero and the paper's effect", INCONCLUSIVE, lambda e: not (e.shown or e.small)),
    Rule(NOT_LESS, "interval above minus the margin", REPRODUCED, lambda e: e.shown and e.right),
    Rule(NOT_LESS, "interval below minus the margin", CONTRADICTED, lambda e: e.shown and not e.right),
    Rule(NOT_LESS, "interval holds minus the margin", INCONCLUSIVE, lambda e: not e.shown),
    Rule(EQUAL, "TOST passes: inside the margin", REPRODUCED, lambda e: e.p < ALPHA),
    Rule(EQUAL, "interval outside the margin", CONTRADICTED, lambda e: not e.p < ALPHA and e.p_against < ALPHA),
    Rule(EQUAL, "neither", INCONCLUSIVE, lambda e: not (e.p < ALPHA or e.p_against < ALPHA)),
)  # fmt: skip
"""The decision table for measured claims."""
VERDICTS = (*DECIDED, INCONCLUSIVE, HIDDEN, UNMEASURED)
"""Every verdict once, from the best to the one that another run can change."""
OTHERS = (
    ("a gate fails: the instrument lacks what the claim needs", HIDDEN),
    ('the ledger\'s scale is a reason, not "laptop" or "gpu"', HIDDEN),
    ("numbers, questions or seeds are missing", UNMEASURED),
)
"""The lines before the table, in their order: then nothing is read."""


def counted(words: Iterable[str]) -> str:
    """Verdicts with how many there are of each.

    >>> counted(["contradicted", "reproduced", "reproduced"])
    '2 reproduced, 1 contradicted'
    """
    counts = Counter(words)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)


def verdict(evidence: Evidence | None, *, scale: str = LAPTOP, gate: bool = True) -> str:
    """The verdict of a claim, by the one line of the decision table that holds:

    ================  ============================================================  ====================
    claim             case                                                          verdict
    ================  ============================================================  ====================
    any               a gate fails: the instrument lacks what the claim needs       cannot be shown here
    any               the ledger's scale is a reason, not "laptop" or "gpu"         cannot be shown here
    any               numbers, questions or seeds are missing                       not measured
    greater or less   interval on the claim's side                                  reproduced
    greater or less   interval on the other side                                    contradicted
    greater or less   interval holds zero and excludes the paper's effect           no such effect
    greater or less   interval holds zero and the paper's effect                    inconclusive
    not less          interval above minus the margin                               reproduced
    not less          interval below minus the margin                               contradicted
    not less          interval holds minus the margin                               inconclusive
    equal             TOST passes: inside the margin                                reproduced
    equal             interval outside the margin                                   contradicted
    equal             neither                                                       inconclusive
    ================  ============================================================  ====================

    "Interval" is the one that decides (`deciding_level`): widened for all tests of the table or figure of the paper, so
    that it excludes a value exactly where p < 0.05 after Holm. "Zero" is the value that the claim names, 1 x the
    threshold for a ratio; where there is a threshold, "no such effect" asks that the plain 95 % interval holds no
    difference, too. Where the paper prints no number on the same scale, the claim's margin stands in the place of its
    effect.

    >>> verdict(Evidence("greater", 0.3, 0.01)), verdict(Evidence("less", 0.3, 0.2, 0.001))
    ('reproduced', 'no such effect')
    """
    if scale not in MEASURABLE or not gate:
        return HIDDEN
    if evidence is None:
        return UNMEASURED
    (found,) = (rule.verdict for rule in RULES if rule.kind == KINDS[evidence.direction] and rule.holds(evidence))
    return found


def deciding_level(direction: str, word: str, own: float, against: float) -> float:
    """The level of the interval that shows a verdict, from those at which Holm's method makes a claim's two tests.

    *Reproduced* and *contradicted* follow from the claim's own test, *no such effect* and an equality's *contradicted*
    from the test against it, *inconclusive* from both: then the wider interval shows it. TOST at a level is an interval
    of twice that level inside the margin. NaN where no verdict reads the numbers.

    >>> deciding_level("greater", REPRODUCED, 0.01, 0.005), deciding_level("equal", REPRODUCED, 0.01, 0.005)
    (0.01, 0.02)
    """
    own = 2 * own if direction == "equal" else own
    if word == INCONCLUSIVE:
        return min(own, against) if against == against else own
    if word == ABSENT or (word, direction) == (CONTRADICTED, "equal"):
        return against
    return own if word in DECIDED else NAN


def decision_table() -> list[dict[str, str]]:
    """The lines of the decision table as rows, to be printed."""
    before = [{"claim": "any", "case": case, "verdict": name} for case, name in OTHERS]
    return [*before, *({"claim": rule.kind, "case": rule.case, "verdict": rule.verdict} for rule in RULES)]
