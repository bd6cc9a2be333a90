"""The order of micro-batches, their weights, and what does not fit the plan."""

import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_sequences
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.batching import make_plan, plan_naive, plan_packing
from longalign.recipe.dataset import EvaluationDataset, PlannedDataset, measure, step_weights
from longalign.recipe.weights import loss_weights


def planned(lengths, *, seed=0, without_targets=(), dataset=None, **plan_options):
    sequences = random_sequences(lengths, seed=seed, without_targets=without_targets)
    measured, target_counts = measure(sequences)
    plan = plan_packing(measured, **({"target_counts": target_counts, "capacity": 12} | plan_options))
    return PlannedDataset(sequences, [plan], **(dataset or {})), plan, sequences


def test_elements_are_asked_for_one_by_one():
    dataset, _, _ = planned([2, 4, 3])
    with pytest.raises(TypeError):
        dataset[0:1]


def test_measure_counts_targets_after_position_0_and_token_0_as_any_other():
    sequences = [
        {"input_ids": [0, 0], "labels": [0, 0]},
        {"input_ids": np.arange(4), "labels": np.array([0, -100, 2, 3])},
    ]
    lengths, target_counts = measure([*sequences, {"input_ids": [], "labels": []}])
    assert (lengths.tolist(), target_counts.tolist()) == ([2, 4, 0], [1, 2, 0])
    assert [array.tolist() for array in measure([])] == [[], []]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"attention_mask": [1, 1, 1, 0]}, "sequence 1 is padded"),
        ({"position_ids": [0, 1, 0, 1]}, "sequence 1 has position_ids of its own"),
        ({"labels": [-100, 6, 7, 0]}, "sequence 1 has labels that are shifted"),
        ({"completion_mask": [0, 0, 1, 1]}, "sequence 1 has labels where its completion_mask leaves tokens out"),
        ({"assistant_masks": [1, 1]}, "sequence 1 has labels where its assistant_masks leaves tokens out"),
        ({"input_ids": [[4, 5, 6, 7]], "labels": [[4, 5, 6, 7]]}, r"sequence 1 has input_ids of shape \(1, 4\)"),
        ({"labels": [5, 6, 7]}, r"labels of shape \(3,\): give one row of tokens, and a label for each"),
        ({"labels": [-100, 5.0, 6.0, 7.0]}, "sequence 1 has input_ids or labels that are no integers"),
        ({"input_ids": [[4, 5], [6]]}, "sequence 1 has input_ids or labels that are no row of numbers: give one row"),
        *(({"labels": np.array([-100, 5, -100, 7]).astype(kind)}, f"sequence 1 has labels of {kind}, in which -100 is ")
          for kind in ("uint8", "uint16", "uint32", "uint64")),
        ({"labels": [-1, 5, -1, 7]}, "sequence 1 has the label -1"),
        ({"labels": np.array([4, 5, 6, 7], dtype=np.uint8)}, None),
        ({"input_ids": [156] * 4, "labels": np.full(4, 156, dtype=np.uint8)}, None),
        ({"loss_mask": [0, 1, 1, 1], "completion_mask": None}, None),
        ({"attention_mask": [1] * 4, "position_ids": np.arange(4)}, None),
    ],
)
def test_a_sequence_that_stands_for_another_than_its_ids_and_labels_is_refused(more, says):
    whole = {"input_ids": [4, 5, 6, 7], "labels": [-100, 5, 6, 7]}
    odd = [whole, {**whole, **more}]
    if says is None:
        assert [array.tolist() for array in measure(odd)] == [[4, 4], [3, 3]]
        return
    with pytest.raises(ValueError, match=says):
        measure(odd)
    lengths, target_counts = measure([whole, whole])
    with pytest.raises(ValueError, match=says):
        list(PlannedDataset(odd, [plan_packing(lengths, target_counts=target_counts, capacity=4)]))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=20),
    ranks=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    rows=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_the_weights_of_every_step_sum_to_one_over_its_targets(lengths, ranks, accumulation, rows, seed):
    dataset, plan, _ = planned(lengths, seed=seed, ranks=ranks, accumulation=accumulation, rows=rows)
    assert len(dataset) == len(plan.steps) * ranks * accumulation
    for number, step in enumerate(plan.steps):
        start = number * ranks * accumulation
        features = [f for index in range(start, start + ranks * accumulation) for f in dataset[index]]
        shares = [f["loss_weight"] * np.count_nonzero(np.array(f["labels"])[1:] != IGNORE_INDEX) for f in features]
        with_targets = plan.sequences_with_targets(step)
        assert sum(shares) == pytest.approx(1 if with_targets else 0, abs=1e-12)
        assert all(share == 0 or share == pytest.approx(1 / with_targets) for share in shares)


def test_elements_go_step_by_step_then_micro_step_then_rank():
    dataset, plan, sequences = planned([3, 9, 5, 7, 12, 2, 4, 8, 6, 11], ranks=2, accumulation=3)
    expected = [
        [sequences[i]["input_ids"] for row in step.micro_batches[rank][micro_step] for i in row]
        for step in plan.steps
        for micro_step in range(3)
        for rank in range(2)
    ]
    assert [[f["input_ids"] for f in element] for element in dataset] == expected
    assert [] in expected, "the plan has a filler"


def test_each_ranks_own_view_is_its_turn_of_the_interleaved_one():
    everything, plan, sequences = planned([3, 9, 5, 7, 12, 2, 4, 8, 6], ranks=2, accumulation=3)
    for rank in range(2):
        assert list(PlannedDataset(sequences, [plan], rank=rank)) == list(everything)[rank::2]


def test_plans_of_several_epochs_follow_each_other():
    sequences = random_sequences([3, 9, 5, 7])
    lengths, target_counts = measure(sequences)
    plans = [make_plan("naive", lengths, target_counts=target_counts, epoch=epoch) for epoch in range(3)]
    assert list(PlannedDataset(sequences, plans)) == [e for plan in plans for e in PlannedDataset(sequences, [plan])]


def test_a_sequence_without_targets_weighs_nothing_and_is_not_counted():
    dataset, plan, _ = planned([8, 8, 8], without_targets=[1], capacity=24)
    assert plan.sequences_with_targets(plan.steps[0]) == 2
    shares = {tuple(f["input_ids"]): f["loss_weight"] for f in dataset[0]}
    assert sorted(shares.values())[0] == 0.0
    weights = loss_weights(plan.target_counts)
    assert sorted(shares.values()) == pytest.approx(sorted(weights.tolist()))


def test_exponent_1_is_the_token_mean():
    dataset, plan, _ = planned([3, 9, 5, 7], capacity=24, dataset={"exponent": 1.0})
    weights = {f["loss_weight"] for f in dataset[0]}
    assert len(weights) == 1 and weights.pop() == pytest.approx(1 / plan.target_counts.sum())


def test_token_and_square_root_are_the_exponents_1_and_one_half():
    _, plan, _ = planned([3, 9, 5, 7], capacity=24)
    for name, exponent in (("token", 1.0), ("square_root", 0.5)):
        by_name = step_weights(plan, plan.steps[0], weighting=name)
        assert by_name == step_weights(plan, plan.steps[0], exponent=exponent) != step_weights(plan, plan.steps[0])


SWITCH = [(0, "token"), (0.8, "sequence")]
BACK = [(0, "sequence"), (0.8, "token")]


@pytest.mark.parametrize("schedule", [SWITCH, BACK, [(0, "eq3"), (0.3, "square_root"), (0.7, "token")]])
@pytest.mark.parametrize("rank", [None, 1])
def test_a_schedule_gives_each_step_the_weights_of_its_stage_over_all_epochs(schedule, rank):
    sequences = random_sequences([3, 9, 5, 7, 12, 2, 4, 8, 6, 11])
    lengths, target_counts = measure(sequences)
    plans = [make_plan("packing", lengths, target_counts=target_counts, capacity=12, ranks=2, epoch=epoch)
             for epoch in range(3)]  # fmt: skip
    dataset = PlannedDataset(sequences, plans, weighting=schedule, rank=rank)
    assert len(dataset.steps) >= 10
    for number in range(len(dataset.steps)):
        weighting = [name for share, name in schedule if number >= share * len(dataset.steps)][-1]
        alone = PlannedDataset(sequences, plans, weighting=weighting, rank=rank)
        for index in range(number * dataset.per_step, (number + 1) * dataset.per_step):
            assert dataset[index] == alone[index], f"step {number} of {len(dataset.steps)} is not of {weighting}"


def test_a_training_that_ends_earlier_has_its_stages_within_the_steps_that_it_takes():
    sequences = random_sequences([4] * 20)
    lengths, target_counts = measure(sequences)
    plan = make_plan("packing", lengths, target_counts=target_counts, capacity=8)
    dataset = PlannedDataset(sequences, [plan], weighting=[(0, "token"), (0.8, "eq3")], steps=5)
    assert (len(dataset), len(plan.steps)) == (5, 10)
    weights = [list(dataset._weights(plan, step, weighting="eq3").values()) for step in plan.steps[:5]]
    assert [f["loss_weight"] for f in dataset[4]] == weights[4]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weighting": "tokens"}, "must be one of sequence, square_root, token, eq3, released, not 'tokens'"),
        ({"weighting": [(0, "token"), (0.8, "sequences")]}, "not 'sequences'"),
        ({"weighting": [(0.1, "token")]}, "0 first, ascending below 1"),
        ({"weighting": [(0, "token"), (1, "sequence")]}, "0 first, ascending below 1"),
        ({"weighting": [(0, "token"), (0.5, "eq3"), (0.5, "token")]}, "0 first, ascending below 1"),
        ({"weighting": [(0, "token"), (float("nan"), "eq3")]}, "0 first, ascending below 1"),
        ({"weighting": []}, "0 first, ascending below 1"),
        ({"weighting": ["token", "sequence"]}, "pairs of a share of the steps and a name"),
        ({"weighting": [(0, "token", 0.8)]}, "pairs of a share of the steps and a name"),
        ({"weighting": SWITCH, "exponent": 0.5}, "leave them out for a schedule"),
        ({"weighting": SWITCH, "local_gpus": 1}, "leave them out for a schedule"),
    ],
)
def test_a_schedule_that_is_none_is_refused_before_the_first_step(options, says):
    with pytest.raises(ValueError, match=says):
        planned([3, 9, 5, 7], dataset=options)


def test_steps_are_a_number_of_steps_and_not_a_trainers_minus_one_for_none():
    with pytest.raises(ValueError, match="steps is -1; say how many steps are made, or 0 for all of the plans"):
        planned([3, 9, 5, 7], dataset={"steps": -1})
    assert len(planned([3, 9, 5, 7], dataset={"steps": 0})[0]) == len(planned([3, 9, 5, 7])[0])


def test_eq3_is_the_mean_over_packs_of_their_token_means():
    _, plan, _ = planned([3, 9, 5, 7, 6], ranks=2)
    step = plan.steps[0]
    weights = step_weights(plan, step, weighting="eq3")
    for row in step.rows:
        for i in row:
            assert weights[i] == pytest.approx(1 / (len(step.rows) * plan.target_counts[list(row)].sum()))


def test_released_is_eq_2_on_one_machine_and_differs_on_several():
    _, plan, _ = planned([12, 4, 4, 4], ranks=2, algorithm="best_fit")
    step = plan.steps[0]
    ours, released = (step_weights(plan, step, weighting=name) for name in ("sequence", "released"))
    assert ours == pytest.approx(released)
    several = step_weights(plan, step, weighting="released", local_gpus=1)
    assert len(set(map(len, step.rows))) > 1 and several != pytest.approx(ours)


def test_released_takes_a_step_with_fillers():
    _, plan, _ = planned([12, 12, 12], ranks=2)
    weights = step_weights(plan, plan.steps[-1], weighting="released")
    (only,) = plan.steps[-1].sequences
    assert weights == {only: pytest.approx(1 / plan.target_counts[only])}


def test_a_pickled_dataset_gives_the_same_elements():
    dataset, _, _ = planned([3, 9, 5, 7], ranks=2)
    assert list(pickle.loads(pickle.dumps(dataset))) == list(dataset)


def test_what_does_not_fit_is_named():
    dataset, plan, sequences = planned([3, 9, 5, 7])
    options = {"capacity": 12, "target_counts": plan.target_counts}
    with pytest.raises(ValueError, match="all of the same ranks and accumulation"):
        PlannedDataset(sequences, [plan, plan_packing(plan.lengths, ranks=2, **options)])
    with pytest.raises(ValueError, match="at least one"):
        PlannedDataset(sequences, [])
    with pytest.raises(ValueError, match="for 4 sequences, but 3"):
        PlannedDataset(sequences[:3], [plan])
    with pytest.raises(ValueError, match="rank 1 is not in the plan of 1 ranks"):
        PlannedDataset(sequences, [plan], rank=1)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_labels_that_are_not_those_of_the_plan_are_refused_when_read():
    sequences = random_sequences([9, 9])
    guessed = plan_naive([9, 9])
    with pytest.raises(ValueError, match=r"has 9 tokens and \d targets, but the plan was made from 9 and 8; .*measure"):
        list(PlannedDataset(sequences, [guessed]))


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ([{"input_ids": [7, 7], "attention_mask": [1, 1]}], "sequence 0 has no labels, but the keys input_ids, atten"),
        ([{"messages": []}], "sequence 0 has no input_ids, but the keys messages"),
        ([([7], [7])], "sequence 0 has no input_ids, but the type tuple"),
        (iter(()), "the sequences are of the type tuple_iterator: a plan needs the lengths of all"),
        ({"input_ids": [[7]], "labels": [[7]]}, "the sequences are of the type dict: .*give a list"),
        ("store", "the sequences are of the type str"),
    ],
    ids=["no labels", "messages", "pairs", "stream", "columns", "path"],
)  # fmt: skip
def test_sequences_in_another_form_are_refused_in_a_sentence_when_they_are_measured(sequences, says):
    with pytest.raises(ValueError, match=says):
        inspect.unwrap(measure)(sequences)  # users have no checks of types around it


def test_an_evaluation_in_which_nothing_is_a_target_is_refused():
    masked = [{"input_ids": [7] * n, "labels": [-100] * n} for n in (2, 4, 3)]
    with pytest.raises(ValueError, match="none of the 3 sequences of the evaluation has a target"):
        EvaluationDataset(masked, capacity=9)
    with pytest.raises(ValueError, match="ranks is 0; the evaluation needs at least one process"):
        EvaluationDataset(random_sequences([3]), capacity=9, ranks=0)


@pytest.mark.parametrize(
    "options", [{"weighting": "eq4"}, {"weighting": "eq3", "exponent": 0.5}, {"local_gpus": 2}], ids=str
)
def test_options_that_mean_nothing_are_refused(options):
    dataset, _, _ = planned([3, 9], dataset={"local_gpus": None})
    with pytest.raises(Exception, match="weighting|exponent"):
        step_weights(*dataset.steps[0], **options)
