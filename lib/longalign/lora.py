"""LoRA (arXiv 2106.09685) by PEFT: of every linear layer but the output one, only an update of low rank is trained.

A layer computes W x + ALPHA_PER_RANK B A x, with A [rank, in] and B [out, rank], in the paper's alpha / r notation. B
begins at zero, so that training begins at the model itself. The price: what is trained is merged into the weights when
it is saved, so that all else reads a plain model; the two small matrices are kept beside it, in PEFT's own form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

ALPHA_PER_RANK = 2.0
_MATRIX = re.compile(r"(.+)\.lora_([AB])\.default\.weight")


def adapt(model: PreTrainedModel, rank: int, *, seed: int) -> None:
    """Put LoRA's matrices into a model, in place, and leave nothing else to be trained; A is drawn with `seed`.

    >>> from longalign.models import new_model
    >>> model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)       # lengths 2, 4, 3 in one pack of 9
    >>> adapt(model, 4, seed=0)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad) < sum(p.numel() for p in model.parameters()) / 10
    True
    """
    torch.manual_seed(seed)
    inject_adapter_in_model(_config(rank), model)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the plain model that computes the same as the adapted one of which `state` is the state.

    As exactly as the weights' dtype allows: bf16 rounds away what of an update is below a 256th of the weight; the
    adapter (`write_adapter`) holds it whole.

    >>> state = {"q.base_layer.weight": torch.ones(1, 1), "q.lora_A.default.weight": torch.tensor([[3.0]]),
    ...          "q.lora_B.default.weight": torch.tensor([[0.5]]), "norm.weight": torch.ones(1)}
    >>> merged(state)
    {'q.weight': tensor([[4.]]), 'norm.weight': tensor([1.])}
    """
    updates: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if found := _MATRIX.fullmatch(name):
            updates.setdefault(found[1], {})[found[2]] = tensor
    plain = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".base_layer.")
        if layer in updates and kind == "weight":
            wide = {side: matrix.float() for side, matrix in updates[layer].items()}
            tensor = (tensor.float() + ALPHA_PER_RANK * wide["B"] @ wide["A"]).to(tensor.dtype)
        if not _MATRIX.fullmatch(name):
            plain[f"{layer}.{kind}" if layer else name] = tensor
    return plain


def write_adapter(state: Mapping[str, Tensor], folder: Path) -> None:
    """The trained matrices as an adapter that PEFT loads onto the model that training began with, its context extended
    as it was then."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: match for name in state if (match := _MATRIX.fullmatch(name))}
    ours = {f"base_model.model.{name.replace('.default', '')}": state[name].contiguous() for name in found}
    save_file(ours, folder / "adapter_model.safetensors")
    settings = _config(next(len(state[name]) for name, match in found.items() if match[2] == "A"))
    settings.target_modules = sorted({match[1].rpartition(".")[2] for match in found.values()})
    settings.inference_mode, settings.task_type = True, "CAUSAL_LM"
    settings.save_pretrained(folder)


def _config(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=round(ALPHA_PER_RANK * rank), target_modules="all-linear", lora_dropout=0.0)
