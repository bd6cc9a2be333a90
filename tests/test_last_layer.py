"""The last layer computed only where it is read, against the whole: losses, gradients, memory, who is left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import gradients, largest_difference, random_sequences, tiny_llama
from longalign.recipe import attention
from longalign.recipe.attention import block_causal_attention
from longalign.recipe.collators import PackedCollator, PaddedCollator
from longalign.recipe.last_layer import _last_layer, predicting, read_only_at
from longalign.recipe.loss import weighted_loss
from longalign.train import lora
from test_attention import dense, offsets, states
from test_loss import LargestTensor

COLLATORS = {"packed": PackedCollator, "padded": PaddedCollator}


def batch(lengths=(2, 4, 3, 40, 7), *, kind="packed", share=0.2, **options):
    features = random_sequences(lengths, target_share=share, **options)
    weighted = [{**feature, "loss_weight": 1 / (3 + i)} for i, feature in enumerate(features)]
    return COLLATORS[kind](0, weights_dtype=torch.float64)(weighted)


def whole_loss(model, inputs, monkeypatch):
    """The oracle: the last layer computed everywhere."""
    with monkeypatch.context() as patch:
        patch.setattr("longalign.recipe.last_layer._last_layer", lambda model: None)
        return weighted_loss(model, inputs)


def with_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.item(), gradients(model)


def other_model(kind, attention_name="longalign"):
    import transformers

    attention.register_attention()
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, pad_token_id=0, initializer_range=0.3,
        attn_implementation=attention_name,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


@pytest.mark.parametrize("kind", COLLATORS)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_those_of_the_whole_layer(kind, seed, monkeypatch):
    model, inputs = tiny_llama(), batch(kind=kind, seed=seed)
    ours, theirs = weighted_loss(model, inputs), whole_loss(model, inputs, monkeypatch)
    (loss, found), (value, expected) = with_gradients(model, ours), with_gradients(model, theirs)
    assert loss == pytest.approx(value, abs=1e-12) and largest_difference(found, expected) < 1e-11


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2", "Qwen3"])
def test_models_of_the_same_build_give_the_same(kind, monkeypatch):
    model, inputs = other_model(kind), batch()
    assert _last_layer(model) is model.model.layers[-1]
    (loss, found), (value, expected) = (
        with_gradients(model, loss) for loss in (weighted_loss(model, inputs), whole_loss(model, inputs, monkeypatch))
    )
    assert loss == pytest.approx(value, rel=1e-5) and largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("kind", ["Gemma2", "Olmo2"])
def test_models_of_another_build_give_the_same_too(kind, monkeypatch):
    model, inputs = other_model(kind, "eager"), batch(kind="padded")
    logits = [model(input_ids=inputs["input_ids"], use_cache=False).logits]
    read = predicting(inputs["labels"], inputs["input_ids"].shape[1])
    with read_only_at(model, read, *inputs["input_ids"].shape):
        logits += [model(input_ids=inputs["input_ids"], use_cache=False).logits]
    left, right = (found.flatten(0, 1)[read] for found in logits)
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_a_mixture_of_experts_is_left_alone():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=32, hidden_size=16, moe_intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    assert _last_layer(Qwen3MoeForCausalLM(config)) is None


def test_attention_that_drops_out_in_training_is_left_alone():
    model = tiny_llama()
    model.model.layers[-1].self_attn.attention_dropout = 0.3
    assert _last_layer(model.train()) is None and _last_layer(model.eval()) is model.model.layers[-1]


def test_lora_gives_the_same(monkeypatch):
    model, inputs = tiny_llama(), batch()
    lora.adapt(model, 2, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    (loss, found), (value, expected) = (
        with_gradients(model, loss) for loss in (weighted_loss(model, inputs), whole_loss(model, inputs, monkeypatch))
    )
    assert loss == pytest.approx(value, rel=1e-6) and largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_under_gradient_checkpointing_the_whole_layer_is_computed(use_reentrant, monkeypatch):
    model, inputs = tiny_llama(), batch()
    value, expected = with_gradients(model, whole_loss(model, inputs, monkeypatch))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    loss, found = with_gradients(model, weighted_loss(model, inputs))
    assert loss == pytest.approx(value, abs=1e-12) and largest_difference(found, expected) < 1e-11


def computed_by(model, inputs):
    """Positions that the last MLP computed."""
    seen = []
    hook = model.model.layers[-1].mlp.up_proj.register_forward_hook(lambda _, x, y: seen.append(y.shape[1]))
    weighted_loss(model, inputs)
    hook.remove()
    return seen


def test_only_what_is_read_is_computed_and_everything_where_most_is_read():
    inputs = batch(share=0.2)
    targets = int((inputs["labels"] != -100).sum())
    assert computed_by(tiny_llama(), inputs) == [targets] and 0 < targets < 20
    assert computed_by(tiny_llama(), batch(share=0.9)) == [56]
    assert computed_by(tiny_llama(), batch(share=0.0)) == [56], "a filler has nothing to read"


def test_no_hook_stays_not_even_after_an_error():
    model, inputs = tiny_llama(), batch()
    before = model(input_ids=inputs["input_ids"], use_cache=False).logits
    with pytest.raises(RuntimeError, match="broken"), read_only_at(model, torch.tensor([3]), 1, 56):
        raise RuntimeError("broken")
    assert torch.equal(before, model(input_ids=inputs["input_ids"], use_cache=False).logits)


def test_what_is_not_read_is_wrong_within_the_context_so_that_this_test_file_tests_something():
    model, inputs = tiny_llama(), batch()
    tokens = {"input_ids": inputs["input_ids"], "use_cache": False}
    before, read = model(**tokens).logits[0], torch.tensor([3, 20])
    with read_only_at(model, read, 1, 56):
        within = model(**tokens).logits[0]
    torch.testing.assert_close(before[read], within[read], rtol=0, atol=1e-12)
    assert (before - within).abs().amax(1)[[4, 30]].min() > 1e-3


def test_padded_rows_read_nothing_that_a_padding_mask_would_hide():
    model, inputs = tiny_llama(), batch(kind="padded")
    collate, alone = PaddedCollator(0, weights_dtype=torch.float64), 0.0
    for feature, weight in zip(random_sequences((2, 4, 3, 40, 7), target_share=0.2), range(3, 8), strict=True):
        alone += weighted_loss(model, collate([{**feature, "loss_weight": 1 / weight}]))
    (loss, found), (value, expected) = with_gradients(model, weighted_loss(model, inputs)), with_gradients(model, alone)
    assert loss == pytest.approx(value, abs=1e-12) and largest_difference(found, expected) < 1e-11


def test_rows_with_a_padding_mask_or_restarting_positions_still_get_their_stock_mask():
    model, inputs = tiny_llama(), batch(kind="padded")
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, :30] = 0  # on the left, as generation pads
    restarting = torch.arange(40).repeat(5, 1) % 10
    read = torch.tensor([39, 79, 190])
    for options in ({"attention_mask": mask}, {"position_ids": restarting}):
        whole = model(input_ids=inputs["input_ids"], use_cache=False, **options).logits.flatten(0, 1)[read]
        with read_only_at(model, read, 5, 40):
            some = model(input_ids=inputs["input_ids"], use_cache=False, **options).logits.flatten(0, 1)[read]
        torch.testing.assert_close(some, whole, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), seed=st.integers(0, 99), data=st.data())
def test_attention_from_a_few_positions_equals_the_oracle_in_value_and_gradient(lengths, seed, data):
    total = sum(lengths)
    read = torch.tensor(sorted(data.draw(st.sets(st.integers(0, total - 1)))), dtype=torch.long)
    inputs = states(lengths, seed=seed)
    ours = block_causal_attention(*inputs, offsets(lengths), max(lengths), read=read)[:, read]
    theirs = dense(*inputs, lengths)[:, read]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn(ours.shape, dtype=ours.dtype)
    for left, right in zip(*(torch.autograd.grad(out, inputs, upstream) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


@pytest.mark.parametrize("groups", [1, 2])
def test_what_attention_from_some_positions_keeps_for_its_gradients_is_linear_in_tokens(groups):
    def kept(tokens):
        """Bytes of all storages that the forward pass keeps for the backward pass."""
        inputs, storages = states([tokens], heads=2, groups=groups, dtype=torch.float32), {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no place is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            block_causal_attention(*inputs, offsets([tokens]), tokens, read=torch.arange(0, tokens, 2))
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    assert kept(4096) <= 2.5 * kept(2048)


def test_attention_from_many_positions_of_a_long_sequence_stays_linear_in_memory():
    inputs, lengths = states([8192], heads=1, groups=1, dtype=torch.float32), [8192]
    read = torch.arange(0, 8192, 4)
    with LargestTensor() as largest:
        block_causal_attention(*inputs, offsets(lengths), 8192, read=read)
    assert largest.elements <= 128 * 8192
