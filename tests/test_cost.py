"""The cost model against hand-worked waits, the formula's sources, and the order that the methods are known to have."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.experiments.operations import Pace, fit_pace, hold_out, prediction_error, step_seconds, step_work
from longalign.recipe.batching import Plan, Step, make_plan, plan_naive, plan_packing, plan_sorted
from longalign.recipe.cost import (
    LLAMA_2_7B,
    SequenceCost,
    fill_share,
    idle_share,
    micro_batch_costs,
)  # fmt: skip
from longalign.train.memory import ModelShape

PER_TOKEN = SequenceCost(per_token=1.0, per_pair=0.0)


def hand_made(method="naive", rows=1):
    """Rank 0 passes lengths 2 and 3, rank 1 passes 4 and a filler."""
    step = Step(((((0,),), ((2,),)), (((1,),), ())))
    return Plan(method, np.array([2, 4, 3]), np.array([1, 3, 2]), 9, 2, 2, rows, (step,))


def mixture(sequences):
    random = np.random.default_rng(0)
    long = random.integers(8192, 65537, sequences // 10)
    short = np.clip(random.lognormal(np.log(800), 1.0, sequences - len(long)), 1, 65536).astype(int)
    return np.concatenate([short, long])


def test_the_idle_share_of_a_hand_worked_plan():
    assert micro_batch_costs(hand_made(), PER_TOKEN).tolist() == [[[2.0, 3.0], [4.0, 0.0]]]
    assert idle_share(hand_made(), PER_TOKEN, barrier="step") == pytest.approx(1 / 10)
    assert idle_share(hand_made(), PER_TOKEN, barrier="micro_step") == pytest.approx(5 / 14)


def test_a_padded_row_costs_its_padded_length_and_a_pack_the_sum_over_its_sequences():
    cost = SequenceCost(per_token=10.0, per_pair=1.0)
    padded = plan_sorted([2, 4, 3], group_size=3, rows=3)
    packed = plan_packing([2, 4, 3], capacity=16)
    assert micro_batch_costs(padded, cost).item() == 3 * (10 * 4 + 4**2)
    assert micro_batch_costs(packed, cost).item() == 10 * 9 + 2**2 + 4**2 + 3**2
    assert micro_batch_costs(packed, cost).item() < cost([9]).item()  # attention over the whole pack would cost more


@given(
    lengths=st.lists(st.integers(1, 64), max_size=40), method=st.sampled_from(["naive", "sorted", "packing"]),
    ranks=st.integers(1, 4), accumulation=st.integers(1, 3),
)  # fmt: skip
def test_more_barriers_never_wait_less_and_the_share_is_below_one(lengths, method, ranks, accumulation):
    plan = make_plan(method, lengths, capacity=64, ranks=ranks, accumulation=accumulation)
    at_step, at_micro_step = (idle_share(plan, barrier=barrier) for barrier in ("step", "micro_step"))
    assert -1e-12 <= at_step <= at_micro_step + 1e-12 < 1.0
    assert 0 < fill_share(plan) <= 1
    if ranks == 1:
        assert at_micro_step == pytest.approx(0.0, abs=1e-12)


def test_an_empty_plan_is_never_idle_and_leaves_nothing_empty():
    for method in ("naive", "sorted", "packing"):
        assert idle_share(make_plan(method, [], capacity=8, ranks=2)) == 0.0
        assert fill_share(make_plan(method, [], capacity=8, ranks=2)) == 1.0


def test_an_unknown_barrier_is_refused():
    with pytest.raises(ValueError, match='barrier must be "step" or "micro_step"'):
        idle_share(hand_made(), barrier="epoch")


def test_the_default_cost_is_that_of_a_7b_llama():
    weights = LLAMA_2_7B.per_token / 6
    assert 6.5e9 < weights < 6.74e9  # 6.74e9 parameters with the input embedding, which does no arithmetic
    # PaLM's 12 x layers x heads x head size x length per token, one half of it causal
    assert LLAMA_2_7B.per_pair == 12 * 32 * 32 * 128 / 2


def test_grouped_query_attention_costs_fewer_weights_and_the_same_pairs():
    llama = ModelShape(4096, 32, 11008, heads=32, key_value_heads=32, head_size=128, vocab_size=32000)
    grouped = replace(llama, key_value_heads=8).cost
    assert llama.cost == LLAMA_2_7B
    assert LLAMA_2_7B.per_token - grouped.per_token == 6 * 32 * 4096 * 2 * (4096 - 1024)
    assert grouped.per_pair == LLAMA_2_7B.per_pair


def test_sorted_waits_least_naive_most_on_the_long_tailed_mixture():
    lengths = mixture(3000)
    shares = {
        "sorted": idle_share(plan_sorted(lengths, ranks=8, accumulation=12)),
        "best fit": idle_share(plan_packing(lengths, capacity=65536, algorithm="best_fit", ranks=8)),
        "next fit": idle_share(plan_packing(lengths, capacity=65536, ranks=8)),
        "naive": idle_share(plan_naive(lengths, ranks=8, accumulation=12)),
    }
    assert list(shares) == sorted(shares, key=shares.get)
    assert shares["sorted"] < 0.05 and shares["naive"] > 0.5


TRUE_PACE = Pace(per_position=4e-5, per_pair=8e-8, per_micro_batch=5e-3, per_step=2e-2)


def measured_steps(pace=TRUE_PACE, noise=0.0):
    """Work and constructed seconds of all steps of the three methods, in one process."""
    lengths = np.minimum(mixture(300) // 64 + 2, 1024)
    plans = [
        make_plan("naive", lengths, rows=4, accumulation=3),
        make_plan("sorted", lengths, rows=4, accumulation=3),
        make_plan("packing", lengths, capacity=1024, accumulation=2),
        make_plan("packing", lengths, capacity=1024, accumulation=3),
    ]
    work = np.concatenate([step_work(plan)[:, 0] for plan in plans])
    return work, pace(work) * (1 + noise * np.random.default_rng(0).standard_normal(len(work)))


def relative_error(found, true=TRUE_PACE):
    return np.abs(np.array(astuple(found)) / np.array(astuple(true)) - 1).max()


def test_work_is_counted_by_hand_for_padded_rows_packs_and_fillers():
    assert step_work(hand_made()).tolist() == [[[5.0, 13.0, 2.0, 1.0], [4.0, 16.0, 2.0, 1.0]]]
    assert step_work(plan_sorted([2, 4, 3], group_size=3, rows=3)).tolist() == [[[12.0, 48.0, 1.0, 1.0]]]
    assert step_work(plan_packing([2, 4, 3], capacity=9)).tolist() == [[[9.0, 29.0, 1.0, 1.0]]]


def test_the_fit_recovers_the_pace_that_the_seconds_were_made_from():
    assert relative_error(fit_pace(*measured_steps())) < 1e-6


def test_the_fit_does_not_recover_it_when_two_columns_are_swapped():
    work, seconds = measured_steps()
    for columns in ([1, 0, 2, 3], [2, 1, 0, 3], [0, 2, 1, 3]):
        assert relative_error(fit_pace(work[:, columns], seconds)) > 0.5


def test_on_steps_held_out_the_error_is_that_of_the_noise():
    work, seconds = measured_steps(noise=0.03)
    held_out = np.arange(len(seconds)) % 5 == 4
    pace = fit_pace(work[~held_out], seconds[~held_out])
    assert np.abs(pace(work[held_out]) / seconds[held_out] - 1).mean() < 0.05
    without_pairs = fit_pace(work[~held_out] * [1, 0, 1, 1], seconds[~held_out])
    assert np.abs(without_pairs(work[held_out]) / seconds[held_out] - 1).mean() > 0.05


def test_steps_are_held_out_by_the_seed_alone_and_each_lies_on_one_side():
    fitted, held = hold_out(21, seed=3)
    assert (len(fitted), len(held)) == (15, 6)
    assert sorted([*fitted, *held]) == list(range(21))
    again, other = hold_out(21, seed=3)[1], hold_out(21, seed=4)[1]
    assert held.tolist() == again.tolist() != other.tolist()
    with pytest.raises(ValueError, match="none would be held out"):
        hold_out(1)


def test_the_error_on_held_out_steps_tells_a_right_pace_from_one_that_lacks_the_pairs():
    work, seconds = measured_steps(noise=0.03)
    fitted, held = hold_out(len(seconds))
    right, blind = (fit_pace(work[fitted] * used, seconds[fitted]) for used in ([1, 1, 1, 1], [1, 0, 1, 1]))
    good, bad = (prediction_error(pace, work[held] * used, seconds[held])
                 for pace, used in ((right, [1, 1, 1, 1]), (blind, [1, 0, 1, 1])))  # fmt: skip
    assert good.steps == len(held) and good.median < 0.03 and good.ninetieth < 0.08 and abs(good.total) < 0.02
    assert bad.median > 2 * good.median


def test_a_pace_twice_as_slow_as_the_steps_is_off_by_one_everywhere():
    work, seconds = measured_steps()
    error = prediction_error(TRUE_PACE, work, seconds / 2)
    assert (error.median, error.ninetieth, error.total) == pytest.approx((1, 1, 1))
    assert prediction_error(TRUE_PACE, work, 2 * seconds).total == pytest.approx(-1 / 2), "it promises too little"


@settings(deadline=None)  # the first example imports scipy
@given(seed=st.integers(0, 10_000), rows=st.integers(4, 12))
def test_the_fit_is_as_good_as_scipys_and_never_negative(seed, rows):
    nnls = pytest.importorskip("scipy.optimize").nnls
    random = np.random.default_rng(seed)
    work, seconds = random.uniform(0.1, 1.0, (rows, 4)), random.uniform(0.1, 1.0, rows)
    pace = fit_pace(work, seconds)
    assert min(astuple(pace)) >= 0
    assert np.linalg.norm(pace(work) - seconds) == pytest.approx(nnls(work, seconds)[1], rel=1e-6, abs=1e-9)


def test_a_pace_is_not_fitted_to_too_few_or_impossible_times():
    work, seconds = measured_steps()
    for bad in ((work[:3], seconds[:3]), (work, seconds * 0)):
        with pytest.raises(ValueError, match="at least 4 positive times"):
            fit_pace(*bad)


def test_simulated_seconds_are_those_of_the_slowest_rank_worked_out_by_hand():
    pace = Pace(per_position=1.0, per_pair=0.0, per_micro_batch=0.5, per_step=0.25)
    assert step_seconds(hand_made(), pace).tolist() == [2 + 3 + 2 * 0.5 + 0.25]
    assert step_seconds(hand_made(), pace, barrier="micro_step").tolist() == [4 + 3 + 2 * 0.5 + 0.25]
    with pytest.raises(ValueError, match="barrier"):
        step_seconds(hand_made(), pace, barrier="epoch")


def test_one_simulated_rank_takes_what_its_work_takes():
    plan = plan_naive(mixture(60) // 64 + 2, accumulation=4)
    assert step_seconds(plan, TRUE_PACE) == pytest.approx(TRUE_PACE(step_work(plan)[:, 0]), rel=1e-12)


def test_a_column_that_explains_no_more_than_rounding_stays_at_zero_on_every_processor():
    work = np.array([[2.0, 4, 1, 1], [4, 16, 2, 1], [3, 9, 1, 1], [9, 29, 1, 1], [9, 81, 3, 1]])
    exact = work @ [0.5, 0.25, 0.0, 1.0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        pace = fit_pace(work, exact * (1 + 2e-16 * rng.integers(-4, 5, len(exact))))
        assert pace.per_micro_batch == 0.0 and abs(pace.per_step - 1) < 1e-12
