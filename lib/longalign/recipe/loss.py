"""The sum of `loss_weights` x cross entropy over target tokens, value and gradient, without T x V fp32 logits.

Every loss of the paper (arXiv 2401.18058, Eq. 2, 3, 4) is such a sum once the weight of every token is known
beforehand, and a sum can be taken in chunks of target tokens.  Since the weights are known, a chunk's gradients are
taken together with its loss: nothing is computed twice, and what is kept is one gradient of the hidden states and one
of the vocabulary matrix.  Liger's fused loss (arXiv 2410.10989) can weight classes only, not given tokens.

B = rows, T = tokens of a row, L = labels of a row, T or T + 1, D = hidden size, V = vocabulary, N = target tokens
(labels != IGNORE_INDEX, position 0 never).
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from longalign.common.array_types import IGNORE_INDEX, Float, Int
from longalign.recipe.architectures import why_not_this_batch
from longalign.recipe.last_layer import logits_at, output_embedding, predicting, read_only_at
from longalign.recipe.masks import of_a_pack


def weighted_cross_entropy(
    hidden: Float[Tensor, "B T D"], weight: Float[Tensor, "V D"], labels: Int[Tensor, "B L"],
    loss_weights: Float[Tensor, "B L"], *, chunk_size: int = 1024,
) -> Float[Tensor, ""]:  # fmt: skip
    """Sum over target tokens of loss_weights x cross entropy of `hidden @ weight.T`, shifted by one inside.

    The hidden state at t predicts `labels[t + 1]`, whose weight is `loss_weights[t + 1]`; labels may have one token
    more, which the last hidden state predicts (a slice of a longer row, `longalign.train.sequence_parallel`).
    Positions labelled IGNORE_INDEX never meet the vocabulary matrix.  Logits, softmax and the gradient of `weight` are
    accumulated in fp32 (fp64 for fp64 inputs); at most `chunk_size` x V logits exist at a time.  Under autocast the
    products run in its dtype.  `loss_weights` is taken as a constant.  Without targets the result is 0 with a gradient
    graph (all gradients 0).  Raises TypeError for fp16, where the small weights of long sequences would underflow, and
    ValueError for shapes that differ or chunks without a token.

    >>> lengths, hidden, weight = [2, 4, 3], torch.zeros(1, 9, 8), torch.zeros(5, 8)      # all logits equal: CE = log 5
    >>> labels = torch.tensor([[-100, 1, -100, 1, 1, 1, -100, 1, 1]])             # N = 1, 3, 2: 1/(3 N) = 1/3, 1/9, 1/6
    >>> loss_weights = torch.tensor([1 / 3] * 2 + [1 / 9] * 4 + [1 / 6] * 3)[None]
    >>> round(weighted_cross_entropy(hidden, weight, labels, loss_weights).exp().item(), 4)
    5.0
    """
    fits = hidden.shape[:1] == labels.shape[:1] and labels.shape[1] - hidden.shape[1] in (0, 1)
    if not fits or labels.shape != loss_weights.shape:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, labels {tuple(labels.shape)} and loss_weights {tuple(loss_weights.shape)} "
            "must agree in rows and tokens; pass labels unshifted, one per token, and keep every position."
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; a chunk holds the logits of at least 1 token")
    compute = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        compute = torch.get_autocast_dtype(hidden.device.type)
    _refuse_float16(compute)
    is_target = labels[:, 1:] != IGNORE_INDEX
    targets, weights = labels[:, 1:][is_target], loss_weights[:, 1:][is_target]
    rows = hidden[:, : labels.shape[1] - 1][is_target]
    with torch.autocast(hidden.device.type, enabled=False):
        return _ChunkedSum.apply(rows, weight, targets, weights, compute, chunk_size, torch.is_grad_enabled())


def _refuse_float16(*formats: torch.dtype) -> None:
    if torch.float16 in formats:
        raise TypeError("the weights of long sequences underflow in float16; train in bfloat16 or float32.")


class _ChunkedSum(torch.autograd.Function):
    """Sum of weights x CE over rows (N, D), whose gradients are taken chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx, rows, weight, targets, weights, compute, chunk_size, needs_grad):
        exact = torch.promote_types(compute, torch.float32)
        matrix = weight.to(compute)
        grad_rows = torch.empty_like(rows) if needs_grad and ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if needs_grad and ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=exact, device=rows.device)
        buffer = rows.new_empty(min(chunk_size, len(rows)), len(weight), dtype=compute)  # every chunk's logits
        for start in range(0, len(rows), chunk_size):
            chunk = slice(start, start + chunk_size)
            hidden, target, scale = rows[chunk].to(compute), targets[chunk, None], weights[chunk, None].to(exact)
            logits = torch.mm(hidden, matrix.T, out=buffer[: len(hidden)]).to(exact)
            # In place, with one exp: logsumexp would take a second T x V buffer and another exp.
            largest = logits.amax(dim=1, keepdim=True)
            own = logits.gather(1, target) - largest
            total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
            loss += (scale * (total.log() - own)).sum()
            if grad_rows is None and grad_weight is None:
                continue
            # scale x d CE / d logits = scale x (softmax - one_hot), written over the exponentials.
            grad = logits.mul_(scale / total).scatter_add_(1, target, -scale).to(compute)
            if grad_rows is not None:
                grad_rows[chunk] = grad @ matrix
            if grad_weight is not None and compute == exact:
                grad_weight.addmm_(grad.T, hidden)
            elif grad_weight is not None:
                grad_weight += grad.T @ hidden
        ctx.save_for_backward(grad_rows, None if grad_weight is None else grad_weight.to(weight.dtype))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        grads = [None if g is None else g * grad_loss.to(g.dtype) for g in ctx.saved_tensors]
        return (*grads, None, None, None, None, None)


class _Shown(torch.autograd.Function):
    """The gradient of one number under the value of another."""

    @staticmethod
    def forward(ctx, number, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class LossHead(nn.Linear):
    """An output embedding that, while labels are set, returns the weighted loss instead of logits.

    What comes behind it is shown MARK: a softcap or a factor changes so large a number, while a small loss would go
    through tanh as it is, and its gradient would be another. `changed` says that the model was seen to do so.
    """

    MARK = 2.0**15
    changed = False
    _call: tuple[Tensor, Tensor, list[Tensor]] | None = None

    @contextlib.contextmanager
    def targets(self, labels: Int[Tensor, "B L"], loss_weights: Float[Tensor, "B L"]) -> Iterator[list[Tensor]]:
        """Within this context the head adds the scalar `weighted_cross_entropy` to the list given, and returns MARK
        with the gradient of that."""
        returned: list[Tensor] = []
        self._call = (labels, loss_weights, returned)
        try:
            yield returned
        finally:
            self._call = None

    def forward(self, input: Tensor) -> Tensor:
        if self._call is None:
            return super().forward(input)
        labels, loss_weights, returned = self._call
        loss = weighted_cross_entropy(input, self.weight, labels, loss_weights)
        returned.append(loss.detach())
        return _Shown.apply(loss, loss.new_full((), self.MARK))


def attach_loss_head(model: nn.Module) -> LossHead | None:
    """Make the output embedding of a Hugging Face causal LM (DDP-wrapped or not) a `LossHead`, in place; idempotent.

    Only the class of the layer changes: parameter names, tied weights and state dicts stay. None where the layer is no
    plain nn.Linear without bias (quantised, adapted, absent).
    """
    head = output_embedding(model)
    # torchao quantizes by another class of the weight alone
    if not isinstance(head, nn.Linear) or type(head.weight).__module__.partition(".")[0] != "torch":
        return None
    if type(head) is nn.Linear and head.bias is None:
        head.__class__ = LossHead
    return head if isinstance(head, LossHead) else None


def weighted_loss(model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
    """The loss of a collated batch: sum over its tokens of loss_weights x cross entropy (fillers included).

    `batch` is a `PackedBatch` or `PaddedBatch`; everything but `labels` and `loss_weights` goes to the model's forward.
    Summed over all micro-batches and ranks of an optimizer step it is Eq. 2 (or the other loss that the weights state);
    DDP and ZeRO average over ranks, so a trainer multiplies by the number of ranks.

    Where the output embedding is no plain linear layer, or the model changes its output (a bias, a softcap, a scale),
    the loss is taken from the model's own logits of the N target tokens, N x V of them. Raises ValueError without
    `labels` or `loss_weights`, and for a model and batch of which this sum would not be the model's own loss of each
    sequence (`longalign.recipe.architectures`).
    """
    if missing := {"labels", "loss_weights"} - set(batch):
        raise ValueError(
            f"the batch lacks {sorted(missing)}; collate it with PackedCollator or PaddedCollator, and in a Trainer "
            "set remove_unused_columns=False."
        )
    labels, loss_weights = batch["labels"], batch["loss_weights"]
    if loss_weights.dtype.itemsize < 4:
        raise ValueError(
            f"loss_weights are {loss_weights.dtype}, which rounds them to a few bits: a Trainer with DeepSpeed casts "
            "them in its _prepare_inputs, so leave them out of it there, as the recipe of README.md does"
        )
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "loss_weights")}
    if reason := why_not_this_batch(model, inputs):
        raise ValueError(reason)
    head = attach_loss_head(model)
    read = predicting(labels, inputs["input_ids"].shape[1])
    several = len(inputs.get("cu_seqlens", ())) > 2
    with of_a_pack((inputs["cu_seqlens"], inputs.get("max_seqlen")) if several else None):
        if head is not None and not head.changed:
            if (loss := _loss_in_the_head(model, head, inputs, labels, loss_weights, read)) is not None:
                return loss
            head.changed = True
        return _loss_of_logits(model, inputs, labels, loss_weights, read)


def _loss_in_the_head(model, head: LossHead, inputs, labels, loss_weights, read) -> Tensor | None:
    """None where the model does not hand the head's output back unchanged."""
    with head.targets(labels, loss_weights) as returned, read_only_at(model, read, *inputs["input_ids"].shape):
        try:
            outputs = model(**inputs)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            if not returned:
                raise
            return None  # what comes behind the head takes logits alone
    shown = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    if len(returned) != 1 or shown.ndim or shown.item() != LossHead.MARK or not _is_of_the_head_alone(shown):
        return None
    return _Shown.apply(shown, returned[0])


def _is_of_the_head_alone(shown: Tensor) -> bool:
    """Whether nothing but what the head returned has part in the number: a scale that is learnt may be 1 today."""
    node = shown.grad_fn
    while node is not None and node.name() != _Shown.__name__ + "Backward":
        before = [following for following, _ in node.next_functions if following is not None]
        node = before[0] if len(before) == 1 else None
    return node is not None or not shown.requires_grad


def _loss_of_logits(model, inputs, labels, loss_weights, read: Int[Tensor, " N"]) -> Tensor:
    """From the logits that the model returns, at the N positions that predict a target (at one, without targets)."""
    with read_only_at(model, read, *inputs["input_ids"].shape):
        logits = logits_at(model, read if len(read) else read.new_zeros(1), inputs)
    _refuse_float16(logits.dtype, *(parameter.dtype for parameter in itertools.islice(model.parameters(), 1)))
    if not len(read):
        return logits.sum() * 0.0
    is_target = labels[:, 1:] != IGNORE_INDEX
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = nn.functional.cross_entropy(logits, labels[:, 1:][is_target], reduction="none")
    return (each * loss_weights[:, 1:][is_target].to(each.dtype)).sum()
