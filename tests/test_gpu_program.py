"""The GPU program on a CPU: a number in every row, what fails is a row and not an end, and calls that fit old torch."""

import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from longalign.common import paths
from longalign.recipe import attention_kernels
from longalign.report import gpu_results

sys.path.insert(0, str(paths.root()))

import benchmarks.gpu.__main__ as program
from benchmarks.gpu import CARD_LOST, STAGES, backends, exact, kernels, repository_tests, rows, stages, timing, worker
from benchmarks.gpu.rows import Budget, Context

from maketool import make
from test_attention import dense, offsets, states

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def context(tmp_path):
    return Context(CPU, True, tmp_path, "abc", torch.float32)


@pytest.fixture
def prepared(monkeypatch):
    """As if the data of stage f had been made beforehand."""
    monkeypatch.setattr("benchmarks.gpu.learning_data.making_seconds", lambda *_: 0.0)


def stage(run, seconds=1.0, name="exact"):
    return SimpleNamespace(NAME=name, budget=lambda _: Budget(seconds, 2e12, 3e9), run=run)


def good(context):
    yield rows.measured("exact", "case", "ours", "time", 1.5, "s", "varlen", "note, with a comma")


def records(folder):
    return [json.loads(line) for line in (folder / rows.RECORDS).read_text().splitlines()]


# ---- the whole program ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_stage_runs_tiny_with_one_command_and_a_number_in_every_row(tmp_path):
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path / "new"), "--commit", "abc"]
    told = subprocess.run(command, cwd=paths.root(), env=bare, capture_output=True, text=True, timeout=900)
    found = rows.read(tmp_path / "new")
    assert told.returncode == 0, told.stdout + told.stderr
    assert [row for row in found if row.value is None or row.status != "ok" or not row.backend] == []
    kept = records(tmp_path / "new")
    assert [record["stage"] for record in kept] == list(STAGES.values())
    assert {record["commit"] for record in kept} == {"abc"}
    assert all(record["seconds_budgeted"] > 0 and record["flops"] > 0 and record["rows"] for record in kept)
    # 22_gpu and the README find what they look for, once the sizes are full ones
    whole = (tmp_path / "new" / rows.RECORDS).read_text().replace('"tiny": true', '"tiny": false')
    (tmp_path / "new" / rows.RECORDS).write_text(whole)
    (card,) = gpu_results.read_cards(tmp_path)
    assert len(card.rows) == len(found) and set(gpu_results.exactness(card).control) == {True, False}
    speeds = gpu_results.figure_5(card)
    assert len(speeds) and speeds[["kernels", "cost model", "error"]].notna().all(axis=None)
    assert len(card.of("figure5", case=gpu_results.PAPER)) == 2
    assert all(len(gpu_results.learning(card, name)) for name in (gpu_results.EXACT_MATCH, gpu_results.NEEDLE))
    assert len(card.of("kernels", metric="time, forward + backward")) and len(card.of("training", unit="tokens/s"))
    assert set(gpu_results.pace_of(card).shared_attention) == {2, 4, 8}


@pytest.mark.parametrize("name", STAGES.values())
def test_every_stage_has_a_budget_on_a_card_that_follows_from_counts(name, tmp_path, prepared):
    module = stages.load(name)
    budget = module.budget(Context(CARD, False, tmp_path))
    assert module.NAME == name and 0 < budget.seconds < 120 and budget.flops > 1e12
    assert module.budget(Context(CARD, True, tmp_path)).flops < budget.flops / 100
    assert "FLOPs" in module.__doc__ + module.budget.__doc__


def test_all_budgets_together_fit_the_minutes_of_the_default(tmp_path, prepared):
    card = Context(CARD, False, tmp_path)
    taken = stages.REHEARSED + sum(stages.load(name).budget(card).seconds for name in STAGES.values())
    assert taken <= 60 * program.MINUTES


def test_make_starts_it_with_the_minutes_and_the_folder():
    told = make("--dry-run", "gpu", "MINUTES=3", "OUT=there", "VENV=none", "PYTHON=py", "ARGS=--stages a").stdout
    assert told.strip() == "py -m benchmarks.gpu --minutes 3 --out there --stages a"


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--stages", "a,x"], "there is no stage 'x'; there are: 0 (rehearsal), a (exact), b (ceilings)"),
        (["--minutes", "0.5"], "--minutes is 0.5; it is 1 or more"),
        (["--minutes", "nan"], "--minutes is nan"),
        (["--out", "{file}/below"], "which cannot be written (Not a directory)"),
    ],
)
def test_bad_input_is_refused_by_name_before_anything_starts(given, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "supervise", lambda *_: pytest.fail("started"))
    (tmp_path / "file").touch()
    given = [part.format(file=tmp_path / "file") for part in given]
    assert program.main(["--out", str(tmp_path / "out"), *given]) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1


def test_without_a_card_a_sentence_says_what_tiny_would_show(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert worker.main(["--out", str(tmp_path), "--stages", "a", "--minutes", "6"]) == 2
    told = capsys.readouterr().err
    assert "no CUDA device" in told and "--tiny takes every stage" in told and told.count("\n") == 1


def test_stages_are_named_by_letter_or_name_and_run_in_the_programs_order():
    assert program.chosen("c, exact,b", tiny=False) == "abc"
    assert program.chosen("", tiny=False) == "0abcdefg"
    assert program.chosen("", tiny=True) == "abcdefg", "tiny stages need no tiny rehearsal"


# ---- what fails is a row --------------------------------------------------------------------------------------------


def test_a_stage_that_raises_is_a_row_with_its_reason_and_the_next_one_runs(context, monkeypatch):
    def broken(_):
        yield from good(context)
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(stages, "load", {"exact": stage(broken), "ceilings": stage(good)}.get)
    taken = list(stages.perform("ab", context, 6))
    assert [row.status for row in taken] == ["ok", "failed", "ok"]
    assert "RuntimeError: no kernel image is available (test_gpu_program.py:" in taken[1].note
    assert rows.read(context.out) == taken
    assert [record["failed"] for record in records(context.out)] == [1, 0]


def test_a_stage_whose_budget_does_not_fit_is_not_started_and_a_row_says_so(context, monkeypatch):
    context.tiny = False
    monkeypatch.setattr(stages, "load", {"exact": stage(good, 91.0), "ceilings": stage(good, 89.0)}.get)
    first, second = stages.perform("ab", context, 1)
    assert first.status == "failed" and "not started: its budget is 91 s, and 60 s are left" in first.note
    assert second.status == "ok"


def test_a_stage_knows_what_is_left_of_its_budget(context, monkeypatch):
    context.tiny, left = False, []
    monkeypatch.setattr(stages, "load", lambda _: stage(lambda context: left.append(context.left()) or [], 20.0))
    list(stages.perform("a", context, 1))
    assert 19 < left[0] <= 20 and context.left() == float("inf")


def test_the_rehearsal_takes_all_stages_tiny_into_a_folder_of_its_own(context, monkeypatch):
    context.tiny, seen = False, []
    monkeypatch.setattr(stages, "load", lambda _: stage(lambda context: seen.append(context.tiny) or good(context)))
    taken = list(stages.perform("0", context, 1))
    assert seen == [True] * len(STAGES)
    assert {(row.stage, row.case) for row in taken} == {("rehearsal", "exact: case")}
    assert len(rows.read(context.out)) == len(rows.read(context.out / "rehearsal")) == len(STAGES)


def test_what_is_not_installed_is_in_the_record_and_no_row(context, monkeypatch):
    monkeypatch.setattr(stages, "load", lambda _: stage(lambda _: [rows.absent("exact", "trl", "not installed")]))
    list(stages.perform("a", context, 6))
    assert rows.read(context.out) == []
    assert records(context.out)[0]["absent"] == {"trl": "not installed"}


def test_a_value_that_is_not_finite_is_a_failed_row():
    row = rows.measured("exact", "case", "ours", "loss", float("nan"), "", "varlen")
    assert (row.status, row.value) == ("failed", None) and "nan" in row.note


KILLED = """
import os, signal, sys
from types import SimpleNamespace
from benchmarks.gpu import rows, stages, worker

def run(context):
    name = (context.out / ".running").read_text()
    yield rows.measured(name, "", "", "", 1.0, "", "cpu")
    if name == "b":
        os.kill(os.getpid(), signal.{signal})

stages.load = lambda name: SimpleNamespace(NAME=name, budget=lambda _: rows.Budget(1.0), run=run)
sys.exit(worker.main())
"""


@pytest.mark.slow
def test_a_stage_that_kills_its_process_loses_its_own_rows_alone(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(KILLED.format(signal="SIGKILL"))
    command = [sys.executable, str(script), "--out", str(tmp_path), "--tiny", "--commit", "abc"]
    assert program.supervise("abcd", 6, tmp_path, command, tiny=True) == 1
    found = rows.read(tmp_path)
    assert [(row.stage, row.status) for row in found] == [("a", "ok"), ("ceilings", "failed"), ("c", "ok"), ("d", "ok")]
    assert "status -9" in found[1].note and not (tmp_path / ".running").exists()


@pytest.mark.parametrize(("status", "kept"), [(-9, ["ceilings"]), (CARD_LOST, [])])
def test_after_a_process_that_dies_or_has_lost_its_card_another_one_goes_on(status, kept, tmp_path, monkeypatch):
    asked = []

    def process(command, seconds):
        asked.append(command[command.index("--stages") + 1])
        if "b" in asked[-1]:
            (tmp_path / ".running").write_text("b")
            return status
        return 0

    monkeypatch.setattr(program, "waited_for", process)
    assert program.supervise("abcd", 6, tmp_path, ["worker"]) == 1
    assert asked == ["a,b,c,d", "c,d"] and [row.stage for row in rows.read(tmp_path)] == kept


def test_a_stage_that_hangs_is_ended_after_the_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "END", -59.0)
    (tmp_path / "worker.py").write_text(
        f"import time; open({str(tmp_path / '.running')!r}, 'w').write('a'); time.sleep(60)"
    )
    assert program.supervise("ab", 1, tmp_path, [sys.executable, str(tmp_path / "worker.py")]) == 1
    assert [row.stage for row in rows.read(tmp_path)] == ["exact"]


def test_an_interruption_ends_what_runs_and_says_where_the_finished_stages_are(tmp_path):
    (tmp_path / "worker.py").write_text(
        "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    )
    code = (
        "import sys; import benchmarks.gpu.__main__ as program;"
        f"program.WORKER = (sys.executable, {str(tmp_path / 'worker.py')!r}, {str(tmp_path / 'pid')!r});"
        f"sys.exit(program.main(['--out', {str(tmp_path)!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=paths.root(), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "interrupted; what was finished is in" in process.communicate()[1] and process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_lost_card_ends_the_process_and_keeps_the_name_of_the_stage(context, monkeypatch):
    monkeypatch.setattr(stages, "load", lambda _: stage(good))
    monkeypatch.setattr(stages, "is_lost", lambda _: True)
    assert len(list(stages.perform("abc", context, 6))) == 1
    assert (context.out / ".running").read_text() == "a"


# ---- memory, backends, checks ---------------------------------------------------------------------------------------


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


# ---- signatures -----------------------------------------------------------------------------------------------------


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
