"""LoRA (arXiv 2106.09685) by PEFT: of every linear layer but the output one, only an update of low rank is trained.

A layer computes W x + ALPHA_PER_RANK B A x, with A [rank, in] and B [out, rank], in the paper's alpha / r notation. B
begins at zero, so that training begins at the model itself. What is trained is merged into the weights when it is
saved, so that all else reads a plain model; the two small matrices are kept beside it, in PEFT's own form.

Experts whose weights are fused into one parameter stay as they are, and so do a router and the feed-forward layers
beside them: of a mixture of experts, LoRA trains the attention. So does the last layer of a Mamba block where PEFT
refuses to adapt it, and what reads images or sounds (`longalign.train.language_part`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from longalign.train import language_part

ALPHA_PER_RANK = 2.0
_MATRIX = re.compile(r"(.+)\.lora_([AB])\.default\.weight")
_OF_EXPERTS = {"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"}
"""Names that PEFT takes for parts of fused experts, wherever they stand in a model that has some."""
_OF_MAMBA, _MAMBA = {"out_proj"}, {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
"""Names that PEFT refuses in models of these types, whose kernels read such a layer's weight without its update."""


def adapt(model: PreTrainedModel, rank: int, *, seed: int) -> None:
    """Put LoRA's matrices into a model, in place, and leave nothing else to be trained; A is drawn with `seed`.

    >>> from longalign.train.models import new_model
    >>> model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)       # lengths 2, 4, 3 in one pack of 9
    >>> adapt(model, 4, seed=0)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad) < sum(p.numel() for p in model.parameters()) / 10
    True
    """
    torch.manual_seed(seed)
    inject_adapter_in_model(_config(model, rank), model)
    if experts := model.peft_config["default"].target_parameters:
        raise ValueError(f"PEFT would adapt fused experts of {type(model).__name__} ({sorted(experts)}), which are not "
                         "merged here: train all weights (lora_rank: 0)")  # fmt: skip


def transposed(model: PreTrainedModel) -> set[str]:
    """Names of an adapted model's layers whose weight is [in, out]: GPT-2's `Conv1D`."""
    return {name.removesuffix(".base_layer") for name, layer in model.named_modules() if isinstance(layer, Conv1D)}


def merged(state: Mapping[str, Tensor], *, transposed: Collection[str] = ()) -> dict[str, Tensor]:
    """The state of the plain model that computes the same as the adapted one of which `state` is the state; the layers
    `transposed` hold their weights as [in, out].

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
            update = ALPHA_PER_RANK * wide["B"] @ wide["A"]
            tensor = (tensor.float() + (update.T if layer in transposed else update)).to(tensor.dtype)
        if not _MATRIX.fullmatch(name):
            plain[f"{layer}.{kind}" if layer else name] = tensor
    return plain


def unadapted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the model before it was adapted, out of `state` after it was: without any update."""
    return {name.replace(".base_layer.", "."): state[name] for name in state if not _MATRIX.fullmatch(name)}


def write_adapter(model: PreTrainedModel, state: Mapping[str, Tensor], folder: Path) -> None:
    """The trained matrices of an adapted model, out of its `state`, as an adapter that PEFT loads onto the model that
    training began with, its context extended as it was then."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = {
        f"base_model.model.{name.replace('.default', '')}": state[name].contiguous()
        for name in state if _MATRIX.fullmatch(name)
    }  # fmt: skip
    save_file(ours, folder / "adapter_model.safetensors")
    settings = copy.copy(model.peft_config["default"])
    layers = {name.rpartition(".lora_")[0].removeprefix("base_model.model.") for name in ours}
    settings.target_modules = sorted(_short(layers, [name for name, _ in model.named_modules()]))
    settings.inference_mode, settings.task_type = True, "CAUSAL_LM"
    settings.save_pretrained(folder)


def _short(layers: Collection[str], names: Collection[str]) -> Collection[str]:
    """The last parts of the layers' names, where no other module has one of them, else their whole names."""
    last = {layer.rpartition(".")[2] for layer in layers}
    return last if {name for name in names if name.rpartition(".")[2] in last} == set(layers) else layers


def _config(model: PreTrainedModel, rank: int) -> LoraConfig:
    unread = set(map(id, language_part.others(model)))
    linear = {
        name: layer for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and id(layer.weight) not in unread
    }  # fmt: skip
    head, kind = model.get_output_embeddings(), getattr(model.config, "model_type", None)
    left = (_OF_EXPERTS if _is_mixture(model) else set()) | (_OF_MAMBA if kind in _MAMBA else set())
    layers = {
        name: layer for name, layer in linear.items() if layer is not head and name.rpartition(".")[2] not in left
    }
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer that LoRA could adapt, except its output layer")
    return LoraConfig(
        r=rank, lora_alpha=round(ALPHA_PER_RANK * rank), target_modules=set(layers), lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
    )  # fmt: skip


def _is_mixture(model: PreTrainedModel) -> bool:
    """Whether PEFT may look for fused experts: by the configuration, even where every layer happens to be dense. A
    parameter of three dimensions is one of experts by its name alone: recurrences and tables of positions have some."""
    settings = model.config.get_text_config().to_dict().items()
    counts = (value for name, value in settings if "experts" in name and type(value) is int)
    shapes = (getattr(p, "ds_shape", p.shape) for name, p in model.named_parameters() if "expert" in name)  # ZeRO-3's
    return any(len(shape) > 2 for shape in shapes) or any(count > 1 for count in counts)
