"""The last layer, computed nearly only where its output is read; values and gradients stay exact.

A loss reads the last layer's output where a target is predicted. The layers below and the last one's keys and values
are needed everywhere; its queries, attention, output projection and MLP only there, and all gradients of the others are
0. Hooks do that while a forward pass lasts, in which the last layer's output at other positions means nothing. A model
that is built otherwise, one of which most positions are read, one that is trained with attention dropout (its draws
would be others), and gradient checkpointing (which passes again when the hooks are gone) are left alone.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch  # noqa: F401  the worked example's
from torch import Tensor, nn

from longalign.common.array_types import IGNORE_INDEX, Float, Int
from longalign.recipe.architectures import unwrapped
from longalign.recipe.attention import NAME

GATED_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def predicting(labels: Int[Tensor, "B L"], tokens: int) -> Int[Tensor, " n"]:
    """Flat positions, in B rows of `tokens` each, from which a target is predicted: position t from t - 1.

    >>> predicting(torch.tensor([[-100, 1, -100, 1, 1, 1, -100, 1, 1]]), 9)                   # lengths 2, 4, 3
    tensor([0, 2, 3, 4, 6, 7])
    """
    row, place = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    return row * tokens + place


@contextlib.contextmanager
def read_only_at(model: nn.Module, positions: Int[Tensor, " n"], rows: int, tokens: int) -> Iterator[None]:
    """Within this context the forward pass of a Hugging Face decoder is right at `positions` alone.

    They ascend and are flat, as `predicting` gives them: position t of row b is b x tokens + t.
    """
    layer = _last_layer(model) if 0 < 2 * len(positions) <= rows * tokens else None
    hooks = []
    for part in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp) if layer else ():
        hooks.append(part.register_forward_pre_hook(lambda _, inputs: _picked(inputs, positions)))
        hooks.append(part.register_forward_hook(lambda _, inputs, output: _put_back(output, positions, rows, tokens)))
    if layer and layer.self_attn.config._attn_implementation == NAME:
        hooks.append(layer.self_attn.register_forward_pre_hook(
            lambda _, inputs, options: (inputs, {**options, "read": positions}), with_kwargs=True
        ))  # fmt: skip
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


def logits_at(model: nn.Module, positions: Int[Tensor, " n"], inputs: Mapping[str, Any]) -> Float[Tensor, "n V"]:
    """The model's own logits at flat `positions`, as `predicting` gives them: its head computes nothing elsewhere.

    Whatever the model does to its logits (a bias, a softcap) is done to these. Raises ValueError for a model that
    returns others than its head was asked for.
    """
    head = output_embedding(model)
    hook = head and head.register_forward_pre_hook(lambda _, given: _picked(given, positions, inputs["input_ids"]))
    with hook or contextlib.nullcontext():
        outputs = model(**inputs)
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    logits = logits if head else logits.flatten(0, 1)[positions][None]
    if logits.shape[:2] != (1, len(positions)):
        raise ValueError(
            f"{type(model).__name__} returns logits of shape {tuple(logits.shape)} where its output embedding was "
            f"asked for {len(positions)} positions, so that these cannot be told"
        )
    return logits[0]


def output_embedding(model: Any) -> nn.Module | None:
    """The output embedding of a Hugging Face causal LM, DDP-wrapped or not; None where it has none."""
    model = unwrapped(model)
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _picked(inputs: tuple[Any, ...], positions: Tensor, ids: Tensor | None = None) -> tuple[Tensor]:
    (states,) = inputs
    if ids is not None and states.shape[:2] != ids.shape:
        raise ValueError(f"tokens {tuple(ids.shape)} are {tuple(states.shape[:2])} in the model: no target is known")
    return (states.flatten(0, 1)[positions][None],)


def _put_back(output: Tensor, positions: Tensor, rows: int, tokens: int) -> Tensor:
    whole = output.new_zeros(rows * tokens, output.shape[-1]).index_copy(0, positions, output[0])
    return whole.unflatten(0, (rows, tokens))


def _last_layer(model: Any) -> Any:
    """The last decoder layer where it is built as Llama's: attention and a dense gated MLP, nothing else but norms, by
    classes of transformers: those of users may mix positions there, or pass it more than once."""
    model = unwrapped(model)
    decoder = getattr(model, "base_model", model)
    layers = getattr(decoder, "layers", None)
    if not layers or (model.training and getattr(layers[-1], "gradient_checkpointing", False)):
        return None
    parts = dict(layers[-1].named_children())
    attention, mlp = parts.pop("self_attn", None), parts.pop("mlp", None)
    norms = all(type(part).__name__.endswith("Norm") for part in parts.values())
    dense = mlp is not None and {name for name, _ in mlp.named_children()} == GATED_MLP
    whole = all(getattr(attention, name, None) is not None for name in ("q_proj", "o_proj", "config"))
    kinds = map(type, (model, decoder, layers[-1], attention, mlp))
    known = all(kind.__module__.startswith("transformers.models.") for kind in kinds)
    drops = model.training and getattr(attention, "attention_dropout", 0.0)
    return layers[-1] if norms and dense and whole and known and not drops else None
