"""What decides how much memory a training needs: the shape of its model, and its largest micro-batch."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from longalign.recipe.batching import Plan
from longalign.train import models
from longalign.train.memory import ModelShape


def model_shape(folder: Path | str, *, lora_rank: int = 0) -> ModelShape:
    """The shape of a saved model, of which no weight is read, and what LoRA of a rank would train of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from longalign.recipe.loss import attach_loss_head

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        if lora_rank:
            from longalign.train import lora

            lora.adapt(model, lora_rank, seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if lora_rank else None
    chunked = attach_loss_head(model) is not None and not models.changes_logits(config)
    counted = sum(p.numel() for p in model.parameters())
    return replace(models.model_shape(config), counted=counted, trained=trained, chunked=chunked)


def largest_micro_batch(plans: list[Plan], target_counts: list[int]) -> tuple[int, int]:
    """Positions that are computed and targets, each of the micro-batch (or slice of one) that has most."""
    positions = targets = 0
    for plan in plans:
        for step, rank, micro_step in itertools.product(plan.steps, range(plan.ranks), range(plan.accumulation)):
            batch = step.micro_batches[rank][micro_step]
            rows = [sum(int(plan.lengths[i]) for i in row) for row in batch]
            padded = sum(rows) if plan.method == "packing" else len(rows) * max(rows, default=0)
            slice_ = -(-padded // plan.shared_by(step, rank, micro_step))
            positions = max(positions, slice_)
            # all of them may lie in one slice
            targets = max(targets, min(slice_, sum(int(target_counts[i]) for row in batch for i in row)))
    return positions, targets
