"""A ChatGLM3 checkpoint converted to a GLM of transformers' own that computes the same; what is not exact is refused.

ChatGLM3's remote code predates transformers 5 and calls its attention directly, so that no registered one reaches it;
`GlmForCausalLM` takes that of `longalign.recipe.attention`.  Weights are only cut and renamed: the fused
query_key_value becomes three (queries of all heads, keys of all groups, values of all groups), dense_h_to_4h is
gate_up_proj (gate first in both), both rotate neighbouring pairs of the first half of a head, and `rope_ratio` goes
into the RoPE base: 10000 * rope_ratio.

About twice the largest shard is in memory, and the disk holds both models. In half precision the logits may differ in
the last digit, because transformers rounds in RMSNorm before the scale and ChatGLM3 after it. Its tokenizer is another
file's matter (`longalign.fetch.chatglm_tokenizer`).
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GlmConfig

ROPE_BASE = 10_000.0
# GlmForCausalLM has these wired in; absent, they are what the published checkpoints say
ALWAYS = ("rmsnorm", "original_rope", "post_layer_norm")
NEVER = ("apply_residual_connection_post_layernorm", "add_bias_linear", "fp32_residual_connection",
         "tie_word_embeddings", "hidden_dropout", "quantization_bit", "pre_seq_len")  # fmt: skip
NEEDED = ("num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads",
          "multi_query_attention", "add_qkv_bias", "layernorm_epsilon", "seq_length")  # fmt: skip
LONGEST_WITHOUT_RATIO = 32_768  # chatglm3-6b-base reaches it with the plain RoPE base
KINDS = ("model.safetensors", "pytorch_model.bin")
UNUSED = "transformer.rotary_pos_emb.inv_freq"  # ChatGLM3 saves it, and computes its angles anew from the config
Places = dict[str, tuple[tuple[int, ...], tuple[str, ...]]]


def is_chatglm(folder: Path | str) -> bool:
    """Whether a folder holds a model in ChatGLM3's own format, by its config.json (ChatGLM-6B, the first, is another).

    >>> is_chatglm("no-such-folder")
    False
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "chatglm" and "padded_vocab_size" in config


def native_config(config: dict[str, Any]) -> GlmConfig:
    """The config of the same model in transformers' own classes, from the content of ChatGLM3's config.json.

    Raises ValueError for a missing key and for an option that GlmForCausalLM has not.  `rope_ratio` is 1 where it is
    missing, eos and pad are ChatGLM3's 2 and 0.  Source: ChatGLM3's published configuration and modeling code.

    >>> chatglm3_6b = {
    ...     "num_layers": 28, "padded_vocab_size": 65024, "hidden_size": 4096, "ffn_hidden_size": 13696,
    ...     "kv_channels": 128, "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2,
    ...     "add_qkv_bias": True, "layernorm_epsilon": 1e-5, "seq_length": 65536, "rope_ratio": 200}
    >>> native = native_config(chatglm3_6b)
    >>> native.num_key_value_heads, native.rope_parameters["rope_theta"], native.eos_token_id
    (2, 2000000.0, 2)
    """
    _check_options(config)
    heads = config["num_attention_heads"]
    return GlmConfig(
        vocab_size=config["padded_vocab_size"], hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"], num_hidden_layers=config["num_layers"],
        num_attention_heads=heads, head_dim=config["kv_channels"],
        num_key_value_heads=config["multi_query_group_num"] if config["multi_query_attention"] else heads,
        attention_bias=config["add_qkv_bias"], attention_dropout=config.get("attention_dropout", 0.0),
        rms_norm_eps=config["layernorm_epsilon"], max_position_embeddings=config["seq_length"],
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE * _ratio(config),
                         "partial_rotary_factor": 0.5},
        # without one GlmConfig takes GLM-4's, which are beyond ChatGLM3's vocabulary
        eos_token_id=2 if config.get("eos_token_id") is None else config["eos_token_id"],
        pad_token_id=0 if config.get("pad_token_id") is None else config["pad_token_id"],
        tie_word_embeddings=False, architectures=["GlmForCausalLM"],
    )  # fmt: skip


def convert(source: Path | str, target: Path | str, *, rope_ratio: float | None = None) -> Path:
    """Write the ChatGLM3 model in `source` as a GLM to `target` (config, sharded safetensors), which it returns.

    Each shard, safetensors or .bin, becomes one; weights keep their dtype.  `target` appears when
    it is whole.  `rope_ratio` is needed, and goes before the config's, where the config does not tell what the remote
    code does: LongAlign's multiplies the base by 200 in its text (arXiv 2401.18058: base 10,000 -> 2,000,000).
    Raises ValueError: `target` is there; a rope_ratio in doubt; a weight missing, unknown or of another shape; a .bin
    with more than tensors; and as `native_config`.

    >>> from transformers import AutoModelForCausalLM
    >>> from longalign.recipe.attention import register_attention
    >>> folder = convert("LongAlign-6B-64k-base", "glm-6b-64k", rope_ratio=200)               # doctest: +SKIP
    >>> AutoModelForCausalLM.from_pretrained(folder, attn_implementation=register_attention())          # doctest: +SKIP
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise ValueError(f"{target} is there already: name another folder")
    if not is_chatglm(source):
        raise ValueError(f"{source}: no config.json of a ChatGLM3 (model_type chatglm): name the folder of one")
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    told["rope_ratio"] = _rope_ratio(source, told, rope_ratio)
    config, temporary = native_config(told), target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        temporary.mkdir(parents=True)
        cut = partial(_cut, config=config, grouped=told["multi_query_attention"])
        config.dtype = _convert_shards(source, temporary, _places(config), cut)
        config.save_pretrained(temporary)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _check_options(config: dict[str, Any]) -> None:
    needed = (*NEEDED, "multi_query_group_num") if config.get("multi_query_attention") else NEEDED
    for key in needed:
        if config.get(key) is None:
            raise ValueError(f"config.json has no {key}: copy it from the config.json of the original model")
    for key in (*ALWAYS, *NEVER):
        value = config.get(key, key in ALWAYS)
        if bool(value) != (key in ALWAYS):
            raise ValueError(f"config.json: {key} is {value}, which GlmForCausalLM cannot do: use the model's own code")
    heads, groups = config["num_attention_heads"], config.get("multi_query_group_num")
    if not _ratio(config) > 0:
        raise ValueError(f"rope_ratio is {_ratio(config)}: name a number above 0, 1 for the plain RoPE base")
    if config["kv_channels"] % 4:
        raise ValueError(f"config.json: kv_channels is {config['kv_channels']}: its half must be pairs, correct it")
    if config["multi_query_attention"] and heads % groups:
        raise ValueError(f"config.json: multi_query_group_num {groups} does not divide {heads} heads: correct it")


def _rope_ratio(source: Path, config: dict[str, Any], given: float | None) -> float:
    """What multiplies the RoPE base: the given, or when config and remote code (read as text only) leave no doubt."""
    path, told = source / "modeling_chatglm.py", config.get("rope_ratio")
    code = path.read_text(encoding="utf-8") if path.is_file() else ""
    if "/ self.rope_ratio" in code and "base * self.rope_ratio" not in code:
        raise ValueError(f"{path} divides positions, as ChatGLM2's 32k model: use the model's own code")
    if given is not None:
        return given
    written = re.search(r"self\.\w*ratio\s*=\s*(\d+\.?\d*)", code)
    if written and float(written[1]) != (told or 1):
        raise ValueError(
            f"{path} has the RoPE ratio {written[1]} in its text and config.json {told}: "
            "pass rope_ratio, the one that the weights were trained with"
        )
    if told is None and (config.get("seq_length") or 0) > LONGEST_WITHOUT_RATIO:
        raise ValueError(
            f"{source}/config.json: it has seq_length {config['seq_length']} and no rope_ratio: pass "
            "rope_ratio, 200 for LongAlign's 64k models, or 1 if the RoPE base really is 10000"
        )
    return _ratio(config)


def _ratio(config: dict[str, Any]) -> float:
    return 1 if config.get("rope_ratio") is None else config["rope_ratio"]


def _places(config: GlmConfig) -> Places:
    """Shape of every weight of ChatGLM3 and what it becomes; three names are queries, keys, values."""
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    width, fused = heads * config.head_dim, (heads + 2 * config.num_key_value_heads) * config.head_dim
    places: Places = {
        "transformer.embedding.word_embeddings.weight": ((config.vocab_size, hidden), ("model.embed_tokens.weight",)),
        "transformer.encoder.final_layernorm.weight": ((hidden,), ("model.norm.weight",)),
        "transformer.output_layer.weight": ((config.vocab_size, hidden), ("lm_head.weight",)),
    }
    layer: Places = {
        "input_layernorm.weight": ((hidden,), ("input_layernorm.weight",)),
        "self_attention.query_key_value.weight": ((fused, hidden), _qkv("weight")),
        "self_attention.query_key_value.bias": ((fused,), _qkv("bias")),
        "self_attention.dense.weight": ((hidden, width), ("self_attn.o_proj.weight",)),
        "post_attention_layernorm.weight": ((hidden,), ("post_attention_layernorm.weight",)),
        "mlp.dense_h_to_4h.weight": ((2 * inner, hidden), ("mlp.gate_up_proj.weight",)),
        "mlp.dense_4h_to_h.weight": ((hidden, inner), ("mlp.down_proj.weight",)),
    }
    if not config.attention_bias:
        del layer["self_attention.query_key_value.bias"]
    for n in range(config.num_hidden_layers):
        for name, (shape, names) in layer.items():
            native = tuple(f"model.layers.{n}.{name}" for name in names)
            places[f"transformer.encoder.layers.{n}.{name}"] = (shape, native)
    return places


def _qkv(kind: str) -> tuple[str, ...]:
    return tuple(f"self_attn.{part}_proj.{kind}" for part in "qkv")


def _shards(source: Path) -> tuple[list[Path], set[str] | None]:
    """The files that hold weights and, from the index when there is one, the names of these."""
    for kind in KINDS:
        index = source / f"{kind}.index.json"
        if index.is_file():
            try:
                files = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            except (ValueError, TypeError, KeyError):
                raise ValueError(f"{index} is not an index of weights: fetch it again") from None
            paths = [source / name for name in sorted(set(files.values()))]
            for path in paths:
                if not path.is_file():
                    raise ValueError(f"{path} is missing, but {index.name} names it: fetch it")
            return paths, set(files)
        if (source / kind).is_file():
            return [source / kind], None
    raise ValueError(f"{source} has no {' or '.join(KINDS)} nor an index of one: fetch the weights")


def _convert_shards(source: Path, folder: Path, places: Places, cut: Callable) -> torch.dtype:
    """Returns the dtype that was written."""
    paths, names = _shards(source)
    if names is not None:  # before gigabytes are written
        _refuse(source, names - set(places) - {UNUSED}, set(places) - names)
    left, written = dict(places), {}
    for number, path in enumerate(paths, 1):
        name = f"model-{number:05d}-of-{len(paths):05d}.safetensors"
        tensors = _convert_shard(path, left, cut)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        written |= {key: (name, tensor.dtype, tensor.nbytes) for key, tensor in tensors.items()}
        del tensors  # or it would be in memory beside the next
    _refuse(source, set(), set(left))
    index = {
        "metadata": {"total_size": sum(size for *_, size in written.values())},
        "weight_map": {key: name for key, (name, *_) in written.items()},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return written["model.embed_tokens.weight"][1]


def _convert_shard(path: Path, left: Places, cut: Callable) -> dict[str, Tensor]:
    """The native weights of one shard; takes what it finds out of `left`."""
    found = {}
    for name, tensor in _read(path):
        if name == UNUSED:
            continue
        if name not in left:
            _refuse(path, {name}, set())
        shape, names = left.pop(name)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            got = f"{list(tensor.shape)} of {tensor.dtype}"
            raise ValueError(
                f"{path}: {name} is {got}, but config.json means {list(shape)} of floats: fetch the files of one model"
            )
        for key, part in zip(names, cut(tensor) if len(names) == 3 else [tensor], strict=True):
            # a copy: parts of one storage cannot be saved, and the whole could not be freed
            found[key] = part.clone(memory_format=torch.contiguous_format)
    return found


def _cut(fused: Tensor, config: GlmConfig, grouped: bool) -> list[Tensor]:
    """Queries, keys and values of a fused weight [rows, hidden] or bias [rows]."""
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if grouped:
        return list(fused.split([heads * size, groups * size, groups * size]))
    # without multi-query attention, every head's query, key and value lie together
    return [part.flatten(0, 1) for part in fused.unflatten(0, (heads, 3, size)).unbind(1)]


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a shard; a tensor of a .bin is given away, so that it can be freed."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    yield name, file.get_tensor(name)
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name in list(state):
            yield name, state.pop(name)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds other objects than tensors, never loaded here: fetch safetensors") from error
    except (RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}): fetch it again") from error


def _refuse(where: Path, unknown: set[str], missing: set[str]) -> None:
    for names, what in ((unknown, "which the config.json beside does not mean"), (missing, "which is not there")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{where}: weight {min(names)}{more}, {what}: fetch the files of one model")
