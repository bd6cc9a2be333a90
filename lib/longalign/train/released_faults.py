"""Faults of the paper's released code that change what a model is trained on, each to be switched on alone.

    first packs      the packs of the first four optimizer steps (32 packs of 8 a step) of every epoch are cut to half
                     their capacity; what is left has doubled weights over the old denominators
    last pack        the last pack of every epoch is never written
    longest dropped  sorted batching drops what is left over by groups of 96: the longest sequences, in every epoch

Named by the table of section 7 in the overview; the other rows of that table are measured without training. `K` counted
on one machine is the weighting "released" (`longalign.recipe.weights`); the Trainer's mean over tokens is the exponent
1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.batching import Plan
from longalign.recipe.dataset import PlannedDataset, Sequences

SHORTENED_STEPS = 4
GROUP = 96


def faulty_dataset(defect: str, sequences: Sequences, plans: list[Plan], **options: Any) -> PlannedDataset:
    """The dataset of `plans` with one fault; `options` are those of `PlannedDataset`.

    Raises KeyError, naming the faults, for an unknown one.
    """
    if defect not in DEFECTS:
        raise KeyError(f"no defect is called {defect!r}; there are {', '.join(DEFECTS)}")
    return DEFECTS[defect](sequences, plans, **options)


class _FirstPacksCut(PlannedDataset):
    """Cuts what stands behind half the capacity in the first packs of an epoch and doubles the other weights."""

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        micro_batch = super().__getitem__(index)
        plan, step = self.steps[index // self.per_step]
        if plan.steps.index(step) >= SHORTENED_STEPS:
            return micro_batch
        return cut_pack(micro_batch, plan.capacity // 2)


def cut_pack(features: list[dict[str, Any]], capacity: int) -> list[dict[str, Any]]:
    """The first `capacity` tokens of a pack, weights doubled; the targets behind them are lost.

    >>> pack = [{"input_ids": [7] * n, "labels": [7] * n, "loss_weight": 1 / 9} for n in (2, 4, 3)]
    >>> [len(feature["input_ids"]) for feature in cut_pack(pack, 4)]
    [2, 2]
    """
    kept, room = [], capacity
    for feature in features:
        tokens = min(room, len(feature["input_ids"]))
        if tokens == 0:
            break
        cut = {name: feature[name][:tokens] for name in ("input_ids", "labels")}
        kept.append({**cut, "loss_weight": 2 * feature["loss_weight"]})
        room -= tokens
    return kept


class _Dropped(PlannedDataset):
    """Leaves sequences of each epoch out: they stay in their micro-batch without targets, so steps keep their shape."""

    def __init__(self, sequences: Sequences, plans: list[Plan], dropped: list[list[int]], **options: Any):
        emptied = [_without_targets(plan, indices) for plan, indices in zip(plans, dropped, strict=True)]
        super().__init__(sequences, emptied, **options)
        self.dropped = {id(plan): set(indices) for plan, indices in zip(emptied, dropped, strict=True)}

    def _feature(self, plan: Plan, index: int, loss_weight: float) -> dict[str, Any]:
        if index not in self.dropped[id(plan)]:
            return super()._feature(plan, index, loss_weight)
        input_ids = self.sequences[index]["input_ids"]
        return {"input_ids": input_ids, "labels": [IGNORE_INDEX] * len(input_ids), "loss_weight": 0.0}


def _without_targets(plan: Plan, indices: list[int]) -> Plan:
    target_counts = plan.target_counts.copy()
    target_counts[indices] = 0
    return replace(plan, target_counts=target_counts)


def _last_pack_lost(sequences: Sequences, plans: list[Plan], **options: Any) -> PlannedDataset:
    return _Dropped(sequences, plans, [list(plan.steps[-1].rows[-1]) for plan in plans], **options)


def _longest_dropped(sequences: Sequences, plans: list[Plan], **options: Any) -> PlannedDataset:
    left_over = len(plans[0].lengths) % GROUP
    longest = np.argsort(plans[0].lengths, kind="stable")[len(plans[0].lengths) - left_over :].tolist()
    return _Dropped(sequences, plans, [longest] * len(plans), **options)


def lost_targets(dataset: PlannedDataset, plans: list[Plan]) -> int:
    """Target tokens that a faulty dataset has lost of those of its plans."""
    planned = sum(int(plan.target_counts[list(step.sequences)].sum()) for plan in plans for step in plan.steps)
    labels = (np.asarray(feature["labels"]) for i in range(len(dataset)) for feature in dataset[i])
    return planned - sum(int(np.count_nonzero(found[1:] != IGNORE_INDEX)) for found in labels)


DEFECTS: dict[str, Callable[..., PlannedDataset]] = {
    "first packs": _FirstPacksCut,
    "last pack": _last_pack_lost,
    "longest dropped": _longest_dropped,
}
