"""The proof before the first step: models that are trained exactly pass, those that are not are refused, by number."""

from dataclasses import replace

import peft
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.recipe import attention, masks
from longalign.recipe.batching import plan_packing
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.loss import weighted_loss
from longalign.train import alone, preflight, probes
from longalign.train.models import load_model, new_model
from longalign.train.trainer import train
from test_trainer import CONFIG, fresh_model, make_store
from tiny_models import DECODER, model, sequences

methods = pytest.mark.parametrize("method", ["packing", "naive"])

formats = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


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


@pytest.mark.parametrize(("options", "told"), [
    ({"method": "packs"}, "method is 'packs'; it is one of packing, naive, sorted"),
    ({"plans": [plan_packing([2, 4, 3], capacity=9)]}, "plans are compared with a Trainer's arguments"),
])  # fmt: skip
def test_what_the_proof_is_asked_for_is_named(options, told):
    with pytest.raises(ValueError, match=told):
        preflight.preflight(model("llama"), **options)


def test_it_costs_a_miniature_less_than_a_second():
    import time

    mini, took = new_model("mini-13b", vocab_size=1000, max_length=64, seed=0), []
    for _ in range(3):
        begun = time.process_time()
        preflight.preflight(mini)
        took.append(time.process_time() - begun)
    assert min(took) < 1
