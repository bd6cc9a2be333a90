"""Small checkpoints in ChatGLM3's format, in each layout of files, and its equations in plain torch."""

import json

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GlmForCausalLM

from longalign.recipe.attention import register_attention

CONFIG = {
    "model_type": "chatglm", "num_layers": 2, "padded_vocab_size": 64, "hidden_size": 40, "ffn_hidden_size": 24,
    "kv_channels": 16, "num_attention_heads": 4, "multi_query_attention": True, "multi_query_group_num": 2,
    "add_qkv_bias": True, "add_bias_linear": False, "layernorm_epsilon": 1e-2, "rmsnorm": True, "seq_length": 128,
    "rope_ratio": 50, "apply_residual_connection_post_layernorm": False, "original_rope": True,
    "post_layer_norm": True, "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
    "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
}  # fmt: skip
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
