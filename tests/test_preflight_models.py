"""The proof before the first step on rarer models: what they compute otherwise is seen, or passes where exact."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.recipe import architectures, attention
from longalign.train import preflight, store_check
from test_trainer import fresh_model
from tiny_models import DECODER, model, sequences

methods = pytest.mark.parametrize("method", ["packing", "naive"])


class Normed(nn.Module):
    """Takes the mean and spread of a batch, in training."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp, self.norm = mlp, nn.BatchNorm1d(32)

    def forward(self, states):
        return self.norm(self.mlp(states).transpose(1, 2)).transpose(1, 2)


class Crowded(nn.Module):
    """An expert that takes half of the tokens of a batch, the first ones, in training."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, states):
        rows = states.flatten(0, 1)
        kept = torch.arange(len(rows)) < (len(rows) // 2 if self.training else len(rows))
        return (self.mlp(rows) * kept[:, None]).view_as(states)


@methods
@pytest.mark.parametrize("kind", [Normed, Crowded], ids=["its statistics", "the room of an expert"])
def test_what_a_batch_shares_in_training_alone_is_refused(kind, method):
    tried = model("llama")
    tried.model.layers[0].mlp = kind(tried.model.layers[0].mlp)
    buffers = {name: buffer.clone() for name, buffer in tried.named_buffers()}
    with pytest.raises(ValueError, match=r"LlamaForCausalLM cannot be trained in .*(depends on the others|differ by)"):
        preflight.preflight(tried, method=method)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in tried.named_buffers())


@pytest.mark.parametrize("mixes", [False, True], ids=["and is right", "and mixes a batch"])
def test_a_model_that_leaves_more_than_dropout_to_chance_is_judged_without_it(mixes):
    noisy = model("llama", attention_dropout=0.5)
    noisy.model.layers[0].mlp = Normed(noisy.model.layers[0].mlp) if mixes else noisy.model.layers[0].mlp
    noise = lambda part, _, output: output + torch.randn_like(output) * part.training  # noqa: E731
    noisy.model.layers[1].mlp.register_forward_hook(noise)
    with pytest.raises(ValueError, match="depends on the others") if mixes else contextlib.nullcontext():
        preflight.preflight(noisy)
    assert noisy.model.layers[0].self_attn.attention_dropout == 0.5 == noisy.config.attention_dropout


def test_a_recurrence_is_refused_in_packs_by_its_parts_and_by_numbers():
    with pytest.raises(ValueError, match="Mamba2ForCausalLM cannot be trained on packs"):
        preflight.look(model("mamba2"), "packing")
    with pytest.raises(ValueError, match=r"depends on the others .*it is exact$"):
        preflight.prove(model("mamba2"), "packing")
    assert preflight.preflight(model("mamba2"), method="naive") == []


@pytest.mark.parametrize("size", [16, 30])  # of which the pack of the passes has more and fewer tokens
def test_an_indexer_that_picks_of_long_rows_alone_is_refused_where_there_are_some(size):
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    index = {"index_topk": size, "index_head_dim": 8, "index_n_heads": 4}
    settings = {**DECODER, **latent, **experts, **index, "num_key_value_heads": 4, "moe_intermediate_size": 16}
    config = AutoConfig.for_model("deepseek_v32", **settings)
    picks = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register_attention())
    assert preflight.preflight(picks, method="naive", sequences=sequences(9, size)) == []
    with pytest.raises(ValueError, match="DeepseekV32Attention gives its attention 'indices'"):
        preflight.preflight(picks, method="naive", sequences=sequences(9, size + 1))
    # a pack of short sequences is a longer row
    with pytest.raises(ValueError, match="gives its attention 'indices', .*; in padded rows .* exact$"):
        preflight.preflight(picks, sequences=sequences(9, size))
    assert picks.config.index_topk == size


LLAMA_4 = {**DECODER, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 32}


def test_positions_that_are_counted_in_a_row_are_refused_however_far_they_begin_to_matter():
    config = AutoConfig.for_model("llama4_text", **LLAMA_4, no_rope_layers=[1, 0], floor_scale=8192)
    tried = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register_attention())
    with pytest.raises(ValueError, match=r"Llama4ForCausalLM cannot .* on long packs: .*; in padded rows .* exact$"):
        preflight.preflight(tried)
    assert tried.config.floor_scale == 8192 == tried.model.layers[1].self_attn.floor_scale
    assert "Llama4TextAttention scales queries by places" in architectures.why_not_counted(tried, 8192)
    assert architectures.why_not_counted(tried, 8191) is None
    tried.config.attn_temperature_tuning = tried.model.layers[1].self_attn.attn_temperature_tuning = False
    assert preflight.preflight(tried) == [] and architectures.why_not_counted(tried, 8192) is None


def test_a_softcap_that_is_left_out_is_refused_though_it_is_far_above_the_scores(monkeypatch):
    tried = model("gemma2", attn_logit_softcapping=50.0)
    assert preflight.preflight(tried) == []
    monkeypatch.setattr(attention, "own_attention", lambda *_: None)
    with pytest.raises(ValueError, match="Gemma2ForCausalLM cannot be trained in a pack: its outputs differ"):
        preflight.preflight(tried)
    assert tried.config.attn_logit_softcapping == 50


def test_a_router_whose_loss_has_another_name_or_a_small_share_is_refused():
    options = {"output_router_logits": True, "num_local_experts": 4, "num_experts_per_tok": 2}
    config = AutoConfig.for_model("jetmoe", **{**DECODER, **options, "kv_channels": 8, "num_key_value_heads": 4})
    router = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register_attention())
    with pytest.raises(ValueError, match="JetMoeForCausalLM adds the router's auxiliary loss.*, aux_loss_coef: 0.01"):
        preflight.preflight(router, method="naive")
    with pytest.raises(ValueError, match="JetMoeForCausalLM computes a loss of its own"):
        preflight.prove(router, "naive")


def test_a_model_whose_weights_are_no_numbers_is_refused_as_such():
    broken = model("llama")
    broken.model.norm.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="LlamaForCausalLM has the loss nan on a short sequence"):
        preflight.preflight(broken)


def test_a_model_that_scales_its_embeddings_in_place_passes():
    settings = {"vocab_size": 40, "n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}
    config = AutoConfig.for_model("ctrl", **settings)
    tried = AutoModelForCausalLM.from_config(config)
    assert preflight.preflight(tried, method="naive") == []


@methods
def test_the_part_that_sees_images_says_nothing_of_the_text(method):
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config={**DECODER, "head_dim": 8}, vision_config=eyes)
    tried = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register_attention())
    assert store_check.positions(tried) is None
    assert preflight.preflight(tried, method=method, sequences=sequences(9, 20)) == []


def test_layers_may_hold_configurations_of_other_libraries():
    """As those have that are trained for quantization, by torchao."""
    model = fresh_model()
    model.model.layers[0].mlp.up_proj.config = SimpleNamespace(bits=8)
    model.model.layers[1].mlp.up_proj.config = {"bits": 8}
    assert preflight.preflight(model) == []
