"""Stage e: training a 1B Llama's shape on packs of 32k tokens: tokens/s, peak memory and FLOP utilisation.

The shape is Llama-3.2-1B's; the weights are random and bf16, and so is what AdamW keeps. Gradient checkpointing is on,
the norm is clipped at 1, and all tokens but the first of a sequence are targets: for answers alone this trainer would
compute less than the others. All train on the same sequences in as many optimizer steps, by turns (A B C A B C):

    longalign         this package's `PlanTrainer`: attention over packs, `weighted_loss` in chunks
    padded            transformers' `Trainer`: rows padded to the longest, stock sdpa; up to four rows a micro-batch, as
                      many as fit (by a count of 14 bytes a logit, then halved where memory is short), and accumulation
    flattened         a plain loop over packs that transformers' `DataCollatorWithFlattening` makes, as TRL's packing
                      does, with the model's own loss; flash-attn where it works, else sdpa with its dense mask
    trl               TRL's `SFTTrainer` with packing, where it is installed
    flattened, flex   the loop with FlexAttention: once, last, on a card without flash-attn when there is time

A turn is one step that is not timed and `STEPS` that are. Tokens are those of real sequences, padding left out; FLOPs
are those that `longalign.recipe.cost` counts for these sequences, without what padding, a dense mask or checkpointing
add. Where memory is short, all are measured at packs of half as many tokens, too; what did not fit is a failed row.

Budget: 2 rounds of 1 + STEPS steps of three systems (`llama.computed`; of a dense mask both halves of the square; of
plain losses 30 bytes a logit), and half as much again for packs of half as many tokens; at 40 % of the assumed
products and copies; 8 s for weights and what starts.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from benchmarks.gpu import ceilings, llama, rows, timing, trainers
from benchmarks.gpu.machine import is_installed
from benchmarks.gpu.rows import Budget, Context, Row
from benchmarks.gpu.trainers import Job, Turn
from longalign.recipe.balance import balanced
from longalign.recipe.batching import make_plan

NAME = "training"
LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 128_256, "num_attention_heads": 32,
    "num_key_value_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "vocab_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}  # fmt: skip
ROUNDS, STEPS = 2, 2
SHARE = 0.4
FLEX, FLEX_SECONDS = "flattened, flex", 25.0
"""What the turn with FlexAttention may take, most of it for compiling."""
GIB = 2**30


@dataclass
class Taken:
    """A system's turns at one size, what stopped it, and how long its last turn lasted in all."""

    turns: list[Turn] = field(default_factory=list)
    reason: str = ""
    lasted: float = 0.0


def sizes(context: Context) -> tuple[dict[str, int], int, int]:
    """The model's shape, its layers, and the tokens of a pack."""
    return (TINY, 2, 64) if context.tiny else (LLAMA_1B, 16, 32_768)


def budget(context: Context) -> Budget:
    """See the module: counted from the packs that are trained on."""
    shape, layers, capacity = sizes(context)
    pair = llama.CHECKPOINTING * llama.cost(layers, shape).per_pair
    flops = moved = 0.0
    for lengths in packs(capacity):
        counted, one = llama.computed(lengths, layers, shape)
        dense = pair * (2 * sum(lengths) ** 2 - sum(length**2 for length in lengths))
        flops += 3 * counted + dense
        moved += 3 * one + 2 * 30 * sum(lengths) * shape["vocab_size"]
    return rows.counted(context, 1.5 * ROUNDS * flops, 1.5 * ROUNDS * moved, share=SHARE, fixed=8.0)


def packs(capacity: int) -> list[list[int]]:
    """Lengths in 1 + STEPS packs of like cost, 98 % full (`longalign.recipe.balance.by_fill`)."""
    plan = make_plan("packing", llama.mixture(1000, capacity), capacity=capacity, accumulation=1 + STEPS)
    return [plan.lengths[list(row)].tolist() for row in balanced(plan, "fill").steps[0].rows]


def run(context: Context) -> Iterator[Row]:
    """All systems by turns; again with packs of half as many tokens, where memory was short for one of them."""
    shape, layers, capacity = sizes(context)
    model = llama.new(context, layers, shape, capacity)
    systems: dict[str, Callable[[Job], Turn]] = dict(trainers.SYSTEMS)
    if is_installed("trl"):
        systems["trl"] = trainers.trl
    else:
        yield rows.absent(NAME, "trl", "TRL is not installed")
    for size in (capacity, capacity // 2):
        lengths = packs(size)
        ids = [list(llama.tokens(pack, shape["vocab_size"], seed=number)) for number, pack in enumerate(lengths)]
        job = Job(context, model, ids, size)
        taken = by_turns(job, systems)
        is_card = context.device.type == "cuda" and not context.tiny  # compiling takes longer than a rehearsal has
        if is_card and trainers.best_attention(context.device) == "sdpa":
            flex = partial(trainers.flattened, way="flex_attention")
            taken |= by_turns(job, {FLEX: flex}, rounds=1, needed=FLEX_SECONDS)
        flops = sum(llama.flops(pack, layers, shape) for pack in lengths[1:])
        yield from _rows(job, taken, flops)
        if not any("OutOfMemory" in one.reason for one in taken.values()):
            break


def by_turns(
    job: Job, systems: dict[str, Callable[[Job], Turn]], *, rounds: int = ROUNDS, needed: float = 0.0
) -> dict[str, Taken]:
    """Each system's turns, A B C A B C, while there is time for another one; who fails is left out from then on.

    `needed`: seconds that a first turn may take; a second one takes what the first did.
    """
    taken = {name: Taken() for name in systems}
    for name in [*systems] * rounds:
        one = taken[name]
        if one.reason or one.turns and job.context.left() < one.lasted:
            continue
        if job.context.left() < needed:
            one.reason = f"not started: {job.context.left():.0f} s were left of the stage"
            continue
        began = time.monotonic()
        try:
            with llama.fused(job.context.device):
                one.turns.append(systems[name](job))
        except Exception as error:  # noqa: BLE001  what stops one trainer is its row, and the next one's turn comes
            one.reason = rows.one_line(error)
        one.lasted = time.monotonic() - began
        timing.free(job.context.device)
    return taken


def _rows(job: Job, taken: dict[str, Taken], flops: float) -> Iterator[Row]:
    """Tokens/s, memory and FLOP/s of each system, and this trainer's lead; `flops` are those of the timed sequences."""
    case = f"packs of {job.capacity:,} tokens"
    speeds = {name: statistics.median(turn.tokens / turn.seconds for turn in one.turns)
              for name, one in taken.items() if one.turns}  # fmt: skip
    for name, one in taken.items():
        if one.reason:
            yield rows.failed(NAME, case, name, "speed", one.reason, unit="tokens/s")
        if not one.turns:
            continue
        row = partial(rows.measured, NAME, case, name, backend=one.turns[0].backend)
        each = ", ".join(f"{turn.tokens / turn.seconds:,.0f}" for turn in one.turns)
        yield row("speed", speeds[name], "tokens/s", note="; ".join(filter(None, (f"turns {each}", one.turns[0].note))))
        if slower := one.turns[0].slower:
            yield rows.failed(NAME, case, name, "kernel", slower, backend=one.turns[0].backend)
        peak, told = max(turn.peak for turn in one.turns), timing.memory_note(job.context.device)
        yield row("peak memory", peak / GIB, "GiB", note=told)
        rate = flops / job.tokens * speeds[name]
        yield row("counted FLOP/s", rate / 1e12, "TFLOP/s", note="what checkpointing computes again is not counted")
        if (share := ceilings.share(job.context, rate, 1.0)) is not None:
            yield row("FLOP utilisation", share, "share", note="counted FLOP/s over that of the product")
        if name != "longalign" and "longalign" in speeds:
            yield row("longalign / this, speed", speeds["longalign"] / speeds[name], "ratio")
