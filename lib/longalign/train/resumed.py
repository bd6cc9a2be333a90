"""Whether a training that goes on, or ends with its best model, has what the checkpoint held: its weights, and the
states of the optimizer and of the learning rate.

The Trainer passes over what it does not find there.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.state import AcceleratorState, DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

WEIGHTS = "longalign_bits"
"""Where a checkpoint notes its step, and what `bits_of` said of the model then."""
WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a number; sums of them are the same in any order."""


def bits_of(model: nn.Module) -> list[str]:
    """Two hashes, of all weights that are trained and of those that are not, whatever device holds them; "" where ranks
    hold parts of them.

    A weight in bfloat16 counts as the same number in fp32. Of weights that a library of its own has quantized, none
    counts.
    """
    if _is_sharded():
        return ["", ""]
    found: dict[bool, list[str]] = {True: [], False: []}
    for weight in model.parameters():
        if type(weight) is nn.Parameter:
            found[weight.requires_grad].append(hashlib.sha256(_sums(weight.detach())).hexdigest())
    return [hashlib.sha256(str(sorted(hashes)).encode()).hexdigest() for hashes in found.values()]


def _sums(weight: Tensor) -> bytes:
    whole = weight.contiguous().view(WHOLE_NUMBERS[weight.element_size()])
    rows = whole.sum(-1, dtype=torch.int64) if whole.ndim > 1 else whole.long()
    return (rows << 16 if weight.dtype == torch.bfloat16 else rows).cpu().numpy().tobytes()


def check_weights(told: Mapping[str, Any], model: nn.Module, name: str, *, step: int) -> None:
    """Raise ValueError unless the model has the weights that the checkpoint `name` of a step notes in `told`; one that
    notes none is gone on from."""
    then, *noted = told.get(WEIGHTS, (0,))
    if then != step or not step:
        return
    trained, kept = (
        now != before and "" not in (now, before) for now, before in zip(bits_of(model), noted, strict=True)
    )
    if trained:
        raise ValueError(
            f"the model does not have the weights with which {name} was written: the Trainer has not found all of "
            "them there under the names that the model has, or has rounded them to another dtype; load the model "
            "itself from that folder (from_pretrained), in the dtype of its start, to go on from it or to use it"
        )
    if kept:
        raise ValueError(
            f"the weights that are not trained are others than those with which {name} was written: load the model "
            "with which that training began, in the same dtype, and freeze the same parts of it"
        )


def check_states(scheduler: Any, name: str, *, step: int) -> None:
    """Raise ValueError where a training that goes on at `step` has begun its learning rate anew, as the Trainer does,
    with an optimizer without states, where the checkpoint `name` holds the model alone."""
    if step == 0 or _is_sharded() or hasattr(scheduler, "num_bad_epochs"):  # that goes by the evaluations
        return
    if getattr(scheduler, "last_epoch", None) == 0:
        raise ValueError(
            f"{name} holds no states of the optimizer and of the learning rate that this Trainer reads, so that both "
            f"would begin anew at step {step}: go on from a checkpoint that was written without save_only_model and "
            "by the same engine, or load the model from that folder (from_pretrained) and begin a new training with it"
        )


def check_best(model: nn.Module, arguments: Any) -> None:
    """Raise ValueError where the Trainer would not find all weights of its best model in a checkpoint."""
    if arguments.load_best_model_at_end and not _is_sharded() and (names := sorted(_saved_otherwise(model))):
        raise ValueError(
            f"load_best_model_at_end is True, but checkpoints hold {names[0]} ({len(names)} such weights) under "
            "another name, where the Trainer does not find it: set it to False, and load the best checkpoint's folder "
            "itself after the training (from_pretrained)"
        )


def _saved_otherwise(model: nn.Module) -> Iterator[str]:
    """Trained weights that a folder holds under other names than the model, such as experts that lie there one by
    one."""
    if isinstance(model, PreTrainedModel) and not getattr(model, "_hf_peft_config_loaded", False):
        empty = {name: torch.empty_like(weight, device="meta") for name, weight in model.state_dict().items()}
        there = revert_weight_conversion(model, empty)
        yield from (name for name, weight in model.named_parameters() if weight.requires_grad and name not in there)


def _is_sharded() -> bool:
    return AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
