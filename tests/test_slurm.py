"""Notebooks as jobs of a real Slurm: in order, cancelled when what they need fails, requeued in their training."""

import os
import time

import pytest

import slurm as real
from longalign.common.config import ConfigError
from longalign.common.provenance import alone
from longalign.experiments.profiles import load_profile
from longalign.reproduction import slurm
from longalign.train.events import read_events
from small_project import TABLE, TRAIN, Project

REASON = real.available()
on_slurm = [pytest.mark.cluster, pytest.mark.skipif(bool(REASON), reason=REASON)]
DATABASE = """
.make/smoke/05_table: notebooks/05_table.ipynb profiles/smoke.yaml .make/smoke/04_train | .venv/.installed
.make/smoke/04_train: notebooks/04_train.ipynb
one-by-one: .make/smoke/04_train .make/smoke/05_table
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with real.cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def submit(cluster, project, *options):
    """What `make reproduce EXECUTOR=slurm` says, and the numbers of the jobs."""
    status, told = project.make("reproduce", "EXECUTOR=slurm", *options, **cluster.environment)
    assert status == 0, told
    return told, {line.split()[0]: line.split()[2].strip(",") for line in told.splitlines() if " job " in line}


def wait(cluster, project, job):
    state = cluster.wait(job, timeout=180)
    logs = "".join(log.read_text() for log in (project.run / "slurm").glob("*.log"))
    return state, logs


def test_the_order_of_jobs_is_that_of_make():
    assert slurm.needs(DATABASE, ".make/smoke") == {"05_table": ["04_train"], "04_train": []}


def test_every_brace_of_the_template_is_filled_and_an_unknown_one_is_refused():
    text = slurm.script(load_profile("laptop"), "08_training_time", command="make .make/laptop/08", alone=True)
    assert "{{" not in text and "--mem=4G" in text and "#SBATCH --exclusive" in text and "gpus" not in text
    assert text.startswith("#!/bin/bash") and "--signal=B:USR1@180" in text and "\nmake .make/laptop/08 &" in text
    with pytest.raises(ConfigError, match=r"\{\{minute\}\} is not known; there are minutes"):
        slurm.fill("{{minute}}", {"minutes": 5})


@pytest.mark.parametrize(("arguments", "told"), [
    (["EXECUTOR=slum"], "EXECUTOR is 'slum'; it is make (here) or slurm"),
    (["DRY_RUN=1"], "DRY_RUN shows the jobs of EXECUTOR=slurm"),
    (["EXECUTOR=slurm"], "there is no squeue here"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(tmp_path, arguments, told):
    project = Project(tmp_path)
    (project.run / "slurm").mkdir(parents=True)
    (project.run / "slurm" / "jobs.json").write_text("{}")
    status, text = project.make("reproduce", *arguments, PATH="/usr/bin:/bin" if REASON else _without_slurm(tmp_path))
    assert status == 2 and told in text and "Traceback" not in text


def _without_slurm(folder):
    """A PATH with what make's rules use and no Slurm."""
    import shutil

    (folder / "bin").mkdir()
    for name in ("make", "sh", "bash", "grep", "find", "echo", "mkdir", "touch", "env"):
        (folder / "bin" / name).symlink_to(shutil.which(name))
    return str(folder / "bin")


def test_a_dry_run_shows_every_script_and_submits_nothing(tmp_path):
    project = Project(tmp_path)
    status, told = project.make("reproduce", "EXECUTOR=slurm", "DRY_RUN=1")
    assert status == 0 and told.count("#!/bin/bash") == 2 and "==> 05_table, after 04_train" in told
    assert ".make/smoke/05_table &" in told and "PROFILE=smoke" in told and not project.run.exists()


def test_a_second_submission_at_the_same_moment_is_kept_out(tmp_path):
    project = Project(tmp_path)
    with alone(tmp_path / ".make" / "lock"):
        status, told = project.make("reproduce", "EXECUTOR=slurm")
    assert status == 2 and f"this is being done already by process {os.getpid()}" in told and "Traceback" not in told


class TestOnARealSlurm:
    pytestmark = on_slurm

    def test_jobs_run_in_their_order_and_the_same_command_tells_how_far_they_are(self, cluster, tmp_path):
        project = Project(tmp_path)
        told, jobs = submit(cluster, project)
        assert list(jobs) == ["04_train", "05_table"] and ", after 04_train" in told and "2 jobs submitted" in told
        again, _ = submit(cluster, project)
        assert "2 jobs have not ended; to end them: scancel" in again and "pending, job" in again
        for job in jobs.values():
            assert wait(cluster, project, job)[0] == "COMPLETED", wait(cluster, project, job)
        assert set(project.tables()) and "nothing to do" in submit(cluster, project)[0]

    def test_a_failing_notebook_cancels_who_needs_it_and_is_told(self, cluster, tmp_path):
        project = Project(tmp_path, train=["1 / 0"])
        _, jobs = submit(cluster, project)
        assert wait(cluster, project, jobs["04_train"])[0] == "FAILED"
        state, log = wait(cluster, project, jobs["05_table"])
        assert state == "CANCELLED" and "ZeroDivisionError" in log
        told, again = submit(cluster, project)
        assert "04_train                     an exception: ZeroDivisionError: division by zero" in told
        assert list(again) == ["04_train", "05_table"]
        cluster.run("scancel", *again.values())

    def test_a_notebook_begins_when_one_that_trains_for_it_has_ended_well_or_not(self, cluster, tmp_path, monkeypatch):
        for name, value in {**cluster.environment, "LONGALIGN_RUNS": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        log = tmp_path / "order.txt"
        scripts = {"06_second": f"#!/bin/bash\necho begun >>{log}\n",
                   "05_first": f"#!/bin/bash\nsleep 2; echo ended >>{log}; exit 1\n"}  # fmt: skip
        jobs = slurm.submit(load_profile("smoke"), {"06_second": [], "05_first": []}, scripts)
        assert list(jobs) == ["05_first", "06_second"]
        assert [cluster.wait(job, timeout=60) for job in jobs.values()] == ["FAILED", "COMPLETED"]
        assert log.read_text().split() == ["ended", "begun"]

    def test_a_job_that_is_warned_in_its_training_is_requeued_and_goes_on_to_the_same_numbers(self, cluster, tmp_path):
        plain = Project(tmp_path / "plain")
        assert plain.make("reproduce")[0] == 0
        slow = [cell.replace("'epochs': 4", "'epochs': 40").replace("'checkpoint_every': 5", "'checkpoint_every': 1000")
                for cell in TRAIN]  # fmt: skip
        project, whole = Project(tmp_path / "warned", train=slow), Project(tmp_path / "whole", train=slow)
        assert whole.make("reproduce")[0] == 0 and whole.tables() != plain.tables()
        _, jobs = submit(cluster, project)
        job, events = jobs["04_train"], []
        deadline = time.monotonic() + 180
        while len(events) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
            logs = project.folder.glob("results/run/trained/*/work/events.jsonl")
            events = [event for path in logs for event in read_events(path)]
        cluster.run("scancel", "--signal=USR1", "--batch", job)
        state, log = wait(cluster, project, job)
        assert state == "COMPLETED" and cluster.job(job)["Restarts"] == "1", log
        assert "the time of this job is nearly over" in log and "life 2" in log
        assert wait(cluster, project, jobs["05_table"])[0] == "COMPLETED"
        assert project.tables() == whole.tables()
        for run in (project.folder / "results" / "run" / "trained").iterdir():
            steps = len(read_events(run / "events.jsonl"))
            assert (run / "log.txt").read_text().count("'loss'") == steps > 100, "no step was done twice"

    def test_a_notebook_trains_on_two_ranks_inside_its_job(self, cluster, tmp_path):
        two = [cell.replace("new_model=new)", "new_model=new, engine={'ranks': 2, 'zero': 2})")
               .replace("'micro_batches_per_step': 1", "'micro_batches_per_step': 2")
               .replace("range(2)", "range(1)") for cell in TRAIN]
        project = Project(tmp_path, train=two, table=TABLE)
        _, jobs = submit(cluster, project)
        state, log = wait(cluster, project, jobs["05_table"])
        assert state == "COMPLETED", log
        (record,) = project.folder.glob("results/run/trained/*/record.json")
        assert '"ranks": 2' in record.read_text()
