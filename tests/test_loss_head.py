"""The loss inside a model: the same as of whole logits, whatever the model does with them."""

import copy

import pytest
import torch

from conftest import gradients, largest_difference, tiny_llama
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.loss import LossHead, attach_loss_head, weighted_loss


def test_fp16_is_refused_where_the_model_changes_its_logits_too():
    model, batch = tiny_llama().half(), model_batch()
    model.lm_head = torch.nn.Linear(16, 32).half()
    with pytest.raises(TypeError, match="underflow"):
        weighted_loss(model, batch)


def test_weights_that_were_rounded_to_bf16_are_refused():
    batch = model_batch()
    with pytest.raises(ValueError, match="loss_weights are torch.bfloat16, which rounds them.* _prepare_inputs"):
        weighted_loss(tiny_llama(), {**batch, "loss_weights": batch["loss_weights"].bfloat16()})


def model_batch(tokens=12):
    torch.manual_seed(1)
    input_ids = torch.randint(0, 32, (2, tokens))
    labels = input_ids.clone()
    labels[:, :5] = IGNORE_INDEX
    weights = torch.rand(2, tokens, dtype=torch.float64)
    return {"input_ids": input_ids, "use_cache": False, "labels": labels, "loss_weights": weights}


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_inside_a_model_gives_the_plain_loss_and_gradient(tied):
    compare_with_whole_logits(tiny_llama(tie_word_embeddings=tied), model_batch(), lambda logits: logits)


def test_attaching_the_head_changes_no_name_tie_state_or_logit():
    model = tiny_llama(tie_word_embeddings=True)
    before, logits = copy.deepcopy(model.state_dict()), model(torch.arange(5)[None]).logits
    head = attach_loss_head(model)
    assert attach_loss_head(model) is head is model.lm_head and isinstance(head, LossHead)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert list(before) == list(model.state_dict()) and torch.equal(logits, model(torch.arange(5)[None]).logits)
    weighted_loss(model, model_batch())
    assert torch.equal(logits, model(torch.arange(5)[None]).logits), "after a loss it is a linear layer again"


def test_the_head_is_a_linear_layer_again_after_an_error():
    model = tiny_llama()
    with pytest.raises(Exception, match="(?i)agree|type-check"):
        weighted_loss(model, {**model_batch(), "input_ids": torch.zeros(2, 3, dtype=torch.long)})
    assert model(torch.arange(5)[None]).logits.shape == (1, 5, 32)


def test_a_head_with_bias_gives_the_plain_loss_and_gradient():
    model, batch = tiny_llama(), model_batch()
    model.lm_head = torch.nn.Linear(16, 32).double()
    assert attach_loss_head(model) is None and type(model.lm_head) is torch.nn.Linear
    compare_with_whole_logits(model, batch, lambda logits: logits)


@pytest.mark.parametrize("change", [torch.tanh, lambda logits: logits * 2], ids=["softcap", "scale"])
def test_a_model_that_changes_its_logits_gives_the_plain_loss_and_gradient(change):
    model = tiny_llama()
    forward = model.forward

    def changed(**inputs):
        outputs = forward(**inputs)
        outputs.logits = change(outputs.logits)
        return outputs

    model.forward = changed
    for _ in range(2):  # seen in the first batch, known in the next
        compare_with_whole_logits(model, model_batch(), change, forward)
    assert model.lm_head.changed


def test_a_learnt_scale_that_is_1_today_has_its_own_gradient():
    model = tiny_llama()
    scale = model.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    forward = model.forward

    def scaled(**inputs):
        outputs = forward(**inputs)
        outputs.logits = outputs.logits * scale
        return outputs

    model.forward = scaled
    compare_with_whole_logits(model, model_batch(), lambda logits: logits * scale, forward)


def test_a_cap_of_the_logits_is_seen_however_small_the_loss_is():
    model, batch = tiny_llama(), model_batch()
    forward = model.forward

    def capped(**inputs):
        outputs = forward(**inputs)
        outputs.logits = outputs.logits.clamp(-0.1, 0.1)
        return outputs

    model.forward = capped
    small = 1e-9
    weighted_loss(model, {**batch, "loss_weights": small * batch["loss_weights"]}).backward()
    found = {name: gradient / small for name, gradient in gradients(model).items()}
    model.zero_grad()
    weighted_loss(model, batch).backward()
    assert model.lm_head.changed and largest_difference(found, gradients(model)) < 1e-12


def test_a_model_without_output_embedding_gives_the_plain_loss_and_gradient():
    model = tiny_llama()
    model.get_output_embeddings = lambda: None
    compare_with_whole_logits(model, model_batch(), lambda logits: logits)


def compare_with_whole_logits(model, batch, change, forward=None):
    logits = change((forward or model)(input_ids=batch["input_ids"], use_cache=False).logits)[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    expected = (each * batch["loss_weights"][:, 1:]).sum()
    model.zero_grad()
    expected.backward()
    reference = gradients(model)
    model.zero_grad()
    loss = weighted_loss(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert largest_difference(gradients(model), reference) < 1e-12


def test_without_targets_the_loss_of_changed_logits_is_0_with_a_gradient():
    model, batch = tiny_llama(), model_batch()
    model.lm_head = torch.nn.Linear(16, 32).double()
    loss = weighted_loss(model, {**batch, "labels": torch.full_like(batch["labels"], -100)})
    loss.backward()
    assert loss == 0 and not model.lm_head.weight.grad.any()


def test_a_batch_without_weights_is_refused():
    batch = model_batch()
    del batch["loss_weights"]
    with pytest.raises(ValueError, match="remove_unused_columns"):
        weighted_loss(tiny_llama(), batch)


def test_a_diverged_loss_is_returned_as_nan():
    model = tiny_llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    assert weighted_loss(model, model_batch()).isnan()
