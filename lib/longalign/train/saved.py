"""A model that was written computes what was trained: it is loaded back, before what could train it again is deleted.

Compared are names and values of all weights with the state that was trained, and the logits of a probe with the model
in memory; of LoRA also the adapter, which PEFT loads onto the weights that training began with. Where memory has no
room for the model a second time, names and values are compared file by file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from longalign.train import memory, probes

COMPUTED = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")
"""Ends of names that older versions of transformers gave to what is computed, not learnt."""
OTHER_HEADS = re.compile("Classification|QuestionAnswering|MultipleChoice|RewardModel")
"""In names of classes that are no language models."""
PROBE = 16
"""Tokens."""
ROUNDING = {torch.float32: 1e-3}
"""How far logits may be apart, relative, by the format of the weights; merging an update rounds them."""
IN_16_BITS = 0.2


def check(
    model: PreTrainedModel, folder: Path | str, state: Mapping[str, Tensor], whole: Mapping[str, Tensor], *,
    sharded: bool,
) -> None:  # fmt: skip
    """Raise RuntimeError, saying what differs, unless `folder` holds the model of the state `whole`.

    `state` is the same as it was trained: with LoRA's matrices, which also lie in `folder` as an adapter. A `sharded`
    model is not asked for logits, since other ranks would have to take part.
    """
    folder = Path(folder)
    size = sum(tensor.numel() * tensor.element_size() for tensor in whole.values())
    with probes.untouched(model), _no_ranks(), torch.no_grad():
        if memory.free_memory() < 2 * size:
            return _compare_files(folder, whole)
        loaded = _load(type(model), folder, whole)
        _compare(folder, whole, loaded.state_dict())
        ids = _ids(loaded)
        with _in_the_format_of_its_weights(model):
            expected = _logits(loaded if sharded else model, ids)
        _agree(folder, "model", expected, _logits(loaded, ids), whole)
        if hasattr(model, "peft_config"):
            _check_adapter(folder / "adapter", loaded, state, ids, expected)


def told_whole(told: Mapping[str, Any], where: Path | str, model: PreTrainedModel) -> None:
    """Raise ValueError for a folder whose loading as `model` has told of weights that are missing, of another shape, or
    without a place in its layers, for one of a classifier, whose embeddings would stand in for a head, and for one with
    an adapter beside the weights, which transformers loads, too.

    Whole parts that a language model does not have (for images, of a classifier) may lie beside it, and so may layers
    that predict further tokens.
    """
    if getattr(model, "peft_config", None):
        raise ValueError(f"{where} holds an adapter (adapter_config.json) beside a model: merge it, or move it away")
    for name in getattr(model.config, "architectures", None) or ():
        if OTHER_HEADS.search(name):
            raise ValueError(f"{where} is a {name}, which has no head of a language model: take a folder that has one")
    homeless = [name for name in told["unexpected_keys"] if _belongs(name, model)]
    for names, what in (
        (told["missing_keys"], "no whole model: it lacks"),
        (told["mismatched_keys"], "no whole model: of another shape than its config says are"),
        (homeless, "another model than its config says: there is no place for"),
    ):
        if names := sorted(str(name[0] if isinstance(name, tuple) else name) for name in names):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{where} is {what} {', '.join(names[:3])}{more}")


def _belongs(name: str, model: PreTrainedModel) -> bool:
    """Whether a weight that the model has no place for would be one of its layers, or stands beside weights it has."""
    modules, above = dict(model.named_modules()), name
    while (above := above.rpartition(".")[0]) not in modules:
        pass
    if name.endswith(COMPUTED) or not above:
        return False
    if isinstance(modules[above], nn.ModuleList):  # a layer more
        further = getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0
        return int(name[len(above) + 1 :].partition(".")[0]) >= len(modules[above]) + further
    within, has_layers = name[len(above) + 1 :].split("."), any(map(_is_a_list, modules[above].children()))
    if len(within) == 2 and "norm" in within[0] and has_layers:
        return True  # behind or before all layers
    in_a_list = any(isinstance(modules[part], nn.ModuleList) for part in _above(above))
    return in_a_list or next(modules[above].parameters(recurse=False), None) is not None


def _is_a_list(part: nn.Module) -> bool:
    return isinstance(part, nn.ModuleList)


def _above(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


@contextlib.contextmanager
def _no_ranks() -> Iterator[None]:
    """Within this context a model that is loaded is not dealt to the ranks of ZeRO-3."""
    from transformers.integrations import deepspeed

    found = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = found


@contextlib.contextmanager
def _in_the_format_of_its_weights(model: nn.Module) -> Iterator[None]:
    """Within this context a model is called without what accelerate puts around it (autocast), as the one that is
    loaded back is."""
    around = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if around is not None:
            model.forward = around


def _load(kind: type[PreTrainedModel], folder: Path, whole: Mapping[str, Tensor]) -> PreTrainedModel:
    widest = max((tensor.dtype for tensor in whole.values() if tensor.is_floating_point()), key=lambda d: d.itemsize)
    try:
        loaded, told = kind.from_pretrained(
            folder, dtype=widest, attn_implementation="eager", output_loading_info=True, local_files_only=True
        )
        told_whole(told, folder, loaded)
    except (OSError, ValueError, RuntimeError) as error:
        raise _wrong(folder, " ".join(str(error).split())) from None
    return loaded.eval()


def _compare(folder: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise _wrong(folder, f"it has no {name}")
        if not torch.equal(found[name], tensor.to(found[name])):
            raise _wrong(folder, f"{name} has other values")


def _compare_files(folder: Path, wanted: Mapping[str, Tensor]) -> None:
    """What `_compare` does, one tensor at a time; of weights that are stored under other names only the count."""
    left = {tensor.data_ptr(): tensor.numel() for tensor in wanted.values()}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no mapping
                found = tensors.get_tensor(name)
                if name in wanted:
                    _compare(folder, {name: wanted[name]}, {name: found})
                    left.pop(wanted[name].data_ptr(), None)
                else:
                    left[-len(left) - 1] = -found.numel()
    if missing := sum(left.values()):
        raise _wrong(folder, f"{missing:,} weights are missing")


def _check_adapter(folder: Path, base: PreTrainedModel, state: Mapping[str, Tensor], ids: Tensor, expected: Tensor):
    from peft import PeftModel

    from longalign.train import lora

    base.load_state_dict(lora.unadapted(state))
    try:
        adapted = PeftModel.from_pretrained(base, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise _wrong(folder, " ".join(str(error).split())) from None
    _compare(folder, {name: state[name] for name in state if ".lora_" in name}, base.state_dict())
    _agree(folder, "adapter", expected, _logits(adapted.base_model.model, ids), state)


def _ids(model: PreTrainedModel) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(0, model.get_input_embeddings().num_embeddings, (1, PROBE), generator=random)


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with probes.attention(model, "eager"):
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()


def _agree(folder: Path, what: str, expected: Tensor, found: Tensor, state: Mapping[str, Tensor]) -> None:
    apart = float((expected - found).norm() / expected.norm())
    formats = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if not apart <= max(ROUNDING.get(dtype, IN_16_BITS) for dtype in formats):
        raise _wrong(folder, f"the logits of the {what} differ by {apart:.1e} from those of the model that was trained")


def _wrong(folder: Path, what: str) -> RuntimeError:
    return RuntimeError(f"{folder} does not hold what was trained: {what}; the checkpoints are kept")
