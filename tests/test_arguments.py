"""Settings of a Trainer under which a plan would not be trained as it is are refused by their names."""

import json
import re

import pytest
import torch
from accelerate import ParallelismConfig
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import Trainer, TrainerState, TrainingArguments

import tiny_models
from longalign.recipe.batching import plan_naive, plan_packing
from longalign.recipe.collators import PackedCollator
from longalign.recipe.dataset import PlannedDataset, measure
from longalign.recipe.loss import weighted_loss
from longalign.train import arguments
from longalign.train.callbacks import PlanGuard
from longalign.train.models import new_model
from longalign.train.plan_trainer import PlanTrainer
from longalign.train.preflight import preflight

PLANS = [plan_packing([2, 4, 3], capacity=9, accumulation=2)]


def settings(folder, **changes):
    recipe = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 2,
              "train_sampling_strategy": "sequential", "num_train_epochs": 1, "use_cpu": True,
              "report_to": "none"}  # fmt: skip
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
        ({"fp16": True}, "fp16 is True, in which the weights of long sequences underflow: set it to False"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, but the plan was made for 2"),
        ({"ignore_data_skip": True}, "ignore_data_skip is True, so that a training that goes on would begin the plan"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches of accelerator_config is True, but"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches of accelerator_config is True, but"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_would_change_the_loss_is_refused(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        arguments.check(settings(tmp_path, **change), PLANS)


def test_plans_of_several_epochs_are_trained_once(tmp_path):
    """The Trainer's own default is 3 epochs, of which each would hold all plans."""
    default = TrainingArguments(output_dir=str(tmp_path)).num_train_epochs
    with pytest.raises(ValueError, match="num_train_epochs is 3, and there are 2 plans, .* set it to 1"):
        arguments.check(settings(tmp_path, num_train_epochs=default), PLANS * 2)
    arguments.check(settings(tmp_path, num_train_epochs=default, max_steps=2), PLANS * 2)
    arguments.check(settings(tmp_path, num_train_epochs=default), PLANS)


@pytest.mark.parametrize(("given", "plans", "made"), [
    ({"max_steps": 5}, 1, 5), ({"max_steps": 5}, 2, 5), ({"num_train_epochs": 2}, 1, 2 * len(PLANS[0].steps)),
    ({"num_train_epochs": 1}, 1, None), ({"max_steps": 1}, 1, None), ({"max_steps": 2 * len(PLANS[0].steps)}, 2, None),
    ({"max_steps": 9}, 0, None),
])  # fmt: skip
def test_plans_that_the_trainer_would_begin_again_are_told(given, plans, made, tmp_path):
    told = arguments.trained_again(settings(tmp_path, **given), PLANS * plans)
    assert [line.partition(" steps")[0] for line in told] == [f"the Trainer makes {made}"] * (made is not None)


def test_one_plan_in_the_place_of_a_list_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"plans is one plan: give a list with a plan for each epoch, such as \[plan\]"):
        arguments.check(settings(tmp_path), PLANS[0])
    unchecked = PlannedDataset.__init__.__wrapped__  # as a user has it, without the checks of types in tests
    with pytest.raises(TypeError, match="plans is one plan"):
        unchecked(object.__new__(PlannedDataset), [], PLANS[0])


def test_a_plan_trainer_evaluates_nothing(tmp_path):
    dataset = PlannedDataset([{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)], PLANS)
    model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)
    trainer = PlanTrainer(model, args=settings(tmp_path), dataset=dataset, collator=PackedCollator(0))
    with pytest.raises(NotImplementedError, match="PlanTrainer trains alone: evaluate with a Trainer"):
        trainer.evaluate(dataset)


def trained(folder, planned, resume=None):
    model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)
    trainer = PlanTrainer(model, args=settings(folder, gradient_accumulation_steps=1, save_steps=1, disable_tqdm=True),
                          dataset=planned, collator=PackedCollator(0))  # fmt: skip
    trainer.add_callback(PlanGuard(planned))
    trainer.train(resume_from_checkpoint=resume and str(folder / resume))
    return trainer.state


ACCELERATE = {"gradient_accumulation_steps": 1,
              "accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}}  # fmt: skip


@pytest.mark.parametrize(("plan", "options", "given", "told"), [
    ({"accumulation": 3}, {}, {}, "gradient_accumulation_steps is 2, but the plan was made for 3: set it to 3"),
    ({"accumulation": 1}, {}, ACCELERATE, "gradient_accumulation_steps is 4, but the plan was made for 1: set it to 1"),
    ({"ranks": 2, "accumulation": 2}, {"rank": 0}, {}, "the plan was made for 2 ranks, and 1 processes train"),
])  # fmt: skip
def test_a_plan_trainer_with_a_plan_of_other_steps_is_refused(tmp_path, plan, options, given, told):
    sequences = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    dataset = PlannedDataset(sequences, [plan_packing([2, 4, 3], capacity=9, **plan)], **options)
    model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0)
    with pytest.raises(ValueError, match=told):
        PlanTrainer(model, args=settings(tmp_path, **given), dataset=dataset, collator=PackedCollator(0))


def planned(*seeds, token=7, hidden=None, **options):
    """Sequences of one token; of those that are long enough, the label `hidden` is no target."""
    sequences = [{"input_ids": [token] * n, "labels": [-100 if n > 2 and i == hidden else token for i in range(n)]}
                 for n in (2, 4, 3)]  # fmt: skip
    counts = measure(sequences)[1]
    plans = [plan_naive([2, 4, 3], target_counts=counts, rows=2, seed=seed) for seed in seeds]
    return PlannedDataset(sequences, plans, **options)


def test_a_checkpoint_of_another_plan_of_other_data_or_of_other_weights_is_refused_and_kept(tmp_path):
    trained(tmp_path, planned(0))
    for other in (planned(1), planned(0, token=8), planned(0, exponent=0.5), planned(0, weighting="token")):
        with pytest.raises(ValueError, match="step 2 has trained other sequences, or with other weights, than the"):
            trained(tmp_path, other, "checkpoint-2")
    assert trained(tmp_path, planned(0, 1), "checkpoint-2").global_step == 4, "with another epoch it goes on"


def test_a_checkpoint_of_other_targets_of_the_same_number_is_refused(tmp_path):
    trained(tmp_path, planned(0, hidden=1))
    with pytest.raises(ValueError, match="step 2 has trained other sequences"):
        trained(tmp_path, planned(0, hidden=2), "checkpoint-2")


def test_a_schedule_goes_on_with_more_steps_only_where_what_was_trained_lies_in_the_same_stage(tmp_path):
    schedule = [(0, "token"), (0.5, "sequence")]
    trained(tmp_path, planned(0, 1, weighting=schedule))  # of four steps, two have each weighting
    with pytest.raises(ValueError, match="step 4 has trained other sequences, or with other weights"):
        trained(tmp_path, planned(0, 1, 2, weighting=schedule), "checkpoint-4")
    assert trained(tmp_path, planned(0, 1, 2, weighting=[(0, "token"), (1 / 3, "sequence")]), "checkpoint-4")


def test_a_checkpoint_that_says_nothing_of_its_plan_is_told(tmp_path, capsys):
    trained(tmp_path, planned(0))
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    told = json.loads(state.read_text())
    del told["stateful_callbacks"][PlanGuard.KEY]
    state.write_text(json.dumps(told))
    trained(tmp_path, planned(0), "checkpoint-2")
    assert "checkpoint of step 2 does not say which sequences it has trained" in capsys.readouterr().out


def test_a_schedule_of_weightings_over_other_steps_than_the_trainers_is_refused(tmp_path):
    sequences = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    dataset = PlannedDataset(sequences, [plan_naive([2, 4, 3])], weighting=[(0, "token"), (0.5, "sequence")])
    guard, args = PlanGuard(dataset), settings(tmp_path, gradient_accumulation_steps=1)
    with pytest.raises(ValueError, match="over 3 steps, and the Trainer makes 6: make a plan for each epoch"):
        guard.on_train_begin(args, TrainerState(max_steps=6), None)
    guard.on_train_begin(args, TrainerState(max_steps=3), None)


def test_who_calls_no_preflight_is_told_by_the_guard_before_the_first_step(tmp_path):
    def begin(model, **given):
        guard = PlanGuard(PlannedDataset(sequences, PLANS))
        guard.on_train_begin(settings(tmp_path, **given), state, None, model=model)

    sequences, state = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)], TrainerState(max_steps=1)
    begin(model := new_model("mini-6b", vocab_size=16, max_length=9, seed=0))
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 1, but the plan was made for 2"):
        begin(model, gradient_accumulation_steps=1)
    expert = tiny_models.model("mixtral")
    expert.config.output_router_logits = True
    with pytest.raises(ValueError, match="set output_router_logits: false in its config.json"):
        begin(expert)
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)  # as SFTTrainer does with peft_config
    with pytest.raises(ValueError, match=r"cannot be trained on packs: its adapter \(num_virtual_tokens\) begins once"):
        begin(get_peft_model(tiny_models.model("llama"), prompts))


def frozen(model):
    return model.requires_grad_(False)


def loaded(model):
    """As PeftModel.from_pretrained loads an adapter without is_trainable=True."""
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"], inference_mode=True))


def merged(model):
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    adapted.merge_adapter()
    return adapted


@pytest.mark.parametrize(("change", "told"), [
    (frozen, "none of the weights of .* is trained .*requires_grad is False for all.: set it to True"),
    (loaded, "none of the weights of .* is trained .*an adapter that is loaded needs is_trainable=True"),
    (merged, "the adapter of .* is merged into its weights, and learns nothing there: call unmerge_adapter"),
])  # fmt: skip
def test_a_training_that_would_change_no_weight_is_refused_before_its_first_step(tmp_path, change, told):
    """Gradient checkpointing, which TRL turns on, gives the loss a gradient, so that no step fails."""
    sequences = [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)]
    model, dataset = change(tiny_models.model("llama")), PlannedDataset(sequences, PLANS)
    args = settings(tmp_path, gradient_checkpointing=True, remove_unused_columns=False, save_strategy="no")
    assert re.match(told, preflight(model, arguments=args, plans=PLANS)[-1])

    class Weighted(Trainer):
        loss_is_scaled_for_ga = True

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return weighted_loss(model, inputs)

    trainer = Weighted(model, args, train_dataset=dataset, data_collator=PackedCollator(0),
                       callbacks=[PlanGuard(dataset)])  # fmt: skip
    with pytest.raises(ValueError, match=told):
        trainer.train()
    assert trainer.state.global_step == 0


def test_an_accumulation_that_accelerate_is_told_counts_as_well(tmp_path):
    given = settings(tmp_path, **ACCELERATE)
    with pytest.raises(ValueError, match="steps is 4, but the plan was made for 2: make a plan for 4"):
        arguments.check(given, PLANS)
    arguments.check(given, [plan_packing([2, 4, 3], capacity=9, accumulation=4)])


@pytest.mark.parametrize("given", [None, 0.1, 0.0])
def test_a_routers_loss_that_trl_would_turn_on_is_refused_before_the_first_step(tmp_path, given):
    """TRL writes output_router_logits into the model's configuration when its Trainer is made."""
    of_trl = settings(tmp_path)
    of_trl.router_aux_loss_coef = given
    preflight(tiny_models.model("llama"), arguments=of_trl)
    expert = tiny_models.model("mixtral")
    if given == 0:
        preflight(expert, arguments=of_trl)
        return
    told = f"router_aux_loss_coef is {given}, with which TRL adds {given or 0.001} times .*Mixtral.*: set it to 0.0"
    with pytest.raises(ValueError, match=told):
        preflight(expert, arguments=of_trl)


@pytest.mark.parametrize("given", [None, {}, {"skip_prepare_dataset": False}])
def test_a_dataset_that_trl_would_prepare_is_refused(tmp_path, given):
    of_trl = settings(tmp_path)
    of_trl.dataset_kwargs = given
    with pytest.raises(ValueError, match=r"dataset_kwargs is .*: set it to {'skip_prepare_dataset': True}"):
        arguments.check(of_trl, PLANS)
    of_trl.dataset_kwargs = {"skip_prepare_dataset": True, "add_special_tokens": False}
    arguments.check(of_trl, PLANS)


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


@pytest.mark.parametrize(("dtype", "rate"), [("float32", 2e-5), ("bfloat16", 2e-5), ("bfloat16", 2e-3)])
def test_steps_that_rounding_takes_away_are_told_by_their_share(tmp_path, dtype, rate):
    """Among the weights that have a gradient, one step of AdamW leaves about that share as they are."""
    model = new_model("mini-6b", vocab_size=16, max_length=9, seed=0).to(getattr(torch, dtype))
    notes = preflight(model, arguments=settings(tmp_path, learning_rate=rate))
    told = [int(share) / 100 for note in notes for share in re.findall(r"^(\d+) % of the weights", note)]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    weighted_loss(model, PackedCollator(0)([{"input_ids": [7, 9], "labels": [7, 9], "loss_weight": 1.0}])).backward()
    torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0).step()
    pairs = [(p[p.grad != 0], old[p.grad != 0]) for p, old in zip(model.parameters(), before, strict=True)]
    lost = sum(int((p == old).sum()) for p, old in pairs) / sum(p.numel() for p, _ in pairs)
    assert told == ([pytest.approx(lost, abs=0.05)] if dtype == "bfloat16" else [])


def test_what_an_engine_keeps_in_fp32_loses_no_steps(tmp_path):
    model, given = new_model("mini-6b", vocab_size=16, max_length=9, seed=0).bfloat16(), settings(tmp_path)
    assert arguments.lost_steps(model, given)
    given.deepspeed = {"bf16": {"enabled": True}}
    assert arguments.lost_steps(model, given) == []

@pytest.mark.parametrize(("name", "given"), [("completion_only_loss", True), ("assistant_only_loss", True)])
def test_a_mask_of_trls_that_nothing_would_read_is_refused(tmp_path, name, given):
    of_trl = settings(tmp_path)
    setattr(of_trl, name, given)
    with pytest.raises(ValueError, match=f"{name} is True, but labels alone say what is learnt: set it to"):
        arguments.check(of_trl, PLANS)
