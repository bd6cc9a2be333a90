"""Exact match by one forward pass equals exact match by greedy decoding."""

import numpy as np
import pytest
import torch

from longalign.evals.exact_match import by_cell, exact_match, target_hits
from longalign.models import new_model


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


def test_cells_are_means_over_their_samples():
    samples = [{"task": "a", "cell": 2}, {"task": "a", "cell": 4}, {"task": "a", "cell": 2}]
    assert by_cell(np.array([1.0, 0.0, 0.0]), samples, "task", "cell") == [
        {"task": "a", "cell": 2, "value": 0.5, "count": 2}, {"task": "a", "cell": 4, "value": 0.0, "count": 1},
    ]  # fmt: skip
