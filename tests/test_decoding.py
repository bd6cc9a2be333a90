"""Decoding side by side against one prompt at a time, by a loop of whole forward passes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PretrainedConfig

from conftest import tiny_llama
from longalign.evals import decoding
from longalign.evals.decoding import KeyValues, batches, greedy

END, ROOM = 2, 12


def slow(model, prompt, *, end=END, room=ROOM):
    """The oracle: the whole text read anew for every token, no cache, no batch, stock attention."""
    ids = prompt.tolist()
    while len(ids) < len(prompt) + room:
        with torch.no_grad():
            following = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if following == end:
            break
        ids.append(following)
    return ids[len(prompt) :]


def prompts(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 32, (n,), generator=generator) for n in lengths]


@pytest.fixture(scope="module")
def model():
    return tiny_llama().eval()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(0, 99), st.integers(1, 200))
def test_every_answer_is_the_one_that_its_prompt_alone_has(model, lengths, seed, tokens):
    asked = prompts(lengths, seed)
    assert greedy(model, asked, end=END, room=ROOM, tokens=tokens) == [slow(model, prompt) for prompt in asked]


def test_answers_of_many_lengths_come_out_in_the_order_of_the_prompts(model):
    asked = prompts(range(1, 40))
    # an end token that some answers reach early, some late and some never
    written = [slow(model, prompt, end=-1) for prompt in asked]
    ends = max(range(3, 32), key=lambda token: len({answer.index(token) for answer in written if token in answer}))
    expected = [slow(model, prompt, end=ends) for prompt in asked]
    assert len({len(answer) for answer in expected}) > 3
    assert greedy(model, asked, end=ends, room=ROOM) == expected


def test_a_batch_is_read_in_packs_of_so_many_tokens_or_one_prompt(model, monkeypatch):
    packs, read = [], decoding._read
    monkeypatch.setattr(decoding, "READ_AT_ONCE", 30)
    monkeypatch.setattr(decoding, "_read", lambda m, own, *_: packs.append(sum(map(len, own))) or read(m, own, *_))
    asked = prompts([*range(1, 20), 40, 5, 5])
    assert greedy(model, asked, end=END, room=ROOM) == [slow(model, prompt) for prompt in asked]
    assert packs[0] == 40 and all(tokens <= 30 for tokens in packs[1:]) and 5 < len(packs) < len(asked)


def test_one_token_of_room_takes_one_pass_and_no_prompt_none(model):
    (prompt,) = prompts([5])
    assert greedy(model, [prompt], end=END, room=1) == [slow(model, prompt, room=1)]
    assert greedy(model, [], end=END, room=1) == []


def test_rows_without_grouped_heads_and_of_one_group_are_right_too():
    for groups in (1, 4):
        other = tiny_llama(num_key_value_heads=groups).eval()
        asked = prompts([3, 9, 4])
        assert greedy(other, asked, end=END, room=ROOM) == [slow(other, prompt) for prompt in asked]


def test_what_has_ended_leaves_the_batch(model, monkeypatch):
    left = []
    leave = KeyValues.leave
    monkeypatch.setattr(KeyValues, "leave", lambda self, staying: left.append(len(staying)) or leave(self, staying))
    asked = prompts(range(1, 40))
    written = [slow(model, prompt, end=-1) for prompt in asked]
    first = max(set(ids := [answer[0] for answer in written]), key=ids.count)
    rows = sum(answer[0] != first for answer in written)
    assert greedy(model, asked, end=first, room=ROOM) == [slow(model, prompt, end=first) for prompt in asked]
    assert left and left[0] <= len(asked) // 2 and left[0] <= rows


def test_the_model_is_in_evaluation_mode_meanwhile_and_training_afterwards():
    learner = tiny_llama(attention_dropout=0.5).train()
    asked = prompts([6, 3])
    assert greedy(learner, asked, end=END, room=ROOM) == greedy(learner, asked, end=END, room=ROOM)
    assert learner.training


def test_another_attention_and_an_empty_prompt_are_refused_in_a_sentence(model):
    with pytest.raises(ValueError, match="models.load_model"):
        greedy(tiny_llama(attention="sdpa"), prompts([3]), end=END, room=1)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        greedy(model, prompts([3, 0]), end=END, room=1)


def test_answers_without_an_end_or_with_less_than_no_room_are_refused(model):
    for options in ({"end": None, "room": 3}, {"end": END, "room": -1}):
        with pytest.raises(ValueError, match="answers need a token that ends them and 0 tokens or more"):
            greedy(model, prompts([3]), **options)


@pytest.mark.parametrize("place", ["model", "kind of layer", "language part"])
def test_a_rope_of_the_longest_position_has_no_batches(monkeypatch, place):
    scaled = tiny_llama().eval()
    dynamic = {**scaled.config.rope_parameters, "rope_type": "dynamic"}
    if place == "kind of layer":  # as Gemma 3 has two
        dynamic = {"sliding_attention": scaled.config.rope_parameters, "full_attention": dynamic}
    scaled.config.rope_parameters = dynamic
    if place == "language part":  # of a model that sees images, too
        whole = PretrainedConfig(attn_implementation="longalign")
        monkeypatch.setattr(whole, "get_text_config", lambda *_, of=scaled.config, **__: of, raising=False)
        scaled.config = whole
    seen, continued = [], decoding._continued
    monkeypatch.setattr(decoding, "_continued", lambda model, asked, *rest: seen.append(len(asked)) or continued(
        model, asked, *rest
    ))  # fmt: skip
    greedy(scaled, prompts([2, 4, 3]), end=END, room=2)
    assert seen == [1, 1, 1]


def test_batches_hold_neighbours_in_length_within_the_bound():
    lengths = [5, 100, 6, 90, 7, 400]
    found = batches(lengths, room=10, tokens=220)
    assert found == [[5], [1, 3], [4, 2, 0]]
    assert all(len(batch) == 1 or len(batch) * (lengths[batch[0]] + 10) <= 220 for batch in found)
