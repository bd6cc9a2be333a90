"""Folders of models as users have them, in a job: what is not whole, or is another model than it says, is refused."""

import json
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from chat_tokenizers import byte_tokenizer
from longalign.clients.local_model import LocalModel
from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.train import jobs, language_part, needs
from longalign.train.models import load_model, outline
from longalign.train.trainer import TrainingConfig, train
from test_trainer import CONFIG, fresh_model, make_store
from tiny_models import DECODER, MODELS, model


@pytest.fixture
def job(tmp_path):
    """A job file by its model, changed after its store was written; `job(kind)` returns its path."""

    def write(kind="llama", targets=True, words=40, **changes):
        settings = {**MODELS[kind], "vocab_size": words}
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
        built.save_pretrained(tmp_path / "model")
        if targets:
            make_store(tmp_path / "store")
        else:
            silent = Encoded(np.arange(9, dtype=np.int32), np.full(9, -100, np.int32), truncated=0)
            write_store(tmp_path / "store", [silent] * 3, meta={})
        training = {"capacity": 24, "epochs": 1, "steps": 1, "warmup_ratio": 0, **changes}
        data = {"model": str(tmp_path / "model"), "data": str(tmp_path / "store"), "training": training}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(data))
        return tmp_path / "job.yaml"

    return write


def refusal(path, capsys):
    """The one line of a job that is refused, dry and in earnest, before anything is written."""
    lines = set()
    for more in (["--dry-run"], ["--out", str(path.parent / "out")]):
        capsys.readouterr()
        assert jobs.main([str(path), *more]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "Traceback" not in told, told
        lines.add(told)
        assert not (path.parent / "out" / "trained").exists()
    (line,) = lines
    return line


def test_code_of_a_folder_s_own_is_not_run_and_nobody_is_asked(job, capsys, monkeypatch):
    path = job()
    folder = path.parent / "model"
    told = json.loads((folder / "config.json").read_text())
    of_its_own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(told | {"model_type": "own", "auto_map": of_its_own}))
    (folder / "own.py").write_text("raise SystemExit('it was run')")
    monkeypatch.setattr("builtins.input", lambda _: "y")  # whoever sits at a terminal
    assert f"{folder} cannot be loaded: it comes with code of its own, which is not run here" in refusal(path, capsys)
    for load in (load_model, outline):
        with pytest.raises(ValueError, match=r"comes with code of its own, which is not run here: take one that "):
            load(folder)


def test_ids_above_the_vocabulary_are_refused_in_the_dry_run_too(job, capsys):
    assert "but LlamaForCausalLM knows the ids 0 to 15" in refusal(job(words=16), capsys)


def test_a_store_whose_tokens_were_overwritten_is_refused(job, capsys):
    path = job()
    tokens = path.parent / "store" / "tokens.bin"
    np.full(tokens.stat().st_size // 4, 7, "<i4").tofile(tokens)
    assert "tokens.bin: damaged token store (its sha256 differs" in refusal(path, capsys)


def test_a_store_without_a_target_is_refused(job, capsys):
    assert "none of the 3 sequences has a target" in refusal(job(targets=False), capsys)


def test_a_model_that_cannot_have_the_attention_is_refused(job, capsys):
    told = refusal(job("falcon"), capsys)
    assert "FalconForCausalLM cannot be trained here: its attention is code of its own" in told


def test_a_dry_run_tries_the_model_itself_where_memory_has_room(job, capsys, monkeypatch):
    path = job("gpt2", lora_rank=2)
    assert jobs.main([str(path), "--dry-run"]) == 0
    assert "preflight: a few sequences through the model" in capsys.readouterr().out
    monkeypatch.setattr(jobs, "free_memory", lambda: 1000)
    monkeypatch.setattr("longalign.train.models.load_model", lambda *_, **__: pytest.fail("no room"))
    assert jobs.main([str(path), "--dry-run"]) == 0
    assert "is tried by the training, before its first step" in capsys.readouterr().out
    assert outline(path.parent / "model").device.type == "meta"


def test_a_training_reads_the_whole_store_first(tmp_path):
    store = make_store(tmp_path / "store")
    targets = tmp_path / "store" / "targets.bin"
    targets.write_bytes(bytes(targets.stat().st_size))
    with pytest.raises(ValueError, match="targets.bin: damaged token store"):
        train(fresh_model(), store, TrainingConfig(capacity=24), tmp_path / "work")


def test_a_folder_that_is_not_whole_is_refused_by_every_loader(job):
    from safetensors.torch import load_file, save_file

    folder = job().parent / "model"
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for load in (load_model, lambda where: LocalModel(str(where))):
        with pytest.raises(ValueError, match=r"no whole model: it lacks model.layers.1.mlp.up_proj.weight"):
            load(folder)


def changed(path, **settings):
    """The job, after its model's configuration was changed."""
    config = path.parent / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return path


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_key_value_heads": 4}, "is no whole model: of another shape than its config says are "),
        ({"pad_token_id": 40}, "cannot be loaded: Padding_idx must be within num_embeddings"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "cannot be loaded: Loading a GPTQ quantized"),
    ],
    ids=["of other shapes", "with a padding token that it does not know", "quantized by a package that is not there"],
)
def test_a_folder_that_does_not_fit_its_config_is_refused(job, capsys, settings, told):
    assert told in refusal(changed(job(), **settings), capsys)


def test_weights_that_were_cut_off_are_refused(job, capsys):
    path = job()
    weights = path.parent / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "model cannot be loaded: Error while deserializing" in refusal(path, capsys)


def test_a_table_of_positions_that_max_length_would_change_is_refused_by_its_name(job, capsys):
    path = job("gpt2")
    path.write_text(path.read_text() + "max_length: 64\n")
    assert "model with max_length 64 is no whole model: of another shape" in refusal(path, capsys)


def test_an_attention_that_the_config_names_and_is_not_installed_is_not_needed(job):
    assert needs.model_shape(changed(job(), attn_implementation="flash_attention_2").parent / "model").layers == 2


@pytest.mark.parametrize("name", [-1, 40], ids=["-1", "one too large"])
def test_padded_rows_do_without_the_padding_token_of_the_config(tmp_path, name):
    tried = fresh_model()
    tried.config.pad_token_id = name
    train(tried, make_store(tmp_path / "store"), replace(CONFIG, method="naive", rows=3, steps=1), tmp_path / "work")


def test_quantized_weights_are_loaded_and_saved_whole(job, tmp_path):
    folder = changed(job(), quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]}).parent / "model"
    loaded = load_model(folder)
    loaded.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"attention_bias": False}, "there is no place for model.layers.0.self_attn.k_proj.bias, "),
        ({"num_hidden_layers": 1}, "there is no place for model.layers.1.input_layernorm.weight, "),
    ],
    ids=["without biases", "with fewer layers"],
)
def test_a_folder_whose_weights_have_no_place_in_its_config_is_refused(job, tmp_path, settings, told):
    model("llama", attention_bias=True).save_pretrained(job().parent / "model")
    path = changed(tmp_path / "job.yaml", **settings)
    with pytest.raises(ValueError, match=f"model is another model than its config says: {told}"):
        load_model(path.parent / "model")


def test_a_norm_behind_all_layers_is_no_part_that_may_lie_beside_them(tmp_path):
    config = AutoConfig.for_model("opt", **DECODER)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).model.decoder.final_layer_norm is not None
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "_remove_final_layer_norm": True}))
    with pytest.raises(ValueError, match=r"there is no place for model.decoder.final_layer_norm.bias, "):
        load_model(tmp_path)


def test_a_classifier_with_tied_embeddings_is_refused_by_every_loader(tmp_path):
    config = AutoConfig.for_model("llama", **DECODER, tie_word_embeddings=True)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    for load in (load_model, lambda where: LocalModel(str(where))):
        with pytest.raises(ValueError, match="is a LlamaForSequenceClassification, which has no head of a language"):
            load(tmp_path)


def test_parts_that_a_language_model_does_not_have_may_lie_beside_it(job):
    folder = job().parent / "model"
    beside(folder, "vision.layers.0.weight", "mtp.layers.0.norm.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert load_model(folder).config.num_hidden_layers == 2


def beside(folder, *names):
    """Further weights in the file of a model."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({**weights, **{name: torch.ones(2) for name in names}}, folder / "model.safetensors", {"format": "pt"})


def test_a_model_with_an_adapter_beside_its_weights_is_refused(job, capsys):
    path = job()
    folder = str(path.parent / "model")
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder)
    assert "model holds an adapter (adapter_config.json) beside a model: merge it" in refusal(path, capsys)


def test_a_model_that_sees_images_has_the_window_of_its_language_part(tmp_path, capsys):
    text = {**DECODER, "head_dim": 8, "sliding_window": 5}
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 8, "patch_size": 4}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=sight)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        LocalModel(str(tmp_path))
    byte_tokenizer().save_pretrained(tmp_path)
    assert LocalModel(str(tmp_path)).window == 32
    assert LocalModel(str(tmp_path), window=33).window == 33
    assert "was made for 32 positions" in capsys.readouterr().err


def test_the_folder_of_an_adapter_is_no_model_to_begin_with(job, capsys):
    path = job()
    (path.parent / "model" / "config.json").unlink()
    assert "which holds no model (config.json): name the folder of a model" in refusal(path, capsys)
    (path.parent / "model" / "adapter_config.json").write_text("{}")
    assert "which holds an adapter alone: name the folder of a model, with an adapter merged" in refusal(path, capsys)


@pytest.mark.parametrize("name", ["mtp.norm.weight", "model.layers.9.enorm.weight"])
def test_layers_that_predict_further_tokens_are_told_since_the_trained_model_lacks_them(name, tmp_path):
    folder = tmp_path / "model"
    config = AutoConfig.for_model("llama", **MODELS["llama"], num_nextn_predict_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    assert not list(language_part.further_notes(folder, config))
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    (told,) = language_part.further_notes(folder, config)
    assert f"holds 1 weights of layers that predict further tokens ({name}): they are not trained" in told
