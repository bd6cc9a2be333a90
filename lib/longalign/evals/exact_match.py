"""Exact match of greedy decoding, from one forward pass per sample and without decoding.

Greedy decoding writes the reference answer if and only if every target token is the most probable one after the tokens
before it: up to the first mismatch, what was decoded is the reference itself. So the teacher-forced argmax decides, at
the cost of one forward pass over packs. Price: it says whether the answer is exact, not what was written instead.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from longalign.common.array_types import IGNORE_INDEX
from longalign.evals.forward import CAPACITY, target_logits


def exact_match(model: PreTrainedModel, sequences: Sequence[dict[str, Any]], *, capacity: int = CAPACITY) -> np.ndarray:
    """Share of exact answers per sequence: 1.0 where all target tokens are the argmax, else 0.0; NaN without targets.

    `sequences` hold `input_ids` and `labels` (unshifted). Returns float64, shape (sequences,).
    """
    return np.array(
        [np.nan if len(hits) == 0 else float(hits.all()) for hits in target_hits(model, sequences, capacity=capacity)]
    )


def token_recall(model: PreTrainedModel, sequences: Sequence[dict[str, Any]]) -> float:
    """Share of all target tokens that are the model's most probable ones."""
    return float(np.concatenate(target_hits(model, sequences)).mean())


def target_hits(
    model: PreTrainedModel, sequences: Sequence[dict[str, Any]], *, capacity: int = CAPACITY
) -> list[np.ndarray]:
    """For each sequence, whether each of its target tokens is the model's most probable one (bool, shape (N_i,))."""
    hits: list[np.ndarray] = [np.empty(0, dtype=bool)] * len(sequences)
    for pack in target_logits(model, sequences, capacity=capacity):
        correct = (pack.logits.argmax(-1) == pack.tokens).cpu().numpy()
        for i in np.unique(pack.owners):
            hits[i] = correct[pack.owners == i]
    return hits


def answer_match(hits: np.ndarray, labels: np.ndarray) -> float:
    """Share of a conversation's answers of which every token is hit: `exact_match` where there is one answer.

    `hits` as from `target_hits`, `labels` (unshifted) of the same sequence; answers are its runs of targets.

    >>> answer_match(np.array([True, True, True, False]), np.array([-100, -100, 5, 6, -100, 5, 7]))
    0.5
    """
    return float(np.mean([run.all() for run in np.split(hits, _run_starts(labels))]))


def fact_match(hits: np.ndarray, labels: np.ndarray, *, marks: Sequence[int]) -> float:
    """Share of facts of which every target token is hit, the reference standing before them; `marks` end a fact.

    A fact is a sentence of an answer, up to one of the token ids `marks`; what follows the last mark, as the end token
    does, belongs to the last fact. Graded where `exact_match` is 0 or 1, equal to it for answers of one fact.

    With "." = 9 and the end token = 1, two facts, the end missed:

    >>> hits = np.array([True, True, True, True, False])
    >>> fact_match(hits, np.array([-100, 5, 9, 6, 9, 1]), marks=[9])
    0.5
    """
    targets = labels[1:][labels[1:] != IGNORE_INDEX]
    facts: list[bool] = []
    for ids, hit in zip(*(np.split(x, _run_starts(labels)) for x in (targets, hits)), strict=True):
        ends = np.flatnonzero(np.isin(ids, marks)) + 1
        facts += [bool(fact.all()) for fact in np.split(hit, ends[:-1])]
    return float(np.mean(facts))


def _run_starts(labels: np.ndarray) -> np.ndarray:
    """Where, among the targets, the runs of neighbouring targets after the first one begin."""
    places = np.flatnonzero(labels[1:] != IGNORE_INDEX)
    return np.flatnonzero(np.diff(places) > 1) + 1
