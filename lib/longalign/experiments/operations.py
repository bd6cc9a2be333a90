"""What one training step of a Llama-like decoder demands: operations, bytes moved and bytes held, counted exactly.

Counted is a step in fp32 on one device: packs through block-causal attention, the loss at target tokens alone, AdamW.
Operations are those of the matrix products and of attention; bytes moved are what these read and write once each, with
the optimizer's; bytes held are what lies in memory when the backward pass begins. Seconds come from a fitted pace
(`longalign.recipe.cost`). The price: the traffic is a lower bound, as if norms, rotations and activations cost none
beside the products; buffers of kernels are not held; the last layer counts in full, of which
`longalign.recipe.last_layer` saves a part. Devices, ZeRO and bf16: `longalign.train.memory`.

T = tokens of a pack, N = its target tokens, D = hidden size, Q = heads x head size, K = key-value heads x head size,
I = intermediate size, V = vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longalign.recipe.array_types import Counts, as_counts
from longalign.recipe.cost import Pace, SequenceCost, decoder_cost

NUMBER = 4
"""Bytes of a number in fp32."""
CHUNK = 1024
"""Target tokens whose logits exist at a time (`longalign.recipe.loss`)."""


@dataclass(frozen=True)
class Decoder:
    """Shape of a Llama-like decoder: `heads` of queries, `key_value_heads` of keys and values, tied embeddings or not.

    >>> Decoder(hidden_size=4096, layers=32, intermediate_size=11008, vocab_size=32000, heads=32, key_value_heads=32,
    ...         head_size=128).parameters                                                                # Llama-2-7B
    6738415616
    """

    hidden_size: int
    layers: int
    intermediate_size: int
    vocab_size: int
    heads: int
    key_value_heads: int
    head_size: int
    tied: bool = False

    @property
    def query_size(self) -> int:
        """Q, features of the queries of all heads."""
        return self.heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """K, features of the keys (and of the values) of all their heads."""
        return self.key_value_heads * self.head_size

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        d, q, k, i = self.hidden_size, self.query_size, self.key_value_size, self.intermediate_size
        return (d, q), (d, k), (d, k), (q, d), (d, i), (d, i), (i, d)

    @property
    def parameters(self) -> int:
        """Trained numbers: matrices, two norms a layer and the last one, the embeddings once or twice."""
        layer = sum(inputs * outputs for inputs, outputs in self.matrices) + 2 * self.hidden_size
        embeddings = self.hidden_size * self.vocab_size * (1 if self.tied else 2)
        return self.layers * layer + self.hidden_size + embeddings

    @property
    def sequence_cost(self) -> SequenceCost:
        """FLOPs of a sequence in all layers, without the output head."""
        return decoder_cost(
            hidden_size=self.hidden_size, layers=self.layers, intermediate_size=self.intermediate_size, vocab_size=0,
            key_value_size=self.key_value_size, query_size=self.query_size,
        )  # fmt: skip


@dataclass(frozen=True)
class Demand:
    """One optimizer step. `flops` and `bytes_moved` add up over its micro-batches, bytes held are those of the largest.

    `work` is (positions, pairs, micro-batches, 1), of which a fitted pace makes seconds.
    """

    flops: float
    bytes_moved: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    work: tuple[float, float, float, float]

    @property
    def bytes_held(self) -> int:
        """Weights, gradients, both moments of AdamW, activations, and what the loss keeps."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss

    def seconds(self, pace: Pace) -> float:
        """Seconds of the step on a process of this pace."""
        return float(pace(np.array([self.work]))[0])


def demand(decoder: Decoder, packs: Sequence[Counts], targets: Sequence[int] | None = None) -> Demand:
    """What a step asks for whose micro-batches are `packs`, each a list of the lengths of its sequences.

    A padded micro-batch is one of equal lengths. A causal kernel computes half of the pairs, L^2 / 2 of a sequence.

    Args:
        packs: tokens per sequence, one list for each micro-batch.
        targets: target tokens N of each pack; by default all but the first of every sequence.

    Raises:
        ValueError: not one number of targets for each pack, or more than its tokens.

    >>> tiny = Decoder(hidden_size=1, layers=1, intermediate_size=1, vocab_size=1, heads=1, key_value_heads=1,
    ...                head_size=1)
    >>> step = demand(tiny, [[2, 4, 3]])  # 9 tokens x 7 weights, 6 targets x 1 weight, 29 pairs
    >>> step.flops == 6 * 9 * 7 + 6 * 6 * 1 + 6 * 29, step.work
    (True, (9.0, 29.0, 1.0, 1.0))
    >>> step.weights, step.optimizer  # 7 of matrices, 3 of norms, 2 of embeddings, at 4 bytes; two moments of each
    (48, 96)
    """
    packs = [as_counts(lengths) for lengths in packs]
    tokens = [int(lengths.sum()) for lengths in packs]
    given = [int(np.maximum(lengths - 1, 0).sum()) for lengths in packs] if targets is None else list(targets)
    if len(given) != len(packs) or any(n > total for n, total in zip(given, tokens, strict=True)):
        raise ValueError(f"targets {given} do not fit packs of {tokens} tokens")
    parts = list(zip(tokens, given, strict=True))
    head, pairs = decoder.hidden_size * decoder.vocab_size, float(sum((lengths**2).sum() for lengths in packs))
    activations, loss = max(((_kept(decoder, t), _loss(decoder, n)) for t, n in parts), key=sum, default=(0, 0))
    moved = sum(_moved(decoder, t, n) for t, n in parts) + 3 * max(0, len(packs) - 1) * decoder.parameters
    states = NUMBER * decoder.parameters
    return Demand(
        flops=float(sum(decoder.sequence_cost(lengths).sum() for lengths in packs)) + 6.0 * head * sum(given),
        bytes_moved=NUMBER * moved + 7 * states,
        weights=states, gradients=states, optimizer=2 * states,
        activations=NUMBER * activations, loss=NUMBER * loss,
        work=(float(sum(tokens)), pairs, float(len(packs)), 1.0),
    )  # fmt: skip


def _moved(decoder: Decoder, tokens: int, targets: int) -> int:
    """Numbers that the products and attention of a pack read and write.

    A product of T x inputs with a matrix reads both and writes T x outputs; its two gradients move as much each.
    Attention reads Q, K, K and writes Q, and backward reads these with the gradient of the last and writes three.
    """
    layer = sum(3 * (tokens * (inputs + outputs) + inputs * outputs) for inputs, outputs in decoder.matrices)
    layer += tokens * (6 * decoder.query_size + 6 * decoder.key_value_size + 2 * decoder.heads)  # and its normalisers
    d, v = decoder.hidden_size, decoder.vocab_size
    return decoder.layers * layer + 3 * (targets * (d + v) + d * v)


def _kept(decoder: Decoder, tokens: int) -> int:
    """Numbers that autograd keeps of a pack: inputs of every product and norm, what SiLU and attention take and give.

    A norm: what comes in, what it makes of it, what goes out, and a number; attention: Q, K, K, Q, once more Q where
    sequences are put together, a number a head; the MLP four times I. Beside the layers: the last norm, the rotation's
    cosines and sines, and the tokens (8 bytes).
    """
    d, q, k = decoder.hidden_size, decoder.query_size, decoder.key_value_size
    layer = 2 * (3 * d + 1) + 3 * q + 2 * k + decoder.heads + 4 * decoder.intermediate_size
    return tokens * (decoder.layers * layer + 2 * d + 1 + 2 * decoder.head_size + 2)


def _loss(decoder: Decoder, targets: int) -> int:
    """Numbers that the loss keeps, the gradients of the hidden states and of the vocabulary's matrix, and one chunk."""
    d, v = decoder.hidden_size, decoder.vocab_size
    return targets * d + d * v + min(targets, CHUNK) * v
