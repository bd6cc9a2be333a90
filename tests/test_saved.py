"""What was saved computes what was trained, or the checkpoints are kept."""

import json
from dataclasses import replace

import pytest
import torch

from longalign.train.models import load_model
from longalign.train.parallelism import Parallelism
from longalign.train.trainer import train, training_arguments
from test_trainer import CONFIG, fresh_model, make_store


@pytest.mark.parametrize(
    ("harm", "lora_rank"),
    [("a weight is left out", 0), ("a weight is another", 0), ("the config is another", 0),
     ("a weight is another", 2), ("the adapter is scaled otherwise", 2)],
)
def test_a_model_that_was_not_saved_as_it_was_trained_keeps_its_checkpoints(tmp_path, monkeypatch, harm, lora_rank):
    config = replace(CONFIG, steps=1, warmup_ratio=0.0, lora_rank=lora_rank)
    trained = train(fresh_model(), make_store(tmp_path / "store"), config, tmp_path / "work")
    kind, name = type(trained.model), "model.layers.1.mlp.up_proj.weight"
    write = kind.save_pretrained

    def harmed(self, folder, state_dict):
        state = dict(state_dict)
        if harm == "a weight is left out":
            state.pop(name)
        if harm == "a weight is another":
            state[name] = state[name] + 1e-6
        write(self, folder, state_dict=state)
        if harm == "the config is another":
            told = json.loads((folder / "config.json").read_text())
            told["rope_parameters"]["rope_theta"] *= 100
            (folder / "config.json").write_text(json.dumps(told))
        if "adapter" in harm:
            told = json.loads((folder / "adapter" / "adapter_config.json").read_text())
            (folder / "adapter" / "adapter_config.json").write_text(json.dumps({**told, "lora_alpha": 400}))

    monkeypatch.setattr(kind, "save_pretrained", harmed)
    said = {"a weight is left out": f"it lacks {name}", "a weight is another": f"{name} has other values",
            "the config is another": "the logits of the model differ",
            "the adapter is scaled otherwise": "the logits of the adapter"}[harm]
    with pytest.raises(RuntimeError, match=f"does not hold what was trained: .*{said}.*the checkpoints are kept"):
        trained.write_model(tmp_path / "model")
    assert list((tmp_path / "work").glob("checkpoint-*"))


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_what_was_trained_in_bf16_is_compared_in_the_format_of_its_weights(tmp_path, lora_rank):
    """accelerate leaves autocast around a model, whose logits would be far from those of the one loaded back."""
    config = replace(CONFIG, steps=2, snapshots=2, warmup_ratio=0.0, lora_rank=lora_rank, learning_rate=1e-2)
    arguments = training_arguments(config, tmp_path / "work", Parallelism(bf16=True))
    trained = train(fresh_model(), make_store(tmp_path / "store"), config, tmp_path / "work", arguments=arguments)
    folder = trained.write_model(tmp_path / "model")
    ids = torch.tensor([[7, 9, 3]])
    rounded, whole = (model(input_ids=ids).logits for model in (trained.model, load_model(folder)))
    assert 1e-3 < (rounded - whole).norm() / whole.norm() < 0.1, "after it the model computes in bf16 as before"


def test_where_memory_has_no_room_the_files_are_compared(tmp_path, monkeypatch):
    from longalign.train import memory, saved

    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    whole = fresh_model()
    whole.save_pretrained(tmp_path / "model")
    state = whole.state_dict()
    saved.check(whole, tmp_path / "model", state, state, sharded=False)
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(RuntimeError, match=f"{name} has other values"):
        other = {**state, name: state[name] + 1}
        saved.check(whole, tmp_path / "model", other, other, sharded=False)
    with pytest.raises(RuntimeError, match="21,504 weights are missing"):
        other = {**state, "another": state[name] + 1}
        saved.check(whole, tmp_path / "model", other, other, sharded=False)
