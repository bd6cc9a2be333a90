"""The GPU program's kernels on a CPU: what is measured and checked, and calls that fit old and new torch."""

import inspect
import itertools
import sys

import pytest
import torch

from longalign.common import paths
from longalign.recipe import attention_kernels

sys.path.insert(0, str(paths.root()))

from benchmarks.gpu import backends, exact, kernels, repository_tests, timing
from benchmarks.gpu.rows import Context

from test_attention import dense, offsets, states

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def context(tmp_path):
    return Context(CPU, True, tmp_path, "abc", torch.float32)


def test_sizes_halve_where_memory_is_short_and_the_row_says_so(context, monkeypatch):
    whole = kernels.measured_attention

    def short(context, size, system):
        if size > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(context, size, system)

    monkeypatch.setattr(kernels, "measured_attention", short)
    taken = list(kernels.attention_rows(context, 256, kernels.systems(context)[0]))
    assert {row.case for row in taken} == {"attention, 64 tokens"} and {row.status for row in taken} == {"ok"}
    assert all("halved from 256 to 64: memory is short" in row.note for row in taken)
    with pytest.raises(torch.OutOfMemoryError):
        timing.halving(8, lambda size: short(context, 65, None), CPU, smallest=8)


def test_one_kernel_that_fails_is_a_row_and_the_others_are_measured(context, monkeypatch):
    monkeypatch.setattr(backends, "flex", lambda *_: 1 / 0)
    monkeypatch.setattr(kernels.kernels_loss, "run", lambda *_: [])
    taken = list(kernels.run(context))
    failed = [row for row in taken if row.status == "failed"]
    assert [row.system for row in failed] == ["FlexAttention"] * 2 and "ZeroDivisionError" in failed[0].note
    assert {row.system for row in taken if row.value is not None} == {"packed, sequences", "dense mask"}


def test_a_mask_that_is_another_one_is_a_failed_row(context, monkeypatch):
    monkeypatch.setattr(backends, "dense", lambda lengths, device: backends.packed([sum(lengths)], device))
    system = next(system for system in kernels.systems(context) if system.name == "dense mask")
    taken = list(kernels.attention_rows(context, 128, system))
    assert {row.status for row in taken} == {"failed"} and "from that of the library's attention" in taken[0].note


def test_a_pack_computed_by_sequences_on_a_card_is_a_failed_row_with_the_kernels_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(attention_kernels, "why_unusable", lambda name, device: f"{name} fits no card")
    monkeypatch.setattr(backends.machine, "is_installed", lambda name: name == "torch")
    card = Context(CARD, True, tmp_path)
    assert backends.usable(card) == []
    told = list(backends.problems("exact", card))
    assert [(row.status, row.system) for row in told] == [("absent", "flash-attn"), ("failed", "varlen")]
    (row,) = exact.compared("case", "sequences", {"logits": (1.0, 1.0)}, {"sequences"}, card)
    assert (row.status, row.value, row.backend) == ("failed", 1.0, "sequences") and "varlen fits no card" in row.note


@pytest.mark.parametrize(("ratio", "status"), [(1.9, "ok"), (2.1, "failed"), (float("nan"), "failed")])
def test_what_is_over_twice_the_distance_of_separate_sequences_fails(ratio, status, context):
    (row,) = exact.compared("case", "sequences", {"loss": (ratio, 1.0)}, {"sequences"}, context)
    assert row.status == status


@pytest.mark.parametrize(("ratio", "status"), [(2.1, "ok"), (1.9, "failed")])
def test_a_negative_control_that_does_not_differ_fails(ratio, status):
    (row,) = exact.control("case", "sequences", {"logits": (ratio, 1.0)}, ("logits",))
    assert row.status == status


@pytest.mark.slow
def test_an_attention_that_leaks_fails_the_exact_stage(context, monkeypatch):
    whole = backends.attention.block_causal_attention

    def leaking(query, key, value, cu_seqlens, max_seqlen, **options):
        return whole(query, key, value, cu_seqlens[[0, -1]], query.shape[2], **options)

    monkeypatch.setattr(backends.attention, "block_causal_attention", leaking)
    taken = [row for row in exact.packs(context, 64) if "control" not in row.metric]
    assert {row.status for row in taken if row.metric.startswith(("logits", "gradients"))} == {"failed"}


@pytest.mark.parametrize(
    ("output", "device", "statuses"),
    [
        ("..\n24 passed, 6 skipped in 3.10s", CARD, ["ok", "ok"]),
        ("F.\n1 failed, 23 passed in 3.10s", CARD, ["failed", "ok"]),
        ("24 skipped in 3.10s", CARD, ["failed", "ok"]),
        ("24 skipped, 9 deselected in 3.10s", CPU, ["ok", "ok"]),
        ("ImportError: no module", CPU, ["failed", "ok"]),
    ],
)
def test_tests_that_do_not_pass_on_a_card_are_failed_rows(output, device, statuses, tmp_path):
    told = list(repository_tests.told("exact", output, Context(device, True, tmp_path)))
    assert [row.status for row in told] == statuses


# as torch 2.11.0 has them, without annotations
def varlen_attn_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
): ...


def flex_attention_2_11(
    query, key, value, score_mod=None, block_mask=None, scale=None, enable_gqa=False, return_lse=False,
    kernel_options=None, *, return_aux=None,
): ...  # fmt: skip


def create_block_mask_2_11(mask_mod, B, H, Q_LEN, KV_LEN, device=None, BLOCK_SIZE=128, _compile=False): ...


def pinned(module, name):
    return getattr(__import__(f"torch.nn.attention.{module}", fromlist=[name]), name)


def bound(signature, call):
    """A function of this signature that binds what it is given to it, and then does `call(arguments)`."""

    def held(*arguments, **options):
        given = signature.bind(*arguments, **options)
        given.apply_defaults()
        return call(given.arguments)

    held.__signature__ = signature
    return held


def attend(given):
    """What the kernel is asked for, computed with a mask; refused where the kernel would refuse."""
    query, key, value = (given[name].transpose(0, 1)[None] for name in ("query", "key", "value"))
    assert key.shape[1] == query.shape[1] or given.get("enable_gqa"), "fewer key/value heads than query heads"
    assert given["window_size"] == (-1, 0) and torch.equal(given["cu_seq_q"], given["cu_seq_k"])
    lengths = [end - start for start, end in itertools.pairwise(given["cu_seq_q"].tolist())]
    assert given["max_q"] == given["max_k"] == max(lengths)
    return dense(query, key, value, lengths)[0]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("version", ["2.11", "pinned"])
def test_varlen_attn_is_called_rightly_in_torch_2_11_and_in_the_pinned_version(version, groups, monkeypatch):
    of = varlen_attn_2_11 if version == "2.11" else pinned("varlen", "varlen_attn")
    signature = inspect.signature(of)
    assert ("enable_gqa" in signature.parameters) == (version == "pinned")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", bound(signature, attend))
    inputs, lengths = states([2, 0, 4, 3], groups=groups), [2, 0, 4, 3]
    q, k, v = (t[0].transpose(0, 1) for t in inputs)
    ours = attention_kernels.varlen(q, k, v, offsets(lengths), 4, None, 0.0)[None]
    theirs = dense(*inputs, lengths)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(theirs)
    for left, right in zip(*(torch.autograd.grad(out, inputs, upstream) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(left, right)


def test_the_installed_varlen_attn_itself_takes_the_call_forward_and_backward():
    q, k, v = (torch.empty(9, n, 64, device="meta", dtype=torch.bfloat16, requires_grad=True) for n in (8, 2, 2))
    out = attention_kernels.varlen(q, k, v, torch.empty(4, device="meta", dtype=torch.int32), 4, None, 0.0)
    grads = torch.autograd.grad(out, (q, k, v), torch.empty_like(out))
    assert out.shape == q.shape and [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("version", ["2.11", "pinned"])
def test_flex_attention_is_called_rightly_in_torch_2_11_and_in_the_pinned_version(version, monkeypatch):
    for name, of in (("flex_attention", flex_attention_2_11), ("create_block_mask", create_block_mask_2_11)):
        real = pinned("flex_attention", name)
        signature = inspect.signature(of if version == "2.11" else real)
        # keeps what the older one has no name for at the pinned version's defaults
        monkeypatch.setattr(
            f"torch.nn.attention.flex_attention.{name}", bound(signature, lambda given, real=real: real(**given))
        )
    lengths = [5, 0, 8, 3]
    inputs = [t.detach() for t in states(lengths, dtype=torch.float32)]
    torch.testing.assert_close(backends.flex(lengths, CPU)(*inputs), dense(*inputs, lengths), rtol=0, atol=1e-5)
