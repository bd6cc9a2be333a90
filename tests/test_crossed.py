"""Chance of seeds, questions and bases: sums by hand, and simulations that hold each interval and each error rate."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from longalign.evals import crossed
from longalign.evals.intervals import holm

STRATA = {"five tasks of ten": np.repeat(np.arange(5), 10), "forty of three": np.repeat(np.arange(40), 3),
          "one of 25, one of 5": np.repeat([0, 1], [25, 5])}  # fmt: skip
SPREADS = ((0, 0, 1), (0, 1, 1), (0.02, 0.1, 1), (0.1, 1, 1), (0.05, 0.3, 1), (1, 0, 0.1), (1, 1, 1))
"""Variances of seeds, of questions, and of what is left."""


def tables(rng, count, seeds, strata, spread):
    """Scores [count, seeds, items] with mean 0."""
    of_seeds, of_items, rest = np.sqrt(spread)
    shape = count, seeds, strata.size
    scores = of_seeds * rng.standard_normal((count, seeds, 1)) + of_items * rng.standard_normal((count, 1, strata.size))
    return scores + rest * rng.standard_normal(shape)


def satterthwaite(mean):
    """Half of the 95 % interval by the usual approximation, for the same parts."""
    variance = sum(part.variance for part in mean.parts)
    df = variance**2 / sum(part.variance**2 / part.df for part in mean.parts)
    return stats.t.ppf(0.975, df) * np.sqrt(variance)


def test_the_variance_is_the_sum_of_mean_squares_by_hand():
    """c = [[1, 2, 6], [2, 5, 5], [3, 5, 7]]: means of seeds 3, 4, 5, of questions 2, 4, 6, of all 4; the rest is
    0, -1, 1 / 0, 1, -1 / 0, 0, 0, so MS are 3 x 1, 3 x 4 and 4 / 4 = 1: (3 + 12 - 1) / 9."""
    mean = crossed.mean(np.array([[1.0, 2, 6], [2, 5, 5], [3, 5, 7]]))
    seeds, questions = mean.parts
    assert mean.estimate == pytest.approx(4) and seeds.variance + questions.variance == pytest.approx(14 / 9)
    assert seeds.df == questions.df == 2
    assert mean.interval() == pytest.approx((4 - 4.302653 * math.sqrt(14) / 3, 4 + 4.302653 * math.sqrt(14) / 3))


def test_strata_count_once_and_give_their_questions_variance_with_their_own_numbers():
    rng = np.random.default_rng(0)
    values, strata = rng.normal(size=(4, 12)), np.repeat([0, 1], [9, 3])
    parts = [crossed.mean(values[..., strata == s]).parts[1].variance for s in (0, 1)]
    mean = crossed.mean(values + 5 * strata, strata)
    assert mean.estimate == pytest.approx(np.mean([(values[..., :9]).mean(), (values[..., 9:] + 5).mean()]))
    assert mean.parts[1].variance <= sum(parts) / 4 + 1e-12  # the negative part of one may be the other's


def test_without_questions_it_is_students_t():
    values = np.array([2.0, 4.0, 3.0])
    mean = crossed.mean(values[:, None])
    found = stats.ttest_1samp(values, 1)
    assert mean.p_value(1) == pytest.approx(found.pvalue)
    assert mean.interval() == pytest.approx(tuple(found.confidence_interval()))
    assert mean.p_value(1, "greater") + mean.p_value(1, "less") == pytest.approx(1)


@pytest.mark.parametrize("margin", [1.5, 3.0])
def test_two_one_sided_tests_pass_when_the_90_percent_interval_lies_within_the_margin(margin):
    mean = crossed.mean(np.array([0.1, 0.9, -0.6, 0.4])[:, None])
    inside = abs(mean.estimate) + mean.half(0.1) < margin
    assert (mean.p_within(margin) < 0.05) == inside
    with pytest.raises(ValueError, match="margin"):
        mean.p_within(0)


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0], [0.083333, 0.083334]], ids=str)
def test_one_run_or_runs_without_spread_carry_no_interval(values):
    mean = crossed.mean(np.array(values)[:, None])
    numbers = [*mean.interval(), mean.p_value(), mean.p_within(1), mean.detectable()]
    assert all(math.isnan(number) for number in numbers)


def test_a_calibrated_spread_stands_in_the_place_of_the_runs_own_also_for_one_run():
    one, three = (crossed.mean(np.zeros((n, 1)), spread=crossed.Spread(0.3, 20)) for n in (1, 3))
    assert one.half() == pytest.approx(stats.t.ppf(0.975, 20) * 0.3)
    assert three.half() == pytest.approx(one.half() / math.sqrt(3))


def test_the_effect_that_is_called_detectable_is_seen_in_80_percent_of_runs():
    rng, values = np.random.default_rng(3), np.array([1.0, -1.0, 0.5, -0.2, 0.3, -0.6, 0.1, -0.1])
    effect = crossed.mean(values[:, None]).detectable(0.01)
    runs = rng.normal(effect, values.std(ddof=1), (20_000, 8, 1))
    assert (crossed.mean(runs).p_value() < 0.01).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("seeds", [3, *(pytest.param(more, marks=pytest.mark.slow) for more in (8, 32))])
def test_the_interval_holds_the_truth_in_at_least_94_percent_of_tables(seeds, capsys):
    rng, shares, usual = np.random.default_rng(seeds), [], []
    for strata, spread in itertools.product(STRATA.values(), SPREADS):
        count = 4000 if seeds < 32 else 1500
        mean = crossed.mean(tables(rng, count, seeds, strata, spread), strata)
        shares.append((np.abs(mean.estimate) <= mean.half()).mean())
        usual.append((np.abs(mean.estimate) <= satterthwaite(mean)).mean())
    with capsys.disabled():
        print(f"\n{seeds} seeds: coverage {min(shares):.3f} to {max(shares):.3f}; Satterthwaite from {min(usual):.3f}")
    assert min(shares) >= 0.94


def test_seeds_that_lie_closely_together_by_luck_make_no_interval_too_short():
    """Where seeds vary less than single answers alone would make them, the interval without a floor is wrong often."""
    strata = STRATA["five tasks of ten"]
    mean = crossed.mean(tables(np.random.default_rng(4), 12_000, 8, strata, (0, 0, 1)), strata)
    lucky = mean.parts[0].variance < 0.4 * mean.floor.variance
    held, without = (np.abs(mean.estimate) <= of.half() for of in (mean, crossed.Mean(mean.estimate, mean.parts)))
    assert without[lucky].mean() < 0.9 and held[lucky].mean() >= 0.94
    assert (mean.detectable() >= np.sqrt(mean.floor.variance) * 2.8).all()


def test_it_holds_for_questions_that_are_right_or_wrong_and_for_ratios():
    """Two arms of 50 questions, right with a probability that depends on seed and question; truth from many draws."""
    rng, held, count, seeds = np.random.default_rng(1), [], 1500, 3
    easy, shift = rng.normal(0.5, 1.5, (count, 1, 50)), rng.normal(0, 0.2, (2, count, seeds, 1))
    own = rng.normal(0, 0.7, (2, count, 1, 50))
    odds = easy + own + shift + np.array([0.4, 0.0])[:, None, None, None]
    scores = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)
    grid = rng.normal(0.5, 1, 400_000) * 1.5 + 0.5 - 0.75 + rng.normal(0, math.hypot(0.7, 0.2), 400_000)
    truth = [(1 / (1 + np.exp(-grid - plus))).mean() for plus in (0.4, 0.0)]
    difference = crossed.mean(scores[0] - scores[1])
    held.append((np.abs(difference.estimate - (truth[0] - truth[1])) <= difference.half()).mean())
    ratio = crossed.mean(crossed.linear_ratio(scores.mean(axis=-1), scores, [1, -1]))
    held.append((np.abs(ratio.estimate - math.log(truth[0] / truth[1])) <= ratio.half()).mean())
    assert min(held) >= 0.94, held


@pytest.mark.parametrize("seeds", [8, 32])
def test_seeds_of_one_base_are_one_draw_and_the_interval_holds_the_truth(seeds):
    """Three bases, which seeds take in turn; as if each seed had its own, the interval held it in 84 % and 55 %."""
    rng, count, bases = np.random.default_rng(2), 4000, np.arange(seeds) % 3
    for of_bases in (0.0, 0.3, 1.0):
        drawn = of_bases * rng.standard_normal((count, 3))[:, bases] + rng.standard_normal((count, seeds))
        mean = crossed.mean(drawn[..., None], bases=bases)
        assert (np.abs(mean.estimate) <= mean.half()).mean() >= 0.94
    ignored = crossed.mean(drawn[..., None])
    assert (np.abs(ignored.estimate) <= ignored.half()).mean() < 0.86


def test_the_part_of_bases_is_that_of_their_means_by_hand():
    """Bases 0, 1, 0, 1 of 1, 4, 3, 6: their means 2 and 5 lie 1.5 from 3.5, so 2 x 1.5^2 x 2 / 1, over 4 seeds."""
    mean = crossed.mean(np.array([1.0, 4, 3, 6])[:, None], bases=np.array([0, 1, 0, 1]))
    assert mean.parts[0].variance == pytest.approx(9 / 4) and mean.parts[0].df == 1
    assert not crossed.mean(np.array([1.0, 4, 3])[:, None], bases=np.zeros(3)).parts, "one base is one draw"


@pytest.mark.slow
@pytest.mark.parametrize("share_without", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("seeds", [3, 8])
def test_a_table_of_ten_claims_has_a_false_verdict_in_at_most_5_percent_of_runs(seeds, share_without, capsys):
    """Some claims have no effect (then "reproduced" and "contradicted" are false), the others the paper's own ("no such
    effect" and "contradicted" are), at a power at which such errors are likeliest."""
    rng, claims, paper, count, strata = np.random.default_rng(7), 10, 1.2, 1000, np.repeat([0, 1], 10)
    nothing = np.arange(claims) < share_without * claims
    scores = tables(rng, count * claims, seeds, strata, (0.1, 0.5, 1.0)).reshape(count, claims, seeds, -1)
    mean = crossed.mean(scores + np.where(nothing, 0, paper)[:, None, None], strata)
    smaller = np.where(mean.estimate < paper, mean.p_value(paper), 1.0)
    tests = np.stack([mean.p_value(), smaller], axis=-1).reshape(count, -1)
    adjusted = np.array([holm(row, most=claims) for row in tests]).reshape(count, claims, 2) < 0.05
    right, other = adjusted[..., 0] & (mean.estimate > 0), adjusted[..., 0] & (mean.estimate < 0)
    absent = ~adjusted[..., 0] & adjusted[..., 1]
    false = np.where(nothing, right | other, other | absent).any(axis=1).mean()
    reproduced = right[:, nothing].mean() if nothing.any() else 0.0
    with capsys.disabled():
        print(f"\n{seeds} seeds, {share_without:.0%} without effect: a false verdict in {false:.3f} of tables")
    assert false <= 0.05 and reproduced <= 0.025
