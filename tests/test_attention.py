"""Block-diagonal attention against a dense oracle and against separate sequences; what would leak is refused."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import requires_gpu, tiny_llama
from longalign.recipe import attention, attention_kernels
from longalign.recipe.attention import block_causal_attention, register_attention
from test_loss import LargestTensor


def offsets(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def packed_inputs(lengths, *, seed=0, vocab=32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(0, vocab, (1, sum(lengths)), generator=generator),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "cu_seqlens": offsets(lengths),
        "max_seqlen": max(lengths),
        "use_cache": False,
    }


def states(lengths, *, heads=4, groups=2, dim=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, heads, sum(lengths), dim), (1, groups, sum(lengths), dim), (1, groups, sum(lengths), dim)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shape]


def dense(query, key, value, lengths):
    """The oracle: one explicit T x T matrix of scores under `torch.block_diag` of triangles."""
    mask = torch.block_diag(*[torch.ones(n, n).tril() for n in lengths])[: query.shape[2]].bool()
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value).transpose(1, 2)


AWKWARD = [[2, 4, 3], [0, 5, 0, 0, 1, 7, 0], [1], [1, 1, 1], [4, 4, 4, 3, 3], [13, 64, 65]]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("lengths", AWKWARD, ids=str)
def test_equals_the_block_diag_oracle_in_value_and_gradient(lengths, groups):
    inputs = states(lengths, groups=groups)
    ours, theirs = block_causal_attention(*inputs, offsets(lengths), max(lengths)), dense(*inputs, lengths)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn(ours.shape, dtype=ours.dtype)
    for left, right in zip(*(torch.autograd.grad(out, inputs, upstream) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), seed=st.integers(0, 99))
def test_equals_each_sequence_on_its_own(lengths, seed):
    inputs = states(lengths, seed=seed)
    packed = block_causal_attention(*inputs, offsets(lengths), max(lengths))
    for start, end in itertools.pairwise(offsets(lengths).tolist()):
        alone = [t[:, :, start:end] for t in inputs]
        torch.testing.assert_close(packed[:, start:end], dense(*alone, [end - start]), rtol=0, atol=1e-12)


def test_wrong_boundaries_differ():
    inputs = states([2, 4, 3])
    right = block_causal_attention(*inputs, offsets([2, 4, 3]), 4)
    for wrong in ([3, 3, 3], [2, 7], [9]):
        assert (right - block_causal_attention(*inputs, offsets(wrong), 9)).abs().max() > 1e-2


def test_a_pack_of_nothing_is_nothing():
    assert block_causal_attention(*states([0, 0]), offsets([0, 0]), 0).shape == (1, 0, 4, 8)


def test_the_scaling_is_applied():
    query, key, value = states([2, 4, 3])
    scaled = block_causal_attention(query, key, value, offsets([2, 4, 3]), 4, scaling=0.5)
    torch.testing.assert_close(scaled, dense(query * 0.5 * 8**0.5, key, value, [2, 4, 3]))


def test_autocast_casts_all_three_states_as_sdpa_does():
    query, key, value = states([2, 4, 3], dtype=torch.float32)
    exact = block_causal_attention(query, key, value, offsets([2, 4, 3]), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = block_causal_attention(query, key, value.bfloat16(), offsets([2, 4, 3]), 4)
    assert cast.dtype == torch.bfloat16
    torch.testing.assert_close(cast.float(), exact, rtol=3e-2, atol=3e-2)


def test_a_packed_model_gives_the_logits_of_separate_sequences():
    lengths, model = [2, 4, 1, 3, 3], tiny_llama()
    batch = packed_inputs(lengths)
    packed = model(**batch).logits
    for ids, logits in zip(batch["input_ids"].split(lengths, 1), packed.split(lengths, 1), strict=True):
        torch.testing.assert_close(model(ids).logits, logits, rtol=0, atol=1e-12)
    wrong = model(**{**batch, "cu_seqlens": offsets([3, 3, 1, 3, 3])}).logits
    assert (wrong - packed).abs().max() > 1e-2


def test_changing_sequence_a_moves_no_logit_of_b():
    model, batch = tiny_llama(), packed_inputs([5, 4, 3])
    before = model(**batch).logits
    changed = batch["input_ids"].clone()
    changed[:, 5:9] = (changed[:, 5:9] + 1) % 32
    after = model(**{**batch, "input_ids": changed}).logits
    moved = (before - after).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False] * 5 + [True] * 4 + [False] * 3


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    batch, found = packed_inputs([5, 4, 3]), []
    for checkpointing in (False, True):
        model = tiny_llama().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        model(**batch).logits.pow(2).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-11)


def test_no_t_by_t_mask_exists_at_16k_tokens():
    lengths = [512] * 32
    model = tiny_llama(dtype=torch.float32, num_hidden_layers=1)
    with LargestTensor() as seen:
        model(**packed_inputs(lengths)).logits.sum().backward()
    # The largest honest tensor is the logits, or the states of the MLP: linear in tokens.
    assert seen.elements <= 16384 * 32 * 4
    with torch.no_grad(), LargestTensor() as control:
        tiny_llama(attention="sdpa", dtype=torch.float32, num_hidden_layers=1)(
            **{k: packed_inputs([64] * 32)[k] for k in ("input_ids", "position_ids", "use_cache")}
        )
    assert control.elements >= 2048**2, "the measure sees the mask that sdpa builds"


@pytest.mark.parametrize("many", [False, True])
def test_padded_and_unpadded_calls_equal_stock_sdpa_exactly(many):
    ids = torch.randint(0, 32, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask} if many else {"input_ids": ids}
    ours, stock = tiny_llama()(**inputs).logits, tiny_llama(attention="sdpa")(**inputs).logits
    assert torch.equal(ours, stock)


def test_position_ids_that_restart_without_cu_seqlens_still_get_the_stock_block_mask():
    batch = packed_inputs([5, 4, 3])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "use_cache")}
    torch.testing.assert_close(tiny_llama()(**inputs).logits, tiny_llama()(**batch).logits, rtol=0, atol=1e-12)


def test_the_stock_mask_is_built_once_for_all_layers(monkeypatch):
    import transformers.masking_utils as masks

    calls, stock = [], masks.sdpa_mask
    monkeypatch.setattr(masks, "sdpa_mask", lambda **given: calls.append(given) or stock(**given))
    model = tiny_llama(num_hidden_layers=3)
    model(torch.arange(6)[None], attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]))
    assert len(calls) == 1
    model(**packed_inputs([3, 3]))
    assert len(calls) == 1, "a packed call builds none"


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padded_cached_generation_equals_one_by_one(cache):
    model = tiny_llama().eval()
    prompts = [[5, 9, 3], [7, 0, 11, 4, 8, 2, 9], [6]]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "cache_implementation": cache}
    if cache == "static":
        options["disable_compile"] = True
    together = model.generate(ids, attention_mask=mask, **options)[:, width:]
    for prompt, generated in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        for _ in range(12):  # no cache, no padding, no generate(): argmax over the whole text so far
            ids = torch.cat([ids, tiny_logits(model, ids).argmax(-1, keepdim=True)], 1)
        assert generated.tolist() == ids[0, len(prompt) :].tolist()
    unmasked = model.generate(ids.new_tensor([[0] * (width - len(p)) + p for p in prompts]),
                              attention_mask=torch.ones_like(mask), **options)[:, width:]  # fmt: skip
    assert not torch.equal(unmasked, together), "the padding mask matters here"


def tiny_logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits[:, -1]


REFUSALS = {
    "a 2D mask of ones": ({"attention_mask": torch.ones(1, 9, dtype=torch.long)}, "no attention_mask"),
    "a 2D mask": ({"attention_mask": torch.tensor([[0] + [1] * 8])}, "no attention_mask"),
    "a 4D mask": ({"attention_mask": torch.ones(1, 1, 9, 9, dtype=torch.bool)}, "no attention_mask"),
    "use_cache": ({"use_cache": True}, "no KV cache"),
    "no max_seqlen": ({"max_seqlen": None}, "needs max_seqlen"),
    "max_seqlen too small": ({"max_seqlen": 3}, "longest sequence has 4"),
    "offsets that end early": ({"cu_seqlens": offsets([2, 4])}, "ascend from 0 to the 9 tokens"),
    "offsets that start late": ({"cu_seqlens": torch.tensor([2, 6, 9], dtype=torch.int32)}, "ascend from 0"),
    "offsets that descend": ({"cu_seqlens": torch.tensor([0, 6, 2, 9], dtype=torch.int32)}, "ascend from 0"),
    "two rows": ({"input_ids": torch.zeros(2, 9, dtype=torch.long), "position_ids": None}, "one row"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_with_cu_seqlens_it_refuses(name):
    change, sentence = REFUSALS[name]
    with pytest.raises(ValueError, match=sentence):
        tiny_llama()(**{**packed_inputs([2, 4, 3]), **change})


def test_with_cu_seqlens_it_refuses_a_filled_cache():
    model = tiny_llama()
    cache = model(torch.arange(4)[None], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="no KV cache"):
        model(**packed_inputs([2, 4, 3]), past_key_values=cache)


def test_a_window_shorter_than_a_sequence_is_each_sequences_own():
    from transformers import MistralConfig, MistralForCausalLM

    settings = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}  # fmt: skip
    torch.manual_seed(0)
    stock = MistralForCausalLM(MistralConfig(**settings, sliding_window=4, attn_implementation="eager")).double()
    config = MistralConfig(**settings, sliding_window=4, attn_implementation=register_attention())
    ours = MistralForCausalLM(config).double()
    ours.load_state_dict(stock.state_dict())
    batch, lengths = packed_inputs([2, 9, 6]), [2, 9, 6]
    packed = ours(**batch).logits
    for ids, logits in zip(batch["input_ids"].split(lengths, 1), packed.split(lengths, 1), strict=True):
        torch.testing.assert_close(stock(ids).logits, logits, rtol=0, atol=1e-5)  # norms and softmax are in fp32
    ours.config.sliding_window = stock.config.sliding_window = 64
    assert (ours(**batch).logits - packed).abs().max() > 1e-2, "the window matters here"


def test_importing_the_module_does_not_import_transformers():
    import subprocess
    import sys

    code = "import sys, longalign.recipe.attention, longalign.recipe.loss; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_on_a_cpu_no_kernel_is_probed(monkeypatch):
    monkeypatch.setattr(attention_kernels, "why_unusable", lambda *_: pytest.fail("probed"))
    block_causal_attention(*states([2, 4, 3], dtype=torch.bfloat16), offsets([2, 4, 3]), 4)


@requires_gpu
@pytest.mark.parametrize("backend", ["flash_attn", "varlen", "sequences"])
@pytest.mark.parametrize("lengths", AWKWARD, ids=str)
def test_every_cuda_backend_equals_the_oracle(lengths, backend, monkeypatch):
    if backend != "sequences" and (reason := attention_kernels.why_unusable(backend, 0)):
        pytest.skip(f"{backend} does not work here ({reason})")
    monkeypatch.setattr(attention, "backend_of", lambda *_: backend)
    inputs = states(lengths, dtype=torch.bfloat16, dim=32)
    cuda = [t.detach().cuda().requires_grad_() for t in inputs]
    ours = block_causal_attention(*cuda, offsets(lengths).cuda(), max(lengths))
    theirs = dense(*(t.double() for t in inputs), lengths)
    torch.testing.assert_close(ours.cpu().double(), theirs, rtol=2e-2, atol=2e-2)
    upstream = torch.randn(theirs.shape)
    left = torch.autograd.grad(ours, cuda, upstream.cuda().bfloat16())
    right = torch.autograd.grad(theirs, inputs, upstream.double())
    for ours_grad, theirs_grad in zip(left, right, strict=True):
        torch.testing.assert_close(ours_grad.cpu().double(), theirs_grad.double(), rtol=5e-2, atol=5e-2)
