"""Attention that is more than softmax of scaled products, by the model's own eager code; windows shorter than a pack.

Attention sinks (GPT-OSS), a softcap (Gemma 2), a bias by distance (Inkling): the file that defines the model holds
`eager_attention_forward`, which is the definition. It is called with the mask that stock eager attention would get, for
rows as they are, and for a pack sequence by sequence. Memory stays linear in tokens, since few queries are taken at a
time and computed again in the backward pass. T = tokens of a pack, H = query heads, D = head size.
"""

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longalign.common.array_types import Float
from longalign.recipe.masks import DeferredMask, additive

MORE = ("softcap", "s_aux", "sinks", "position_bias")
"""Arguments by which a layer asks for more than softmax of scaled products."""
PLAIN = frozenset(
    "bool contiguous dropout dtype float32 functional getattr hasattr head_dim is_causal matmul nn"
    " num_key_value_groups repeat_kv reshape shape size softmax tanh to torch training transpose type view".split()
)
"""Names in the code of an eager attention that is softmax of scaled products (with a softcap, where one is given)."""
HARMLESS = ("s_aux", "position_ids", "cache_position", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "attention_mask")
"""Tensors that layers hand down to any attention, and eager attention leaves alone."""
QUERIES_AT_ONCE = 128

Attend = Callable[..., Float[Tensor, "1 Q H D"]]


def eager_of(kind: type) -> Callable[..., Any] | None:
    """`eager_attention_forward` of the file that defines a class of attention layers; None where there is none."""
    files = (sys.modules.get(base.__module__) for base in kind.__mro__)
    return next((found for file in files if (found := getattr(file, "eager_attention_forward", None))), None)


@functools.cache
def _is_plain(eager: Callable[..., Any]) -> bool:
    return set(eager.__code__.co_names) <= PLAIN


def asked_for(options: dict[str, Any]) -> list[str]:
    """What a layer asks for beyond softmax of scaled products, by the names of the arguments."""
    return [name for name in MORE if options.get(name) is not None]


def own_attention(module: nn.Module, options: dict[str, Any], keys: int) -> Attend | None:
    """The module's own eager attention with its `options`, where it is more than softmax of scaled products, else None.

    What it returns takes query, key, value and a mask (as `longalign.recipe.masks.additive` does), and returns the
    output. Raises ValueError where more is asked for, with `keys` keys to see, than its eager attention computes.
    """
    eager = eager_of(type(module))
    known = eager.__code__.co_varnames[: eager.__code__.co_argcount] if eager else ()
    for name, option in options.items():
        # sinks come as s_aux for kernels; eager attention takes the module's
        if name in (*known, *HARMLESS) or not isinstance(option, Tensor):
            continue
        if name != "indices" or option.shape[-1] < keys:  # an indexer that picks every key leaves nothing out
            raise ValueError(
                f"{type(module).__name__} gives its attention {name!r}, which the attention \"longalign\" does not "
                "know: its result would not be the model's own"
            )
    if eager is None or (_is_plain(eager) and not asked_for(options)):
        return None

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any) -> Tensor:
        added = additive(mask, query, key)
        if added.shape[-1] != key.shape[2]:
            raise ValueError(
                f"{type(module).__name__} gives its attention {key.shape[2]} keys under a mask of {added.shape[-1]}: "
                "what it sees cannot be told"
            )
        return eager(module, query, key, value, added, **{**options, **given})[0]

    return attend


def recomputed(attend: Callable[..., Tensor], queries: int) -> Callable[..., Tensor]:
    """`attend`, computed again in the backward pass where it takes these queries in several parts."""
    several = torch.is_grad_enabled() and queries > QUERIES_AT_ONCE
    return functools.partial(checkpoint, attend, use_reentrant=False) if several else attend


def attend_by_sequence(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, offsets: list[int], mask: DeferredMask | None,
    **options: Any,
) -> Float[Tensor, "1 T H D"]:  # fmt: skip
    """`attend` within each sequence of a pack, with the boolean mask of its queries and keys.

    Of `options`, tensors with a dimension of the T queries or the T keys (a bias) are cut as these are.
    """
    outputs = []
    for start, end in itertools.pairwise(offsets):
        call = recomputed(_attend, end - start)
        for first in range(start, end, QUERIES_AT_ONCE):
            last = min(first + QUERIES_AT_ONCE, end)
            # No mask that is local (a window, a chunk) reaches further back than its size.
            reach = start if mask is None or not mask.local_size else max(start, first - mask.local_size + 1)
            outputs.append(call(attend, query, key, value, (first, last, reach), mask, options))
    return torch.cat(outputs, dim=1) if outputs else query.transpose(1, 2)


def _attend(attend, query, key, value, places: tuple[int, int, int], mask, options) -> Tensor:
    (first, last, reach), tokens = places, query.shape[2]
    queries, keys = (torch.arange(begin, last, device=query.device) for begin in (first, reach))
    seen = keys <= queries[:, None] if mask is None else mask.visible(queries[None], keys)
    cut = {name: _cut(option, tokens, places) for name, option in options.items()}
    q, k, v = query[:, :, first:last], key[:, :, reach:last], value[:, :, reach:last]
    return attend(q, k, v, seen, **cut)


def _cut(option: Any, tokens: int, places: tuple[int, int, int]) -> Any:
    if not isinstance(option, Tensor) or option.ndim != 4:
        return option
    first, last, reach = places
    option = option[:, :, first:last] if option.shape[2] == tokens else option
    return option[..., reach:last] if option.shape[3] == tokens else option
