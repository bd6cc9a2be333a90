"""Executing a notebook: refusals come before a kernel, failures are told as what they are, copies are whole."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from longalign import execute as ex
from longalign.profiles import ProfileError

PARAMETERS = 'profile: str = "smoke"\nlengths: list[int] = [2, 4, 3]\nshare: float = 0.5\nlimit: int | None = None'


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
    assert run(source, "-p", "lengths=[3, 2]", "-p", "share=1") == ex.EXECUTED
    told = outputs(tmp_path / "out" / source.name)
    assert f"smoke [3, 2] 1.0 {tmp_path} 1" in told
    assert "agg" not in told
    assert source.read_bytes() == before
    assert os.listdir(tmp_path / "out") == [source.name]
    live = capfd.readouterr().out
    assert f"01 | smoke [3, 2] 1.0 {tmp_path} 1\n" in live
    assert "01_small (smoke) starts" in live and "01_small (smoke) done in" in live


def test_an_exception_is_told_with_notebook_heading_cell_and_error(tmp_path, capfd):
    source = notebook(tmp_path, "## Before", "print('seen')", "## The part", "ratio = 1 / 0", "print('unseen')")
    assert run(source) == ex.FAILED
    told = capfd.readouterr().err
    assert "01_small.ipynb" in told and "heading   The part" in told
    assert "] ratio = 1 / 0" in told and "ZeroDivisionError: division by zero" in told
    assert "Traceback" not in told
    executed = outputs(tmp_path / "out" / source.name)
    assert "seen" in executed and "unseen" not in executed


def test_a_dead_kernel_is_told_as_that_with_the_cell_that_killed_it(tmp_path, capfd):
    source = notebook(tmp_path, "## The part", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('x')")
    assert run(source) == ex.FAILED
    told = capfd.readouterr().err
    assert "the kernel died" in told and "] import os, signal" in told and "heading   The part" in told


def test_an_interrupt_ends_the_kernel_too_and_keeps_what_was_printed(tmp_path):
    source = notebook(tmp_path, "import os, time\nprint('kernel', os.getpid(), flush=True)\ntime.sleep(60)")
    target = tmp_path / "out"
    command = [sys.executable, "-m", "longalign.execute", str(source), "--profile", "smoke", "--folder", str(target)]
    # tests that were started in the background inherit that interrupts are ignored
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    line = next(line for line in process.stdout if "kernel" in line)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[0]
    assert process.returncode == ex.INTERRUPTED and "interrupted after" in rest
    assert "kernel" in outputs(target / source.name)
    kernel = int(line.split()[-1])
    deadline = time.monotonic() + 10
    while _is_running(kernel) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(kernel)


def _is_running(process):
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["-p", "lenghts=[2]"], ["unknown parameter lenghts", "'lengths'"]),
        (["-p", "lengths=3"], ["lengths", "list[int]", "int 3"]),
        (["-p", "lengths=[2, four]"], ["lengths[1]", "int", "str 'four'"]),
        (["-p", "share=half"], ["share", "float", "str 'half'"]),
        (["-p", "limit=many"], ["limit", "int", "'many'"]),
        (["-p", "lengths"], ["NAME=VALUE", "'lengths'"]),
        (["--profile", "smok"], ["unknown profile 'smok'", "'smoke'"]),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_before_anything_starts(tmp_path, capfd, monkeypatch, options, parts):
    monkeypatch.setattr(ex, "_papermill", lambda *_: pytest.fail("a kernel was started"))
    assert run(notebook(tmp_path), *options) == ex.REFUSED
    told = capfd.readouterr()
    assert all(part in told.err for part in parts), told.err
    assert told.err.count("\n") == 1 and told.out == ""
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_is_missing_broken_or_without_the_profile_is_refused(tmp_path):
    with pytest.raises(ProfileError, match="no notebook at"):
        ex.prepare(tmp_path / "07_none.ipynb", profile="smoke")
    (tmp_path / "08_torn.ipynb").write_text('{"cells": [')
    with pytest.raises(ProfileError, match="not a notebook"):
        ex.prepare(tmp_path / "08_torn.ipynb", profile="smoke")
    with pytest.raises(ProfileError, match="unknown parameter profile"):
        ex.prepare(notebook(tmp_path, parameters="lengths: list[int] = [2]"), profile="smoke")


def test_only_annotated_names_of_the_tagged_cell_are_parameters(tmp_path):
    source = notebook(tmp_path, "other: int = 3", parameters="profile: str = 'smoke'\nfree = 1")
    assert list(ex.declared_parameters(nbformat.read(source, 4))) == ["profile"]


def test_every_line_gets_its_prefix_however_it_is_cut(capsys):
    stream = ex.Prefixed(sys.stdout, "03 | ")
    for piece in ("a", "b\nc\n", "10%\r", "20%\r", "done\n"):
        stream.write(piece)
    assert capsys.readouterr().out == "03 | ab\n03 | c\n03 | 10%\r03 | 20%\r03 | done\n"
