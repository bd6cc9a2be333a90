"""A proof on the model itself, before its first step: what training computes is what the model computes alone.

Three short random sequences go through the real model, whole as it is loaded (LoRA, ZeRO-3 and bf16 included): each
alone with the model's own attention, which is the measure; together in a pack or in padded rows with the attention that
trains; and through the weighted loss. Compared are outputs, loss (Eq. 2 of arXiv 2401.18058) and the gradients of the
input embeddings. What agrees is decided by the distance between two ways of computing the same
(`longalign.train.alone`). Whether a sequence sees another one needs no such measure: the gradient of its outputs to the
embeddings of the others is 0.

All this is done in training mode, where statistics of a batch or the capacity of an expert may tie sequences to each
other, with dropout off. A model in which something else is left to chance is compared in evaluation mode; in training
mode its sequences must not see each other.

Nothing of the model changes: no weight, buffer, gradient, random state or mode. It takes fourteen passes, twelve of
them over one sequence.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe import architectures
from longalign.recipe.batching import Plan
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.dataset import Sequences
from longalign.recipe.loss import weighted_loss
from longalign.train import arguments as trainer_arguments
from longalign.train import frozen_head, probes, store_check
from longalign.train.alone import LENGTHS, NOTHING, TARGETS, Alone, alone, distance, is_steady

WINDOW = 4
"""Tokens of a window of attention, where sequences are longer than those of the model."""
TOGETHER = {"packing": "in a pack", "naive": "in padded rows", "sorted": "in padded rows"}


def preflight(
    model: PreTrainedModel, *, method: str = "packing", sequences: Sequences | None = None, sequence_parallel: int = 1,
    arguments: Any = None, plans: Sequence[Plan] = (),
) -> list[str]:  # fmt: skip
    """Raise ValueError, naming the model's class, the reason and the number, unless `method` trains this model exactly.

    `method` is "packing", or "naive" and "sorted", which pad. `sequences` are those that it is to be trained on: their
    ids and lengths must suit the model (`store_check`). `arguments` are those of a Trainer that is to train `plans`,
    and must suit these (`longalign.train.arguments`). Returns what ought to be known and is allowed, a line each. All
    ranks of a distributed model call it at the same time.

    >>> from longalign.train.models import new_model
    >>> model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)       # lengths 2, 4, 3 in one pack of 9
    >>> preflight(model, sequences=[{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)])
    []
    """
    if method not in TOGETHER:
        raise ValueError(f"method is {method!r}; it is one of {', '.join(TOGETHER)}")
    if arguments is not None:
        trainer_arguments.check(arguments, plans)
        trainer_arguments.check_router(model, arguments)
    elif plans:
        raise ValueError("plans are compared with a Trainer's arguments, and there are none: give arguments, too")
    notes, longest = look(model, method, sequences)
    prove(model, method, longest=longest, sequence_parallel=sequence_parallel)
    notes += frozen_head.notes(model, sequences) if sequences is not None else []
    if arguments is not None:
        notes += trainer_arguments.trained_again(arguments, plans) + trainer_arguments.lost_steps(model, arguments)
        notes += filter(None, [trainer_arguments.why_nothing_learnt(model)])  # an adapter may come after this
    return notes


def look(model: PreTrainedModel, method: str, sequences: Sequences | None = None) -> tuple[list[str], int]:
    """What of `preflight` takes no pass: what the model's parts and the sequences say. No weight is read. Returns also
    the length of the longest sequence, 0 without any."""
    if (shared := getattr(model, "tp_size", None) or 1) > 1:
        raise ValueError(f"{type(model).__name__} is cut over {shared} processes (tp_plan), which share a batch, but "
                         "the plan deals one to each: load it without tp_plan")  # fmt: skip
    notes, longest = store_check.check(model, sequences) if sequences is not None else ([], 0)
    if reason := architectures.why_not_trained(model, method, longest):
        raise ValueError(reason)
    notes += filter(None, [architectures.unrun_code(model)])
    return notes, longest


def prove(model: PreTrainedModel, method: str, *, longest: int = 0, sequence_parallel: int = 1) -> None:
    """The passes of `preflight`. Windows of attention that are shorter than `longest`, and what only far positions or
    large scores reach, are brought within the reach of a few tokens for the time of the passes, and in packs an
    indexer that picks tokens of a row, however many; what begins at 0 is tried with other values. Raises ValueError
    where results differ."""
    # in this order: what is done to the model is undone while it is whole
    with (
        probes.gathered(model), probes.untouched(model), probes.begun(model),
        probes.in_reach(model, WINDOW, longest=longest),
    ):  # fmt: skip
        try:
            with probes.in_training(model):
                steady = is_steady(model)
            with probes.in_training(model) if steady else contextlib.nullcontext():
                wanted = alone(model)
        except (torch.OutOfMemoryError, ValueError):
            raise
        except Exception as error:  # noqa: BLE001  as below
            name = type(model).__name__
            raise ValueError(f"{name} fails on a single short sequence: {_told(error)}") from error
        with probes.in_training(model) if steady else contextlib.nullcontext():
            reason = _difference(model, wanted, method, sequence_parallel)
            if not reason and method == "packing":  # a pack has more tokens than the longest of its sequences
                with probes.indexed(model, WINDOW) as leaves_more:
                    if leaves_more:
                        reason = _difference(model, alone(model), method, sequence_parallel)
            if reason and method == "packing" and sequence_parallel == 1 and not architectures.why_not_padded(model):
                # only advice that was tried
                tried = _difference(model, wanted, "naive", 1)
                reason += "" if tried else "; in padded rows (naive and sorted batching) it is exact"
        if not steady and not reason:
            reason = _mixture_by_chance(model, wanted, method, sequence_parallel)
    if reason:
        raise ValueError(reason)


def _told(error: Exception) -> str:
    told = " ".join(str(error).split())
    return told if isinstance(error, ValueError) else f"{type(error).__name__}: {told}"


def _difference(model: PreTrainedModel, alone: Alone, method: str, sequence_parallel: int) -> str | None:
    """Why `method` would train another model than this, or None."""
    name, together = type(model).__name__, TOGETHER[method]
    place = _Places(_batch(model, alone.sequences, method), method, sequence_parallel)
    try:
        logits, crossing = _outputs(model, place, middle=1)
        if reason := _mixture(name, alone, method, place.largest(crossing)):
            return reason
        loss, gradients = _weighted(model, place)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  whatever stops it now would stop the first step
        told = _told(error)
        return told if name in told else f"{name} cannot be trained {together}: {told}"
    wanted = place.of_this_rank
    for what, apart, unit in (
        ("outputs", distance(wanted(alone.logits), logits), alone.of_outputs),
        ("loss", abs(loss - alone.loss) / abs(alone.loss), alone.of_outputs),
        ("gradients of its embeddings", distance(wanted(alone.gradients), gradients), alone.of_gradients),
    ):
        if not (apart := place.largest(apart)) <= alone.times * unit:
            return (
                f"{name} cannot be trained {together}: its {what} differ by {apart:.1e} from the same sequences "
                f"alone with its own attention, which differs from itself by {unit:.1e}"
            )
    return None


def _mixture(name: str, alone: Alone, method: str, crossing: float) -> str | None:
    if crossing <= NOTHING * alone.scale:
        return None
    return (
        f"{name} cannot be trained {TOGETHER[method]}: what it computes for one sequence depends on the others there "
        f"(a gradient of {crossing:.1e} that must be 0, beside {alone.scale:.1e} within a sequence)"
    )


def _mixture_by_chance(model: PreTrainedModel, alone: Alone, method: str, sequence_parallel: int) -> str | None:
    """Whether sequences see each other in a training whose numbers differ from pass to pass."""
    place = _Places(_batch(model, alone.sequences, method), method, sequence_parallel)
    with probes.in_training(model):
        crossing = place.largest(_outputs(model, place, middle=1)[1])
    return _mixture(type(model).__name__, alone, method, crossing)


def _batch(model: PreTrainedModel, sequences: Sequence[Tensor], method: str) -> dict[str, Any]:
    collate = (PackedCollator if method == "packing" else PaddedCollator)(0)
    features = []
    for ids in sequences:
        labels = ids.cpu().clone()
        labels[:-TARGETS] = IGNORE_INDEX
        features.append({"input_ids": ids.cpu(), "labels": labels, "loss_weight": 1 / (TARGETS * len(sequences))})
    return {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in collate(features).items()}


class _Places:
    """A batch as this rank sees it, and where in it the sequences lie."""

    def __init__(self, batch: dict[str, Any], method: str, ranks: int) -> None:
        self.ranks, packed = ranks, method == "packing"
        owner = [torch.full((n,), number) for number, n in enumerate(LENGTHS)]
        owners = torch.cat(owner)[None] if packed else nn.utils.rnn.pad_sequence(owner, True, -1)
        if ranks > 1:
            from longalign.train.sequence_parallel import slice_of

            index = torch.distributed.get_rank() % ranks
            batch, width = slice_of(batch, index, ranks, pad_token_id=0), -(-owners.shape[1] // ranks)
            owners = F.pad(owners, (0, -owners.shape[1] % ranks), value=-1)
            self.slice = slice(width * index, width * (index + 1))
            owners = owners[:, self.slice]
        self.batch, self.owners = batch, owners.to(batch["input_ids"].device)

    def largest(self, value: float) -> float:
        """Of all ranks, where they have slices, so that all of them come to the same end."""
        found = torch.tensor(value, device=self.owners.device)
        if self.ranks > 1:
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return found.item()

    def of_this_rank(self, sequences: list[Tensor]) -> Tensor:
        """[tokens, features] of the tokens that this rank has, sequence by sequence."""
        whole = torch.cat(sequences)
        return whole[self.slice] if self.ranks > 1 else whole

    def tokens(self, values: Tensor) -> Tensor:
        """The same of [B, T, features], without padding and fillers."""
        return values[self.owners >= 0]


def _outputs(model: nn.Module, place: _Places, *, middle: int) -> tuple[Tensor, float]:
    """Logits of all tokens, and the gradient that leads from the outputs of one sequence to what is not its own."""
    inputs = {name: value for name, value in place.batch.items() if name not in ("labels", "loss_weights")}
    with probes.embeddings(model) as embeddings:
        logits = model(**inputs).logits
    if logits.shape[:2] != place.owners.shape:
        raise ValueError(
            f"rows of {place.owners.shape[1]} tokens have {logits.shape[1]} in the model, with those that it or its "
            "adapter adds, so that the outputs cannot be told from each other"
        )
    random = torch.Generator().manual_seed(1)
    direction = torch.randn(logits.shape[-1], generator=random).to(logits)
    (gradient,) = torch.autograd.grad((logits * direction * (place.owners == middle)[..., None]).sum(), embeddings)
    return place.tokens(logits.detach()), float(gradient[place.owners != middle].float().norm())


def _weighted(model: nn.Module, place: _Places) -> tuple[float, Tensor]:
    """The loss that is trained, of all ranks that share the batch, and the gradients of this rank's tokens."""
    with probes.embeddings(model) as embeddings:
        loss = weighted_loss(model, place.batch)
    (gradient,) = torch.autograd.grad(loss, embeddings[-1:])  # there are two passes where the first says how
    value = loss.detach().float().clone()
    if place.ranks > 1:
        torch.distributed.all_reduce(value)
        value *= place.ranks / torch.distributed.get_world_size()
    return value.item(), place.tokens(gradient)

