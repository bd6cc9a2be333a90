"""Exact match of greedy decoding, from one forward pass per sample and without decoding.

Greedy decoding writes the reference answer if and only if every target token is the most probable one after the tokens
before it: up to the first mismatch, what was decoded is the reference itself. So the teacher-forced argmax decides, at
the cost of one forward pass over packs. Price: it says whether the answer is exact, not what was written instead.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from longalign.collators import PackedCollator
from longalign.packing import next_fit
from longalign.shapes import IGNORE_INDEX


@torch.no_grad()
def exact_match(model: PreTrainedModel, sequences: Sequence[dict[str, Any]], *, capacity: int = 8192) -> np.ndarray:
    """Share of exact answers per sequence: 1.0 where all target tokens are the argmax, else 0.0; NaN without targets.

    `sequences` hold `input_ids` and `labels` (unshifted). Returns float64, shape (sequences,).
    """
    return np.array(
        [np.nan if len(hits) == 0 else float(hits.all()) for hits in target_hits(model, sequences, capacity=capacity)]
    )


def token_recall(model: PreTrainedModel, sequences: Sequence[dict[str, Any]]) -> float:
    """Share of all target tokens that are the model's most probable ones."""
    return float(np.concatenate(target_hits(model, sequences)).mean())


@torch.no_grad()
def target_hits(
    model: PreTrainedModel, sequences: Sequence[dict[str, Any]], *, capacity: int = 8192
) -> list[np.ndarray]:
    """For each sequence, whether each of its target tokens is the model's most probable one (bool, shape (N_i,))."""
    lengths = [len(sequence["input_ids"]) for sequence in sequences]
    collate = PackedCollator(model.config.pad_token_id or 0)
    hits: list[np.ndarray] = [np.empty(0, dtype=bool)] * len(sequences)
    training = model.training
    model.eval()
    for pack in next_fit(lengths, max(capacity, *lengths, 1)):
        batch = collate([{**sequences[i], "loss_weight": 1.0} for i in pack])
        labels = batch.pop("labels")[0].to(model.device)
        batch.pop("loss_weights")
        hidden = model.base_model(**_to(batch, model.device)).last_hidden_state[0]
        predicting = (labels[1:] != IGNORE_INDEX).nonzero()[:, 0]
        correct = model.get_output_embeddings()(hidden[predicting]).argmax(-1) == labels[predicting + 1]
        owner = np.searchsorted(np.cumsum([lengths[i] for i in pack]), predicting.cpu().numpy() + 1, side="right")
        for position, i in enumerate(pack):
            hits[i] = correct.cpu().numpy()[owner == position]
    model.train(training)
    return hits


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def by_cell(scores: np.ndarray, samples: Iterable[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Mean score and count for every combination of the samples' fields `names`, sorted.

    >>> by_cell(np.array([1.0, 0.0, 1.0]), [{"task": "lookup"}, {"task": "lookup"}, {"task": "chain"}], "task")
    [{'task': 'chain', 'value': 1.0, 'count': 1}, {'task': 'lookup', 'value': 0.5, 'count': 2}]
    """
    cells: dict[tuple, list[float]] = {}
    for score, sample in zip(scores, samples, strict=True):
        cells.setdefault(tuple(sample[name] for name in names), []).append(float(score))
    return [
        {**dict(zip(names, cell, strict=True)), "value": float(np.mean(values)), "count": len(values)}
        for cell, values in sorted(cells.items())
    ]
