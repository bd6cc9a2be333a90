"""The miniature models and the two ways a model comes to be: fresh from a seed, or a folder with its context extended.

`mini-6b` shares keys and values between heads as ChatGLM3-6B does, `mini-7b` has plain multi-head attention as
Llama-2-7B, `mini-13b` is wider and deeper. All use the attention registered by `longalign.recipe.attention`, so packs
are block-diagonal.
"""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)  # fmt: skip

from longalign.common import weight_files
from longalign.data import tokenizers
from longalign.recipe import attention
from longalign.recipe.architectures import OF_THE_LONGEST, rope_settings, why_not_loaded
from longalign.recipe.cost import SequenceCost
from longalign.train import language_part, saved
from longalign.train.memory import ModelShape

ROPE_BASE = 10_000.0
ROPE_TYPES = ("default", "yarn")
WIDTHS = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
"""Where configurations say how wide the feed-forward layers are; those that do not have four times the hidden size."""
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, AssertionError, ImportError, SafetensorError, StrictDataclassError,
    pickle.UnpicklingError,
)  # fmt: skip
"""What is raised where a model's files cannot be read."""
NO_LANGUAGE_MODEL = (
    "its class is none of a language model that goes on with a text: take one that AutoModelForCausalLM has"
)

MINIATURES = {
    # Heads of 64 features take a tenth less time than twice as many of 32; those that share keys hardly recall.
    "mini-6b": ModelShape(96, 3, 224, heads=6, key_value_heads=3, head_size=32, tied=True),
    "mini-7b": ModelShape(96, 3, 256, heads=3, key_value_heads=3, head_size=64, tied=True),
    "mini-13b": ModelShape(128, 4, 344, heads=4, key_value_heads=4, head_size=64, tied=True),
}


def new_model(
    name: str, *, vocab_size: int, max_length: int, seed: int, shape: Mapping[str, Any] | None = None
) -> LlamaForCausalLM:
    """A randomly initialised miniature for sequences up to `max_length` tokens (fp32, embeddings tied).

    `shape` holds the fields of a ModelShape where it is not the one of that name. Raises KeyError, naming the
    miniatures, for an unknown name.

    >>> model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)       # lengths 2, 4, 3 in one pack of 9
    >>> model.config.num_key_value_heads, model.config.rope_parameters["rope_theta"]
    (3, 10000.0)
    """
    if name not in MINIATURES:
        raise KeyError(f"no miniature is called {name!r}; there are {', '.join(MINIATURES)}")
    attention.register_attention()
    size = ModelShape(**shape) if shape else MINIATURES[name]
    config = LlamaConfig(
        hidden_size=size.hidden_size, num_hidden_layers=size.layers, intermediate_size=size.intermediate_size,
        num_attention_heads=size.heads, num_key_value_heads=size.key_value_heads, head_dim=size.head_size,
        vocab_size=vocab_size, max_position_embeddings=max_length,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        # Llama's 0.02 is made for widths of thousands; at a width of 100 attention would hardly begin to look.
        initializer_range=size.hidden_size**-0.5,
        tie_word_embeddings=size.tied, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        attn_implementation="longalign",
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def load_model(
    folder: Path | str, *, rope_factor: float = 1.0, rope_type: str = "default", max_length: int | None = None
) -> PreTrainedModel:
    """A saved model (fp32) with the registered attention; its context is extended as it is loaded.

    `rope_factor` multiplies its RoPE base (arXiv 2401.18058: 10,000 -> 2,000,000, factor 200, then continual training).
    `max_length` is the new `max_position_embeddings`. With `rope_type` "yarn" the frequencies that turn less than once
    within the old ones are stretched by new over old, those of 32 turns and more stay, and attention is sharpened
    (YaRN, arXiv 2309.00071, by transformers).

    Any architecture of transformers with RoPE that takes registered attention will do; one that rotates some layers for
    a sliding window keeps these as they are. Weights that are quantized as FP8 or MXFP4 are loaded and saved whole.
    Raises FileNotFoundError where no model lies, ValueError when its files lack weights of it or cannot be read, when
    its class cannot take the attention, or when it cannot be extended so.
    """
    config = _extended(Path(folder), rope_factor, rope_type, max_length)
    quantized = _whole_weights(config)
    with in_a_sentence(folder):
        weight_files.check(folder)
        model, told = AutoModelForCausalLM.from_pretrained(
            folder, config=config, attn_implementation=attention.NAME, dtype=torch.float32, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    saved.told_whole(told, f"{folder} with max_length {max_length}" if max_length else folder, model)
    _check_rotated(model, folder, rope_factor, rope_type)
    if quantized and getattr(model, "hf_quantizer", None):
        raise ValueError(f"{folder}: its weights are quantized ({quantized}): take the model without quantization")
    if quantized:
        model._weight_conversions = None  # saving would undo them, and quantize
    elif made := getattr(model, "_weight_conversions", None):
        # under ZeRO-3 transformers keeps those that it did not make, too, and saving would undo them
        model._weight_conversions = [conversion for conversion in made if conversion.was_used()]
    language_part.freeze_others(model)
    # many models pad with their end token, whose embedding would then never be trained
    model.get_input_embeddings().padding_idx = None
    return model


def outline(
    folder: Path | str, *, rope_factor: float = 1.0, rope_type: str = "default", max_length: int | None = None
) -> PreTrainedModel:
    """What `load_model` loads, with no weight read (torch's device "meta"). Same errors."""
    config = _extended(Path(folder), rope_factor, rope_type, max_length)
    with torch.device("meta"), in_a_sentence(folder):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    _check_rotated(model, folder, rope_factor, rope_type)
    return model


def _check_rotated(model: PreTrainedModel, folder: Path | str, rope_factor: float, rope_type: str) -> None:
    extended = (rope_factor, rope_type) != (1.0, "default")
    if extended and not any(name.endswith("inv_freq") for name, _ in model.named_buffers()):
        raise ValueError(f"{folder}: its config has rope_parameters, but {type(model).__name__} rotates nothing: it "
                         "cannot be extended")  # fmt: skip


@contextlib.contextmanager
def in_a_sentence(folder: Path | str) -> Iterator[None]:
    """Within this context what stops a model from being built or read is told with its folder."""
    try:
        yield
    except UNREADABLE as error:
        told = str(folder) in str(error) and "custom code" not in str(error)
        if told and isinstance(error, ValueError | OSError):
            raise
        raise ValueError(f"{folder} cannot be loaded: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What stopped a model from being read, in a phrase."""
    if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
        return "its weight file holds objects beside weights, whose code is not run: save the model's state_dict alone"
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return "its weights are in no format of torch's: were they fetched whole (without Git LFS, a pointer comes)?"
    if isinstance(error, KeyError):
        return f"its files ask for {error}, which transformers does not know"
    return tokenizers.reason(error) or type(error).__name__


def _whole_weights(config: Any) -> str | None:
    """How the weights are quantized, if they are; those that transformers can make whole as it loads them will be."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return None
    if settings.get("quant_method") in ("fp8", "mxfp4"):
        settings["dequantize"] = True
    return settings.get("quant_method", "in some way")


def _extended(folder: Path, rope_factor: float, rope_type: str, max_length: int | None) -> Any:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no model in {folder}: train it first, or run `make bases` for the short bases")
    attention.register_attention()
    with in_a_sentence(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # else a terminal would be asked
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is {max_length}; a model has at least 1 position")
    before = getattr(config.get_text_config(), "max_position_embeddings", None)
    for settings in rope_settings(config) if max_length and max_length != before else ():
        if settings.get("rope_type") in OF_THE_LONGEST:
            raise ValueError(
                f"{folder}: its RoPE of type {settings['rope_type']!r} is computed from max_position_embeddings, "
                f"{before}: with a max_length of {max_length} it would be another model; leave max_length out"
            )
    if (rope_factor, rope_type) != (1.0, "default"):
        extend_rope(config, rope_factor, rope_type, max_length, folder)
    if max_length:
        config.get_text_config().max_position_embeddings = max_length
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise ValueError(f"{folder}: {NO_LANGUAGE_MODEL}")
    if reason := why_not_loaded(kind):
        raise ValueError(f"{folder}: {reason}")
    return config


def extend_rope(config: Any, rope_factor: float, rope_type: str, max_length: int | None, where: Path) -> None:
    """Change a config's RoPE, in place: that of its layers with full attention. Errors as `load_model`; `where` is the
    model's folder, for them."""
    config = config.get_text_config()
    rope, before = getattr(config, "rope_parameters", None) or {}, getattr(config, "max_position_embeddings", None)
    full = rope if "rope_theta" in rope else rope.get("full_attention")
    if not full:
        raise ValueError(f"{where}: its config has no rope_parameters: only models with RoPE can be extended")
    if not rope_factor > 0:
        raise ValueError(f"rope_factor is {rope_factor}; it must be above 0")
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type is {rope_type!r}; it is {' or '.join(ROPE_TYPES)}")
    new = {**full, "rope_theta": full["rope_theta"] * rope_factor}
    if rope_type == "yarn":
        if full.get("rope_type", "default") != "default":
            raise ValueError(f"{where}: its RoPE is scaled already ({full['rope_type']}): yarn needs a plain one")
        if not max_length or max_length <= before:
            raise ValueError(f"{where}: yarn needs a max_length above the {before} positions; it is {max_length}")
        new |= {"rope_type": "yarn", "factor": max_length / before, "original_max_position_embeddings": before}
    config.rope_parameters = new if full is rope else {**rope, "full_attention": new}


def model_shape(config: Any) -> ModelShape:
    """The shape of a model with this configuration, as far as a Llama-like decoder has one.

    Of a mixture of experts those count that a token passes; experts that all tokens share do not.
    """
    config = config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 0  # a recurrence has none
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    experts = getattr(config, "num_experts_per_tok", None) or 1
    inner = next((found for name in WIDTHS if (found := getattr(config, name, None))), 4 * config.hidden_size)
    return ModelShape(
        config.hidden_size, config.num_hidden_layers, experts * inner, heads=heads, head_size=size,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads, vocab_size=config.vocab_size,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )  # fmt: skip


def changes_logits(config: Any) -> bool:
    """Whether a configuration has a softcap or a factor for logits, so that the loss takes all of them at once.

    >>> changes_logits(LlamaConfig()), changes_logits(AutoConfig.for_model("gemma2"))
    (False, True)
    """
    settings = vars(config.get_text_config()).items()
    of_logits = [value for name, value in settings if "logit" in name or "lm_head" in name]
    return any(isinstance(value, int | float) and value not in (0, 1) for value in of_logits)


def sequence_cost(config: Any) -> SequenceCost:
    """FLOPs of a training step by a sequence's length (`ModelShape.cost`), as if no layer had a sliding window.

    >>> sequence_cost(LlamaConfig(
    ...     hidden_size=8, num_hidden_layers=1, intermediate_size=16, vocab_size=10, num_attention_heads=2,
    ...     num_key_value_heads=1,
    ... ))
    SequenceCost(per_token=3936.0, per_pair=48.0, exchange=0.0, shared_per_pair=None)
    """
    return model_shape(config).cost


def device() -> torch.device:
    """Where a model is put that is not trained: the first GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
