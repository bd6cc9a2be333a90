"""Models of some architectures, with two layers and random weights, and sequences for them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.recipe import attention

IDS = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
DECODER = {**IDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 32}  # fmt: skip
MODELS = {
    "llama": DECODER,
    "gpt2": {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "mixtral": {**DECODER, "sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {**DECODER, "head_dim": 8},
    "mistral": {**DECODER, "sliding_window": 16},
    "mamba2": {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8,
               "n_groups": 1, "chunk_size": 8},
    "phi": {**DECODER, "num_key_value_heads": 4},
    "falcon": {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
}  # fmt: skip


def model(kind, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**MODELS[kind], **changes})
    built = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register_attention())
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built.to(dtype).train()


def sequences(*lengths, first=3):
    """Sequences of these lengths, of one token."""
    return [{"input_ids": [first] * n, "labels": [first] * n} for n in lengths]
