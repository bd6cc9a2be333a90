"""What a model's folder says of how answers are written: its end tokens are used, and all else is ignored and told.

Answers are greedy, the most probable token each time (argmax), so that two models differ by what they have learnt
alone. generation_config.json may ask for something else: sampling, a penalty for repetition, a least length. The hash
of a model (`longalign.common.provenance.hash_model`) counts the file.
"""

import inspect
import sys
from typing import Any

from longalign.data.chat import end_of_answers

USED = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
OF_NO_EFFECT = (
    "transformers_version", "_from_model_config", "use_cache", "cache_", "max_cache_len", "output_", "return_dict",
)  # fmt: skip
"""Beginnings of the names of what changes no answer."""
WINDOWS = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
"""Where configurations say how far attention reaches back, and their name for a layer that does not reach further."""
MASKS_OF_WINDOWS = ("sliding_window", "chunked_causal_mask", "create_masks_for_generate")
"""One of these stands in the code of each class of transformers whose attention has such a window."""


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The ids of the tokens that end an answer, ascending: those of the model's settings, the tokenizer's own, and the
    one that its chat template writes behind an answer, with which training teaches to end.

    Raises ValueError where neither names one.
    """
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = [told] if isinstance(told, int | str) else list(told or [])
    if wrong := [token for token in several if type(token) is not int]:
        raise ValueError(f"generation_config.json: eos_token_id holds {wrong[0]!a:.40}, which is no token's number")
    found = sorted({*several, tokenizer.eos_token_id, end_of_answers(tokenizer)} - {None})
    if not found:
        raise ValueError("neither the model nor its tokenizer names a token that ends an answer: set eos_token_id in "
                         "generation_config.json")  # fmt: skip
    return found


def ignored(model: Any) -> dict[str, Any]:
    """The settings of generation that greedy answers do not follow.

    >>> from types import SimpleNamespace
    >>> from transformers import GenerationConfig
    >>> ignored(SimpleNamespace(generation_config=GenerationConfig(eos_token_id=[1, 2], repetition_penalty=3.0)))
    {'repetition_penalty': 3.0}
    """
    settings = getattr(model, "generation_config", None)
    told = settings.to_diff_dict() if settings is not None else {}
    return {name: value for name, value in told.items()
            if name not in USED and not name.startswith(OF_NO_EFFECT) and value is not False}  # fmt: skip


def tell_ignored(model: Any) -> None:
    """One line on stderr, where a model asks for what greedy answers do not follow."""
    if told := ", ".join(f"{setting} {value}" for setting, value in ignored(model).items()):
        print(f"longalign: {model.config.name_or_path}: answers are greedy (the most likely token); these settings "
              f"of generation are ignored: {told}", file=sys.stderr, flush=True)  # fmt: skip


def forget_foreign_windows(model: Any) -> None:
    """Take windows out of a model's configuration, in memory, whose class has none.

    A Mistral that was saved as a Llama keeps its `sliding_window`. Llama's attention passes over it and reaches over
    all tokens, but `generate` would keep the keys and values of so many tokens alone.
    """
    names = {type(part).__module__ for part in model.modules()}
    code = "".join(inspect.getsource(sys.modules[name]) for name in names if name.startswith("transformers.models."))
    if any(mask in code for mask in MASKS_OF_WINDOWS):
        return
    config = model.config.get_text_config()
    for setting, kind in WINDOWS.items():
        if getattr(config, setting, None) is not None:
            setattr(config, setting, None)
        if kind in (layers := getattr(config, "layer_types", None) or ()):
            config.layer_types = ["full_attention" if layer == kind else layer for layer in layers]
