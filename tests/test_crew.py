"""The crew: workers are kept for the next jobs, and all crews together do no more at a time than one may."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from longalign.train import workers
from naps import Nap

ASK = "import sys; from longalign.train import workers; from naps import Nap; workers.execute_all(" \
      "[Nap(f'{sys.argv[2]}{n}', sys.argv[1]) for n in range(3)], workers=2)"  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where jobs lie; workers find this folder's modules."""
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def naps(folder, name, count, **options):
    return [Nap(f"{name}{number}", str(folder), **options) for number in range(count)]


def test_workers_are_kept_for_the_next_jobs_and_leave_when_the_environment_is_another(folder, monkeypatch):
    first, second, third = (naps(folder, name, 2) for name in "abc")
    workers.execute_all(first, workers=2)
    workers.execute_all(second, workers=2)
    processes = {nap.record()["process"] for nap in first + second}
    assert len(processes) == 2, "four jobs, two workers"
    monkeypatch.setenv("LONGALIGN_RUNS", str(folder / "others"))
    workers.execute_all(third, workers=2)
    assert not processes & {nap.record()["process"] for nap in third}
    assert not [p for p in processes if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


def test_two_processes_with_crews_of_two_do_two_jobs_at_a_time(folder):
    asked = [subprocess.Popen([sys.executable, "-c", ASK, str(folder), name]) for name in "xy"]
    assert [process.wait(timeout=120) for process in asked] == [0, 0]
    done = [nap.record() for name in "xy" for nap in naps(folder, name, 3)]
    at_a_time = [sum(one["began"] <= other["began"] < one["ended"] for one in done) for other in done]
    assert max(at_a_time) == 2


def test_an_idle_worker_leaves_by_itself(folder):
    code = "import os; from longalign.train import workers; workers.IDLE_SECONDS = 0.5; workers._serve(os.getppid())"
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert worker.wait(timeout=60) == 0


def test_a_job_that_comes_while_its_worker_is_leaving_is_done_by_another(folder):
    first, second = naps(folder, "d", 2, seconds=0.0)
    workers.execute_all([first], workers=1)
    (worker,) = [w for w in workers._idle if w.environment["LONGALIGN_RUNS"] == os.environ["LONGALIGN_RUNS"]]
    worker.process.stdin.close()  # as when it has waited too long: it leaves with exit status 0
    worker.process.wait()
    worker.give(second)
    while not worker.finished_job():
        time.sleep(0.05)
    assert second.record()["process"] == worker.process.pid != first.record()["process"]


def test_no_job_is_begun_when_the_one_around_this_process_is_about_to_be_ended(folder, monkeypatch):
    done, left = naps(folder, "e", 2, seconds=0.0)
    monkeypatch.setenv("LONGALIGN_WARNING", str(folder / "warned"))
    workers.execute_all([done], workers=1)
    (folder / "warned").touch()
    with pytest.raises(InterruptedError, match="nearly over; 1 are left"):
        workers.execute_all([done, left], workers=1)
    assert done.finished and not left.finished


def test_jobs_under_way_are_not_ended_when_one_of_them_stops_for_the_warning(folder, monkeypatch):
    """A training that is warned saves and stops by an error; another one must have the time to do the same."""
    quick, slow = naps(folder, "f", 1, seconds=0.1, fails=True)[0], naps(folder, "g", 1, seconds=4.0)[0]
    (folder / "warned").touch()
    monkeypatch.setattr(workers.paths, "warned", lambda: slow.folder.exists() and quick.folder.exists())
    with pytest.raises(InterruptedError, match="nearly over; 1 are left"):
        workers.execute_all([quick, slow], workers=2)
    assert slow.finished and not quick.finished


def test_with_a_log_one_line_stays_and_the_log_has_one_for_each_job(folder, capsys):
    jobs, log = naps(folder, "q", 3, seconds=0.0), folder / "logs" / "jobs.log"
    workers.execute_all(jobs[:1], workers=1, log=log)
    workers.execute_all(jobs, workers=1, log=log)
    workers.execute_all([], workers=1, log=log)
    stays = [line.split("\r")[-1].strip() for line in capsys.readouterr().out.split("\n")[:-1]]
    assert [re.sub(r" in \d+ s", "", line.split("; ")[0]) for line in stays] == [
        "1 jobs done, 0 were there already", "2 jobs done, 1 were there already"
    ]  # fmt: skip
    assert all(line.endswith("jobs.log") for line in stays)
    told = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert told == ["q0: rested", "1 of 3 are finished already and reused", "q1: rested", "q2: rested"]
