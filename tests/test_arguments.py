"""Settings of a Trainer under which a plan would not be trained as it is are refused by their names."""

import pytest
from accelerate import ParallelismConfig
from transformers import Trainer, TrainingArguments

from longalign.recipe.batching import plan_packing
from longalign.train import arguments

PLANS = [plan_packing([2, 4, 3], capacity=9, accumulation=2)]


def settings(folder, **changes):
    recipe = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 2,
              "train_sampling_strategy": "sequential", "use_cpu": True, "report_to": "none"}  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **{**recipe, **changes})


def test_the_settings_of_the_recipe_pass(tmp_path):
    arguments.check(settings(tmp_path), PLANS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1, which the weighted loss leaves out: set it"),
        ({"train_sampling_strategy": "random"}, "train_sampling_strategy is 'random', so that micro-batches would"),
        ({"per_device_eval_batch_size": 8}, "per_device_eval_batch_size is 8, but an element of the dataset"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha is 5, whose noise is less in a longer row"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, but the plan was made for 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_would_change_the_loss_is_refused(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        arguments.check(settings(tmp_path, **change), PLANS)


def test_an_accumulation_that_accelerate_is_told_counts_as_well(tmp_path):
    steps = {"gradient_accumulation_kwargs": {"num_steps": 4}}
    given = settings(tmp_path, gradient_accumulation_steps=1, accelerator_config=steps)
    with pytest.raises(ValueError, match="steps is 4, but the plan was made for 2: make a plan for 4"):
        arguments.check(given, PLANS)
    arguments.check(given, [plan_packing([2, 4, 3], capacity=9, accumulation=4)])


def test_processes_that_share_a_batch_are_refused(tmp_path):
    given = settings(tmp_path)
    given.parallelism_config = ParallelismConfig(tp_size=2)
    with pytest.raises(ValueError, match="parallelism_config has 2 processes share a batch"):
        arguments.check(given, PLANS)


def test_a_trainer_that_would_divide_the_loss_once_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(Trainer, "loss_is_scaled_for_ga")
    with pytest.raises(ValueError, match="install transformers 5.19 or newer"):
        arguments.check(settings(tmp_path), PLANS)


def test_a_plan_for_other_ranks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="world_size is 1, but the plan was made for 2: make a plan for 1"):
        arguments.check(settings(tmp_path), [plan_packing([2, 4, 3], capacity=9, ranks=2, accumulation=2)])
