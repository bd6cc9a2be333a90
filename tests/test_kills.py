"""Whatever is killed, and whenever: the next `make reproduce` completes, and its tables are those of a quiet run."""

import os
import random
import signal
import time

import psutil
import pytest

from small_project import Project

MOMENTS = [0, 1, *(pytest.param(moment, marks=pytest.mark.exhaustive) for moment in (2, 3))]
"""Random moments for each kind of process; there are three kinds."""
BLOCKS = [1, 40, 1000, *(pytest.param(blocks, marks=pytest.mark.exhaustive) for blocks in (8, 200))]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The tables of a run that nothing disturbed, and the seconds it took."""
    project, began = Project(tmp_path_factory.mktemp("quiet")), time.monotonic()
    status, told = project.make("reproduce")
    assert status == 0, told
    return project.tables(), time.monotonic() - began


def processes(top):
    """Everything below `top` by kind: the makes, the kernels, the training processes."""
    found = {"make": [psutil.Process(top.pid)], "kernel": [], "training": []}
    for process in psutil.Process(top.pid).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        kind = {"make": "make", "longalign.train.workers": "training", "ipykernel_launcher": "kernel"}
        for word, name in kind.items():
            if any(part == word or part.endswith(f"/{word}") for part in command[:4]):
                found[name].append(process)
    return found


def completes(project, tables):
    """A second run ends well with these tables; a run that was left behind may have to end first."""
    for _ in range(60):
        status, told = project.make("reproduce")
        if "this is being done already" not in told:
            break
        time.sleep(0.5)
    assert status == 0, told
    assert project.tables() == tables


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["make", "kernel", "training"])
def test_a_process_that_is_killed_at_any_moment_costs_time_and_nothing_else(tmp_path, expected, kind, moment):
    tables, seconds = expected
    project, chance = Project(tmp_path), random.Random(f"{kind} {moment}")
    running = project.start("reproduce")
    when, killed = time.monotonic() + chance.uniform(0.1, 0.9) * seconds, []
    while running.poll() is None and not killed:
        time.sleep(0.02)
        there = processes(running)[kind]
        if time.monotonic() > when and there:
            killed = [chance.choice(there)]
            killed[0].kill()
    told = running.communicate(timeout=120)[0]
    # what came late or hit a process that had done its work is a run that ended well
    assert running.returncode == 0 or killed, told
    completes(project, tables)


@pytest.mark.slow
def test_a_training_process_that_is_killed_between_checkpoints_goes_on_from_the_last(tmp_path, expected):
    project = Project(tmp_path)
    running = project.start("reproduce")
    work, checkpoints = project.folder / "results" / "run" / "trained", []
    while running.poll() is None and not checkpoints:
        time.sleep(0.01)
        checkpoints = list(work.glob("*/work/checkpoint-*/sha256.json"))
    for process in processes(running)["training"]:
        process.kill()
    told = running.communicate(timeout=120)[0]
    assert running.returncode and "failed (exit -9)" in told and "04_train: an exception: RuntimeError" in told
    completes(project, expected[0])


@pytest.mark.slow
@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_disk_that_is_full_is_told_and_costs_nothing_once_there_is_room(tmp_path, expected, blocks):
    """No file may grow beyond some blocks of 512 bytes: what comes then is what a full disk does, on any system."""
    project = Project(tmp_path)
    status, told = project.make("reproduce", limit=f"trap '' XFSZ; ulimit -f {blocks}")
    assert status != 0 and ("File too large" in told or "longalign" in told), told
    completes(project, expected[0])


@pytest.mark.slow
def test_a_file_system_without_room_is_told_and_costs_nothing_once_there_is_room(tmp_path, expected):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=3m tmpfs '{disk}' 2>/dev/null"):
        pytest.skip("a small file system can be mounted by root only")
    try:
        project = Project(tmp_path / "project") if (tmp_path / "project").mkdir() is None else None
        (project.folder / "results").mkdir()
        (project.folder / "results" / "run").symlink_to(disk)
        status, told = project.make("reproduce")
        assert status != 0 and "No space left on device" in told, told
        assert os.system(f"mount -o remount,size=200m '{disk}'") == 0
        completes(project, expected[0])
    finally:
        os.system(f"umount -l '{disk}'")


@pytest.mark.slow
def test_an_interrupt_at_a_terminal_ends_everything_and_is_told(tmp_path, expected):
    project = Project(tmp_path)
    running = project.start("reproduce")
    while running.poll() is None and not processes(running)["training"]:
        time.sleep(0.02)
    below = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=60)[0]
    assert running.returncode != 0 and "04_train: interrupted" in told and "Traceback" not in told, told
    psutil.wait_procs(below, timeout=15)
    assert not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    completes(project, expected[0])
