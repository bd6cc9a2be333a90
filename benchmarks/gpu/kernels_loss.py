"""Time and memory of the loss with its linear layer: by chunks, plain, and Liger's where it is installed."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu import ceilings, exact_loss, machine, rows, timing
from benchmarks.gpu.rows import Context, Row

INPUTS, ROUNDS, WARM_UP = 2, 5, 2
LIGER = "liger-kernel"

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def sizes(context: Context) -> list[tuple[int, int, int]]:
    """(target tokens, vocabulary, hidden size): SmolLM2-135M's and Llama-3's."""
    return [(64, 384, 32), (32, 1024, 64)] if context.tiny else [(32_768, 49_152, 576), (16_384, 128_256, 4096)]


def flops_of(targets: int, vocabulary: int, width: int) -> float:
    """Forward and backward."""
    return 6.0 * targets * vocabulary * width


def counted(context: Context) -> tuple[float, float]:
    """(FLOPs, bytes) of all losses, rounds and sizes: logits go through memory 10 times in fp32."""
    calls = 3 * (ROUNDS + WARM_UP)
    flops = sum(calls * flops_of(*size) for size in sizes(context))
    return flops, sum(calls * 10 * 4.0 * targets * vocabulary for targets, vocabulary, _ in sizes(context))


def losses() -> dict[str, tuple[Loss, str]]:
    """{system: (loss, what computes it)}."""
    found: dict[str, tuple[Loss, str]] = {
        "chunks": (lambda *given: exact_loss.chunks(*given)[0], "torch.mm"),
        "plain": (lambda *given: exact_loss.plain_loss(*given)[0], "torch, all logits"),
    }
    if machine.is_installed(LIGER):
        found["Liger, tokens unweighted"] = (liger, f"{LIGER} {machine.versions()[LIGER]}")
    return found


def liger(hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Liger's fused linear cross entropy, the mean over tokens: it takes no weights."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(matrix, hidden, targets)


def run(stage: str, context: Context) -> Iterator[Row]:
    """Rows by size and loss."""
    if not machine.is_installed(LIGER):
        yield rows.absent(stage, LIGER, "not installed")
    elif context.device.type != "cuda":
        yield rows.absent(stage, LIGER, "made for CUDA")
    for size in sizes(context):
        for system, (loss, backend) in losses().items():
            if loss is liger and context.device.type != "cuda":
                continue
            make = functools.partial(loss_rows, stage, context, size, system, loss, backend)
            yield from rows.guarded(context, stage, _case(size), system, make)
            timing.free(context.device)


def loss_rows(
    stage: str, context: Context, size: tuple[int, int, int], system: str, loss: Loss, backend: str
) -> Iterator[Row]:
    """Time, rate, its share of the ceiling, and memory of one loss at one size, or at what of its targets fits."""
    targets, vocabulary, width = size
    taken, targets, halved = timing.halving(
        targets, lambda n: measured_loss(context, (n, vocabulary, width), loss), context.device, smallest=16
    )
    size = (targets, vocabulary, width)
    flops = flops_of(*size)
    share = ceilings.share(context, flops, taken.seconds)
    numbers = [("time", taken.seconds, "s"), ("rate", flops / taken.seconds / 1e12, "TFLOP/s"),
               ("memory", (taken.peak - taken.held) / 2**30, "GiB")]  # fmt: skip
    numbers += [] if share is None else [("share of the product's rate", share, "share")]
    for metric, value, unit in numbers:
        note = "; ".join(filter(None, (taken.note, halved, timing.memory_note(context.device))))
        yield rows.measured(stage, _case(size), system, f"{metric}, forward + backward", value, unit, backend, note)


def measured_loss(context: Context, size: tuple[int, int, int], loss: Loss) -> timing.Times:
    """Forward and backward pass; hidden states rotate, the matrix is one."""
    targets, vocabulary, width = size
    device, generator = context.device, torch.Generator(context.device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=context.dtype)

    matrix = (random(vocabulary, width) * width**-0.5).requires_grad_()
    labels = [torch.randint(vocabulary, (targets,), generator=generator, device=device) for _ in range(INPUTS)]
    inputs = [(random(targets, width).requires_grad_(), own) for own in labels]
    weights = torch.full((targets,), 1 / targets, device=device)

    def call(hidden: Tensor, target: Tensor) -> None:
        torch.autograd.grad(loss(hidden, matrix, target, weights), (hidden, matrix))

    return timing.measure(call, inputs, device, rounds=ROUNDS, warm_up=WARM_UP)


def _case(size: tuple[int, int, int]) -> str:
    return "loss, {:,} targets x {:,} x {:,}".format(*size)
