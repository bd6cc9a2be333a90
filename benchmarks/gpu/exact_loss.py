"""The loss by chunks against the plain one, fp32 and bf16, both held against the plain loss in fp64.

The distance of the chunks over that of the plain loss must be at most `LARGEST`: of the loss, of both gradients.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import rows
from benchmarks.gpu.rows import Context, Row
from longalign.recipe.loss import weighted_cross_entropy

LARGEST = 2.0
"""Largest ratio of distances from an exact result at which one computation is as good as another."""


def flops(context: Context) -> int:
    """Of six forward and backward passes: plain, by chunks and in fp64, of fp32 and of bf16 numbers."""
    targets, width, vocabulary = sizes(context)
    return 6 * 6 * targets * width * vocabulary


def sizes(context: Context) -> tuple[int, int, int]:
    """Target tokens, hidden size, vocabulary."""
    return (48, 32, 256) if context.tiny else (4096, 576, 49_152)


def run(stage: str, context: Context) -> Iterator[Row]:
    """`weighted_cross_entropy` and the plain loss, each against the plain loss in fp64 of the same numbers."""
    tokens, width, vocabulary = sizes(context)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator)
    matrix = torch.randn(vocabulary, width, generator=generator) * width**-0.5
    targets = torch.randint(vocabulary, (tokens,), generator=generator).to(context.device)
    weights = (2 * torch.rand(tokens, generator=generator) / tokens).to(context.device)
    for dtype in (torch.float32, torch.bfloat16):
        given = [states.to(context.device, dtype) for states in (hidden, matrix)]
        exact, own = _with_gradients(plain_loss, [s.double() for s in given], targets, weights.double())
        plain, theirs = _with_gradients(plain_loss, given, targets, weights)
        ours, _ = _with_gradients(chunks, given, targets, weights)
        case = f"{tokens:,} targets x {vocabulary:,} x {width:,}, {str(dtype).removeprefix('torch.')}"
        # against all differences of the plain one's tokens, for theirs may cancel, and the next number in fp32
        allowed = float((weights * (theirs - own).abs()).sum() + exact[0] * torch.finfo(torch.float32).eps)
        pairs = {"loss": (float((ours[0] - exact[0]).abs()), allowed)}
        for place, metric in ((1, "gradient of the hidden states"), (2, "gradient of the matrix")):
            pairs[metric] = tuple(distance([of[place]], [exact[place]]) for of in (ours, plain))
        for metric, (mine, plains) in pairs.items():
            yield _row(stage, case, metric, mine, plains)


def _row(stage: str, case: str, metric: str, mine: float, theirs: float) -> Row:
    note, ratio = f"chunks {mine:.3g}, plain {theirs:.3g} from fp64", over(mine, theirs)
    given = (stage, case, "loss by chunks", f"{metric}: distance, chunks / plain")
    if ratio <= LARGEST:
        return rows.measured(*given, ratio, "ratio", "torch.mm", note)
    return rows.failed(*given, f"over {LARGEST:g}: {note}", value=ratio, unit="ratio", backend="torch.mm")


def plain_loss(hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Linear layer, cross entropy of every token in at least fp32, weighted sum: (the loss, that of each token)."""
    logits = functional.linear(hidden, matrix)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = functional.cross_entropy(logits, targets, reduction="none")
    return (weights * own).sum(), own.detach()


def chunks(hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, None]:
    """The library's loss, whose labels begin with the token that nothing predicts."""
    labels, scales = (functional.pad(row, (1, 0))[None] for row in (targets, weights))
    return weighted_cross_entropy(hidden[None], matrix, labels, scales), None


def _with_gradients(loss, given, targets, weights) -> tuple[list[Tensor], Tensor | None]:
    leaves = [states.clone().requires_grad_() for states in given]
    value, own = loss(*leaves, targets, weights)
    value.backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves)], own


def distance(ours: list[Tensor], exact: list[Tensor]) -> float:
    """Norm of all differences over the norm of what is exact."""
    apart = sum((a.double() - b.double()).square().sum() for a, b in zip(ours, exact, strict=True))
    return float((apart / sum(b.double().square().sum() for b in exact)).sqrt())


def over(mine: float, theirs: float) -> float:
    """mine / theirs; 0 when both are 0."""
    return mine / theirs if theirs else float(mine and math.inf)
