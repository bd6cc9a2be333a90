"""Idle share of plans by the cost model, against the bound, on the lengths that planning is measured on.

10,000 sequences, packs of 65,536 tokens, costs of Llama-2-7B, 8 and 64 ranks; next fit, as the paper packs, is where
`longalign.recipe.balance` starts from. Medians over three draws of the lengths; M is the number of sequences in a step,
its mean and its standard deviation over the steps. No device is timed: idle shares are computed, not measured.

    python -m benchmarks.balance
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.planning import CAPACITY, check, mixture
from longalign.recipe.balance import BALANCES, idle_bound
from longalign.recipe.batching import Plan, make_plan
from longalign.recipe.cost import fill_share, idle_share

TARGET = "balance"
SEQUENCES, SEEDS = 10_000, range(3)
UNITS = {"idle": "share", "bound": "share", "fill": "share", "steps": "steps", "M": "sequences",
         "M, deviation": "sequences", "time": "CPU s"}  # fmt: skip
NAMES = {"steps": "ours, same samples a step", "fill": "ours, steps 98 % full", "compose": "ours, steps of like costs"}
PACKED = {
    "8 packs a rank, barrier at the step": (8, "step"), "8 packs a rank, barrier at each micro-step": (8, "micro_step"),
    "1 pack a rank": (1, "step"),
}  # fmt: skip


def measured(make: Callable[[int], Plan], barrier: str) -> common.Samples:
    """One plan for each draw of the lengths; packs are checked before they count."""
    rounds = []
    for seed in SEEDS:
        began = time.process_time()
        plan = make(seed)
        taken = time.process_time() - began
        if plan.method == "packing":
            check([row for step in plan.steps for row in step.rows], plan.lengths, CAPACITY)
        held = [plan.sequences_with_targets(step) for step in plan.steps]
        rounds.append({
            "idle": idle_share(plan, barrier=barrier), "bound": idle_bound(plan, barrier=barrier),
            "fill": fill_share(plan), "steps": len(plan.steps), "M": statistics.fmean(held),
            "M, deviation": float(np.std(held)), "time": taken,
        })  # fmt: skip
    return common.Samples(rounds)


def _packed(lengths: dict[int, np.ndarray], seed: int, **settings: Any) -> Plan:
    return make_plan("packing", lengths[seed], seed=seed, **settings)


def _balanced(lengths: dict[int, np.ndarray], how: str, barrier: str, seed: int, **settings: Any) -> Plan:
    return BALANCES[how](_packed(lengths, seed, **settings), barrier=barrier)


def run() -> list[common.Row]:
    """Every way to balance, on 8 and 64 ranks."""
    rows = []
    lengths = {seed: mixture(SEQUENCES, seed) for seed in SEEDS}
    for ranks in (8, 64):
        for name, (accumulation, barrier) in PACKED.items():
            settings = {"capacity": CAPACITY, "ranks": ranks, "accumulation": accumulation}
            samples = {}
            for rule in ("next_fit", "best_fit"):
                make = partial(_packed, lengths, algorithm=rule, **settings)
                samples[rule.replace("_", " ")] = measured(make, barrier)
            for how, system in NAMES.items():
                samples[system] = measured(partial(_balanced, lengths, how, barrier, **settings), barrier)
            rows += common.rows_of(TARGET, f"{ranks} ranks, {name}", samples, UNITS)
        sort = measured(lambda seed, ranks=ranks: make_plan("sorted", lengths[seed], ranks=ranks, seed=seed), "step")
        naive = measured(
            lambda seed, ranks=ranks: make_plan("naive", lengths[seed], ranks=ranks, accumulation=12, seed=seed), "step"
        )
        padded = {"sorted, a group of all ranks": sort, "naive, accumulation 12": naive}
        rows += common.rows_of(TARGET, f"{ranks} ranks, rows", padded, UNITS)
    return rows


def main() -> int:
    """Compute, show and save."""
    return common.finish(TARGET, run())


if __name__ == "__main__":
    sys.exit(main())
