"""The micro-batches of a plan as a DataLoader takes them, each sequence weighted by its true optimizer step.

Element i is one micro-batch: a list of features with `loss_weight` set, [] where the plan has a filler.  Nothing may
reorder or regroup the elements, so sampling is sequential and the batch size is 1.  They go step by step, within a step
micro-step by micro-step, and within that rank by rank, which is how accelerate deals batches to processes in turn.
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
from torch.utils.data import Dataset

from longalign.common.array_types import IGNORE_INDEX, Int
from longalign.recipe.batching import Plan, Step, plan_packing
from longalign.recipe.weights import (
    EXPONENTS,
    Schedule,
    Weighting,
    eq3_weights,
    loss_weights,
    released_weights,
    stages,
)

MASKS = ("assistant_masks", "completion_mask", "loss_mask", "response_mask")
"""Names under which transformers, TRL and others keep which tokens are learnt, 1 for each that is."""


@runtime_checkable
class Sequences(Protocol):
    """A list of `{"input_ids", "labels"}`, a token store, or anything with the same two methods."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def measure(sequences: Sequences) -> tuple[Int[np.ndarray, " sequences"], Int[np.ndarray, " sequences"]]:
    """Lengths and target counts N_i of the sequences, which is what a plan is made from; position 0 never counts.

    Raises ValueError for sequences without a length, as in a stream, and for one that is no row of tokens with a label
    each, is padded, packed already, or has labels that are shifted, or targets where a mask of its own (MASKS) leaves
    tokens out.

    >>> lengths, target_counts = measure([{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)])
    >>> lengths.tolist(), target_counts.tolist()
    ([2, 4, 3], [1, 3, 2])
    """
    listed = hasattr(sequences, "__len__") and hasattr(sequences, "__getitem__")
    if not listed or isinstance(sequences, Mapping | str):
        raise ValueError(f"the sequences are of the type {type(sequences).__name__}: a plan needs the lengths of all; "
                         'give a list or datasets.Dataset of {"input_ids", "labels"}, or a TokenStore')  # fmt: skip
    pairs = [_measured(index, _with_labels(index, sequences[index])) for index in range(len(sequences))]
    lengths, target_counts = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return lengths, target_counts


def step_weights(
    plan: Plan, step: Step, *, exponent: float = 0.0, weighting: Weighting = "sequence", local_gpus: int | None = None
) -> dict[int, float]:
    """Weight of each target token, by sequence, of an optimizer step's sequences; see `longalign.recipe.weights`.

    "sequence": N^(exponent - 1) / sum N^exponent: Eq. 2 and 4 of arXiv 2401.18058 at exponent 0; "square_root" and
    "token" (the mean over the step's target tokens): the same at 1/2 and 1; "eq3": plain packing, Eq. 3, the mean of
    each pack; "released": the official code's, `local_gpus` devices a machine (default: all ranks).
    Raises ValueError for another name, and for an exponent beside 0 or `local_gpus` where they mean nothing.

    >>> from longalign.recipe.batching import plan_packing
    >>> plan = plan_packing([2, 4, 3], capacity=9)                              # N = 1, 3, 2, one pack
    >>> [round(step_weights(plan, plan.steps[0])[i], 4) for i in range(3)]      # 1/(3 N)
    [0.3333, 0.1111, 0.1667]
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, not {weighting!r}")
    if exponent and weighting != "sequence":
        raise ValueError(f'exponent belongs to weighting "sequence"; leave it out for {weighting!r}')
    if plan.degree > 1 and weighting == "released":
        raise ValueError('the released code shares no pack: plan without share_above for the weighting "released"')
    if local_gpus is not None and weighting != "released":
        raise ValueError(f'local_gpus belongs to weighting "released"; leave it out for {weighting!r}')
    counts, sequences = plan.target_counts, list(step.sequences)
    if weighting in EXPONENTS:
        weights = loss_weights(counts[sequences], exponent or EXPONENTS[weighting])
    elif weighting == "eq3":
        weights = eq3_weights(counts, step.rows)[sequences]
    else:
        # The released formula counts packs by position, so a short micro-batch is filled up with empty ones.
        turns = itertools.chain.from_iterable(zip(*step.micro_batches, strict=True))
        rows = [row for turn in turns for row in (*turn, *[()] * (plan.rows - len(turn)))]
        gpus = plan.ranks if local_gpus is None else local_gpus
        weights = released_weights(counts, rows, local_gpus=gpus, ranks=plan.ranks, accumulation=plan.accumulation)
        weights = weights[sequences]
    return dict(zip(sequences, weights.tolist(), strict=True))


def check_several(plans: Any) -> None:
    """Raise TypeError for one plan where a list of them is wanted."""
    if isinstance(plans, Plan):
        raise TypeError("plans is one plan: give a list with a plan for each epoch, such as [plan]")


class PlannedDataset(Dataset[list[dict[str, Any]]]):
    """The micro-batches of one or more plans (epochs, one after the other) as a map-style dataset.

    `rank=None` holds those of all ranks in turn, for a sampler that is sharded by process (accelerate, Trainer);
    `rank=r` only rank r's, for a DataLoader of one's own.  `weighting` may be a schedule over the steps of all plans
    (`longalign.recipe.weights.stages`), of which there are `steps` where a training ends earlier (0: all of them).  The
    other options are those of `step_weights`.

    Raises ValueError when plans differ in ranks or accumulation, a plan is not of these sequences, a rank is not in the
    plan, a schedule is not one, `steps` is negative, or (when read) a sequence has other tokens or targets than the
    plan was made from. TypeError for one plan without a list around it.

    >>> from longalign.recipe.batching import plan_packing
    >>> sequences = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    >>> dataset = PlannedDataset(sequences, [plan_packing([2, 4, 3], capacity=9, ranks=2)])
    >>> [[(len(f["input_ids"]), round(f["loss_weight"], 4)) for f in micro_batch] for micro_batch in dataset]
    [[(3, 0.1667), (2, 0.3333), (4, 0.1111)], []]
    """

    def __init__(
        self, sequences: Sequences, plans: Sequence[Plan], *, exponent: float = 0.0,
        weighting: str | Schedule = "sequence", local_gpus: int | None = None, rank: int | None = None,
        steps: int = 0,
    ):  # fmt: skip
        check_several(plans)
        shapes = {(plan.ranks, plan.accumulation) for plan in plans}
        if len(shapes) != 1:
            raise ValueError(f"give at least one plan, all of the same ranks and accumulation, not {sorted(shapes)}")
        self.ranks, self.accumulation = shapes.pop()
        for plan in plans:
            if len(plan.lengths) != len(sequences):
                raise ValueError(f"the plan is for {len(plan.lengths)} sequences, but {len(sequences)} were given")
        if rank is not None and not 0 <= rank < self.ranks:
            raise ValueError(f"rank {rank} is not in the plan of {self.ranks} ranks; plan for the number of processes")
        if steps < 0:  # as a Trainer's max_steps is where none was given; the last steps would be left out
            raise ValueError(f"steps is {steps}; say how many steps are made, or 0 for all of the plans")
        self.sequences, self.rank = sequences, rank
        self.steps = [(plan, step) for plan in plans for step in plan.steps][: steps or None]
        self.stages = stages(weighting)
        if len(self.stages) > 1 and (exponent or local_gpus is not None):
            raise ValueError("exponent and local_gpus belong to one weighting; leave them out for a schedule")
        self._weights = partial(step_weights, exponent=exponent, local_gpus=local_gpus)
        self._latest: tuple[int, dict[int, float]] | None = None

    @property
    def per_step(self) -> int:
        """Elements of an optimizer step: accumulation, times ranks where all ranks are held."""
        return self.accumulation * (self.ranks if self.rank is None else 1)

    def __len__(self) -> int:
        return len(self.steps) * self.per_step

    def weights_of(self, number: int) -> dict[int, float]:
        """Weight of each target token, by sequence, of step `number` of all plans (`step_weights`)."""
        weighting = [name for share, name in self.stages if number / len(self.steps) >= share][-1]
        return self._weights(*self.steps[number], weighting=weighting)

    def shared_by(self, index: int) -> int:
        """How many ranks are to share element `index`, which the first of them has and the others have as a filler; 1
        where none do. Who does not share it computes the same, on the first rank alone."""
        number, rank, micro_step = self._place(index)
        plan, step = self.steps[number]
        return plan.shared_by(step, rank, micro_step)

    def _place(self, index: int) -> tuple[int, int, int]:
        number, place = divmod(range(len(self))[operator.index(index)], self.per_step)
        micro_step, rank = divmod(place, self.ranks) if self.rank is None else (place, self.rank)
        return number, rank, micro_step

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        number, rank, micro_step = self._place(index)
        plan, step = self.steps[number]
        # Elements of a step follow each other, so one step's weights are enough to keep.
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self.weights_of(number)
        return [self._feature(plan, i, self._latest[1][i]) for row in step.micro_batches[rank][micro_step] for i in row]

    def _feature(self, plan: Plan, index: int, loss_weight: float) -> dict[str, Any]:
        sequence = self.sequences[index]
        tokens, targets = _measured(index, sequence)
        if (tokens, targets) != (plan.lengths[index], plan.target_counts[index]):
            raise ValueError(
                f"sequence {index} has {tokens} tokens and {targets} targets, but the plan was made from "
                f"{plan.lengths[index]} and {plan.target_counts[index]}; make it from the lengths and target_counts of "
                "these sequences (`measure` gives both)."
            )
        return {"input_ids": sequence["input_ids"], "labels": sequence["labels"], "loss_weight": loss_weight}


class EvaluationDataset(PlannedDataset):
    """A held-out set in packs, weighted so that the *mean* of `weighted_loss` over its elements is Eq. 2 over the set.

    All sequences belong to one step, whatever pack they are in, and the weights are multiplied by the number of
    elements, fillers included, because evaluation loops (`Trainer.evaluate`) take the mean over batches and ranks. That
    holds for any capacity and any number of `ranks`, the processes that share the evaluation
    (`TrainingArguments.world_size`). Raises ValueError where there is no sequence or no target, or where a sequence is
    over the capacity.

    >>> sequences = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]            # N = 1, 3, 2
    >>> held_out = EvaluationDataset(sequences, capacity=5)                   # two packs: weights are 2 x 1/(3 N)
    >>> [[(len(f["input_ids"]), round(f["loss_weight"], 4)) for f in micro_batch] for micro_batch in held_out]
    [[(4, 0.2222)], [(3, 0.3333), (2, 0.6667)]]
    """

    def __init__(self, sequences: Sequences, *, capacity: int, ranks: int = 1):
        if ranks < 1:
            raise ValueError(f"ranks is {ranks}; the evaluation needs at least one process")
        if not len(sequences):
            raise ValueError("the evaluation has no sequence; leave eval_dataset out, or give it some")
        lengths, target_counts = measure(sequences)
        if not target_counts.any():
            raise ValueError(f"none of the {len(lengths):,} sequences of the evaluation has a target (all labels are "
                             f"{IGNORE_INDEX}): its loss would be 0; look at what was masked")  # fmt: skip
        plan = partial(plan_packing, lengths, target_counts=target_counts, capacity=capacity, algorithm="best_fit")
        super().__init__(sequences, [plan(ranks=ranks, accumulation=-(-len(plan().steps) // ranks))])

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        features = super().__getitem__(index)
        return [{**feature, "loss_weight": feature["loss_weight"] * len(self)} for feature in features]


def _with_labels(index: int, sequence: Any) -> Any:
    """The sequence; raises ValueError where it does not hold tokens and labels under their names."""
    for name in ("input_ids", "labels"):
        try:
            sequence[name]
        except (KeyError, TypeError, IndexError):
            held = f"the keys {', '.join(map(str, sequence))}" if isinstance(sequence, Mapping) else (
                f"the type {type(sequence).__name__}")  # fmt: skip
            raise ValueError(f"sequence {index} has no {name}, but {held}: give input_ids, and labels with "
                             f"{IGNORE_INDEX} for what is not learnt") from None  # fmt: skip
    return sequence


def _measured(index: int, sequence: Mapping[str, Any]) -> tuple[int, int]:
    """Length and targets of a sequence; raises ValueError for one that stands for another than its ids and labels."""
    try:
        ids, labels = np.asarray(sequence["input_ids"]), np.asarray(sequence["labels"])
    except ValueError:  # rows of different lengths
        raise ValueError(f"sequence {index} has input_ids or labels that are no row of numbers: give one row of "
                         "tokens, and a label for each") from None  # fmt: skip
    if ids.ndim != 1 or ids.shape != labels.shape:
        raise ValueError(f"sequence {index} has input_ids of shape {ids.shape} and labels of shape {labels.shape}: "
                         "give one row of tokens, and a label for each")  # fmt: skip
    if len(ids) and not {ids.dtype.kind, labels.dtype.kind} <= set("iu"):
        raise ValueError(f"sequence {index} has input_ids or labels that are no integers")
    if (told := _not_learnable(ids, labels)) is not None:
        raise ValueError(f"sequence {index} has {told}: {IGNORE_INDEX} is for what is not learnt, in signed integers "
                         "such as int32")  # fmt: skip
    if "attention_mask" in sequence and not np.all(sequence["attention_mask"]):
        raise ValueError(f"sequence {index} is padded (zeros in its attention_mask); give its own tokens alone")
    if "position_ids" in sequence and not np.array_equal(sequence["position_ids"], np.arange(len(ids))):
        raise ValueError(f"sequence {index} has position_ids of its own, as packs have; give each sequence apart")
    if _shifted(ids, labels):
        raise ValueError(
            f"sequence {index} has labels that are shifted (each is the next token's id); the loss shifts them, so "
            "give each token's own id"
        )
    for name in (name for name in MASKS if sequence.get(name) is not None):
        mask = np.asarray(sequence[name])
        if mask.shape != ids.shape or np.any(((labels != IGNORE_INDEX) & (mask == 0))[1:]):
            raise ValueError(f"sequence {index} has labels where its {name} leaves tokens out, and only labels are "
                             f"read: set these to {IGNORE_INDEX}, or leave {name} out")  # fmt: skip
    return len(ids), int(np.count_nonzero(labels[1:] != IGNORE_INDEX))


def _not_learnable(ids: np.ndarray, labels: np.ndarray) -> str | None:
    """Labels that are no tokens, nor their own: IGNORE_INDEX in a type that holds no negative number, and others."""
    if labels.dtype.kind == "u":
        wrapped = IGNORE_INDEX % 2 ** (8 * labels.dtype.itemsize)
        found = ((labels == wrapped) & (labels != ids)).any()
        return f"labels of {labels.dtype}, in which {IGNORE_INDEX} is {wrapped}" if found else None
    wrong = labels[(labels < 0) & (labels != IGNORE_INDEX) & (labels != ids)]
    return f"the label {wrong[0]}" if len(wrong) else None


def _shifted(ids: np.ndarray, labels: np.ndarray) -> bool:
    """Whether every label is the id of the next token, and none that of its own."""
    at = np.flatnonzero(labels != IGNORE_INDEX)
    inside = at[at < len(ids) - 1]  # behind the last token nothing is known
    own, following = labels[at] == ids[at], labels[inside] == ids[inside + 1]
    return bool(len(inside) and following.all() and not own.any())
