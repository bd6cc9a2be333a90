"""Stage g of the GPU program on a CPU: shapes of shared and local attention, and the constants that follow."""

import functools

import pytest
import torch
from benchmarks.gpu import backends, llama, sharing, timing
from benchmarks.gpu.rows import Context

from gpu_rows import CARD, add, row
from longalign.report import gpu_results

LAYER, BESIDE, RATE = 0.5, 3.0, 2e9
"""Seconds of a layer and of what is beside them, and FLOP/s of attention, of a card that is made up."""


@pytest.fixture
def shapes(monkeypatch):
    """Heads and tokens of every attention that is measured; times are those of the card that is made up."""
    seen, packed = [], backends.packed

    def attention(lengths, device):
        def attend(query, key, value):
            seen.append((query.shape[1], query.shape[2]))
            assert lengths == [query.shape[2]] and query.shape == key.shape == value.shape
            return packed(lengths, device)(query, key, value)

        return attend

    def measure(call, inputs, device, *, rounds, warm_up):
        call(*inputs[0])
        if isinstance(call, functools.partial):
            return timing.Times((BESIDE + LAYER * len(call.args[0].model.layers),), 0)
        (heads, tokens), size = seen[-1], llama.head_size(sharing.TINY_SHAPE)
        return timing.Times((6 * heads * size * tokens**2 / RATE,), 0)

    monkeypatch.setattr(backends, "packed", attention)
    monkeypatch.setattr(timing, "measure", measure)
    return seen


def test_whole_sequences_meet_with_a_part_of_the_heads_and_rates_are_those_of_the_cost_model(tmp_path, shapes):
    context = Context(torch.device("cpu"), True, tmp_path, "abc", torch.float32)
    found = {one.system: one for one in sharing.run(context)}
    assert shapes == [(8, 128), (4, 256), (2, 512), (1, 1024)]
    assert {one.status for one in found.values()} == {"ok"} and list(found)[:2] == ["layers", "local"]
    layer = 4 / 3 * llama.flops([32] * 4, 1, {**sharing.TINY_SHAPE, "vocab_size": 0})
    assert found.pop("layers").value * 1e12 == pytest.approx(layer / LAYER)
    assert [one.value * 1e12 for one in found.values()] == pytest.approx([RATE] * 4)


def test_the_constants_of_a_proposal_are_read_from_the_rows_of_the_stage(tmp_path, shapes):
    context = Context(torch.device("cpu"), True, tmp_path, "abc", torch.float32)
    taken = [row(*(getattr(one, name) for name in ("stage", "case", "system", "metric", "value", "unit")))
             for one in sharing.run(context)]  # fmt: skip
    (card,) = gpu_results.read_cards(add(tmp_path / "gpu" / "some", "sharing", taken).parent)
    pace = gpu_results.pace_of(card)
    assert (pace.attention, pace.card) == (pytest.approx(RATE), f"{CARD}, 2026-11-28")
    assert pace.shared_attention == pytest.approx(dict.fromkeys((2, 4, 8), RATE))
    assert gpu_results.newest_pace([card]) == pace and gpu_results.newest_pace([]) is None
    taken.pop(0)
    (card,) = gpu_results.read_cards(add(tmp_path / "less" / "some", "sharing", taken).parent)
    assert gpu_results.pace_of(card) is None, "without the layers nothing is known"


def test_layers_that_take_no_longer_when_they_are_more_are_timed_with_what_is_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "measure", lambda *_, **__: timing.Times((2.0,), 0))
    (found,) = sharing.layer_rows(Context(torch.device("cpu"), True, tmp_path, "abc", torch.float32))
    layer = 4 / 3 * llama.flops([32] * 4, 1, {**sharing.TINY_SHAPE, "vocab_size": 0})
    assert found.value * 1e12 == pytest.approx(layer / 0.5) and "with what is beside" in found.note
