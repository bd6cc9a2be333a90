"""Checkpoints: only what an engine can read is gone on from, and what cannot be is said in one line."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from benchmarks.models import small

from longalign.common import checksums
from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.train import checkpoints
from longalign.train.config import TrainingConfig
from longalign.train.models import load_model
from longalign.train.parallelism import Parallelism
from longalign.train.trainer import train


def written(folder, **writer):
    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "latest").write_text("global_step3")
    (checkpoint / "trainer_state.json").write_text("{}")
    checkpoints.finish(checkpoint, **writer)
    return checkpoint


@pytest.mark.parametrize(("zero", "then", "told"), [
    (None, 2, "was written without DeepSpeed, and cannot be read at stage 2 of ZeRO"),
    (2, None, "was written at stage 2 of ZeRO, and cannot be read without DeepSpeed"),
    (0, 1, "at stage 0"), (1, 3, "at stage 1"), (3, 2, "at stage 3"),
])  # fmt: skip
def test_a_checkpoint_of_another_kind_is_refused_and_kept(tmp_path, zero, then, told):
    checkpoint = written(tmp_path, world_size=2, zero=zero)
    with pytest.raises(ValueError, match=told) as caught:
        checkpoints.prepare_resume(tmp_path, Parallelism(ranks=2, zero=then))
    assert "\n" not in str(caught.value) and "to begin again" in str(caught.value) and checkpoint.is_dir()


@pytest.mark.parametrize("zero", [None, 0])
def test_where_every_rank_has_everything_any_number_of_ranks_goes_on(tmp_path, zero):
    checkpoint = written(tmp_path, world_size=2, zero=zero)
    checkpoints.prepare_resume(tmp_path, Parallelism(ranks=1, zero=zero))
    assert not checkpoints.is_universal(checkpoint)


def test_what_cannot_be_put_together_is_said_in_one_line_and_kept(tmp_path):
    checkpoint = written(tmp_path, world_size=2, zero=2)
    with pytest.raises(RuntimeError, match="could not be put together for other ranks") as caught:
        checkpoints.prepare_resume(tmp_path, Parallelism(ranks=1, zero=2))
    assert "\n" not in str(caught.value) and not checkpoints.is_universal(checkpoint)
    assert json.loads((checkpoint / checkpoints.WRITER).read_text()) == {"world_size": 2, "zero": 2}


def test_a_checkpoint_that_was_put_together_is_read_as_it_was_written_on_its_own_ranks(tmp_path):
    checkpoint = written(tmp_path, world_size=2, zero=2)
    (checkpoint / checkpoints.UNIVERSAL).write_text("global_step3_universal")
    checkpoints.prepare_resume(tmp_path, Parallelism(ranks=4, zero=1))
    assert checkpoints.is_universal(checkpoint)
    checkpoints.prepare_resume(tmp_path, Parallelism(ranks=2, zero=2))
    assert not checkpoints.is_universal(checkpoint)


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    for step in (9, 10, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert checkpoints.newest(tmp_path).name == "checkpoint-10"
    assert checkpoints.newest(tmp_path / "none") is None


def test_states_that_share_a_step_counter_get_their_own_and_groups_their_decay():
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    groups = [{"params": parameters[:2], "weight_decay": 0.1}, {"params": parameters[2:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)

    def step():
        for parameter in parameters:
            parameter.grad = torch.ones(2)
        optimizer.step()

    step()
    shared = optimizer.state[parameters[0]]["step"]
    for parameter in parameters:
        optimizer.state[parameter]["step"] = shared
    optimizer.param_groups[1]["weight_decay"] = 0.1
    step()
    assert shared.item() > 2, "one counter counts the update of each"
    shared.fill_(1)
    checkpoints.separate_steps(optimizer, 0.1)
    step()
    assert [optimizer.state[parameter]["step"].item() for parameter in parameters] == [2, 2, 2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_a_checkpoint_that_was_removed_while_it_was_written_is_not_sealed_and_a_sealed_one_without_a_state_is_dropped(
    tmp_path, capsys
):  # fmt: skip
    with pytest.raises(RuntimeError, match="checkpoint-8 was removed as soon as it was written: is the clock right"):
        checkpoints.finish(tmp_path / "checkpoint-8", world_size=1, zero=None)
    empty = tmp_path / "checkpoint-9"
    empty.mkdir()
    checksums.seal(empty)
    kept = written(tmp_path, world_size=1, zero=None)
    checkpoints.drop_damaged(tmp_path)
    assert not empty.exists() and kept.is_dir() and "checkpoint-9 is damaged" in capsys.readouterr().out


def test_checkpoints_of_a_clock_that_was_ahead_are_older_than_those_to_come(tmp_path):
    ahead = time.time() + 86_400
    for step in (12, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        checkpoints.finish(folder, world_size=1, zero=None)
        os.utime(folder, (ahead + step, ahead + step))
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-mine")
    checkpoints.drop_damaged(tmp_path)
    times = {folder.name: folder.stat().st_mtime for folder in tmp_path.iterdir()}
    assert times["checkpoint-4"] < times["checkpoint-12"] < time.time()


@pytest.mark.parametrize(("name", "lora_rank"), [("mixtral", 0), ("mixtral", 2), ("qwen3_moe", 0)])
def test_experts_that_a_folder_holds_one_by_one_go_on_as_they_were_trained(tmp_path, name, lora_rank):
    """The Trainer takes from a checkpoint what has the name that it has in the model, and leaves the rest."""
    small.build(name).save_pretrained(tmp_path / "start")
    rows = ([np.arange(3, 3 + length, dtype=np.int32)] * 2 for length in range(5, 17))
    store = write_store(tmp_path / "store", (Encoded(*row, truncated=0) for row in rows), meta={})
    config = TrainingConfig(capacity=32, micro_batches_per_step=2, checkpoint_every=2, lora_rank=lora_rank)

    def trained(work="work"):
        return train(load_model(tmp_path / "start"), store, config, tmp_path / work).model.state_dict()

    whole, newest = trained(), checkpoints.newest(tmp_path / "work")
    shutil.rmtree(newest)
    before = checkpoints.newest(tmp_path / "work")
    assert int(before.name.rpartition("-")[2]) > 0
    again = trained()
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)
    if not lora_rank:  # a checkpoint in which experts lie one by one
        newest = checkpoints.newest(tmp_path / "work")
        load_model(tmp_path / "start").save_pretrained(newest)
        checksums.seal(newest)
        with pytest.raises(ValueError, match="does not hold the model as it was trained .*remove the folder to begin"):
            trained()
