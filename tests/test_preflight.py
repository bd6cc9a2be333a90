"""The proof before the first step: models that are trained exactly pass, those that are not are refused, by number."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.recipe import architectures, attention, masks
from longalign.recipe.batching import plan_packing
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.loss import weighted_loss
from longalign.train import alone, preflight, probes, store_check
from longalign.train.models import load_model, new_model
from longalign.train.trainer import train
from test_trainer import CONFIG, fresh_model, make_store
from tiny_models import DECODER, model, sequences

formats = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
methods = pytest.mark.parametrize("method", ["packing", "naive"])


@formats
@methods
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_model_that_is_trained_exactly_passes_and_nothing_of_it_changes(kind, method, dtype):
    tried = model(kind, dtype)
    tried.model.layers[0].eval() if kind == "llama" else None
    before = {name: tensor.clone() for name, tensor in tried.state_dict().items()}
    modes, state = [part.training for part in tried.modules()], torch.get_rng_state()
    assert preflight.preflight(tried, method=method) == []
    assert torch.equal(torch.get_rng_state(), state) and [part.training for part in tried.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in tried.state_dict().items())
    assert all(parameter.grad is None for parameter in tried.parameters())
    assert tried.config._attn_implementation == attention.NAME
    assert not tried.get_input_embeddings()._forward_hooks


def test_an_engine_that_waits_for_the_gradients_of_a_module_learns_nothing_of_the_proof():
    """As ZeRO-3 does for fused experts, whose gradients it adds up when their inputs have theirs."""
    tried, told = model("mixtral"), []
    hook = tried.model.layers[0].mlp.register_full_backward_hook(lambda *_: told.append(1))
    assert preflight.preflight(tried) == [] and not told
    tried(input_ids=torch.tensor([[3, 4]])).logits.sum().backward()
    assert told == [1]
    hook.remove()
    assert not tried.model.layers[0].mlp._backward_hooks


def test_a_folder_whose_own_code_is_not_run_is_told(tmp_path):
    """transformers takes its own class of that name, without a word."""
    own = model("llama")
    assert preflight.look(own, "packing") == ([], 0)
    own.config.auto_map = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    own.save_pretrained(tmp_path)
    notes, _ = preflight.look(load_model(tmp_path), "packing")
    assert notes == [f"{tmp_path} comes with code of its own (modeling_own.OwnForCausalLM), which is not run: this is "
                     "transformers' LlamaForCausalLM"]  # fmt: skip


def leaking(query, key, value, cu_seqlens, max_seqlen, **options):
    whole = cu_seqlens[[0, -1]]
    return plain(query, key, value, whole, int(whole[1]), **options)


plain = attention.block_causal_attention


@formats
def test_an_attention_that_forgets_the_boundaries_is_refused(dtype, monkeypatch):
    monkeypatch.setattr(attention, "block_causal_attention", leaking)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM cannot be .* in a pack: .* depends on the others") as told:
        preflight.preflight(model("llama", dtype))
    assert str(told.value).endswith("; in padded rows (naive and sorted batching) it is exact")
    assert preflight.preflight(model("llama", dtype), method="sorted") == [], "padded, it is another attention"


def test_even_a_faint_leak_is_refused(monkeypatch):
    """The weights of a new model let attention hardly matter: outputs in bf16 would not show it."""
    monkeypatch.setattr(attention, "block_causal_attention", leaking)
    torch.manual_seed(0)
    faint = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **DECODER), attn_implementation="longalign")
    with pytest.raises(ValueError, match="depends on the others"):
        preflight.preflight(faint.bfloat16())


@formats
def test_an_attention_that_computes_something_else_is_refused(dtype, monkeypatch):
    def sharper(*states, scaling=None, **options):
        return plain(*states, scaling=2 * scaling, **options)

    monkeypatch.setattr(attention, "block_causal_attention", sharper)
    with pytest.raises(ValueError, match=r"its outputs differ by \d.* alone with its own attention, which differs"):
        preflight.preflight(model("llama", dtype))


@methods
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_right_models_are_within_twice_the_distance_of_two_ways_and_wrong_ones_beyond_forty_times(kind, method):
    tried = model(kind)
    with probes.untouched(tried), probes.in_training(tried):
        found = alone.alone(tried)
        assert preflight._difference(tried, replace(found, times=2.0), method, 1) is None
        for layer in tried.modules():
            if type(vars(layer).get("scaling")) is float:
                layer.scaling *= 1.001
        assert "differ by" in preflight._difference(tried, replace(found, times=40.0), method, 1)
    assert alone.APART[torch.float32][1] == 8


@formats
@methods
def test_windows_are_proved_where_sequences_are_longer(method, dtype, monkeypatch):
    windowed = model("mistral", dtype)
    assert preflight.preflight(windowed, method=method, sequences=sequences(20)) == []
    assert windowed.config.sliding_window == 16
    plain_mask = masks.DeferredMask.__init__

    def unlimited(self, arguments):
        everything = {"mask_function": lambda row, head, query, key: key <= query} if arguments["local_size"] else {}
        plain_mask(self, {**arguments, **everything})

    monkeypatch.setattr(masks.DeferredMask, "__init__", unlimited)
    with pytest.raises(ValueError, match="its outputs differ"):
        preflight.preflight(windowed, method=method, sequences=sequences(20))
    assert preflight.preflight(windowed, method=method, sequences=sequences(16)) == [], "no sequence is longer"


@methods
def test_a_layer_that_mixes_rows_or_positions_is_refused(method):
    mixing = model("llama")
    mixing.model.layers[1].mlp.register_forward_hook(lambda _, __, output: output + output.mean(dim=(0, 1)))
    with pytest.raises(ValueError, match=r"cannot be trained in .*depends on the others") as told:
        preflight.preflight(mixing, method=method)
    assert "exact" not in str(told.value), "only advice that was tried is given"


class Gated(nn.Module):
    """Adds the sum over a row, by a gate that begins at 0."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp, self.gate = mlp, nn.Parameter(torch.zeros(()))

    def forward(self, states):
        return self.mlp(states) + self.gate * states.cumsum(1)


@formats
def test_what_is_going_to_mix_positions_is_refused_though_it_begins_at_0(dtype):
    tried = model("llama", dtype)
    tried.model.layers[0].mlp = Gated(tried.model.layers[0].mlp).to(dtype)
    with pytest.raises(ValueError, match="depends on the others"):
        preflight.preflight(tried)
    assert tried.model.layers[0].mlp.gate == 0
    tried.model.layers[0].mlp.gate.requires_grad_(False)
    assert preflight.preflight(tried) == [], "it stays 0"


def test_an_adapter_that_begins_once_in_a_row_is_refused_in_packs():
    settings = peft.LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[5], task_type="CAUSAL_LM")
    prefix = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    for given, place in ((settings, "alora_invocation_tokens"), (prefix, "num_virtual_tokens")):
        adapted = peft.get_peft_model(model("llama"), given)
        with pytest.raises(ValueError, match=rf"its adapter \({place}\) begins once in a row"):
            preflight.preflight(adapted)
        assert preflight.preflight(adapted, method="naive") == []


@methods
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_an_adapter_that_adds_tokens_to_a_row_is_refused_with_or_without_the_preflight(kind, method):
    """Phi's output layer has a bias, so that its loss is taken from the logits at places in the row."""
    adapted = peft.get_peft_model(model(kind), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="num_virtual_tokens" if method == "packing" else "11 tokens have 14"):
        preflight.preflight(adapted, method=method)
    features = [{"input_ids": [7] * n, "labels": [7] * n, "loss_weight": 1.0} for n in (2, 4, 3)]
    collate = PackedCollator(0) if method == "packing" else PaddedCollator(0)
    with pytest.raises(ValueError, match="num_virtual_tokens|must agree|no target is known"):
        weighted_loss(adapted, collate(features))


def test_a_model_that_is_cut_over_processes_is_refused():
    cut = model("llama")
    cut._tp_size = 2
    with pytest.raises(ValueError, match="is cut over 2 processes"):
        preflight.preflight(cut)


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


@methods
def test_a_loss_that_is_weighted_wrongly_is_refused(method, monkeypatch):
    monkeypatch.setattr(preflight, "weighted_loss", lambda *of: 1.001 * weighted(*of))
    with pytest.raises(ValueError, match=r"its loss differ by 1.0e-03"):
        preflight.preflight(model("gpt2"), method=method)


weighted = preflight.weighted_loss


def test_a_model_with_more_than_cross_entropy_in_its_loss_is_refused(monkeypatch):
    router = model("mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    with pytest.raises(ValueError, match="MixtralForCausalLM"):
        preflight.preflight(router)
    with pytest.raises(ValueError, match=r"a loss of its own: \d\.\d+, and cross entropy is"):
        preflight.prove(router, "packing")


def test_a_recurrence_is_refused_in_packs_by_its_parts_and_by_numbers():
    with pytest.raises(ValueError, match="Mamba2ForCausalLM cannot be trained on packs"):
        preflight.look(model("mamba2"), "packing")
    with pytest.raises(ValueError, match=r"depends on the others .*it is exact$"):
        preflight.prove(model("mamba2"), "packing")
    assert preflight.preflight(model("mamba2"), method="naive") == []


def test_training_computes_the_same_with_and_without_the_proof(tmp_path, monkeypatch):
    store, config = make_store(tmp_path / "store"), replace(CONFIG, steps=2)
    trained = {}
    for proved in (True, False):
        if not proved:
            monkeypatch.setattr(preflight, "prove", lambda *_, **__: None)
        drops = fresh_model()
        drops.config.attention_dropout = 0.1
        for layer in drops.model.layers:
            layer.self_attn.attention_dropout = 0.1
        trained[proved] = train(drops, store, config, tmp_path / str(proved)).model.state_dict()
    assert all(torch.equal(tensor, trained[False][name]) for name, tensor in trained[True].items())


def test_ids_that_a_model_reads_and_does_not_write_are_no_targets():
    reads_more = model("llama")
    reads_more.set_input_embeddings(nn.Embedding(48, 32))
    prompt = [{"input_ids": [47, 3, 4], "labels": [-100, 3, 4]}]
    assert preflight.preflight(reads_more, sequences=prompt) == []
    with pytest.raises(ValueError, match="sequence 0 holds the token id 47, .* knows the ids 0 to 39"):
        preflight.preflight(reads_more, sequences=[{"input_ids": [3, 47, 4], "labels": [-100, 47, 4]}])


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


@pytest.mark.parametrize(("options", "told"), [
    ({"method": "packs"}, "method is 'packs'; it is one of packing, naive, sorted"),
    ({"plans": [plan_packing([2, 4, 3], capacity=9)]}, "plans are compared with a Trainer's arguments"),
])  # fmt: skip
def test_what_the_proof_is_asked_for_is_named(options, told):
    with pytest.raises(ValueError, match=told):
        preflight.preflight(model("llama"), **options)


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


def test_it_costs_a_miniature_less_than_a_second():
    import time

    mini, took = new_model("mini-13b", vocab_size=1000, max_length=64, seed=0), []
    for _ in range(3):
        begun = time.process_time()
        preflight.preflight(mini)
        took.append(time.process_time() - begun)
    assert min(took) < 1
