"""Small models of the architectures of transformers: every causal language model over text alone that can be built.

Widths are tens, windows and chunks shorter than the sequences that the matrix sends through, gates and sinks as drawn.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 64
WINDOW = 8
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "embedding_size": 32,
    "intermediate_size": 48, "ffn_hidden_size": 48, "ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48,
    "dense_intermediate_size": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "num_layers": 3, "decoder_layers": 3, "encoder_layers": 1,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "n_group": 1, "topk_group": 1,
    "sliding_window": WINDOW, "attention_chunk_size": WINDOW, "window_size": WINDOW,
    "index_topk": 4, "index_head_dim": 8, "index_n_heads": 4,
    "state_size": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 8, "chunk_size": 8,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "activation_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "summary_first_dropout": 0.0, "resid_dropout": 0.0, "is_decoder": True,
}  # fmt: skip
"""Settings of a small model, by the names that any architecture uses; each gets those that its configuration has."""
LATENT = {"head_dim": None, "num_key_value_heads": 4}
"""Multi-head latent attention: the size of a head follows from its parts."""
LINEAR = {
    "linear_head_dim": 8, "linear_num_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
"""Linear attention with a state, beside the other layers."""
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "minicpm3",
         "youtu"), LATENT,
    ),
    "bailing_hybrid": {**LATENT, **LINEAR, "num_expert_group": 1, "num_experts_per_token": 2},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "cpmant": {"dim_head": 8, "dim_ff": 48, "prompt_types": 4, "prompt_length": 4},
    "ctrl": {"dff": 48},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {**LATENT, "head_dim": 16, "per_layer_config": {}, "shared_experts_intermediate_size": 16},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
        "laurel_rank": 8, "intermediate_size": [48] * 3, "activation_sparsity_pattern": [0.0] * 3,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
        "per_layer_config": {"01": {"head_dim": 16}},
    },
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "inkling2_text": {"d_rel": 4, "rel_extent": 8}, "inkling_text": {"d_rel": 4, "rel_extent": 8},
    "kimi_linear": {**LATENT, **LINEAR, "num_expert_group": 1, "num_experts_per_token": 2},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["full_attention", "conv", "full_attention"]},
    "lfm2": {"layer_types": ["full_attention", "conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "longcat_flash": {**LATENT, "head_dim": 8, "expert_ffn_hidden_size": 16, "moe_topk": 2, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "qwen3_5_moe_text": LINEAR, "qwen3_5_text": LINEAR, "qwen3_next": LINEAR, "qwen4_exp_text": {
        **LINEAR, "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4,
        "indexer_compress_ratio": 1,
    },
    "reformer": {
        "axial_pos_embds": False, "feed_forward_size": 48, "attention_head_size": 8, "num_hidden_layers": None,
        "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "attn_layers": ["local", "lsh"],
    },
    "roc_bert": {
        "pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 8, "shape_embed_dim": 8,
    },
    "xlm": {"emb_dim": 32, "causal": True},
    "xlnet": {"d_inner": 48, "d_head": 8},
    "zamba": {
        "attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2, "mamba_dt_rank": 4,
        "num_key_value_heads": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"], "mamba_headdim": 8,
        "num_key_value_heads": 4, "attention_hidden_size": 64, "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip
"""What an architecture needs besides or instead of SMALL; None leaves a setting of SMALL out."""

EXCLUDED = frozenset(
    "bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small camembert data2vec-text electra"
    " ernie marian mbart megatron-bert mvp pegasus plbart prophetnet rembert roberta roberta-prelayernorm roc_bert"
    " roformer trocr whisper xlm xlm-roberta xlm-roberta-xl xlnet xmod".split()
)
"""Encoders that can be told to look back only, and the decoders of models that translate: not what is aligned."""


def names() -> list[str]:
    """Model types of transformers with a causal language model over text alone, one for each class."""
    found: dict[str, str] = {}
    for name, kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if not CONFIG_MAPPING[name].sub_configs and name not in EXCLUDED:
            found.setdefault(kind, name)
    return sorted(found.values())


def build(name: str, *, attention: str = "eager", **settings: Any) -> PreTrainedModel:
    """A small fp32 model of the architecture, always the same weights, none of them a constant; in evaluation mode."""
    default = AutoConfig.for_model(name)
    known, own = default.to_dict(), OWN.get(name, {})
    kinds = sorted(set(getattr(default, "layer_types", None) or ()))
    if len(kinds) > 1 and "layer_types" in known:  # each of them, however few layers there are
        own = {"num_hidden_layers": len(kinds) + 1, "layer_types": [*kinds, kinds[0]], **own}
    given = {key: value for key, value in {**SMALL, **own}.items() if key in own or key in known}
    given = {key: value for key, value in {**given, **settings}.items() if value is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **given), attn_implementation=attention)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    return model.float().eval()


