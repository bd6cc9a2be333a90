"""Looking into the passes of a model, which leaves it as it was: its embeddings, its formats, its own attention."""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

INDEX = "index_topk"
"""Where configurations and layers say how many tokens an indexer leaves of those of a row."""
WINDOWS = ("sliding_window", "attention_chunk_size", INDEX)
"""Where they say how far attention reaches back, and INDEX."""
EDGES = {
    "floor_scale": 4, "log_scaling_n_floor": 4, "attn_logit_softcapping": 1.0, "logit_softcapping": 1.0,
}  # fmt: skip
"""Where they say from which position on, or from which score on, attention is another (Llama 4, Inkling, Gemma 2); and
what few tokens of any weights reach."""
CHANCE = re.compile("drop|jitter")
"""Names under which configurations and modules say how much of a training is left to chance."""


@contextlib.contextmanager
def embeddings(model: Any) -> Iterator[list[Tensor]]:
    """Within this context the input embeddings of a pass are leaves, which the list given holds: a gradient is asked
    for them alone, and no parameter's is computed."""
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # which a model may scale in place (CTRL)

    hook = model.get_input_embeddings().register_forward_hook(cut)
    try:
        yield leaves
    finally:
        hook.remove()


@contextlib.contextmanager
def formats(model: Any) -> Iterator[list[torch.dtype]]:
    """Within this context the list given gets the formats in which the model computes, autocast or not."""
    seen = [torch.float32]
    head = model.get_output_embeddings() or model.get_input_embeddings()
    hook = head.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    try:
        yield seen
    finally:
        hook.remove()


@contextlib.contextmanager
def rounded(model: nn.Module) -> Iterator[None]:
    """Within this context what each module with weights of its own returns is off by half a unit in its last place, up
    or down by chance: as far apart are two ways of computing the same."""
    random = torch.Generator().manual_seed(2)

    def round_otherwise(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        signs = torch.randint(0, 2, output.shape, generator=random).to(output) * 2 - 1
        return output * (1 + signs * torch.finfo(output.dtype).eps / 2)

    hooks = [
        part.register_forward_hook(round_otherwise)
        for part in model.modules() if next(part.parameters(recurse=False), None) is not None
    ]  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def in_reach(model: nn.Module, size: int, *, longest: int) -> Iterator[None]:
    """Within this context those windows of attention that are shorter than `longest` have `size` tokens, and what only
    far positions or large scores reach (EDGES) is reached by a few tokens."""
    found = [
        (holder, name, value) for holder, name, value in _said(model, *WINDOWS, *EDGES)
        if (type(value) is int and value < longest if name in WINDOWS else type(value) in (int, float))
    ]  # fmt: skip
    with _replaced(found, lambda name: EDGES.get(name, size)):
        yield


@contextlib.contextmanager
def indexed(model: nn.Module, size: int) -> Iterator[bool]:
    """Within this context an indexer leaves `size` tokens at most of a row; says whether one may leave more."""
    found = [of for of in _said(model, INDEX) if type(of[2]) is int and of[2] > size]
    with _replaced(found, lambda _: size):
        yield bool(found)


def _said(model: nn.Module, *names: str) -> list[tuple[Any, str, Any]]:
    """Which configuration or layer says what under these names: (holder, name, value or None)."""
    return [(holder, name, getattr(holder, name, None)) for holder in (*_configs(model), *model.modules())
            for name in names]  # fmt: skip


@contextlib.contextmanager
def _replaced(found: list[tuple[Any, str, Any]], value: Callable[[str], Any]) -> Iterator[None]:
    """Within this context these settings have another value, by their names."""
    for holder, name, _ in found:
        setattr(holder, name, value(name))
    try:
        yield
    finally:
        for holder, name, before in found:
            setattr(holder, name, before)


@contextlib.contextmanager
def begun(model: nn.Module) -> Iterator[None]:
    """Within this context parameters that are to be trained and are all 0 have small random values: a gate that begins
    at 0, or LoRA's B, hides what it is going to let through. What ZeRO-3 has dealt to the ranks stays as it is."""
    random = torch.Generator().manual_seed(3)
    empty = [p for p in model.parameters() if p.requires_grad and p.numel() and not p.flatten()[0] and not p.any()]
    before = [parameter.detach().clone() for parameter in empty]
    with torch.no_grad():
        for parameter in empty:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(empty, before, strict=True):
                parameter.copy_(value)


def _configs(model: nn.Module) -> list[Any]:
    """The configuration of a model and those of its parts, the outer before the inner."""
    found = (getattr(part, "config", None) for part in model.modules())
    return list({id(config): config for config in found if hasattr(config, "__dict__")}.values())


@contextlib.contextmanager
def attention(model: nn.Module, name: str) -> Iterator[None]:
    """Within this context the model has one of transformers' own attentions."""
    # layers of torchao have configurations of another kind
    configs = [config for config in _configs(model) if hasattr(config, "_attn_implementation")]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation = own


@contextlib.contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """Within this context, which `untouched` goes around, the model is in training mode, without what it leaves to
    chance (dropout, jitter) as far as modules and configurations name it, and without gradient checkpointing."""
    holders = [*_configs(model), *model.modules()]
    chances = [
        (holder, name, value) for holder in holders for name, value in vars(holder).items()
        if CHANCE.search(name) and type(value) is float
    ]  # fmt: skip
    chances += [(part, "p", part.p) for part in model.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]
    kept = [(part, "gradient_checkpointing", True) for part in holders if getattr(part, "gradient_checkpointing", 0)]
    for holder, name, _ in (*chances, *kept):
        setattr(holder, name, False if name == "gradient_checkpointing" else 0.0)
    model.train()
    try:
        yield
    finally:
        model.eval()
        for holder, name, value in (*chances, *kept):
            setattr(holder, name, value)


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within this context every rank has the whole of a model that ZeRO-3 has dealt to the ranks as it was loaded,
    where no engine is there yet that gathers each layer when it is computed."""
    dealt = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not dealt or any(hasattr(part._parameters, "_in_forward") for part in model.modules()):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(dealt):
        yield


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Within this context the model is in evaluation mode; after it, modes, buffers and random states are what they
    were."""
    modes = [(part, part.training) for part in model.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in model.modules() for name, buffer in part._buffers.items() if buffer is not None
    ]  # fmt: skip
    # DeepSpeed's engine sets this in its own forward: parameters that another module holds are gathered when read
    watched = [part._parameters for part in model.modules() if hasattr(part._parameters, "_in_forward")]
    # by those of fused experts, ZeRO-3 would take the passes for some of the training, and add gradients up
    hooks = [(part, part._backward_hooks) for part in model.modules() if part._backward_hooks]
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        model.eval()
        for parameters in watched:
            parameters._in_forward = True
        for part, _ in hooks:
            part._backward_hooks = OrderedDict()
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        for parameters in watched:
            parameters._in_forward = False
        for part, of_part in hooks:
            part._backward_hooks = of_part
        for part, mode in modes:
            part.training = mode
        for part, name, buffer, value in buffers:
            part._buffers[name] = buffer if torch.equal(buffer, value) else buffer.copy_(value)
