"""Executing a notebook: refusals come before a kernel, failures are told as what they are, copies are whole."""

import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from longalign.common.config import ConfigError
from longalign.experiments.profiles import load_profile
from longalign.reproduction import execute as ex
from longalign.reproduction import outcomes, terminal
from longalign.reproduction.parameters import declared_parameters
from longalign.train import progress

PARAMETERS = (
    'profile: str = "smoke"\nlengths: list[int] = [2, 4, 3]\nshare: float = 0.5\n'
    "limit: int | None = None\nseeds: int = 0\nreplay: bool = False"
)


def notebook(folder, *sources, name="01_small.ipynb", parameters=PARAMETERS):
    """A notebook with a parameters cell; a source that begins with # is a heading."""
    first = new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    make = {True: new_markdown_cell, False: new_code_cell}
    cells = [new_markdown_cell("# Small"), first, *(make[source.startswith("#")](source) for source in sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / name
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


def outputs(path):
    return "".join(o.get("text", "") for c in nbformat.read(path, 4).cells for o in c.get("outputs", []))


def run(path, *options, **more):
    return ex.main([str(path), "--profile", "smoke", "--folder", str(path.parent / "out"), *options], **more)


def test_a_notebook_runs_in_its_folder_with_its_parameters_and_one_thread(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir("/")
    shown = "import os; print(profile, lengths, share, os.getcwd(), os.environ['OMP_NUM_THREADS'])"
    source = notebook(tmp_path, shown, "print(os.environ.get('MPLBACKEND'))")
    before = source.read_bytes()
    assert run(source, "-p", "lengths=[3, 2]", "-p", "share=1") == 0
    told = outputs(tmp_path / "out" / source.name)
    assert f"smoke [3, 2] 1.0 {tmp_path} 1" in told
    assert "agg" not in told
    assert source.read_bytes() == before
    assert os.listdir(tmp_path / "out") == [source.name]
    live = capfd.readouterr().out
    assert f"01 | smoke [3, 2] 1.0 {tmp_path} 1\n" in live
    assert "01_small (smoke) starts" in live and "01_small (smoke) done in" in live


def stopped(source):
    """The executed copy of a notebook that stopped: the outcome, the cell below the banner, the cells not run."""
    cells = nbformat.read(source.parent / "run" / "smoke" / "notebooks" / source.name, 4).cells
    outcome = outcomes.read("smoke", source.stem)
    banners = [i for i, cell in enumerate(cells) if "stopped-here" in cell.metadata.get("tags", [])]
    assert len(banners) == 1 and cells[banners[0]].cell_type == "markdown"
    assert outcome.state in cells[banners[0]].source and outcome.resume in cells[banners[0]].source
    left = [c.source for c in cells if c.cell_type == "code" and [o.get("text") for o in c.outputs] == ["not run\n"]]
    tagged = [c.source for c in cells if "not-run" in c.metadata.get("tags", [])]
    assert left == tagged
    return outcome, cells[banners[0] + 1].source, left


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Executions write below `tmp_path`, as if it were the folder of all runs."""
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "run"))
    return tmp_path


def run_in(folder, source, *options):
    """In a process of its own, since it may be killed; returns exit status, output and errors."""
    command = [sys.executable, "-m", "longalign.reproduction.execute", str(source), "--profile", "smoke", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


LAST = "print('unseen')"
KILL = "import os, signal, time\nprint('seen', flush=True)\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)"
SLEEP = "import time\nprint('seen', flush=True)\ntime.sleep(60)"


@pytest.mark.parametrize(
    ("source", "limits", "state", "status", "error"),
    [
        ("print('seen')\nratio = 1 / 0", {}, outcomes.FAILED, 1, "ZeroDivisionError: division by zero"),
        (KILL, {}, outcomes.DIED, 3, "killed or out of memory"),
        (SLEEP, {"cell": 1}, outcomes.CELL_LIMIT, 4, "1.0 s were over"),
        (SLEEP, {"notebook": 6}, outcomes.NOTEBOOK_LIMIT, 5, ""),
    ],
    ids=["exception", "dead kernel", "cell limit", "notebook limit"],
)
def test_every_way_to_fail_is_told_as_itself(runs, monkeypatch, capfd, source, limits, state, status, error):
    profile = load_profile("smoke")
    short = dataclasses.replace(profile, limits=dataclasses.replace(profile.limits, **limits))
    monkeypatch.setattr(ex, "load_profile", lambda _: short)
    path = notebook(runs, "## Before", "print('before')", "## The part", source, LAST)
    assert ex.main([str(path), "--profile", "smoke", "--resume", "make reproduce"]) == status
    outcome, cell, left = stopped(path)
    assert (outcome.state, outcome.heading, outcome.error) == (state, "The part", error)
    assert cell == source and left == [LAST] and 20 < outcome.peak_memory_mb < 300, "the kernel's, no others'"
    printed = outputs(runs / "run" / "smoke" / "notebooks" / path.name)
    assert "before" in printed and "seen" in printed and "unseen" not in printed
    told = capfd.readouterr()
    assert f"stopped after {outcomes.duration(outcome.seconds)}: {state}" in told.out
    first = re.escape(source.splitlines()[0])
    for line in ("notebook +01_small", "heading +The part", rf"cell +\[[4*]\] {first}", "log +.*01_small.log",
                 "memory +[0-9,]+ MB at most", "resume +make reproduce"):  # fmt: skip
        assert re.search(f"^  {line}$", told.err, re.MULTILINE), line
    assert "Traceback" not in told.err
    assert "before\nseen\n" in (runs / "run" / "smoke" / "logs" / "01_small.log").read_text()


def test_what_a_kernel_that_died_had_started_ends_with_it(runs):
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '777'])\nprint('child', child.pid, flush=True)\n"
    status, told, _ = run_in(runs, notebook(runs, child + KILL))
    assert status == 3 and _ends(int(re.search(r"child (\d+)", told)[1]))


def test_an_interrupt_ends_the_kernel_too_and_keeps_what_was_printed(runs):
    source = notebook(runs, "import os\nprint('kernel', os.getpid(), flush=True)\n" + SLEEP, LAST)
    command = [sys.executable, "-m", "longalign.reproduction.execute", str(source), "--profile", "smoke"]
    # tests that were started in the background inherit that interrupts are ignored
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    kernel = int(next(line for line in process.stdout if "kernel" in line).split()[-1])
    assert "seen" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in rest and "Traceback" not in errors
    outcome, _, left = stopped(source)
    assert outcome.state == outcomes.INTERRUPTED and left == [LAST]
    assert "kernel" in outputs(runs / "run" / "smoke" / "notebooks" / source.name)
    assert _ends(kernel)


def test_a_cell_that_does_not_heed_an_interrupt_is_ended_by_force(runs):
    stubborn = "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    source = notebook(runs, "import time\nprint('here', flush=True)\n" + stubborn)
    command = [sys.executable, "-m", "longalign.reproduction.execute", str(source), "--profile", "smoke"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    next(line for line in process.stdout if "here" in line)
    process.terminate()
    assert process.wait(timeout=30) == 130 and stopped(source)[0].state == outcomes.INTERRUPTED


def test_who_asked_for_it_has_gone_and_so_goes_the_notebook(runs):
    source = notebook(runs, "import os\nprint('kernel', os.getpid(), flush=True)\n" + SLEEP)
    command = f"'{sys.executable}' -m longalign.reproduction.execute '{source}' --profile smoke --with-parent; true"
    shell = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    kernel = int(next(line for line in shell.stdout if "kernel" in line).split()[-1])
    shell.kill()
    assert _ends(kernel)
    deadline = time.monotonic() + 20
    while not (outcome := outcomes.read("smoke", "01_small")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert outcome.state == outcomes.INTERRUPTED


def test_two_executions_of_the_same_notebook_do_not_meet(runs):
    source = notebook(runs, SLEEP)
    command = [sys.executable, "-m", "longalign.reproduction.execute", str(source), "--profile", "smoke"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    next(line for line in first.stdout if "seen" in line)
    status, _, errors = run_in(runs, source)
    first.terminate()
    assert status == 2 and f"this is being done already by process {first.pid}" in errors
    assert errors.count("\n") == 1 and first.wait(timeout=30) == 130


def test_a_whole_execution_lists_what_it_wrote_and_leaves_no_marks_of_an_earlier_one(runs):
    writes = "from longalign.common import paths, provenance as record\n"
    writes += "path = record.write_csv(paths.run_dir(profile) / 'fill.csv', [{'length': 2}, {'length': 4}])"
    assert ex.main([str(notebook(runs, "1 / 0", writes)), "--profile", "smoke"]) == 1
    assert ex.main([str(notebook(runs, "'right'", writes)), "--profile", "smoke"]) == 0
    outcome = outcomes.read("smoke", "01_small")
    assert outcome.state == outcomes.EXECUTED and sorted(outcome.files) == ["fill.csv", "notebooks/01_small.ipynb"]
    assert outcomes.damaged("smoke", ["01_small"]) == {}
    cells = nbformat.read(runs / "run" / "smoke" / "notebooks" / "01_small.ipynb", 4).cells
    assert not any({"stopped-here", "not-run"} & set(cell.metadata.get("tags", [])) for cell in cells)
    with (runs / "run" / "smoke" / "fill.csv").open("a") as file:
        file.write("3\n")
    assert outcomes.damaged("smoke", ["01_small"]) == {"01_small": ["fill.csv"]}


@pytest.mark.slow
def test_what_is_around_the_engine_costs_less_than_a_second_a_notebook(tmp_path):
    """Processor seconds of the whole process, imports and all, against the engine's own command line; the best of
    three each."""
    source = notebook(tmp_path, "1 + 1")
    module = "longalign.reproduction.execute"
    ours = [sys.executable, "-m", module, str(source), "--profile=smoke", f"--folder={tmp_path / 'out'}"]
    bare = [sys.executable, "-m", "papermill", str(source), str(tmp_path / "bare.ipynb"), f"--cwd={tmp_path}"]
    best = {}
    for name, command in {"ours": ours, "bare": bare}.items():
        times = []
        for _ in range(3):
            began = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, capture_output=True)
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
        best[name] = min(times)
    assert best["ours"] - best["bare"] < 1.0, best


def _ends(process):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["-p", "lenghts=[2]"], ["unknown parameter lenghts", "'lengths'"]),
        (["-p", "lengths=3"], ["lengths", "list[int]", "int 3"]),
        (["-p", "lengths=[2, four]"], ["lengths[1]", "int", "str 'four'"]),
        (["-p", "share=half"], ["share", "float", "str 'half'"]),
        (["-p", "limit=many"], ["limit", "int", "'many'"]),
        (["-p", "lengths"], ["NAME=VALUE", "'lengths'"]),
        (["-p", "lengths=[2"], ["'lengths=[2'", "not readable as YAML"]),
        (["-p", "share=1", "-p", "share=0"], ["share", "twice"]),
        (["-p", "seeds=-1"], ["seeds must lie from 0", "1000"]),
        (["-p", "profile=../smok"], ["no profile at ../smok"]),
        (["-p", "profile=laptop"], ["two profiles are given, smoke and the parameter profile=laptop: leave one out"]),
        (["-p", "replay=true", "-p", "seeds=5"], ["replay draws the committed numbers", "leave seeds or replay out"]),
        (["--profile", "smok"], ["unknown profile 'smok'", "'smoke'"]),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_before_anything_starts(tmp_path, capfd, monkeypatch, options, parts):
    monkeypatch.setattr(ex, "_papermill", lambda *_: pytest.fail("a kernel was started"))
    assert run(notebook(tmp_path), *options) == 2
    told = capfd.readouterr()
    assert all(part in told.err for part in parts), told.err
    assert told.err.count("\n") == 1 and told.out == ""
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_is_missing_broken_or_without_the_profile_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no notebook at"):
        ex.prepare(tmp_path / "07_none.ipynb", profile="smoke")
    no_list = b'{"cells": 5, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'
    for torn in (b'{"cells": [', b"[]", no_list, b"\xff\xfe"):
        (tmp_path / "08_torn.ipynb").write_bytes(torn)
        with pytest.raises(ConfigError, match="08_torn.ipynb: not a notebook: .+"):
            ex.prepare(tmp_path / "08_torn.ipynb", profile="smoke")
    with pytest.raises(ConfigError, match="unknown parameter profile"):
        ex.prepare(notebook(tmp_path, parameters="lengths: list[int] = [2]"), profile="smoke")


def test_an_error_of_several_lines_is_told_in_a_column_and_its_first_line_in_the_copy():
    outcome = outcomes.Outcome("01_a", "smoke", outcomes.FAILED, 0.0, error="ValueError: 2\n4\n3", resume="make")
    assert "  error     ValueError: 2\n            4\n            3\n  memory" in outcome.report()
    (banner,) = outcomes.mark(new_notebook(), outcome).cells
    assert "an exception: ValueError: 2.**" in banner.source and "\n" not in banner.source


def test_the_command_that_resumes_gives_the_parameters_again(tmp_path):
    job = ex.prepare(notebook(tmp_path), profile="smoke", parameters={"lengths": [3, 2], "share": 0.25})
    assert job.resume.endswith(" --profile smoke -p 'lengths=[3, 2]' -p share=0.25")


def test_only_annotated_names_of_the_tagged_cell_are_parameters(tmp_path):
    source = notebook(tmp_path, "other: int = 3", parameters="profile: str = 'smoke'\nfree = 1")
    assert list(declared_parameters(nbformat.read(source, 4))) == ["profile"]


def test_every_line_gets_its_prefix_however_it_is_cut(capsys, monkeypatch):
    monkeypatch.setenv(progress.LIVE, "1")
    stream = terminal.Prefixed(sys.stdout, "03 | ")
    for piece in ("a", "b\nc\n", "10%\r", "20%\r", "done\n"):
        stream.write(piece)
    assert capsys.readouterr().out == "03 | ab\n03 | c\n03 | 10%\r03 | 20%\r03 | done\n"


def test_a_progress_line_that_changes_is_not_told_where_nobody_sees_it_change(capsys):
    stream = terminal.Prefixed(sys.stdout, "03 | ")
    stream.write("10%\r20%\rdone\n")
    assert capsys.readouterr().out == "03 | done\n"


def test_what_a_kernel_says_while_it_is_ended_is_in_the_log_alone(tmp_path, capsys):
    ended = []
    with terminal.log(tmp_path / "03.log") as log:
        stream = terminal.Prefixed(sys.stdout, "03 | ", log, over=lambda: bool(ended))
        stream.write("step 1\n")
        ended.append("interrupted")
        stream.write("Traceback (most recent call last):\nKeyboardInterrupt\n")
    assert capsys.readouterr().out == "03 | step 1\n"
    assert (tmp_path / "03.log").read_text() == "step 1\nTraceback (most recent call last):\nKeyboardInterrupt\n"
