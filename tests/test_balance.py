"""Plans balanced by cost: nothing lost, no pack overfull, never worse, near the bound, and the weights stay exact."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.recipe import balance
from longalign.recipe.balance import BALANCES, across_steps, balanced, by_fill, idle_bound, within_steps
from longalign.recipe.batching import Step, make_plan
from longalign.recipe.cost import SequenceCost, fill_share, idle_share, micro_batch_costs
from longalign.recipe.dataset import step_weights
from longalign.recipe.leveling import assign_balanced, fill_empty, improve_by_swaps

BARRIERS = ("step", "micro_step")
QUADRATIC = SequenceCost(per_token=3.0, per_pair=1.0)


def mixture(seed, sequences=10_000):
    """90 % lognormal around 800 tokens, 10 % uniform over 8k-64k, in random order."""
    random = np.random.default_rng(seed)
    long = random.integers(8192, 65537, sequences // 10)
    short = np.clip(random.lognormal(np.log(800), 1.0, sequences - len(long)), 1, 65536).astype(int)
    return random.permutation(np.concatenate([long, short]))


def wall(plan, cost=QUADRATIC, barrier="step"):
    costs = micro_batch_costs(plan, cost)
    return (costs.sum(2).max(1) if barrier == "step" else costs.max(1).sum(1)).sum()


plans = st.builds(
    lambda lengths, method, capacity, ranks, accumulation, rows, algorithm, seed: make_plan(
        method, [min(n, capacity) for n in lengths], capacity=capacity, ranks=ranks, accumulation=accumulation,
        rows=rows, seed=seed, algorithm=algorithm if method == "packing" else None,
    ),
    st.lists(st.integers(0, 20), max_size=40), st.sampled_from(["packing", "naive", "sorted"]), st.integers(5, 20),
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.sampled_from(["next_fit", "best_fit"]),
    st.integers(0, 9),
)  # fmt: skip
packings = plans.filter(lambda plan: plan.method == "packing")


def fits(plan):
    return all(plan.lengths[list(row)].sum() <= plan.capacity for step in plan.steps for row in step.rows)


# `Plan` itself refuses to exist with a sequence lost or doubled, or a step misshapen


@settings(max_examples=80, deadline=None)
@given(plan=plans, barrier=st.sampled_from(BARRIERS))
def test_within_steps_keeps_every_steps_samples_and_no_step_takes_longer(plan, barrier):
    even = within_steps(plan, cost=QUADRATIC, barrier=barrier)
    assert [sorted(step.sequences) for step in even.steps] == [sorted(step.sequences) for step in plan.steps]
    for before, after in zip(plan.steps, even.steps, strict=True):
        assert even.sequences_with_targets(after) == plan.sequences_with_targets(before)
    costs = [micro_batch_costs(one, QUADRATIC) for one in (plan, even)]
    before, after = (c.sum(2).max(1) if barrier == "step" else c.max(1).sum(1) for c in costs)
    assert (after <= before * (1 + 1e-9)).all()
    assert plan.method != "packing" or fits(even)


@settings(max_examples=60, deadline=None)
@given(plan=packings, barrier=st.sampled_from(BARRIERS), how=st.sampled_from(["fill", "compose"]))
def test_the_other_two_lose_nothing_overfill_no_pack_and_have_fillers_in_the_last_step_only(plan, barrier, how):
    even = balanced(plan, how, cost=QUADRATIC, barrier=barrier)
    assert fits(even) and even.lengths is plan.lengths
    for step in even.steps[:-1]:
        assert len(step.rows) == plan.ranks * plan.accumulation * plan.rows


def samples(plan):
    return [sorted(step.sequences) for step in plan.steps]


@pytest.mark.parametrize("how", sorted(BALANCES))
def test_steps_hold_the_same_samples_however_their_packs_are_split_into_ranks_and_micro_steps(how):
    splits = [(1, 6, 1), (2, 3, 1), (3, 2, 1), (6, 1, 1), (2, 1, 3)]
    plans = [
        balanced(make_plan("packing", mixture(1, 1000), capacity=65_536, ranks=r, accumulation=a, rows=rows), how)
        for r, a, rows in splits
    ]
    assert len(plans[0].steps) > 10 and all(samples(plan) == samples(plans[0]) for plan in plans)


def test_another_seed_or_epoch_brings_the_composed_steps_in_another_order():
    lengths = mixture(0, 1000)
    orders = [
        samples(across_steps(make_plan("packing", lengths, capacity=65_536, ranks=8, seed=seed, epoch=epoch)))
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    tokens = [[int(lengths[step].sum()) for step in order] for order in orders]
    assert all(left != right for left, right in itertools.combinations(tokens, 2))


def test_composed_steps_are_of_like_costs_on_one_rank_too():
    plan = across_steps(make_plan("packing", mixture(0), capacity=65_536, accumulation=8))
    costs = micro_batch_costs(plan)[:-1, 0]  # each step's packs
    assert (costs.std(axis=1) / costs.mean(axis=1)).mean() < 0.01


@settings(max_examples=80, deadline=None)
@given(plan=plans, barrier=st.sampled_from(BARRIERS), how=st.sampled_from(sorted(BALANCES)))
def test_nothing_is_below_the_bound(plan, barrier, how):
    bound = idle_bound(plan, cost=QUADRATIC, barrier=barrier)
    assert bound <= idle_share(plan, QUADRATIC, barrier) + 1e-9
    assert idle_bound(plan, cost=QUADRATIC, barrier=barrier, same_steps=False) <= bound + 1e-9
    assert bound <= idle_share(within_steps(plan, cost=QUADRATIC, barrier=barrier), QUADRATIC, barrier) + 1e-9
    if plan.method == "packing":
        even = balanced(plan, how, cost=QUADRATIC, barrier=barrier)
        anywhere = idle_bound(plan, cost=QUADRATIC, barrier=barrier, same_steps=False)
        assert anywhere <= idle_share(even, QUADRATIC, barrier) + 1e-9


def best_wall(lengths, capacity, ranks):
    """The oracle: every way to put the sequences of one step into a pack for each rank."""
    costs = QUADRATIC(lengths)
    walls = []
    for places in itertools.product(range(ranks), repeat=len(lengths)):
        own = [[i for i, place in enumerate(places) if place == rank] for rank in range(ranks)]
        if all(lengths[i].sum() <= capacity for i in own):
            walls.append(max(costs[i].sum() for i in own))
    return min(walls)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_against_every_way_to_deal_a_step_the_bound_holds_and_little_is_missed(lengths, seed):
    plan = make_plan("packing", lengths, capacity=12, ranks=3, algorithm="next_fit", seed=seed)
    even = within_steps(plan, cost=QUADRATIC)
    bound, work = idle_bound(plan, cost=QUADRATIC), QUADRATIC(plan.lengths).sum()
    best = sum(best_wall(plan.lengths[list(step.sequences)], 12, 3) for step in plan.steps)
    assert wall(even) * (1 + 1e-9) >= best and best * (1 + 1e-9) >= work / (3 * (1 - bound))
    assert wall(even) <= best * 4 / 3 * (1 + 1e-9)  # Graham's bound for longest first, where room does not bind


@pytest.mark.parametrize("how", sorted(BALANCES))
def test_the_loss_of_a_step_is_still_the_mean_over_its_sequences(how):
    lengths = np.random.default_rng(0).integers(2, 30, 200)
    plan = balanced(make_plan("packing", lengths, capacity=40, ranks=4, accumulation=2), how, cost=QUADRATIC)
    for step in plan.steps:
        weights = step_weights(plan, step)
        m = plan.sequences_with_targets(step)
        assert all(weights[i] == pytest.approx(1 / (m * plan.target_counts[i])) for i in step.sequences)


# targets, on the lengths and costs of the module's docstring

SEEDS = pytest.mark.parametrize("seed", range(3))
RANKS = pytest.mark.parametrize("ranks", (8, 64))


def packed(seed, ranks, accumulation, algorithm="next_fit"):
    return make_plan("packing", mixture(seed), capacity=65_536, ranks=ranks, accumulation=accumulation,
                     algorithm=algorithm, seed=seed)  # fmt: skip


@SEEDS
@RANKS
@pytest.mark.parametrize("algorithm", ["next_fit", "best_fit"])
def test_the_same_samples_leave_2_percent_idle_at_the_step_and_4_5_in_every_micro_step(seed, ranks, algorithm):
    plan = packed(seed, ranks, 8, algorithm)
    assert idle_share(plan) > 0.05
    assert idle_share(within_steps(plan)) <= 0.02
    assert idle_share(within_steps(plan, barrier="micro_step"), barrier="micro_step") <= 0.045


@SEEDS
@RANKS
def test_one_pack_a_rank_and_step_comes_within_half_a_percent_of_the_bound(seed, ranks):
    for algorithm in ("next_fit", "best_fit"):
        plan = packed(seed, ranks, 1, algorithm)
        assert idle_share(within_steps(plan)) - idle_bound(plan) <= 0.005
    filled = by_fill(packed(seed, ranks, 1))
    assert idle_share(filled) - idle_bound(filled) <= 0.005


@SEEDS
@pytest.mark.parametrize(("ranks", "most"), [(8, 0.01), (64, 0.03)])
def test_steps_composed_by_cost_hardly_wait(seed, ranks, most):
    plan = packed(seed, ranks, 1)
    assert idle_share(across_steps(plan)) <= most < idle_bound(plan)


@SEEDS
@pytest.mark.parametrize(("ranks", "most"), [(8, 0.01), (64, 0.06)])
def test_sorted_batching_hardly_waits_where_a_group_is_all_ranks(seed, ranks, most):
    plan = make_plan("sorted", mixture(seed), ranks=ranks, seed=seed)
    assert idle_share(plan) <= most


@SEEDS
def test_filled_steps_are_98_percent_full_and_hold_about_as_many_sequences_each(seed):
    plan = by_fill(packed(seed, 8, 1))
    held = [len(step.sequences) for step in plan.steps[:-1]]
    assert fill_share(plan) >= 0.96 and np.std(held) < 0.4 * np.mean(held)
    tokens = [plan.lengths[list(step.sequences)].sum() for step in plan.steps[:-1]]
    assert np.median(tokens) / (8 * 65_536) == pytest.approx(0.98, abs=0.005)


def test_the_same_plan_gives_the_same_plan_and_takes_about_a_second():
    import time

    began = time.process_time()
    for how in BALANCES:
        first, second = (balanced(packed(0, 8, 2), how).order_hash() for _ in range(2))
        assert first == second
    assert time.process_time() - began < 20


def test_what_cannot_be_is_refused_in_a_sentence():
    naive = make_plan("naive", [2, 4, 3])
    for function in (by_fill, across_steps):
        with pytest.raises(ValueError, match="needs the method 'packing', not 'naive'"):
            function(naive)
    with pytest.raises(ValueError, match="above 0 and at most 1, not 1.5"):
        by_fill(packed(0, 8, 1), fill=1.5)
    with pytest.raises(ValueError, match="steps, fill, compose"):
        balanced(naive, "best")
    for function in (within_steps, idle_bound):
        with pytest.raises(ValueError, match="barrier"):
            function(naive, barrier="never")


@pytest.mark.parametrize("how", sorted(BALANCES))
def test_an_empty_plan_stays_empty(how):
    plan = balanced(make_plan("packing", [], capacity=9, ranks=2), how)
    assert not plan.steps and idle_bound(plan) == 0


@pytest.mark.parametrize("how", sorted(BALANCES))
@pytest.mark.parametrize("barrier", BARRIERS)
def test_a_step_of_fillers_alone_is_balanced_too(how, barrier):
    plan = make_plan("packing", [2, 4, 3], capacity=9, ranks=2)
    idle = replace(plan, steps=(*plan.steps, Step((((),), ((),)))))
    assert [sorted(step.sequences) for step in balanced(idle, how, barrier=barrier).steps if step.rows] == [[0, 1, 2]]


def test_a_bin_that_is_full_is_passed_over_and_room_is_used_again():
    dealt, left = assign_balanced([5, 4, 3, 2, 1], [5.0, 4, 3, 2, 1], [0.0, 0.0], bins=1, capacity=8)
    assert sorted(map(sorted, itertools.chain.from_iterable(dealt))) == [[0, 3, 4], [1, 2]] and not left


def test_no_bin_stays_empty_while_another_holds_two():
    dealt = [[[0, 1, 2, 3]], [[]], [[4]]]
    fill_empty(dealt)
    assert all(bin_ for member in dealt for bin_ in member)


def test_swaps_end_and_never_raise_the_highest():
    random = np.random.default_rng(0)
    for _ in range(20):
        costs = np.sort(random.random(12))[::-1]
        dealt = [[[rank * 4 + i] for i in range(4)] for rank in range(3)]
        after = improve_by_swaps(costs, dealt)
        level = [max(costs[[bin_[0] for bin_ in member]].sum() for member in one) for one in (dealt, after)]
        assert level[1] <= level[0] and sorted(b[0] for member in after for b in member) == list(range(12))


def test_module_names_its_ways_as_the_command_line_does():
    from longalign.cli import main

    assert tuple(balance.BALANCES) == main.BALANCES
