"""Miniatures: their shapes, their context extension, and the committed short bases against their recipe."""

import json
from dataclasses import replace

import pytest
import torch

from longalign import bases, models, paths, record
from longalign.corpus import suites, tokenizer

committed = pytest.mark.parametrize("name", models.MINIATURES)


def test_mini_6b_shares_keys_between_heads_and_mini_7b_does_not():
    shapes = models.MINIATURES
    assert shapes["mini-6b"].num_key_value_heads < shapes["mini-6b"].num_attention_heads
    assert shapes["mini-7b"].num_key_value_heads == shapes["mini-7b"].num_attention_heads
    assert shapes["mini-13b"].hidden_size > shapes["mini-7b"].hidden_size


def test_an_unknown_miniature_is_refused_by_name():
    with pytest.raises(KeyError, match="mini-8b.*mini-7b"):
        models.new_model("mini-8b", vocab_size=8, max_length=8, seed=0)


def test_extension_multiplies_the_rope_base_and_changes_no_weight(tmp_path):
    folder = models.save_model(models.new_model("mini-6b", vocab_size=16, max_length=8, seed=0), tmp_path)
    before, after = models.load_model(folder), models.load_model(folder, rope_factor=200, max_length=64)
    assert after.config.rope_parameters["rope_theta"] == 2_000_000 and after.config.max_position_embeddings == 64
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    ids = torch.arange(2, 10)[None]
    assert not torch.allclose(before(ids).logits, after(ids).logits)
    models.save_model(after, tmp_path / "extended")
    again = models.load_model(tmp_path / "extended")
    assert torch.equal(again(ids).logits, after(ids).logits)


def test_a_folder_without_a_model_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="make bases"):
        models.load_model(tmp_path)


def test_a_stage_with_other_lessons_has_other_documents_in_the_same_place(tmp_path):
    stage = replace(bases.FIRST, tokens=1000)
    other = replace(stage, recall_share=0.0)
    assert bases.documents(stage, tmp_path).sha256 == bases.documents(stage, tmp_path).sha256
    assert bases.documents(stage, tmp_path).sha256 != bases.documents(other, tmp_path).sha256


@committed
def test_a_committed_base_is_the_one_its_record_describes(name):
    folder = paths.bases() / name
    entry = json.loads((folder / "record.json").read_text())
    assert entry["sha256"] == record.hash_files(folder / "model.safetensors")
    assert entry["stages"] == json.loads(json.dumps([vars(stage) for stage in bases.CURRICULA[name]]))


@committed
def test_the_recipe_still_gives_the_losses_that_the_committed_base_recorded(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    entry = json.loads((paths.bases() / name / "record.json").read_text())
    assert bases.rehearse(name, tmp_path) == pytest.approx(entry["rehearsal_losses"], abs=2e-3)


@committed
def test_a_committed_base_looks_facts_up_in_short_documents_where_a_fresh_one_cannot(name):
    from longalign.evals.exact_match import token_recall

    probe = suites.recall_probe(bases.MAX_LENGTH, 60)
    fresh = models.new_model(name, vocab_size=len(tokenizer.load()), max_length=bases.MAX_LENGTH, seed=0)
    assert token_recall(fresh, probe) < 0.1
    assert token_recall(models.load_model(paths.bases() / name), probe) > 0.6
