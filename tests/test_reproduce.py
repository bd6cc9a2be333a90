"""`make reproduce`, really run on a small project: what ran, what failed, what was damaged, and one at a time."""

import csv
import io
import os
import signal
import threading
import time

import pytest

from longalign.common.provenance import LockedError, alone, write_json
from longalign.reproduction import estimate, outcomes, terminal
from longalign.reproduction.outcomes import Outcome
from longalign.reproduction.reproduce import Make, _lock, summary
from small_project import Project, write_notebook

QUICK = ["from longalign.common import paths, provenance as record\nfolder = paths.run_dir(profile)",
         "record.write_csv(folder / 'losses.csv', [{'seed': s, 'value': 2.0 + s} for s in range(3)]);"]  # fmt: skip


def test_a_run_its_repetition_a_changed_library_and_damaged_files(tmp_path):
    project = Project(tmp_path, train=QUICK)
    status, told = project.make("reproduce")
    assert status == 0, told
    assert "2 of 2 notebooks are to be executed: no run of smoke has been measured" in told
    assert "04_train (smoke) starts: it has not been executed" in told and "ran 2, up to date 0, failed 0 in " in told
    first = project.tables()
    copies = [copy.read_text() for copy in (project.run / "notebooks").glob("*.ipynb")]
    assert len(copies) == 2 and not any(str(tmp_path) in copy for copy in copies), "no path of this machine"
    status, told = project.make("reproduce")
    assert status == 0 and "nothing to do: all 2 notebooks are up to date" in told and " starts" not in told
    assert "results    results/run/smoke/*.csv" in told and "report.html" not in told

    time.sleep(1.1)  # files have times of whole seconds for some makes
    (tmp_path / "lib" / "longalign" / "recipe" / "packing.py").touch()
    status, told = project.make("reproduce")
    assert status == 0 and "04_train (smoke) starts: lib/longalign/recipe/packing.py is newer" in told
    assert "2 of 2 notebooks are to be executed: about " in told and " GB of memory, as measured on " in told

    (project.run / "losses.csv").write_text("seed,val")
    (project.run / "items.jsonl").write_text("one")
    status, told = project.make("reproduce")
    assert status == 0 and "04_train is executed again, since these are not as it wrote them: losses.csv" in told
    assert "04_train (smoke) starts: its executed copy is gone" in told and project.tables() == first
    assert "05_table is executed again" in told and (project.run / "items.jsonl").read_text() == "one\ntwo\n"


def test_a_failure_is_summed_up_and_the_next_run_goes_on(tmp_path):
    broken = [*QUICK, "unknown + 1", "print('unseen')"]
    project = Project(tmp_path, train=broken)
    status, told = project.make("reproduce")
    assert status == 2 and "stopped after" in told and "NameError: name 'unknown' is not defined" in told
    assert "heading   Part 2" in told and "resume    make reproduce PROFILE=smoke" in told
    assert "ran 0, up to date 0, failed 1, not reached 1 in " in told
    assert "04_train: an exception: NameError" in told and "results/run/smoke/logs/04_train.log" in told
    Project.__init__(project, tmp_path / "again", train=QUICK)
    status, told = project.make("reproduce")
    assert status == 0 and "ran 2, up to date 0, failed 0" in told


def test_keep_going_executes_what_does_not_depend_on_the_failure(tmp_path):
    project = Project(tmp_path, train=["1 / 0"])
    for name in ("01_data", "02_masks", "08_times"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", ["print(3)"])
    status, told = project.make("reproduce", "-k", "JOBS=1")
    assert status == 2 and "ran 2, up to date 0, failed 1, not reached 2" in told, told
    status, told = project.make("reproduce", "JOBS=1")
    assert status == 2 and "ran 0, up to date 2, failed 1, not reached 2" in told, told


def test_two_runs_in_one_clone_do_not_meet_and_an_interrupt_is_told(tmp_path):
    project = Project(tmp_path, train=["import time\nprint('here', flush=True)\ntime.sleep(60)"])
    first = project.start("reproduce")
    told = ""
    while "04 | here" not in told:
        told += first.stdout.readline()
    status, second = project.make("reproduce")
    assert status == 2 and "this is being done already by process" in second and "wait until it has ended" in second
    first.terminate()
    told = first.communicate(timeout=60)[0]
    assert first.returncode != 0 and "04_train: interrupted" in told and "not reached 1" in told
    status, told = project.make("reproduce", "-n")
    assert "longalign.reproduction.reproduce" in told and " starts" not in told


@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.0, 1.4])
def test_an_interrupt_at_the_very_beginning_starts_nothing_and_is_no_error(tmp_path, seconds):
    project = Project(tmp_path, train=["import time\ntime.sleep(60)"])
    running = project.start("reproduce")
    time.sleep(seconds)
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=20)[0]
    assert running.returncode != 0 and "Traceback" not in told, told
    assert " done in " not in told and "ran 1" not in told


def test_a_stage_does_not_begin_after_an_interrupt(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        make = Make(lock)
        make.stop()
        assert make.run("side-by-side", jobs=1, board=None) == 130 and make.process is None


@pytest.mark.parametrize("dead", [True, False])
def test_a_run_whose_head_was_killed_is_waited_for_and_one_that_is_at_work_is_not(tmp_path, dead):
    path = tmp_path / "lock"
    with alone(path) as held:
        os.truncate(path, 0)
        held.write(f"process {2**22 + 1 if dead else os.getpid()}, started 20:42:00\n")
        held.flush()
        released = threading.Timer(1.0, held.close)
        released.start()
        began = time.monotonic()
        try:
            with _lock(path):
                assert dead and time.monotonic() - began > 0.9
        except LockedError:
            assert not dead
        released.join()


def test_the_summary_counts_what_ran_what_failed_and_what_was_not_reached():
    def outcome(name, state):
        return Outcome(name, "smoke", state, began=0, seconds=30, error="told", log="a.log")

    found = [outcome("01_a", outcomes.EXECUTED), outcome("02_b", outcomes.DIED)]
    lines = list(summary(found, ["01_a", "02_b", "03_c"], 5, 61))
    assert lines[0] == "02_b: the kernel died: told (log: a.log)"
    assert lines[1] == "ran 1, up to date 2, failed 1, not reached 1 in 1 min 1 s (1 min 0 s of notebooks)"
    assert lines[2].startswith("the same command goes on")
    (told, _) = summary(found[:1], ["01_a", "02_b"], 5, 61, broken=True)  # a full disk has room for no outcome
    assert "ran 1, up to date 3, failed 1 or more, which left no outcome, not reached 1 in " in told


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("live", [True, False])
def test_a_terminal_has_one_live_line_a_notebook_and_anything_else_has_plain_lines(live):
    stream = Screen() if live else io.StringIO()
    board = terminal.Board(stream, width=40)
    for line in ("05 | step 1/9\r", "06 | step 2/9 " + "x" * 60 + "\r", "05 | step 3/9\r", "05 | trained\n",
                 "[12:00:00] 06_data (smoke) done\n"):  # fmt: skip
        board.write(line)
    plain = "05 | trained\n[12:00:00] 06_data (smoke) done\n"
    if not live:
        assert stream.getvalue() == plain
        return
    screen = []
    for line in stream.getvalue().splitlines():
        while line.startswith("\x1b["):
            up, line = int(line[2 : line.index("A")]), line[line.index("J") + 1 :]
            del screen[len(screen) - up :]
        screen.append(line)
    assert screen == plain.splitlines() and "06 | step 2/9 " + "x" * 25 in stream.getvalue()
    assert max(map(len, stream.getvalue().replace("\x1b[", "").splitlines())) < 46


def test_the_work_of_a_run_is_the_seconds_of_its_jobs_and_their_share_of_both_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    for kind, seconds in (("trained", [2, 4]), ("evaluated", [3])):
        for number, taken in enumerate(seconds):
            write_json(tmp_path / kind / str(number) / "record.json", {"seconds": taken})
    with estimate.note_work("laptop", 10.0, jobs=2).open() as file:
        rows = {row.pop("kind"): row for row in csv.DictReader(file)}
    assert rows == {
        "cores": {"number": "2", "seconds": "20", "share": "1"},
        "trained": {"number": "2", "seconds": "6", "share": "0.3"},
        "evaluated": {"number": "1", "seconds": "3", "share": "0.15"},
    }
