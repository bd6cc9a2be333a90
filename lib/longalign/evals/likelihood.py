"""Likelihood of answers by teacher forcing: of each sequence, and so which of several options a model prefers.

All sums are over target tokens, the end token of an answer included.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from longalign.common.array_types import Float, Int
from longalign.evals.forward import CAPACITY, target_logits


def sequence_nll(
    model: PreTrainedModel, sequences: Sequence[dict[str, Any]], *, capacity: int = CAPACITY
) -> tuple[Float[np.ndarray, " sequences"], Int[np.ndarray, " sequences"]]:
    """Summed negative log-likelihood (nats) of each sequence's targets, and their number N_i."""
    sums, counts = np.zeros(len(sequences)), np.zeros(len(sequences), dtype=np.int64)
    for pack in target_logits(model, sequences, capacity=capacity):
        nll = torch.nn.functional.cross_entropy(pack.logits.float(), pack.tokens, reduction="none")
        np.add.at(sums, pack.owners, nll.double().cpu().numpy())
        np.add.at(counts, pack.owners, 1)
    return sums, counts


def preferred(
    model: PreTrainedModel, choices: Sequence[Sequence[dict[str, Any]]], *, capacity: int = CAPACITY
) -> Int[np.ndarray, " items"]:
    """For each item the index of the option (a sequence, its answer as target) with the lowest mean NLL per target."""
    sums, counts = sequence_nll(model, [option for options in choices for option in options], capacity=capacity)
    starts = np.cumsum([0, *map(len, choices)])
    means = sums / counts
    return np.array([means[a:b].argmin() for a, b in itertools.pairwise(starts)], dtype=np.int64)
