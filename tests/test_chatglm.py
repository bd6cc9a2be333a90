"""ChatGLM3's checkpoints as transformers' GLM: held to its equations in plain torch; what does not fit is refused."""

import json
import weakref

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GlmForCausalLM

from longalign.fetch import chatglm
from longalign.fetch.chatglm import convert, is_chatglm, native_config
from longalign.recipe.attention import register_attention
from test_attention import packed_inputs

CONFIG = {
    "model_type": "chatglm", "num_layers": 2, "padded_vocab_size": 64, "hidden_size": 40, "ffn_hidden_size": 24,
    "kv_channels": 16, "num_attention_heads": 4, "multi_query_attention": True, "multi_query_group_num": 2,
    "add_qkv_bias": True, "add_bias_linear": False, "layernorm_epsilon": 1e-2, "rmsnorm": True, "seq_length": 128,
    "rope_ratio": 50, "apply_residual_connection_post_layernorm": False, "original_rope": True,
    "post_layer_norm": True, "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
    "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
}  # fmt: skip
PLAIN = {**CONFIG, "multi_query_attention": False, "add_qkv_bias": False}
LAYER = "transformer.encoder.layers.{}."
EMBEDDING, OUTPUT = "transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"
FUSED, SWIGLU = LAYER.format(1) + "self_attention.query_key_value.weight", LAYER.format(1) + "mlp.dense_h_to_4h.weight"
LAYOUTS = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]


def checkpoint(config=CONFIG, *, seed=0):
    """Random weights by ChatGLM3's names, inv_freq among them; norms far from 1, embeddings small beside epsilon."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape, scale=0.3):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(scale).float()

    hidden, inner, size = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    heads = config["num_attention_heads"]
    groups = config["multi_query_group_num"] if config["multi_query_attention"] else heads
    weights = {EMBEDDING: rand(config["padded_vocab_size"], hidden), "transformer.rotary_pos_emb.inv_freq": rand(4)}
    for n in range(config["num_layers"]):
        layer = {
            "input_layernorm.weight": 1 + rand(hidden),
            "self_attention.query_key_value.weight": rand((heads + 2 * groups) * size, hidden),
            "self_attention.query_key_value.bias": rand((heads + 2 * groups) * size),
            "self_attention.dense.weight": rand(hidden, heads * size),
            "post_attention_layernorm.weight": 1 + rand(hidden),
            "mlp.dense_h_to_4h.weight": rand(2 * inner, hidden),
            "mlp.dense_4h_to_h.weight": rand(hidden, inner),
        }
        if not config["add_qkv_bias"]:
            del layer["self_attention.query_key_value.bias"]
        weights |= {LAYER.format(n) + name: weight for name, weight in layer.items()}
    weights["transformer.encoder.final_layernorm.weight"] = 1 + rand(hidden)
    return weights | {OUTPUT: rand(config["padded_vocab_size"], hidden)}


def save(folder, weights, config=CONFIG, layout="model.safetensors.index.json", *, shards=3):
    """The checkpoint as ChatGLM3 is published: one file, or shards and their index, layers across them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write = save_file if "safetensors" in layout else torch.save
    if not layout.endswith(".index.json"):
        write(weights, folder / layout)
        return folder
    stem, suffix = layout.removesuffix(".index.json").split(".")
    files = {name: f"{stem}-{1 + i % shards:05d}-of-{shards:05d}.{suffix}" for i, name in enumerate(sorted(weights))}
    (folder / layout).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    for file in set(files.values()):
        write({name: weights[name] for name in weights if files[name] == file}, folder / file)
    return folder


def norm(x, weight, epsilon):
    return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight


def rotate(vector, position, config):
    """RoPE as rotation in the complex plane: pair (2i, 2i + 1) of the first half of the head by its own angle."""
    count = config["kv_channels"] // 4
    base = 10_000.0 * config.get("rope_ratio", 1)
    angles = torch.tensor([position / base ** (2 * i / (2 * count)) for i in range(count)], dtype=torch.float64)
    turned = torch.view_as_complex(vector[: 2 * count].view(count, 2)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([torch.view_as_real(turned).flatten(), vector[2 * count :]])


def heads_of(row, config):
    """Query heads, key groups and value groups [heads, kv_channels] of one row of query_key_value."""
    heads, groups, size = config["num_attention_heads"], config["multi_query_group_num"], config["kv_channels"]
    if config["multi_query_attention"]:
        parts = row[: heads * size], row[heads * size : (heads + groups) * size], row[(heads + groups) * size :]
        return [part.view(-1, size) for part in parts]
    return [torch.stack([row[(3 * h + k) * size :][:size] for h in range(heads)]) for k in range(3)]


def attend(x, w, config):
    """Attention of one layer over x [tokens, hidden], position by position and head by head."""
    bias = w.get("self_attention.query_key_value.bias", 0)
    rows = [heads_of(row, config) for row in x @ w["self_attention.query_key_value.weight"].T + bias]
    heads, shared, outputs = config["num_attention_heads"], config["num_attention_heads"] // len(rows[0][1]), []
    for t in range(len(rows)):
        for head in range(heads):
            query = rotate(rows[t][0][head], t, config)
            keys = torch.stack([rotate(rows[s][1][head // shared], s, config) for s in range(t + 1)])
            values = torch.stack([rows[s][2][head // shared] for s in range(t + 1)])
            outputs.append((keys @ query / config["kv_channels"] ** 0.5).softmax(0) @ values)
    return torch.cat(outputs).view(len(rows), -1) @ w["self_attention.dense.weight"].T


def oracle(weights, ids, config=CONFIG):
    """Logits [tokens, vocabulary] in fp64 by ChatGLM3's equations, from weights in its own naming."""
    weights = {name: weight.double() for name, weight in weights.items()}
    epsilon = config["layernorm_epsilon"]
    x = weights[EMBEDDING][ids]
    for n in range(config["num_layers"]):
        prefix = LAYER.format(n)
        w = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        x = x + attend(norm(x, w["input_layernorm.weight"], epsilon), w, config)
        inner = norm(x, w["post_attention_layernorm.weight"], epsilon) @ w["mlp.dense_h_to_4h.weight"].T
        gate, up = inner.chunk(2, dim=-1)
        x = x + (gate * torch.sigmoid(gate) * up) @ w["mlp.dense_4h_to_h.weight"].T
    return norm(x, weights["transformer.encoder.final_layernorm.weight"], epsilon) @ weights[OUTPUT].T


def load(folder, **options):
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=register_attention(), output_loading_info=True,
        **{"dtype": torch.float64, **options},
    )
    assert type(model) is GlmForCausalLM
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


IDS = torch.tensor([5, 63, 0, 7, 7, 2, 31, 40, 11, 0, 19])


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


def test_the_format_is_told_by_the_config(tmp_path):
    assert is_chatglm(save(tmp_path / "source", {}, layout="model.safetensors"))
    assert not is_chatglm(convert(save(tmp_path / "whole", checkpoint()), tmp_path / "native"))
    for number, text in enumerate(['{"model_type": "chatglm", "inner_hidden_size": 16384}', "[]", "{"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(text)
        assert not is_chatglm(folder)
        with pytest.raises(ValueError, match="no config.json of a ChatGLM3"):
            convert(folder, tmp_path / "other")


OPTIONS = {
    "rmsnorm": False, "original_rope": False, "post_layer_norm": False, "tie_word_embeddings": True,
    "apply_residual_connection_post_layernorm": True, "add_bias_linear": True, "fp32_residual_connection": True,
    "hidden_dropout": 0.1, "quantization_bit": 4, "pre_seq_len": 128,
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_the_native_classes_have_not_is_refused(option):
    with pytest.raises(ValueError, match=f"{option} is {OPTIONS[option]}, which GlmForCausalLM cannot do: use"):
        native_config(CONFIG | {option: OPTIONS[option]})


@pytest.mark.parametrize("key", [*chatglm.NEEDED, "multi_query_group_num"])
def test_a_config_without_a_size_is_refused(key):
    with pytest.raises(ValueError, match=f"config.json has no {key}: copy it"):
        native_config({name: value for name, value in CONFIG.items() if name != key})


@pytest.mark.parametrize(("key", "value"), [("kv_channels", 18), ("multi_query_group_num", 3)])
def test_sizes_that_do_not_go_together_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} .*correct it"):
        native_config(CONFIG | {key: value})


HARD_CODED = "        self.ratio = 200\n        base = base * self.ratio\n"
FROM_CONFIG = "self.rope_ratio = rope_ratio\nbase = base * self.rope_ratio\n"
INTERPOLATED = "self.rope_ratio = rope_ratio\nseq_idx = torch.arange(n) / self.rope_ratio\n"
DOUBTS = {
    "a ratio in the code alone": ({}, HARD_CODED, "has the RoPE ratio 200 in its text and config.json None: pass"),
    "two ratios": ({"rope_ratio": 50}, HARD_CODED, "has the RoPE ratio 200 in its text and config.json 50: pass"),
    "a long context": ({"seq_length": 65_536}, None, "seq_length 65536 and no rope_ratio: pass rope_ratio, 200"),
}


def with_code(folder, options, code):
    config = {key: value for key, value in CONFIG.items() if key != "rope_ratio"} | options
    folder = save(folder, checkpoint(), config)
    if code is not None:
        (folder / "modeling_chatglm.py").write_text(code)
    return folder


@pytest.mark.parametrize("name", DOUBTS)
def test_a_rope_ratio_in_doubt_is_asked_for(name, tmp_path):
    *source, sentence = DOUBTS[name]
    source = with_code(tmp_path / "source", *source)
    with pytest.raises(ValueError, match=sentence):
        convert(source, tmp_path / "native")
    model = load(convert(source, tmp_path / "native", rope_ratio=200))
    assert model.config.rope_parameters["rope_theta"] == 2_000_000
    with torch.no_grad():
        expected = oracle(checkpoint(), IDS, CONFIG | {"rope_ratio": 200})
        torch.testing.assert_close(model(IDS[None]).logits[0], expected, rtol=0, atol=1e-5)


def test_a_ratio_that_divides_positions_is_refused_even_when_given(tmp_path):
    source = with_code(tmp_path / "source", {"rope_ratio": 16}, INTERPOLATED)
    for given in (None, 16):
        with pytest.raises(ValueError, match="divides positions, as ChatGLM2's 32k model: use"):
            convert(source, tmp_path / "native", rope_ratio=given)


@pytest.mark.parametrize("ratio", [0, -50])
def test_a_ratio_that_is_none_is_refused(ratio, tmp_path):
    with pytest.raises(ValueError, match=f"rope_ratio is {ratio}: name a number above 0"):
        native_config(CONFIG | {"rope_ratio": ratio})
    assert native_config(CONFIG | {"rope_ratio": None}).rope_parameters["rope_theta"] == 10_000
    with pytest.raises(ValueError, match=f"rope_ratio is {ratio}: name a number above 0"):
        convert(save(tmp_path / "source", checkpoint()), tmp_path / "native", rope_ratio=ratio)


@pytest.mark.parametrize(
    ("options", "code", "ratio"),
    [({}, None, 1), ({}, "", 1), ({"rope_ratio": 50}, FROM_CONFIG, 50), ({"rope_ratio": 200}, HARD_CODED, 200)],
)
def test_a_rope_ratio_without_doubt_is_taken(options, code, ratio, tmp_path):
    target = convert(with_code(tmp_path / "source", options, code), tmp_path / "native")
    assert json.loads((target / "config.json").read_text())["rope_parameters"]["rope_theta"] == 10_000 * ratio


WEIGHTS = {
    "missing": ({SWIGLU: None}, r"weight .*layers\.1\.mlp\.dense_h_to_4h\.weight, which is not there: fetch"),
    "two missing": ({SWIGLU: None, FUSED: None}, r"mlp\.dense_h_to_4h\.weight \(and 1 more\), which is not there"),
    "unknown": ({"transformer.prefix_encoder.weight": torch.ones(2)}, "prefix_encoder.weight, which the config.json"),
    "a third layer": ({SWIGLU.replace("1", "2"): torch.ones(48, 40)}, "layers.2.*which the config.json beside"),
    "another shape": ({FUSED: torch.ones(192, 40)}, r"is \[192, 40\] of torch.float32, but .* means \[128, 40\]"),
    "integers": ({FUSED: torch.ones(128, 40, dtype=torch.int8)}, r"of torch.int8, but .* of floats: fetch"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_left(name, layout, tmp_path):
    changes, sentence = WEIGHTS[name]
    weights = {key: weight for key, weight in (checkpoint() | changes).items() if weight is not None}
    source = save(tmp_path / "source", weights, layout=layout)
    with pytest.raises(ValueError, match=sentence):
        convert(source, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_shards_without_what_their_index_says_are_refused(tmp_path):
    source = save(tmp_path / "source", checkpoint())
    shard = sorted(source.glob("*.safetensors"))[1]
    save_file({"transformer.rotary_pos_emb.inv_freq": torch.ones(4)}, shard)
    with pytest.raises(ValueError, match="which is not there"):
        convert(source, tmp_path / "native")
    shard.write_bytes(b"no header")
    with pytest.raises(ValueError, match=rf"{shard.name} cannot be read \(.*\): fetch it again"):
        convert(source, tmp_path / "native")
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing, but model.safetensors.index.json names it"):
        convert(source, tmp_path / "native")
    (source / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="index.json is not an index of weights: fetch it again"):
        convert(source, tmp_path / "native")
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="has no model.safetensors or pytorch_model.bin nor an index"):
        convert(source, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class Touches:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_bin_that_holds_code_is_refused_and_not_run(tmp_path):
    source = save(tmp_path / "source", checkpoint(), layout="pytorch_model.bin")
    torch.save(checkpoint() | {OUTPUT: Touches(tmp_path / "ran")}, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds other objects than tensors"):
        convert(source, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    source, target = save(tmp_path / "source", checkpoint()), tmp_path / "native"
    target.mkdir()
    (target / "mine").write_text("kept")
    with pytest.raises(ValueError, match="native is there already: name another folder"):
        convert(source, target)
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_no_tokenizer_and_no_remote_code_is_written(tmp_path):
    source = save(tmp_path / "source", checkpoint())
    for name in ("tokenizer.model", "tokenizer_config.json", "modeling_chatglm.py"):
        (source / name).write_text("{}")
    target = convert(source, tmp_path / "native")
    names = {path.name for path in target.iterdir() if path.suffix != ".safetensors"}
    assert names == {"config.json", "model.safetensors.index.json"}
    assert "auto_map" not in (target / "config.json").read_text()
