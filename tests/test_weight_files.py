"""A model's identity is that of the files that are read, and files that cannot be read are told in a sentence."""

import argparse
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from longalign.clients.local_model import LocalModel
from longalign.common import weight_files
from longalign.common.provenance import hash_model
from longalign.train import jobs, models

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A tiny Llama in shards of 4 kB, which begin with "model-"."""
    folder = tmp_path_factory.mktemp("sharded")
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=2, max_position_embeddings=64)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=4000)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def folder(sharded, tmp_path):
    """A copy of it."""
    return shutil.copytree(sharded, tmp_path / "model")


def rename_last_shard(folder, name):
    """Give the last shard another name, in the index, too; returns its file."""
    index = json.loads((folder / INDEX).read_text())
    last = max(index["weight_map"].values())
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / last).rename(folder / name)
    index["weight_map"] = {key: name if file == last else file for key, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))
    return folder / name


def change(file):
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})


def test_the_files_are_those_that_transformers_reads(folder):
    shards = weight_files.chosen(folder)
    assert shards[0].name == INDEX and {f.name for f in shards[1:]} == {f.name for f in folder.glob("model-*")}
    torch.save({}, folder / "pytorch_model.bin")
    assert weight_files.chosen(folder) == shards
    (folder / "model.safetensors").touch()
    assert weight_files.chosen(folder) == [folder / "model.safetensors"]
    for file in (folder / "model.safetensors", *shards):
        file.unlink()
    assert weight_files.chosen(folder) == [folder / "pytorch_model.bin"]


@pytest.mark.parametrize("name", ["extra.safetensors", "parts/last.safetensors"])
def test_a_model_is_another_if_a_shard_of_any_name_is_another(folder, name):
    plain = hash_model(folder)
    shard = rename_last_shard(folder, name)
    before, weights = hash_model(folder), models.load_model(folder).state_dict()
    change(shard)
    assert hash_model(folder) != before != plain
    assert any(not torch.equal(one, weights[key]) for key, one in models.load_model(folder).state_dict().items())


def test_weights_of_torch_beside_another_variant_are_part_of_the_identity(folder):
    state = models.load_model(folder).state_dict()
    for file in weight_files.chosen(folder):
        file.unlink()
    save_file({key: weight.clone() for key, weight in state.items()}, folder / "model.fp16.safetensors")
    hashes = set()
    for more in (0, 1):
        torch.save({key: weight + more for key, weight in state.items()}, folder / "pytorch_model.bin")
        hashes.add(hash_model(folder))
    assert len(hashes) == 2


def test_a_weight_that_lies_in_two_shards_is_refused_for_the_last_would_win(folder):
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    name, last = min(index, key=index.get), folder / max(index.values())
    save_file({**load_file(last), name: torch.zeros(1)}, last, metadata={"format": "pt"})
    told = rf"{name} lies in two files \({index[name]}, {last.name}\): keep the one that the index names"
    with pytest.raises(ValueError, match=told):
        models.load_model(folder)
    with pytest.raises(ValueError, match=told):
        LocalModel(str(folder), tokenizer="miniature")


def test_a_weight_that_lies_in_two_shards_of_torch_is_refused_too(folder):
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    name, last = min(index, key=index.get), max(index.values())
    moved = {weight: f"pytorch_{file.removesuffix('.safetensors')}.bin" for weight, file in index.items()}
    for file in dict.fromkeys(index.values()):
        more = {name: torch.zeros(1)} if file == last else {}
        torch.save({**load_file(folder / file), **more}, folder / f"pytorch_{file.removesuffix('.safetensors')}.bin")
        (folder / file).unlink()
    (folder / INDEX).unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(ValueError, match=f"{name} lies in two files"):
        models.load_model(folder)
    with pytest.raises(ValueError, match=f"{name} lies in two files"):
        LocalModel(str(folder), tokenizer="miniature")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"
CHANGED = {
    "a third head": {"num_attention_heads": 3}, "a text": {"hidden_size": "16"}, "no function": {"hidden_act": "nope"},
    "no rope": {"rope_parameters": {"rope_type": "foo", "rope_theta": 1.0}},
}  # fmt: skip


def unreadable(folder, what):
    """Make a model's folder one that cannot be read."""
    if what in CHANGED:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | CHANGED[what]))
    elif what in ("an index of nothing", "a broken index"):
        (folder / INDEX).write_text("{}" if what == "an index of nothing" else "{")
    else:
        for file in weight_files.chosen(folder):
            file.unlink()
        (folder / "pytorch_model.bin").write_bytes({"a pointer": POINTER, "a text file": b"hello world"}.get(what, b""))


OTHERS = ("an index of nothing", "a broken index", "a pointer", "a text file", "empty")


@pytest.mark.parametrize("what", [*CHANGED, *OTHERS])
def test_what_cannot_be_read_is_told_with_its_folder(folder, what, capsys):
    unreadable(folder, what)
    for load in (models.load_model, lambda where: LocalModel(str(where), tokenizer="miniature")):
        with pytest.raises(ValueError, match=str(folder)) as caught:
            load(folder)
        assert len(str(caught.value)) < 600
    (folder.parent / "job.yaml").write_text(f"model: {folder}\ndata: store\ntraining: {{capacity: 24}}\n")
    assert jobs.main([str(folder.parent / "job.yaml"), "--dry-run"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_objects_beside_the_weights_are_told_as_that(folder):
    unreadable(folder, "empty")
    torch.save({"arguments": argparse.Namespace(lr=1)}, folder / "pytorch_model.bin")
    for load in (models.load_model, lambda where: LocalModel(str(where), tokenizer="miniature")):
        with pytest.raises(ValueError, match="holds objects beside weights.*save the model's state_dict alone"):
            load(folder)


def test_the_folder_of_an_adapter_alone_is_refused_as_that(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter alone; name the folder of a model with the adapter merged"):
        LocalModel(str(tmp_path))
