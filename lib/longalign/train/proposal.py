"""How to spread a training of long sequences over devices: what fits, what each way would take, and a job to start.

A way is a degree (how many ranks share a sequence), a capacity of each rank, and a threshold over which sequences are
shared (`longalign.recipe.mixed`). Each is planned on the real lengths, with the stage of ZeRO that fits
(`longalign.train.memory`), and its time predicted from FLOPs and the bytes that ranks exchange. ZeRO's own
communication, kernels of short slices and disks are not counted: nothing here is a measurement.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import AutoConfig

from longalign.common.array_types import Counts, as_counts
from longalign.recipe.balance import idle_bound, within_steps
from longalign.recipe.batching import make_plan
from longalign.train import models
from longalign.train.memory import GIB, SPARE, ModelShape, footprint, smallest_that_fits
from longalign.train.needs import largest_micro_batch, layers_differ
from longalign.train.parallelism import Parallelism
from longalign.train.prediction import Pace, costs, predict
from longalign.train.sequence_parallel import repeats_of

STEP_TOKENS = 2**19
"""Tokens of an optimizer step, about: the paper's 8 packs of 65,536."""
PLANNED = 20_000
"""Sequences that are planned at most, drawn at random, the longest among them."""
ROUND = 256
FEW = 20
"""Steps below which an epoch is said to have few: a schedule needs some to warm up and to fall."""


@dataclass(frozen=True)
class Offer:
    """One way: memory in GB of a device, optimizer steps and hours of an epoch, shares of the ranks' time in [0, 1];
    `bound` is what it cannot be faster for."""

    engine: Parallelism
    capacity: int
    micro_batches_per_step: int
    memory: float
    steps: int
    hours: float
    idle: float
    sending: float
    bound: str


def offers(
    lengths: Counts, targets: Counts | None, shape: ModelShape, *, nodes: int = 1, ranks: int, memory: float,
    pace: Pace | None = None,
) -> list[Offer]:  # fmt: skip
    """Every way that fits into `memory` GB of each of `ranks` devices on `nodes` nodes, the fastest first.

    Raises ValueError where none does, or there is no sequence.

    >>> seven = ModelShape(4096, 32, 11008, heads=32, key_value_heads=32, head_size=128, vocab_size=32_000)
    >>> best = offers([200_000] + [1000] * 500, None, seven, ranks=8, memory=80)[0]
    >>> best.engine.sequence_parallel > 1 and best.engine.share_above is not None and best.memory <= 72
    True
    """
    whole = as_counts(lengths)
    lengths, targets = _drawn(whole, None if targets is None else as_counts(targets))
    if not lengths.sum():
        raise ValueError("there is no token to plan for")
    degrees = [degree for degree in range(1, ranks + 1) if ranks % degree == 0 and _shareable(shape, degree)]
    base = Parallelism(nodes=nodes, ranks=ranks, zero=0, bf16=True)
    ways = [(replace(base, sequence_parallel=degree, share_above=above), capacity)
            for degree in degrees for capacity, above in _choices(int(lengths.max()), degree, degrees)]  # fmt: skip
    room = SPARE * memory * 1e9 / GIB
    found = [_offer(lengths, targets, shape, *way, room=room, pace=pace or Pace()) for way in ways]
    fitting = [_of_all(offer, whole, lengths, shape) for offer in found if offer]
    if not fitting:
        raise ValueError(
            f"no way fits into {SPARE * memory:.0f} of the {memory:g} GB of {nodes * ranks} devices: take more or "
            f"larger ones, or cut the longest sequence ({lengths.max():,} tokens)"
        )
    return _in_order(fitting)


def _of_all(offer: Offer, whole: np.ndarray, drawn: np.ndarray, shape: ModelShape) -> Offer:
    """An offer for the sequences that were drawn as one for all: hours grow with the FLOPs, steps with the tokens."""
    hours = offer.hours * float(shape.cost(whole).sum() / shape.cost(drawn).sum())
    return replace(offer, hours=hours, steps=round(offer.steps * whole.sum() / drawn.sum()))


def _in_order(fitting: list[Offer]) -> list[Offer]:
    """The fastest first, those that offload last, since what is moved to and fro is not counted; but of those that are
    about as fast as the first, the one that sends least: how long that takes is what is known least."""
    ordered = sorted(fitting, key=lambda offer: (offer.engine.offload != "none", offer.hours))
    first = ordered[0]
    about = [o for o in ordered if o.engine.offload == first.engine.offload and o.hours <= 1.01 * first.hours]
    best = min(about, key=lambda offer: (offer.sending, offer.hours))
    return [best, *(offer for offer in ordered if offer is not best)]


def _drawn(lengths: np.ndarray, targets: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    if len(lengths) <= PLANNED:
        return lengths, targets
    chosen = np.random.default_rng(0).permutation(len(lengths))[:PLANNED]
    chosen[0] = lengths.argmax()
    chosen = np.unique(chosen)
    return lengths[chosen], None if targets is None else targets[chosen]


def _shareable(shape: ModelShape, degree: int) -> bool:
    try:
        return repeats_of(shape.heads, shape.key_value_heads, degree) > 0
    except ValueError:
        return False


def _choices(longest: int, degree: int, degrees: list[int]) -> Iterator[tuple[int, int | None]]:
    """Capacities of a plan and thresholds: all packs shared, and only sequences that do not fit, or fill 1/2 or 1/4."""
    parts = {parts: -(-longest // (parts * ROUND)) * ROUND for parts in degrees}
    yield degree * parts[degree], None
    if degree > 1:
        for capacity in [parts[some] for some in degrees if some <= degree]:
            yield from ((capacity, capacity // part) for part in (1, 2, 4))


def _offer(
    lengths: np.ndarray, targets: np.ndarray | None, shape: ModelShape, engine: Parallelism, capacity: int, *,
    room: float, pace: Pace,
) -> Offer | None:  # fmt: skip
    if smallest_that_fits(shape, engine, positions=capacity, targets=0, device=room) is None:
        return None
    accumulation = max(1, round(STEP_TOKENS / (capacity * engine.batches)))
    shapes: dict[str, Any] = {"capacity": capacity, "ranks": engine.batches, "accumulation": accumulation}
    plan = make_plan("packing", lengths, target_counts=targets, **shapes, **engine.mixed)
    _, most = largest_micro_batch([plan], plan.target_counts)
    fits = smallest_that_fits(shape, engine, positions=capacity, targets=most, device=room)
    if fits is None:
        return None
    cost, _ = costs(shape, fits, pace)
    plan = within_steps(plan, cost=cost, barrier=fits.barrier)
    _, most = largest_micro_batch([plan], plan.target_counts)
    needed = footprint(shape, fits, positions=capacity, targets=most).device  # a fuller pack there cannot be
    if needed > room:
        return None
    found, least = predict([plan], shape, fits, pace), idle_bound(plan, cost=cost, barrier=fits.barrier)
    bound = _bound(found.idle, least, found.sending)
    batches, memory = engine.batches * accumulation, needed * GIB / 1e9
    return Offer(fits, capacity, batches, memory, len(plan.steps), found.hours, found.idle, found.sending, bound)


def _bound(idle: float, least: float, sending: float) -> str:
    if max(idle, sending) < 0.05:
        return "FLOPs"
    if sending > idle:
        return "sending"
    return "the longest sequences" if 2 * least > idle else "uneven packs"


def notable(found: list[Offer]) -> list[Offer]:
    """The fastest offer of every degree, of packs that are all shared and of those that are not."""
    kinds: dict[tuple[int, bool], Offer] = {}
    for offer in found:
        kinds.setdefault((offer.engine.sequence_parallel, offer.engine.share_above is None), offer)
    return list(kinds.values())


def as_text(found: list[Offer], pace: Pace, lengths: Counts) -> str:
    """The notable offers as a table, the fastest first, and what the numbers rest on."""
    rows = [("", *"shared by|tokens over|capacity|batches a step|steps|ZeRO|hours|GB|idle|sending|bound by".split("|"))]
    for offer in notable(found):
        engine, above = offer.engine, offer.engine.share_above
        by = ("none", "-") if engine.sequence_parallel == 1 else (
            f"{engine.sequence_parallel} ranks", "all" if above is None else f"{above:,}")  # fmt: skip
        zero = f"{engine.zero}{', checkpoints' * engine.gradient_checkpointing}"
        zero += f", offload {engine.offload}" if engine.offload != "none" else ""
        rows.append((
            "->" if offer is found[0] else "", *by, f"{offer.capacity:,}", str(offer.micro_batches_per_step),
            f"{offer.steps:,}", zero, f"{offer.hours:.3g}", f"{offer.memory:.0f}", f"{offer.idle:.1%}",
            f"{offer.sending:.1%}", offer.bound,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lengths = as_counts(lengths)
    return "\n".join([
        f"{len(lengths):,} sequences, {lengths.sum():,} tokens, the longest {lengths.max():,}; an epoch on "
        f"{found[0].engine.world_size} devices:", *table,
        *([f"Planned for {PLANNED:,} of the sequences, drawn at random, the longest among them; steps and hours are "
           "those of all, and `longalign train --dry-run` tells the memory of all."] if len(lengths) > PLANNED else []),
        *([f"An epoch has few steps, of about {STEP_TOKENS:,} tokens each as in the paper: lower the job's "
           "training.micro_batches_per_step, or raise its epochs."] if found[0].steps < FEW else []),
        *rests_on(pace),
        "Memory is an estimate, and a tenth of it stays free. Not counted: what ZeRO sends, and slow kernels of short "
        "slices. From ZeRO-2 on, ranks wait for each other in every micro-batch, and idle is what they wait then.",
    ])  # fmt: skip


def rests_on(pace: Pace) -> list[str]:
    """What hours, idle and sending of a table rest on, in lines."""
    sent = f"{pace.sent / 1e9:.0f} GB/s"
    if not pace.card:
        return [f"Hours, idle and sending are from FLOPs: {pace.flops / 1e12:.0f} TFLOP/s and {sent} of a device. "
                "Nothing was measured."]  # fmt: skip
    shared = ", ".join(f"{rate / 1e12:.0f} shared by {degree}" for degree, rate in pace.shared_attention.items())
    return [f"Hours, idle and sending are from FLOPs at rates measured on {pace.card}: layers "
            f"{pace.flops / 1e12:.0f} TFLOP/s, attention {pace.attention_at(1) / 1e12:.0f} ({shared}).",
            f"Other devices have other rates: --card takes your own. {sent} of a device is from a data sheet, and no "
            "step was measured."]  # fmt: skip


def why_not_as_long(model: Any, longest: int) -> str | None:
    """Why no job can give a model the positions of its longest sequence, or None."""
    config = copy.deepcopy(model.config)
    if longest <= (positions := _positions(config) or longest):
        return None
    try:
        models.extend_rope(config, 1.0, "yarn", longest, Path(config.name_or_path))
    except ValueError as error:
        return (f"the longest sequence has {longest:,} tokens, the model {positions:,} positions, and it cannot be "
                f"extended ({error}): tokenize with --max-length {positions}")  # fmt: skip
    return None


def _positions(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def job_of(offer: Offer, *, model: Path, data: Path, longest: int) -> str:
    """The offer as a job's YAML file (`longalign.train.jobs.Job`).

    A model of fewer positions than the `longest` sequence has is extended by YaRN (arXiv 2309.00071).
    """
    plain = asdict(Parallelism())
    job: dict[str, Any] = {"model": str(model), "data": str(data)}
    config = AutoConfig.from_pretrained(model)
    if longest > (_positions(config) or longest):
        job |= {"rope_type": "yarn", "max_length": longest}
    job["training"] = {"method": "packing", "capacity": offer.capacity,
                       **({} if layers_differ(config) else {"balance": "steps"}),
                       "micro_batches_per_step": offer.micro_batches_per_step,
                       **({"warmup_ratio": 0} if offer.steps == 1 else {})}  # fmt: skip
    job["engine"] = {name: value for name, value in asdict(offer.engine).items() if value != plain[name]}
    told = "# proposed by `longalign plan --propose`: learning rate and epochs are the defaults, set your own\n"
    return told + yaml.safe_dump(job, sort_keys=False)
