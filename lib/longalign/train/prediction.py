"""How long a plan takes on real devices: from FLOPs, from the bytes that ranks exchange, and from where they wait.

Not counted are what ZeRO sends, kernels that are slower on short slices, and disks: nothing here is a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from longalign.recipe.batching import Plan
from longalign.recipe.cost import A800, SequenceCost, micro_batch_costs, slowest
from longalign.train.memory import ModelShape
from longalign.train.parallelism import Parallelism

SENT_PER_SECOND = 200e9
"""Bytes that a device sends to those of its node: half of the 400 GB/s, both ways, of an A800's NVLink (data sheet)."""
SENT_AGAIN = 3 / 2
"""With gradient checkpointing the forward pass is done twice; forward and backward send the same bytes."""


@dataclass(frozen=True)
class Pace:
    """What a device does in a second: FLOPs that it achieves, and bytes that it sends.

    `attention` is FLOPs achieved in the attention of a sequence that one rank has, with all heads, and
    `shared_attention` by degree in that of one that ranks share, each with some heads; without them they are as all
    others. `card` is where they were measured (`benchmarks/gpu/sharing.py`), "" where nothing was.
    """

    flops: float = 0.4 * A800 * 1e12
    sent: float = SENT_PER_SECOND
    attention: float | None = None
    shared_attention: Mapping[int, float] = field(default_factory=dict)
    card: str = ""

    def attention_at(self, degree: int) -> float:
        """FLOPs achieved in attention that so many ranks share, by the nearest degree that was measured.

        >>> pace = Pace(flops=4.0, attention=3.0, shared_attention={2: 2.5, 8: 2.0})
        >>> pace.attention_at(1), pace.attention_at(4), pace.attention_at(8), Pace(flops=4.0).attention_at(8)
        (3.0, 2.5, 2.0, 4.0)
        """
        rates = {1: self.attention or self.flops, **self.shared_attention}
        return rates[min(rates, key=lambda measured: abs(measured - degree))]


@dataclass(frozen=True)
class Prediction:
    """Hours of all plans, and the shares of the ranks' time in which they wait, and in which they send."""

    hours: float
    idle: float
    sending: float


def predict(plans: Sequence[Plan], shape: ModelShape, engine: Parallelism, pace: Pace) -> Prediction:
    """Hours, waiting and sending of plans that were made for the engine.

    Ranks that share every pack divide its work. Two ranks of 1 FLOP/s, one with lengths 2 and 3, the other with 4:

    >>> from longalign.recipe.batching import plan_naive
    >>> shape = ModelShape(1, layers=1, intermediate_size=0, heads=1, key_value_heads=1, head_size=1)
    >>> plan = plan_naive([2, 4, 3], ranks=2, accumulation=2, seed=1)            # 6 x (4 L + L^2) FLOPs: 72, 126; 192
    >>> found = predict([plan], shape, Parallelism(ranks=2, zero=1), Pace(flops=1.0))
    >>> round(found.hours * 3600), round(found.idle, 4), found.sending
    (198, 0.0152, 0.0)
    """
    cost, sent = costs(shape, engine, pace)
    found = [micro_batch_costs(plan, cost) for plan in plans]
    walls = sum(float(slowest(each, engine.barrier).sum()) for each in found)
    sending = sum(float(micro_batch_costs(plan, sent).sum()) for plan in plans)
    whole = plans[0].ranks * walls or 1.0
    hours = walls / engine.slices / pace.flops / 3600
    return Prediction(hours, 1 - sum(float(each.sum()) for each in found) / whole, sending / whole)


def costs(shape: ModelShape, engine: Parallelism, pace: Pace) -> tuple[SequenceCost, SequenceCost]:
    """Of a sequence in all, in FLOPs at `pace.flops`, and of what is sent of it alone.

    With gradient checkpointing the forward pass is done twice. Lengths 2, 4, 3 and LoRA, which trains 2 of 10 weights:

    >>> shape = ModelShape(1, 1, 0, heads=1, key_value_heads=1, head_size=1, vocab_size=6, trained=2)
    >>> for checkpoints in (False, True):                     # 4 x 10 + 2 x 2 FLOPs a token, and 2 x 10 more
    ...     engine = Parallelism(zero=1, gradient_checkpointing=checkpoints)
    ...     costs(shape, engine, Pace(flops=1.0))[0]([2, 4, 3])
    array([112., 272., 186.])
    array([160., 384., 264.])
    """
    degree, once = engine.sequence_parallel, shape.cost
    again = shape.forward if engine.gradient_checkpointing else SequenceCost(0.0, 0.0)
    pairs = once.per_pair + again.per_pair
    alone, together = (pairs * pace.flops / pace.attention_at(ranks) for ranks in (1, degree))
    cost = SequenceCost(once.per_token + again.per_token, alone, shared_per_pair=together)
    if degree == 1:
        return cost, SequenceCost(0.0, 0.0)
    exchange = exchange_cost(shape, degree, pace)
    exchange *= SENT_AGAIN if engine.gradient_checkpointing else 1
    cost, sent = replace(cost, exchange=exchange), SequenceCost(0.0, 0.0, exchange)
    # where every pack is shared the plan knows of no ranks that share
    return (cost, sent) if engine.share_above is not None else (cost.together(degree), sent.together(degree))


def exchange_cost(shape: ModelShape, degree: int, pace: Pace) -> float:
    """FLOPs that a device would do in the time in which a shared token's states are sent, were all of them.

    In every layer queries, keys, values and outputs are exchanged, 2 bytes a number, forward and backward (DeepSpeed-
    Ulysses, arXiv 2309.14509, section 3.2: 4 N h / P for N tokens of h features on P ranks); grouped keys and values
    are repeated where there are fewer of them than ranks (`longalign.train.sequence_parallel.repeats_of`).
    """
    from longalign.train.sequence_parallel import repeats_of  # with torch, which pages that name a `Pace` do without

    repeats = repeats_of(shape.heads, shape.key_value_heads, degree)
    numbers = shape.layers * 2 * (shape.query_size + repeats * shape.key_value_size)
    return 2 * 2 * numbers / pace.sent * pace.flops
