"""Verdicts: every line of the decision table is reached, and exactly one holds for any evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.report.verdicts import HIDDEN, KINDS, RULES, UNMEASURED, VERDICTS, Evidence, decision_table, verdict

SURE, UNSURE, NONE = 0.001, 0.4, float("nan")
p_values = st.one_of(st.floats(0, 1), st.just(NONE))
evidence = st.builds(
    Evidence, direction=st.sampled_from([*KINDS]), effect=st.floats(-1, 1), p=p_values, p_against=p_values,
    holds_none=st.booleans(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("effect", "p", "p_against", "holds_none", "expected"),
    [
        (0.2, SURE, UNSURE, True, "reproduced"),
        (0.2, SURE, SURE, True, "reproduced"),  # an effect, and a smaller one than the paper's
        (-0.2, SURE, SURE, True, "contradicted"),
        (0.01, UNSURE, SURE, True, "no such effect"),
        (-0.2, UNSURE, SURE, True, "no such effect"),
        (0.01, UNSURE, SURE, False, "inconclusive"),  # less than the threshold may still be some
        (0.2, UNSURE, UNSURE, True, "inconclusive"),
        (-0.2, UNSURE, NONE, True, "inconclusive"),  # neither the paper's effect nor a margin to exclude
        (0.2, NONE, NONE, True, "inconclusive"),  # no interval
        (0.0, SURE, UNSURE, True, "inconclusive"),
    ],
)
def test_a_direction_is_judged_by_its_own_test_and_by_what_the_interval_excludes(
    effect, p, p_against, holds_none, expected
):  # fmt: skip
    assert verdict(Evidence("greater", effect, p, p_against, holds_none)) == expected
    assert verdict(Evidence("less", -effect, p, p_against, holds_none)) == expected


@pytest.mark.parametrize(
    ("above_the_margin", "p", "expected"),
    [(0.03, SURE, "reproduced"), (0.2, SURE, "reproduced"), (-0.03, SURE, "contradicted"),
     (0.03, UNSURE, "inconclusive"), (-0.03, UNSURE, "inconclusive"), (0.03, NONE, "inconclusive")],
)  # fmt: skip
def test_no_harm_is_judged_against_minus_the_margin_and_a_gain_is_no_harm(above_the_margin, p, expected):
    assert verdict(Evidence("not_less", above_the_margin, p)) == expected


@pytest.mark.parametrize(
    ("p", "p_against", "expected"),
    [(SURE, UNSURE, "reproduced"), (UNSURE, SURE, "contradicted"), (UNSURE, UNSURE, "inconclusive"),
     (NONE, NONE, "inconclusive")],
)  # fmt: skip
def test_equality_is_judged_by_tost_and_by_an_interval_outside_the_margin(p, p_against, expected):
    assert verdict(Evidence("equal", 0.02, p, p_against)) == expected


@pytest.mark.parametrize("p", [0.05, 0.0500001])
def test_p_of_5_percent_or_more_shows_nothing(p):
    assert verdict(Evidence("greater", 0.2, p)) == "inconclusive"
    assert verdict(Evidence("greater", 0.2, 0.0499999)) == "reproduced"


def test_what_is_not_measured_or_cannot_be_shown_says_so():
    assert verdict(None) == UNMEASURED == "not measured"
    assert verdict(None, scale="needs GPT-4") == HIDDEN == "cannot be shown here"


@given(evidence)
def test_a_gate_that_fails_hides_whatever_the_numbers_say(found):
    assert verdict(found, gate=False) == verdict(None, gate=False) == "cannot be shown here"


@given(evidence)
def test_exactly_one_line_of_the_table_holds_for_any_evidence(found):
    kind = KINDS[found.direction]
    assert [rule.verdict for rule in RULES if rule.kind == kind and rule.holds(found)] == [verdict(found)]


def test_every_kind_of_claim_can_be_reproduced_contradicted_or_inconclusive_and_a_direction_absent():
    for kind in set(KINDS.values()):
        absent = ["no such effect"] if kind == "greater or less" else []
        words = [rule.verdict for rule in RULES if rule.kind == kind]
        assert words == ["reproduced", "contradicted", *absent, "inconclusive"]
    assert len(VERDICTS) == 6, "five words, and one for what was not measured"


def test_the_table_in_words_is_the_table_that_decides():
    words = " ".join(verdict.__doc__.split())
    for line in decision_table():
        assert " ".join(line.values()) in words
