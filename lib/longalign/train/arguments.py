"""Settings of a Trainer, transformers' or TRL's, under which it would not do what a plan and its weights say."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from longalign.recipe.batching import Plan
from longalign.recipe.dataset import check_several

WANTED = {
    "label_smoothing_factor": (0.0, "which the weighted loss leaves out"),
    "loss_type": ("nll", "which the weighted loss leaves out"),
    "completion_only_loss": (None, "but labels alone say what is learnt"),
    "assistant_only_loss": (False, "but labels alone say what is learnt"),
    "fp16": (False, "in which the weights of long sequences underflow"),
    "neftune_noise_alpha": (None, "whose noise is less in a longer row, whatever sequences share it"),
    "ignore_data_skip": (False, "so that a training that goes on would begin the plan again"),
    "train_sampling_strategy": ("sequential", "so that micro-batches would leave the step that they are weighted for"),
    "per_device_train_batch_size": (1, "but an element of the dataset is a micro-batch"),
    "per_device_eval_batch_size": (1, "but an element of the dataset is a micro-batch"),
}
"""What settings must be, and why not another value."""
PREPARED = {"skip_prepare_dataset": True}


def check(arguments: Any, plans: Sequence[Plan] = ()) -> None:
    """Raise ValueError, naming the setting, unless a Trainer with these `arguments` trains the `plans` as they are, and
    TypeError for one plan without a list around it.

    >>> from types import SimpleNamespace
    >>> check(SimpleNamespace(label_smoothing_factor=0.1))
    Traceback (most recent call last):
    ValueError: label_smoothing_factor is 0.1, which the weighted loss leaves out: set it to 0.0
    """
    check_several(plans)
    for name, (wanted, why) in WANTED.items():
        given = getattr(arguments, name, wanted)
        if given != wanted and getattr(given, "value", given) != wanted:
            raise ValueError(f"{name} is {given!r}, {why}: set it to {wanted!r}")
    prepared = getattr(arguments, "dataset_kwargs", PREPARED)  # TRL's
    if not (prepared or {}).get("skip_prepare_dataset"):
        raise ValueError(f"dataset_kwargs is {prepared!r}, with which TRL looks for texts in the dataset, which holds "
                         f"the numbers of micro-batches: set it to {PREPARED!r}")
    if getattr(arguments, "n_gpu", 1) > 1:
        raise ValueError(f"one process has {arguments.n_gpu} GPUs, and the Trainer would cut the packs between them: "
                         "start one process for each GPU, with torchrun or accelerate launch")  # fmt: skip
    if (shared := getattr(getattr(arguments, "parallelism_config", None), "non_data_parallel_size", 1)) != 1:
        raise ValueError(f"parallelism_config has {shared} processes share a batch, but the plan deals one to each: "
                         "leave it out")  # fmt: skip
    loader = getattr(arguments, "accelerator_config", None)
    for name in ("split_batches", "dispatch_batches"):
        if getattr(loader, name, None):
            raise ValueError(f"{name} of accelerator_config is True, but a micro-batch is for one process, and a pack "
                             "cannot be cut: leave it out")  # fmt: skip
    if len(plans) > 1 and arguments.max_steps <= 0 and arguments.num_train_epochs > 1:
        raise ValueError(
            f"num_train_epochs is {arguments.num_train_epochs:g}, and there are {len(plans)} plans, which are an epoch "
            "each: the Trainer would train all of them in every epoch; set it to 1"
        )
    for plan in plans:
        check_steps(arguments, plan.ranks, plan.accumulation)


def check_steps(arguments: Any, ranks: int, accumulation: int) -> None:
    """Raise ValueError unless a Trainer with these `arguments` makes its optimizer steps of as many micro-batches of as
    many processes as they were planned for."""
    made = accumulation_of(arguments)
    if made > 1 and not hasattr(Trainer, "loss_is_scaled_for_ga"):
        raise ValueError("this version of transformers divides the loss of some models by the accumulation once more: "
                         "install transformers 5.19 or newer")  # fmt: skip
    for name, planned, given in (
        ("gradient_accumulation_steps", accumulation, made),
        ("world_size", ranks, arguments.world_size),
    ):
        if planned != given:
            raise ValueError(f"{name} is {given}, but the plan was made for {planned}: make a plan for {given}")


def check_router(model: PreTrainedModel, arguments: Any) -> None:
    """Raise ValueError where TRL's Trainer would have the model add its router's auxiliary loss, which it does by a
    setting of its own, whatever the model's configuration says; None is the model's own coefficient."""
    config = model.config.get_text_config()
    given = getattr(arguments, "router_aux_loss_coef", 0.0)
    added = getattr(config, "router_aux_loss_coef", 0.0) if given is None else given
    if added and hasattr(config, "output_router_logits"):
        raise ValueError(f"router_aux_loss_coef is {given!r}, with which TRL adds {added} times the auxiliary loss of "
                         f"the router of {type(model).__name__}, which the weighted loss leaves out: set it to 0.0")


def why_nothing_learnt(model: nn.Module) -> str | None:
    """Why no step would change a weight, which gradient checkpointing hides: it gives the loss a gradient all the same.

    >>> why_nothing_learnt(nn.Linear(8, 8).requires_grad_(False))[:56]
    'none of the weights of Linear is trained (requires_grad '
    """
    name = type(model).__name__
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return (f"none of the weights of {name} is trained (requires_grad is False for all): set it to True for those "
                "that are to learn; an adapter that is loaded needs is_trainable=True, and one that was merged "
                "(merge_and_unload) leaves all frozen")  # fmt: skip
    if any(getattr(part, "merged", False) is True for part in model.modules()):
        return (f"the adapter of {name} is merged into its weights, and learns nothing there: call unmerge_adapter() "
                "before the training")  # fmt: skip
    return None


def accumulation_of(arguments: Any) -> int:
    """Micro-batches of one process in an optimizer step, which accelerate may be told, too."""
    loader = getattr(arguments, "accelerator_config", None)
    accelerate = getattr(loader, "gradient_accumulation_kwargs", None) or {}
    return max(arguments.gradient_accumulation_steps, accelerate.get("num_steps", 1))


def trained_again(arguments: Any, plans: Sequence[Plan]) -> list[str]:
    """A line where the Trainer makes more steps than the plans have: it begins them again.

    >>> from types import SimpleNamespace
    >>> from longalign.recipe.batching import plan_packing
    >>> trained_again(SimpleNamespace(max_steps=3), [plan_packing([2, 4, 3], capacity=9)])[0][:66]
    'the Trainer makes 3 steps and the plans have 1: it trains them aga'
    """
    planned = sum(len(plan.steps) for plan in plans)
    made = arguments.max_steps if arguments.max_steps > 0 else round(arguments.num_train_epochs * planned)
    return [
        f"the Trainer makes {made:,} steps and the plans have {planned:,}: it trains them again, in the same order; a "
        "plan for each epoch has another one"
    ] if plans and made > planned else []  # fmt: skip


def lost_steps(model: nn.Module, arguments: Any) -> list[str]:
    """A line where weights are trained in 16 bits and a step of the learning rate, as Adam takes it, is lost to
    rounding in some of them. DeepSpeed and FSDP with bf16 keep weights of their own in fp32. Looked at are the first
    1,000 numbers of each parameter.

    >>> from types import SimpleNamespace
    >>> ones = nn.Embedding.from_pretrained(torch.ones(9, 4), freeze=False)
    >>> lost_steps(ones.bfloat16(), SimpleNamespace(learning_rate=1e-6))[0][:46]
    '100 % of the weights that are trained in 16 bi'
    """
    kept_whole = getattr(arguments, "deepspeed", None) or (getattr(arguments, "fsdp", None) and arguments.bf16)
    looked_at = [] if kept_whole else [p.detach().flatten()[:1000] for p in model.parameters() if p.requires_grad]
    coarse = [some for some in looked_at if some.dtype in (torch.bfloat16, torch.float16) and len(some)]
    if not coarse:
        return []
    rate, number = arguments.learning_rate, sum(map(len, coarse))
    lost = sum(int((some + rate == some).sum()) for some in coarse) / number
    return [
        f"{100 * lost:.0f} % of the weights that are trained in 16 bits stay as they are in a step of the learning "
        f"rate, {rate}, which rounding takes away: load the model with "
        "dtype=\"float32\", and set bf16=True to compute in bfloat16"
    ] if lost > 0.005 else []  # fmt: skip
