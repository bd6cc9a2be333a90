"""What a model computes of single sequences with its own attention, and how far apart two ways of computing that are.

The second way rounds otherwise: what each module with weights returns is moved by half a unit in its last place, up or
down by chance (Monte Carlo arithmetic, Parker 1997); and it is transformers' sdpa in place of its eager attention. It
is no batch of several sequences, since a model that mixes its rows would be measured by its own fault.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from longalign.common.array_types import IGNORE_INDEX
from longalign.train import probes, store_check

LENGTHS = (7, 11, 7)
"""Of the sequences."""
TARGETS = 3
"""Last tokens of each that are targets: few, as behind a long document."""
APART = {torch.float32: (1e-6, 8.0), torch.float16: (2e-3, 2.0), torch.bfloat16: (1.6e-2, 2.0)}
"""By the format that the model computes in: how far two ways of computing the same are apart, relative, at least; and
how many times as far the attention that trains may be from the model's own.

Measured on the architectures of `benchmarks/models`. Right ones, packed and padded, are at most 1.4 times as far in
fp32 and 0.7 times in bf16; SmolLM2-135M, which has 30 layers, 0.7 times in fp32. The nearest wrong ones: in fp32 a
scaling of attention that is off by a thousandth (42 times, mostly 190 and more), a window off by one (18,000), sinks
left out (140,000), positions that run on (570,000); in bf16, which does not see a scaling off by a hundredth, a window
off by one (3.5)."""
NOTHING = 1e-6
"""Of a gradient, which is none: what is 0 but for rounding."""
COARSE = 1e-4
"""From here on it is 16 bits that round: a router may send single tokens elsewhere, and the median counts."""


@dataclass(frozen=True)
class Pass:
    """Logits [1, T, V] of one sequence, gradients of its embeddings [1, T, D], and its part of the loss of Eq. 2."""

    logits: Tensor
    gradients: Tensor
    loss: float
    format: torch.dtype


@dataclass(frozen=True)
class Alone:
    """Sequences, logits [T, V] and gradients [T, D] of each, their loss (Eq. 2), and how far two ways differ: of the
    outputs, and of the gradients. `times` as far are results that agree."""

    sequences: list[Tensor]
    logits: list[Tensor]
    gradients: list[Tensor]
    loss: float
    of_outputs: float
    of_gradients: float
    times: float

    @property
    def scale(self) -> float:
        """The length of the longest of the gradients."""
        return max(float(gradient.norm()) for gradient in self.gradients)


def alone(model: PreTrainedModel) -> Alone:
    """The same few random sequences for every model, one at a time.

    Raises ValueError for a model whose own loss is another than cross entropy.
    """
    ids = _sequences(model)
    with probes.attention(model, "eager"):
        passes = [_stock(model, row) for row in ids]
        _only_cross_entropy(model, ids[1], passes[1])
        with probes.rounded(model):
            pairs = [(one, _stock(model, row)) for one, row in zip(passes, ids, strict=True)]
    if getattr(model, "_supports_sdpa", False):
        with probes.attention(model, "sdpa"):
            pairs += [(one, _stock(model, row)) for one, row in zip(passes, ids, strict=True)]
    least, times = APART[passes[0].format]
    return Alone(
        [row[0] for row in ids], [found.logits[0] for found in passes], [found.gradients[0] for found in passes],
        sum(found.loss for found in passes),
        max(least, *(distance(one.logits, other.logits) for one, other in pairs)),
        max(least, *(distance(one.gradients, other.gradients) for one, other in pairs)),
        times,
    )  # fmt: skip


def is_steady(model: PreTrainedModel) -> bool:
    """Whether the model computes the same twice, in the mode that it is in."""
    ids = _sequences(model)[0]
    with probes.attention(model, "eager"):
        first, second = _stock(model, ids), _stock(model, ids)
    least, _ = APART[first.format]
    return distance(first.logits, second.logits) <= least and distance(first.gradients, second.gradients) <= least


def distance(wanted: Tensor, found: Tensor) -> float:
    """Of vectors in the last dimension, relative to their length, or the mean one where that is more: the largest, or
    among 16 bits the median.

    >>> distance(torch.ones(2, 4), torch.tensor([[1.0] * 4, [1.5] * 4]).mul(1 + 1e-5)) > 1e-4
    True
    """
    wanted, found = wanted.float().flatten(0, -2), found.float().flatten(0, -2)
    if not len(wanted):
        return 0.0
    length = wanted.norm(dim=-1)
    apart = (wanted - found).norm(dim=-1) / length.clamp(min=length.mean())
    return float(apart.median() if apart.median() > COARSE else apart.max())


def _sequences(model: PreTrainedModel) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    vocabulary = store_check.vocabulary(model)
    return [torch.randint(0, vocabulary, (1, n), generator=random).to(model.device) for n in LENGTHS]


def _stock(model: PreTrainedModel, ids: Tensor) -> Pass:
    with probes.embeddings(model) as embeddings, probes.formats(model) as formats:
        logits = model(input_ids=ids, use_cache=False).logits
    loss = F.cross_entropy(logits[:, -TARGETS - 1 : -1].flatten(0, 1).float(), ids[:, -TARGETS:].flatten(),
                           reduction="sum") / (TARGETS * len(LENGTHS))  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, embeddings)
    return Pass(logits.detach(), gradient, loss.item(), max(formats, key=lambda format: torch.finfo(format).eps))


def _only_cross_entropy(model: nn.Module, ids: Tensor, found: Pass) -> None:
    labels = ids.clone()
    labels[:, :-TARGETS] = IGNORE_INDEX
    with torch.no_grad():
        own = model(input_ids=ids, labels=labels, use_cache=False).loss.item()
    loss = found.loss * len(LENGTHS)
    if not math.isfinite(loss):
        raise ValueError(f"{type(model).__name__} has the loss {loss} on a short sequence: check its weights")
    apart = 1e-4 if found.format == torch.float32 else 1e-2
    if not abs(own - loss) <= apart * abs(loss):
        raise ValueError(f"{type(model).__name__} computes a loss of its own: {own:.4f}, and cross entropy is "
                         f"{loss:.4f}; only cross entropy can be weighted")  # fmt: skip
