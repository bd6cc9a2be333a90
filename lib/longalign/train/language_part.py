"""Models that read images or sounds, too: text uses their language part alone, and that alone is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from longalign.common import weight_files

_FURTHER = re.compile(r"(?:^|\.)(?:mtp[._]|layers\.(\d+)\.)")
"""In names of the weights of layers: of those that predict further tokens, or which layer it is."""


def others(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters that text does not use: of a model whose configuration holds one of text beside others, those
    outside its decoder, its embeddings and its head. [] for a language model, or where the decoder is not known.

    >>> from longalign.train.models import new_model
    >>> others(new_model("mini-6b", vocab_size=16, max_length=9, seed=0))           # lengths 2, 4, 3 in one pack of 9
    []
    """
    text, decoder = model.config.get_text_config(), model.get_decoder()
    if text is model.config or decoder is None or getattr(decoder, "config", None) is not text:
        return []
    parts = (decoder, model.get_input_embeddings(), model.get_output_embeddings())
    passed = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in passed]


def freeze_others(model: PreTrainedModel) -> None:
    """Leave out of a training what text does not use: DeepSpeed would let it decay by `weight_decay`, without a
    gradient, and keep states of it."""
    for parameter in others(model):
        parameter.requires_grad_(False)


def notes(config: Any, model: PreTrainedModel) -> Iterator[str]:
    """A line where less is trained, or saved, than a folder with this configuration holds. Raises ValueError where
    what is saved would be no model that AutoModelForCausalLM loads (Llama 3.2 Vision's language part)."""
    if left := sum(parameter.numel() for parameter in others(model)):
        yield (f"{type(model).__name__} reads more than text: the {left:,} weights that text does not use are not "
               "trained, and are saved as they are")  # fmt: skip
    elif config.get_text_config() is not config and model.config.get_text_config() is model.config:
        whole = next(iter(config.architectures or ()), type(config).__name__)
        if type(model.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"{type(model).__name__}, the language part of a {whole}, would be saved alone, and "
                             "AutoModelForCausalLM loads no such folder, nor could it be evaluated or trained further: "
                             "take a language model without images")  # fmt: skip
        yield (f"{type(model).__name__}, the language part of a {whole}, is trained and saved alone, without what "
               "reads images or sounds")  # fmt: skip


def further_notes(folder: Path | str, config: Any) -> Iterator[str]:
    """A line where a folder holds layers behind the last one, which predict further tokens: transformers leaves them
    out when it loads such a model."""
    text = config.get_text_config()
    if not (layers := getattr(text, "num_hidden_layers", None)):
        return
    behind = getattr(text, "num_nextn_predict_layers", None)
    found = [
        name for name in weight_files.names(folder)
        if (place := _FURTHER.search(name)) and (place[1] is None or (behind and int(place[1]) >= layers))
    ]  # fmt: skip
    if found:
        yield (f"{folder} holds {len(found):,} weights of layers that predict further tokens ({min(found)}): they are "
               "not trained, and are not in the saved model")  # fmt: skip
