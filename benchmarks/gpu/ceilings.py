"""Stage b: what the card reaches at most, a bf16 product and a copy. Later figures are also given as shares of these.

Budget: (warm-up + rounds) x 2 n^3 FLOPs and (warm-up + rounds) x 2 m bytes, at 0.8 of the assumed rates, and the time
to fill the inputs. With n = 8192, m = 4 GiB and 50 + 5 rounds that is under 1 s; 2 s are for the first use of the card.
"""

from collections.abc import Iterator

import torch

from benchmarks.gpu import rows, timing
from benchmarks.gpu.rows import Budget, Context, Row

NAME = "ceilings"
PRODUCT, COPY = "bf16 product", "copy"
ROUNDS, WARM_UP, INPUTS = 50, 5, 3


def sizes(context: Context) -> tuple[int, int]:
    """n of the product of two n x n matrices, and the bytes of a copy."""
    return (128, 2**22) if context.tiny else (8192, 2**32)


def budget(context: Context) -> Budget:
    """See the module: 2 n^3 FLOPs and 2 m bytes a round."""
    n, m = sizes(context)
    times = ROUNDS + WARM_UP
    return rows.counted(context, times * 2 * n**3, times * 2 * m, share=0.8, fixed=2.0)


def run(context: Context) -> Iterator[Row]:
    """TFLOP/s of the product, TB/s of the copy (read and written)."""
    n, m = sizes(context)
    device = context.device
    matrices = [torch.randn(n, n, device=device).to(context.dtype) for _ in range(INPUTS)]
    pairs = [(a, b, torch.empty_like(a)) for a, b in zip(matrices, matrices[1:] + matrices[:1], strict=True)]
    taken = timing.measure(lambda a, b, c: torch.mm(a, b, out=c), pairs, device, rounds=ROUNDS, warm_up=WARM_UP)
    yield rows.measured(
        NAME, f"{n} x {n} x {n}", PRODUCT, "rate", 2 * n**3 / taken.seconds / 1e12, "TFLOP/s", "torch.mm", taken.note
    )
    del matrices, pairs

    def copies(size: int) -> timing.Times:
        buffers = [torch.empty(size, dtype=torch.uint8, device=device).fill_(1) for _ in range(2)]
        both = [tuple(buffers), tuple(reversed(buffers))]
        return timing.measure(lambda to, of: to.copy_(of), both, device, rounds=ROUNDS, warm_up=WARM_UP)

    taken, m, note = timing.halving(m, copies, device, smallest=2**20)
    note = "; ".join(filter(None, (taken.note, note)))
    yield rows.measured(
        NAME, f"{m / 2**20:,.0f} MiB", COPY, "rate", 2 * m / taken.seconds / 1e12, "TB/s", "Tensor.copy_", note
    )


def of(context: Context) -> tuple[float, float] | None:
    """(FLOP/s of the product, bytes/s of the copy) as last measured into this folder; None when they were not."""
    rates = {row.system: row.value * 1e12 for row in rows.read(context.out) if row.stage == NAME and row.value}
    return (rates[PRODUCT], rates[COPY]) if {PRODUCT, COPY} <= rates.keys() else None


def share(context: Context, flops: float, seconds: float) -> float | None:
    """Counted FLOPs a second as a share of the measured product; None when stage b was not run into this folder."""
    ceilings = of(context)
    return None if ceilings is None else flops / seconds / ceilings[0]
