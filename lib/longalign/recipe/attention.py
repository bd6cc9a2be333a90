"""The attention "longalign": no token of a pack sees another sequence, at linear memory; without a pack, stock sdpa.

A packed batch carries `cu_seqlens` (offsets of its sequences: lengths 2, 4, 3 give [0, 2, 6, 9]) and `max_seqlen`;
transformers hands both down to the attention, which is then block-diagonal and causal (arXiv 2401.18058):
  CUDA, bf16 or fp16         flash-attn when it works, else torch's varlen_attn
  everything else            one causal sdpa per run of sequences of equal length: no mask at all
  windows, chunks            where shorter than a sequence: sdpa with their mask, for few queries at a time
  sinks, softcaps, biases    the model's own eager attention, for few queries at a time (`own_attention`)
With cu_seqlens, masks and KV caches are refused. Without (padded training, generation with left padding and cache) the
stock sdpa mask and attention do the work, or the model's own eager attention where sdpa would leave something out.
T = tokens of a pack, H = query heads, G = key/value heads (G divides H), D = head size, E = that of values, mostly D.
"""

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longalign.common.array_types import Float, Int
from longalign.recipe.architectures import why_not_rotated
from longalign.recipe.attention_kernels import KERNELS, backend_of
from longalign.recipe.masks import DeferredMask, mask_forward, pack
from longalign.recipe.own_attention import QUERIES_AT_ONCE, asked_for, attend_by_sequence, own_attention, recomputed

NAME = "longalign"


class _Name(str):
    """The attention's name. Classes that look their attention up in a table of their own end in a KeyError, which shows
    the key as `repr` writes it: so it says what that means."""

    def __repr__(self) -> str:
        why = "takes no other, so it can be trained here neither on packs nor on padded rows"
        return f"{str(self)!r}: this class of transformers has attention code of its own, which {why}"


def register_attention() -> str:
    """Register the attention and its mask with transformers and return the name for `attn_implementation`; idempotent.

    Only this call imports transformers: `from_config(config, attn_implementation=register_attention())`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, mask_forward)
    return _Name(NAME)


def block_causal_attention(
    query: Float[Tensor, "1 H T D"], key: Float[Tensor, "1 G T D"], value: Float[Tensor, "1 G T E"],
    cu_seqlens: Int[Tensor, " offsets"], max_seqlen: int,
    *, scaling: float | None = None, dropout: float = 0.0, read: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "1 T H E"]:  # fmt: skip
    """Causal attention within each sequence of a pack, nothing across; grouped-query attention when G < H.

    `cu_seqlens` is int32 on the device of `query`, ascending from 0 to T; equal neighbours are empty sequences.
    `max_seqlen` is the longest sequence; `scaling` defaults to D^-0.5. `read`, ascending positions, are those whose
    output is read: at others it may be anything (`longalign.recipe.last_layer`), and is 0 where that saves time.

    >>> q = torch.randn(1, 2, 9, 8)
    >>> packed = block_causal_attention(q, q, q, torch.tensor([0, 2, 6, 9], dtype=torch.int32), 4)
    >>> alone = block_causal_attention(*[q[:, :, 2:6]] * 3, torch.tensor([0, 4], dtype=torch.int32), 4)
    >>> torch.allclose(packed[:, 2:6], alone, atol=1e-6)
    True
    """
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave q and k in fp32 beside a bf16 v; sdpa would cast them, the kernels would not.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    # The kernels take values of the size of keys; those of latent attention are smaller.
    backend = backend_of(query, dropout) if value.shape[-1] == query.shape[-1] else "sequences"
    if backend == "sequences":
        if read is not None and len(read):
            return _attend_from(read, query, key, value, cu_seqlens, scaling, dropout)
        return _attend_by_sequence(query, key, value, cu_seqlens, scaling, dropout)
    # (1, heads, T, D) -> (T, heads, D): both kernels take tokens first.
    q, k, v = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    return KERNELS[backend](q, k, v, cu_seqlens, max_seqlen, scaling, dropout)[None]


def _attend_by_sequence(query, key, value, cu_seqlens: Tensor, scaling, dropout) -> Tensor:
    # Neighbours of equal length go through one call; torch.split (not slices) keeps the backward linear in tokens.
    runs = [(length, len(list(run))) for length, run in itertools.groupby(filter(None, cu_seqlens.diff().tolist()))]
    if not runs:
        return query.transpose(1, 2)
    outputs = []
    parts = (states[0].split([length * count for length, count in runs], dim=1) for states in (query, key, value))
    for (length, count), *qkv in zip(runs, *parts, strict=True):
        q, k, v = (states.unflatten(1, (count, length)).transpose(0, 1) for states in qkv)
        out = _sdpa(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _attend_from(read: Tensor, query, key, value, cu_seqlens: Tensor, scaling, dropout) -> Tensor:
    """Attention from the positions `read` alone, sequence by sequence, to all before them; 0 from the others."""
    lengths = cu_seqlens.diff().tolist()
    counts = torch.searchsorted(read, cu_seqlens).diff().tolist()
    places = read - cu_seqlens[torch.bucketize(read, cu_seqlens, right=True) - 1]  # within its sequence
    queries, keys, values = query[:, :, read].split(counts, 2), key.split(lengths, 2), value.split(lengths, 2)
    outputs = []
    for q, k, v, place in zip(queries, keys, values, places.split(counts), strict=True):
        attend = recomputed(_attend_before, len(place))
        for some, at in zip(q.split(QUERIES_AT_ONCE, 2), place.split(QUERIES_AT_ONCE), strict=True):
            if len(at):
                outputs.append(attend(some, k, v, at, scaling, dropout))
    out = torch.cat(outputs, dim=2).transpose(1, 2)
    return out.new_zeros(1, query.shape[2], *out.shape[2:]).index_copy(1, read, out)


def _attend_before(q: Tensor, k: Tensor, v: Tensor, at: Tensor, scaling, dropout) -> Tensor:
    before = torch.arange(k.shape[2], device=k.device) <= at[:, None]
    return _sdpa(q, k, v, dropout_p=dropout, scale=scaling, attn_mask=before)


def _attend_from_rows(read: Tensor, query, key, value, scaling, dropout) -> Tensor:
    """The same for padded rows, [B, H, T, D]: a pack of sequences of T tokens. Returns [B, T, H, D]."""
    rows, _, tokens, _ = query.shape
    q, k, v = (states.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for states in (query, key, value))
    offsets = torch.arange(0, rows * tokens + 1, tokens, device=read.device)
    return _attend_from(read, q, k, v, offsets, scaling, dropout)[0].unflatten(0, (rows, tokens))


def _sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    # Only the CPU kernel is known to take grouped heads in fp32 without falling back to a full matrix.
    sharing = q.shape[1] // k.shape[1]
    grouped = sharing > 1 and q.device.type == "cpu"
    if sharing > 1 and not grouped:
        k, v = (states.repeat_interleave(sharing, dim=1) for states in (k, v))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **options)


def attention_forward(
    module: torch.nn.Module, query: Float[Tensor, "B H T D"], key: Float[Tensor, "B G U D"],
    value: Float[Tensor, "B G U E"], attention_mask: Tensor | DeferredMask | None,
    cu_seqlens: Int[Tensor, " offsets"] | None = None, max_seqlen: int | None = None, scaling: float | None = None,
    dropout: float = 0.0, read: Int[Tensor, " n"] | None = None, key_values: Any = None, **kwargs: Any,
) -> tuple[Float[Tensor, "B T H E"], None]:  # fmt: skip
    """What transformers calls in every layer; `cu_seqlens` and `max_seqlen` are arguments of the model's forward.

    So is `key_values` (`longalign.evals.decoding`): it keeps those of a pack, and without a pack attends to them.
    Raises ValueError for anything that would make a pack leak or be wrong in silence (`_why_refused`), and, with and
    without one, for what a layer asks of its attention that is not computed here.
    """
    deferred = attention_mask if isinstance(attention_mask, DeferredMask) else None
    if cu_seqlens is None and deferred and deferred.offsets:
        cu_seqlens, max_seqlen = deferred.offsets
    elif cu_seqlens is None and pack.get():
        raise ValueError(
            f"{type(module).__name__} was not given the cu_seqlens of the pack, so sequences would see each other: a "
            "model's forward must hand its keyword arguments down to the attention"
        )
    own = own_attention(module, {**kwargs, "scaling": scaling, "dropout": dropout}, key.shape[2])
    local = deferred and deferred.local_size
    if cu_seqlens is None and key_values is not None:
        seen = deferred.visible if deferred and local else None
        return key_values.attend(module.layer_idx, query, key, value, scaling, own=own, visible=seen), None
    if cu_seqlens is None and own:
        return own(query, key, value, attention_mask), None
    if cu_seqlens is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if read is not None and deferred and deferred.is_causal_alone and query.device.type == "cpu":
            return _attend_from_rows(read, query, key, value, scaling, dropout), None
        mask = attention_mask.dense if isinstance(attention_mask, DeferredMask) else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs)
    if reason := _why_refused(module, query, key, attention_mask, cu_seqlens, max_seqlen, kwargs):
        raise ValueError(f"attention over a pack (cu_seqlens) {reason}")
    assert max_seqlen is not None  # or it was refused
    if key_values is not None:
        key_values.keep(module.layer_idx, key, value)
    if own or (local and local < max_seqlen):
        attend = own or functools.partial(_attend_seen, scaling=scaling, dropout=dropout)
        biases = {name: kwargs[name] for name in asked_for(kwargs)}
        return attend_by_sequence(attend, query, key, value, cu_seqlens.tolist(), deferred, **biases), None
    options: Any = {"scaling": scaling, "dropout": dropout, "read": read}
    return block_causal_attention(query, key, value, cu_seqlens, max_seqlen, **options), None


def _attend_seen(query, key, value, seen: Tensor, *, scaling, dropout) -> Tensor:
    return _sdpa(query, key, value, attn_mask=seen, scale=scaling, dropout_p=dropout).transpose(1, 2)


def _why_refused(module, query, key, mask, cu_seqlens, max_seqlen, kwargs) -> str | None:
    if kwargs.get("use_cache") or query.shape[2] != key.shape[2]:
        return (
            f"takes no KV cache: pass use_cache=False and no past_key_values; generate without cu_seqlens "
            f"({type(module).__name__} was given {key.shape[2]} keys for {query.shape[2]} queries)."
        )
    deferred = mask if isinstance(mask, DeferredMask) else None
    if (mask is not None and deferred is None) or (deferred and deferred.has_padding_mask):
        return (
            f"takes no attention_mask, not even all ones, and {type(module).__name__} was given one by the batch or by "
            "its model: leave it out of the batch; the boundaries are in cu_seqlens."
        )
    if max_seqlen is None:
        return "needs max_seqlen, the length of the longest sequence, as an int."
    if query.shape[0] != 1:
        return f"needs one row of concatenated sequences, got {query.shape[0]} rows: collate with PackedCollator."
    bidirectional = False in (kwargs.get("is_causal"), getattr(module, "is_causal", True))
    if bidirectional or (deferred and deferred.is_custom):
        return f"is causal attention; {type(module).__name__} asks for a mask of its own."
    window, local = kwargs.get("sliding_window"), deferred and deferred.local_size
    if window is not None and window < max_seqlen and window != local:
        return (
            f"cannot tell what {type(module).__name__} sees: it names a window of {window} tokens, shorter than a "
            f"sequence of {max_seqlen}, and its mask is one of {local or 'all'}."
        )
    # Reading the offsets waits for the device, so only the first layer looks.
    if getattr(module, "layer_idx", None) in (None, 0):
        offsets = cu_seqlens.tolist()
        lengths = [end - start for start, end in itertools.pairwise(offsets)]
        if offsets[:1] != [0] or offsets[-1] != query.shape[2] or min(lengths, default=0) < 0:
            got = f"{offsets[:4]}...{offsets[-1:]}"
            return f"needs offsets that ascend from 0 to the {query.shape[2]} tokens of the row, got {got}."
        if max(lengths, default=0) > max_seqlen:
            return f"was given max_seqlen {max_seqlen}, but its longest sequence has {max(lengths)} tokens."
        if len(lengths) > 1:
            return why_not_rotated(module, max(lengths))
    return None
