"""Small models of many architectures against one sequence at a time with their own attention: exact, or refused."""

import csv
import itertools

import pytest
import torch
from benchmarks.models import small
from benchmarks.models.matrix import WAYS, alone, generated, page, quiet, row, together, verdict, written_alone
from torch import nn

from longalign.common import paths
from longalign.evals.decoding import greedy
from longalign.evals.teacher_forced import target_logits
from longalign.recipe import own_attention
from longalign.recipe.architectures import ONE_WAY, mixers, why_no_loss, why_not_packed, why_not_padded
from longalign.recipe.attention import register_attention
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.loss import weighted_loss
from longalign.train import store_check

RECURRENT = {"packed": "refused", "padded": "exact", "decoded": "refused"}
FEW = {
    "llama": {}, "mixtral": {}, "gpt2": {}, "deepseek_v3": {},
    "gpt_oss": {},  # attention sinks, windows
    "gemma2": {},  # softcaps of attention and logits, windows
    "granite": {},  # scaled logits
    "mistral": {},  # windows in every layer
    "phi": {},  # a head with bias
    "stablelm": {"decoded": "refused"},  # its layers drop what they do not know
    "jamba": RECURRENT, "lfm2": RECURRENT,
    "deepseek_v32": dict.fromkeys(WAYS, "refused"),  # an indexer that picks keys
    "falcon": dict.fromkeys(WAYS, "refused"),
}  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_is_exact_in_every_way_or_refused(name):
    with quiet():
        found = row(name)
    assert {way: found[way] for way in WAYS} == {**dict.fromkeys(WAYS, "exact"), **FEW[name]}, found["reason"]
    assert found["reason"].startswith(found["class"][:5]) or not FEW[name], "a refusal names the class"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", small.names())
def test_no_architecture_is_wrong_in_silence(name):
    with quiet():
        found = row(name)
    with (paths.results() / "models.csv").open(encoding="utf-8", newline="") as file:
        committed = {kept["architecture"]: kept for kept in csv.DictReader(file)}[name]
    assert [found[way] for way in WAYS] == [committed[way] for way in WAYS], found["reason"]
    assert not [way for way in WAYS if found[way].startswith("wrong")]
    assert "fails" not in (found["packed"], found["padded"], found["decoded"]), found["reason"]


def test_the_verdict_sees_a_wrong_gradient_and_a_wrong_loss():
    wanted = (1.0, {"w": torch.tensor([1.0, 2.0])})
    assert verdict(wanted, (1.0, {"w": torch.tensor([1.0, 2.0])})) == "exact"
    assert verdict(wanted, (1.0, {"w": torch.tensor([1.0, 2.01])})).startswith("wrong")
    assert verdict(wanted, (1.001, wanted[1])).startswith("wrong")


def test_the_page_counts_and_names():
    exact = {"architecture": "a", "class": "A", **dict.fromkeys(WAYS, "exact"), "reason": ""}
    refused = {**exact, "architecture": "b", "packed": "refused", "reason": "for | a reason"}
    assert "2 architectures. packed: 1 exact, 1 refused; padded: 2 exact; lora: 2 exact" in page([exact, refused])
    assert "| for \\| a reason |" in page([exact, refused])


def ours(name, **settings):
    return small.build(name, attention=register_attention(), **settings)


@pytest.mark.parametrize("name", ["gpt_oss", "gemma2", "mistral"])
def test_a_sequence_of_many_queries_is_taken_in_parts(name, monkeypatch):
    """The same numbers, with masks of 4 queries that are made again in the backward pass."""
    wanted = together(ours(name), "packed")
    monkeypatch.setattr(own_attention, "QUERIES_AT_ONCE", 4)
    assert verdict(wanted, together(ours(name), "packed")) == "exact"
    assert verdict(alone(small.build(name)), wanted) == "exact"


def test_llama4s_chunks_begin_with_each_sequence():
    assert verdict(alone(small.build("llama4_text")), together(ours("llama4_text"), "packed")) == "exact"


@pytest.mark.parametrize("name", ["gpt_oss", "gemma2"])
def test_a_static_cache_with_windows_generates_the_same(name):
    model = ours(name)
    model.generation_config.cache_implementation, model.generation_config.disable_compile = "static", True
    assert generated(model) == written_alone(small.build(name))


def test_teacher_forced_logits_are_those_that_the_model_returns_softcap_included():
    model, ids = ours("gemma2"), list(range(3, 14))
    (found,) = target_logits(model, [{"input_ids": ids, "labels": [-100] * 5 + ids[5:]}])
    with torch.no_grad():
        wanted = small.build("gemma2")(input_ids=torch.tensor([ids])).logits[0, 4:-1]
    torch.testing.assert_close(found.logits, wanted, rtol=0, atol=1e-4)
    assert found.logits.abs().max() <= model.config.final_logit_softcapping


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
LONG = {
    "rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 8,
    "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
}  # fmt: skip
ROPES = {
    "dynamic": ("llama", {"max_position_embeddings": 8, "rope_parameters": DYNAMIC}),
    "longrope": ("llama", {"max_position_embeddings": 32, "rope_parameters": LONG}),
}


@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize("rope", ROPES)
def test_a_rope_of_the_longest_position_is_refused_with_the_numbers(rope, way):
    name, settings = ROPES[rope]
    with pytest.raises(ValueError, match=f"RoPE of type '{rope}'.*original 8 positions .the longest has 17."):
        together(ours(name, **settings), way)
    for why in (why_not_packed, why_not_padded):
        assert "the longest has 9" in why(ours(name, **settings), 9)
        assert why(ours(name, **settings), 8) is None


def batch_of(*lengths, packed):
    ids = [list(range(3, 3 + length)) for length in lengths]
    features = [{"input_ids": row, "labels": row, "loss_weight": 1.0} for row in ids]
    return (PackedCollator if packed else PaddedCollator)(0)(features)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_within_the_original_positions_such_a_rope_is_exact(packed):
    name, settings = ROPES["dynamic"]
    model = ours(name, **settings)
    both = weighted_loss(model, batch_of(8, 5, packed=packed))
    each = sum(weighted_loss(model, batch_of(n, packed=packed)) for n in (8, 5))
    torch.testing.assert_close(both, each)


def test_a_pack_without_our_loss_is_refused_too():
    name, settings = ROPES["dynamic"]
    inputs = batch_of(9, 4, packed=True)
    del inputs["labels"], inputs["loss_weights"]
    with pytest.raises(ValueError, match="LlamaAttention has RoPE of type 'dynamic'"):
        ours(name, **settings)(**inputs)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_routers_auxiliary_loss_is_refused_and_the_advice_works(packed):
    model = ours("mixtral", sliding_window=None, output_router_logits=True, router_aux_loss_coef=0.5)
    batch = batch_of(9, 4, packed=packed)
    with pytest.raises(ValueError, match="MixtralForCausalLM adds the router's auxiliary loss.*set output_router"):
        weighted_loss(model, batch)
    model.config.output_router_logits = False
    ids = torch.tensor([list(range(3, 12))])
    stock = model(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(weighted_loss(model, batch_of(9, packed=packed)) / 8, stock)
    assert why_no_loss(model) is None


@pytest.mark.parametrize(("name", "setting", "causal"), [
    ("bert", "is_decoder", True), ("xlnet", "is_decoder", True), ("gemma3_text", "use_bidirectional_attention", False),
])  # fmt: skip
def test_a_model_that_sees_what_it_is_to_predict_is_refused_by_its_setting(name, setting, causal):
    model = small.build(name, **{setting: not causal})
    with pytest.raises(ValueError, match=f"{type(model).__name__} sees the tokens.*; set {setting} to {causal}"):
        weighted_loss(model, batch_of(9, packed=False))
    assert why_no_loss(small.build(name, **{setting: causal})) is None


@pytest.mark.parametrize("name", ONE_WAY)
def test_a_model_that_looks_back_only_is_trained_whatever_its_configuration_says_of_decoders(name):
    model = small.build(name, is_decoder=False).eval()
    ids = torch.tensor([list(range(3, 12))])
    torch.testing.assert_close(model(input_ids=ids[:, :5]).logits, model(input_ids=ids).logits[:, :5])
    assert why_no_loss(model) is None


def test_a_pack_of_one_sequence_passes_a_recurrence_and_of_two_is_refused_by_class():
    model = ours("mamba2")
    weighted_loss(model, batch_of(9, packed=True))
    with pytest.raises(ValueError, match="Mamba2ForCausalLM cannot be trained on packs: Mamba2Mixer is a recurrence"):
        weighted_loss(model, batch_of(9, 4, packed=True))
    with pytest.raises(ValueError, match="Mamba2ForCausalLM cannot be decoded here: Mamba2Mixer is a recurrence"):
        greedy(model, [torch.arange(3, 7)], end=1, room=2)


def test_what_mixes_positions_is_found_without_a_run():
    class Carried(nn.Module):
        def __init__(self):
            super().__init__()
            self.past = nn.Conv1d(8, 8, 4, groups=8)

    found = dict(mixers(nn.Sequential(nn.Sequential(Carried()), Carried(), nn.GRU(8, 8), nn.Conv1d(8, 8, 1))))
    assert found == {"Carried": "a convolution over positions", "GRU": "a recurrence"}
    named = {
        "qwen3_next": "Qwen3NextGatedDeltaNet", "rwkv": "RwkvSelfAttention", "bamba": "BambaMixer",
        "kimi_linear": "KimiLinearDeltaAttention",
    }  # fmt: skip
    for name, kind in named.items():
        found = dict(mixers(small.build(name)))
        assert kind in found and "KimiLinearAttention" not in found
    for name in ("gpt_oss", "deepseek_v3", "llama4_text"):
        assert not list(mixers(small.build(name)))


def test_positions_that_do_not_begin_with_0_are_refused():
    model = small.build("roberta", attention=register_attention())
    for packed in (True, False):
        with pytest.raises(ValueError, match="RobertaEmbeddings counts positions from the padding token's id"):
            weighted_loss(model, batch_of(9, 4, packed=packed))
    table = next(part for name, part in model.named_modules() if name.endswith("position_embeddings"))
    assert store_check.positions(model) == table.num_embeddings - table.padding_idx - 1


def test_an_attention_that_names_a_window_its_mask_does_not_have_is_refused():
    model = ours("llama")
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, given, options: (given, {**options, "sliding_window": 4}), with_kwargs=True
        )
    model(**{k: v for k, v in batch_of(3, 4, packed=True).items() if k not in ("labels", "loss_weights")})
    with pytest.raises(ValueError, match="names a window of 4 tokens, shorter than a sequence of 9"):
        weighted_loss(model, batch_of(9, 4, packed=True))


def test_layers_that_hand_nothing_down_or_attend_twice_are_not_decoded():
    for name, reason in (("stablelm", "hand no key_values to attention"), ("diffllama", "attends more than once")):
        with pytest.raises(ValueError, match=reason):
            greedy(ours(name), [torch.arange(3, 7), torch.arange(3, 9)], end=1, room=2)


def test_the_names_are_one_for_each_class():
    names = small.names()
    assert len(names) > 120 and names == sorted(set(names))
    assert all(left != right for left, right in itertools.pairwise(names))
