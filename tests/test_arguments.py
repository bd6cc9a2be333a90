"""Settings of a Trainer under which a plan would not be trained as it is are refused by their names."""

import pytest
from transformers import TrainingArguments

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


def test_a_plan_for_other_ranks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="world_size is 1, but the plan was made for 2: make it for 1"):
        arguments.check(settings(tmp_path), [plan_packing([2, 4, 3], capacity=9, ranks=2, accumulation=2)])
