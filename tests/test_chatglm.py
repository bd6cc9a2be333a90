"""ChatGLM3's checkpoints as transformers' GLM: held to its equations in plain torch."""

import json
import weakref

import pytest
import torch
from safetensors.torch import save_file
from transformers import GlmForCausalLM

from chatglm_checkpoints import CONFIG, EMBEDDING, FUSED, IDS, LAYOUTS, OUTPUT, SWIGLU, checkpoint, load, oracle, save
from longalign.fetch import chatglm
from longalign.fetch.chatglm import convert, native_config
from test_attention import packed_inputs

PLAIN = {**CONFIG, "multi_query_attention": False, "add_qkv_bias": False}


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatglm")
    return load(convert(save(folder / "source", checkpoint()), folder / "native"))


@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["groups", "plain heads, no bias"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_native_model_gives_the_logits_of_chatglm3s_equations(layout, config, tmp_path):
    weights = checkpoint(config)
    model = load(convert(save(tmp_path / "source", weights, config, layout), tmp_path / "native"))
    expected = oracle(weights, IDS, config)
    assert expected.std() > 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(IDS[None]).logits[0], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.float()(IDS[None]).logits[0].double(), expected, rtol=0, atol=1e-5)


def exact(model):
    """transformers computes RMSNorm and angles in fp32, which hides everything below 1e-6: fp64 takes its place."""
    config, rope = model.config, model.config.rope_parameters
    width = int(config.head_dim * rope["partial_rotary_factor"])
    frequencies = rope["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)

    def angles(states, position_ids):
        found = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
        return found.cos(), found.sin()

    model.model.rotary_emb.forward = angles
    for parent in [model.model, *model.model.layers]:
        for name, module in list(parent.named_children()):
            if name.endswith("norm"):
                other = torch.nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=torch.float64)
                other.load_state_dict(module.state_dict())
                setattr(parent, name, other)
    return model


@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["groups", "plain heads, no bias"])
def test_in_fp64_throughout_it_is_equal_to_the_last_digits(config, tmp_path):
    weights = checkpoint(config)
    model = exact(load(convert(save(tmp_path / "source", weights, config), tmp_path / "native")))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS[None]).logits[0], oracle(weights, IDS, config), rtol=0, atol=1e-12)


SWAPPED = {
    "rope_ratio": ({}, {"rope_ratio": 200}),
    "no rope_ratio": ({}, {"rope_ratio": 1}),
    "epsilon": ({}, {"layernorm_epsilon": 1e-5}),
    "halves of SwiGLU": ({SWIGLU: lambda w: w.roll(24, 0)}, {}),
    "keys for values": ({FUSED: lambda w: torch.cat([w[:64], w[96:], w[64:96]])}, {}),
    "another group's keys": ({FUSED: lambda w: torch.cat([w[:64], w[80:96], w[64:80], w[96:]])}, {}),
    "no bias": ({FUSED.replace("weight", "bias"): torch.zeros_like}, {}),
    "the embedding as output": ({OUTPUT: lambda w: checkpoint()[EMBEDDING]}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPPED)
def test_a_wrong_conversion_would_be_seen(name, native):
    changes, options = SWAPPED[name]
    weights = checkpoint()
    weights |= {key: change(weights[key]) for key, change in changes.items()}
    wrong = oracle(weights, IDS, CONFIG | options)
    with torch.no_grad():
        assert (native(IDS[None]).logits[0] - wrong).abs().max() > 1e-2


def test_a_pack_gives_the_logits_of_each_sequence_alone(native):
    lengths = [5, 1, 6]
    batch = packed_inputs(lengths, vocab=64)
    with torch.no_grad():
        packed = native(**batch).logits[0].split(lengths)
        leaking = native(**{**batch, "cu_seqlens": torch.tensor([0, 12], dtype=torch.int32), "max_seqlen": 12}).logits
    for ids, logits in zip(batch["input_ids"][0].split(lengths), packed, strict=True):
        torch.testing.assert_close(logits, oracle(checkpoint(), ids), rtol=0, atol=1e-5)
    assert (leaking[0, 6:] - packed[2]).abs().max() > 1e-2


def test_a_changed_sequence_moves_no_logit_of_its_neighbour(native):
    batch = packed_inputs([5, 6], vocab=64)
    changed = batch["input_ids"].clone()
    changed[:, :5] = (changed[:, :5] + 1) % 64
    with torch.no_grad():
        before, after = native(**batch).logits, native(**{**batch, "input_ids": changed}).logits
    assert torch.equal(before[:, 5:], after[:, 5:]) and not torch.equal(before[:, :5], after[:, :5])


def test_packs_train_it_with_gradient_checkpointing_as_without(native):
    found = []
    for checkpointing in (False, True):
        model = GlmForCausalLM(native.config).double().train()
        model.load_state_dict(native.state_dict())
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**packed_inputs([5, 6], vocab=64)).logits.pow(2).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)


def test_the_config_says_the_same_in_the_native_names(native):
    config = native.config
    assert (config.num_hidden_layers, config.vocab_size, config.hidden_size) == (2, 64, 40)
    assert (config.head_dim, config.num_key_value_heads, config.max_position_embeddings) == (16, 2, 128)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5}
    assert (config.rms_norm_eps, config.eos_token_id, config.pad_token_id) == (1e-2, 2, 0)
    assert not config.tie_word_embeddings and config.architectures == ["GlmForCausalLM"]
    without = native_config({key: value for key, value in CONFIG.items() if not key.endswith("token_id")})
    assert (without.eos_token_id, without.pad_token_id) == (2, 0), "not GLM-4's, beyond the vocabulary"


def test_the_dtype_is_kept(tmp_path):
    half = {name: weight.half() for name, weight in checkpoint().items()}
    source = save(tmp_path / "source", half, layout="pytorch_model.bin")
    assert load(convert(source, tmp_path / "kept"), dtype="auto").dtype == torch.float16


def test_it_goes_shard_by_shard_and_writes_as_many(tmp_path, monkeypatch):
    before, counts = [], []

    def saved(tensors, *arguments, **options):
        assert not any(tensor() is not None for tensor in before), "the last shard is still in memory"
        before.extend(weakref.ref(tensor) for tensor in tensors.values())
        counts.append(len(tensors))
        save_file(tensors, *arguments, **options)

    monkeypatch.setattr(chatglm, "save_file", saved)
    target = convert(save(tmp_path / "source", checkpoint(), shards=4), tmp_path / "deep" / "native")
    assert len(counts) == 4 and max(counts) < sum(counts) / 2
    assert len(list(target.glob("*.safetensors"))) == 4
    assert sorted(path.name for path in target.parent.iterdir()) == ["native"]
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert len(index["weight_map"]) == sum(counts)
    assert index["metadata"]["total_size"] == sum(4 * w.numel() for n, w in checkpoint().items() if "inv_freq" not in n)
