"""The mask of a call to the attention "longalign": stock sdpa's, built only when it is asked for, or any part of it.

transformers builds masks before the attention sees cu_seqlens, and for restarting position_ids that would be T x T. So
what it gets here stands for the mask. It is True where a query sees a key. T = tokens of a row, Q = queries, K = keys.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from longalign.common.array_types import Bool, Float, Int

Pack = tuple[Int[Tensor, " offsets"], int | None]
"""`cu_seqlens` and `max_seqlen` of a pack."""
pack: ContextVar[Pack | None] = ContextVar("pack", default=None)


@contextmanager
def of_a_pack(offsets: Pack | None) -> Iterator[None]:
    """Within this context a layer that the model does not hand the offsets finds them in its mask, or is refused."""
    before = pack.set(offsets)
    try:
        yield
    finally:
        pack.reset(before)


class DeferredMask:
    """The stock sdpa mask of a call, built once, when an attention without cu_seqlens asks for it.

    To code that takes parts of a mask (an indexer, a static cache) it is that mask: booleans [B, 1, Q, K].
    """

    def __init__(self, arguments: dict[str, Any]):
        self._arguments = arguments
        self.has_padding_mask = arguments.get("attention_mask") is not None
        self.is_custom = bool(arguments.get("use_vmap"))
        self.local_size = arguments.get("local_size")
        unmasked = not (self.has_padding_mask or self.is_custom or self.local_size)
        self.is_causal_alone = unmasked and arguments.get("allow_is_causal_skip", False)
        self._pack = pack.get()

    def _built(self, **options: bool) -> Any:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**{**self._arguments, **options})

    @functools.cached_property
    def dense(self) -> Tensor | None:
        return self._built()

    @functools.cached_property
    def whole(self) -> Tensor:
        return self._built(allow_is_causal_skip=False)

    @functools.cached_property
    def offsets(self) -> Pack | None:
        """Those of the pack that the row is, where the mask parts its sequences, too: of a model that hands its layers
        no `cu_seqlens`, but counts positions by the batch's `position_ids`."""
        if self._pack is None or int(self._pack[0][-1]) != self._arguments["q_length"]:
            return None
        starts = self._pack[0][1:-1].unique()
        starts = starts[(starts > 0) & (starts < self._arguments["q_length"])].long()
        together = self.visible(starts[None], starts - 1)[0, 0].diagonal()  # each start and the token before it
        return None if together.any() else self._pack

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __getitem__(self, place: Any) -> Tensor:
        return self.whole[place]

    def __and__(self, other: Tensor) -> Tensor:
        return self.whole & other

    def __invert__(self) -> Tensor:
        return ~self.whole

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, given: Any = (), options: Any = None) -> Any:
        # Scores are added to masks of numbers alone: code that adds one of booleans would be wrong in silence.
        if function in (torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__radd__):
            return NotImplemented
        whole = [value.whole if isinstance(value, cls) else value for value in given]
        return function(*whole, **(options or {}))

    def visible(self, queries: Int[Tensor, "B Q"], keys: Int[Tensor, " K"]) -> Bool[Tensor, "B 1 Q K"]:
        """Which of the `keys` each of the `queries` sees, by their places in the row; padding is not looked at."""
        rows = torch.arange(len(queries), device=queries.device)[:, None, None, None]
        seen = self._arguments["mask_function"](rows, torch.zeros_like(rows), queries[:, None, :, None], keys)
        return seen.expand(len(queries), 1, queries.shape[1], len(keys))


def mask_forward(**arguments: Any) -> DeferredMask | Tensor | None:
    """What transformers calls for the mask of a model with this attention (keyword arguments of `sdpa_mask`)."""
    mask = DeferredMask(arguments)
    # A pack is never decoded with a cache; and generation may hand an early mask back to the model, as a tensor only.
    starts_at_zero = isinstance(arguments.get("q_offset", 0), int) and arguments.get("q_offset", 0) == 0
    return mask if starts_at_zero and arguments["q_length"] == arguments["kv_length"] else mask.dense


def additive(mask: Tensor | DeferredMask | None, query: Tensor, key: Tensor) -> Float[Tensor, "B 1 Q K"]:
    """The mask as eager attention adds it to scores: 0 where a query sees a key, the smallest number elsewhere.

    None is what stock sdpa makes of it: one query sees every key, several are causal from the first key on.
    """
    if isinstance(mask, DeferredMask):
        mask = mask.dense
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=query.device)
        mask = mask.tril() if queries > 1 else mask
    if mask.dtype != torch.bool:
        return mask
    added = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device)
    return added.masked_fill(~mask, torch.finfo(query.dtype).min)


