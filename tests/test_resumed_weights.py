"""A training that goes on has the weights and the states of its checkpoint, under whatever names they lie there."""

import json

import pytest
import torch
import transformers
from benchmarks.models import small
from peft import LoraConfig, get_peft_model

from conftest import random_sequences
from longalign.recipe.attention import register_attention
from longalign.train import resumed
from recipes import small as quickly
from recipes import trainer_recipe

TOLD = "does not have the weights with which checkpoint-{} was written: .*load the model itself from that folder"


BEST = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "greater_is_better": False,
        "metric_for_best_model": "loss"}  # fmt: skip


def trainer_of(folder, start, *, lora=False, dtype="float32", **changes):
    """The README's training of the model in the folder `start`, with a checkpoint at each step."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        start, attn_implementation=register_attention(), dtype=dtype
    )
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    settings = {**quickly(str(folder)), "save_strategy": "steps", "save_steps": 1, "learning_rate": 0.5}
    sequences = random_sequences([7, 9, 5, 12, 3, 8, 6, 11, 4, 10], seed=2)
    trainer = trainer_recipe(model, sequences, random_sequences([5, 7], seed=1), settings)
    for name, value in changes.items():
        setattr(trainer.args, name, value)
    return trainer


@pytest.fixture
def start(tmp_path):
    """Writes the folder of a small model."""
    def write(name):
        small.build(name).save_pretrained(tmp_path / "start")
        return tmp_path / "start"

    return write


def test_experts_that_were_saved_one_by_one_are_missed_and_found_in_the_checkpoints_own_folder(tmp_path, start):
    (whole := trainer_of(tmp_path / "run", start("mixtral"))).train()
    assert whole.state.global_step == 4
    last, checkpoint = whole.model.state_dict(), tmp_path / "run" / "checkpoint-2"
    with pytest.raises(ValueError, match=TOLD.format(2)):
        trainer_of(tmp_path / "run", tmp_path / "start").train(resume_from_checkpoint=str(checkpoint))
    again = trainer_of(tmp_path / "run", checkpoint)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert all(torch.equal(weights, last[name]) for name, weights in again.model.state_dict().items())


def test_the_best_model_of_a_mixture_of_experts_is_refused_before_the_first_step(tmp_path, start):
    trainer = trainer_of(tmp_path / "run", start("mixtral"), **BEST)
    with pytest.raises(ValueError, match=r"load_best_model_at_end is True, but checkpoints hold .*experts"):
        trainer.train()
    assert trainer.state.global_step == 0
    (adapted := trainer_of(tmp_path / "lora", tmp_path / "start", lora=True, **BEST)).train()
    assert adapted.state.global_step == 4, "an adapter lies under its own names"


class SaveAt2(transformers.TrainerCallback):
    """Asks for a checkpoint behind PlanGuard's back."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step == 2


@pytest.mark.parametrize("strategy", ["best", "no"])
def test_a_checkpoint_that_was_asked_for_late_notes_its_weights_too(strategy, tmp_path, start):
    trainer = trainer_of(tmp_path / "run", start("mixtral"), **{**BEST, "load_best_model_at_end": False})
    trainer.args.save_strategy = transformers.trainer_utils.SaveStrategy(strategy)
    if strategy == "no":
        trainer.add_callback(SaveAt2())
    trainer.train()
    for checkpoint in (saved := sorted((tmp_path / "run").glob("checkpoint-*"))):
        step = int(checkpoint.name.removeprefix("checkpoint-"))
        told = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]
        assert told[resumed.WEIGHTS][0] == step and not list(checkpoint.glob("*.part"))
        with pytest.raises(ValueError, match=TOLD.format(step)):
            trainer_of(tmp_path / "run", tmp_path / "start").train(resume_from_checkpoint=str(checkpoint))
    assert saved


def test_a_checkpoint_of_the_model_alone_begins_no_optimizer_anew(tmp_path, start):
    trainer_of(tmp_path / "run", start("llama"), save_only_model=True).train()
    again = trainer_of(tmp_path / "run", tmp_path / "start")
    with pytest.raises(ValueError, match=r"checkpoint-2 holds no states of the optimizer .* anew at step 2: "):
        again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_lora_goes_on_with_the_base_of_its_start_alone(tmp_path, start):
    trainer_of(tmp_path / "run", start("llama"), lora=True).train()
    other = small.build("llama")
    torch.nn.init.ones_(other.get_input_embeddings().weight)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="the weights that are not trained are others than those .* checkpoint-2 was"):
        trainer_of(tmp_path / "run", tmp_path / "other", lora=True).train(
            resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2")
        )


def test_weights_in_16_bits_go_on_in_32_and_never_the_other_way_round(tmp_path, start):
    trainer_of(tmp_path / "run", start("llama"), dtype="bfloat16").train()
    more = trainer_of(tmp_path / "run", tmp_path / "start")
    more.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert more.state.global_step == 4
    with pytest.raises(ValueError, match=r"rounded them to another dtype; .* in the dtype of its start"):
        trainer_of(tmp_path / "run", tmp_path / "start", dtype="bfloat16").train(
            resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")
        )


def test_rows_in_another_order_are_other_weights():
    model = torch.nn.Linear(3, 2)
    then = resumed.bits_of(model)
    with torch.no_grad():
        model.weight.copy_(model.weight.flip(0))
    assert resumed.bits_of(model) != then


@pytest.mark.parametrize("lora", [False, True])
def test_what_has_its_own_names_goes_on(tmp_path, start, lora):
    (whole := trainer_of(tmp_path / "run", start("llama"), lora=lora)).train()
    last = whole.model.state_dict()
    again = trainer_of(tmp_path / "run", tmp_path / "start", lora=lora)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(weights, last[name]) for name, weights in again.model.state_dict().items())
