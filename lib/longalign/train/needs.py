"""What decides how much memory a training needs: the shape of its model, and its largest micro-batch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longalign.recipe.batching import Plan
from longalign.train import language_part, models
from longalign.train.memory import ModelShape

EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
"""Where configurations say how many routed experts a layer has."""
PASSED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
"""Where they say how many of them a token passes."""
ROUTED = re.compile(r"(^|\.)experts\.")


@dataclass(frozen=True)
class CountedShape(ModelShape):
    """The shape of a model of which `passed` weights, counted in its matrices, are those that a token passes."""

    passed: int | None = None

    @property
    def weights(self) -> int:
        """Those that were counted where they were, else those of any shape."""
        return self.passed or super().weights


def usual(config: Any, *names: str) -> int | None:
    """What a configuration says under the first of these names that it knows: the mean, where layers differ.

    >>> from types import SimpleNamespace
    >>> usual(SimpleNamespace(intermediate_size=[2, 4, 3]), "ffn_dim", "intermediate_size")
    3
    """
    layers = list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]
    for name in names:
        told = [getattr(layer, name, None) for layer in layers]
        several = [n for each in told for n in (each if isinstance(each, list | tuple) else [each])]
        if numbers := [number for number in several if isinstance(number, int) and number]:
            return round(sum(numbers) / len(numbers))
    return None


def layers_differ(config: Any) -> bool:
    """Whether layers of a model have other sizes than others, so that no one layer stands for all."""
    config = config.get_text_config()
    if getattr(config, "is_heterogeneous", False):
        return True
    return any(isinstance(getattr(config, name, None), list | tuple) for name in models.WIDTHS)


class _Usual:
    """A configuration that says of every size what is usual in its layers."""

    def __init__(self, config: Any) -> None:
        self._config = config.get_text_config()

    def get_text_config(self) -> "_Usual":
        return self

    def __getattr__(self, name: str) -> int | None:
        return usual(self._config, *(PASSED if name in PASSED else (name,)))


def model_shape(folder: Path | str, *, lora_rank: int = 0) -> ModelShape:
    """The shape of a saved model, of which no weight is read, and what LoRA of a rank would train of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from longalign.recipe.loss import attach_loss_head

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        language_part.freeze_others(model)
        if lora_rank:
            from longalign.train import lora

            lora.adapt(model, lora_rank, seed=0)
    counted = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    chunked = attach_loss_head(model) is not None and not models.changes_logits(config)
    part = trained if trained < counted else None
    shape = replace(models.model_shape(_Usual(config)), counted=counted, trained=part, chunked=chunked)
    return CountedShape(**vars(shape), passed=_passed(model))


def _passed(model: Any) -> int | None:
    """Weights of a model's matrices that a token passes, of experts those of as many as it is sent to; None where that
    is not known. What layers share counts once, and what is looked up in a table does not."""
    from torch import nn

    config, head = model.config.get_text_config(), model.get_output_embeddings()
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    tables -= {id(getattr(head, "weight", None))}  # one that is the output layer, too
    tables |= set(map(id, language_part.others(model)))
    there, passed = usual(config, *EXPERTS), usual(config, *PASSED)
    weights = 0.0
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or id(parameter) in tables:
            continue
        fused = parameter.ndim == 3 and parameter.shape[0] == there
        if fused or ROUTED.search(name):
            if not (there and passed):
                return None
            weights += parameter.numel() * passed / there
        else:
            weights += parameter.numel()
    return round(weights)


def windows_in_full(config: Any, longest: int) -> Iterator[str]:
    """A line where predicted hours are too long, since windows are counted as if each token saw all before it.

    >>> from transformers import AutoConfig
    >>> list(windows_in_full(AutoConfig.for_model("mistral", sliding_window=3), 4))
    ['layers whose attention reaches 3 tokens back are counted as if it reached 4: hours may be too long']
    >>> list(windows_in_full(AutoConfig.for_model("mistral", sliding_window=4), 4))
    []
    """
    config = config.get_text_config()
    reach = [size for name in ("sliding_window", "attention_chunk_size") if (size := usual(config, name))]
    if reach and min(reach) < longest:
        yield (f"layers whose attention reaches {min(reach):,} tokens back are counted as if it reached {longest:,}: "
               "hours may be too long")  # fmt: skip


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
