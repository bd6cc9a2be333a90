"""Long sequences shared by ranks and short ones not: seconds per million tokens by the cost model, never timed.

10,000 sequences, costs of Llama-2-7B, devices that hold 32,768 tokens, 4 micro-batches a device and step. Two mixtures:
LongAlign's (90 % lognormal around 800 tokens, 10 % uniform from 8k to the context), and that which Skrull (arXiv
2505.19609) names for Llama 3 (99.89 % short, 1K on average; 0.11 % long, 37K on average; cut to the context).

    mixed            share_above at what fits on a device, or at 1/2 or 1/4 of that, whichever is fastest; balanced
    all shared       every pack over as many ranks as the context needs (DeepSpeed-Ulysses); balanced
    not shared       packs of the context's length, each on one device, if memory allowed that; as they come

A device does 40 % of 312 TFLOP/s. What ranks send takes 200 GB/s within a node of 8 (half of the 400 GB/s of an A800's
NVLink, by its data sheet) and 25 GB/s between nodes (InfiniBand of 200 Gb/s a device, as in NVIDIA's DGX A100). It is
not hidden behind work. Barriers are those of ZeRO-3, in every micro-step; what ZeRO sends is in none of the numbers.

    python -m benchmarks.sharing.simulate
"""

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import common
from longalign.experiments.paper_plan import LLAMA_2_7B
from longalign.recipe.balance import within_steps
from longalign.recipe.batching import Plan, make_plan
from longalign.recipe.cost import SequenceCost, idle_share, micro_batch_costs, slowest
from longalign.train.prediction import Pace, exchange_cost

TARGET = "mixed"
SEQUENCES, CAPACITY, ACCUMULATION, NODE = 10_000, 32_768, 4, 8
CONTEXTS = {"64k": 2**16, "128k": 2**17, "256k": 2**18, "512k": 2**19, "1M": 2**20}
PACE, BETWEEN_NODES, BARRIER = Pace(), 25e9, "micro_step"
UNITS = {"time": "s per million tokens", "idle": "share", "sending": "share"}


def longalign(context: int, sequences: int = SEQUENCES) -> np.ndarray:
    """Lengths of LongAlign's mixture."""
    random = np.random.default_rng(0)
    long = random.integers(8192, context + 1, sequences // 10)
    long[0] = context
    short = np.clip(random.lognormal(np.log(800), 1.0, sequences - len(long)), 1, CAPACITY).astype(int)
    return random.permutation(np.concatenate([long, short]))


def llama3(context: int, sequences: int = SEQUENCES) -> np.ndarray:
    """Lengths of the mixture of which one in 900 is long; exponential around both means."""
    random = np.random.default_rng(0)
    long = np.clip(random.exponential(37_000, max(1, round(0.0011 * sequences))), CAPACITY // 4, context).astype(int)
    long[0] = context
    short = np.clip(random.exponential(1000, sequences - len(long)), 1, CAPACITY).astype(int)
    return random.permutation(np.concatenate([long, short]))


def exchange(degree: int) -> float:
    """What sending costs, in FLOPs per token, where a part of the group is on other nodes."""
    within = exchange_cost(LLAMA_2_7B, degree, PACE)
    outside = max(0, degree - NODE) / degree
    return within * ((1 - outside) + outside * PACE.sent / BETWEEN_NODES)


def measured(plan: Plan, cost: SequenceCost, sent: SequenceCost, slices: int = 1) -> dict[str, float]:
    """Seconds per million tokens of a plan whose micro-batches `slices` ranks divide, and shares of that time."""
    costs = micro_batch_costs(plan, cost)
    seconds = slowest(costs, BARRIER).sum() / slices / PACE.flops
    idle = idle_share(plan, cost, BARRIER)
    sending = (1 - idle) * micro_batch_costs(plan, sent).sum() / costs.sum()
    return {"time": seconds / plan.lengths.sum() * 1e6, "idle": idle, "sending": float(sending)}


def systems(lengths: np.ndarray, context: int, ranks: int) -> dict[str, common.Samples]:
    """The three ways, where the ranks are enough for the context."""
    degree, plain = context // CAPACITY, LLAMA_2_7B.cost
    sample: dict[str, Any] = {"ours, mixed": [], "ours, all shared": [], "not shared": []}
    alone = make_plan("packing", lengths, capacity=context, ranks=ranks, accumulation=max(1, ACCUMULATION // degree))
    sample["not shared"] = [measured(alone, plain, SequenceCost(0.0, 0.0))]
    if degree > ranks:
        return {name: common.Samples(found, "" if found else f"{context:,} tokens do not fit into {ranks} devices")
                for name, found in sample.items() if found}  # fmt: skip
    price = exchange(degree)
    whole = replace(plain, per_token=plain.per_token + price * (1 - 1 / degree))
    shared = make_plan("packing", lengths, capacity=context, ranks=ranks // degree, accumulation=ACCUMULATION)
    shared = within_steps(shared, cost=whole, barrier=BARRIER)
    sample["ours, all shared"] = [measured(shared, whole, SequenceCost(price * (1 - 1 / degree), 0.0), degree)]
    cost, mixed = replace(plain, exchange=price), []
    for above in (CAPACITY, CAPACITY // 2, CAPACITY // 4):
        room: dict[str, Any] = {"capacity": CAPACITY, "ranks": ranks, "accumulation": ACCUMULATION}
        plan = make_plan("packing", lengths, share_above=above, degree=degree, **room)
        plan = within_steps(plan, cost=cost, barrier=BARRIER)
        mixed.append(measured(plan, cost, SequenceCost(0.0, 0.0, price)))
    sample["ours, mixed"] = [min(mixed, key=lambda found: found["time"])]
    return {name: common.Samples(found) for name, found in sample.items()}


def run() -> list[common.Row]:
    """Both mixtures in every context that the devices can hold, on 8, 32 and 64 ranks."""
    rows = []
    for mixture in (longalign, llama3):
        for name, context in CONTEXTS.items():
            lengths = mixture(context)
            for ranks in (8, 32, 64):
                case = f"{mixture.__name__}, {name}, {ranks} ranks"
                samples = systems(lengths, context, ranks)
                rows += common.rows_of(TARGET, case, samples, UNITS)
                for other in ("ours, all shared", "not shared"):
                    if "ours, mixed" in samples:
                        rows.append(common.ratio(TARGET, case, "time", samples, other, "ours, mixed", "computed"))
    return rows


def main() -> int:
    """Compute and show."""
    common.show(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
