"""What a training needs, by the shape of its model: memory of a device, and FLOPs of a token."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.common import paths
from longalign.train import lora, needs
from longalign.train.memory import GIB, ModelShape, footprint, smallest_that_fits
from longalign.train.parallelism import Parallelism


def test_what_would_fit_takes_as_little_communication_as_it_can():
    shape = ModelShape(4096, 32, 11008, heads=32, key_value_heads=32, head_size=128, vocab_size=32_000)  # Llama-2-7B
    sizes = {"positions": 65_536, "targets": 4096}
    engine = Parallelism(ranks=8, zero=0, bf16=True)
    assert footprint(shape, engine, **sizes).device > 80
    fits = smallest_that_fits(shape, engine, device=80, **sizes)
    assert (fits.zero, fits.offload, fits.gradient_checkpointing) == (1, "none", True)
    assert footprint(shape, fits, **sizes).device <= 80
    assert smallest_that_fits(shape, engine, device=1, **sizes) is None
    offloaded = footprint(shape, Parallelism(ranks=8, zero=3, offload="all", bf16=True), positions=0, targets=0)
    assert offloaded.device == 0 and offloaded.node * GIB == pytest.approx(16 * shape.parameters, rel=1e-6)


def test_a_loss_in_chunks_takes_little_memory_and_one_of_changed_logits_all_of_them(tmp_path):
    """65,536 targets of Qwen2-7B's vocabulary: their fp32 logits alone would be 37 GiB."""
    shape = ModelShape(3584, 28, 18944, heads=28, key_value_heads=4, head_size=128, vocab_size=152_064)
    engine = Parallelism(ranks=8, zero=2, bf16=True, gradient_checkpointing=True)
    sizes = {"positions": 65_536, "targets": 65_536}
    chunk, matrix, states = 8 * 1024 * 152_064, 8 * 152_064 * 3584, 2 * 65_536 * 3584
    assert footprint(shape, engine, **sizes).logits * GIB == pytest.approx(chunk + matrix + states)
    assert footprint(replace(shape, chunked=False), engine, **sizes).logits * GIB == 16 * 65_536 * 152_064
    for model, chunked in (("llama", True), ("gemma2", False)):
        config = AutoConfig.for_model(model, hidden_size=16, num_hidden_layers=1, intermediate_size=16, vocab_size=32,
                                      num_attention_heads=2, num_key_value_heads=1, head_dim=8)  # fmt: skip
        config.save_pretrained(tmp_path / model)
        assert needs.model_shape(tmp_path / model).chunked == chunked


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 64, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
SHAPES = {
    "llama": SIZES,
    "starcoder2": SIZES,  # two matrices in its feed-forward layers
    "qwen2_moe": {**SIZES, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                  "shared_expert_intermediate_size": 24},
    "hunyuan_v1_moe": {**SIZES, "num_experts": 4, "moe_topk": 2},
    "gemma4_text": {**SIZES, "global_head_dim": 16, "hidden_size_per_layer_input": 0,  # heads of two sizes
                    "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_flops_of_a_token_are_those_that_the_model_computes(tmp_path, kind):
    AutoConfig.for_model(kind, **SHAPES[kind]).save_pretrained(tmp_path)
    told = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), **told)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.tensor([[1]]), use_cache=False)
    of_attention = 4 * sum(layer.num_heads * layer.head_dim if hasattr(layer, "num_heads") else 4 * layer.head_dim
                           for layer in model.modules() if hasattr(layer, "q_proj"))  # fmt: skip
    computed = 3 * (counter.get_total_flops() - of_attention)  # backward takes twice as many
    assert needs.model_shape(tmp_path).cost.per_token == pytest.approx(computed, rel=0.01)


def test_flops_of_lora_are_without_gradients_of_frozen_weights():
    base = paths.bases() / "mini-6b"
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    lora.adapt(model, 4, seed=0)
    with FlopCounterMode(display=False) as counter:
        model(torch.tensor([[1]]), use_cache=False).logits.sum().backward()
    told = needs.model_shape(base, lora_rank=4).cost.per_token
    assert 0.93 * told < counter.get_total_flops() < told, "the first layer's queries, keys and values hand nothing on"
    assert needs.model_shape(base).cost.per_token > 1.3 * told


def test_lora_keeps_states_of_what_it_trains_alone_and_ranks_that_share_sequences_a_slice_of_activations():
    base, engine = paths.bases() / "mini-6b", Parallelism(ranks=2, zero=0)
    whole, adapted = needs.model_shape(base), needs.model_shape(base, lora_rank=4)
    assert whole.trained is None and 0 < adapted.trained < whole.parameters / 5
    assert adapted.parameters == whole.parameters + adapted.trained
    found = footprint(adapted, engine, positions=0, targets=0)
    assert found.optimizer * GIB == pytest.approx(8 * adapted.trained) and found.gradients < found.parameters / 5
    sizes = {"positions": 65_536, "targets": 4096}
    alone, shared = (footprint(whole, replace(engine, sequence_parallel=n), **sizes) for n in (1, 2))
    assert (shared.activations, shared.logits) == (alone.activations / 2, alone.logits), "targets may be in one slice"
    plain = footprint(adapted, Parallelism(bf16=True), positions=0, targets=0)
    assert plain.parameters * GIB == 4 * adapted.parameters, "without DeepSpeed bf16 leaves the weights as they are"
    assert shared.optimizer == alone.optimizer
