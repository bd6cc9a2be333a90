"""The GPU program on a CPU: one command runs every stage; what fails is a row and not an end."""

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
from longalign.report import gpu_results

sys.path.insert(0, str(paths.root()))

import benchmarks.gpu.__main__ as program
from benchmarks.gpu import CARD_LOST, STAGES, rows, stages, worker
from benchmarks.gpu.rows import Budget, Context

from maketool import make

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
