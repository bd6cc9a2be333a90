"""The two recipes of the README, run on real ranks: `torchrun recipes.py FOLDER`.

Between the marks stands the README's code; `settings` and `sequences` are what a reader brings along.  The gradients of
the first optimizer step and the logged losses go to FOLDER.
"""

import sys

import torch
import transformers

from conftest import gradients, random_sequences, tiny_llama
from eq2 import LENGTHS
from longalign.train.launcher import exit_rank

ACCUMULATION, CAPACITY, RANKS = 3, 24, 2
HELD_OUT = (11, 2, 5, 23, 9, 1, 3)
"""Lengths of the held-out sequences: three packs, which two ranks cannot share evenly."""


class Capture(transformers.TrainerCallback):
    """Keeps the gradients that the first optimizer step sees."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.gradients = gradients(model)


def small(folder):
    """What makes the run small, exact and plain; no part of the recipe."""
    return {"output_dir": folder, "use_cpu": True, "optim": "sgd", "max_grad_norm": 0.0, "report_to": "none",
            "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "bf16": False}  # fmt: skip


def encoded_recipe(conversations, tokenizer):
    # recipe: from messages to sequences
    from longalign import encode

    encoded = [encode(messages, tokenizer, max_length=CAPACITY) for messages in conversations]
    sequences = [{"input_ids": e.input_ids, "labels": e.labels} for e in encoded]
    # end of the recipe
    return sequences


def trainer_recipe(model, sequences, held_out, settings, pad_token_id=0):
    # recipe: a plain transformers.Trainer
    from longalign import (
        EvaluationDataset,
        PackedCollator,
        PlanGuard,
        PlannedDataset,
        measure,
        plan_packing,
        preflight,
        weighted_loss,
    )

    class PackedTrainer(transformers.Trainer):
        loss_is_scaled_for_ga = True  # the weights already divide by the whole optimizer step

        def _prepare_inputs(self, inputs):
            weights = inputs["loss_weights"].to(self.args.device)  # DeepSpeed's bf16 would round them
            return {**super()._prepare_inputs(inputs), "loss_weights": weights}

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = weighted_loss(model, inputs) * (self.args.world_size if model.training else 1)  # engines average
            return (loss, {"loss": loss}) if return_outputs else loss

    args = transformers.TrainingArguments(
        per_device_train_batch_size=1, per_device_eval_batch_size=1, gradient_accumulation_steps=ACCUMULATION,
        num_train_epochs=1, train_sampling_strategy="sequential", remove_unused_columns=False,
        eval_strategy="epoch", **settings)  # fmt: skip
    lengths, target_counts = measure(sequences)
    plans = [plan_packing(lengths, target_counts=target_counts, capacity=CAPACITY, epoch=epoch,
                          ranks=args.world_size, accumulation=ACCUMULATION) for epoch in range(2)]  # fmt: skip
    print(*preflight(model, sequences=sequences, arguments=args, plans=plans), sep="\n")  # refuses what is not exact
    planned = PlannedDataset(sequences, plans)
    trainer = PackedTrainer(
        model, args, train_dataset=planned, callbacks=[PlanGuard(planned)], data_collator=PackedCollator(pad_token_id),
        eval_dataset=EvaluationDataset(held_out, capacity=CAPACITY, ranks=args.world_size))  # fmt: skip
    # end of the recipe
    return trainer


def sft_recipe(model, sequences, held_out, settings, tokenizer):
    # recipe: TRL's SFTTrainer
    import datasets
    import trl

    from longalign import (
        EvaluationDataset,
        PackedCollator,
        PlanGuard,
        PlannedDataset,
        measure,
        plan_packing,
        preflight,
        weighted_loss,
    )

    class PackedSFTTrainer(trl.SFTTrainer):
        loss_is_scaled_for_ga = True  # the weights already divide by the whole optimizer step

        def _prepare_inputs(self, inputs):
            weights = inputs["loss_weights"].to(self.args.device)  # DeepSpeed's bf16 would round them
            return {**super()._prepare_inputs(inputs), "loss_weights": weights}

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = weighted_loss(model, inputs) * (self.args.world_size if model.training else 1)  # engines average
            return (loss, {"loss": loss}) if return_outputs else loss

    args = trl.SFTConfig(
        per_device_train_batch_size=1, per_device_eval_batch_size=1, gradient_accumulation_steps=ACCUMULATION,
        num_train_epochs=1, train_sampling_strategy="sequential", remove_unused_columns=False,
        eval_strategy="epoch", dataset_kwargs={"skip_prepare_dataset": True}, **settings)  # fmt: skip
    lengths, target_counts = measure(sequences)
    plans = [plan_packing(lengths, target_counts=target_counts, capacity=CAPACITY, epoch=epoch,
                          ranks=args.world_size, accumulation=ACCUMULATION) for epoch in range(2)]  # fmt: skip
    print(*preflight(model, sequences=sequences, arguments=args, plans=plans), sep="\n")  # refuses what is not exact
    parts = {"train": PlannedDataset(sequences, plans),
             "eval": EvaluationDataset(held_out, capacity=CAPACITY, ranks=args.world_size)}  # fmt: skip
    numbers = {part: datasets.Dataset.from_dict({"part": [part] * len(planned), "micro_batch": range(len(planned))})
               for part, planned in parts.items()}  # fmt: skip
    collate = PackedCollator(tokenizer.pad_token_id or 0)
    trainer = PackedSFTTrainer(
        model, args, processing_class=tokenizer, callbacks=[PlanGuard(parts["train"])],
        train_dataset=numbers["train"], eval_dataset=numbers["eval"],  # TRL takes no other dataset
        data_collator=lambda rows: collate([parts[row["part"]][row["micro_batch"]] for row in rows]))  # fmt: skip
    # end of the recipe
    return trainer


def tokenizer():
    """As Llama's: without a token for padding."""
    from tokenizers import Tokenizer, models

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"t{i}": i for i in range(3, 32)}}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip


def run(name, folder):
    model, sequences = tiny_llama(), random_sequences(LENGTHS, without_targets=(3, 10))
    held_out = random_sequences(HELD_OUT, seed=1, without_targets=(2,))
    if name == "trainer":
        trainer = trainer_recipe(model, sequences, held_out, small(folder))
    else:
        trainer = sft_recipe(model, sequences, held_out, small(folder), tokenizer())
    capture = Capture()
    trainer.add_callback(capture)
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        names = {name.removeprefix("module."): grad for name, grad in capture.gradients.items()}
        found = {"gradients": names, "losses": losses, "evaluated": evaluated, "steps": trainer.state.global_step,
                 "model": trainer.accelerator.unwrap_model(trainer.model).state_dict()}  # fmt: skip
        torch.save(found, f"{folder}/{name}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for recipe in ("trainer", "sft"):
        run(recipe, sys.argv[1])
    exit_rank()
