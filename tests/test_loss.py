"""The chunked loss against the plain one: value, gradient, memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import requires_gpu
from longalign.common.array_types import IGNORE_INDEX
from longalign.recipe.loss import weighted_cross_entropy


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


@requires_gpu
def test_cuda_equals_cpu():
    inputs = case(tokens=300, dtype=torch.float32)
    cuda = [t.detach().cuda().requires_grad_(t.requires_grad) for t in inputs]
    ours, theirs = with_gradients(weighted_cross_entropy, *cuda), with_gradients(plain, *inputs)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.cpu().double(), right.double(), rtol=1e-4, atol=1e-4)
