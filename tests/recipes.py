"""The two recipes of the README, run on real ranks: `torchrun recipes.py FOLDER`.

Between the marks stands the README's code; `settings` and `sequences` are what a reader brings along.  The gradients of
the first optimizer step and the logged losses go to FOLDER.
"""

import sys

import torch
import transformers

from conftest import gradients, random_sequences, tiny_llama
from eq2 import LENGTHS
from longalign.ranks import leave

ACCUMULATION, CAPACITY, RANKS = 3, 24, 2


class Capture(transformers.TrainerCallback):
    """Keeps the gradients that the first optimizer step sees."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.gradients = gradients(model)


def small(folder):
    """What makes the run small, exact and plain; no part of the recipe."""
    return {"output_dir": folder, "use_cpu": True, "optim": "sgd", "max_grad_norm": 0.0, "report_to": "none",
            "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "bf16": False}  # fmt: skip


def trainer_recipe(model, sequences, settings, pad_token_id=0):
    # recipe: a plain transformers.Trainer
    from longalign.batching import plan_packing
    from longalign.collators import PackedCollator
    from longalign.loss import weighted_loss
    from longalign.planned import PlannedDataset, measure

    class PackedTrainer(transformers.Trainer):
        loss_is_scaled_for_ga = True  # the weights already divide by the whole optimizer step

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return weighted_loss(model, inputs) * self.args.world_size  # DDP and ZeRO average over ranks

    args = transformers.TrainingArguments(
        per_device_train_batch_size=1, gradient_accumulation_steps=ACCUMULATION, num_train_epochs=1,
        train_sampling_strategy="sequential", remove_unused_columns=False, **settings)  # fmt: skip
    lengths, target_counts = measure(sequences)
    plans = [plan_packing(lengths, target_counts=target_counts, capacity=CAPACITY, epoch=epoch,
                          ranks=args.world_size, accumulation=ACCUMULATION) for epoch in range(2)]  # fmt: skip
    trainer = PackedTrainer(model, args, train_dataset=PlannedDataset(sequences, plans),
                            data_collator=PackedCollator(pad_token_id))  # fmt: skip
    # end of the recipe
    return trainer


def sft_recipe(model, sequences, settings, tokenizer):
    # recipe: TRL's SFTTrainer
    import datasets
    import trl

    from longalign.batching import plan_packing
    from longalign.collators import PackedCollator
    from longalign.loss import weighted_loss
    from longalign.planned import PlannedDataset, measure

    class PackedSFTTrainer(trl.SFTTrainer):
        loss_is_scaled_for_ga = True  # the weights already divide by the whole optimizer step

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return weighted_loss(model, inputs) * self.args.world_size  # DDP and ZeRO average over ranks

    args = trl.SFTConfig(
        per_device_train_batch_size=1, gradient_accumulation_steps=ACCUMULATION, num_train_epochs=1,
        train_sampling_strategy="sequential", remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, **settings)  # fmt: skip
    lengths, target_counts = measure(sequences)
    plans = [plan_packing(lengths, target_counts=target_counts, capacity=CAPACITY, epoch=epoch,
                          ranks=args.world_size, accumulation=ACCUMULATION) for epoch in range(2)]  # fmt: skip
    planned, collate = PlannedDataset(sequences, plans), PackedCollator(tokenizer.pad_token_id)
    trainer = PackedSFTTrainer(
        model, args, processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"micro_batch": range(len(planned))}),  # TRL takes no other dataset
        data_collator=lambda rows: collate([planned[row["micro_batch"]] for row in rows]))  # fmt: skip
    # end of the recipe
    return trainer


def tokenizer():
    from tokenizers import Tokenizer, models

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"t{i}": i for i in range(3, 32)}}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>",
    )  # fmt: skip


def run(name, folder):
    model, sequences = tiny_llama(), random_sequences(LENGTHS, without_targets=(3, 10))
    if name == "trainer":
        trainer = trainer_recipe(model, sequences, small(folder))
    else:
        trainer = sft_recipe(model, sequences, small(folder), tokenizer())
    capture = Capture()
    trainer.add_callback(capture)
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        names = {name.removeprefix("module."): grad for name, grad in capture.gradients.items()}
        torch.save({"gradients": names, "losses": losses, "steps": trainer.state.global_step}, f"{folder}/{name}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for recipe in ("trainer", "sft"):
        run(recipe, sys.argv[1])
    leave()
