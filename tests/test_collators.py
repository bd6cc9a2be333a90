"""Collated batches by hand, from every kind of feature; the filler; what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import gradients, random_sequences, tiny_llama
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.loss import weighted_loss

NO = IGNORE_INDEX
FEATURES = [
    {"input_ids": [5, 0], "labels": [5, 0], "loss_weight": 0.5},
    {"input_ids": [0, 6, 7, 8], "labels": [NO, NO, 7, 8], "loss_weight": 0.25},
    {"input_ids": [9, 9, 0], "labels": [9, NO, 0], "loss_weight": 0.125},
]


def features_of(kind):
    make = {
        "lists": list,
        "arrays": np.array,
        "int32 arrays": lambda v: np.array(v, np.int32),
        "tensors": torch.tensor,
    }[kind]
    return [{**f, "input_ids": make(f["input_ids"]), "labels": make(f["labels"])} for f in FEATURES]


def plain(batch):
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["lists", "arrays", "int32 arrays", "tensors"])
def test_lengths_2_4_3_packed_as_worked_by_hand(kind, nested):
    features = features_of(kind)
    batch = PackedCollator(1)([features] if nested else features)
    assert plain(batch) == {
        "input_ids": [[5, 0, 0, 6, 7, 8, 9, 9, 0]],
        "position_ids": [[0, 1, 0, 1, 2, 3, 0, 1, 2]],
        "cu_seqlens": [0, 2, 6, 9],
        "max_seqlen": 4,
        "labels": [[NO, 0, NO, NO, 7, 8, NO, NO, 0]],
        "loss_weights": [[0.5] * 2 + [0.25] * 4 + [0.125] * 3],
        "use_cache": False,
    }
    assert batch["cu_seqlens"].dtype == torch.int32 and type(batch["max_seqlen"]) is int
    assert batch["input_ids"].dtype == batch["labels"].dtype == batch["position_ids"].dtype == torch.int64


@pytest.mark.parametrize("kind", ["lists", "arrays", "int32 arrays", "tensors"])
def test_lengths_2_4_3_padded_as_worked_by_hand(kind):
    assert plain(PaddedCollator(1)(features_of(kind))) == {
        "input_ids": [[5, 0, 1, 1], [0, 6, 7, 8], [9, 9, 0, 1]],
        "position_ids": [[0, 1, 2, 3]] * 3,
        "labels": [[NO, 0, NO, NO], [NO, NO, 7, 8], [NO, NO, 0, NO]],
        "loss_weights": [[0.5, 0.5, 0, 0], [0.25] * 4, [0.125] * 3 + [0]],
        "use_cache": False,
    }


@given(lengths=st.lists(st.integers(0, 9), max_size=8), seed=st.integers(0, 99))
def test_packing_loses_and_pads_nothing(lengths, seed):
    features = [{**f, "loss_weight": i} for i, f in enumerate(random_sequences(lengths, seed=seed))]
    batch = PackedCollator(0)(features)
    if sum(lengths):
        assert batch["cu_seqlens"].diff().tolist() == lengths
        assert batch["input_ids"].tolist() == [[token for f in features for token in f["input_ids"]]]
        assert batch["loss_weights"].tolist() == [[float(i) for i, n in enumerate(lengths) for _ in range(n)]]


def test_the_features_are_left_as_they_were():
    feature = {"input_ids": np.arange(3), "labels": np.arange(3), "loss_weight": 1.0}
    PackedCollator(0)([feature])
    PaddedCollator(0)([feature])
    assert feature["labels"].tolist() == [0, 1, 2]


def test_a_read_only_memory_map_is_read_without_a_warning(tmp_path, recwarn):
    np.arange(4).tofile(tmp_path / "tokens")
    tokens = np.memmap(tmp_path / "tokens", dtype=np.int64, mode="r")
    for collator in (PackedCollator(0), PaddedCollator(0)):
        collator([{"input_ids": tokens, "labels": tokens, "loss_weight": 1.0}])["input_ids"].zero_()
    assert not recwarn.list


EMPTY = {
    "no sequence": [],
    "one empty micro-batch": [[]],
    "one empty sequence": [{"input_ids": [], "labels": [], "loss_weight": 0.0}],
}


@pytest.mark.parametrize("collator", [PackedCollator, PaddedCollator])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_micro_batch_is_a_filler_of_loss_zero_with_zero_gradients(collator, name):
    batch = collator(0)(EMPTY[name])
    assert batch["input_ids"].tolist() == [[0]] and batch["labels"].tolist() == [[NO]]
    model = tiny_llama().train()
    loss = weighted_loss(model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None for p in model.parameters()), "every hook of DDP must fire"
    assert not any(grad.any() for grad in gradients(model).values())


def test_an_empty_sequence_among_others_stays_in_a_pack_and_leaves_padded_rows():
    empty = {"input_ids": [], "labels": [], "loss_weight": 0.0}
    assert PackedCollator(0)([FEATURES[0], empty, FEATURES[1]])["cu_seqlens"].tolist() == [0, 2, 2, 6]
    assert PaddedCollator(0)([FEATURES[0], empty, FEATURES[1]])["input_ids"].shape == (2, 4)


@pytest.mark.parametrize("kind", [PackedCollator, PaddedCollator])
def test_a_padding_token_that_is_none_is_refused_before_the_first_filler(kind):
    for wrong in (None, -1):
        with pytest.raises(ValueError, match=f"pad_token_id is {wrong}; give any id of the vocabulary, such as 0"):
            kind(wrong)
    assert kind(np.int64(3))([])["input_ids"].tolist() == [[3]]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -0.5])
@pytest.mark.parametrize("collator", [PackedCollator(0), PaddedCollator(0)])
def test_a_weight_that_is_no_weight_is_refused(collator, weight):
    with pytest.raises(ValueError, match="feature 1 of the micro-batch has the loss_weight"):
        collator([FEATURES[0], FEATURES[1] | {"loss_weight": weight}])


@pytest.mark.parametrize("collator", [PackedCollator(0), PaddedCollator(0)])
def test_what_is_wrong_is_named(collator):
    with pytest.raises(ValueError, match="feature 1 .* no loss_weight; .* PlannedDataset"):
        collator([FEATURES[0], {"input_ids": [1], "labels": [1]}])
    with pytest.raises(ValueError, match="feature 0 .* no integers"):
        PackedCollator(0)([{"input_ids": [1.5, 2.0], "labels": [-100, 2], "loss_weight": 1.0}])
    with pytest.raises(ValueError, match=r"feature 0 .* \(2,\) and labels of shape \(3,\)"):
        collator([{"input_ids": [1, 2], "labels": [1, 2, 3], "loss_weight": 1.0}])
    with pytest.raises(ValueError, match="2 micro-batches at once; .* to 1"):
        collator([FEATURES, FEATURES])


def test_weights_may_be_asked_for_in_fp64():
    for collator in (PackedCollator(0, weights_dtype=torch.float64), PaddedCollator(0, weights_dtype=torch.float64)):
        assert collator([{**FEATURES[0], "loss_weight": 0.1}])["loss_weights"][0, 0].item() == 0.1
