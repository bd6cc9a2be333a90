"""Teacher-forced metrics: exact match of greedy decoding, and likelihood, from one forward pass over packs.

Greedy decoding writes the reference answer if and only if every target token is the most probable one after the tokens
before it: up to the first mismatch, what was decoded is the reference itself. So the teacher-forced argmax decides. It
says whether the answer is exact, not what was written instead. The end token of an answer is a target. The logits of a
pack's targets are held at once; those of all other tokens are never computed.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from longalign.common.array_types import IGNORE_INDEX, Float, Int
from longalign.recipe.collators import PackedCollator
from longalign.recipe.last_layer import logits_at, predicting, read_only_at
from longalign.recipe.packing import next_fit

CAPACITY = 2048
"""Tokens of a pack; on one thread a seventh faster than 8,192, because what is computed stays in the caches."""


@dataclass(frozen=True)
class PackTargets:
    """The targets of one pack: `logits` [targets, vocabulary] before each, `tokens` [targets], `owners` [targets]
    (the index of the sequence that each belongs to, in the order of the sequences and their tokens)."""

    logits: Tensor
    tokens: Tensor
    owners: np.ndarray


@torch.no_grad()
def target_logits(
    model: PreTrainedModel, sequences: Sequence[dict[str, Any]], *, capacity: int = CAPACITY
) -> Iterator[PackTargets]:
    """Every target token of `sequences` (`input_ids` and unshifted `labels`), pack by pack, in evaluation mode."""
    lengths = [len(sequence["input_ids"]) for sequence in sequences]
    collate = PackedCollator(0)
    training = model.training
    model.eval()
    try:
        for pack in next_fit(lengths, max(capacity, *lengths, 1)):
            yield _pack_targets(model, collate([{**sequences[i], "loss_weight": 1.0} for i in pack]), pack, lengths)
    finally:
        model.train(training)


def _pack_targets(model: PreTrainedModel, batch: Any, pack: Sequence[int], lengths: Sequence[int]) -> PackTargets:
    labels = batch.pop("labels")[0].to(model.device)
    batch.pop("loss_weights")
    read = predicting(labels[None], len(labels))
    with read_only_at(model, read, 1, len(labels)):
        logits = logits_at(model, read, _to(batch, model.device))
    places = np.searchsorted(np.cumsum([lengths[i] for i in pack]), read.cpu().numpy() + 1, side="right")
    return PackTargets(logits, labels[read + 1], np.array(pack)[places])


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


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


def preferred(model: PreTrainedModel, choices: Sequence[Sequence[dict[str, Any]]]) -> Int[np.ndarray, " items"]:
    """For each item the index of the option (a sequence, its answer as target) with the lowest mean NLL per target."""
    sums, counts = sequence_nll(model, [option for options in choices for option in options])
    starts = np.cumsum([0, *map(len, choices)])
    means = sums / counts
    return np.array([means[a:b].argmin() for a, b in itertools.pairwise(starts)], dtype=np.int64)


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


def fact_match(hits: np.ndarray, labels: np.ndarray, *, ends: np.ndarray) -> float:
    """Share of facts of which every target token is hit, the reference standing before them.

    A fact is a sentence of an answer, up to a target that `ends` one (bool, shape (N_i,)); what follows the last of
    them, as the end token does, belongs to the last fact. Graded where `exact_match` is 0 or 1, equal to it for answers
    of one fact.

    Two facts, the end token missed:

    >>> hits, ends = np.array([True, True, True, True, False]), np.array([False, True, False, True, False])
    >>> fact_match(hits, np.array([-100, 5, 9, 6, 9, 1]), ends=ends)
    0.5
    """
    facts: list[bool] = []
    for last, hit in zip(*(np.split(x, _run_starts(labels)) for x in (ends, hits)), strict=True):
        facts += [bool(fact.all()) for fact in np.split(hit, (np.flatnonzero(last) + 1)[:-1])]
    return float(np.mean(facts))


def runs_of(labels: np.ndarray) -> list[np.ndarray]:
    """The targets of each answer.

    >>> [run.tolist() for run in runs_of(np.array([-100, -100, 5, 6, -100, 5, 7]))]
    [[5, 6], [5, 7]]
    """
    return np.split(labels[1:][labels[1:] != IGNORE_INDEX], _run_starts(labels))


def _run_starts(labels: np.ndarray) -> np.ndarray:
    """Where, among the targets, the runs of neighbouring targets after the first one begin."""
    places = np.flatnonzero(labels[1:] != IGNORE_INDEX)
    return np.flatnonzero(np.diff(places) > 1) + 1
