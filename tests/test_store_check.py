"""Sequences that a model is to be trained on: what does not suit it is refused, what ought to be known is told."""


import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.recipe.collators import PackedCollator
from longalign.recipe.loss import weighted_loss
from longalign.train import preflight, store_check
from tiny_models import DECODER, model, sequences


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        ("llama", sequences(2, 4, first=40), "sequence 0 holds the token id 40, but LlamaForCausalLM knows the ids 0 "
         "to 39: tokenize with the model's own tokenizer"),
        ("llama", [*sequences(2), *sequences(4, first=-1)], "sequence 1 holds the token id -1"),
        ("gpt2", sequences(2, 33), "sequence 1 has 33 tokens, but GPT2LMHeadModel has a table of 32 positions"),
        ("llama", [*sequences(2), {"input_ids": [3] * 4, "labels": [3] * 3}],
         r"sequence 1 has input_ids of shape \(4,\) and labels of shape \(3,\): give one row of tokens, and a label"),
        ("llama", [*sequences(2), {"input_ids": [[3, 3]], "labels": [[3, 3]]}],
         r"sequence 1 has input_ids of shape \(1, 2\)"),
        ("llama", [{"input_ids": [3] * 9, "labels": [-100] * 9}], r"none of the 1 sequences has a target \(all labels"),
    ],
    ids=["ids above the vocabulary", "ids below 0", "more than learned positions", "a label too few", "rows in a row",
         "no target anywhere"],
)
def test_sequences_that_do_not_suit_the_model_are_refused(kind, data, told):
    with pytest.raises(ValueError, match=told):
        preflight.preflight(model(kind), sequences=data)


def test_what_is_allowed_and_ought_to_be_known_is_told_in_a_line():
    data = [*sequences(33), {"input_ids": [3] * 2, "labels": [-100] * 2}]
    assert preflight.preflight(model("llama"), sequences=data) == [
        "the longest sequence has 33 tokens, more than the 32 positions that the model was made for",
        "1 of 2 sequences have no target: nothing is learnt from them",
    ]
    masked_with_0 = [*sequences(4), {"input_ids": [3, 5, 7, 9], "labels": [0, 0, 7, 9]}]
    assert preflight.preflight(model("llama"), sequences=masked_with_0) == [
        "1 of 2 sequences have labels that are neither their own tokens nor -100: these are learnt as they are, and "
        "only -100 leaves a token out"
    ]
    assert store_check.positions(model("llama")) is None
    assert store_check.positions(AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **DECODER))) == 32


def test_a_padding_token_that_the_sequences_hold_is_told_and_learns_nothing_until_it_is_set_to_none():
    tried, ids = model("llama"), [5, 6, 0, 7, 0]
    one = [{"input_ids": ids, "labels": ids}]
    assert "pads with token 0, which the sequences hold, too" in preflight.preflight(tried, sequences=one)[0]
    batch = PackedCollator(3)([{**one[0], "loss_weight": 0.25}])
    for index, learns in ((0, False), (None, True)):
        table = tried.get_input_embeddings()
        table.padding_idx, table.weight.grad = index, None
        weighted_loss(tried, batch).backward()
        assert bool(table.weight.grad[0].any()) == learns
    assert preflight.preflight(tried, sequences=one) == []
    last = [{"input_ids": ids[:3], "labels": ids[:3]}]  # nothing is predicted from there
    assert store_check.check(model("llama"), last)[0] == []
