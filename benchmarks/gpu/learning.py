"""Stage f: the paper's first finding, that long instructions help long tasks, at the paper's own lengths.

One miniature comes to read documents of 65,536 tokens. It starts from a committed short base (128 tokens, RoPE base
10,000); its RoPE base is multiplied by 200; then come three sizes, 1:64 (1,024 tokens), 1:16 (4,096) and 1:1 (65,536).
At each the model is trained on documents up to that length, then fine-tuned twice from there: on short instructions
alone ("none") and with all long ones ("all"), asked at four lengths, and for needles at ten depths. The next size goes
on from the documents of the one before, and only if there "all" beat "none" by MARGIN of exact match at the lengths
over the short instructions'; else a failed row says so. One seed: a pilot, no verdict.

The model is mini-7b, as wide as the time allows: it costs mini-6b's attention, which is nearly all of a sequence of
65,536 tokens, and has keys of its own in each of six heads, by which thousands of facts are told apart. mini-13b, with
eight heads and a layer more, would take twice as long, and in a pilot learned less from as many tokens.

Counted (`budget`): 17 s for 1:64, of which 2.8 million tokens of documents in 680 steps take 14, since there facts come
to be looked up by two words; 9 s for 1:16; 50 s for 1:1, of which 38 are products, nearly all of them attention, at
0.15 of the assumed rate.

Rehearsed on a CPU in fp32, one seed. At 1:64, with 4.0 million tokens of documents: recall .95 at every length after
1.3 million, .98 after 2.7; exact match at 128, 256, 512, 1,024 tokens .85, .60, .40, .13 for "none" and .98, .90, .65,
.55 for "all". Then at 1:16, with a fifth of its documents: recall at 4,096 tokens .31 before and .96 after; exact match
at 512, 1,024, 2,048, 4,096 tokens .59, .56, .47, .09 and .72, .72, .62, .16, a gain of .125, just over MARGIN.

The data is made on a CPU beforehand (`benchmarks.gpu.learning_data`); where it is missing, all cores make it first:

    python -m benchmarks.gpu.learning --prepare
"""

import argparse
import copy
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import backends, learning_data, rows, timing
from benchmarks.gpu.learning_data import Size
from benchmarks.gpu.rows import Budget, Context, Row
from longalign.common import paths
from longalign.evals.teacher_forced import exact_match, token_recall
from longalign.recipe.batching import plan_packing
from longalign.recipe.collators import PackedCollator
from longalign.recipe.dataset import PlannedDataset, measure
from longalign.recipe.loss import weighted_loss
from longalign.train.models import load_model, sequence_cost

NAME = "learning"
MODEL = "mini-7b"
STORES = Path(__file__).parent / "stores"
COUNTS = {"short": 480, "long": 144, "per_cell": 16, "needle_depths": 10, "per_needle": 2}
SIZES = (
    Size("1:64", 1024, 64, documents=8000, step=4096, per_probe=8, **COUNTS),
    Size("1:16", 4096, 128, documents=2000, step=8192, per_probe=8, **COUNTS),
    Size("1:1", 65_536, 4096, documents=320, step=65_536, per_probe=4, **COUNTS),
)
FEW = {"short": 3, "long": 2, "per_cell": 1, "needle_depths": 2, "per_needle": 1}
TINY = tuple(
    Size(name, longest, 64, documents=4, step=512, per_probe=1, **FEW)
    for name, longest in (("1:128", 512), ("1:64", 1024))
)
ARMS = ("none", "all")
MARGIN = 0.1
ROPE_FACTOR = 200.0
EPOCHS = 3
PER_STEP = 24
"""Sequences of a step of instructions, as in the laptop's profile."""
MOST_TOKENS = 65_536
"""Of a pack."""
RATES = {"documents": 2e-3, "instructions": 3e-3}
SHARE, PASS_SECONDS, START_SECONDS = 0.15, 0.02, 3.0

Sequences = Sequence[dict[str, Any]]
Cell = tuple[int, float | None]


@dataclass(frozen=True)
class Trained:
    """Steps, tokens and seconds of a training run, and its loss: the mean over the last tenth of the steps."""

    steps: int
    tokens: int
    seconds: float
    loss: float


def sizes(context: Context) -> tuple[Size, ...]:
    """The sizes, small ones first."""
    return TINY if context.tiny else SIZES


def budget(context: Context) -> Budget:
    """FLOPs of all sizes at SHARE of the assumed products (heads of 32 features fill a card badly), and PASS_SECONDS
    for every pass through the model, which waits for the launches of its kernels, not for the products.
    """
    parts = [size_budget(context, size) for size in sizes(context)]
    return Budget(sum(part.seconds for part in parts) + START_SECONDS, sum(part.flops for part in parts))


def size_budget(context: Context, size: Size) -> Budget:
    """FLOPs by `longalign.recipe.cost` over the lengths that a size draws: once through the documents, EPOCHS times
    through the short instructions for both arms and the long ones for one; a third of that, the forward pass, for
    questions. Data that was not prepared is made first.
    """
    from transformers import AutoConfig

    cost = sequence_cost(AutoConfig.from_pretrained(paths.bases() / MODEL))
    times = {"extension": 1.0, "short": 2.0 * EPOCHS, "long": EPOCHS, "probe": 1 / 3, "test": 2 / 3, "needle": 2 / 3}
    flops = passes = 0.0
    for part, count in size.counts().items():
        tokens, squares = learning_data.moments(size, part)
        flops += times[part] * count * (cost.per_token * tokens + cost.per_pair * squares)
        per_pass = size.step if part == "extension" else min(MOST_TOKENS, PER_STEP * tokens)
        passes += math.ceil(times[part] * count * tokens / per_pass)
    fixed = 0.0 if context.tiny else passes * PASS_SECONDS + learning_data.making_seconds(size, STORES)
    return rows.counted(context, flops, share=SHARE, fixed=fixed)


def run(context: Context) -> Iterator[Row]:
    """Size by size, as far as each learns."""
    model = load_model(paths.bases() / MODEL, rope_factor=ROPE_FACTOR, max_length=sizes(context)[-1].longest)
    model.to(context.device)
    with backends.ran() as seen:
        for size, following in zip(sizes(context), (*sizes(context)[1:], None), strict=True):
            parts, told = _data(context, size)
            began = time.monotonic()
            gain = yield from _one_size(context, seen, size, parts, model, told)
            if following is None:
                return
            # what a size takes more than was counted, the next one takes, too
            pace = max(1.0, (time.monotonic() - began) / size_budget(context, size).seconds)
            reason = why_not(context, size, following, gain, pace)
            yield _gate(size, following, gain, reason, backends.named(seen))
            if reason:
                return


def why_not(context: Context, size: Size, following: Size, gain: float, pace: float) -> str:
    """Why the next size is not run; empty when it is. At tiny sizes nothing is learnt, and all of them are run."""
    if context.tiny:
        return ""
    needed = pace * size_budget(context, following).seconds
    if not gain >= MARGIN:
        return f"{following.name} is not run: at {size.name} the gain is {gain:.2f}, and less than {MARGIN}"
    if needed > context.left():
        return f"{following.name} is not run: it takes {needed:.0f} s, and {max(context.left(), 0):.0f} s are left"
    return ""


def _gate(size: Size, following: Size, gain: float, reason: str, backend: str) -> Row:
    case, metric = f"{size.name}, all - none", "exact match over the short instructions' lengths"
    if reason:
        return rows.failed(NAME, case, MODEL, metric, reason, value=gain, unit="share", backend=backend)
    note = f"{following.name} is run; one seed: a pilot"
    return rows.measured(NAME, case, MODEL, metric, gain, "share", backend, note)


def _data(context: Context, size: Size) -> tuple[dict[str, list[dict[str, Any]]], str]:
    if context.tiny:
        return learning_data.made(size), "data made here"
    return learning_data.of(size, STORES)


def _one_size(
    context: Context, seen: set[str], size: Size, parts: dict[str, Any], model: Any, told: str
) -> Iterator[Row]:
    """Train on documents, in place, then fine-tune a copy for each arm; returns what "all" gains over "none"."""

    def row(case: str, metric: str, value: float, unit: str = "share", note: str = "") -> Row:
        case, backend = f"{size.name}, {case}", backends.named(seen)
        if slower := backends.slower(seen, context):
            return rows.failed(NAME, case, MODEL, metric, slower, value=value, unit=unit, backend=backend)
        return rows.measured(NAME, case, MODEL, metric, value, unit, backend, note)

    trained = train(context, model, parts["extension"], rate=RATES["documents"], step=size.step, exponent=1.0)
    yield from _speed(row, "documents", trained, told)
    for length, (probes, _) in _by_cell(parts["probe"]).items():
        with _autocast(context):
            yield row("documents", f"recall at {length[0]:,}", token_recall(model, probes), "share of answers' tokens")
    long: dict[str, float] = {}
    for arm in ARMS:
        tuned = copy.deepcopy(model)
        instructions = parts["short"] + (parts["long"] if arm == "all" else [])
        trained = train(context, tuned, instructions, rate=RATES["instructions"], epochs=EPOCHS)
        yield from _speed(row, arm, trained, f"{len(instructions)} instructions")
        scores = asked(context, tuned, parts["test"])
        for (length, _), score in scores.items():
            yield row(arm, f"exact match at {length:,}", score)
        long[arm] = float(np.mean([score for (length, _), score in scores.items() if length > size.short_length]))
        for (length, depth), score in asked(context, tuned, parts["needle"]).items():
            yield row(arm, f"needle at {length:,}, depth {depth:.2f}", score)
    return long["all"] - long["none"]


def _speed(row: Any, case: str, trained: Trained, note: str) -> Iterator[Row]:
    note = f"{trained.steps} steps, {trained.tokens:,} tokens, {trained.seconds:.1f} s; {note}"
    yield row(case, "loss at the end", trained.loss, "nats", note)
    yield row(case, "speed", trained.tokens / trained.seconds, "tokens/s", note)


def train(
    context: Context, model: Any, sequences: Sequences, *, rate: float, step: int = 0, epochs: int = 1,
    exponent: float = 0.0,
) -> Trained:  # fmt: skip
    """Train a model in place with the library's recipe: packs, Eq. 4's weights, AdamW, a cosine.

    An optimizer step holds `step` tokens, or PER_STEP sequences on average; the rate is given for a width of 96.
    """
    data, tokens = planned(sequences, step=step, epochs=epochs, exponent=exponent)
    rate = rate * 96 / model.config.hidden_size
    fused = context.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
    collate, steps = PackedCollator(model.config.pad_token_id or 0), len(data) // data.per_step
    losses, began = [], timing.clock(context.device)
    model.train()
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(number, steps)
        losses.append(0.0)
        for place in range(number * data.per_step, (number + 1) * data.per_step):
            batch = {name: value.to(context.device) if torch.is_tensor(value) else value
                     for name, value in collate(data[place]).items()}  # fmt: skip
            with _autocast(context):
                loss = weighted_loss(model, batch)
            loss.backward()
            losses[-1] += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = timing.clock(context.device) - began
    last = [float(loss) for loss in losses[-max(1, steps // 10) :]]
    return Trained(steps, epochs * tokens, seconds, float(np.mean(last)))


def planned(sequences: Sequences, *, step: int, epochs: int, exponent: float) -> tuple[PlannedDataset, int]:
    """The micro-batches of all epochs, one pack each, and the tokens of an epoch."""
    lengths, target_counts = measure(sequences)
    # next_fit fills nine tenths of a pack or less
    room = step or int(PER_STEP * lengths.mean() / 0.9)
    capacity = int(max(lengths.max(), min(room, MOST_TOKENS)))
    options = {"target_counts": target_counts, "accumulation": max(1, round(room / capacity))}
    plans = [plan_packing(lengths, capacity=capacity, epoch=epoch, **options) for epoch in range(epochs)]
    return PlannedDataset(sequences, plans, exponent=exponent), int(lengths.sum())


def _schedule(number: int, steps: int) -> float:
    """Share of the rate: three hundredths of the steps upwards, then a cosine to 0."""
    warm = max(1, round(0.03 * steps))
    return (number + 1) / warm if number < warm else 0.5 * (1 + math.cos(math.pi * (number - warm) / (steps - warm)))


def asked(context: Context, model: Any, questions: Sequences) -> dict[Cell, float]:
    """Share of exact answers by cell, (length, depth)."""
    with _autocast(context):
        exact = exact_match(model, questions, capacity=MOST_TOKENS if context.device.type == "cuda" else 2048)
    return {cell: float(np.mean(exact[places])) for cell, (_, places) in _by_cell(questions).items()}


def _by_cell(questions: Sequences) -> dict[Cell, tuple[list[dict[str, Any]], list[int]]]:
    """Questions of each cell and their places; the cells in the order in which they come."""
    cells: dict[Cell, tuple[list[dict[str, Any]], list[int]]] = {}
    for place, question in enumerate(questions):
        found = cells.setdefault(question["cell"], ([], []))
        found[0].append(question)
        found[1].append(place)
    return cells


def _autocast(context: Context) -> torch.autocast:
    return torch.autocast(context.device.type, dtype=context.dtype, enabled=context.device.type == "cuda")


def prepare(folder: Path, names: Sequence[str], processes: int) -> None:
    """Make the data of the sizes with these names and print what it takes."""
    for size in (size for size in SIZES if size.name in names):
        began = time.monotonic()
        parts = learning_data.made(size, processes=processes)
        path = learning_data.write(size, parts, folder)
        tokens = sum(len(one["input_ids"]) for sequences in parts.values() for one in sequences)
        print(f"{path}: {tokens:,} tokens, {path.stat().st_size / 2**20:.1f} MiB, {time.monotonic() - began:.0f} s "
              f"with {processes} processes", flush=True)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Make the stage's data beforehand: what does not lie in the folder is made where the stage runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.learning", description=main.__doc__)
    parser.add_argument("--prepare", type=Path, nargs="?", const=STORES, required=True, help=f"folder ({STORES.name})")
    parser.add_argument("--sizes", default=",".join(size.name for size in SIZES), help="with commas between them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    prepare(given.prepare, given.sizes.split(","), given.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
