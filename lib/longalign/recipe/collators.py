"""One typed batch per micro-batch, in which no sequence predicts another's first token.

A feature is `{"input_ids", "labels", "loss_weight"}`: lists, arrays or tensors of one sequence, labels not shifted, and
the weight of each of its target tokens, which depends on the whole optimizer step (arXiv 2401.18058, Eq. 2):
`PlannedDataset` sets it.  Both collators take a list of features, or a list that holds one such list (a DataLoader with
batch_size=1 over micro-batches); `weights_dtype` is the dtype of `loss_weights`.  They raise ValueError for a feature
without `loss_weight` or with one that is no number from 0 on, one whose labels and input_ids differ in length or are no
integers, several micro-batches, and a padding token that is no token.

Lengths 2, 4, 3 (targets marked *) as a packed batch and as a padded one:
    input_ids     a a b b b b c c c         a a . .    labels  - * - -
    position_ids  0 1 0 1 2 3 0 1 2         b b b b            - * * *
    labels        - * - * - * - * *         c c c .            - * * -
    cu_seqlens    0 2 6 9
An empty micro-batch becomes a filler, one pad token without target: its loss is exactly 0 with a gradient graph, so
that ranks which ran out of sequences take part in every collective.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from longalign.common.array_types import IGNORE_INDEX, Float, Int
from longalign.recipe.packing import cu_seqlens, position_ids

Feature = Mapping[str, Any]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""input_ids, labels and weights of a sequence."""


class PaddedBatch(TypedDict):
    """One sequence a row, padded on the right to the longest; empty sequences are left out.

    There is no attention_mask: a causal model never looks to the right, so no token sees the padding, and what the
    padding sees is not read. With one, kernels compute both halves of the square instead of the causal one.
    """

    input_ids: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    loss_weights: Float[Tensor, "B T"]
    use_cache: bool


class PackedBatch(PaddedBatch):
    """All sequences of a micro-batch in one row (B = 1) of T tokens; offsets ascend from 0 to T."""

    cu_seqlens: Int[Tensor, " offsets"]
    max_seqlen: int


@dataclass
class _Collator:
    pad_token_id: Any  # an integer; None, as many a tokenizer has, is refused with advice
    weights_dtype: torch.dtype = field(default=torch.float32, kw_only=True)

    def __post_init__(self) -> None:
        if self.pad_token_id is None or index(self.pad_token_id) < 0:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}; give any id of the vocabulary, such as 0, where the tokenizer "
                "has no padding token: nothing is learnt from padding"
            )

    def _filler(self) -> Arrays:
        return np.array([self.pad_token_id]), np.array([IGNORE_INDEX]), np.zeros(1)


class PackedCollator(_Collator):
    """Concatenates every sequence of a micro-batch, all of its packs, into one row; needs the "longalign" attention.

    >>> batch = PackedCollator(0)([{"input_ids": [7] * n, "labels": [7] * n, "loss_weight": 1 / n} for n in (2, 4, 3)])
    >>> batch["cu_seqlens"].tolist(), batch["max_seqlen"], batch["labels"].tolist()
    ([0, 2, 6, 9], 4, [[-100, 7, -100, 7, 7, 7, -100, 7, 7]])
    """

    def __call__(self, batch: Sequence[Feature] | Sequence[Sequence[Feature]]) -> PackedBatch:
        sequences = _sequences(batch)
        if not sum(len(tokens) for tokens, _, _ in sequences):
            sequences = [self._filler()]
        tokens, labels, weights = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
        lengths = [len(sequence[0]) for sequence in sequences]
        return {
            "input_ids": torch.from_numpy(tokens)[None],
            "position_ids": torch.from_numpy(position_ids(lengths))[None],
            "cu_seqlens": torch.from_numpy(cu_seqlens(lengths)),
            "max_seqlen": max(lengths),
            "labels": torch.from_numpy(labels)[None],
            "loss_weights": torch.from_numpy(weights)[None].to(self.weights_dtype),
            "use_cache": False,
        }


class PaddedCollator(_Collator):
    """One sequence a row, padded on the right; works with every causal attention.

    >>> batch = PaddedCollator(0)([{"input_ids": [7] * n, "labels": [7] * n, "loss_weight": 1 / n} for n in (2, 4, 3)])
    >>> batch["labels"].tolist()
    [[-100, 7, -100, -100], [-100, 7, 7, 7], [-100, 7, 7, -100]]
    """

    def __call__(self, batch: Sequence[Feature] | Sequence[Sequence[Feature]]) -> PaddedBatch:
        # A row without tokens would attend to nothing; it carries no loss either.
        sequences = [sequence for sequence in _sequences(batch) if len(sequence[0])] or [self._filler()]
        fill = (self.pad_token_id, IGNORE_INDEX, 0.0)
        tokens, labels, weights = (
            pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=value)
            for rows, value in zip(zip(*sequences, strict=True), fill, strict=True)
        )
        return {
            "input_ids": tokens,
            "position_ids": torch.arange(tokens.shape[1]).repeat(len(sequences), 1),
            "labels": labels,
            "loss_weights": weights.to(self.weights_dtype),
            "use_cache": False,
        }


def _sequences(batch: Sequence[Any]) -> list[Arrays]:
    """Each sequence, as fresh arrays."""
    if batch and not isinstance(batch[0], Mapping):
        if len(batch) != 1:
            raise ValueError(
                f"got {len(batch)} micro-batches at once; an element of the dataset is a whole micro-batch, so set the "
                "DataLoader's batch_size to 1 (per_device_train_batch_size=1, per_device_eval_batch_size=1; both are 8 "
                "by default) and choose rows in the plan."
            )
        batch = batch[0]
    return [_sequence(number, feature) for number, feature in enumerate(batch)]


def _sequence(number: int, feature: Feature) -> Arrays:
    if "loss_weight" not in feature:
        raise ValueError(
            f"feature {number} of the micro-batch has no loss_weight; it depends on the whole optimizer step, so take "
            "features from PlannedDataset, or set it from longalign.loss_weights."
        )
    given = [np.asarray(feature[name]) for name in ("input_ids", "labels")]
    if any(len(array) and array.dtype.kind not in "iu" for array in given):
        raise ValueError(f"feature {number} of the micro-batch has input_ids or labels that are no integers.")
    tokens, labels = (array.astype(np.int64) for array in given)
    if tokens.shape != labels.shape or tokens.ndim != 1:
        raise ValueError(
            f"feature {number} of the micro-batch has input_ids of shape {tokens.shape} and labels of "
            f"shape {labels.shape}; give one label per token, unshifted."
        )
    weight = float(feature["loss_weight"])
    if not 0 <= weight < float("inf"):
        told = f"feature {number} of the micro-batch has the loss_weight {weight}"
        raise ValueError(f"{told}; a weight is a number from 0 on.")
    # Nothing within a sequence predicts its first token; the last token of the sequence before must not.
    labels[:1] = IGNORE_INDEX
    return tokens, labels, np.full(len(tokens), weight)
