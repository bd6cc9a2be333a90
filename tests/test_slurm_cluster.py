"""The cluster that other tests submit to is a real Slurm, and nothing of it is left when it ends."""

import time

import psutil
import pytest

import slurm

SLEEPERS = {"sleep 3111", "sleep 3112", "sleep 3113"}
REASON = slurm.available()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def submit(cluster, script, *options):
    """The number of a job of these lines of shell; what it prints comes into <number>.out."""
    output = f"--output={cluster.folder}/%j.out"
    return cluster.run("sbatch", "--parsable", output, *options, "--wrap", script).stdout.strip()


def output(cluster, job):
    return (cluster.folder / f"{job}.out").read_text().splitlines()


def commands():
    """The command lines of all living processes of this machine."""
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]


def test_a_job_does_its_work_and_can_be_asked_for_afterwards(cluster):
    job = submit(cluster, "echo $SLURM_JOB_ID $SLURM_CONF")
    assert cluster.wait(job) == "COMPLETED"
    assert output(cluster, job) == [f"{job} {cluster.environment['SLURM_CONF']}"]
    assert cluster.job(job)["ExitCode"] == "0:0"


def test_a_job_that_fails_cancels_who_needs_it(cluster):
    first = submit(cluster, "exit 3")
    after = [f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes"]
    second = submit(cluster, "echo never", *after)
    assert (cluster.wait(first), cluster.wait(second)) == ("FAILED", "CANCELLED")
    assert cluster.job(first)["ExitCode"] == "3:0"
    assert not (cluster.folder / f"{second}.out").exists()


def test_a_job_is_warned_of_its_time_limit_requeues_itself_and_goes_on_in_a_second_life(cluster):
    script = """
        echo life ${SLURM_RESTART_COUNT:-0}
        [ -z "$SLURM_RESTART_COUNT" ] || exit 0
        trap 'echo warned; scontrol requeue $SLURM_JOB_ID' USR1
        sleep 300 & wait; wait
    """
    options = ["--time=1", "--signal=B:USR1@45", "--requeue", "--open-mode=append"]
    job = submit(cluster, script, *options)
    assert cluster.wait(job, timeout=90) == "COMPLETED"
    told = [line for line in output(cluster, job) if not line.startswith("slurmstepd")]
    assert told == ["life 0", "warned", "life 1"]
    assert cluster.job(job)["Restarts"] == "1"


def test_a_second_cluster_runs_beside_the_first_and_leaves_no_process_when_its_test_fails(cluster, tmp_path):
    script = "env -i sleep 3111 & setsid sleep 3112 & sleep 3113"
    with pytest.raises(ZeroDivisionError), slurm.cluster(tmp_path / "second") as second:
        second.wait(submit(second, script), "RUNNING")
        deadline = time.monotonic() + 10
        while not SLEEPERS <= set(commands()) and time.monotonic() < deadline:
            time.sleep(0.1)
        begun = SLEEPERS & set(commands())
        names = {process.name() for process in second.processes()}
        raise ZeroDivisionError
    assert names >= {"munged", "slurmctld", "slurmd", "slurmstepd", "sleep"}
    assert begun == SLEEPERS
    assert not second.processes()
    assert not SLEEPERS & set(commands())
    assert cluster.run("sinfo", "--noheader", "--format=%T").stdout.strip() in ("idle", "mixed")


def test_a_cluster_that_does_not_start_says_why_and_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "CONFIGURATION", slurm.CONFIGURATION + "NoSuchKey=1\n")
    with pytest.raises(RuntimeError, match="(?s)does not start: slurm.*ended.*unrecognized key: NoSuchKey"):
        with slurm.cluster(tmp_path / "broken"):
            pass
    assert not [command for command in commands() if str(tmp_path) in command]
