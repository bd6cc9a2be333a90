"""Plans of two kinds of packs: shared by the ranks of a group, or a rank's own. Real ranks: `test_mixed_ranks.py`."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from longalign.recipe.balance import balanced
from longalign.recipe.batching import Step, make_plan
from longalign.recipe.collators import PackedCollator
from longalign.recipe.cost import fill_share, idle_share, micro_batch_costs
from longalign.recipe.dataset import PlannedDataset, step_weights
from longalign.recipe.packing import best_fit_decreasing
from longalign.recipe.summary import summarize
from longalign.train.sequence_parallel import Slices
from mixed_plans import CAPACITY, QUADRATIC, computed, mixed, settings_of_plans


def packs_in(plan):
    return [(ranks, row) for step in plan.steps for batch, ranks in computed(plan, step) for row in batch]


# sequences in which token i says what sequence it is of


def sequences_of(lengths):
    return [{"input_ids": [i] * n, "labels": [i] * n} for i, n in enumerate(lengths)]


each_plan = settings(deadline=None, max_examples=40)


@each_plan
@given(settings_of_plans())
def test_every_sequence_is_computed_once_by_as_many_ranks_as_its_length_says_and_no_rank_holds_too_much(given_plan):
    lengths, how = given_plan
    plan, seen = mixed(lengths, **how), []
    for step in plan.steps:
        for batch, ranks in computed(plan, step):
            assert len(batch) <= plan.rows
            for row in batch:
                assert sum(lengths[i] for i in row) <= ranks * CAPACITY
                assert all((lengths[i] > how["share_above"]) == (ranks > 1) for i in row)
                seen += row
    assert sorted(seen) == list(range(len(lengths)))


@each_plan
@given(settings_of_plans())
def test_fillers_are_in_the_last_step_only(given_plan):
    lengths, how = given_plan
    plan = mixed(lengths, **how)
    for step in plan.steps[:-1]:
        assert all(batch for batch, _ in computed(plan, step))


def packs_of(lengths, how):
    """The slow oracle: walk the random order, with one open pack of each kind; best fit takes all that are there."""
    order = np.random.default_rng([how["seed"], 0]).permutation(len(lengths)).tolist()
    found = []
    for ranks in (1, how["degree"]):
        own = [i for i in order if (lengths[i] > how["share_above"]) == (ranks > 1)]
        if how["algorithm"] == "best_fit":
            packs = best_fit_decreasing([lengths[i] for i in own], ranks * CAPACITY)
            found += [(ranks, tuple(own[i] for i in pack)) for pack in packs]
            continue
        pack = []
        for i in own:
            if pack and sum(lengths[j] for j in pack) + lengths[i] > ranks * CAPACITY:
                found.append((ranks, tuple(pack)))
                pack = []
            pack.append(i)
        found += [(ranks, tuple(pack))] if pack else []
    return sorted(found)


@each_plan
@given(settings_of_plans())
def test_packs_are_those_that_each_kind_would_have_alone_and_of_the_fewest_steps(given_plan):
    lengths, how = given_plan
    plan, expected = mixed(lengths, **how), packs_of(lengths, how)
    assert sorted(packs_in(plan)) == expected
    shared = sum(ranks > 1 for ranks, _ in expected)
    local = len(expected) - shared
    units = ceil(shared / plan.rows) + ceil(ceil(local / plan.rows) / plan.degree)
    assert len(plan.steps) == ceil(units / (plan.accumulation * plan.ranks // plan.degree))


@each_plan
@given(settings_of_plans())
def test_steps_are_the_same_however_groups_share_their_micro_steps(given_plan):
    lengths, how = given_plan
    one_group = how | {"ranks": how["degree"], "accumulation": 6}
    several = how | {"ranks": 3 * how["degree"], "accumulation": 2}
    plans = [mixed(lengths, **how) for how in (one_group, several)]
    first, second = ([sorted(step.sequences) for step in plan.steps] for plan in plans)
    assert first == second


@each_plan
@given(settings_of_plans())
def test_ranks_that_share_a_pack_divide_its_cost_and_the_price_of_sending_it(given_plan):
    lengths, how = given_plan
    plan = mixed(lengths, **how)
    cost = replace(QUADRATIC, exchange=2.0)
    costs = micro_batch_costs(plan, cost)
    for number, step in enumerate(plan.steps):
        for rank in range(plan.ranks):
            for micro_step in range(plan.accumulation):
                shares = plan.shared_by(step, rank, micro_step)
                rows = step.micro_batches[rank - rank % shares][micro_step]
                own = [lengths[i] for row in rows for i in row]
                alone = sum(3 * n + n * n for n in own) + 2 * (1 - 1 / shares) * sum(own)
                assert costs[number, rank, micro_step] == pytest.approx(alone / shares)
    if plan.lengths.any():
        room = sum(ranks * CAPACITY for ranks, _ in packs_in(plan))
        assert fill_share(plan) == pytest.approx(plan.lengths.sum() / room)


@each_plan
@given(settings_of_plans())
def test_whoever_shares_nothing_still_reads_each_sequence_once_with_the_weight_of_its_step(given_plan):
    lengths, how = given_plan
    plan = mixed(lengths, **how)
    sequences = sequences_of(lengths)
    datasets = [PlannedDataset(sequences, [plan], rank=rank) for rank in range(plan.ranks)]
    together = PlannedDataset(sequences, [plan])
    totals = np.zeros(len(plan.steps))
    for number, step in enumerate(plan.steps):
        weights = step_weights(plan, step)
        for micro_step in range(plan.accumulation):
            for rank, dataset in enumerate(datasets):
                index = number * plan.accumulation + micro_step
                features, shares = dataset[index], dataset.shared_by(index)
                assert features == together[index * plan.ranks + rank]
                assert shares == plan.shared_by(step, rank, micro_step)
                assert all(f["loss_weight"] == weights[f["input_ids"][0]] for f in features if f["input_ids"])
                totals[number] += sum(f["loss_weight"] * max(0, len(f["input_ids"]) - 1) for f in features)
        m = plan.sequences_with_targets(step)
        assert totals[number] == pytest.approx(1.0 if m else 0.0)  # the mean over M sequences of 1 each


@each_plan
@given(settings_of_plans())
def test_the_slices_of_a_group_are_the_pack_that_it_shares_and_what_it_does_not_is_whole(given_plan):
    lengths, how = given_plan
    plan = mixed(lengths, **how)
    ranks = [Slices(PlannedDataset(sequences_of(lengths), [plan], rank=rank), PackedCollator(99), rank, plan.degree)
             for rank in range(plan.ranks)]  # fmt: skip
    for number, step in enumerate(plan.steps):
        for micro_step in range(plan.accumulation):
            for first in range(0, plan.ranks, plan.degree):
                index = number * plan.accumulation + micro_step
                group = [ranks[rank][index] for rank in range(first, first + plan.degree)]
                shares = plan.shared_by(step, first, micro_step)
                assert {batch.get("shared_by", 1) for batch in group} == {shares}
                wholes = [group] if shares > 1 else [[batch] for batch in group]
                for offset, whole in enumerate(wholes):
                    rows = step.micro_batches[first + offset][micro_step]
                    tokens = [i for row in rows for i in row for _ in range(lengths[i])]
                    got = torch.cat([batch["input_ids"][0] for batch in whole]).tolist()
                    assert got[: len(tokens)] == tokens and set(got[len(tokens) :]) <= {99}


def test_without_a_threshold_plans_are_what_they_were():
    random = np.random.default_rng(0)
    lengths = np.concatenate([random.integers(1, 60, 80), random.integers(100, 400, 9)])
    for (method, algorithm, how), expected in {
        ("packing", "best_fit", ""): "6ea2ec334d1f3671", ("packing", "best_fit", "steps"): "ea7af87cb34a852b",
        ("packing", "best_fit", "fill"): "65b1552dbfa587ae", ("packing", "best_fit", "compose"): "d84dbfbd36f941a0",
        ("packing", "next_fit", ""): "d8cdbbb8c29ed130", ("packing", "next_fit", "steps"): "ff721cda5c02c04b",
        ("packing", "next_fit", "fill"): "cdc11dc7a374e625", ("packing", "next_fit", "compose"): "4b277a509a164507",
        ("naive", None, ""): "f5db30e2a17d553a", ("naive", None, "steps"): "8612317cfe271147",
        ("sorted", None, ""): "523ee8027cfec757", ("sorted", None, "steps"): "523ee8027cfec757",
    }.items():  # fmt: skip
        plan = make_plan(method, lengths, capacity=400, ranks=2, accumulation=3, seed=3, epoch=1, algorithm=algorithm)
        plan = balanced(plan, how, barrier="micro_step") if how else plan
        assert plan.order_hash().startswith(expected), (method, algorithm, how)


def test_the_hash_tells_a_shared_micro_step_from_one_that_is_not():
    plan = mixed([1, 4, 3, 8], capacity=4, share_above=4, degree=2, ranks=2, accumulation=2)
    (step,) = plan.steps
    alike = replace(plan, lengths=np.array([1, 4, 3, 4]), target_counts=np.array([0, 3, 2, 3]))
    local = replace(alike, steps=(Step(step.micro_batches, (0,)),))
    assert alike.order_hash() != local.order_hash()


def test_a_summary_counts_the_packs_of_both_kinds():
    plan = mixed([1, 4, 3, 8], capacity=4, share_above=4, degree=2, ranks=2, accumulation=2)
    summary = summarize(plan)
    assert {name: summary[name] for name in ("packs", "bound", "fill", "steps")} == {
        "packs": 3, "bound": 3, "fill": 1.0, "steps": 1,
    }  # fmt: skip
    assert 0 <= summary["idle_bound"] <= summary["idle"] == pytest.approx(idle_share(plan))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"degree": 3}, "degree is 3: it is a number of ranks from 2 on that divides all 4"),
        ({"degree": 1}, "degree is 1: it is"),
        ({"degree": None}, "share_above and degree belong together"),
        ({"share_above": None}, "share_above and degree belong together"),
        ({"share_above": 11}, "share_above is 11: what one rank computes fits into its capacity of 10"),
        ({"lengths": [21]}, "sequence 0 has 21 tokens, over the capacity of 20"),
        ({"method": "naive"}, 'share_above is an option of "packing"'),
    ],
)
def test_what_cannot_be_shared_so_is_refused_in_a_sentence(changed, told):
    given_plan = {"method": "packing", "lengths": [2, 4, 3], "capacity": 10, "share_above": 5, "degree": 2, "ranks": 4}
    with pytest.raises(ValueError, match=told):
        make_plan(**(given_plan | changed))


def test_a_row_at_another_rank_than_the_groups_first_is_refused():
    plan = mixed([8], capacity=4, share_above=4, degree=2, ranks=2)
    (step,) = plan.steps
    with pytest.raises(ValueError, match=r"only the first of each 2 ranks may hold their rows"):
        replace(plan, steps=(Step(step.micro_batches[::-1], step.shared),))
    with pytest.raises(ValueError, match="shares"):
        replace(plan, steps=(Step(step.micro_batches),))


def test_the_released_weights_are_not_made_for_shared_packs():
    plan = mixed([8], capacity=4, share_above=4, degree=2, ranks=2)
    with pytest.raises(ValueError, match="without share_above"):
        step_weights(plan, plan.steps[0], weighting="released")
