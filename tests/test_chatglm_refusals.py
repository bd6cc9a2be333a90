"""ChatGLM3's checkpoints: what does not fit transformers' GLM is refused, and nothing of it is left."""

import json

import pytest
import torch
from safetensors.torch import save_file

from chatglm_checkpoints import CONFIG, FUSED, IDS, LAYOUTS, OUTPUT, SWIGLU, checkpoint, load, oracle, save
from longalign.fetch import chatglm
from longalign.fetch.chatglm import convert, is_chatglm, native_config


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
