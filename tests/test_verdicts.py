"""Verdicts: every line of the decision table is reached, and exactly one holds for any evidence."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.report.verdicts import RULES, TOO_SMALL, UNMEASURED, Evidence, decision_table, verdict

SURE, UNSURE, NONE = 0.001, 0.4, float("nan")

evidence = st.builds(
    Evidence,
    direction=st.sampled_from(["greater", "less", "equal"]),
    effect=st.floats(-1, 1),
    p=st.one_of(st.floats(0, 1), st.just(NONE)),
    margin=st.floats(0.01, 0.5),
    p_difference=st.one_of(st.floats(0, 1), st.just(NONE)),
)


@pytest.mark.parametrize(
    ("direction", "effect", "p", "expected"),
    [
        ("greater", 0.2, SURE, "reproduced"),
        ("greater", 0.2, UNSURE, "consistent"),
        ("greater", 0.2, NONE, "consistent"),
        ("greater", 0.0, UNSURE, "not reproduced"),
        ("greater", 1e-6, NONE, "not reproduced"),  # 1/3 and 0.333333: no difference
        ("greater", -0.2, UNSURE, "not reproduced"),
        ("greater", -0.2, NONE, "not reproduced"),
        ("greater", -0.2, SURE, "contradicted"),
        ("less", -0.2, SURE, "reproduced"),
        ("less", -0.2, UNSURE, "consistent"),
        ("less", 0.0, UNSURE, "not reproduced"),
        ("less", -1e-6, NONE, "not reproduced"),
        ("less", 0.2, UNSURE, "not reproduced"),
        ("less", 0.2, SURE, "contradicted"),
    ],
)
def test_a_direction_is_judged_by_sign_and_interval(direction, effect, p, expected):
    assert verdict(Evidence(direction, effect, p)) == expected


@pytest.mark.parametrize(
    ("effect", "p", "p_difference", "expected"),
    [
        (0.01, SURE, UNSURE, "reproduced"),
        (0.01, SURE, SURE, "reproduced"),  # a difference too small to matter
        (0.04, UNSURE, UNSURE, "consistent"),
        (-0.04, UNSURE, SURE, "consistent"),
        (0.04, NONE, NONE, "consistent"),
        (0.8 - 0.75, UNSURE, UNSURE, "consistent"),  # 0.05 and a rounding error
        (0.09, UNSURE, UNSURE, "not reproduced"),
        (-0.09, UNSURE, UNSURE, "not reproduced"),
        (-0.09, NONE, NONE, "not reproduced"),
        (0.09, UNSURE, SURE, "contradicted"),
        (-0.09, UNSURE, SURE, "contradicted"),
    ],
)
def test_equality_is_judged_by_tost_margin_and_difference(effect, p, p_difference, expected):
    assert verdict(Evidence("equal", effect, p, margin=0.05, p_difference=p_difference)) == expected


@pytest.mark.parametrize("p", [0.05, 0.0500001])
def test_p_of_5_percent_or_more_shows_nothing(p):
    assert verdict(Evidence("greater", 0.2, p)) == "consistent"
    assert verdict(Evidence("greater", 0.2, 0.0499999)) == "reproduced"


def test_what_is_not_measured_or_cannot_be_shown_says_so():
    assert verdict(None) == UNMEASURED == "not measured"
    assert verdict(None, scale="needs GPT-4") == TOO_SMALL == "cannot be shown at this scale"


@given(evidence, st.integers(0, 9))
def test_on_a_gpu_fewer_than_three_seeds_are_a_pilot_whatever_they_say(found, seeds):
    assert verdict(found, scale="gpu", seeds=seeds) == ("pilot" if seeds < 3 else verdict(found))
    assert verdict(found, seeds=seeds) == verdict(found), "the laptop's verdicts are provisional instead"
    assert verdict(None, scale="gpu", seeds=0) == "not measured"


@given(evidence)
def test_exactly_one_line_of_the_table_holds_for_any_evidence(found):
    kind = "equal" if found.direction == "equal" else "greater or less"
    assert [rule.verdict for rule in RULES if rule.kind == kind and rule.holds(found)] == [verdict(found)]


@given(evidence)
def test_less_is_greater_in_a_mirror(found):
    mirrored = {"greater": "less", "less": "greater", "equal": "equal"}[found.direction]
    assert verdict(found) == verdict(found._replace(direction=mirrored, effect=-found.effect))


def test_every_kind_of_claim_can_get_each_of_the_four_verdicts():
    found = {(rule.kind, rule.verdict) for rule in RULES}
    four = ("reproduced", "consistent", "not reproduced", "contradicted")
    assert found == set(itertools.product(("greater or less", "equal"), four))


def test_the_table_in_words_is_the_table_that_decides():
    words = " ".join(verdict.__doc__.split())
    for line in decision_table():
        assert " ".join(line.values()) in words
