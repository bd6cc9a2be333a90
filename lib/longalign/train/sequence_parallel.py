"""Sequence parallelism for contexts beyond one device: DeepSpeed-Ulysses (arXiv 2309.14509) on packs, exactly.

The P ranks of a group hold the same pack and a slice of T / P tokens each; within attention they exchange slices for
heads, so that each sees all T tokens of a share of the heads (deepspeed.sequence does that), with the pack's own
boundaries. Weights, gradients and optimizer know nothing of it: the losses of the slices add up to the pack's, as those
of packs add up to the step's.

    lengths 2, 4, 3 on two ranks    a a b b b | b c c c .      . is a filler, of a sequence of its own
    labels, one more than tokens    - * - * * * | * - * * - -  the last hidden state of a slice predicts beyond it
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.attention import attention_forward
from longalign.recipe.collators import PackedCollator
from longalign.recipe.dataset import PlannedDataset
from longalign.recipe.masks import mask_forward

NAME = "longalign-ulysses"


def slice_of(batch: Mapping[str, Any], index: int, count: int, *, pad_token_id: int) -> dict[str, Any]:
    """Slice `index` of `count` of a `PackedBatch`: ids, positions [1, T/P], labels and weights [1, T/P + 1].

    The boundaries stay the whole pack's, which attention sees; what fills T up to a multiple of `count` is one more
    sequence, without targets.

    >>> from longalign.recipe.collators import PackedCollator
    >>> batch = PackedCollator(0)([{"input_ids": [7] * n, "labels": [7] * n, "loss_weight": 1 / n} for n in (2, 4, 3)])
    >>> second = slice_of(batch, 1, 2, pad_token_id=0)
    >>> second["input_ids"].tolist(), second["labels"].tolist(), second["cu_seqlens"].tolist()
    ([[7, 7, 7, 7, 0]], [[7, -100, 7, 7, -100, -100]], [0, 2, 6, 9, 10])
    """
    tokens = batch["input_ids"].shape[1]
    more = -tokens % count
    whole = {
        "input_ids": F.pad(batch["input_ids"], (0, more), value=pad_token_id),
        "position_ids": torch.cat([batch["position_ids"], torch.arange(more).to(batch["position_ids"])[None]], dim=1),
        "labels": F.pad(batch["labels"], (0, more + 1), value=IGNORE_INDEX),
        "loss_weights": F.pad(batch["loss_weights"], (0, more + 1)),
    }
    width = (tokens + more) // count
    ends = {name: width * (index + 1) + (name in ("labels", "loss_weights")) for name in whole}
    offsets = F.pad(batch["cu_seqlens"], (0, 1), value=tokens + more) if more else batch["cu_seqlens"]
    return {
        **batch, **{name: values[:, width * index : ends[name]] for name, values in whole.items()},
        "cu_seqlens": offsets, "max_seqlen": max(batch["max_seqlen"], more), "shared_by": count,
    }  # fmt: skip


class Slices(Dataset[dict[str, Any]]):
    """The batches of a rank's `PlannedDataset`, and slices of those that `count` ranks share.

    These are the ones that the plan calls shared, or all of a plan that was made for one rank in `count`.
    """

    def __init__(self, own: PlannedDataset, collator: PackedCollator, rank: int, count: int) -> None:
        self.own, self.collator, self.place, self.count = own, collator, rank % count, count
        self.all = all(plan.degree == 1 for plan, _ in own.steps)
        self.shared = copy.copy(own)  # what several ranks share is the first one's
        self.shared.rank = own.rank if self.all else rank - self.place

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not self.all and self.own.shared_by(index) == 1:
            return dict(self.collator(self.own[index]))
        batch = self.collator(self.shared[index])
        return slice_of(batch, self.place, self.count, pad_token_id=self.collator.pad_token_id)


def only(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """The one batch of a list (`Slices` has collated it)."""
    (batch,) = batches
    return batch


def attach(model: PreTrainedModel, count: int) -> None:
    """Have a model's attention exchange slices for heads within every `count` neighbouring ranks; all ranks call this.

    Only slices are exchanged (`slice_of` marks them): a batch of its own a rank computes alone.
    Raises ValueError for a model whose heads cannot be shared by so many.
    """
    check_heads(model.config, count)
    ranks = torch.distributed.get_world_size()
    groups = [torch.distributed.new_group(range(first, first + count)) for first in range(0, ranks, count)]
    AttentionInterface.register(NAME, _Exchanging(groups[torch.distributed.get_rank() // count], count))
    AttentionMaskInterface.register(NAME, mask_forward)
    model.set_attn_implementation(NAME)


class _Exchanging:
    """The registered attention over whole packs, for slices of them and for what no other rank has."""

    def __init__(self, group: Any, count: int) -> None:
        self.group, self.count = group, count

    def __call__(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *,
        shared_by: int = 1, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """query [1, H, T/P, D], key and value [1, G, T/P, D]; returns [1, T/P, H, D]; P is `shared_by`."""
        if shared_by == 1:
            return attention_forward(module, query, key, value, attention_mask, **kwargs)
        from deepspeed.sequence.layer import DistributedAttention

        def attend(*whole: Tensor) -> Tensor:  # [1, T, H/P, D]
            states = (state.transpose(1, 2) for state in whole)
            return attention_forward(module, *states, attention_mask, **kwargs)[0]

        repeats = repeats_of(query.shape[1], key.shape[1], self.count)
        key, value = (states.repeat_interleave(repeats, dim=1) if repeats > 1 else states for states in (key, value))
        exchange = DistributedAttention(attend, self.group, scatter_idx=2, gather_idx=1)
        return exchange(*(states.transpose(1, 2) for states in (query, key, value)), 0), None


def check_heads(config: Any, count: int) -> None:
    """Raise ValueError unless so many ranks can share the heads of a model with this configuration; without grouped
    ones, keys and values have as many as queries."""
    config = config.get_text_config()
    if not (heads := getattr(config, "num_attention_heads", None)):
        raise ValueError(f"sequence_parallel is {count}, but the model has no attention heads that ranks could share")
    repeats_of(heads, getattr(config, "num_key_value_heads", None) or heads, count)


def repeats_of(heads: int, groups: int, count: int) -> int:
    """How often each key/value head is repeated, so that every rank has as many: grouped heads may be few.

    >>> repeats_of(32, 2, 8), repeats_of(6, 3, 2), repeats_of(32, 8, 4)
    (4, 2, 1)
    """
    for times in range(1, heads // groups + 1):
        if heads % (groups * times) == 0 == groups * times % count:
            return times
    shares = [number for number in range(1, heads + 1) if heads % number == 0]
    raise ValueError(f"sequence_parallel is {count}, but the model has {heads} heads: they can be shared by {shares}")
