"""The kernels for packs on a GPU: flash-attn where it works, else torch's varlen_attn; and why one does not work.

Both take q (T, H, D), k and v (T, G, D) in bf16 or fp16, offsets (int32, on the card) and the longest length, and give
(T, H, D): causal attention within each sequence. G divides H.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longalign.common.array_types import Float

_log = logging.getLogger(__name__)


def flash_attn(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scaling, dropout) -> Tensor:
    """flash-attn's kernel for sequences of different lengths."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, max_seqlen_q=max_seqlen, max_seqlen_k=max_seqlen,
        dropout_p=dropout, softmax_scale=scaling, causal=True,
    )  # fmt: skip


def varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scaling, dropout) -> Tensor:
    """torch's kernel; it has no dropout. Where it takes no grouped heads, keys and values are repeated."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if k.shape[1] != q.shape[1] and takes_grouped_heads(varlen_attn):
        options["enable_gqa"] = True
    elif k.shape[1] != q.shape[1]:
        k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for states in (k, v))
    out: Any = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options)
    return out  # a pair of tensors only where return_aux asks for it


@functools.cache
def takes_grouped_heads(varlen_attn: Callable[..., Any]) -> bool:
    """Whether torch's varlen_attn takes fewer key/value heads than query heads: it does from 2.12 on, 2.11 does not."""
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


KERNELS: dict[str, Callable[..., Tensor]] = {"flash_attn": flash_attn, "varlen": varlen}


def backend_of(query: Float[Tensor, "1 H T D"], dropout: float = 0.0) -> str:
    """What computes a pack with these queries: "flash_attn", "varlen" (torch's varlen_attn) or "sequences" (sdpa)."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    # Both kernels hold whole heads of at most 256 elements, in steps of 8.
    if query.device.type == "cuda" and half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256:
        if not why_unusable("flash_attn", query.device.index):
            return "flash_attn"
        if not dropout and not why_unusable("varlen", query.device.index):
            return "varlen"
    return "sequences"


@functools.cache
def why_unusable(backend: str, device: int) -> str:
    """Why a small call of "flash_attn" or "varlen" fails on this GPU, forward or backward; empty when it succeeds."""
    try:
        with torch.enable_grad(), torch.autocast("cuda", enabled=False):
            q = torch.zeros(3, 2, 32, device=f"cuda:{device}", dtype=torch.bfloat16, requires_grad=True)
            k, v = (torch.zeros_like(q[:, :1]).requires_grad_() for _ in range(2))
            offsets = torch.tensor([0, 1, 3], device=q.device, dtype=torch.int32)
            KERNELS[backend](q, k, v, offsets, 2, None, 0.0).sum().backward()
            torch.cuda.synchronize(q.device)
    except Exception as error:  # noqa: BLE001  whatever stops the kernel, the next one is the answer
        reason = f"{type(error).__name__}: {error}"
        _log.info("attention backend %s does not work here (%s)", backend, reason)
        return reason
    return ""
