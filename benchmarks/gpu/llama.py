"""What stages share that train a Llama: its shape, random weights, lengths like LongAlign's, counted FLOPs and bytes.

Weights are random and bf16: how long a product takes depends on its shape alone. Gradient checkpointing is on, as in
the paper, so that a layer's forward pass is computed twice.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.rows import Context
from longalign.recipe import attention
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.cost import SequenceCost
from longalign.train.memory import ModelShape

CHECKPOINTING = 4 / 3
"""FLOPs of a layer with gradient checkpointing over those without: forward, forward again, and backward as two."""
TRAFFIC = 440
"""Bytes a token, layer and feature of the hidden state that are taken to be read and written beside the products: some
220 passes over bf16 states in norms, rotations, gates, residuals; forward, again, and backward."""


def new(context: Context, layers: int, shape: dict[str, int], longest: int) -> Any:
    """A Llama of this shape with random weights on the device, its attention this package's, ready to be trained.

    `shape` has LlamaConfig's names; the output layer is tied to the embedding where it says so.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        **shape, num_hidden_layers=layers, max_position_embeddings=longest, pad_token_id=0, bos_token_id=None,
        eos_token_id=1, rope_parameters={"rope_type": "default", "rope_theta": 2_000_000.0}, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with context.device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=context.dtype, attn_implementation=attention.register_attention()
        )  # fmt: skip
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def fused(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a card, sdpa by one of its fused kernels or with an error: torch could take the full matrix in silence."""
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    return sdpa_kernel(kernels) if device.type == "cuda" else contextlib.nullcontext()


def sdpa_name(device: torch.device) -> str:
    """Of sdpa within `fused`."""
    return "sdpa, a fused kernel" if device.type == "cuda" else "sdpa"


def head_size(shape: dict[str, int]) -> int:
    """Features of an attention head."""
    return shape["hidden_size"] // shape["num_attention_heads"]


def mixture(sequences: int, longest: int, *, seed: int = 0) -> np.ndarray:
    """Lengths like LongAlign-10k's, of at least 2 and at most `longest` tokens (65,536 in the paper), in random order.

    One in ten is uniform from an eighth of the longest on (8k to 64k), the others are lognormal around 1/82 (800).
    """
    random = np.random.default_rng(seed)
    long = random.integers(longest // 8, longest + 1, round(sequences * 0.1))
    short = random.lognormal(np.log(longest * 800 / 65_536), 1.0, sequences - len(long))
    return random.permutation(np.concatenate([np.clip(short, 2, longest).astype(np.int64), long]))


def cost(layers: int, shape: dict[str, int]) -> SequenceCost:
    """FLOPs to train on a sequence once, all tokens being targets, as `longalign.recipe.cost` counts them.

    What checkpointing computes again is not in it.
    """
    return ModelShape(
        shape["hidden_size"], layers, shape["intermediate_size"], heads=shape["num_attention_heads"],
        key_value_heads=shape["num_key_value_heads"], head_size=head_size(shape), vocab_size=shape["vocab_size"],
    ).cost  # fmt: skip


def flops(lengths: Sequence[int], layers: int, shape: dict[str, int], *, head: bool = True) -> float:
    """`cost` summed over sequences of these lengths; `head=False` leaves the output layer out."""
    return float(cost(layers, shape if head else {**shape, "vocab_size": 0})(lengths).sum())


def computed(lengths: Sequence[int], layers: int, shape: dict[str, int]) -> tuple[float, float]:
    """(FLOPs, bytes) that a pass with checkpointing computes and moves: 4/3 of the layers' FLOPs, the output layer's;
    the weights five times (forward, again, backward twice, gradients) and `TRAFFIC`.

    >>> shape = dict(hidden_size=1, intermediate_size=1, vocab_size=1, num_attention_heads=1, num_key_value_heads=1)
    >>> computed([2, 4, 3], 1, shape)                           # 4/3 x (42 x 9 + 6 x 29) + 6 x 9; 5 x 2 x 8 + 440 x 9
    (790.0, 4040.0)
    """
    inner, whole = flops(lengths, layers, shape, head=False), flops(lengths, layers, shape)
    weights = flops([1], layers, shape) / 6 - layers * shape["hidden_size"]  # the pair of one token with itself
    moved = 5 * 2 * weights + TRAFFIC * shape["hidden_size"] * layers * sum(lengths)
    return CHECKPOINTING * inner + whole - inner, moved


def tokens(lengths: Sequence[int], vocabulary: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Random token ids for sequences of these lengths."""
    random = np.random.default_rng(seed)
    return (random.integers(3, vocabulary, length) for length in lengths)


def batch(context: Context, lengths: Sequence[int], is_packed: bool, vocabulary: int) -> dict[str, Any]:
    """Sequences of these lengths with random tokens, all but the first of each being targets, in a pack or padded."""
    ids = list(tokens(lengths, vocabulary))
    features = [{"input_ids": one, "labels": one, "loss_weight": 1 / sum(lengths)} for one in ids]
    return to((PackedCollator if is_packed else PaddedCollator)(0)(features), context.device)


def to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A collated batch on the device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
