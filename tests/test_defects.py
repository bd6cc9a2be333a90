"""Faults of the released code: each takes away exactly what it is said to, and nothing else changes."""

import numpy as np
import pytest

from longalign.recipe.batching import plan_packing, plan_sorted
from longalign.recipe.dataset import PlannedDataset
from longalign.train.released_faults import DEFECTS, cut_pack, faulty_dataset, lost_targets

LENGTHS = [2, 4, 3, 5, 1, 6, 2, 2]
SEQUENCES = [{"input_ids": np.arange(n) + 10 * i, "labels": np.arange(n) + 10 * i} for i, n in enumerate(LENGTHS)]


def packs(**changes):
    return plan_packing(LENGTHS, **{"capacity": 6, "accumulation": 1, **changes})


def total_weight(micro_batch):
    return sum(feature["loss_weight"] * (len(feature["labels"]) - 1) for feature in micro_batch)


def test_the_first_packs_are_cut_to_half_with_doubled_weights_and_the_later_ones_are_whole():
    plan = plan_packing([4] * 12, capacity=8)
    sequences = [{"input_ids": [7] * 4, "labels": [7] * 4} for _ in range(12)]
    whole, cut = PlannedDataset(sequences, [plan]), faulty_dataset("first packs", sequences, [plan])
    assert len(plan.steps) == 6 and len(cut) == len(whole)
    for index in range(4):
        assert [len(feature["input_ids"]) for feature in cut[index]] == [4]
        assert cut[index][0]["loss_weight"] == 2 * whole[index][0]["loss_weight"]
    assert [cut[index] for index in (4, 5)] == [whole[index] for index in (4, 5)]
    assert lost_targets(cut, [plan]) == 4 * 3


def test_the_first_packs_are_cut_in_every_epoch():
    sequences = [{"input_ids": [7] * 4, "labels": [7] * 4} for _ in range(12)]
    plans = [plan_packing([4] * 12, capacity=8, epoch=epoch) for epoch in range(2)]
    cut = faulty_dataset("first packs", sequences, plans)
    assert [len(cut[index]) for index in range(12)] == [1, 1, 1, 1, 2, 2] * 2


def test_a_sequence_that_reaches_over_the_cut_keeps_its_beginning():
    features = [{"input_ids": list(range(n)), "labels": list(range(n)), "loss_weight": 0.1} for n in (2, 4, 3)]
    assert [feature["labels"] for feature in cut_pack(features, 4)] == [[0, 1], [0, 1]]
    assert [len(feature["labels"]) for feature in cut_pack(features, 6)] == [2, 4]


def has_targets(dataset):
    """Numbers of the sequences that a dataset trains on."""
    features = [feature for i in range(len(dataset)) for feature in dataset[i]]
    return {int(feature["input_ids"][0]) // 10 for feature in features if feature["loss_weight"] > 0}


def test_the_last_pack_of_each_epoch_is_lost_and_its_step_keeps_its_shape():
    sequences = [{"input_ids": np.arange(n) + 10 * i, "labels": np.arange(n) + 10 * i} for i, n in enumerate([4] * 12)]
    plans = [plan_packing([4] * 12, capacity=8, epoch=epoch) for epoch in range(2)]
    for plan in plans:
        dataset = faulty_dataset("last pack", sequences, [plan])
        assert has_targets(dataset) == set(range(12)) - set(plan.steps[-1].rows[-1])
        assert lost_targets(dataset, [plan]) == 2 * 3
    both = faulty_dataset("last pack", sequences, plans)
    assert len(both) == len(PlannedDataset(sequences, plans)) and lost_targets(both, plans) == 2 * 2 * 3


def test_weights_of_a_step_without_the_lost_pack_still_sum_to_one():
    plan = packs(accumulation=10)
    dataset = faulty_dataset("last pack", SEQUENCES, [plan])
    assert sum(total_weight(dataset[i]) for i in range(len(dataset))) == pytest.approx(1, abs=1e-12)


def test_sorted_batching_drops_the_longest_that_no_group_of_96_holds():
    lengths = [*range(2, 102)]
    sequences = [{"input_ids": [10 * i] * n, "labels": [10 * i] * n} for i, n in enumerate(lengths)]
    dataset = faulty_dataset("longest dropped", sequences, [plan_sorted(lengths, rows=4)])
    assert has_targets(dataset) == set(range(96)), "the four longest are gone"


def test_an_unknown_defect_is_named_beside_those_there_are():
    with pytest.raises(KeyError, match="'typo'.*" + ", ".join(DEFECTS)):
        faulty_dataset("typo", SEQUENCES, [packs()])
