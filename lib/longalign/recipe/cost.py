"""What a plan costs on parallel ranks, by a model: an estimate, never a measurement.

A sequence of L tokens costs a L + b L^2: every token passes the weights once, every pair of tokens meets in attention.
Counted in floating-point operations (`LLAMA_2_7B`), only shares between plans mean something; a pace fitted to measured
step times (`longalign.experiments.operations`) gives seconds. Kernels, memory and communication are in neither.
"""

from dataclasses import dataclass

import numpy as np

from longalign.common.array_types import Counts, Float, as_counts
from longalign.recipe.batching import MicroBatch, Plan

A800 = 312.0
"""TFLOP/s of the paper's devices in bf16, by their data sheet."""


@dataclass(frozen=True)
class SequenceCost:
    """Cost of one sequence alone in its attention block, `per_token * L + per_pair * L^2`, in FLOPs or any other unit.

    >>> SequenceCost(per_token=10.0, per_pair=1.0)([2, 4, 3])
    array([24., 56., 39.])
    """

    per_token: float
    per_pair: float
    exchange: float = 0.0
    """Of a token that n ranks share, in the same unit: n - 1 of n parts of it are sent (0: not counted)."""
    shared_per_pair: float | None = None
    """`per_pair` of a sequence that ranks share, where their kernels are not as fast for it (None: they are)."""

    def __call__(self, lengths: Counts) -> Float[np.ndarray, " sequences"]:
        """Cost per sequence, shape [sequences]."""
        lengths = as_counts(lengths).astype(np.float64)
        return self.per_token * lengths + self.per_pair * lengths**2

    def together(self, ranks: int) -> "SequenceCost":
        """Cost of a sequence to all ranks that share it, what they send included.

        >>> SequenceCost(per_token=10.0, per_pair=1.0, exchange=4.0).together(2)([2, 4, 3])
        array([28., 64., 45.])
        """
        per_pair = self.per_pair if self.shared_per_pair is None else self.shared_per_pair
        return SequenceCost(self.per_token + self.exchange * (1 - 1 / ranks), per_pair)


LLAMA_2_7B = SequenceCost(per_token=6.0 * 6_607_077_376, per_pair=6.0 * 32 * 4096)
"""FLOPs of a training pass of Llama-2-7B: 6 per token for each weight but the embedding's, 6 per pair for each feature
of the queries in 32 layers. Those of any model, with their sources: `longalign.train.memory.ModelShape.cost`."""


def micro_batch_cost(plan: Plan, micro_batch: MicroBatch, alone: Float[np.ndarray, " sequences"]) -> float:
    """Cost of one micro-batch, given what each sequence costs `alone`.

    A pack costs the sum over its sequences (attention is block-diagonal, the empty end of a pack is not computed); a
    padded row costs as much as the longest row of its micro-batch; a filler costs nothing.
    """
    if plan.method == "packing":
        return float(sum(alone[sequence] for row in micro_batch for sequence in row))
    return float(len(micro_batch) * max((alone[row[0]] for row in micro_batch), default=0.0))


def micro_batch_costs(plan: Plan, cost: SequenceCost = LLAMA_2_7B) -> Float[np.ndarray, "steps ranks accumulation"]:
    """`micro_batch_cost` of every micro-batch, shape [steps, ranks, accumulation]; ranks that share one divide it."""
    alone = cost(plan.lengths)
    planned = (batch for step in plan.steps for rank in step.micro_batches for batch in rank)
    costs = np.array([micro_batch_cost(plan, batch, alone) for batch in planned], dtype=np.float64)
    costs = costs.reshape(len(plan.steps), plan.ranks // plan.degree, plan.degree, plan.accumulation)
    together = cost.together(plan.degree)(plan.lengths)
    for number, step in enumerate(plan.steps):
        for group, batches in enumerate(plan.shared_micro_batches(step)):
            whole = [micro_batch_cost(plan, batch, together) for batch in batches]
            costs[number, group, :, : len(batches)] = np.array(whole) / plan.degree
    return costs.reshape(len(plan.steps), plan.ranks, plan.accumulation)


def idle_share(plan: Plan, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> float:
    """Share of the ranks' time spent waiting: 1 - work / (ranks x sum over the barriers of the largest work of a rank).

    `barrier`: `slowest`. Rank 0 passes lengths 2 and 3, rank 1 passes 4 and nothing, at 1 per token: with a barrier at
    the step, rank 1 waits 1 of 2 x 5; with one at each micro-step, the maxima are 4 and 3, and 5 of 2 x 7 are idle.
    """
    costs = micro_batch_costs(plan, cost)
    wall = slowest(costs, barrier).sum()
    return float(1 - costs.sum() / (plan.ranks * wall)) if wall else 0.0


def slowest(costs: Float[np.ndarray, "steps ranks accumulation"], barrier: str) -> Float[np.ndarray, " steps"]:
    """What each step takes, of micro-batches that cost so much, when ranks wait for the slowest at each `barrier`.

    "step": at the gradient exchange of an optimizer step (plain data parallelism), the maximum over ranks of the sum
    over micro-steps; "micro_step": in every micro-batch (from ZeRO-2 on, `longalign.train.parallelism.barrier_of`), the
    sum of the maxima. Raises ValueError for another barrier.

    >>> times = np.array([[[2.0, 3.0], [4.0, 0.0]]])           # rank 0 passes lengths 2 and 3, rank 1 passes 4
    >>> slowest(times, "step").tolist(), slowest(times, "micro_step").tolist()
    ([5.0], [7.0])
    """
    if barrier not in ("step", "micro_step"):
        raise ValueError(f'barrier must be "step" or "micro_step", not {barrier!r}')
    return costs.sum(axis=2).max(axis=1) if barrier == "step" else costs.max(axis=1).sum(axis=1)


def fill_share(plan: Plan) -> float:
    """Real tokens per position computed, in [0, 1]; 1.0 for an empty plan.

    A pack counts with its whole capacity, a padded row with the longest length of its micro-batch, a filler not at all.
    """
    if plan.method == "packing":
        shared = sum(len(batch) for step in plan.steps for group in plan.shared_micro_batches(step) for batch in group)
        positions = plan.pack_capacity * (sum(map(plan.packs, plan.steps)) + (plan.degree - 1) * shared)
    else:
        positions = int(micro_batch_costs(plan, SequenceCost(1.0, 0.0)).sum())
    return int(plan.lengths.sum()) / positions if positions else 1.0
