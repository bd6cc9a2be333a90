"""Rows that groups share and rows that they do not, dealt by cost: the bounds of a step's time."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.recipe.balance import balanced, idle_bound, within_steps
from longalign.recipe.cost import idle_share, micro_batch_costs, slowest
from mixed_plans import CAPACITY, QUADRATIC, computed, mixed, settings_of_plans

# dealt by cost

BARRIERS = pytest.mark.parametrize("barrier", ["step", "micro_step"])
SENDING = replace(QUADRATIC, exchange=2.0)


@BARRIERS
@settings(deadline=None, max_examples=60)
@given(given_plan=settings_of_plans())
def test_dealing_by_cost_keeps_each_steps_samples_and_kinds_and_no_step_takes_longer(barrier, given_plan):
    lengths, how = given_plan
    plan = mixed(lengths, **how)
    even = within_steps(plan, cost=SENDING, barrier=barrier)
    for before, after in zip(plan.steps, even.steps, strict=True):
        assert sorted(before.sequences) == sorted(after.sequences)
        for batch, ranks in computed(even, after):
            assert len(batch) <= plan.rows
            for row in batch:
                assert sum(lengths[i] for i in row) <= ranks * CAPACITY
                assert all((lengths[i] > how["share_above"]) == (ranks > 1) for i in row)
    before, after = (slowest(micro_batch_costs(one, SENDING), barrier) for one in (plan, even))
    assert (after <= before * (1 + 1e-9)).all()
    bound = idle_bound(plan, cost=SENDING, barrier=barrier)
    assert bound <= idle_share(even, SENDING, barrier) + 1e-9
    assert idle_bound(plan, cost=SENDING, barrier=barrier, same_steps=False) <= bound + 1e-9


def least_wall(lengths, share_above, groups, degree):
    """The oracle: every way to deal long sequences to groups and the others to ranks."""
    alone = 3.0 * lengths + lengths**2
    each = np.where(lengths > share_above, (alone + 2 * (1 - 1 / degree) * lengths) / degree, alone)
    long, short = np.flatnonzero(lengths > share_above), np.flatnonzero(lengths <= share_above)
    walls = []
    for of_long in itertools.product(range(groups), repeat=len(long)):
        for of_short in itertools.product(range(groups * degree), repeat=len(short)):
            of_rank = np.zeros(groups * degree)
            for i, group in zip(long, of_long, strict=True):
                of_rank[group * degree : (group + 1) * degree] += each[i]
            np.add.at(of_rank, list(of_short), each[short])
            walls.append(of_rank.max())
    return min(walls)


@settings(deadline=None, max_examples=40)
@given(
    long=st.lists(st.integers(26, 50), max_size=2), short=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    degree=st.sampled_from([2, 4]), seed=st.integers(0, 5),
)
def test_against_every_way_to_deal_a_step_the_bound_holds_and_the_wall_is_below_twice_the_least(
    long, short, degree, seed
):
    lengths = np.array(long + short)
    plan = mixed(
        lengths, capacity=25, share_above=25, degree=degree, ranks=4, accumulation=7, seed=seed, algorithm="next_fit"
    )
    even = within_steps(plan, cost=SENDING)
    best = least_wall(lengths, 25, 4 // degree, degree)
    (got,) = slowest(micro_batch_costs(even, SENDING), "step")
    work = micro_batch_costs(plan, SENDING).sum()
    lower = work / (4 * (1 - idle_bound(plan, cost=SENDING)))
    assert lower <= best * (1 + 1e-9) and best <= got * (1 + 1e-9)
    costliest = max(3.0 * n + n * n for n in short)
    shared = sum((3.0 * n + n * n + 2 * (1 - 1 / degree) * n) / degree for n in long)
    assert got <= max(work / 4 + costliest, shared) * (1 + 1e-9) and got < 2 * best


def test_short_sequences_go_where_a_group_has_no_long_one():
    plan = mixed([26, 15, 15, 15, 15], capacity=25, share_above=25, degree=2, ranks=4, accumulation=2)
    even = within_steps(plan, cost=QUADRATIC)
    (step,) = even.steps
    alone = [rank for rank in range(4) if not step.shared[rank // 2]]
    held = [sorted(plan.lengths[[i for batch in step.micro_batches[rank] for row in batch for i in row]].tolist())
            for rank in alone]  # fmt: skip
    assert held == [[15, 15], [15, 15]] and idle_share(plan, QUADRATIC) > idle_share(even, QUADRATIC)


@pytest.mark.parametrize("how", ["fill", "compose"])
def test_what_makes_packs_of_one_kind_is_refused(how):
    plan = mixed([8, 1], capacity=4, share_above=4, degree=2, ranks=2)
    with pytest.raises(ValueError, match="with share_above take the balance 'steps'"):
        balanced(plan, how)
