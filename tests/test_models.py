"""Miniatures: their shapes, their context extension, and the committed short bases against their recipe."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GlmConfig,
    GPT2Config,
    GraniteMoeHybridConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from longalign.common import paths, provenance
from longalign.miniature import pretraining, tokenizer, training_sets
from longalign.train import models

committed = pytest.mark.parametrize("name", models.MINIATURES)


def test_mini_6b_shares_keys_between_heads_and_mini_7b_does_not():
    shapes = models.MINIATURES
    assert shapes["mini-6b"].key_value_heads < shapes["mini-6b"].heads
    assert shapes["mini-7b"].key_value_heads == shapes["mini-7b"].heads
    assert shapes["mini-13b"].hidden_size > shapes["mini-7b"].hidden_size


def test_of_experts_those_count_that_a_token_passes():
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "vocab_size": 32}  # fmt: skip
    dense = models.sequence_cost(LlamaConfig(**shape, intermediate_size=48))
    assert models.sequence_cost(MixtralConfig(**shape, intermediate_size=24, num_experts_per_tok=2)) == dense
    narrow = Qwen3MoeConfig(**shape, head_dim=4, intermediate_size=99, moe_intermediate_size=12, num_experts_per_tok=4)
    assert models.sequence_cost(narrow) == dense


def test_an_unknown_miniature_is_refused_by_name():
    with pytest.raises(KeyError, match="mini-8b.*mini-7b"):
        models.new_model("mini-8b", vocab_size=8, max_length=8, seed=0)


def test_extension_multiplies_the_rope_base_and_changes_no_weight(tmp_path):
    models.new_model("mini-6b", vocab_size=16, max_length=8, seed=0).save_pretrained(tmp_path)
    before, after = models.load_model(tmp_path), models.load_model(tmp_path, rope_factor=200, max_length=64)
    assert after.config.rope_parameters["rope_theta"] == 2_000_000 and after.config.max_position_embeddings == 64
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    ids = torch.arange(2, 10)[None]
    assert not torch.allclose(before(ids).logits, after(ids).logits)
    after.save_pretrained(tmp_path / "extended")
    again = models.load_model(tmp_path / "extended")
    assert torch.equal(again(ids).logits, after(ids).logits)


def saved(config, folder):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


TINY = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 16, "pad_token_id": 0}  # fmt: skip


@pytest.mark.parametrize("kind", [LlamaConfig, GlmConfig, MistralConfig, Qwen3Config])
def test_any_model_with_rope_is_extended_by_its_base_or_by_yarn(kind, tmp_path):
    folder = saved(kind(**TINY), tmp_path)
    plain, theta = models.load_model(folder), kind(**TINY).rope_parameters["rope_theta"]
    for rope_type in ("default", "yarn"):
        after = models.load_model(folder, rope_factor=4, rope_type=rope_type, max_length=64)
        after.save_pretrained(tmp_path / rope_type)
        again, ids = models.load_model(tmp_path / rope_type), torch.arange(2, 12)[None]
        assert torch.equal(again(ids).logits, after(ids).logits)
        assert not torch.equal(again(ids).logits, plain(ids).logits)
        assert again.config.rope_parameters["rope_theta"] == 4 * theta and again.config.max_position_embeddings == 64


def test_yarn_stretches_as_its_paper_says(tmp_path):
    old, new = 1024, 4096
    folder = saved(LlamaConfig(**TINY | {"max_position_embeddings": old}), tmp_path)
    model = models.load_model(folder, rope_type="yarn", max_length=new)
    theta, pairs, stretch = 10_000.0, torch.arange(0, 16, 2), new / old
    plain = theta ** (-pairs / 16)
    # arXiv 2309.00071: equations 17 to 19, with alpha = 1 turn and beta = 32 turns within the old length; transformers
    # rounds the two places to whole pairs, so that pairs between them are held to lie between the two ends
    turns = old * plain / (2 * math.pi)
    got = model.model.rotary_emb.inv_freq
    slow, fast = turns < 0.5, turns > 32
    assert slow.any() and fast.any()
    assert torch.allclose(got[slow], plain[slow] / stretch) and torch.allclose(got[fast], plain[fast])
    assert ((got >= plain / stretch - 1e-7) & (got <= plain + 1e-7)).all() and (got[:-1] > got[1:]).all()
    assert model.model.rotary_emb.attention_scaling == pytest.approx(0.1 * math.log(stretch) + 1)  # equation 22


def test_layers_of_a_sliding_window_keep_their_rope(tmp_path):
    config = Gemma3TextConfig(**TINY, sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    folder = saved(config, tmp_path)
    before = config.rope_parameters
    after = models.load_model(folder, rope_factor=8, max_length=64).config.rope_parameters
    assert after["sliding_attention"] == before["sliding_attention"]
    assert after["full_attention"]["rope_theta"] == 8 * before["full_attention"]["rope_theta"]


@pytest.mark.parametrize(("change", "said"), [
    ({"rope_type": "longrope"}, "rope_type is 'longrope'; it is default or yarn"),
    ({"rope_type": "yarn"}, "needs a max_length above the 16 positions; it is None"),
    ({"rope_type": "yarn", "max_length": 16}, "it is 16"),
])  # fmt: skip
def test_an_extension_that_cannot_be_is_refused(change, said, tmp_path):
    folder = saved(LlamaConfig(**TINY), tmp_path)
    with pytest.raises(ValueError, match=said):
        models.load_model(folder, **change)


def test_a_model_that_is_stretched_already_or_has_no_rope_is_refused(tmp_path):
    stretched = saved(LlamaConfig(**TINY), tmp_path / "a")
    models.load_model(stretched, rope_type="yarn", max_length=64).save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="its RoPE is scaled already .yarn."):
        models.load_model(tmp_path / "b", rope_type="yarn", max_length=128)
    absolute = GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    with pytest.raises(ValueError, match="only models with RoPE can be extended"):
        models.load_model(saved(absolute, tmp_path / "c"), rope_factor=2)


def test_a_model_that_does_not_rotate_is_not_extended_though_its_config_could_be(tmp_path):
    layers = {"layer_types": ["attention"] * 2, "mamba_n_heads": 8, "mamba_d_head": 8}
    folder = saved(GraniteMoeHybridConfig(**TINY, **layers, position_embedding_type="nope"), tmp_path)
    for load in (models.load_model, models.outline):
        load(folder)
        with pytest.raises(ValueError, match="GraniteMoeHybridForCausalLM rotates nothing: it cannot be extended"):
            load(folder, rope_factor=200)


def test_a_folder_without_a_model_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="make bases"):
        models.load_model(tmp_path)


def test_a_stage_with_other_lessons_has_other_documents_in_the_same_place(tmp_path):
    stage = replace(pretraining.FIRST, tokens=1000)
    other = replace(stage, recall_share=0.0)
    assert pretraining.documents(stage, tmp_path).sha256 == pretraining.documents(stage, tmp_path).sha256
    assert pretraining.documents(stage, tmp_path).sha256 != pretraining.documents(other, tmp_path).sha256


@committed
def test_a_committed_base_is_the_one_its_record_describes(name):
    folder = paths.bases() / name
    entry = json.loads((folder / "record.json").read_text())
    assert entry["sha256"] == provenance.hash_files(folder / "model.safetensors")
    assert entry["stages"] == json.loads(json.dumps([vars(stage) for stage in pretraining.RECIPES[name].stages]))


def test_documents_are_those_of_the_seed_whatever_the_rate_and_fewer_are_the_first_of_more(tmp_path):
    stage = replace(pretraining.FIRST, tokens=1000)
    store, more = (pretraining.documents(replace(stage, tokens=n), tmp_path, 3) for n in (1000, 2000))
    assert pretraining.documents(replace(stage, learning_rate=1.0), tmp_path, 3).folder == store.folder
    assert pretraining.documents(stage, tmp_path).sha256 != store.sha256
    assert all((store[i]["input_ids"] == more[i]["input_ids"]).all() for i in range(len(store)))


@pytest.mark.slow
def test_a_part_of_the_bases_is_built_in_half_precision_and_a_second_build_reuses_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(pretraining, "REHEARSAL_STEPS", 1)
    shape = models.ModelShape(32, 1, 48, 2, 1, 16, tied=True)
    recipes = {"mini-6b": pretraining.Recipe(pretraining.curriculum(12_000, 3e-3), (0, 4), shape)}
    for _ in range(2):
        pretraining.build([("mini-6b", 1)], tmp_path / "bases", recipes)
    (folder,) = (tmp_path / "bases").iterdir()
    entry = json.loads((folder / "record.json").read_text())
    assert (folder.name, entry["base"], entry["seed"], entry["shape"]["hidden_size"]) == ("mini-6b-1", 1, 4, 32)
    assert 12_000 <= entry["tokens"] < 13_000 and entry["sha256"] == provenance.hash_files(folder / "model.safetensors")
    assert "reused" in capsys.readouterr().out
    ((*_, last),) = pretraining.train_stages([("mini-6b", recipes["mini-6b"], 4)])
    trained, committed_one = (models.load_model(where).state_dict() for where in (last.model, folder))
    for name, weight in trained.items():
        assert committed_one[name].dtype == torch.float32 and torch.equal(weight.half().float(), committed_one[name])


@committed
def test_the_recipe_still_gives_the_losses_that_the_committed_base_recorded(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    entry = json.loads((paths.bases() / name / "record.json").read_text())
    assert pretraining.rehearse(name, tmp_path) == pytest.approx(entry["rehearsal_losses"], abs=2e-3)


@committed
def test_a_committed_base_looks_facts_up_in_short_documents_where_a_fresh_one_cannot(name):
    from longalign.evals.teacher_forced import token_recall

    probe = training_sets.recall_probe(pretraining.MAX_LENGTH, 60)
    fresh = models.new_model(name, vocab_size=len(tokenizer.load()), max_length=pretraining.MAX_LENGTH, seed=0)
    assert token_recall(fresh, probe) < 0.1
    assert token_recall(models.load_model(paths.bases() / name), probe) > 0.6


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_a_rope_that_is_computed_from_the_maximum_length_keeps_it(rope, tmp_path):
    factors = {"factor": 4.0} if rope == "dynamic" else {"long_factor": [2.0] * 4, "short_factor": [1.0] * 4}
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=8, rope_parameters={
            "rope_type": rope, "rope_theta": 1e4, "original_max_position_embeddings": 4, **factors,
        },
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for load in (models.load_model, models.outline):
        with pytest.raises(ValueError, match=f"RoPE of type '{rope}' is computed from max_position_embeddings, 8"):
            load(tmp_path, max_length=16)
        assert load(tmp_path, max_length=8).config.max_position_embeddings == 8
