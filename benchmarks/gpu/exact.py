"""Stage a: packs give what separate sequences give, on this card, in bf16 and through its own kernels.

Lengths 1, 2, 8, 9, 4,095, 4,096 and an empty sequence, in two packs of one optimizer step; Llamas of two layers with
grouped heads of 64 and of 128 elements and random weights. Three computations of the same weights, which are bf16
numbers:
  oracle     fp32, a sequence at a time, stock sdpa, Equation 2 written out: the mean of the sequences' token means
  separate   bf16, a sequence at a time, stock sdpa, Equation 2 written out
  packed     bf16, packs through the collator and the library's attention, Equation 4 by `loss_weights`
Distances from the oracle, packed over separate, must be at most 2: of logits, of token losses, of the loss, of
gradients. Two negative controls, packs without boundaries and the weights of Equation 3, must be over 2.
The distance of a vector is the norm of the difference over the oracle's norm. That of a single number may be 0 by
chance, so the loss is held against the separate sequences' sum of weight x |difference of a token's loss|, and is no
part of the controls.

Then the loss by chunks (exact_loss.py) and the repository's tests that need a card (repository_tests.py).

Budget: 6 x parameters x tokens FLOPs for each bf16 computation, 16 times that for fp32 (a card's rate without tensor
cores), of the products 0.2 is taken to be reached; 35 s are for kernels that are loaded and the tests, which import
everything again. With heads of both sizes that is 2 s + 35 s.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import backends, exact_loss, repository_tests, rows, timing
from benchmarks.gpu.exact_loss import LARGEST, distance, over
from benchmarks.gpu.rows import Budget, Context, Row
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.attention import register_attention
from longalign.recipe.collators import PackedCollator
from longalign.recipe.loss import weighted_loss
from longalign.recipe.weights import eq3_weights, loss_weights

NAME = "exact"
PACKS = [[8, 4095, 2, 4096], [1, 9, 0]]
TINY_PACKS = [[8, 15, 2, 16], [1, 9, 0]]
HEAD_SIZES = (64, 128)
OVER_FP32 = 16


@dataclass
class Found:
    """What a computation gives: logits and token losses by sequence, the loss, gradients by parameter."""

    logits: list[Tensor]
    token_losses: list[Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]
    ran: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Data:
    """The sequences of an optimizer step, in the order of the packs, and which are in each pack."""

    tokens: list[Tensor]
    labels: list[Tensor]
    packs: list[list[int]]

    @property
    def counts(self) -> list[int]:
        """Targets of each sequence."""
        return [int((labels[1:] != IGNORE_INDEX).sum()) for labels in self.labels]

    @property
    def filled(self) -> list[int]:
        """The sequences that have tokens."""
        return [index for index, tokens in enumerate(self.tokens) if len(tokens)]


@dataclass(frozen=True)
class Shape:
    """A Llama of two layers."""

    heads: int
    groups: int
    head_size: int
    vocabulary: int

    @property
    def width(self) -> int:
        """Hidden size; the MLP has twice as many."""
        return self.heads * self.head_size

    @property
    def parameters(self) -> int:
        """Of both layers and both embeddings, norms left out."""
        attention = 2 * self.width**2 * (1 + self.groups / self.heads)
        return int(2 * (attention + 6 * self.width**2) + 2 * self.vocabulary * self.width)


def budget(context: Context) -> Budget:
    """See the module."""
    tokens = sum(map(sum, TINY_PACKS if context.tiny else PACKS))
    # separate; packed and two controls, forward once more each, by two kernels; the oracle
    times = 1 + 2 * 3 * 4 / 3 + OVER_FP32
    flops = sum(6 * shape(context, head_size).parameters * tokens * times for head_size in HEAD_SIZES)
    return rows.counted(context, flops + exact_loss.flops(context) * OVER_FP32, share=0.2, fixed=35.0)


def shape(context: Context, head_size: int) -> Shape:
    """Grouped heads: 8 on 2; 2 on 1 at tiny sizes."""
    return Shape(2, 1, head_size, 64) if context.tiny else Shape(8, 2, head_size, 512)


def run(context: Context) -> Iterator[Row]:
    """Kernels that do not work, packs by each that does, the loss, the tests."""
    yield from backends.problems(NAME, context)
    for head_size in HEAD_SIZES:
        yield from packs(context, head_size)
        timing.free(context.device)
    yield from exact_loss.run(NAME, context)
    timing.free(context.device)
    yield from repository_tests.run(NAME, context)


def packs(context: Context, head_size: int) -> Iterator[Row]:
    """A row for each distance, kernel and control at one head size."""
    built = shape(context, head_size)
    data, (bf16, exact) = sequences(context, built.vocabulary), models(context, built)
    oracle, separate = apart(exact, data), apart(bf16, data)
    right, eq3 = loss_weights(data.counts), eq3_weights(data.counts, data.packs)
    case = f"heads of {head_size}, {sum(map(len, data.tokens)):,} tokens"
    bf16.set_attn_implementation(register_attention())
    for name in backends.usable(context) or [backends.SEQUENCES]:
        with backends.forced(name):
            ours = together(bf16, data, right)
            found = distances(oracle, separate, ours, right[data.filled])
            yield from compared(case, name, found, ours.ran, context)
            found = distances(oracle, separate, together(bf16, data, right, leaks=True), right[data.filled])
            yield from control(f"{case}: no boundaries", name, found, ("logits", "token losses", "gradients"))
            found = distances(oracle, separate, together(bf16, data, eq3), right[data.filled])
            yield from control(f"{case}: weights of Eq. 3", name, found, ("gradients",))


def sequences(context: Context, vocabulary: int) -> Data:
    """Random tokens; half of them, and at least the last, are targets. What one token predicts has no target."""
    generator = torch.Generator().manual_seed(0)
    lengths = TINY_PACKS if context.tiny else PACKS
    tokens = [torch.randint(vocabulary, (n,), generator=generator) for pack in lengths for n in pack]
    labels = [t.masked_fill(torch.rand(len(t), generator=generator) < 0.5, IGNORE_INDEX) for t in tokens]
    for of, row in zip(tokens, labels, strict=True):
        row[-1:] = of[-1:]
    numbers = iter(range(len(tokens)))
    return Data(tokens, labels, [[next(numbers) for _ in pack] for pack in lengths])


def models(context: Context, built: Shape) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model in bf16, and one with the same weights in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(built.head_size)
    # weights of 1 / sqrt(width) make attention choose; at 0.02 it is a mean, which a leak moves less
    config = LlamaConfig(
        vocab_size=built.vocabulary, hidden_size=built.width, intermediate_size=2 * built.width, num_hidden_layers=2,
        num_attention_heads=built.heads, num_key_value_heads=built.groups, max_position_embeddings=8192,
        initializer_range=built.width**-0.5, attn_implementation="sdpa",
    )  # fmt: skip
    bf16 = LlamaForCausalLM(config).to(context.device, context.dtype)
    exact = LlamaForCausalLM(config).to(context.device)
    exact.load_state_dict({name: weight.float() for name, weight in bf16.state_dict().items()})
    return bf16, exact


def apart(model: torch.nn.Module, data: Data) -> Found:
    """A sequence at a time, and Equation 2 as it is written: the mean over sequences of the mean over their targets."""
    model.zero_grad()
    logits, token_losses, loss = [], [], torch.zeros((), device=model.device)
    with_targets = sum(count > 0 for count in data.counts)
    for tokens, labels in zip(data.tokens, data.labels, strict=True):
        if not len(tokens):
            continue
        out = model(tokens[None].to(model.device), use_cache=False).logits[0]
        own = _token_losses(out, labels)
        if len(own):
            (own.mean() / with_targets).backward()
            loss += own.detach().mean() / with_targets
        logits.append(out.detach().float())
        token_losses.append(own.detach())
    return Found(logits, token_losses, loss, _gradients(model), {"sdpa"})


def together(model: torch.nn.Module, data: Data, weights: np.ndarray, *, leaks: bool = False) -> Found:
    """A pack at a time through the collator and the library's loss; with `leaks`, each pack as one sequence."""
    model.zero_grad()
    logits, token_losses, loss = [], [], torch.zeros((), device=model.device)
    collate = PackedCollator(0)
    with backends.ran() as seen:
        for pack in data.packs:
            batch = collate([{"input_ids": data.tokens[i], "labels": data.labels[i], "loss_weight": weights[i]}
                             for i in pack])  # fmt: skip
            if leaks:
                batch["max_seqlen"] = batch["input_ids"].shape[1]
                batch["cu_seqlens"] = torch.tensor([0, batch["max_seqlen"]], dtype=torch.int32)
            batch = {name: v.to(model.device) if isinstance(v, Tensor) else v for name, v in batch.items()}
            part = weighted_loss(model, batch)
            part.backward()
            loss += part.detach()
            with torch.no_grad():
                out = model(**{n: v for n, v in batch.items() if n not in ("labels", "loss_weights")}).logits[0]
            parts = out.split([len(data.tokens[i]) for i in pack])
            logits += [own.float() for own in parts if len(own)]
            token_losses += [_token_losses(own, data.labels[i]) for own, i in zip(parts, pack, strict=True) if len(own)]
    return Found(logits, token_losses, loss, _gradients(model), seen)


def compared(
    case: str, kernel: str, found: dict[str, tuple[float, float]], ran: set[str], context: Context
) -> Iterator[Row]:
    """A row for each ratio of distances; over `LARGEST`, or computed by something slower, it is a failed one."""
    slower = backends.slower(ran, context)
    for metric, (mine, theirs) in found.items():
        ratio, note = over(mine, theirs), f"packed {mine:.3g}, separate {theirs:.3g} from the oracle"
        given = (NAME, case, f"packed, {kernel}", f"{metric}: distance, packed / separate")
        if ratio <= LARGEST and not slower:
            yield rows.measured(*given, ratio, "ratio", backends.named(ran), note)
        else:
            reason = slower or f"over {LARGEST:g}: {note}"
            yield rows.failed(*given, reason, value=ratio, unit="ratio", backend=backends.named(ran))


def control(
    case: str, kernel: str, found: dict[str, tuple[float, float]], metrics: tuple[str, ...]
) -> Iterator[Row]:
    """A row for each ratio of a computation that is wrong on purpose: at most `LARGEST`, the check sees nothing."""
    for metric in metrics:
        ratio = over(*found[metric])
        given = (NAME, case, f"packed, {kernel}", f"control, {metric}: distance, packed / separate")
        if ratio > LARGEST:
            yield rows.measured(*given, ratio, "ratio", kernel, f"wrong on purpose: it must be over {LARGEST:g}")
        else:
            reason = f"wrong on purpose, and not over {LARGEST:g}: the check does not see it"
            yield rows.failed(*given, reason, value=ratio, unit="ratio", backend=kernel)


def distances(
    oracle: Found, separate: Found, ours: Found, weights: np.ndarray
) -> dict[str, tuple[float, float]]:
    """{metric: (distance of ours from the oracle, distance of the separate sequences)}; `weights` by sequence."""
    scale = [weight for weight, own in zip(weights.tolist(), oracle.token_losses, strict=True) for _ in own]
    exact, theirs = (torch.cat(found.token_losses) for found in (oracle, separate))
    allowed = float((torch.tensor(scale, device=exact.device) * (theirs - exact).abs()).sum())

    def pair(of: Callable[[Found], list[Tensor]]) -> tuple[float, float]:
        return distance(of(ours), of(oracle)), distance(of(separate), of(oracle))

    worst = [(distance([a], [c]), distance([b], [c]))
             for a, b, c in zip(ours.logits, separate.logits, oracle.logits, strict=True)]  # fmt: skip
    return {
        "logits": pair(lambda found: found.logits),
        "logits of the worst sequence": max(worst, key=lambda both: over(*both)),
        "token losses": pair(lambda found: found.token_losses),
        "loss": (abs(float(ours.loss - oracle.loss)), allowed),
        "gradients": pair(lambda found: list(found.gradients.values())),
    }


def _token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    targets = labels[1:].to(logits.device)
    is_target = targets != IGNORE_INDEX
    return functional.cross_entropy(logits[:-1][is_target].float(), targets[is_target], reduction="none")


def _gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.float().clone() for name, parameter in model.named_parameters()}
