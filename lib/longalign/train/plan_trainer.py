"""Hugging Face's Trainer that follows a plan: its batches are the plan's, its loss the weighted sum over a step.

This is the only module that knows how engines average: DDP and ZeRO take the mean of gradients over ranks, which is
undone by multiplying the local sum by the number of ranks; accumulation adds micro-steps up, as a sum wants.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from longalign.recipe.dataset import PlannedDataset
from longalign.recipe.loss import attach_loss_head, weighted_loss
from longalign.train import arguments, saved


class PlanTrainer(Trainer):
    """A Trainer whose batches come from plans and whose loss is the weighted sum over the true optimizer step.

    `dataset` holds this rank's micro-batches; one process may take those of a plan for one. Raises ValueError where it
    was planned for other ranks or another accumulation than `args` have. It trains, and evaluates nothing.
    """

    def __init__(
        self, model: PreTrainedModel, *, args: TrainingArguments, dataset: PlannedDataset, collator: Any,
        sequence_parallel: int = 1,
    ):  # fmt: skip
        _check(args, dataset, sequence_parallel)
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=collator)
        self.sequence_parallel = sequence_parallel
        attach_loss_head(model)
        # The loss is a sum that the plan has already normalised over all micro-steps and ranks.
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> DataLoader:
        """This rank's micro-batches in the order of the plan; one element of the dataset is one micro-batch."""
        dataset, collate = self.train_dataset, self.data_collator
        if self.sequence_parallel > 1:
            # it computes the same, so that no run's key holds its code
            from longalign.train.sequence_parallel import Slices, only

            dataset = Slices(dataset, collate, self.args.process_index, self.sequence_parallel)
            collate = only
        return DataLoader(dataset, batch_size=1, shuffle=False, collate_fn=collate)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # DeepSpeed's bf16 would round the weights to eight bits; they are fp32 like the sum they belong to.
        weights = inputs.pop("loss_weights")
        return {**super()._prepare_inputs(inputs), "loss_weights": weights.to(self.args.device)}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """The local part of the step's loss, times the ranks that the engine is going to average over."""
        return weighted_loss(model, inputs) * self.args.world_size

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Raises NotImplementedError: this class trains."""
        raise NotImplementedError("PlanTrainer trains alone: evaluate with a Trainer whose loss the front page of the "
                                  "repository shows, or with weighted_loss over an EvaluationDataset")  # fmt: skip

    def _save(self, *args: Any, **kwargs: Any) -> None:
        # Under the names and in the form that the model has them: the Trainer loads a checkpoint as it lies, and leaves
        # what it does not find, such as experts that a model's folder holds one by one, as it was before the training.
        self.model.save_pretrained = partial(self.model.save_pretrained, save_original_format=False)
        try:
            super()._save(*args, **kwargs)
        finally:
            del self.model.save_pretrained

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        state, missing = self.model.state_dict(), set(load_result.missing_keys)
        read = {tensor.data_ptr() for name, tensor in state.items() if name not in missing}  # tied ones among them
        unread = missing - {name for name in missing if state[name].data_ptr() in read}
        if wrong := sorted({*unread, *load_result.unexpected_keys} - {*(self.model._keys_to_ignore_on_save or ())}):
            raise ValueError(f"a checkpoint in {self.args.output_dir} does not hold the model as it was trained (see "
                             f"{', '.join(wrong[:2])}): remove the folder to begin again")  # fmt: skip

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer would walk over all parameters in every micro-step, and `recipe.cost` knows."""
        return 0

    def write_model(self, folder: Path | str) -> Path:
        """The whole model, wherever its parameters lie, as a folder that `from_pretrained` loads; every rank calls
        this. What LoRA has trained is merged into it, and written as it is to `adapter` below the folder. What was
        written is loaded back: raises RuntimeError where it is not what was trained.
        """
        sharded = is_deepspeed_zero3_enabled()
        state = self.accelerator.get_state_dict(self.model_wrapped) if sharded else self.model.state_dict()
        if self.is_world_process_zero():
            whole = state
            if hasattr(self.model, "peft_config"):
                from longalign.train import lora

                lora.write_adapter(self.model, state, Path(folder) / "adapter")
                whole = lora.merged(state, transposed=lora.transposed(self.model))
            self.model.save_pretrained(folder, state_dict=dict(whole))  # which it empties
            saved.check(self.model, folder, state, whole, sharded=sharded)
        return Path(folder)


def _check(args: TrainingArguments, dataset: PlannedDataset, sequence_parallel: int) -> None:
    """Raise ValueError unless the ranks and micro-steps of the arguments are those of the plan."""
    if dataset.accumulation != (given := arguments.accumulation_of(args)):
        raise ValueError(f"gradient_accumulation_steps is {given}, but the plan was made for {dataset.accumulation}: "
                         f"set it to {dataset.accumulation}")  # fmt: skip
    world = args.world_size
    if dataset.ranks not in (world, world // sequence_parallel):  # where some packs are shared, all ranks are planned
        raise ValueError(f"the plan was made for {dataset.ranks} ranks, and {world} processes train: make a plan for "
                         f"{world}")  # fmt: skip
    own = args.process_index * dataset.ranks // world
    if dataset.rank != own and not (dataset.rank is None and dataset.ranks == 1):
        held = "all ranks" if dataset.rank is None else f"rank {dataset.rank}"
        raise ValueError(f"the dataset holds the micro-batches of {held}, and this process is rank {own}: make it with "
                         f"rank={own}")  # fmt: skip
