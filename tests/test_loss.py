"""The chunked loss against the plain one: value, gradient, memory; and the head that takes it inside the model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import gradients, largest_difference, requires_gpu, tiny_llama
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.loss import LossHead, attach_loss_head, weighted_cross_entropy, weighted_loss


def plain(hidden, weight, labels, loss_weights):
    """The slow oracle: all logits, in the precision given."""
    logits = (hidden @ weight.T)[:, :-1].flatten(0, 1)
    losses = F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return (losses * loss_weights[:, 1:].flatten()).sum()


def case(rows=2, tokens=9, dim=8, vocab=11, *, dtype=torch.float64, share=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, tokens, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocab, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, vocab, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) > share] = IGNORE_INDEX
    return hidden, weight, labels, torch.rand(rows, tokens, generator=generator, dtype=torch.float64)


def with_gradients(function, hidden, weight, *rest, **options):
    loss = function(hidden, weight, *rest, **options)
    return loss, *torch.autograd.grad(loss, (hidden, weight))


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 40), chunk_size=st.integers(1, 17), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_equals_the_plain_loss_in_value_and_gradient(tokens, chunk_size, share, seed):
    inputs = case(tokens=tokens, share=share, seed=seed)
    ours, theirs = (
        with_gradients(weighted_cross_entropy, *inputs, chunk_size=chunk_size),
        with_gradients(plain, *inputs),
    )
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_passes_gradcheck_in_fp64():
    hidden, weight, labels, loss_weights = case(rows=1, tokens=5, dim=3, vocab=4)
    assert torch.autograd.gradcheck(
        lambda h, w: weighted_cross_entropy(h, w, labels, loss_weights, chunk_size=2), (hidden, weight)
    )


def test_a_loss_shifted_by_none_or_two_differs():
    hidden, weight, labels, loss_weights = case()
    ours = weighted_cross_entropy(hidden, weight, labels, loss_weights)
    for shift in (-1, 1):
        other = plain(hidden, weight, labels.roll(shift, 1), loss_weights.roll(shift, 1))
        assert (ours - other).abs() > 1e-2


def test_fp32_is_as_close_to_fp64_as_the_plain_loss():
    exact, rough = case(tokens=300), case(tokens=300, dtype=torch.float32)
    for left, right in zip(with_gradients(weighted_cross_entropy, *rough), with_gradients(plain, *exact), strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-5, atol=1e-5)


def test_bf16_inputs_accumulate_in_fp32():
    hidden, weight, labels, loss_weights = case(tokens=2000, dtype=torch.bfloat16, share=1)
    exact = with_gradients(plain, hidden.double(), weight.double(), labels, loss_weights)
    ours = with_gradients(weighted_cross_entropy, hidden, weight, labels, loss_weights, chunk_size=64)
    assert ours[0].dtype == torch.float32 and ours[2].dtype == torch.bfloat16
    assert abs(ours[0].item() / exact[0].item() - 1) < 1e-3
    error = (ours[2].double() - exact[2]).norm() / exact[2].norm()
    assert error < 5e-3


def test_autocast_keeps_fp32_parameters_with_fp32_gradients():
    inputs = case(tokens=50, dtype=torch.float32)
    exact = with_gradients(plain, *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = with_gradients(weighted_cross_entropy, *inputs)
    assert ours[0].dtype == ours[1].dtype == ours[2].dtype == torch.float32
    assert 1e-6 < (ours[2] - exact[2]).norm() / exact[2].norm() < 2e-2, "bf16 products, but not exact ones"


def test_without_targets_it_is_exactly_zero_with_zero_gradients():
    hidden, weight, labels, loss_weights = case(share=0)
    loss, grad_hidden, grad_weight = with_gradients(weighted_cross_entropy, hidden, weight, labels, loss_weights)
    assert loss.item() == 0 and not grad_hidden.any() and not grad_weight.any()


def test_the_label_at_position_0_never_counts():
    hidden, weight, labels, loss_weights = case()
    other = labels.clone()
    other[:, 0] = (labels[:, 0].clamp(min=0) + 1) % 11
    assert torch.equal(*(weighted_cross_entropy(hidden, weight, given, loss_weights) for given in (labels, other)))


def test_a_frozen_vocabulary_matrix_gets_no_gradient_and_the_hidden_states_the_same():
    hidden, weight, labels, loss_weights = case()
    expected = with_gradients(weighted_cross_entropy, hidden, weight, labels, loss_weights)[1]
    loss = weighted_cross_entropy(hidden, weight.detach(), labels, loss_weights)
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], expected)


def test_an_upstream_factor_scales_the_gradients():
    inputs = case()
    once, thrice = (
        with_gradients(weighted_cross_entropy, *inputs),
        with_gradients(lambda *given: 3 * weighted_cross_entropy(*given), *inputs),
    )
    torch.testing.assert_close(thrice[1], 3 * once[1])
    torch.testing.assert_close(thrice[2], 3 * once[2])


def test_shapes_that_differ_and_fp16_are_refused():
    hidden, weight, labels, loss_weights = case()
    with pytest.raises(Exception, match="(?i)agree in rows and tokens|type-check"):
        weighted_cross_entropy(hidden, weight, labels[:, 1:], loss_weights[:, 1:])
    with pytest.raises(TypeError, match="underflow"):
        weighted_cross_entropy(hidden.half(), weight.half(), labels, loss_weights)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        weighted_cross_entropy(hidden, weight, labels, loss_weights, chunk_size=0)


def test_fp16_is_refused_where_the_model_changes_its_logits_too():
    model, batch = tiny_llama().half(), model_batch()
    model.lm_head = torch.nn.Linear(16, 32).half()
    with pytest.raises(TypeError, match="underflow"):
        weighted_loss(model, batch)


def test_weights_that_were_rounded_to_bf16_are_refused():
    batch = model_batch()
    with pytest.raises(ValueError, match="loss_weights are torch.bfloat16, which rounds them.* _prepare_inputs"):
        weighted_loss(tiny_llama(), {**batch, "loss_weights": batch["loss_weights"].bfloat16()})


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned, and how often a product was taken."""

    def __init__(self):
        super().__init__()
        self.elements = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *(t.numel() for t in tensors)])
        self.products += "mm" in str(func)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_t_by_v_logits_never_exist(dtype):
    tokens, vocab, chunk_size = 1024, 2048, 64
    inputs = case(rows=1, tokens=tokens, dim=4, vocab=vocab, dtype=dtype, share=1)
    with LargestTensor() as seen:
        weighted_cross_entropy(*inputs, chunk_size=chunk_size).backward()
    assert seen.elements <= chunk_size * vocab
    with LargestTensor() as control:
        plain(*inputs).backward()
    assert control.elements >= (tokens - 1) * vocab, "the measure sees the plain loss"


def test_evaluation_takes_no_gradients_and_ignored_tokens_no_product():
    inputs = case(rows=1, tokens=101, share=1)
    with LargestTensor() as training:
        weighted_cross_entropy(*inputs, chunk_size=10)
    with torch.no_grad(), LargestTensor() as evaluation:
        weighted_cross_entropy(*inputs, chunk_size=10)
    assert (training.products, evaluation.products) == (30, 10)
    inputs[2][:, 51:] = IGNORE_INDEX
    with torch.no_grad(), LargestTensor() as half:
        weighted_cross_entropy(*inputs, chunk_size=10)
    assert half.products == 5


def model_batch(tokens=12):
    torch.manual_seed(1)
    input_ids = torch.randint(0, 32, (2, tokens))
    labels = input_ids.clone()
    labels[:, :5] = IGNORE_INDEX
    weights = torch.rand(2, tokens, dtype=torch.float64)
    return {"input_ids": input_ids, "use_cache": False, "labels": labels, "loss_weights": weights}


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_inside_a_model_gives_the_plain_loss_and_gradient(tied):
    model, batch = tiny_llama(tie_word_embeddings=tied), model_batch()
    hidden = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
    expected = plain(hidden, model.lm_head.weight, batch["labels"], batch["loss_weights"])
    expected.backward()
    reference = gradients(model)
    model.zero_grad()
    loss = weighted_loss(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert largest_difference(gradients(model), reference) < 1e-12


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


@requires_gpu
def test_cuda_equals_cpu():
    inputs = case(tokens=300, dtype=torch.float32)
    cuda = [t.detach().cuda().requires_grad_(t.requires_grad) for t in inputs]
    ours, theirs = with_gradients(weighted_cross_entropy, *cuda), with_gradients(plain, *inputs)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.cpu().double(), right.double(), rtol=1e-4, atol=1e-4)
