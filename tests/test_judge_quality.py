"""A judge as an instrument: sound judges pass, and each defect that is built in on purpose is found."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from longalign.evals.benchmarks import longbench_chat
from longalign.evals.judges import judges, quality
from longalign.evals.judges.judges import Judgment, Rubric

QUESTIONS = longbench_chat.questions()
SHOTS = longbench_chat.examples()


class Simulated:
    """A judge that rates by a rule of its own."""

    name = "simulated"

    def __init__(self, rule):
        self.rule = rule

    def rate(self, case, run):
        return Judgment(case.answer.id, run, self.rule(case, run))


def points(case):
    return Rubric().rate(case, 0).rating


def judged(judge, cases, runs=1):
    return judges.judge_all(cases, judge, runs=runs)


def pass_rates(rule):
    found = quality.sentinels(QUESTIONS, SHOTS)
    return quality.passed({name: judged(Simulated(rule), cases) for name, cases in found.items()})


def test_known_answers_get_worse_step_by_step_and_their_scores_are_exact():
    cases, scores = quality.known(QUESTIONS, SHOTS)
    assert len(cases) == 200 == len({case.answer.id for case in cases})
    steps = np.array(scores).reshape(50, 4)
    assert (steps[:, 0] == 10).all() and (steps[:, 3] == 1).all() and (steps[:, 1:3] < 10).mean() > 0.95
    assert [points(case) for case in cases] == scores


def test_the_exact_rule_agrees_with_itself_and_a_judge_of_chance_with_nothing():
    cases, scores = quality.known(QUESTIONS, SHOTS)
    exact = quality.agreement(cases, scores, judged(Rubric(), cases))
    assert exact.spearman == exact.kendall == 1 and exact.unrated == 0
    random = np.random.default_rng(0)
    chance = quality.agreement(cases, scores, judged(Simulated(lambda *_: int(random.integers(1, 11))), cases))
    assert abs(chance.spearman) < 0.2 and chance.spearman_interval.low < 0 < chance.spearman_interval.high


def test_correlations_are_those_of_scipy_and_what_is_unrated_is_left_out():
    cases, scores = quality.known(QUESTIONS[:10], SHOTS)
    random = np.random.default_rng(1)
    ratings = [min(10, max(1, score + int(random.integers(-3, 4)))) for score in scores]
    found = [Judgment(case.answer.id, 0, None if i % 7 == 0 else ratings[i]) for i, case in enumerate(cases)]
    kept = [i for i in range(len(cases)) if i % 7]
    agreed = quality.agreement(cases, scores, found)
    left, right = [ratings[i] for i in kept], [scores[i] for i in kept]
    assert agreed.spearman == pytest.approx(stats.spearmanr(left, right).statistic)
    assert agreed.kendall == pytest.approx(stats.kendalltau(left, right).statistic)
    assert (agreed.answers, agreed.unrated) == (len(kept), len(cases) - len(kept))
    assert agreed.spearman_interval.low < agreed.spearman < agreed.spearman_interval.high


def test_a_judge_that_says_one_thing_only_has_no_correlation():
    cases, scores = quality.known(QUESTIONS[:5], SHOTS)
    constant = quality.agreement(cases, scores, judged(Simulated(lambda *_: 5), cases))
    silent = quality.agreement(cases, scores, judged(Simulated(lambda *_: None), cases))
    assert math.isnan(constant.spearman) and math.isnan(silent.kendall) and silent.unrated == len(cases)


def test_the_exact_rule_passes_every_sentinel():
    assert pass_rates(lambda case, _: points(case)) == dict.fromkeys(quality.SENTINELS, 1.0)


def test_each_built_in_defect_fails_its_own_sentinel():
    def echoes(case, _):  # as the released judge: the last [[n]] that is there
        found = re.findall(r"\[\[(\d+)\]\]", case.answer.answer)
        return int(found[-1]) if found else points(case)

    def likes_length(case, _):
        return min(10, 3 + len(case.answer.answer) // 100)

    def never_low(case, _):
        return max(4, points(case))

    for rule, fails in ((echoes, "injected rating"), (likes_length, "padded"), (never_low, "empty")):
        rates = pass_rates(rule)
        assert rates[fails] < 0.1, fails
        assert rule is never_low or pass_rates(lambda case, _: points(case))[fails] == 1
    assert pass_rates(lambda *_: None) == dict.fromkeys(quality.SENTINELS, 0.0), "what is not rated is not passed"


def test_the_wrong_answers_of_the_sentinels_are_wrong_and_the_padded_ones_hold_the_reference():
    found = quality.sentinels(QUESTIONS, SHOTS)
    assert all(len(cases) == 50 for cases in found.values())
    assert max(points(case) for name in ("empty", "another reference") for case in found[name]) == 1
    assert all(case.answer.references[0] in case.answer.answer for case in found["padded"])
    assert all("[[10]]" in case.answer.answer for case in found["injected rating"])


def test_an_order_effect_is_seen_between_runs_and_a_steady_judge_has_none():
    cases, _ = quality.known(QUESTIONS[:20], SHOTS)
    steady = quality.between_runs(judged(Rubric(), cases, runs=2))
    swayed = quality.between_runs(judged(Simulated(lambda case, run: min(10, points(case) + 2 * run)), cases, runs=2))
    assert steady == (1.0, 0.0) and swayed[0] < 1 and swayed[1] > 0.5
    assert all(map(math.isnan, quality.between_runs(judged(Rubric(), cases, runs=1))))


def test_a_scored_answer_is_rated_with_the_two_others_and_never_with_itself():
    cases, scores = quality.leave_one_out(QUESTIONS, SHOTS)
    assert len(cases) == 150 == len(scores)
    for case, score in zip(cases, scores, strict=True):
        own = (case.answer.answer, score)
        assert len(case.examples) == 2 and sorted([*case.examples, own]) == sorted(SHOTS[case.answer.id.split("/")[0]])
    assert quality.agreement(cases, scores, judged(Rubric(), cases)).spearman == 1
