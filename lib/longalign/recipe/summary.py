"""What a plan amounts to, in eight numbers that JSON takes and in lines for a terminal.

Counts, fill and bound are exact; the price of naming idle time without a device is that it comes from the cost model.
"""

import numpy as np

from longalign.recipe.balance import idle_bound
from longalign.recipe.batching import plan_naive
from longalign.recipe.cost import LLAMA_2_7B, Pace, SequenceCost, fill_share, idle_share, step_seconds
from longalign.recipe.packing import lower_bound
from longalign.recipe.plan import Plan


def summarize(plan: Plan, *, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> dict[str, int | float | None]:
    """What a plan amounts to, ready for JSON.

    packs: rows in all (M and K of single steps: `plan.sequences_with_targets`, `plan.packs`); fill: real tokens per
    position computed; idle: share of rank time spent waiting, by the cost model; idle_bound: the least idle share of
    any plan with the same samples in each step; speedup: how many times as fast as naive batching, a row at a time in
    another order, on as many ranks with about as many sequences a step, by the same model; bound: the fewest packs that
    any packing needs at the plan's capacity, None without one; steps: optimizer steps; sequences_per_step: mean M.

    >>> from longalign.recipe.batching import plan_packing
    >>> summary = summarize(plan_packing([2, 4, 3], capacity=9))
    >>> {name: summary[name] for name in ("packs", "fill", "idle", "idle_bound", "speedup")}
    {'packs': 1, 'fill': 1.0, 'idle': 0.0, 'idle_bound': 0.0, 'speedup': 1.0}
    """
    steps = len(plan.steps)
    return {
        "packs": sum(plan.packs(step) for step in plan.steps),
        "fill": fill_share(plan),
        "idle": idle_share(plan, cost=cost, barrier=barrier),
        "idle_bound": idle_bound(plan, cost=cost, barrier=barrier),
        "speedup": _speedup(plan, cost, barrier),
        "bound": None if plan.capacity is None else lower_bound(plan.lengths, plan.capacity),
        "steps": steps,
        "sequences_per_step": int(np.count_nonzero(plan.target_counts)) / steps if steps else 0.0,
    }


def format_summary(summary: dict[str, int | float | None]) -> str:
    """The summary as lines for a terminal.

    >>> from longalign.recipe.batching import plan_packing
    >>> print(format_summary(summarize(plan_packing([2, 4, 3], capacity=7))))
    packs                         2   (provable minimum 2)
    fill                    64.29 %   of the computed positions hold a token
    idle                     0.00 %   of the ranks' time, by the cost model (these steps: at least 0.00 %)
    speed-up                   1.00   times naive batching, by the cost model
    optimizer steps               2
    sequences per step         1.50   (mean)
    """
    bound = "" if summary["bound"] is None else f"   (provable minimum {summary['bound']:,})"
    return "\n".join((
        f"packs              {summary['packs']:12,}{bound}",
        f"fill               {100 * summary['fill']:10.2f} %   of the computed positions hold a token",
        f"idle               {100 * summary['idle']:10.2f} %   of the ranks' time, by the cost model "
        f"(these steps: at least {100 * summary['idle_bound']:.2f} %)",
        f"speed-up           {summary['speedup']:12.2f}   times naive batching, by the cost model",
        f"optimizer steps    {summary['steps']:12,}",
        f"sequences per step {summary['sequences_per_step']:12.2f}   (mean)",
    ))  # fmt: skip


def _speedup(plan: Plan, cost: SequenceCost, barrier: str) -> float:
    """1.0 for an empty plan."""
    per_rank = len(plan.lengths) / max(1, len(plan.steps)) / plan.ranks
    naive = plan_naive(plan.lengths, ranks=plan.ranks, accumulation=max(1, round(per_rank)))
    pace = Pace(cost.per_token, cost.per_pair, per_micro_batch=0.0, per_step=0.0)
    theirs, ours = (float(step_seconds(one, pace, barrier=barrier).sum()) for one in (naive, plan))
    return theirs / ours if ours else 1.0
