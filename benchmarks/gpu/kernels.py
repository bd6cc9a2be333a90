"""Stage c: time and memory of attention over packs, and of the loss with its linear layer.

Attention, forward and backward, bf16, 32 query heads on 8 of 128 elements, over packs of 8k, 32k and 64k tokens of
LongAlign's lengths (90 % lognormal around 800 tokens, 10 % uniform from 8k to 64k), the pack of median cost each:
  packed     the library's attention, by each of its kernels that works here
  dense      sdpa with a mask of T x T, which is 4 GiB at 64k tokens, and 8 GiB as sdpa takes it
  flex       FlexAttention with a document mask, compiled; on a CPU it has no backward pass and runs as written
Outputs must agree before a time counts. Loss with its linear layer (kernels_loss.py), forward and backward, bf16, 32k
targets x 49,152 x 576 and 16k x 128,256 x 4,096: by chunks, plain, and Liger's where it is installed.
Every time is the median of rounds by events, inputs rotate, memory is the peak over the inputs: masks count.

Budget, times rounds and warm-up: attention's FLOPs are 3.5 x 4 x heads x head size for each pair of tokens, L^2 / 2
pairs of a sequence for packed and flex, all T^2 for dense, at 0.25 of the assumed products; those of a loss 6 x targets
x vocabulary x width, at 0.5, and its logits are read and written 10 times in fp32, at 0.5 of the assumed copies. 25 s
are for compiling FlexAttention at three sizes. In all that is about 45 s.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import backends, ceilings, kernels_loss, rows, timing
from benchmarks.gpu.exact_loss import distance
from benchmarks.gpu.rows import Budget, Context, Row
from longalign.recipe.packing import best_fit_decreasing

NAME = "kernels"
LONGEST, SEQUENCES = 65_536, 2_000
INPUTS, ROUNDS, WARM_UP = 3, 5, 2
DENSE_ROUNDS = 2
SAME = 0.02
"""Largest distance at which two bf16 outputs of the same attention agree; without boundaries it is near 1."""


@dataclass(frozen=True)
class System:
    """An attention to measure: its name, what computes it, how it is made for lengths, and by which of our kernels."""

    name: str
    backend: str
    make: Callable[[list[int], torch.device], backends.Attend]
    kernel: str = ""
    rounds: int = ROUNDS
    backward: bool = True


@dataclass(frozen=True)
class Heads:
    """Query heads, key/value heads and elements of a head."""

    queries: int
    groups: int
    size: int


def sizes(context: Context) -> tuple[tuple[int, ...], Heads]:
    """Tokens of the packs, heads."""
    return ((128, 256), Heads(2, 1, 16)) if context.tiny else ((8_192, 32_768, LONGEST), Heads(32, 8, 128))


def budget(context: Context) -> Budget:
    """See the module."""
    tokens, heads = sizes(context)
    kernels = 1 if context.device.type == "cpu" else len(backends.attention_kernels.KERNELS)
    flops = 0.0
    for size in tokens:
        own = flops_of(pack(size, max(tokens)), heads)
        flops += own * (kernels + 1) * (ROUNDS + WARM_UP) + 2 * flops_of([size], heads) * (DENSE_ROUNDS + 1)
    more, moved = kernels_loss.counted(context)
    attention = rows.counted(context, flops, share=0.25, fixed=25.0)
    loss = rows.counted(context, more, moved, share=0.5)
    return Budget(attention.seconds + loss.seconds, flops + more, moved)


def run(context: Context) -> Iterator[Row]:
    """Rows of attention by size and system, then of the losses."""
    yield from backends.problems(NAME, context)
    for size in sizes(context)[0]:
        for system in systems(context):
            yield from rows.guarded(
                context, NAME, _case(size), system.name, functools.partial(attention_rows, context, size, system)
            )
            timing.free(context.device)
    yield from kernels_loss.run(NAME, context)


def systems(context: Context) -> list[System]:
    """The library's attention by each kernel that works here, and the two others."""
    on_card = context.device.type == "cuda"
    names = backends.usable(context) or [backends.SEQUENCES]
    return [
        *(System(f"packed, {name}", backends.named({name}), backends.packed, name) for name in names),
        System("dense mask", backends.dense_name(context.device), backends.dense, rounds=DENSE_ROUNDS),
        System("FlexAttention", backends.flex_name(context.device), backends.flex, backward=on_card),
    ]


def attention_rows(context: Context, size: int, system: System) -> Iterator[Row]:
    """Time, rate, its share of the ceiling, and memory of one system at one size, or at what of it fits."""
    smallest = min(sizes(context)[0]) // 2
    (lengths, apart, taken), size, halved = timing.halving(
        size, lambda tokens: measured_attention(context, tokens, system), context.device, smallest=smallest
    )
    flops = flops_of(lengths, sizes(context)[1]) * (1.0 if system.backward else 1 / 3.5)
    slower = backends.slower({system.kernel}, context)
    if apart > SAME:
        slower = f"its output is {apart:.3g} from that of the library's attention, and at most {SAME:g} is the same"
    part = "forward + backward" if system.backward else "forward alone"
    parts = (f"{len(lengths)} sequences", taken.note, halved, timing.memory_note(context.device))
    note = "; ".join(filter(None, parts))
    share = ceilings.share(context, flops, taken.seconds)
    numbers = [("time", taken.seconds, "s"), ("rate", flops / taken.seconds / 1e12, "TFLOP/s"),
               ("memory", (taken.peak - taken.held) / 2**30, "GiB")]  # fmt: skip
    numbers += [] if share is None else [("share of the product's rate", share, "share")]
    for metric, value, unit in numbers:
        given = (NAME, _case(size), system.name, f"{metric}, {part}")
        if slower:
            yield rows.failed(*given, slower, value=value, unit=unit, backend=system.backend)
        else:
            yield rows.measured(*given, value, unit, system.backend, note)


def measured_attention(context: Context, size: int, system: System) -> tuple[list[int], float, timing.Times]:
    """(lengths of the pack, distance of the output from the library's attention, times); masks count as memory."""
    heads, device = sizes(context)[1], context.device
    lengths = pack(size, max(sizes(context)[0]))
    generator = torch.Generator(device).manual_seed(0)

    def random(number: int) -> Tensor:
        shape = (1, number, size, heads.size)
        return torch.randn(shape, generator=generator, device=device, dtype=context.dtype)

    inputs = [[random(heads.queries), random(heads.groups), random(heads.groups)] for _ in range(INPUTS)]
    upstream = random(heads.queries).transpose(1, 2)
    held = timing.held(device)
    attend = system.make(lengths, device)

    def call(*states: Tensor) -> None:
        out = attend(*(state.requires_grad_(system.backward) for state in states))
        if system.backward:
            torch.autograd.grad(out, states, upstream)

    with backends.forced(system.kernel) if system.kernel else contextlib.nullcontext():
        apart = _apart(attend, backends.packed(lengths, device), inputs[0], system.backward)
        taken = timing.measure(call, inputs, device, rounds=system.rounds, warm_up=min(WARM_UP, system.rounds))
    return lengths, apart, replace(taken, held=held)


def _apart(attend: backends.Attend, ours: backends.Attend, states: list[Tensor], backward: bool) -> float:
    # with a backward pass as it is timed: else FlexAttention would be compiled for each
    own = attend(*(state.requires_grad_(backward) for state in states)).detach()
    with torch.no_grad():
        return distance([own], [ours(*states)])


@functools.cache
def pack(tokens: int, longest: int) -> tuple[int, ...]:
    """Lengths of LongAlign's mixture, scaled so that the longest is `longest`: the pack of median cost.

    Sequences over `tokens` are left out; the planner's packs are compared by the sum of their squared lengths. What is
    missing to `tokens` is a last sequence.
    """
    random = np.random.default_rng(0)
    long = random.integers(8192, LONGEST + 1, SEQUENCES // 10)
    short = np.clip(random.lognormal(np.log(800), 1.0, SEQUENCES - len(long)), 1, LONGEST)
    lengths = np.concatenate([short, long]).astype(int) * longest // LONGEST
    lengths = random.permutation(lengths[(lengths >= 1) & (lengths <= tokens)])
    packs = [[int(lengths[i]) for i in members] for members in best_fit_decreasing(lengths, tokens)]
    packs = sorted(packs, key=lambda members: sum(length**2 for length in members))
    middle = packs[len(packs) // 2]
    missing = tokens - sum(middle)
    return (*middle, missing) if missing else tuple(middle)


def flops_of(lengths: Iterable[int], heads: Heads) -> float:
    """Forward and backward: 3.5 x 4 x heads x head size for each of the L^2 / 2 pairs of a sequence."""
    return 3.5 * 4 * heads.queries * heads.size * sum(length**2 / 2 for length in lengths)


def _case(tokens: int) -> str:
    return f"attention, {tokens:,} tokens"
