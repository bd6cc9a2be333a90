"""Which attention ran: the library's kernels for packs by name, and what is compared with them.

A kernel that is not installed is absent. One that is installed and fails is a failed row with its reason, and so is a
pack on a card that was computed by sequences: what is slower than it should be never passes in silence.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu import machine, rows
from benchmarks.gpu.rows import Context, Row
from longalign.recipe import attention, attention_kernels

SEQUENCES = "sequences"
PACKAGE = {"flash_attn": "flash-attn", "varlen": "torch"}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query [1, H, T, D], key and value [1, G, T, D]) -> [1, T, H, D]."""


def usable(context: Context) -> list[str]:
    """The library's backends to measure here: on a card its kernels that work, elsewhere "sequences"."""
    if context.device.type != "cuda":
        return [SEQUENCES]
    return [name for name in attention_kernels.KERNELS if not why_not(name, context)]


def why_not(name: str, context: Context) -> str:
    """Why a kernel does not work on this card; empty when it does."""
    return attention_kernels.why_unusable(name, context.device.index or 0)


def problems(stage: str, context: Context) -> Iterator[Row]:
    """A row for each kernel that does not work here: absent, or failed with the reason."""
    for name, package in PACKAGE.items():
        if not machine.is_installed(package):
            yield rows.absent(stage, package, "not installed")
        elif context.device.type != "cuda":
            yield rows.absent(stage, name, "made for CUDA")
        elif reason := why_not(name, context):
            yield rows.failed(stage, "a small call", name, "it works", reason, backend=name)


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Within this context packs are computed by this backend alone."""
    with mock.patch.object(attention, "backend_of", lambda *_: name):
        yield


@contextlib.contextmanager
def ran() -> Iterator[set[str]]:
    """The names of the backends by which packs were computed within this context."""
    seen, choose = set(), attention.backend_of

    def noting(*arguments) -> str:
        seen.add(name := choose(*arguments))
        return name

    with mock.patch.object(attention, "backend_of", noting):
        yield seen


def named(seen: set[str]) -> str:
    """Names of backends for a row. torch before 2.12 has no grouped heads in varlen_attn, so they are repeated."""
    return "+".join(sorted(seen)) + (", heads repeated" if "varlen" in seen and not _grouped() else "")


def slower(seen: set[str], context: Context) -> str:
    """Why packs on a card were computed by sequences; empty when they were not, or when there is no card."""
    if context.device.type != "cuda" or SEQUENCES not in seen:
        return ""
    reasons = "; ".join(f"{name}: {why_not(name, context)}" for name in attention_kernels.KERNELS)
    return f"computed by sequences and not by a kernel for packs ({reasons})"


def packed(lengths: list[int], device: torch.device) -> Attend:
    """The library's attention over a pack."""
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    return functools.partial(_packed, offsets, max(lengths))


def dense(lengths: list[int], device: torch.device) -> Attend:
    """sdpa with a mask of T x T, as transformers makes it; on a card by its memory-efficient kernel alone."""
    document = _documents(lengths, device)
    mask = (document[:, None] == document).tril_()
    return functools.partial(_dense, mask)


def dense_name(device: torch.device) -> str:
    """What computes `dense`."""
    return "sdpa, efficient_attention" if device.type == "cuda" else "sdpa"


def flex_name(device: torch.device) -> str:
    """What computes `flex`."""
    return "flex_attention, compiled" if device.type == "cuda" else "flex_attention, as written"


def flex(lengths: list[int], device: torch.device) -> Attend:
    """FlexAttention with a document mask: compiled on a card, as written out on a CPU (where it has no kernel)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    document = _documents(lengths, device)
    tokens = len(document)

    def sees(batch, head, query, key):
        return (document[query] == document[key]) & (query >= key)

    # as written: what is measured is the attention, and a mask of T x T that is there for a moment takes no compiling
    mask = create_block_mask(sees, None, None, tokens, tokens, device=device)
    attend = _compiled_flex() if device.type == "cuda" else flex_attention
    return lambda q, k, v: attend(q, k, v, block_mask=mask, enable_gqa=k.shape[1] != q.shape[1]).transpose(1, 2)


def _packed(offsets: Tensor, longest: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attention.block_causal_attention(query, key, value, offsets, longest)


def _dense(mask: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    # the kernel that is named, or an error: torch's own choice could be the full matrix, in silence
    only = sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if query.is_cuda else contextlib.nullcontext()
    with only:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _documents(lengths: list[int], device: torch.device) -> Tensor:
    counts = torch.tensor(lengths, device=device)
    return torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # without fullgraph it would run as written, in silence, after some compilations
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _grouped() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return attention_kernels.takes_grouped_heads(varlen_attn)
