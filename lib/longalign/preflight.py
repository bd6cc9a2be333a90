"""A proof on the model itself, before its first step: what training computes is what the model computes alone.

Three short random sequences go through the real model, whole as it is loaded (LoRA, ZeRO-3 and bf16 included): each
alone with the model's own attention, which is the measure; together in a pack or in padded rows with the attention that
trains; and through the weighted loss. Compared are outputs, loss (Eq. 2 of arXiv 2401.18058) and the gradients of the
input embeddings. What agrees is decided by the distance between two ways in which the model's own attention computes
the same. Whether a sequence sees another one needs no such measure: the gradient of its outputs to the embeddings of
the others is 0.

Nothing of the model changes: no weight, gradient, random state or mode. It takes seven passes over 25 tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from longalign import architectures, probes, store_check
from longalign.collators import PackedCollator, PaddedCollator
from longalign.loss import weighted_loss
from longalign.planned import Sequences
from longalign.shapes import IGNORE_INDEX

LENGTHS = (7, 11, 7)
"""Of the sequences; two are equal, so that the model's own attention takes them as a batch, too."""
WINDOW = 4
"""Tokens of a window of attention, where sequences are longer than those of the model."""
TARGETS = 3
"""Last tokens of each that are targets: few, as behind a long document."""
APART = {torch.float32: (1e-6, 64.0), torch.float16: (2e-3, 4.0), torch.bfloat16: (1.6e-2, 4.0)}
"""By the format that the model computes in: how far sums in another order are apart, relative, at least; and how many
times as far as the model's own attention from itself the attention that trains may be. Eight times
was too little in fp32: SmolLM2-135M, 30 layers, was refused at 9.4 times. How near to 64 a wrong model comes was not
measured beyond the tests' own."""
NOTHING = 1e-6
"""Of a gradient, which is none: what is 0 but for rounding."""
COARSE = 1e-4
"""From here on it is 16 bits that round: a router may send single tokens elsewhere, and the median counts."""


def preflight(
    model: PreTrainedModel, *, method: str = "packing", sequences: Sequences | None = None, sequence_parallel: int = 1
) -> list[str]:
    """Raise ValueError, naming the model's class, the reason and the number, unless `method` trains this model exactly.

    `method` is "packing", or "naive" and "sorted", which pad. `sequences` are those that it is to be trained on: their
    ids and lengths must suit the model (`store_check`). Returns what ought to be known and is allowed, a line each. All
    ranks of a distributed model call it at the same time.

    >>> from longalign.models import new_model
    >>> model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)       # lengths 2, 4, 3 in one pack of 9
    >>> preflight(model, sequences=[{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)])
    []
    """
    notes, longest = look(model, method, sequences)
    prove(model, method, longest=longest, sequence_parallel=sequence_parallel)
    return notes


def look(model: PreTrainedModel, method: str, sequences: Sequences | None = None) -> tuple[list[str], int]:
    """What of `preflight` takes no pass: what the model's parts and the sequences say. No weight is read. Returns also
    the length of the longest sequence, 0 without any."""
    notes, longest = store_check.check(model, sequences) if sequences is not None else ([], 0)
    reason = (architectures.why_not_packed if method == "packing" else architectures.why_not_padded)(model, longest)
    if reason := reason or architectures.why_no_loss(model):
        raise ValueError(reason)
    return notes, longest


def prove(model: PreTrainedModel, method: str, *, longest: int = 0, sequence_parallel: int = 1) -> None:
    """The passes of `preflight`. Windows of attention that are shorter than `longest` are made shorter than the few
    tokens, for the time of the passes. Raises ValueError where results differ."""
    with probes.untouched(model), probes.windows(model, WINDOW, longest=longest):
        try:
            alone = _alone(model)
        except (torch.OutOfMemoryError, ValueError):
            raise
        except Exception as error:  # noqa: BLE001  as below
            name = type(model).__name__
            raise ValueError(f"{name} does not compute a short sequence alone: {_told(error)}") from error
        reason = _difference(model, alone, method, sequence_parallel)
        if reason and method == "packing" and sequence_parallel == 1 and not architectures.why_not_padded(model):
            # only advice that was tried
            tried = _difference(model, alone, "naive", 1)
            reason += "" if tried else "; in padded rows (naive and sorted batching) it is exact"
    if reason:
        raise ValueError(reason)


def _told(error: Exception) -> str:
    told = " ".join(str(error).split())
    return told if isinstance(error, ValueError) else f"{type(error).__name__}: {told}"


@dataclass(frozen=True)
class _Alone:
    """What the model's own attention gives: logits and gradients of each sequence, and how far two ways differ."""

    sequences: list[Tensor]
    logits: list[Tensor]
    gradients: list[Tensor]
    loss: float
    unit: float
    limit: float


@dataclass(frozen=True)
class _Pass:
    """Logits [B, T, V] of rows without padding, gradients of their embeddings [B, T, D], and the loss of Eq. 2."""

    logits: Tensor
    gradients: Tensor
    loss: float
    format: torch.dtype


def _alone(model: PreTrainedModel) -> _Alone:
    random = torch.Generator().manual_seed(0)
    vocabulary = store_check.vocabulary(model)
    ids = [torch.randint(0, vocabulary, (1, n), generator=random).to(model.device) for n in LENGTHS]
    with probes.attention(model, "eager"):
        passes = [_stock(model, row) for row in ids]
        batch = _stock(model, torch.cat([ids[0], ids[2]]))
        _only_cross_entropy(model, ids[1], passes[1])
    pairs = [(passes[0], passes[2], batch)]
    if getattr(model, "_supports_sdpa", False):
        with probes.attention(model, "sdpa"):
            pairs.append((passes[1], _stock(model, ids[1])))
    least, times = APART[batch.format]
    unit = max(least, *(distance for pair in pairs for distance in _apart(*pair)))
    return _Alone(
        [row[0] for row in ids], [found.logits[0] for found in passes], [found.gradients[0] for found in passes],
        sum(found.loss for found in passes), unit, unit * times,
    )  # fmt: skip


def _apart(*passes: _Pass) -> tuple[float, float]:
    """How far the rows of the last pass are from those of the others."""
    *one_by_one, other = passes
    return (
        _distance(torch.cat([found.logits for found in one_by_one]), other.logits),
        _distance(torch.cat([found.gradients for found in one_by_one]), other.gradients),
    )


def _stock(model: PreTrainedModel, ids: Tensor) -> _Pass:
    with probes.embeddings(model) as embeddings, probes.formats(model) as formats:
        logits = model(input_ids=ids, use_cache=False).logits
    loss = F.cross_entropy(logits[:, -TARGETS - 1 : -1].flatten(0, 1).float(), ids[:, -TARGETS:].flatten(),
                           reduction="sum") / (TARGETS * len(LENGTHS))  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, embeddings)
    return _Pass(logits.detach(), gradient, loss.item(), max(formats, key=lambda format: torch.finfo(format).eps))


def _only_cross_entropy(model: nn.Module, ids: Tensor, found: _Pass) -> None:
    labels = ids.clone()
    labels[:, :-TARGETS] = IGNORE_INDEX
    with torch.no_grad():
        own = model(input_ids=ids, labels=labels, use_cache=False).loss.item()
    loss = found.loss * len(LENGTHS)
    if not math.isfinite(loss):
        raise ValueError(f"{type(model).__name__} has a loss of {loss} on a short sequence: look at its weights")
    apart = 1e-4 if found.format == torch.float32 else 1e-2
    if not abs(own - loss) <= apart * abs(loss):
        raise ValueError(f"{type(model).__name__} has a loss of its own, {own:.4f} where cross entropy is {loss:.4f}, "
                         "and only cross entropy can be weighted")  # fmt: skip


def _difference(model: PreTrainedModel, alone: _Alone, method: str, sequence_parallel: int) -> str | None:
    """Why `method` would train another model than this, or None."""
    name, together = type(model).__name__, "in a pack" if method == "packing" else "in padded rows"
    batch = _batch(model, alone.sequences, method)
    place = _Places(batch, method, sequence_parallel)
    scale = max(float(gradient.norm()) for gradient in alone.gradients)
    try:
        logits, crossing = _outputs(model, place, middle=1)
        crossing = place.largest(crossing)
        if not crossing <= NOTHING * scale:
            return (
                f"{name} cannot be trained {together}: what it computes for one sequence depends on the others there "
                f"(a gradient of {crossing:.1e} that must be 0, beside {scale:.1e} within a sequence)"
            )
        loss, gradients = _weighted(model, place)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  whatever stops it now would stop the first step
        told = _told(error)
        return told if name in told else f"{name} cannot be trained {together}: {told}"
    wanted = place.of_this_rank
    for what, distance in (
        ("outputs", _distance(wanted(alone.logits), logits)),
        ("loss", abs(loss - alone.loss) / abs(alone.loss)),
        ("gradients of its embeddings", _distance(wanted(alone.gradients), gradients)),
    ):
        if not (distance := place.largest(distance)) <= alone.limit:
            return (
                f"{name} cannot be trained {together}: its {what} differ by {distance:.1e} from the same sequences "
                f"alone with its own attention, which differs from itself by {alone.unit:.1e}"
            )
    return None


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
            from longalign.ulysses import slice_of

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


def _distance(wanted: Tensor, found: Tensor) -> float:
    """Of vectors in the last dimension, relative to their length, or the mean one where that is more: the largest, or
    among 16 bits the median."""
    wanted, found = wanted.float().flatten(0, -2), found.float().flatten(0, -2)
    if not len(wanted):
        return 0.0
    length = wanted.norm(dim=-1)
    apart = (wanted - found).norm(dim=-1) / length.clamp(min=length.mean())
    return float(apart.median() if apart.median() > COARSE else apart.max())
