"""Evaluations: scored once, addressed by model, items, window and code; tables are means over the kept items."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from longalign.experiments.evaluations import LOSS, Evaluation, Scored, loaded, tidy, write_items
from longalign.experiments.profiles import load_profile
from longalign.miniature import benchmarks, tokenizer, training_sets
from longalign.train import workers
from longalign.train.models import new_model

SETTINGS = load_profile("smoke").evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    for seed in (0, 1):
        model = new_model("mini-6b", vocab_size=len(tokenizer.load()), max_length=256, seed=seed)
        model.save_pretrained(folder / f"model-{seed}")
    for name in ("test", "short"):
        training_sets.write_jsonl(folder / "items" / f"{name}.jsonl", benchmarks.items(name, SETTINGS, window=256))
    return folder


@pytest.fixture
def evaluation(folder, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(folder / "runs"))
    return Evaluation("first", str(folder / "model-0"), str(folder / "items"), "test", 256)


def test_weights_of_another_dtype_are_another_evaluation_and_positions_stay_exact(evaluation):
    rounded = dataclasses.replace(evaluation, dtype="bfloat16")
    assert rounded.key != evaluation.key
    with loaded(evaluation.model, "bfloat16") as model, loaded(evaluation.model) as plain:
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
        assert torch.equal(model.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
        ids = torch.arange(2, 200)[None]
        with torch.no_grad():
            got, expected = model(ids).logits.float(), plain(ids).logits
        assert not torch.equal(got, expected) and (got - expected).abs().max() < 0.05 * expected.abs().max()
    workers.execute(rounded)
    assert len(rounded.rows()) == len(list(benchmarks.items("test", SETTINGS, window=256))) * 2


def test_answers_with_other_ends_of_lines_are_read_as_they_were_written(evaluation, monkeypatch):
    told = [{"item": "a", "answer": "one\u2028two\u0085three"}, {"item": "b", "answer": ""}]
    other = dataclasses.replace(evaluation, window=128)
    monkeypatch.setattr(Evaluation, "_scores", lambda self, model: ([], told))
    workers.execute(other)
    assert other.finished and other.answers() == told


def test_an_evaluation_keeps_a_score_for_every_item_and_is_not_done_twice(evaluation):
    workers.execute(evaluation)
    written = (evaluation.folder / "record.json").stat().st_mtime_ns
    workers.execute(evaluation)
    assert (evaluation.folder / "record.json").stat().st_mtime_ns == written
    rows = pd.DataFrame(evaluation.rows())
    items = len(SETTINGS.tasks) * len(SETTINGS.lengths) * SETTINGS.per_cell
    assert len(rows) == 2 * items, "exact_match and fact_match of each"
    assert rows.value.between(0, 1).all() and evaluation.answers() == []


def test_the_key_depends_on_model_items_window_and_training_data_but_not_on_the_label(evaluation, folder):
    changes = [{"model": str(folder / "model-1")}, {"window": 128}, {"benchmark": "short"}]
    keys = {evaluation.key, *(dataclasses.replace(evaluation, **change).key for change in changes)}
    assert len(keys) == 4
    assert dataclasses.replace(evaluation, label="another").key == evaluation.key


def test_the_table_is_the_mean_over_items_and_the_wide_file_holds_each_of_them(evaluation, tmp_path):
    scored = {
        Scored("naive", "mini-6b", 0, name): dataclasses.replace(evaluation, benchmark=name)
        for name in ("test", "short")
    }
    for one in scored.values():
        workers.execute(one)
    table = pd.DataFrame(tidy("methods", scored))
    rows = pd.DataFrame([row for one in scored.values() for row in one.rows()])
    assert set(rows.benchmark) == {"test", "short"}
    for row in table.itertuples():
        cell = rows[(rows.task == row.task) & (rows.length == row.length) & (rows.metric == row.metric)]
        assert row.value == pytest.approx(np.mean(cell.value), abs=1e-12)
    wide = pd.read_csv(write_items(tmp_path / "items.csv", scored))
    assert len(wide) == len(rows) and "mini-6b|naive|0" in wide
    assert wide["mini-6b|naive|0"].mean() == pytest.approx(rows.value.mean(), abs=1e-3)


def test_a_prompt_over_the_window_loses_its_middle_and_is_still_scored(evaluation):
    short = dataclasses.replace(evaluation, window=160)
    for one in (evaluation, short):
        workers.execute(one)
    assert len(short.rows()) == len(evaluation.rows())
    assert [row["item"] for row in short.rows()] == [row["item"] for row in evaluation.rows()]


def test_the_tokenizer_is_that_of_a_folder_where_one_is_named(evaluation, folder):
    corpus = dataclasses.replace(load_profile("smoke").corpus, long=2, short=4)
    store = training_sets.suite_store("LongAlign-10k", corpus, folder / "few")
    evaluation = dataclasses.replace(evaluation, benchmark=LOSS, train=str(store.folder))
    tokenizer.load().save_pretrained(folder / "same")
    other = AutoTokenizer.from_pretrained(folder / "same")
    other.chat_template = tokenizer.CHAT_TEMPLATE.replace("{{ message.content }}", "{{ message.content[::-1] }}")
    other.save_pretrained(folder / "other")
    named = [dataclasses.replace(evaluation, tokenizer=str(folder / name)) for name in ("same", "other")]
    for one in (evaluation, *named):
        workers.execute(one)
    losses = [{row["task"]: row["value"] for row in one.rows()} for one in (evaluation, *named)]
    assert losses[0] == losses[1] and losses[2]["train-loss"] == losses[0]["train-loss"]
    assert losses[2]["test-loss"] != losses[0]["test-loss"]
    assert len({one.key for one in (evaluation, *named)}) == 3


def test_losses_are_taken_on_training_data_and_on_the_test_items(evaluation, folder):
    corpus = dataclasses.replace(load_profile("smoke").corpus, long=2, short=4)
    store = training_sets.suite_store("LongAlign-10k", corpus, folder / "data")
    losses = dataclasses.replace(evaluation, benchmark=LOSS, train=str(store.folder))
    workers.execute(losses)
    values = {row["task"]: row["value"] for row in losses.rows()}
    assert set(values) == {"train-loss", "test-loss"}
    assert all(6 < value < 9 for value in values.values()), "an untrained model is near the logarithm of the vocabulary"
