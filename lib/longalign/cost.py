"""What a plan costs on parallel ranks, by a model of floating-point operations: an estimate, never a measurement.

A sequence of L tokens costs a L + b L^2: every token passes the weights once, every pair of tokens meets in attention.
Times of real devices differ (kernels, memory, communication); shares between plans are what the model is good for.
"""

from dataclasses import dataclass

import numpy as np

from longalign.plan import MicroBatch, Plan
from longalign.shapes import Counts, Float, as_counts


@dataclass(frozen=True)
class SequenceCost:
    """Cost of one sequence alone in its attention block, `per_token * L + per_pair * L^2`, in FLOPs or any other unit.

    >>> SequenceCost(per_token=10.0, per_pair=1.0)([2, 4, 3])
    array([24., 56., 39.])
    """

    per_token: float
    per_pair: float

    def __call__(self, lengths: Counts) -> Float[np.ndarray, " sequences"]:
        """Cost per sequence, shape [sequences]."""
        lengths = as_counts(lengths).astype(np.float64)
        return self.per_token * lengths + self.per_pair * lengths**2


def decoder_cost(
    *, hidden_size: int, layers: int, intermediate_size: int, vocab_size: int, key_value_size: int | None = None
) -> SequenceCost:
    """FLOPs of one training pass (forward and backward) of a Llama-like decoder.

    6 FLOPs per weight and token, and 12 x layers x hidden_size per pair of tokens (PaLM, arXiv 2204.02311, appendix
    B), halved because a causal kernel computes one half of the pairs (FlashAttention-2, arXiv 2307.08691). Weights:
    four attention projections and three of a gated MLP per layer, and the output head; embedding look-ups and norms are
    left out.

    Args:
        hidden_size, intermediate_size, vocab_size: widths in numbers of features.
        layers: number of layers.
        key_value_size: key-value heads x head size; by default hidden_size (multi-head attention).

    >>> cost = decoder_cost(hidden_size=1, layers=1, intermediate_size=1, vocab_size=1)
    >>> cost.per_token, cost.per_pair  # 6 x (4 + 3 + 1) weights
    (48.0, 6.0)
    """
    key_value_size = hidden_size if key_value_size is None else key_value_size
    layer = hidden_size * (2 * hidden_size + 2 * key_value_size + 3 * intermediate_size)
    weights = layers * layer + hidden_size * vocab_size
    return SequenceCost(per_token=6.0 * weights, per_pair=6.0 * layers * hidden_size)


LLAMA_2_7B = decoder_cost(hidden_size=4096, layers=32, intermediate_size=11008, vocab_size=32000)


def micro_batch_costs(plan: Plan, cost: SequenceCost = LLAMA_2_7B) -> Float[np.ndarray, "steps ranks accumulation"]:
    """Cost of every micro-batch, shape [steps, ranks, accumulation].

    A pack costs the sum over its sequences (attention is block-diagonal, the empty end of a pack is not computed); a
    padded row costs as much as the longest row of its micro-batch; a filler costs nothing.
    """
    alone = cost(plan.lengths).tolist()

    def of(micro_batch: MicroBatch) -> float:
        if plan.method == "packing":
            return sum((alone[sequence] for row in micro_batch for sequence in row), start=0.0)
        return len(micro_batch) * max((alone[row[0]] for row in micro_batch), default=0.0)

    costs = [[[of(micro_batch) for micro_batch in rank] for rank in step.micro_batches] for step in plan.steps]
    return np.array(costs, dtype=np.float64).reshape(len(plan.steps), plan.ranks, plan.accumulation)


def idle_share(plan: Plan, cost: SequenceCost = LLAMA_2_7B, barrier: str = "step") -> float:
    """Share of the ranks' time spent waiting for the slowest rank, in [0, 1).

    It is 1 - work / (ranks x sum over the barriers of the largest work of a rank).

    Args:
        barrier: where ranks wait for each other: "step" at the gradient exchange of an optimizer step (plain data
            parallelism); "micro_step" in every micro-batch (ZeRO-3 gathers the weights layer by layer).

    Raises:
        ValueError: an unknown barrier.

    Worked example: rank 0 passes lengths 2 and 3, rank 1 passes 4 and nothing, at 1 per token: with a barrier at the
    step, rank 1 waits 1 of 2 x 5; with one at each micro-step, the maxima are 4 and 3, and 5 of 2 x 7 are idle.
    """
    if barrier not in ("step", "micro_step"):
        raise ValueError(f'barrier must be "step" or "micro_step", not {barrier!r}')
    costs = micro_batch_costs(plan, cost=cost)
    wall = (costs.sum(axis=2) if barrier == "step" else costs).max(axis=1).sum()
    return float(1 - costs.sum() / (plan.ranks * wall)) if wall else 0.0


def fill_share(plan: Plan) -> float:
    """Real tokens per position computed, in [0, 1]; 1.0 for an empty plan.

    A pack counts with its whole capacity, a padded row with the longest length of its micro-batch, a filler not at all.
    """
    tokens = int(plan.lengths.sum())
    if plan.method == "packing":
        positions = plan.capacity * sum(plan.packs(step) for step in plan.steps)
    else:
        lengths = plan.lengths.tolist()
        micro_batches = (batch for step in plan.steps for rank in step.micro_batches for batch in rank if batch)
        positions = sum(len(batch) * max(lengths[row[0]] for row in batch) for batch in micro_batches)
    return tokens / positions if positions else 1.0
