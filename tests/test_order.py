"""A Trainer whose dataset does not hold the plan's micro-batches in their order is refused before its first step."""

from functools import partial

import datasets
import pytest
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Subset, SubsetRandomSampler
from transformers import Trainer, TrainerState

from longalign.recipe.batching import plan_naive
from longalign.recipe.collators import PackedCollator
from longalign.recipe.dataset import EvaluationDataset, PlannedDataset, measure
from longalign.recipe.loss import weighted_loss
from longalign.train.callbacks import PlanGuard
from longalign.train.models import new_model
from test_arguments import settings


def in_order(planned):
    return datasets.Dataset.from_dict({"number": range(len(planned))})


def half(found):
    return found.select(range(len(found) // 2))


@pytest.mark.parametrize(("change", "told"), [
    (lambda found: found, None),
    (lambda found: found.to_iterable_dataset(), "dataset is a stream, whose batches accelerate cuts, so that"),
    (lambda found: found.shuffle(seed=0), "element 0 of the Trainer's dataset is another micro-batch than the plan"),
    (lambda found: found.select(range(len(found))[::-1]), "element 0 of the Trainer's dataset is another micro-batch"),
    (lambda found: found.filter(lambda row: row["number"] != 1), "has 5 elements, and the plans have 6 micro-batches"),
    (half, "has 3 elements, and the plans have 6 micro-batches, so that .*without shuffle, filter or select"),
])  # fmt: skip
def test_a_dataset_that_was_shuffled_or_filtered_after_it_was_planned_is_refused(tmp_path, change, told):
    """As with TRL, whose dataset holds the numbers of micro-batches; each weight belongs to the step of the plan."""
    data = [{"input_ids": [7 + n] * n, "labels": [7 + n] * n} for n in range(2, 8)]
    lengths, counts = measure(data)
    plans = [plan_naive(lengths, target_counts=counts, accumulation=2)]
    dataset, collate = PlannedDataset(data, plans), PackedCollator(0)
    args = settings(tmp_path, max_steps=3, remove_unused_columns=False, save_strategy="no", disable_tqdm=True)

    class OfNumbers(Trainer):
        loss_is_scaled_for_ga = True

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return weighted_loss(model, inputs)

    trainer = OfNumbers(
        new_model("mini-6b", vocab_size=16, max_length=9, seed=0), args, train_dataset=change(in_order(dataset)),
        data_collator=lambda rows: collate([dataset[row["number"]] for row in rows]), callbacks=[PlanGuard(dataset)],
    )  # fmt: skip
    if told is None:
        assert trainer.train().global_step == 3
    else:
        with pytest.raises(ValueError, match=told):
            trainer.train()
        assert trainer.state.global_step == 0


def test_a_stream_that_accelerate_leaves_whole_is_compared_as_well(tmp_path):
    """As TRL's Trainer takes one."""
    dataset = PlannedDataset([{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)], [plan_naive([2, 4, 3])])
    collate = PackedCollator(0)
    args = settings(tmp_path, gradient_accumulation_steps=1)
    begin = partial(PlanGuard(dataset).on_train_begin, args, TrainerState(max_steps=1), None)
    stream = in_order(dataset).to_iterable_dataset()
    number = {"collate_fn": lambda rows: collate([dataset[row["number"]] for row in rows])}
    begin(train_dataloader=DataLoader(stream, **number))
    with pytest.raises(ValueError, match="element 0 of the Trainer's dataset is another micro-batch"):
        begin(train_dataloader=DataLoader(stream.skip(1), **number))


def test_a_data_loader_that_shuffles_is_refused(tmp_path):
    dataset = PlannedDataset([{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)], [plan_naive([2, 4, 3])])
    args = settings(tmp_path, gradient_accumulation_steps=1)
    begin = partial(PlanGuard(dataset).on_train_begin, args, TrainerState(max_steps=1), None)
    begin(train_dataloader=DataLoader(dataset, collate_fn=PackedCollator(0)))
    with pytest.raises(ValueError, match="the Trainer's DataLoader shuffles, so that micro-batches would leave the"):
        begin(train_dataloader=DataLoader(dataset, shuffle=True, collate_fn=PackedCollator(0)))


def test_a_sampler_that_takes_another_order_is_refused(tmp_path):
    """As one of a Trainer's own `_get_train_sampler`; torch's DistributedSampler takes every other element."""
    data = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    plan = plan_naive([2, 4, 3], ranks=3)
    dataset, collate = PlannedDataset(data, [plan]), PackedCollator(0)
    args = settings(tmp_path, gradient_accumulation_steps=1)
    guard = PlanGuard(dataset)
    guard._look = lambda *_: None
    begin = partial(guard.on_train_begin, args, TrainerState(max_steps=1), None)
    in_turn = DistributedSampler(dataset, num_replicas=3, rank=1, shuffle=False)
    for exact in ({"sampler": range(3)}, {"sampler": in_turn}, {"batch_sampler": [[0], [1], [2]]},
                  {"batch_size": None}):  # fmt: skip
        begin(train_dataloader=DataLoader(dataset, collate_fn=collate, **exact))
    for other in ({"sampler": [2, 1, 0]}, {"sampler": range(2)}, {"sampler": [0, 1, 2, 0]},
                  {"sampler": DistributedSampler(dataset, num_replicas=3, rank=1, seed=2)},
                  {"batch_sampler": BatchSampler(SubsetRandomSampler([0, 1]), 1, drop_last=False)},
                  {"batch_sampler": [[1], [0], [2]]}):  # fmt: skip
        with pytest.raises(ValueError, match="the sampler of the Trainer's DataLoader takes another order than the pl"):
            begin(train_dataloader=DataLoader(dataset, collate_fn=collate, **other))


@pytest.mark.parametrize(("change", "processes", "told"), [
    (lambda held_out: held_out, 1, None),
    (lambda held_out: held_out, 2, "reads 2 of the 3 elements of its EvaluationDataset.* with ranks=2"),
    (lambda held_out: Subset(held_out, [0]), 1, "reads 1 of the 3 elements"),
])  # fmt: skip
def test_an_evaluation_of_a_part_of_its_set_is_refused(tmp_path, monkeypatch, change, processes, told):
    """A Trainer with `dataloader_drop_last` leaves out what its processes cannot share evenly."""
    data = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    held_out = EvaluationDataset(data, capacity=4)
    args = settings(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=1, disable_tqdm=True,
                    remove_unused_columns=False)  # fmt: skip

    class Weighted(Trainer):
        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            return weighted_loss(model, inputs).detach(), None, None

    trainer = Weighted(
        new_model("mini-6b", vocab_size=16, max_length=9, seed=0), args, data_collator=PackedCollator(0),
        eval_dataset=change(held_out), callbacks=[PlanGuard(held_out)],
    )  # fmt: skip
    monkeypatch.setattr(type(args), "world_size", processes)
    if told is None:
        assert trainer.evaluate()["eval_loss"] > 0
    else:
        with pytest.raises(ValueError, match=told):
            trainer.evaluate()
