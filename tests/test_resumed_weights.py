"""A training that goes on has the weights of its checkpoint, under whatever names they lie there."""

import pytest
import torch
import transformers
from benchmarks.models import small
from peft import LoraConfig, get_peft_model

from conftest import random_sequences
from longalign.recipe.attention import register_attention
from recipes import small as quickly
from recipes import trainer_recipe

TOLD = "does not have the weights with which checkpoint-{} was written: .*load the model itself from that folder"


def trainer_of(folder, start, *, lora=False, **changes):
    """The README's training of the model in the folder `start`, with a checkpoint at each step."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        start, attn_implementation=register_attention(), dtype="float32"
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


def test_the_best_model_of_a_mixture_of_experts_is_not_one_with_the_last_experts(tmp_path, start):
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "greater_is_better": False,
            "metric_for_best_model": "loss"}  # fmt: skip
    with pytest.raises(ValueError, match=TOLD.format("[1-3]")):
        trainer_of(tmp_path / "run", start("mixtral"), **best).train()


@pytest.mark.parametrize("lora", [False, True])
def test_what_has_its_own_names_goes_on(tmp_path, start, lora):
    (whole := trainer_of(tmp_path / "run", start("llama"), lora=lora)).train()
    last = whole.model.state_dict()
    again = trainer_of(tmp_path / "run", tmp_path / "start", lora=lora)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(weights, last[name]) for name, weights in again.model.state_dict().items())
