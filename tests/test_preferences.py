"""Preference training: pairs that differ in one fact, and TRL's DPO on them, held to a computation of our own."""

import math
import re
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from longalign.data.chat import encode
from longalign.experiments import later, preferences
from longalign.experiments.profiles import load_profile
from longalign.miniature import tokenizer, training_sets
from longalign.miniature.preferences import pairs
from longalign.miniature.settings import Corpus

SHORT = Corpus(long=6, min_long=96, max_length=160)


def test_a_wrong_answer_has_the_right_one_s_form_and_differs_in_the_value_of_one_fact():
    rows = list(pairs(replace(SHORT, long=40)))
    assert len({row["id"] for row in rows}) == 40 and all(row["length"] <= 160 for row in rows)
    for row in rows:
        document = row["prompt"][0]["content"].rpartition("\n\n")[0]
        right, wrong = (encode(row["prompt"] + row[name], tokenizer.load()) for name in ("chosen", "rejected"))
        assert len(right.input_ids) == len(wrong.input_ids) <= row["length"]
        differ = (right.input_ids != wrong.input_ids).nonzero()[0]
        assert len(differ) and (right.labels[differ] != -100).all()
        sentences = [re.findall("[^.。]+", row[name][0]["content"]) for name in ("chosen", "rejected")]
        changed = [(a, b) for a, b in zip(*sentences, strict=True) if a != b]
        assert len(changed) == 1 and changed[0][0].strip() in document


def test_no_pair_is_of_a_document_that_was_trained_on_or_is_asked_about():
    suite = {sample["messages"][0]["content"] for sample in training_sets.suite("LongAlign-10k", SHORT)}
    other = {row["prompt"][0]["content"] for row in pairs(replace(SHORT, seed=1))}
    ours = {row["prompt"][0]["content"] for row in pairs(SHORT)}
    assert not ours & suite and not ours & other


def test_without_trl_nothing_is_trained_and_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(preferences.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(later, "Page", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(SystemExit, match=r"TRL, which is not installed: pip install 'longalign\[trl\]'"):
        later.main(["smoke"])


def test_a_profile_that_there_is_none_of_and_an_interrupt_end_the_referee_without_a_traceback(monkeypatch):
    monkeypatch.setattr(later, "check_installed", lambda: None)
    with pytest.raises(SystemExit, match="longalign.experiments.later: .*refere.*'referee'"):
        later.main(["refere"])
    monkeypatch.setattr(later, "Page", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as ended:
        later.main(["referee"])
    assert ended.value.code == 130


def test_the_arms_are_one_fine_tuning_of_each_seed_and_dpo_after_it(monkeypatch):
    made = {}
    monkeypatch.setattr(later, "fine_tuning", lambda start, method, seed: made.setdefault(seed, Trained(method, seed)))
    monkeypatch.setattr(later, "pairs_file", lambda start, seed: f"pairs of {seed}")
    arms = later.preferences(profile := load_profile("referee"))
    assert len(arms) == 2 * profile.seeds and {arm.arm for arm in arms} == {"SFT", "SFT, then DPO"}
    for arm, run in arms.items():
        if arm.arm != "SFT":
            assert (run.start, run.pairs, run.seed) == (made[arm.seed].model, f"pairs of {arm.seed}", arm.seed)
    assert {run.method for run in made.values()} == {"packing + loss weighting"}


class Trained(NamedTuple):
    method: str
    seed: int

    @property
    def model(self):
        return f"model {self.seed}"


@pytest.fixture
def job(tmp_path, monkeypatch):
    pytest.importorskip("trl")
    from longalign.train.models import new_model

    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    new_model("mini-6b", vocab_size=len(tokenizer.load()), max_length=256, seed=0).save_pretrained(tmp_path / "start")
    file = training_sets.write_jsonl(tmp_path / "pairs.jsonl", pairs(SHORT))
    return preferences.Preference("DPO", str(tmp_path / "start"), str(file), rate=1e-3, beta=0.5, pairs_per_step=2,
                                  seed=0)  # fmt: skip


def log_probability(model, messages):
    encoded = encode(messages, tokenizer.load())
    ids, labels = (torch.tensor(values).long() for values in (encoded.input_ids, encoded.labels))
    with torch.no_grad():
        logits = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
    chosen = logits.gather(1, ids[1:, None])[:, 0]
    return chosen[labels[1:] != -100].sum().item()


def test_trl_s_loss_is_that_of_dpo_on_our_chat_format(job, tmp_path):
    trainer, rows = preferences.trainer(job, tmp_path / "work"), list(pairs(SHORT))
    for prepared, row in zip(trainer.train_dataset, rows, strict=True):
        for name in ("chosen", "rejected"):
            encoded = encode(row["prompt"] + row[name], tokenizer.load())
            targets = encoded.labels != -100
            assert prepared["prompt_ids"] == encoded.input_ids[~targets].tolist()
            assert prepared[f"{name}_ids"] == encoded.input_ids[targets].tolist()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.03 * torch.randn_like(parameter)  # a policy that is not its reference
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(3)])
    found = trainer.compute_loss(trainer.model, batch).item()
    margins = []
    for row in rows[:3]:
        right, wrong = (log_probability(trainer.model, row["prompt"] + row[name])
                        - log_probability(trainer.ref_model, row["prompt"] + row[name])
                        for name in ("chosen", "rejected"))  # fmt: skip
        margins.append(job.beta * (right - wrong))
    assert max(map(abs, margins)) > 0.1
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / 3
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_model_is_trained_once_and_prefers_right_answers_afterwards(job):
    from longalign.train.models import load_model
    from longalign.train.workers import execute

    execute(job)
    assert job.finished and job.record()["steps"] == 3 and job.record()["tokens"] > 0
    before, after = load_model(job.start), load_model(job.model)
    rows = list(pairs(SHORT))

    def margin(model):
        return sum(log_probability(model, row["prompt"] + row["chosen"])
                   - log_probability(model, row["prompt"] + row["rejected"]) for row in rows)  # fmt: skip

    assert margin(after) > margin(before)
    assert replace(job, label="another").key == job.key != replace(job, beta=0.4).key
    written = (job.folder / "record.json").stat().st_mtime_ns
    execute(job)
    assert (job.folder / "record.json").stat().st_mtime_ns == written
