"""Three batching methods: every sequence once for any ranks, accumulation and rows; seeded; fair to the longest."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.cli.main import format_summary
from longalign.recipe.batching import make_plan, plan_naive, plan_packing, plan_sorted
from longalign.recipe.packing import lower_bound
from longalign.recipe.summary import summarize

METHODS = {
    "naive": {},
    "sorted": {},
    "sorted, odd group size": {"group_size": 5},
    "packing, next fit": {"algorithm": "next_fit"},
    "packing, best fit": {"algorithm": "best_fit"},
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
CAPACITY = 32


def planned(method, lengths, **options):
    return make_plan(method.split(",")[0], lengths, capacity=CAPACITY, **METHODS[method], **options)


def order(plan):
    return [i for step in plan.steps for i in step.sequences]


@EVERY_METHOD
@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(0, CAPACITY), max_size=50), ranks=st.integers(1, 5), accumulation=st.integers(1, 4),
    rows=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_sequence_is_planned_exactly_once_and_every_rank_runs_the_same_micro_steps(
    method, lengths, ranks, accumulation, rows, seed
):
    plan = planned(method, lengths, ranks=ranks, accumulation=accumulation, rows=rows, seed=seed)
    assert sorted(order(plan)) == list(range(len(lengths)))
    for step in plan.steps:
        assert [len(micro_batches) for micro_batches in step.micro_batches] == [accumulation] * ranks
        assert all(len(batch) <= rows for batches in step.micro_batches for batch in batches)
        assert all(sum(lengths[i] for i in row) <= CAPACITY for row in step.rows)
        assert step.rows
    for step in plan.steps[:-1]:
        assert len(step.rows) == ranks * accumulation * rows


@EVERY_METHOD
def test_m_and_k_add_up_over_the_steps(method):
    lengths = np.arange(1, 31)
    plan = planned(method, lengths, target_counts=(lengths - 1) * (lengths % 3 > 0), ranks=2, accumulation=2)
    assert sum(plan.sequences_with_targets(step) for step in plan.steps) == sum(
        n > 1 and n % 3 > 0 for n in range(1, 31)
    )
    assert sum(plan.packs(step) for step in plan.steps) == summarize(plan)["packs"]


@EVERY_METHOD
def test_the_same_seed_gives_the_same_plan_and_another_seed_or_epoch_another(method):
    lengths = np.random.default_rng(0).integers(1, CAPACITY, 60)
    first = planned(method, lengths, seed=3, epoch=0).order_hash()
    assert planned(method, lengths, seed=3, epoch=0).order_hash() == first
    hashes = {planned(method, lengths, seed=seed, epoch=epoch).order_hash() for seed in (3, 4) for epoch in (0, 1)}
    assert len(hashes) == 4


@EVERY_METHOD
def test_sequences_of_one_length_are_shuffled_too(method):
    assert len({tuple(order(planned(method, [4] * 24, seed=seed))) for seed in range(5)}) == 5


@EVERY_METHOD
def test_no_sequence_gives_a_plan_without_steps(method):
    plan = planned(method, [], ranks=2, accumulation=3)
    assert plan.steps == ()
    assert summarize(plan) == {
        "packs": 0, "fill": 1.0, "idle": 0.0, "idle_bound": 0.0, "speedup": 1.0, "bound": 0, "steps": 0,
        "sequences_per_step": 0.0,
    }  # fmt: skip


@EVERY_METHOD
def test_one_sequence_of_full_length_gives_one_step_with_fillers_for_the_other_ranks(method):
    plan = planned(method, [CAPACITY], ranks=2, accumulation=2)
    assert [step.micro_batches for step in plan.steps] == [((((0,),), ()), ((), ()))]
    assert plan.sequences_with_targets(plan.steps[0]) == plan.packs(plan.steps[0]) == 1


@EVERY_METHOD
def test_a_length_over_the_capacity_is_an_error(method):
    with pytest.raises(ValueError, match="sequence 1 has 33 tokens, over the capacity of 32"):
        planned(method, [2, 33, 3])


def test_all_tokens_but_the_first_are_targets_unless_target_counts_say_otherwise():
    assert plan_naive([2, 0, 3, 1]).target_counts.tolist() == [1, 0, 2, 0]
    assert plan_naive([2, 0, 3, 1], target_counts=[1, 0, 1, 0]).target_counts.tolist() == [1, 0, 1, 0]


# ---- sorted


def groups_of(plan, size):
    flat = order(plan)
    return [flat[start : start + size] for start in range(0, len(flat), size)]


def test_sorted_groups_are_runs_of_the_sorted_lengths():
    lengths = np.random.default_rng(0).permutation(np.arange(1, 33))
    for group in groups_of(plan_sorted(lengths, group_size=4, rows=4), 4):
        found = lengths[group]
        assert found.tolist() == list(range(found[0], found[0] + 4))
        assert found[0] % 4 == 1


def test_sorted_groups_come_in_random_order():
    lengths = np.arange(1, 65)
    first = [lengths[groups_of(plan_sorted(lengths, ranks=4, seed=seed), 4)[0]].min() for seed in range(40)]
    assert len(set(first)) > 10
    means = [lengths[group].mean() for group in groups_of(plan_sorted(lengths, ranks=4), 4)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.8  # sorted order itself would give 1


def test_the_short_group_comes_last_and_is_not_always_the_longest_or_the_shortest():
    lengths = np.arange(1, 27)  # groups of 4 leave 2
    remainders = [lengths[groups_of(plan_sorted(lengths, group_size=4, seed=seed), 4)[-1]] for seed in range(60)]
    assert all(len(remainder) == 2 and remainder[1] == remainder[0] + 1 for remainder in remainders)
    assert {1, 25} < {int(remainder[0]) for remainder in remainders}
    assert len({int(remainder[0]) for remainder in remainders}) == 7  # each of the 7 groups has been the short one


def test_the_longest_are_spread_over_the_epoch():
    lengths = np.arange(1, 27)
    position = [order(plan_sorted(lengths, group_size=4, seed=seed)).index(25) for seed in range(60)]
    assert min(position) < 4 and max(position) > 21 and len(set(position)) > 6


def test_a_sorted_micro_step_of_all_ranks_is_one_group_by_default():
    lengths = np.random.default_rng(1).permutation(np.arange(1, 49))
    plan = plan_sorted(lengths, ranks=2, accumulation=3, rows=4)
    for step in plan.steps:
        for micro_step in zip(*step.micro_batches, strict=True):
            found = sorted(lengths[i] for batch in micro_step for row in batch for i in row)
            assert found == list(range(found[0], found[0] + 8))


# ---- packing


def test_packing_packs_a_random_order_by_next_fit():
    lengths = np.arange(1, 31)
    plan = plan_packing(lengths, capacity=CAPACITY, ranks=2)
    assert order(plan) != list(range(30))
    rows = [row for step in plan.steps for row in step.rows]
    for row, following in pairwise(rows):
        assert lengths[list(row)].sum() + lengths[following[0]] > CAPACITY


def test_best_fit_reaches_the_bound_and_puts_the_packs_in_random_order():
    random = np.random.default_rng(0)
    lengths = np.concatenate([random.integers(1, 5, 180), random.integers(4, CAPACITY + 1, 60)])
    plan = plan_packing(lengths, capacity=CAPACITY, algorithm="best_fit")
    rows = [row for step in plan.steps for row in step.rows]
    assert len(rows) == lower_bound(lengths, CAPACITY) < len(plan_packing(lengths, capacity=CAPACITY).steps)
    sizes = [len(row) for row in rows]  # longest first would put the packs of one sequence in front
    assert abs(np.corrcoef(sizes, range(len(sizes)))[0, 1]) < 0.3


# ---- one dispatcher, one summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sort"}, 'method must be "naive", "sorted" or "packing", not \'sort\''),
        ({"method": "packing"}, "packing needs a capacity"),
        ({"method": "packing", "capacity": 8, "algorithm": "first_fit"}, 'must be "next_fit" or "best_fit"'),
        (
            {"method": "naive", "algorithm": "best_fit"},
            "algorithm is an option of \"packing\"; leave it out for 'naive'",
        ),
        ({"method": "packing", "capacity": 8, "group_size": 2}, 'group_size is an option of "sorted"'),
        ({"method": "sorted", "group_size": 0}, "group_size must be at least 1, not 0"),
        ({"method": "sorted", "ranks": 0}, "ranks must be at least 1, not 0"),
        ({"method": "naive", "target_counts": [1, 1]}, "3 lengths, but 2 target_counts"),
    ],
)
def test_bad_options_are_refused_with_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(lengths=[2, 4, 3], **arguments)


def test_the_dispatcher_gives_the_plan_of_the_method():
    shape = {"ranks": 2, "accumulation": 2, "rows": 2, "seed": 5, "epoch": 1}
    lengths = list(range(1, 30))
    for direct, named in [
        (plan_naive(lengths, **shape), make_plan("naive", lengths, **shape)),
        (plan_sorted(lengths, group_size=3, **shape), make_plan("sorted", lengths, group_size=3, **shape)),
        (plan_packing(lengths, capacity=40, **shape), make_plan("packing", lengths, capacity=40, **shape)),
    ]:
        assert direct.order_hash() == named.order_hash()


def test_the_summary_of_a_hand_worked_plan():
    # best fit: packs {4, 3} and {2} of capacity 7, one on each of two ranks
    plan = plan_packing([2, 4, 3], capacity=7, algorithm="best_fit", ranks=2, target_counts=[1, 3, 0])
    summary = summarize(plan)
    assert {key: summary[key] for key in ("packs", "bound", "steps", "sequences_per_step")} == {
        "packs": 2, "bound": 2, "steps": 1, "sequences_per_step": 2.0,
    }  # fmt: skip
    assert summary["fill"] == pytest.approx(9 / 14)
    assert 0 < summary["idle"] < 0.5


def test_the_fill_of_padded_micro_batches_counts_the_longest_row():
    plan = plan_sorted([2, 4, 3], group_size=3, rows=3)
    assert summarize(plan)["fill"] == pytest.approx(9 / 12)
    assert summarize(plan)["bound"] is None
    assert summarize(plan_naive([2, 4, 3]))["fill"] == 1.0


def test_the_summary_is_plain_json_and_the_text_shows_its_numbers():
    summary = summarize(plan_packing(np.array([2, 4, 3]), capacity=7))
    assert json.loads(json.dumps(summary)) == summary
    text = format_summary(summary)
    assert "provable minimum 2" in text and "64.29 %" in text
    assert "minimum" not in format_summary(summarize(plan_naive([2, 4, 3])))


PLANNING_TIME = """
import json, sys, time
import numpy as np
from longalign.recipe.batching import make_plan

lengths = np.random.default_rng(0).integers(1, 65_537, 100_000)
seconds = {}
for name, options in json.loads(sys.argv[1]).items():
    start = time.process_time()
    make_plan(name.split(",")[0], lengths, capacity=65_536, ranks=8, accumulation=4, **options)
    seconds[name] = time.process_time() - start
print(json.dumps(seconds))
"""


def test_a_hundred_thousand_sequences_are_planned_in_less_than_three_seconds():
    # in a process of its own, because the tests check the types of every call, which takes longer than the planning
    command = [sys.executable, "-c", PLANNING_TIME, json.dumps(METHODS)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds = json.loads(told)
    assert list(seconds) == list(METHODS) and max(seconds.values()) < 3.0


def test_numpys_narrow_integers_plan_as_others_do():
    """In a process of its own: here, types are checked, and users' are not."""
    code = """
import numpy as np
from longalign.recipe.batching import make_plan
lengths = np.random.default_rng(0).integers(1, 32, 500)
for method in ("naive", "sorted", "packing"):
    one, other = (make_plan(method, lengths, capacity=32, ranks=kind(100), accumulation=kind(2), rows=kind(2))
                  for kind in (int, np.int8))
    print(one.steps == other.steps, one.order_hash() == other.order_hash())
"""
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True"] * 6
