"""Lays the paper's own trainings out from lengths alone, every sequence placed, beside what the paper reports.

    longalign plan --profile paper          (or: longalign plan DATA --profile paper)

Steps, sequences a step and a pack, fill and idle time follow from the plans; hours follow from a cost model with one
unknown, the FLOP/s that a device achieves. Nothing is measured; kernels, memory, communication and offloading are not
in it, and without DATA the lengths are assumed. Paper: arXiv 2401.18058, 8 x A800, Figure 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import harmonic_mean
from typing import Any

import numpy as np

from longalign.common.array_types import Counts, Int, as_counts
from longalign.experiments.profiles import Profile
from longalign.recipe.batching import Plan, make_plan
from longalign.recipe.cost import A800, SequenceCost, fill_share, micro_batch_costs, slowest
from longalign.train.memory import ModelShape
from longalign.train.parallelism import Parallelism

PER_PACK, STEPS = 12, (1500, 2000)
"""What the paper says of its trainings: about so many sequences a pack; fewest and most optimizer steps."""
LONG, SHORTEST_LONG, LONGEST, LONGEST_SHORT = 10_000, 8_192, 65_536, 8_192
SHORT = sum(STEPS) // 2 * 8 * PER_PACK // 2 - LONG
"""Short samples: 1,750 steps of 8 x 12 sequences are two epochs of 84,000, of which 10,000 are long."""
DISTRIBUTIONS = ("uniform", "log-uniform")


@dataclass(frozen=True, eq=False)
class Model:
    """A model of Figure 5: its shape, `cost` in FLOPs of a training pass, `hours` in the paper by method.

    `padded` is the longest sequence, as a share of the capacity, that naive and sorted batching took.
    """

    name: str
    shape: ModelShape
    hours: dict[str, float]
    padded: float = 1.0

    @cached_property
    def cost(self) -> SequenceCost:
        """FLOPs of a training pass of a sequence."""
        return self.shape.cost


CHATGLM3_6B = ModelShape(4096, 28, 13696, heads=32, key_value_heads=2, head_size=128, vocab_size=65024)
LLAMA_2_7B = ModelShape(4096, 32, 11008, heads=32, key_value_heads=32, head_size=128, vocab_size=32000)
LLAMA_2_13B = ModelShape(5120, 40, 13824, heads=40, key_value_heads=40, head_size=128, vocab_size=32000)
MODELS = (
    Model("ChatGLM3-6B", CHATGLM3_6B, {"packing": 20.5, "naive": 45.4, "sorted": 19.1}, padded=7 / 8),  # 56k
    Model("Llama-2-7B", LLAMA_2_7B, {"packing": 23.4, "naive": 67.2, "sorted": 23.3}),
    Model("Llama-2-13B", LLAMA_2_13B, {"packing": 41.2, "naive": 117.2, "sorted": 44.5}),
)
FITTED = ("Llama-2-7B", "packing")
"""The one number of Figure 5 to which the achieved FLOP/s are fitted."""


@dataclass(frozen=True)
class Arm:
    """A way to batch: the method, the longest sequence in tokens, micro-steps a rank, and what the plans have."""

    method: str
    capacity: int
    accumulation: int


@dataclass(frozen=True)
class Row:
    """One model trained by one arm: a line of the table. `longest` is in tokens, shares lie in [0, 1].

    `paper_hours` and `ratio` (hours over the paper's) are None where the paper has no such training; `cut` sequences
    are truncated on the right, after which `without_targets` have nothing left to learn (None: answers unknown).
    """

    model: str
    method: str
    longest: int
    steps: int
    sequences_per_step: float
    sequences_per_pack: float | None
    fill: float
    idle: float
    hours: float
    paper_hours: float | None
    ratio: float | None
    cut: int
    without_targets: int | None


@dataclass(frozen=True)
class Report:
    """All rows, and what they rest on: `tflops` achieved by a device, fitted to one number of the paper or given."""

    lengths: str
    ranks: int
    epochs: int
    barrier: str
    checkpointing: bool
    tflops: float
    fitted: bool
    rows: tuple[Row, ...]


def assumed_lengths(
    seed: int, long: str = "uniform"
) -> tuple[Int[np.ndarray, " sequences"], Int[np.ndarray, " sequences"]]:
    """Lengths and target counts in tokens, shape [sequences] each, long ones first: an assumption, no data.

    The paper gives 10,000 long instructions of 8k to 64k tokens; how they spread is assumed, "uniform" or
    "log-uniform". The number N of short ones (ShareGPT) follows from its figures: two epochs of 10,000 + N sequences,
    8 packs of 12 (or 96 rows) a step, are 1,500 to 2,000 steps for N from 62,000 to 86,000; taken is the middle,
    74,000. Their lengths are lognormal around 800 tokens (sigma 1, from 16 to 8k), assumed as in
    `02_packing_and_attention`. Answers, assumed too: lognormal around 200 tokens at the end of a long sample, half of
    a short one. One tokenizer stands for three.

    What does not fit: uniform long ones hold 369 million tokens, of which two epochs alone are 1,400 steps of full
    packs; at the four fifths that next fit fills, with the short ones, packs hold 9.5 sequences, not 12, and take 2,219
    steps. Log-uniform long ones (275 million) fit: 12.2 a pack, 1,727 steps.

    Raises:
        ValueError: an unknown distribution.

    >>> lengths, target_counts = assumed_lengths(seed=0)
    >>> len(lengths), int(lengths[:10_000].min()) >= 8192, int(lengths[10_000:].max()) <= 8192
    (84000, True, True)
    """
    if long not in DISTRIBUTIONS:
        raise ValueError(f"long samples are {' or '.join(DISTRIBUTIONS)}, not {long!r}")
    random = np.random.default_rng(seed)
    if long == "uniform":
        far = random.integers(SHORTEST_LONG, LONGEST + 1, LONG)
    else:
        far = np.exp(random.uniform(np.log(SHORTEST_LONG), np.log(LONGEST), LONG)).astype(np.int64)
    near = random.lognormal(np.log(800), 1.0, SHORT).astype(np.int64).clip(16, LONGEST_SHORT)
    answers = random.lognormal(np.log(200), 1.0, LONG).astype(np.int64).clip(1, 4096)
    return np.concatenate([far, near]), np.concatenate([answers, near // 2])


def assumption(long: str = "uniform") -> str:
    """What `assumed_lengths` assumes, in a line.

    >>> assumption()[:40]
    'assumed lengths: 10,000 uniform over 8k '
    """
    return f"assumed lengths: {LONG:,} {long} over 8k to 64k tokens, {SHORT:,} lognormal around 800, at most 8k"


def arms(profile: Profile) -> tuple[Arm, ...]:
    """Packing, then naive and sorted batching of one row a device, each at the capacity and at 7/8 of it (56k of 64k).

    Raises:
        ValueError: the profile's ranks cannot share its steps evenly.

    >>> from longalign.experiments.profiles import load_profile
    >>> [(arm.method, arm.capacity, arm.accumulation) for arm in arms(load_profile("smoke"))][:3]
    [('packing', 256, 3), ('naive', 256, 24), ('naive', 224, 24)]
    """
    training, ranks = profile.training, profile.engine.batches
    for name in ("packs_per_step", "sequences_per_step"):
        if getattr(training, name) % ranks:
            raise ValueError(
                f"profile {profile.name}: training.{name} is {getattr(training, name)}, which {ranks} ranks (engine) "
                f"cannot share evenly"
            )
    padded = [Arm(method, capacity, training.sequences_per_step // ranks) for method in ("naive", "sorted")
              for capacity in (training.capacity, training.capacity * 7 // 8)]  # fmt: skip
    return (Arm("packing", training.capacity, training.packs_per_step // ranks), *padded)


def right_truncated(
    lengths: Counts, target_counts: Counts | None, capacity: int
) -> tuple[Int[np.ndarray, " sequences"], Any]:
    """Lengths and target counts, shape [sequences], once what is over the capacity has lost its end, where answers are.

    >>> right_truncated([2, 4, 3], [1, 1, 2], 3)
    (array([2, 3, 3]), array([1, 0, 2]))
    """
    lengths = as_counts(lengths)
    kept = np.minimum(lengths, capacity)
    return kept, None if target_counts is None else np.maximum(as_counts(target_counts) - (lengths - kept), 0)


def lay_out(
    profile: Profile, arm: Arm, lengths: Counts, target_counts: Counts | None = None, seed: int = 0
) -> list[Plan]:
    """The plans of the arm, one for each epoch of the profile, each reshuffled.

    Raises:
        ValueError: as `longalign.recipe.batching.make_plan`.

    >>> from longalign.experiments.profiles import load_profile
    >>> [plan.packs(plan.steps[0]) for plan in lay_out(load_profile("smoke"), Arm("packing", 9, 3), [2, 4, 3])]
    [1]
    """
    lengths, target_counts = right_truncated(lengths, target_counts, arm.capacity)
    algorithm = profile.training.packing_algorithm if arm.method == "packing" else None
    return [
        make_plan(
            arm.method, lengths, target_counts=target_counts, capacity=arm.capacity, algorithm=algorithm,
            ranks=profile.engine.batches, accumulation=arm.accumulation, seed=seed, epoch=epoch,
        )
        for epoch in range(profile.training.epochs)
    ]  # fmt: skip


def report(
    profile: Profile, lengths: Counts, target_counts: Counts | None = None, *, seed: int = 0,
    utilisation: float | None = None, source: str = "given",
) -> Report:  # fmt: skip
    """All models by all arms. Hours are FLOPs of the slowest rank, over all barriers, by the FLOP/s achieved.

    Ranks wait for the slowest in every micro-step under ZeRO-3 (engine.zero 3), which gathers the weights layer by
    layer (arXiv 1910.02054), and else once a step.

    Args:
        lengths, target_counts: tokens per sequence, shape [sequences]; targets None where they are not known.
        utilisation: share of 312 TFLOP/s that a device achieves; None fits it to Llama-2-7B's packing, 23.4 hours.
        source: where the lengths come from, in words.

    Raises:
        ValueError: no sequence, one that is over the profile's capacity, or ranks that cannot share the steps.
    """
    lengths = _checked(profile, as_counts(lengths), source)
    counted, work = {}, {}
    for arm in arms(profile):
        plans = lay_out(profile, arm, lengths, target_counts, seed)
        counted[arm] = _counted(arm, plans, lengths, target_counts)
        work |= {(model, arm): worked(plans, model, profile.engine) for model in MODELS}
    (known,) = (key for key in work if (key[0].name, key[1].method) == FITTED)
    to_match = work[known][0] / (known[0].hours["packing"] * 3600)
    speed = to_match if utilisation is None else utilisation * A800 * 1e12
    rows = []
    for (model, arm), (flops, idle) in work.items():
        hours, theirs = flops / speed / 3600, _paper_hours(model, arm, profile.training.capacity)
        rows.append(Row(model.name, arm.method, arm.capacity, idle=idle, hours=hours, paper_hours=theirs,
                        ratio=theirs and hours / theirs, **counted[arm]))  # fmt: skip
    rows.sort(key=lambda row: [model.name for model in MODELS].index(row.model))
    return Report(source, profile.engine.world_size, profile.training.epochs, profile.engine.barrier,
                  profile.engine.gradient_checkpointing, speed / 1e12, utilisation is None, tuple(rows))  # fmt: skip


def _checked(profile: Profile, lengths: Int[np.ndarray, " sequences"], source: str) -> Int[np.ndarray, " sequences"]:
    over = np.flatnonzero(lengths > profile.training.capacity)
    if over.size:
        raise ValueError(
            f"{source}: {over.size:,} of {len(lengths):,} sequences are over the capacity of "
            f"{profile.training.capacity:,} tokens of profile {profile.name}, sequence {over[0]} first"
        )
    if not lengths.sum():
        raise ValueError(f"{source}: no sequence to plan")
    return lengths


def worked(plans: list[Plan], model: Model, engine: Parallelism) -> tuple[float, float]:
    """FLOPs of the slowest rank, summed over all barriers of all plans, and the share of the ranks' time that is idle.

    A row is one sequence and a pack computes its sequences only, so the work is that of the sequences. Gradient
    checkpointing does the forward pass twice (4/3), and ranks that share a pack divide its work.
    """
    longest = sum(float(slowest(micro_batch_costs(plan, model.cost), engine.barrier).sum()) for plan in plans)
    work = sum(float(model.cost(plan.lengths).sum()) for plan in plans)
    again = 4 / 3 if engine.gradient_checkpointing else 1.0
    return longest * again / engine.sequence_parallel, 1 - work / (longest * plans[0].ranks)


def _counted(arm: Arm, plans: list[Plan], lengths: Counts, target_counts: Counts | None) -> dict[str, Any]:
    """What the plans have whatever the model."""
    steps, sequences = sum(len(plan.steps) for plan in plans), sum(len(plan.lengths) for plan in plans)
    packs = sum(plan.packs(step) for plan in plans for step in plan.steps)
    left = right_truncated(lengths, target_counts, arm.capacity)[1]
    lost = None if left is None else int(np.count_nonzero(as_counts(target_counts)) - np.count_nonzero(left))
    return {
        "steps": steps, "sequences_per_step": sequences / steps,
        "sequences_per_pack": sequences / packs if arm.method == "packing" else None,
        "fill": harmonic_mean([fill_share(plan) for plan in plans]),
        "cut": int(np.count_nonzero(as_counts(lengths) > arm.capacity)), "without_targets": lost,
    }  # fmt: skip


def _paper_hours(model: Model, arm: Arm, capacity: int) -> float | None:
    theirs = capacity if arm.method == "packing" else int(capacity * model.padded)
    return model.hours[arm.method] if arm.capacity == theirs else None
