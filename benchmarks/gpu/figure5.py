"""Stage d: Figure 5 of the paper (arXiv 2401.18058), training time by batching, with the kernels of this card.

Micro-batches of Llama-2-7B's shape are passed forward and backward, alone on the card, with 2 and with 4 of the 32
layers; the straight line through both gives 32 (all layers are alike, and what is beside them is in both). They are
those of one optimizer step of the packing plan whose work is nearest to the plan's mean, 8 packs on 8 ranks, and the
same sequences a row each: with batch 1 and accumulation 12 no row is padded, and naive and sorted batching lose time
by waiting alone. From these times follows what the step takes on 8 ranks, naive, sorted and packed: "measured
micro-batches, composed ranks".

For the whole mixture of 10,000 lengths, on 8 and 64 ranks and for each `--balance`, times are those of a pace
(`longalign.experiments.operations.fit_pace`: seconds a token, a pair, a micro-batch) that is fitted to seven tenths of
the measured micro-batches, each weighing the same; its error on the other three tenths is a row. Beside every ratio
stands what `longalign.recipe.cost` predicts from lengths by counting FLOPs, and by how much it is off.

A step ends when the slowest rank has ended it; under ZeRO-3, as in the paper, ranks wait in every micro-step. What is
not in it: communication, the optimizer's step, offloading. All tokens but the first of a sequence are targets.

Budget: for each measured micro-batch at each depth `llama.computed` (FLOPs and bytes), twice for rows under 8,192
tokens, which are warmed up, and once for a pack of one sequence before all others; at 45 % of the assumed products
and copies; 8 s for the weights, the plans and what starts. That is 1.8e16 FLOPs, 13 TB and some 70 s.
"""

import csv
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from benchmarks.gpu import backends, ceilings, llama, ranks, rows, timing
from benchmarks.gpu.ranks import BARRIERS, MicroBatch
from benchmarks.gpu.rows import Budget, Context, Row
from longalign.experiments.operations import Pace, hold_out, prediction_error
from longalign.recipe.batching import Plan
from longalign.recipe.cost import SequenceCost, micro_batch_costs
from longalign.recipe.loss import weighted_loss

NAME = "figure5"
DEPTHS, LAYERS = (2, 4), 32
LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000, "num_attention_heads": 32,
    "num_key_value_heads": 32,
}  # fmt: skip
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "vocab_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
}  # fmt: skip
SHORT = 8192
"""Tokens; what is shorter is passed once before it is timed."""
ENOUGH = 12
"""Micro-batches from which on a fit is made."""
SHARE = 0.45
RESERVE = 6.0
"""Seconds kept for what follows the measurement: plans, the fit, rows."""
PAPER = {"packing": 67.2 / 23.4, "sorted": 67.2 / 23.3}
"""Naive batching's hours over those of others, Llama-2-7B on 8 x A800."""
TABLE = "figure5_micro_batches.csv"


@dataclass(frozen=True)
class Sizes:
    """What is measured: the model's shape, the tokens of a pack, the number of sequences in the mixture."""

    shape: dict[str, int]
    capacity: int
    sequences: int

    @property
    def cost(self) -> SequenceCost:
        """FLOPs of all layers."""
        return llama.cost(LAYERS, self.shape)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Of the whole mixture."""
        return llama.mixture(self.sequences, self.capacity)

    @cached_property
    def packs(self) -> MicroBatch:
        """The 8 packs of the step that is measured."""
        return ranks.typical_step(self.lengths, self.capacity, self.cost)

    @property
    def micro_batches(self) -> list[tuple[MicroBatch, bool]]:
        """Everything that is measured, packed or not: the packs, a filler, and each length of theirs in a row alone."""
        singles = sorted({length for row in self.packs for length in row})
        return [*(((row,), True) for row in self.packs), ((), True), *((((length,),), False) for length in singles)]


@dataclass(frozen=True)
class Timed:
    """A micro-batch, packed or padded, and its seconds by number of layers."""

    micro_batch: MicroBatch
    is_packed: bool
    seconds: dict[int, float]

    @property
    def whole(self) -> float:
        """Seconds of all layers."""
        return ranks.extrapolated(self.seconds, LAYERS)

    @property
    def lengths(self) -> list[int]:
        """Of all its sequences."""
        return _flat(self.micro_batch)

    @property
    def work(self) -> list[float]:
        """Positions, pairs, micro-batches, steps, as `step_work` of experiments.operations has them; no whole step."""
        lengths = np.array(self.lengths, dtype=float)
        return [lengths.sum(), (lengths**2).sum(), 1.0, 0.0]


def sizes(context: Context) -> Sizes:
    """The paper's sizes, or tiny ones."""
    return Sizes(TINY, 128, 600) if context.tiny else Sizes(LLAMA_7B, 65_536, 10_000)


def budget(context: Context) -> Budget:
    """See the module: counted from the micro-batches that are going to be measured."""
    chosen = sizes(context)
    passes = [(_flat(one), _passes(one)) for one, _ in chosen.micro_batches] + [([chosen.capacity], 1)]
    flops = moved = 0.0
    for lengths, times in passes:
        for depth in DEPTHS:
            counts = llama.computed(lengths, depth, chosen.shape)
            flops, moved = flops + times * counts[0], moved + times * counts[1]
    return rows.counted(context, flops, moved, share=SHARE, fixed=8.0)


def run(context: Context) -> Iterator[Row]:
    """Measure, compose one step from what was measured, fit, and compose whole epochs from the fit."""
    with backends.ran() as seen, llama.fused(context.device):
        timed, chosen, note = measure(context)
    _write(context, timed)
    padded, backend = llama.sdpa_name(context.device), backends.named(seen)
    if reason := backends.slower(seen, context):
        yield rows.failed(NAME, "packs", "longalign", "backend", reason, backend=backend)
    for is_packed, name in ((True, backend), (False, padded)):
        yield from _largest(context, [one for one in timed if one.is_packed == is_packed], chosen, name, note)
    if len(timed) < ENOUGH:
        yield rows.failed(NAME, "micro-batches", "fit_pace", "per token", f"too few to fit to: {note}", backend=backend)
        return
    pace, found = yield from _fit(timed, chosen, backend)
    yield from _one_step(timed, chosen, pace, (padded, backend))
    yield from _epochs(chosen, pace, found)


def measure(context: Context) -> tuple[list[Timed], Sizes, str]:
    """All micro-batches at both depths, in random order; with packs half as long as long as memory is short."""
    chosen = sizes(context)
    model = llama.new(context, max(DEPTHS), chosen.shape, chosen.capacity)
    layers = model.model.layers

    def seconds(micro_batch: MicroBatch, is_packed: bool, depth: int) -> float:
        model.model.layers = layers[:depth]
        batch = llama.batch(context, _flat(micro_batch), is_packed, chosen.shape["vocab_size"])
        warm_up = _passes(micro_batch) - 1
        return timing.measure(_pass, [(model, batch)], context.device, rounds=1, warm_up=warm_up).seconds

    def warm_up(capacity: int) -> None:
        for depth in DEPTHS:
            seconds(((capacity,),), True, depth)

    _, capacity, note = timing.halving(chosen.capacity, warm_up, context.device, smallest=1024)
    chosen = replace(chosen, capacity=capacity)
    timed, todo = [], chosen.micro_batches
    for number in np.random.default_rng(0).permutation(len(todo)).tolist():
        if context.left() < RESERVE:
            break
        timed.append(Timed(*todo[number], {depth: seconds(*todo[number], depth) for depth in DEPTHS}))
    lost = "" if len(timed) == len(todo) else f"time was up after {len(timed)} of {len(todo)} micro-batches"
    return timed, chosen, "; ".join(filter(None, (note, lost)))


def _largest(context: Context, timed: Sequence[Timed], chosen: Sizes, backend: str, note: str) -> Iterator[Row]:
    """Of the largest of these: seconds at both depths and, by the slope, of all layers; FLOP/s of a layer."""
    if not timed:
        return
    largest = max(timed, key=lambda one: sum(one.lengths))
    case = f"{'pack' if largest.is_packed else 'row'} of {sum(largest.lengths):,} tokens"
    row = partial(rows.measured, NAME, case, "Llama-2-7B", backend=backend)
    for depth, seconds in largest.seconds.items():
        yield row(metric=f"{depth} layers", value=seconds, unit="s", note=note)
    yield row(metric=f"{LAYERS} layers", value=largest.whole, unit="s", note="extrapolated by the slope")
    flops = llama.flops(largest.lengths, LAYERS, chosen.shape)
    note = f"of {LAYERS} layers; what checkpointing computes again is not counted"
    yield row(metric="counted FLOP/s", value=flops / largest.whole / 1e12, unit="TFLOP/s", note=note)
    if (share := ceilings.share(context, flops, largest.whole)) is not None:
        yield row(metric="share of the product", value=share, unit="share", note=note)


def _one_step(timed: Sequence[Timed], chosen: Sizes, pace: Pace, names: tuple[str, str]) -> Iterator[Row]:
    """One optimizer step of the same sequences, naive, sorted and packed, from times that were all measured.

    By how much the pace, that is fitted to seven tenths of them, would be off for the whole step, is told beside it.
    """
    three = ranks.plans_of_step(chosen.packs, chosen.capacity)
    case = f"one step of {len(_flat(chosen.packs))} sequences, 8 ranks"
    missing = len(chosen.micro_batches) - len(timed)
    if missing:
        reason = f"{missing} of its {len(chosen.micro_batches)} micro-batches were not measured: time was up"
        yield rows.failed(NAME, case, "naive, sorted, packing", "time", reason, backend=names[1])
        return
    # a pack that holds one sequence is also a row: each has its own time
    table = {(one.micro_batch, one.is_packed): one.whole for one in timed}
    note = f"measured micro-batches, composed ranks; {LAYERS} layers by the slope"
    for barrier, told in BARRIERS.items():
        walls = {}
        for name, plan in three.items():
            is_packed = plan.method == "packing"
            seconds = ranks.seconds_by(lambda one, is_packed=is_packed: table[one, is_packed or not one], plan)
            walls[name] = ranks.wall(seconds, barrier)
        yield from _against_naive(f"{case}, {told}", three, walls, barrier, chosen.cost, names, note)
        for name, plan in three.items():
            fitted = ranks.wall(ranks.seconds_by_pace(pace, plan), barrier)
            yield rows.measured(NAME, f"{case}, {told}", name, "error of the fit", fitted / walls[name] - 1, "share",
                                "fit_pace", "by the pace / by measured micro-batches - 1")  # fmt: skip


def _fit(timed: Sequence[Timed], chosen: Sizes, backend: str) -> Generator[Row, None, tuple[Pace, str]]:
    """The pace, returned with a note for what follows from it; how far it and FLOPs alone are off on the held out."""
    full = [one for one in timed if one.lengths]
    work, seconds = np.array([one.work for one in full]), np.array([one.whole for one in full])
    fitted, held = hold_out(len(full))
    pace = ranks.fit(work[fitted], seconds[fitted])
    flops = ranks.scaled(chosen.cost, work[fitted], seconds[fitted])
    note = f"fitted to {len(fitted)} measured micro-batches, {len(held)} held out"
    row = partial(rows.measured, NAME, f"{len(full)} micro-batches", backend=backend)
    for metric, value, unit in (
        ("per token", pace.per_position * 1e6, "us"), ("per pair", pace.per_pair * 1e9, "ns"),
        ("per micro-batch", pace.per_micro_batch * 1e3, "ms"),
    ):  # fmt: skip
        yield row("fit_pace", metric, value, unit, note=note)
    by_flops = ("longalign.recipe.cost", flops, f"FLOPs times one factor, {note}")
    for system, one, told in (("fit_pace", pace, note), by_flops):
        error = prediction_error(one, work[held], seconds[held])
        for metric in ("median", "ninetieth", "total"):
            yield row(system, f"held-out error, {metric}", getattr(error, metric), "share", note=told)
    error = prediction_error(pace, work[held], seconds[held]).median
    fitted_from = f"fitted from {len(fitted)} measured micro-batches, held-out error {error:.1%} (median)"
    return pace, f"{fitted_from}; composed ranks"


def _epochs(chosen: Sizes, pace: Pace, note: str) -> Iterator[Row]:
    """The whole mixture on 8 and 64 ranks by the pace, beside FLOPs; and the paper's ratios."""
    for count in (8, 64):
        for barrier, told in BARRIERS.items():
            found = ranks.plans(chosen.lengths, chosen.capacity, count, barrier, chosen.cost)
            walls = {name: ranks.wall(ranks.seconds_by_pace(pace, plan), barrier) for name, plan in found.items()}
            case = f"{len(chosen.lengths):,} sequences, {count} ranks, {told}"
            yield from _against_naive(case, found, walls, barrier, chosen.cost, ("fit_pace", "fit_pace"), note)
    for system, ratio in PAPER.items():
        yield rows.measured(NAME, "the paper, 8 ranks, ZeRO-3", system, "naive / this", ratio, "ratio", "8 x A800",
                            "arXiv 2401.18058, Figure 5, 7B; packing 2.2 (6B) to 2.9 (7B)")  # fmt: skip


def _against_naive(
    case: str, found: dict[str, Plan], walls: dict[str, float], barrier: str, cost: SequenceCost,
    names: tuple[str, str], note: str,
) -> Iterator[Row]:  # fmt: skip
    """Seconds of each plan, its speed against naive batching, that which FLOPs predict, and how far they are off.

    `names`: backends of padded rows, and of packs.
    """
    counted = {name: ranks.wall(micro_batch_costs(plan, cost), barrier) for name, plan in found.items()}
    for name, plan in found.items():
        row, backend = partial(rows.measured, NAME, case, name), names[plan.method == "packing"]
        yield row("time", walls[name], "s", backend, note)
        if name == "naive":
            continue
        ratio, predicted = walls["naive"] / walls[name], counted["naive"] / counted[name]
        yield row("naive / this", ratio, "ratio", backend, note)
        model = "longalign.recipe.cost"
        yield row("naive / this, predicted", predicted, "ratio", model, "from lengths, by FLOPs alone")
        yield row("error of the prediction", predicted / ratio - 1, "share", model, "predicted / ours - 1")


def _pass(model: Any, batch: dict[str, Any]) -> None:
    model.zero_grad(set_to_none=True)
    weighted_loss(model, batch).backward()


def _flat(micro_batch: MicroBatch) -> list[int]:
    return [length for row in micro_batch for length in row]


def _passes(micro_batch: MicroBatch) -> int:
    return 2 if sum(_flat(micro_batch)) < SHORT else 1


def _write(context: Context, timed: Sequence[Timed]) -> None:
    """All times as measured, so that another fit can be made of them."""
    with (context.out / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["lengths", "packed", *(f"seconds, {depth} layers" for depth in DEPTHS)])
        for one in timed:
            times = (one.seconds[depth] for depth in DEPTHS)
            writer.writerow([" ".join(map(str, one.lengths)), int(one.is_packed), *times])
