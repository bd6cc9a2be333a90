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

Then the loss by chunks against the plain one, fp32 and bf16, held in the same way against the plain loss in fp64; and
the tests of this repository that need a card.

Budget: 6 x parameters x tokens FLOPs for each bf16 computation, 16 times that for fp32 (a card's rate without tensor
cores), of the products 0.2 is taken to be reached; 35 s are for kernels that are loaded and the tests, which import
everything again. With heads of both sizes that is 2 s + 35 s.
"""

import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import ROOT, backends, rows, timing
from benchmarks.gpu.rows import Budget, Context, Row
from longalign.attention import register
from longalign.collators import PackedCollator
from longalign.loss import weighted_cross_entropy, weighted_loss
from longalign.shapes import IGNORE_INDEX
from longalign.weights import eq3_weights, loss_weights

NAME = "exact"
PACKS = [[4096, 1, 9, 0], [8, 4095, 2]]
TINY_PACKS = [[16, 1, 9, 0], [8, 15, 2]]
HEAD_SIZES = (64, 128)
LARGEST = 2.0
"""Largest ratio of distances from the oracle at which a packed computation is as good as a separate one."""
OVER_FP32 = 16
TESTS = ("tests/test_attention.py", "tests/test_loss.py")
TESTS_SECONDS = 180.0


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
    targets, width, vocabulary = loss_sizes(context)
    # plain, by chunks and in fp64, fp32 and bf16 numbers
    flops += 6 * targets * width * vocabulary * 6 * OVER_FP32
    return rows.counted(context, flops, share=0.2, fixed=35.0)


def shape(context: Context, head_size: int) -> Shape:
    """Grouped heads: 8 on 2; 2 on 1 at tiny sizes."""
    return Shape(2, 1, head_size, 64) if context.tiny else Shape(8, 2, head_size, 512)


def run(context: Context) -> Iterator[Row]:
    """Kernels that do not work, packs by each that does, the loss, the tests."""
    yield from backends.problems(NAME, context)
    for head_size in HEAD_SIZES:
        yield from packs(context, head_size)
        timing.free(context.device)
    yield from chunked_loss(context)
    timing.free(context.device)
    yield from repository_tests(context)


# ---- packed against separate ----------------------------------------------------------------------------------------


def packs(context: Context, head_size: int) -> Iterator[Row]:
    """A row for each distance, kernel and control at one head size."""
    built = shape(context, head_size)
    data, (bf16, exact) = sequences(context, built.vocabulary), models(context, built)
    oracle, separate = apart(exact, data), apart(bf16, data)
    right, eq3 = loss_weights(data.counts), eq3_weights(data.counts, data.packs)
    case = f"heads of {head_size}, {sum(map(len, data.tokens)):,} tokens"
    bf16.set_attn_implementation(register())
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
        ratio, note = _over(mine, theirs), f"packed {mine:.3g}, separate {theirs:.3g} from the oracle"
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
        ratio = _over(*found[metric])
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
        return _norm(of(ours), of(oracle)), _norm(of(separate), of(oracle))

    worst = [(_norm([a], [c]), _norm([b], [c]))
             for a, b, c in zip(ours.logits, separate.logits, oracle.logits, strict=True)]  # fmt: skip
    return {
        "logits": pair(lambda found: found.logits),
        "logits of the worst sequence": max(worst, key=lambda both: _over(*both)),
        "token losses": pair(lambda found: found.token_losses),
        "loss": (abs(float(ours.loss - oracle.loss)), allowed),
        "gradients": pair(lambda found: list(found.gradients.values())),
    }


def _over(mine: float, theirs: float) -> float:
    """mine / theirs; 0 when both are 0."""
    return mine / theirs if theirs else float(mine and math.inf)


def _token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    targets = labels[1:].to(logits.device)
    is_target = targets != IGNORE_INDEX
    return functional.cross_entropy(logits[:-1][is_target].float(), targets[is_target], reduction="none")


def _gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.float().clone() for name, parameter in model.named_parameters()}


def _norm(ours: list[Tensor], exact: list[Tensor]) -> float:
    """Norm of all differences over the norm of what is exact."""
    apart = sum((a.double() - b.double()).square().sum() for a, b in zip(ours, exact, strict=True))
    return float((apart / sum(b.double().square().sum() for b in exact)).sqrt())


# ---- the loss by chunks ---------------------------------------------------------------------------------------------


def loss_sizes(context: Context) -> tuple[int, int, int]:
    """Target tokens, hidden size, vocabulary."""
    return (48, 32, 256) if context.tiny else (4096, 576, 49_152)


def chunked_loss(context: Context) -> Iterator[Row]:
    """`weighted_cross_entropy` and the plain loss, each against the plain loss in fp64 of the same numbers."""
    tokens, width, vocabulary = loss_sizes(context)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator)
    matrix = torch.randn(vocabulary, width, generator=generator) * width**-0.5
    targets = torch.randint(vocabulary, (tokens,), generator=generator).to(context.device)
    weights = (2 * torch.rand(tokens, generator=generator) / tokens).to(context.device)
    for dtype in (torch.float32, torch.bfloat16):
        given = [states.to(context.device, dtype) for states in (hidden, matrix)]
        exact, own = _with_gradients(plain_loss, [s.double() for s in given], targets, weights.double())
        plain, theirs = _with_gradients(plain_loss, given, targets, weights)
        ours, _ = _with_gradients(chunks, given, targets, weights)
        case = f"{tokens:,} targets x {vocabulary:,} x {width:,}, {str(dtype).removeprefix('torch.')}"
        # against all differences of the plain one's tokens, for theirs may cancel, and the next number in fp32
        allowed = float((weights * (theirs - own).abs()).sum() + exact[0] * torch.finfo(torch.float32).eps)
        pairs = {"loss": (float((ours[0] - exact[0]).abs()), allowed)}
        for place, metric in ((1, "gradient of the hidden states"), (2, "gradient of the matrix")):
            pairs[metric] = tuple(_norm([of[place]], [exact[place]]) for of in (ours, plain))
        for metric, (mine, plains) in pairs.items():
            yield _loss_row(case, metric, mine, plains)


def _loss_row(case: str, metric: str, mine: float, theirs: float) -> Row:
    note, ratio = f"chunks {mine:.3g}, plain {theirs:.3g} from fp64", _over(mine, theirs)
    given = (NAME, case, "loss by chunks", f"{metric}: distance, chunks / plain")
    if ratio <= LARGEST:
        return rows.measured(*given, ratio, "ratio", "torch.mm", note)
    return rows.failed(*given, f"over {LARGEST:g}: {note}", value=ratio, unit="ratio", backend="torch.mm")


def plain_loss(hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Linear layer, cross entropy of every token in at least fp32, weighted sum: (the loss, that of each token)."""
    logits = functional.linear(hidden, matrix)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = functional.cross_entropy(logits, targets, reduction="none")
    return (weights * own).sum(), own.detach()


def chunks(hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, None]:
    """The library's loss, whose labels begin with the token that nothing predicts."""
    labels, scales = (functional.pad(row, (1, 0))[None] for row in (targets, weights))
    return weighted_cross_entropy(hidden[None], matrix, labels, scales), None


def _with_gradients(loss, given, targets, weights) -> tuple[list[Tensor], Tensor | None]:
    leaves = [states.clone().requires_grad_() for states in given]
    value, own = loss(*leaves, targets, weights)
    value.backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves)], own


# ---- the repository's tests -----------------------------------------------------------------------------------------


def repository_tests(context: Context) -> Iterator[Row]:
    """Tests marked `gpu`, in a process of their own, without the options of pyproject.toml (they name beartype)."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        yield rows.absent(NAME, " and ".join(missing), "not installed: the repository's gpu tests are not run")
        return
    # one test says at tiny sizes that they start
    files = [f"{TESTS[1]}::test_cuda_equals_cpu"] if context.tiny else list(TESTS)
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "-m", "gpu", *files]
    paths = os.pathsep.join([str(ROOT / "lib"), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    yield from told(done.stdout + done.stderr, context)


def told(output: str, context: Context) -> Iterator[Row]:
    """The rows of what pytest printed: how many tests passed, were skipped, failed. None that passed is a failure."""
    last = next((line for line in reversed(output.splitlines()) if re.search(r"\d+ \w+.* in [\d.]+s", line)), "")
    found = re.findall(r"(\d+) (passed|skipped|failed|error)", last)
    counts = {kind: int(number) for number, kind in found}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    given = (NAME, "tests marked gpu", "pytest")
    backend = context.device.type
    for kind in ("passed", "skipped"):
        value = counts.get(kind, 0)
        wrong = kind == "passed" and (not last or bad or (not value and context.device.type == "cuda"))
        if wrong:
            reason = " / ".join(line for line in output.splitlines() if line.strip())[-280:]
            yield rows.failed(*given, kind, reason, value=value, unit="tests", backend=backend)
        else:
            yield rows.measured(*given, kind, value, "tests", backend, last.strip("= "))
