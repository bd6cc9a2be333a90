"""What a training will take of each device, before it is started: an estimate, never a measurement.

States of mixed-precision Adam are 16 bytes a parameter (ZeRO, arXiv 1910.02054, section 3.1), dealt to the ranks by
stage. Activations are what autograd keeps of a layer (`ModelShape.kept`; arXiv 2205.05198, equation 2, counts another
MLP), in one layer twice its inner width more while gradients pass, and with checkpoints of the other layers only what
they begin with. The loss holds one chunk of logits and the gradient of the vocabulary's matrix. Buffers of
communication, fragments and kernels' own memory are not in it; take a tenth more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from longalign.recipe.cost import SequenceCost
from longalign.train.parallelism import Parallelism

CHUNK = 1024
"""Target tokens whose logits exist at a time (`longalign.recipe.loss`)."""
GIB = 2**30
SPARE = 0.9
"""The share of a device's memory that may be planned: what is not in the estimate takes about a tenth."""


@dataclass(frozen=True)
class ModelShape:
    """Shape of a Llama-like decoder, the only description of one: widths in features, embeddings tied or not.

    `counted` are the weights of a model that is built otherwise, as it holds them, and `trained` those of them that are
    trained, if not all. `chunked` says that the loss can be taken in chunks, as it can unless the model changes its
    logits. Without a vocabulary the shape is that of the layers alone.

    >>> llama = ModelShape(4096, layers=32, intermediate_size=11008, vocab_size=32000, heads=32, key_value_heads=32,
    ...                    head_size=128)
    >>> llama.parameters, llama.cost.per_token / 6, llama.cost.per_pair                                     # Llama-2-7B
    (6738415616, 6607077376.0, 786432.0)
    """

    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    head_size: int
    vocab_size: int = 0
    tied: bool = False
    counted: int | None = None
    trained: int | None = None
    chunked: bool = True

    @property
    def query_size(self) -> int:
        """Features of the queries of all heads."""
        return self.heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """Features of the keys (and of the values) of all their heads."""
        return self.key_value_heads * self.head_size

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        d, q, k, i = self.hidden_size, self.query_size, self.key_value_size, self.intermediate_size
        return (d, q), (d, k), (d, k), (q, d), (d, i), (d, i), (i, d)

    @property
    def parameters(self) -> int:
        """Numbers that the model holds: matrices, two norms a layer and the last one, the embeddings once or twice."""
        layer = sum(inputs * outputs for inputs, outputs in self.matrices) + 2 * self.hidden_size
        embeddings = self.hidden_size * self.vocab_size * (1 if self.tied else 2)
        return self.counted or self.layers * layer + self.hidden_size + embeddings

    def kept(self, size: int) -> int:
        """Bytes that autograd keeps of a token in a layer, in numbers of 2 (bf16) or 4 bytes.

        A norm keeps what comes in, in fp32, what it makes of it, what goes out, and a number; attention queries, keys,
        values and its output, and a number a head; the MLP four times its inner width.

        >>> llama = ModelShape(4096, layers=32, intermediate_size=11008, heads=32, key_value_heads=32, head_size=128)
        >>> llama.kept(2) / llama.hidden_size                                 # 34 by arXiv 2205.05198, for GPT's MLP
        45.533203125
        """
        norms = 2 * (4 * self.hidden_size + 2 * size * self.hidden_size + 4)
        attention = size * (2 * self.query_size + 2 * self.key_value_size) + 4 * self.heads
        return norms + attention + size * 4 * self.intermediate_size

    @property
    def weights(self) -> int:
        """Those that a token is multiplied with: the output head's count, embedding look-ups and norms do not."""
        layer = sum(inputs * outputs for inputs, outputs in self.matrices)
        return self.layers * layer + self.hidden_size * self.vocab_size

    @property
    def forward(self) -> SequenceCost:
        """FLOPs of a forward pass, all tokens being targets: a third of `cost`, where all weights are trained."""
        return SequenceCost(per_token=2.0 * self.weights, per_pair=2.0 * self.layers * self.query_size)

    @property
    def cost(self) -> SequenceCost:
        """FLOPs of one training pass (forward and backward), all tokens being targets.

        6 FLOPs per weight and token, and 12 x layers x query size per pair of tokens (PaLM, arXiv 2204.02311, appendix
        B), halved because a causal kernel computes one half of the pairs (FlashAttention-2, arXiv 2307.08691). Of a
        frozen weight no gradient is computed: 4 FLOPs.
        """
        trained = self.weights if self.trained is None else min(self.trained, self.weights)
        return SequenceCost(4.0 * self.weights + 2.0 * trained, per_pair=6.0 * self.layers * self.query_size)


@dataclass(frozen=True)
class Footprint:
    """GiB on each device, and on each node's memory what is offloaded."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    node: float = 0.0

    @property
    def device(self) -> float:
        """GiB on a device in all."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits


def footprint(shape: ModelShape, engine: Parallelism, *, positions: int, targets: int) -> Footprint:
    """The states and activations of a training whose largest micro-batch has so many `positions` and `targets`, or
    largest slice where only some are shared.

    ZeRO's own example, 7.5 billion parameters on 64 devices, whose states take 120, 31.4, 16.6 and 1.9 GB (10^9):

    >>> llama = dict(intermediate_size=11008, heads=32, key_value_heads=32, head_size=128)
    >>> example = ModelShape(4096, layers=32, vocab_size=32_000, **llama, counted=7_500_000_000)
    >>> for zero in range(4):
    ...     states = footprint(example, Parallelism(ranks=64, zero=zero, bf16=True), positions=0, targets=0)
    ...     print(round(states.device * GIB / 1e9, 1))
    120.0
    31.4
    16.6
    1.9
    """
    # without DeepSpeed bf16 is a matter of the kernels: weights, gradients and states stay fp32
    dealt, rounded = engine.world_size, engine.bf16 and engine.zero is not None
    size = 2 if rounded else 4
    stage, trained = engine.zero or 0, shape.parameters if shape.trained is None else shape.trained
    parameters = size * shape.parameters / (dealt if stage == 3 else 1)
    gradients = size * trained / (dealt if stage >= 2 else 1)
    optimizer = (12 if rounded else 8) * trained / (dealt if stage >= 1 else 1)
    node = 0.0
    if engine.offload != "none":
        node, optimizer = node + optimizer * engine.ranks, 0.0
    if engine.offload == "all":
        node, parameters, gradients = node + (parameters + gradients) * engine.ranks, 0.0, 0.0
    number, tokens = 2 if engine.bf16 else 4, -(-positions // engine.slices)
    kept, begun = shape.kept(number), number * shape.hidden_size
    layers = kept + begun * shape.layers if engine.gradient_checkpointing else kept * shape.layers
    activations = tokens * (layers + 2 * number * shape.intermediate_size)
    logits = _loss(shape, min(targets, tokens), number)
    return Footprint(*(part / GIB for part in (parameters, gradients, optimizer, activations, logits, node)))


def _loss(shape: ModelShape, targets: int, number: int) -> int:
    """Bytes that the loss takes at its largest: all targets may lie in one slice."""
    if not shape.chunked:
        return 16 * targets * shape.vocab_size  # as the model gives them, in fp32, their log-softmax, its gradient
    # logits and their gradient, in fp32 and as the products take them; the gradient of the vocabulary's matrix in fp32,
    # a chunk's part of it, and what is handed on; and that of the hidden states
    wide = 8 if number == 2 else 4
    vocabulary = (wide * min(targets, CHUNK) + (8 if targets else 0) * shape.hidden_size) * shape.vocab_size
    return vocabulary + number * targets * shape.hidden_size


def smallest_that_fits(
    shape: ModelShape, engine: Parallelism, *, positions: int, targets: int, device: float
) -> Parallelism | None:
    """The first engine on the same devices that needs at most `device` GiB of each, less communication first.

    None where none does: then take more devices or a smaller capacity.
    """
    offers = [replace(engine, zero=zero, offload=offload, gradient_checkpointing=checkpointing)
              for offload in ("none", "optimizer", "all") for checkpointing in (False, True) for zero in range(4)
              if (offload != "optimizer" or zero >= 1) and (offload != "all" or zero == 3)]  # fmt: skip
    sizes = {"positions": positions, "targets": targets}
    return next((offer for offer in offers if footprint(shape, offer, **sizes).device <= device), None)


def free_memory() -> int:
    """Bytes that this machine can still give; where it does not say, as many as are asked for."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2**63
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 2**63)
