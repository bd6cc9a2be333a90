"""What a model is made of, looked at before a step: parts that mix positions, RoPE, the router's loss.

A pack is exact where nothing but the attention "longalign" mixes positions, and where rotary embeddings do not depend
on the longest position of a row. Each `why_not_...` returns None, or one sentence that names the class, the reason and
the number. What looks are not enough for is found by numbers: `longalign.train.preflight` runs packed, padded and
alone.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

OF_THE_LONGEST = ("dynamic", "longrope")
"""RoPE types whose frequencies depend on the longest position of a row."""
OF_THE_ROUTER = ("aux_loss_coef", "router_aux_loss_coef")
"""Where configurations say how much of the router's auxiliary loss is added."""
TWO_WAYS = (("is_decoder", True), ("use_bidirectional_attention", False))
"""Settings of models that can look both ways, and what they are where these look back only."""
ONE_WAY = ("gpt_neox", "gpt_neox_japanese")
"""Types of models that look back only, although their configurations have is_decoder, too, and it is mostly False."""
RECURRENT = re.compile(
    "Mamba|SSM|Recurrent|RgLru|RGLRU|Rwkv|LSTM|DeltaNet|DeltaAttention|LinearAttention|Lightning|Retention|Hyena"
)
"""Names of modules that carry a state from position to position."""


def unwrapped(model: Any) -> nn.Module:
    """The model itself, where DDP or DeepSpeed wraps it."""
    while hasattr(model, "module"):
        model = model.module
    return model


def mixers(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(class, what it is) of every kind of module that mixes positions otherwise than by registered attention.

    >>> list(mixers(nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Conv1d(8, 8, 3)), nn.LSTM(8, 8))))
    [('Sequential', 'a convolution over positions'), ('LSTM', 'a recurrence')]
    """
    named = ((type(module).__name__, _mixing(module)) for module in model.modules())
    yield from dict.fromkeys((name, what) for name, what in named if what)


def _mixing(module: nn.Module) -> str | None:
    name = type(module).__name__
    other = hasattr(module, "get_output_embeddings") or re.search("Norm|Layer|Block|MLP|Expert|Embedding", name)
    if isinstance(module, nn.RNNBase) or (RECURRENT.search(name) and not other and not _is_registered(module)):
        return "a recurrence"
    convolved = any(isinstance(part, nn.Conv1d) and max(part.kernel_size) > 1 for part in module.children())
    return "a convolution over positions" if convolved or "ShortConv" in name else None


def _is_registered(module: nn.Module) -> bool:
    """Whether a layer asks transformers' AttentionInterface for its attention, whatever its name says."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def why_not_trained(model: nn.Module, method: str, longest: int | None = None) -> str | None:
    """Why `method` would not train this model exactly, as far as its parts say; `longest` as in `why_not_packed`."""
    reason = (why_not_packed if method == "packing" else why_not_padded)(model, longest)
    return reason or why_no_loss(model)


def why_not_packed(model: nn.Module, longest: int | None = None) -> str | None:
    """Why packs of this model would not be exact; `longest` is the longest sequence of the run, in tokens."""
    if reason := why_not_padded(model, longest) or why_not_loaded(_of_transformers(model)):
        return reason
    told = f"{type(model).__name__} cannot be trained on packs"
    if place := _place_of_adapters(model):
        return f"{told}: its adapter ({place}) begins once in a row"
    if not (found := next(mixers(model), None)):
        return None
    told += f": {found[0]} is {found[1]}, which runs on from one sequence of a pack into the next"
    return f"{told}; padded rows are exact (method: naive or sorted)"


def _place_of_adapters(model: nn.Module) -> str | None:
    """Which setting of PEFT's adapters of a model gives them a place in a row."""
    found, names = getattr(model, "peft_config", None), ("alora_invocation_tokens", "num_virtual_tokens")
    adapters = found.values() if isinstance(found, Mapping) else ()
    return next((name for adapter in adapters for name in names if getattr(adapter, name, None)), None)


def why_not_padded(model: nn.Module, longest: int | None = None) -> str | None:
    """Why rows of padded sequences of this model would not be exact."""
    counting = next((part for part in model.modules() if hasattr(part, "create_position_ids_from_input_ids")), None)
    if counting is not None:
        told = f"{type(counting).__name__} counts positions from the padding token's id + 1, not from 0"
        return f"{type(model).__name__} cannot be trained here: {told}"
    if threshold := max((_threshold(part) for part in model.modules()), default=0.0):
        told = f"in 8 bits (llm_int8_threshold: {threshold:g}) the tokens of all sequences choose what is kept in 16"
        told += "; load it with llm_int8_threshold=0.0, or in 4 bits"
        return f"{type(model).__name__} cannot be trained here: {told}"
    # which with transformers' own attention reads its own mask
    named = getattr(getattr(model, "config", None), "_attn_implementation", None) == "longalign"
    return (why_not_loaded(_of_transformers(model)) if named else None) or why_not_rotated(model, longest)


def _threshold(module: nn.Module) -> float:
    """From which number on a layer of bitsandbytes keeps a feature of all tokens of a batch out of its 8 bits."""
    return getattr(getattr(module, "state", None), "threshold", 0.0) if type(module).__name__ == "Linear8bitLt" else 0.0


def _of_transformers(model: nn.Module) -> type[nn.Module] | None:
    """The class of transformers that a model is of, directly, by a class of the user's, or below PEFT's or another."""
    parts = (type(part) for part in model.modules() if hasattr(part, "_can_set_attn_implementation"))
    kinds = (kind for part in parts for kind in part.__mro__)
    return next((kind for kind in kinds if kind.__module__.startswith("transformers.models.")), None)


def why_not_rotated(model: nn.Module, longest: int | None) -> str | None:
    """Why rotary embeddings of several sequences would not be those of each alone."""
    for settings in rope_settings(getattr(model, "config", None)):
        original = settings.get("original_max_position_embeddings")
        if settings.get("rope_type") in OF_THE_LONGEST and longest and original and longest > original:
            return (
                f"{type(model).__name__} has RoPE of type {settings['rope_type']!r}, whose frequencies depend on the "
                f"longest position of a row: sequences of more than its original {original} positions (the longest "
                f"has {longest}) would differ from the same ones alone"
            )
    return None


def why_not_counted(model: nn.Module, tokens: int) -> str | None:
    """Why queries in a pack of so many tokens would not be scaled by their places in their own sequences."""
    parts: Iterator[Any] = (part for part in model.modules() if getattr(part, "attn_temperature_tuning", False))
    counting = next((part for part in parts if not getattr(part, "use_rope", True)), None)
    if counting is None or tokens < counting.floor_scale:
        return None
    told = f"{type(counting).__name__} scales queries by places that it counts from the beginning of the row"
    return f"{type(model).__name__} cannot be trained on long packs: {told} (attn_temperature_tuning, floor_scale)"


def rope_settings(config: Any) -> Iterator[dict[str, Any]]:
    """The RoPE settings of a model's configuration, one for each kind of layer; none where it has no RoPE."""
    config = _of_text(config)
    found = getattr(config, "rope_parameters", None) or {}
    default = getattr(config, "max_position_embeddings", None)
    for settings in [found] if "rope_type" in found else found.values():
        if isinstance(settings, dict):
            yield {"original_max_position_embeddings": default, **settings}


def _of_text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def why_not_causal(model: nn.Module) -> str | None:
    """Why the model's loss would say nothing about the next token."""
    config = _of_text(getattr(model, "config", None))
    for setting, wanted in TWO_WAYS if getattr(config, "model_type", None) not in ONE_WAY else ():
        if (given := getattr(config, setting, wanted)) in (not wanted, "all"):
            told = f"{type(model).__name__} sees the tokens that it is to predict ({setting}: {given})"
            return f"{told}; set {setting} to {wanted} in its config, or take a causal model"
    return None


def why_no_loss(model: nn.Module) -> str | None:
    """Why the model's loss is none of the next token, or more than cross entropy."""
    if reason := why_not_causal(model):
        return reason
    config = _of_text(getattr(model, "config", None))
    name = next((name for name in OF_THE_ROUTER if getattr(config, name, 0)), None)
    if not name or not getattr(config, "output_router_logits", False):
        return None
    told = f"(output_router_logits: true, {name}: {getattr(config, name)})"
    told = f"{type(model).__name__} adds the router's auxiliary loss {told}, which is taken over all tokens"
    told += " of a micro-batch and so depends on which sequences share it"
    return f"{told}; set output_router_logits: false in its config.json"


def unrun_code(model: nn.Module) -> str | None:
    """A line where a model's folder names code of its own, and transformers' class of that name was taken instead."""
    config = getattr(model, "config", None)
    named = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if config is None or not named or (kind := _of_transformers(model)) is None:
        return None
    return (f"{config.name_or_path} comes with code of its own ({named}), which is not run: this is transformers' "
            f"{kind.__name__}")  # fmt: skip


_looked_at: WeakKeyDictionary[nn.Module, tuple[str | None, str | None]] = WeakKeyDictionary()


def why_not_this_batch(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """Why the loss of this batch, packed or padded, would not be that of its sequences alone."""
    model = unwrapped(model)
    if model not in _looked_at:
        _looked_at[model] = (why_not_packed(model), why_not_padded(model))
    rows, tokens = inputs["input_ids"].shape
    packed = inputs.get("cu_seqlens") is not None
    if (reason := why_no_loss(model)) or not (len(inputs["cu_seqlens"]) > 2 if packed else rows > 1):
        return reason
    reason = _looked_at[model][not packed] or why_not_rotated(model, inputs["max_seqlen"] if packed else tokens)
    return reason or (why_not_seen(model) or why_not_counted(model, tokens) if packed else None)


def why_not_seen(model: nn.Module) -> str | None:
    """Why attention may not see the ends of sequences: of some classes (GPT-OSS, OPT) transformers' own does not."""
    named = getattr(getattr(model, "config", None), "_attn_implementation", None)
    stock = named and not named.startswith("longalign") and _of_transformers(model)
    told = f"attention {named!r} may not see where one ends; load it with attn_implementation=register_attention()"
    return f"{type(model).__name__} cannot be trained on packs of several sequences: {told}" if stock else None


def why_not_loaded(kind: type[nn.Module] | None) -> str | None:
    """Why a class of models of transformers cannot take the attention "longalign"."""
    if kind is None or getattr(kind, "_can_set_attn_implementation", lambda: True)():
        return None
    return (
        f"{kind.__name__} cannot be trained here: its attention is code of its own, which does not ask transformers' "
        "AttentionInterface for another, so it cannot be told where a sequence of a pack ends"
    )
