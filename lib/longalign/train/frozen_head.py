"""Tokens that are to be learnt where nothing that is trained can tell them from others.

LoRA, as most use it, leaves the output layer as it is. Rows of tokens that a model has never seen point the same way:
no loss has told them apart. So it can learn what to answer, and not to end, where the end of an answer is such a token:
a base model with the chat template of another, or one whose reserved tokens have not been used yet.
"""

import contextlib
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.dataset import Sequences

ALIKE = 0.97
"""The cosine of two rows from which on they count as one direction. In the committed bases, the row of the end token,
which they have never read, is as near as this to over 300 others, and in models that were trained from them to none."""
LOOKED_AT, SHARE = 256, 0.1
"""The last targets of about so many sequences, evenly spaced, are looked at. An end token is one that this share of
them has: templates have one or two."""


@torch.no_grad()
def notes(model: Any, sequences: Sequences) -> list[str]:
    """A line where the output layer is not trained and answers end with tokens whose rows are like those of others.

    All ranks of a distributed model call it at the same time.

    >>> from longalign.train.models import new_model
    >>> model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)
    >>> sequences = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    >>> head = model.get_output_embeddings().weight.requires_grad_(False)
    >>> notes(model, sequences)
    []
    >>> head[7:10] = head[7]
    >>> notes(model, sequences)[0].partition(",")[0]
    'answers end with token 7'
    """
    layer = model.get_output_embeddings()
    head = getattr(layer, "weight", None)
    if head is None or any(parameter.requires_grad for parameter in layer.parameters()):  # LoRA may adapt it, too
        return []
    from peft.utils.integrations import dequantize_module_weight

    ends = _ends(sequences)
    with _whole(head):
        head = dequantize_module_weight(layer)  # as it is, where it is not quantized
        others = {end: _like(head, end) for end in ends if end < head.shape[0]}
    return [
        f"answers end with token {end}, whose row of the output layer points the way of {count:,} others, as rows of "
        "tokens do that a model has never seen; this training leaves the row as it is, and may teach the model to "
        "answer and not to end: train all weights (lora_rank: 0), or begin with a model that knows this chat format"
        for end, count in others.items() if count
    ]  # fmt: skip


def _ends(sequences: Sequences) -> list[int]:
    """The tokens that often are the last target of a sequence."""
    last: Counter[int] = Counter()
    for number in range(0, len(sequences), -(-len(sequences) // LOOKED_AT) or 1):
        labels = np.asarray(sequences[number]["labels"])
        last.update(labels[labels != IGNORE_INDEX][-1:].tolist())
    return sorted(token for token, count in last.items() if count >= SHARE * last.total())


def _like(head: Tensor, token: int) -> int:
    """How many other rows have the direction of this one; of a row of zeros, which has none, all that are zero, too."""
    norms = torch.linalg.vector_norm(head, dim=1, dtype=torch.float32)
    row = head[token]
    if not norms[token]:
        return int((norms == 0).sum()) - 1
    cosines = (head @ row).float() / (norms * norms[token]).clamp_min(torch.finfo(torch.float32).tiny)
    return int((cosines > ALIKE).sum()) - 1


def _whole(weight: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Within this context every rank has the whole weight, also where ZeRO-3 has dealt it to the ranks."""
    if not hasattr(weight, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([weight])
