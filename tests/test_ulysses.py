"""Slices of packs for ranks that share them: what each holds, what is refused. Two real ranks: `test_engine.py`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.recipe.collators import PackedCollator
from longalign.recipe.loss import weighted_cross_entropy
from longalign.train.parallelism import Parallelism
from longalign.train.sequence_parallel import attach, slice_of
from longalign.train.trainer import TrainingConfig, train
from test_trainer import fresh_model, make_store


def pack(lengths):
    rows = [{"input_ids": range(1, n + 1), "labels": [-100 if i % 3 == 1 else i + 1 for i in range(n)],
             "loss_weight": 1 / (n + 1)} for n in lengths]  # fmt: skip
    return PackedCollator(0)(rows)


packs, counts = st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5)


@given(packs, counts)
def test_slices_are_the_pack_and_its_boundaries_span_them(lengths, count):
    batch = pack(lengths)
    slices = [slice_of(batch, index, count, pad_token_id=0) for index in range(count)]
    tokens = batch["input_ids"].shape[1]
    for name in ("input_ids", "position_ids"):
        assert len({one[name].shape for one in slices}) == 1
        assert torch.equal(torch.cat([one[name] for one in slices], dim=1)[:, :tokens], batch[name])
    for one in slices:
        assert one["labels"].shape == one["loss_weights"].shape == (1, one["input_ids"].shape[1] + 1)
        offsets, whole = one["cu_seqlens"].tolist(), count * one["input_ids"].shape[1]
        assert offsets[: len(lengths) + 1] == batch["cu_seqlens"].tolist() and offsets[-1] == whole
        assert max(b - a for a, b in zip(offsets, offsets[1:], strict=False)) <= one["max_seqlen"]


@given(packs, counts)
@settings(deadline=None)
def test_the_losses_of_the_slices_add_up_to_the_packs(lengths, count):
    batch, random = pack(lengths), torch.Generator().manual_seed(0)
    tokens = batch["input_ids"].shape[1]
    hidden = torch.randn(1, tokens + count, 8, generator=random, dtype=torch.float64)
    weight = torch.randn(12, 8, generator=random, dtype=torch.float64)
    whole = weighted_cross_entropy(hidden[:, :tokens], weight, batch["labels"], batch["loss_weights"].double())
    slices = [slice_of(batch, index, count, pad_token_id=0) for index in range(count)]
    width = slices[0]["input_ids"].shape[1]
    parts = [
        weighted_cross_entropy(
            hidden[:, width * i : width * (i + 1)], weight, one["labels"], one["loss_weights"].double()
        ) for i, one in enumerate(slices)
    ]  # fmt: skip
    assert torch.allclose(sum(parts), whole, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_shared_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="sequence_parallel is 3, which does not divide a node's 8 ranks"):
        Parallelism(ranks=8, zero=2, sequence_parallel=3)
    with pytest.raises(ValueError, match="sequence_parallel needs zero: 0, 1, 2 or 3"):
        Parallelism(ranks=2, sequence_parallel=2)
    with pytest.raises(ValueError, match=r"is 4, but the model has 6 heads: they can be shared by \[1, 2, 3, 6\]"):
        attach(fresh_model(), 4)
    config = TrainingConfig(method="naive", capacity=24)
    with pytest.raises(ValueError, match="ranks share packs alone: method naive pads rows"):
        train(fresh_model(), make_store(tmp_path / "store"), config, tmp_path, sequence_parallel=1 + 1)
