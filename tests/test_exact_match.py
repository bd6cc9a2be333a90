"""Exact match by one forward pass equals exact match by greedy decoding."""

import numpy as np
import pytest
import torch

from longalign.evals.teacher_forced import answer_match, exact_match, fact_match, target_hits
from longalign.train.models import new_model


@pytest.fixture(scope="module")
def model():
    return new_model("mini-7b", vocab_size=12, max_length=64, seed=0).eval()


def sequence(prompt, answer):
    return {"input_ids": np.array(prompt + answer), "labels": np.array([-100] * len(prompt) + answer)}


def greedy(model, prompt, count):
    written = model.generate(
        torch.tensor([prompt]), max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return written[0, len(prompt) :].tolist()


def test_what_greedy_decoding_writes_is_an_exact_match_and_any_change_of_it_is_none(model):
    rng = np.random.default_rng(0)
    right, wrong = [], []
    for length in (2, 4, 3, 17, 1):
        prompt = rng.integers(2, 12, length).tolist()
        answer = greedy(model, prompt, 3)
        right.append(sequence(prompt, answer))
        place = int(rng.integers(3))
        wrong.append(sequence(prompt, [*answer[:place], (answer[place] + 1) % 12, *answer[place + 1 :]]))
    assert exact_match(model, right).tolist() == [1.0] * 5
    assert exact_match(model, wrong).tolist() == [0.0] * 5


@pytest.mark.parametrize("capacity", [8, 20, 8192])
def test_the_score_of_a_sequence_does_not_depend_on_its_pack(model, capacity):
    rng = np.random.default_rng(1)
    drawn = [sequence(rng.integers(2, 12, n).tolist(), rng.integers(2, 12, 2).tolist()) for n in (2, 4, 3, 9)]
    alone = [target_hits(model, [one])[0].tolist() for one in drawn]
    assert [hits.tolist() for hits in target_hits(model, drawn, capacity=capacity)] == alone


def test_a_sequence_without_targets_has_no_score(model):
    scores = exact_match(model, [sequence([3, 4, 5], []), sequence([3, 4], greedy(model, [3, 4], 1))])
    assert np.isnan(scores[0]) and scores[1] == 1.0


def conversation(rng, *, turns):
    """Turns of a prompt and an answer of one to three facts; a fact ends in a mark (9 or 10), an answer in token 1."""
    ids, labels = [], []
    for _ in range(turns):
        prompt = rng.integers(2, 9, 4).tolist()
        facts = [[*rng.integers(2, 9, rng.integers(1, 4)), rng.choice([9, 10])] for _ in range(rng.integers(1, 4))]
        answer = [int(token) for token in [*sum(facts, []), 1]]
        ids, labels = ids + prompt + answer, labels + [-100] * len(prompt) + answer
    return {"input_ids": np.array(ids), "labels": np.array(labels)}


def ends_at(labels, *marks):
    """Which targets are one of these tokens."""
    return np.isin(labels[1:][labels[1:] != -100], marks)


def slow_facts(model, one):
    """Facts of each answer, by decoding every fact greedily after the reference before it."""
    ids, labels = one["input_ids"].tolist(), one["labels"].tolist()
    right, start = [], None
    for place, label in enumerate(labels):
        if label != -100 and start is None:
            start = place
        # A mark ends the fact, unless the closing token follows, which is part of the last one.
        if start is not None and (label in (9, 10) and labels[place + 1] != 1 or label == 1):
            right.append(greedy(model, ids[:start], place + 1 - start) == ids[start : place + 1])
            start = None
    return right


def test_facts_match_where_greedy_decoding_writes_each_of_them_after_the_reference_before_it():
    model = new_model("mini-7b", vocab_size=12, max_length=128, seed=0).eval()
    rng = np.random.default_rng(0)
    drawn = [conversation(rng, turns=turns) for turns in (1, 1, 1, 2, 3)]
    learn(model, drawn, steps=3)
    slow = [slow_facts(model, one) for one in drawn]
    assert 0.2 < np.mean(sum(slow, [])) < 0.8, "the model should know some facts and not others"
    hits = target_hits(model, drawn)
    fast = [fact_match(hit, one["labels"], ends=ends_at(one["labels"], 9, 10))
            for hit, one in zip(hits, drawn, strict=True)]  # fmt: skip
    assert fast == pytest.approx([np.mean(facts) for facts in slow], abs=1e-12)


def learn(model, drawn, *, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        for one in drawn:
            ids, labels = (torch.tensor(one[name])[None] for name in ("input_ids", "labels"))
            optimizer.zero_grad()
            model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            optimizer.step()


def test_facts_of_one_answer_of_one_fact_are_its_exact_match(model):
    rng = np.random.default_rng(2)
    for prompt in rng.integers(2, 12, (6, 4)).tolist():
        answer = greedy(model, prompt, 3)
        for change in (0, 1):
            one = sequence(prompt, [(answer[0] + change) % 12, *answer[1:]])
            hits = target_hits(model, [one])[0]
            facts = fact_match(hits, one["labels"], ends=ends_at(one["labels"]))
            assert facts == exact_match(model, [one])[0] == 1 - change
            assert answer_match(hits, one["labels"]) == 1 - change


def test_a_missed_end_token_costs_the_last_fact_of_its_own_answer_alone():
    labels = np.array([-100, 5, 9, 6, 9, 1, -100, -100, 7, 9, 1])
    hits = np.ones(8, dtype=bool)
    assert fact_match(hits, labels, ends=ends_at(labels, 9)) == answer_match(hits, labels) == 1
    hits[4] = False  # the first answer's end
    assert fact_match(hits, labels, ends=ends_at(labels, 9)) == pytest.approx(2 / 3)
    assert answer_match(hits, labels) == 1 / 2
    assert fact_match(hits, labels, ends=ends_at(labels)) == 1 / 2
