"""Stage g: the shapes of sequence parallelism that one card can show, for `longalign plan --propose`.

A rank that shares a sequence with others has a slice of it in all layers, but within attention the whole sequence with
a part of the heads (DeepSpeed-Ulysses, arXiv 2309.14509). Of Llama-2-7B, forward and backward, 32,768 tokens a rank:
  layers         what one layer takes of a pack of short sequences: the difference between 4 layers and 2, checkpointed
  local          attention of one sequence of 32,768 tokens with all 32 heads
  shared by n    attention of one sequence of n x 32,768 tokens with 32 / n heads: n times the work of "local"
Rates are FLOPs as `longalign.recipe.cost` counts them (6 a weight and token, 6 a feature of the queries and pair of
tokens; 4/3 of the layers' with checkpointing) over seconds, so that they are constants of that model. What ranks send
each other no single card shows.

Budget: attention computes 7 FLOPs where 6 count, at 0.4 of the assumed products, the layers `llama.computed`, at 0.45;
each times rounds and warm-up; 3 s for what starts. That is some 13 s.
"""

import functools
from collections.abc import Iterator

import torch

from benchmarks.gpu import backends, llama, rows, timing
from benchmarks.gpu.figure5 import DEPTHS, LLAMA_7B, TINY
from benchmarks.gpu.rows import Budget, Context, Row
from longalign.recipe.loss import weighted_loss

NAME = "sharing"
LAYERS, LOCAL, SHARED = "layers", "local", "shared by "
ROUNDS, WARM_UP = 3, 1
DEGREES = (1, 2, 4, 8)
TINY_SHAPE = {**TINY, "num_attention_heads": 8, "num_key_value_heads": 8}


def sizes(context: Context) -> tuple[dict[str, int], int, int]:
    """The model's shape, the tokens of a rank, those of a short sequence."""
    return (TINY_SHAPE, 128, 32) if context.tiny else (LLAMA_7B, 32_768, 1024)


def budget(context: Context) -> Budget:
    """See the module: FLOPs of attention and of the layers."""
    shape, tokens, short = sizes(context)
    times, attention, flops, moved = ROUNDS + WARM_UP, 0.0, 0.0, 0.0
    for degree in DEGREES:
        attention += times * 7 / 6 * flops_of(shape, tokens, degree)
    for depth in DEPTHS:
        counts = llama.computed([short] * (tokens // short), depth, shape)
        flops, moved = flops + times * counts[0], moved + times * counts[1]
    parts = rows.counted(context, attention, share=0.4), rows.counted(context, flops, moved, share=0.45, fixed=3.0)
    return Budget(sum(part.seconds for part in parts), attention + flops, moved)


def run(context: Context) -> Iterator[Row]:
    """A rate for the layers, and one for attention of each degree."""
    yield from rows.guarded(context, NAME, "layers", LAYERS, functools.partial(layer_rows, context))
    timing.free(context.device)
    for degree in DEGREES:
        system = f"{SHARED}{degree}" if degree > 1 else LOCAL
        yield from rows.guarded(context, NAME, "attention", system, functools.partial(attention_rows, context, degree))
        timing.free(context.device)


def layer_rows(context: Context) -> Iterator[Row]:
    """The rate of one layer over a pack of short sequences, with all that is in it beside attention."""
    shape, tokens, short = sizes(context)
    lengths, taken = [short] * (tokens // short), {}
    with backends.ran() as seen:
        for depth in DEPTHS:
            model = llama.new(context, depth, shape, tokens)
            given = llama.batch(context, lengths, True, shape["vocab_size"])
            taken[depth] = timing.measure(
                functools.partial(_passes, model, given), [()], context.device, rounds=ROUNDS, warm_up=WARM_UP
            )
            del model, given
            timing.free(context.device)
    few, many = DEPTHS
    seconds, note = (taken[many].seconds - taken[few].seconds) / (many - few), f"{many} layers: {taken[many].note}"
    if seconds <= 0:  # of tiny sizes, on a busy machine
        seconds, note = taken[many].seconds / many, f"{note}; no longer than {few}, so with what is beside the layers"
    case = f"a layer, {len(lengths)} sequences of {short:,} tokens"
    flops = llama.CHECKPOINTING * llama.flops(lengths, 1, shape, head=False)
    yield from _rate(context, case, LAYERS, flops, seconds, seen, note)


def _passes(model: torch.nn.Module, given: dict) -> None:
    weighted_loss(model, given).backward()
    model.zero_grad(set_to_none=True)


def attention_rows(context: Context, degree: int) -> Iterator[Row]:
    """The rate of attention of one sequence that so many ranks share, on one of them."""
    shape, tokens, _ = sizes(context)
    heads, length = shape["num_attention_heads"] // degree, tokens * degree
    generator = torch.Generator(context.device).manual_seed(0)
    states = [torch.randn((1, heads, length, llama.head_size(shape)), generator=generator, device=context.device,
                          dtype=context.dtype).requires_grad_() for _ in range(3)]  # fmt: skip
    upstream, attend = torch.ones_like(states[0]).transpose(1, 2), backends.packed([length], context.device)

    def call() -> None:
        torch.autograd.grad(attend(*states), states, upstream)

    with backends.ran() as seen:
        taken = timing.measure(call, [()], context.device, rounds=ROUNDS, warm_up=WARM_UP)
    system = f"{SHARED}{degree}" if degree > 1 else LOCAL
    case = f"attention, {heads} heads, one sequence of {length:,} tokens"
    yield from _rate(context, case, system, flops_of(shape, tokens, degree), taken.seconds, seen, taken.note)


def flops_of(shape: dict[str, int], tokens: int, degree: int) -> float:
    """6 a feature of this rank's heads and pair of the whole sequence's tokens, in one layer.

    >>> flops_of({"hidden_size": 8, "num_attention_heads": 4}, 3, 2)                  # 2 heads of 2 features, 6 tokens
    864.0
    """
    return 6.0 * shape["hidden_size"] // degree * (tokens * degree) ** 2


def _rate(
    context: Context, case: str, system: str, flops: float, seconds: float, seen: set[str], note: str
) -> Iterator[Row]:
    backend = backends.named(seen)
    given = (NAME, case, system, "rate, forward + backward")
    if slower := backends.slower(seen, context):
        yield rows.failed(*given, slower, value=flops / seconds / 1e12, unit="TFLOP/s", backend=backend)
    else:
        yield rows.measured(*given, flops / seconds / 1e12, "TFLOP/s", backend, note)
