"""A Llama in a GGUF file converted to a folder as Hugging Face saves models; no value of it changes.

transformers can read GGUF itself, but its reader forgets how the text is split before it is made into tokens (digits
alone, for SmolLM: numbers behind several blanks become other tokens than the model has learned), and it saves no model
that it has read.

Read are Llamas with tied embeddings and the byte-level tokenizer that llama.cpp calls "smollm"; others are refused.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common import provenance

_PARTS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_CONTROL = 3  # GGUF's type of a token that no text is made into


def convert(file: Path | str, folder: Path | str) -> None:
    """Write config.json, generation_config.json, model.safetensors (fp32) and the tokenizer's files into `folder`.

    The folder is there.  Raises ValueError for a file that holds something else than is read here.
    """
    from gguf import GGUFReader  # asked for here alone: the folder is used without it

    reader, folder = GGUFReader(file), Path(folder)
    told = {name: field.contents() for name, field in reader.fields.items()}
    kind = [told.get(name) for name in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre")]
    if kind != ["llama", "gpt2", "smollm"]:
        raise ValueError(f"{file}: a llama with the tokenizer gpt2, smollm can be read, this is {kind}")
    _write_configs(told, folder)
    _write_tokenizer(told, folder)
    _write_weights(reader.tensors, told, folder)


def _write_weights(tensors: list[Any], told: Mapping[str, Any], folder: Path) -> None:
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": told["llama.attention.head_count"], "attn_k": told["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        part = tensor.name.split(".")[-2]
        weights[tensor_name(tensor.name)] = unpermute(weight, heads[part]) if part in heads else weight
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors lets its owner alone read it


def tensor_name(name: str) -> str:
    """The name that transformers' Llama has for a tensor of a GGUF file; ValueError for one that it has not.

    >>> tensor_name("blk.2.attn_q.weight"), tensor_name("output_norm.weight")
    ('model.layers.2.self_attn.q_proj.weight', 'model.norm.weight')
    """
    block, *place = name.split(".")
    if block == "blk" and len(place) == 3 and place[1] in _PARTS:
        return f"model.layers.{place[0]}.{_PARTS[place[1]]}.{place[2]}"
    if name not in _WHOLE:
        raise ValueError(f"a Llama with tied embeddings has no tensor {name}")
    return _WHOLE[name]


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * D, d] of a query or key projection, from llama.cpp's order to transformers'.

    Rotary embeddings turn pairs of features: llama.cpp has those of a pair side by side, transformers half a head
    apart.  One head of 4 features, pairs (0, 1) and (2, 3):

    >>> unpermute(np.array([[0], [1], [2], [3]]), heads=1).ravel().tolist()
    [0, 2, 1, 3]
    """
    return np.ascontiguousarray(weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape))


def _write_configs(told: Mapping[str, Any], folder: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig

    special = {f"{short}_token_id": told[f"tokenizer.ggml.{long}_token_id"] for short, long in _SPECIAL.items()}
    special.pop("unk_token_id")
    LlamaConfig(
        architectures=["LlamaForCausalLM"], dtype="float32", tie_word_embeddings=True, **special,
        vocab_size=told["llama.vocab_size"], max_position_embeddings=told["llama.context_length"],
        hidden_size=told["llama.embedding_length"], intermediate_size=told["llama.feed_forward_length"],
        num_hidden_layers=told["llama.block_count"], head_dim=told["llama.rope.dimension_count"],
        num_attention_heads=told["llama.attention.head_count"],
        num_key_value_heads=told["llama.attention.head_count_kv"],
        rms_norm_eps=round(told["llama.attention.layer_norm_rms_epsilon"], 9),  # it was cut to fp32
        rope_parameters={"rope_type": "default", "rope_theta": told["llama.rope.freq_base"]},
    ).save_pretrained(folder)  # fmt: skip
    GenerationConfig(**special).save_pretrained(folder)


def _write_tokenizer(told: Mapping[str, Any], folder: Path) -> None:
    tokens, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": tokens[i], **plain} for i, kind in enumerate(kinds) if kind == _CONTROL]
    digits = {"type": "Digits", "individual_digits": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": told["tokenizer.ggml.merges"],
    }  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}, "post_processor": None,
        "decoder": {**level, "add_prefix_space": True}, "model": model,
    }  # fmt: skip
    # the layout of the published file, so that its hash can be asked for
    provenance.write_text(folder / "tokenizer.json", json.dumps(tokenizer, indent=2, ensure_ascii=False))
    settings = {f"{short}_token": tokens[told[f"tokenizer.ggml.{long}_token_id"]] for short, long in _SPECIAL.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": told["llama.context_length"]}
    settings |= {"clean_up_tokenization_spaces": False, "chat_template": told["tokenizer.chat_template"]}
    provenance.write_json(folder / "tokenizer_config.json", settings)
