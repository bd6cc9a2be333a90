"""Statistics: hand-computed numbers, slow oracles, and intervals that hold the truth as often as they say."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.evals.intervals import (
    contrast,
    has_spread,
    holm,
    item_bootstrap,
    item_means,
    percentile_interval,
    t_interval,
)  # fmt: skip

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=7)
scores = st.lists(st.floats(-5, 5), min_size=2, max_size=8).map(np.array).filter(lambda values: np.ptp(values) > 0.01)


def test_the_t_interval_is_mean_and_standard_error_times_the_quantile():
    values = np.array([2.0, 4.0, 3.0])
    half = 4.302652729911275 * 1 / math.sqrt(3)  # t(0.975, 2 degrees of freedom) from a table
    assert t_interval(values) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0], [0.1 + 0.2, 0.3], [0.083333, 0.083334]], ids=str)
def test_one_seed_or_seeds_without_spread_have_no_t_interval(values):
    values = np.array(values)
    assert not has_spread(values)
    assert all(math.isnan(end) for end in t_interval(values))


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # x4, x3, x2 = 0.06, x1 = 0.04 lifted to 0.06
        ([0.04, 0.01, 0.03, 0.005], [0.06, 0.03, 0.06, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_gives_the_numbers_computed_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(adjusted)


@given(probabilities)
def test_holm_is_the_closed_test_of_all_bonferroni_tests(p):
    """Oracle: a hypothesis is rejected when every intersection that holds it is; Bonferroni tests an intersection."""
    families = [set(f) for n in range(1, len(p) + 1) for f in itertools.combinations(range(len(p)), n)]
    slow = [min(1.0, max(len(f) * min(p[j] for j in f) for f in families if i in f)) for i in range(len(p))]
    assert holm(p) == pytest.approx(slow)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3))
def test_where_one_of_each_pair_can_be_true_holm_is_the_closed_test_or_stricter(pairs):
    """Oracle: closed testing over the sets that hold at most one hypothesis of each pair."""
    p = [value for pair in pairs for value in pair]
    families = [set(f) for n in range(1, len(pairs) + 1) for f in itertools.combinations(range(len(p)), n)
                if len({i // 2 for i in f}) == n]  # fmt: skip
    slow = np.array([min(1.0, max(len(f) * min(p[j] for j in f) for f in families if i in f)) for i in range(len(p))])
    found = holm(p, most=len(pairs))
    assert (found >= slow - 1e-12).all() and (found <= holm(p) + 1e-12).all()


@given(probabilities, st.randoms())
def test_holm_does_not_depend_on_the_order(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    assert holm([p[i] for i in order]) == pytest.approx(holm(p)[order])


def test_a_test_that_was_not_made_does_not_count_in_the_family():
    assert holm([0.03, float("nan"), 0.02]) == pytest.approx([0.04, float("nan"), 0.04], nan_ok=True)


def test_the_contrast_of_ratios_is_a_difference_of_logarithms():
    values = np.array([[8.0, 6.0], [2.0, 3.0]])
    assert contrast(values, [1, -1], log=True) == pytest.approx([math.log(4), math.log(2)])
    assert contrast(values, [1, -0.5]) == pytest.approx([7.0, 4.5])


def test_a_ratio_of_nothing_and_weights_of_other_arms_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        contrast(np.array([[1.0], [0.0]]), [1, -1], log=True)
    with pytest.raises(ValueError, match="one weight"):
        contrast(np.array([[1.0], [0.0]]), [1, -1, 0])


def test_a_stratum_counts_once_however_many_items_it_has():
    assert item_means(np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([7, 7, 7, 9])) == pytest.approx([0.5])


def test_the_bootstrap_draws_are_those_of_a_loop_over_resampled_items():
    """Oracle: mean and spread of a plain loop that draws item numbers; n items of n vary by (n - 1) / n too little."""
    rng = np.random.default_rng(5)
    values = rng.random((2, 3, 30))
    differences = (values[0] - values[1]).mean(axis=0)

    def resampled(part):
        drawn = rng.choice(part, size=len(part)).mean()
        return part.mean() + (drawn - part.mean()) * math.sqrt(len(part) / (len(part) - 1))

    slow = [resampled(differences) for _ in range(4000)]
    fast = item_bootstrap(values, [1, -1], draws=4000)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.005)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.05)


def test_the_spread_of_the_draws_is_the_standard_error_even_of_three_items():
    values = np.random.default_rng(2).random((1, 1, 3))
    draws = item_bootstrap(values, [1], draws=20_000)
    assert draws.std() == pytest.approx(math.sqrt(values.var(ddof=1) / 3), rel=0.02)


def test_arms_that_agree_on_every_item_have_no_interval_width():
    same = np.random.default_rng(1).random((1, 2, 40)).repeat(2, axis=0)
    draws = item_bootstrap(same, [1, -1], draws=500)
    assert percentile_interval(draws) == pytest.approx((0, 0), abs=1e-12)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    values = np.random.default_rng(1).random((2, 1, 20))
    first, again, other = (item_bootstrap(values, [1, -1], draws=50, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_the_paired_bootstrap_interval_holds_the_truth_about_as_often_as_it_says():
    """300 data sets with a true difference of 0.2, items far more different than arms: unpaired ends would be wide."""
    rng, held, width = np.random.default_rng(0), 0, []
    for _ in range(300):
        difficulty = rng.normal(0, 1, 60)
        values = np.stack([difficulty + 0.2 + rng.normal(0, 0.3, 60), difficulty + rng.normal(0, 0.3, 60)])[:, None]
        low, high = percentile_interval(item_bootstrap(values, [1, -1], draws=400))
        held += low <= 0.2 <= high
        width.append(high - low)
    assert 0.90 <= held / 300 <= 0.98
    unpaired = 2 * 1.96 * math.sqrt(2 * (1 + 0.09) / 60)
    assert max(width) < unpaired / 2
