"""Models whose weights are quantized: exact, or refused with advice.

What bitsandbytes, torchao and HQQ put in the place of a layer or weight has stand-ins: the packages are not asked for.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conftest import random_sequences, tiny_llama
from longalign.recipe.attention import register_attention
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.loss import attach_loss_head, weighted_loss
from longalign.train import frozen_head, store_check
from longalign.train.preflight import preflight

SEQUENCES = [{**one, "loss_weight": 0.1} for one in random_sequences((9, 4, 6))]


class Linear8bitLt(nn.Linear):
    """As bitsandbytes names it: a threshold above 0 keeps features in 16 bits by all tokens of a batch."""

    state = SimpleNamespace(threshold=6.0)


@pytest.mark.parametrize("collator", [PackedCollator, PaddedCollator])
def test_8_bits_with_a_threshold_are_refused_for_several_sequences_and_exact_without_one(collator):
    model = tiny_llama(attention=register_attention())
    model.model.layers[0].mlp.up_proj.__class__ = Linear8bitLt
    with pytest.raises(ValueError, match=r"threshold: 6\).*llm_int8_threshold=0.0, or in 4 bits"):
        weighted_loss(model, collator(0)(SEQUENCES))
    for method in ("packing", "sorted"):
        with pytest.raises(ValueError, match="tokens of all sequences choose"):
            preflight(model, method=method)
    alone = sum(weighted_loss(model, collator(0)([one])) for one in SEQUENCES)

    model = tiny_llama(attention=register_attention())
    model.model.layers[0].mlp.up_proj.__class__ = type("Linear8bitLt", (Linear8bitLt,), {"state": SimpleNamespace()})
    torch.testing.assert_close(weighted_loss(model, collator(0)(SEQUENCES)), alone)


class Weight(torch.Tensor):
    """A weight that a linear layer takes, and a matrix product of its transpose does not."""

    __module__ = "torchao.quantization"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.T.__get__:
            raise NotImplementedError("unimplemented operator")
        found = super().__torch_function__(function, types, args, kwargs)
        return found.as_subclass(torch.Tensor) if function is nn.functional.linear else found


def test_a_head_that_torchao_quantizes_has_the_loss_of_its_logits():
    model = tiny_llama(attention=register_attention())
    wanted = weighted_loss(model, PackedCollator(0)(SEQUENCES))
    whole = model.lm_head.weight.detach()
    for seen_before in (False, True):
        model = tiny_llama(attention=register_attention())
        if seen_before:
            attach_loss_head(model)
        model.lm_head.weight = nn.Parameter(whole.as_subclass(Weight), requires_grad=False)
        assert attach_loss_head(model) is None
        torch.testing.assert_close(weighted_loss(model, PackedCollator(0)(SEQUENCES)), wanted)


class Quantized(nn.Linear):
    """Bytes for a weight, as HQQ's; PEFT knows how to make them whole."""

    W_q = True

    def dequantize(self):
        return self.weight.float() - 128


def test_rows_of_a_quantized_head_are_looked_at_as_they_compute():
    chats = [{"input_ids": [3, 5, 7], "labels": [-100, 5, 7]}] * 2
    model, rows = tiny_llama(), torch.randint(0, 256, (32, 8), generator=torch.Generator().manual_seed(0)).byte()
    for alike in (False, True):
        head = Quantized(1, 1, bias=False)
        rows[8] = rows[7] if alike else 255 - rows[7]
        head.weight = nn.Parameter(rows, requires_grad=False)
        model.set_output_embeddings(head)
        told = frozen_head.notes(model, chats)
        assert [line.partition(",")[0] for line in told] == ["answers end with token 7"] * alike


def test_a_padding_token_of_an_embedding_that_is_not_trained_is_not_told():
    model = tiny_llama()
    table = model.get_input_embeddings()
    table.padding_idx, held = 0, [{"input_ids": [5, 0, 7], "labels": [5, 0, 7]}]
    assert any("pads with token 0" in line for line in store_check.check(model, held)[0])
    table.requires_grad_(False)
    assert store_check.check(model, held)[0] == []
