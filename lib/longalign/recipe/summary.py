"""What a plan amounts to: counts, fill and bound are exact; idle time and speed-up come from the cost model."""

from typing import Any

import numpy as np

from longalign.recipe.balance import idle_bound
from longalign.recipe.batching import Plan, plan_naive
from longalign.recipe.cost import LLAMA_2_7B, SequenceCost, fill_share, idle_share, micro_batch_costs, slowest
from longalign.recipe.mixed import is_shared
from longalign.recipe.packing import lower_bound


def summarize(plan: Plan, *, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> dict[str, Any]:
    """What a plan amounts to, ready for JSON.

    packs: rows in all (M and K of single steps: `plan.sequences_with_targets`, `plan.packs`); fill: real tokens per
    position computed; idle: share of rank time spent waiting, by the cost model; idle_bound: the least idle share of
    any plan with the same samples in each step; speedup: how many times as fast as naive batching, a row at a time in
    another order, on as many ranks with about as many sequences a step, by the same model; bound: the fewest packs that
    any packing needs at the plan's capacity (where ranks share some: those of both kinds), None without one; steps:
    optimizer steps; sequences_per_step: mean M.

    >>> from longalign.recipe.batching import plan_packing
    >>> summary = summarize(plan_packing([2, 4, 3], capacity=9))
    >>> {name: summary[name] for name in ("packs", "fill", "idle", "idle_bound", "speedup")}
    {'packs': 1, 'fill': 1.0, 'idle': 0.0, 'idle_bound': 0.0, 'speedup': 1.0}
    """
    steps = len(plan.steps)
    return {
        "packs": sum(map(plan.packs, plan.steps)),
        "fill": fill_share(plan),
        "idle": idle_share(plan, cost=cost, barrier=barrier),
        "idle_bound": idle_bound(plan, cost=cost, barrier=barrier),
        "speedup": _speedup(plan, cost, barrier),
        "bound": None if plan.capacity is None else _fewest(plan),
        "steps": steps,
        "sequences_per_step": int(np.count_nonzero(plan.target_counts)) / steps if steps else 0.0,
    }


def _fewest(plan: Plan) -> int:
    shared = is_shared(plan)
    kinds = ((~shared, 1), (shared, plan.degree))
    return sum(lower_bound(plan.lengths[own], plan.pack_capacity * times) for own, times in kinds)


def _speedup(plan: Plan, cost: SequenceCost, barrier: str) -> float:
    """1.0 for an empty plan."""
    per_rank = len(plan.lengths) / max(1, len(plan.steps)) / plan.ranks
    naive = plan_naive(plan.lengths, ranks=plan.ranks, accumulation=max(1, round(per_rank)))
    theirs, ours = (float(slowest(micro_batch_costs(one, cost), barrier).sum()) for one in (naive, plan))
    return theirs / ours if ours else 1.0
