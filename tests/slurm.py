"""A real Slurm of one node for tests: munged, slurmctld and slurmd without systemd or accounting.

It needs root and Debian's packages `slurm-wlm` and `munge`, and starts in a second or two. Only sockets and spooled
scripts lie outside the given folder, in a temporary one. A test run that is killed outright leaves running jobs behind.

The node claims 64 processors, 1 TB and 8 GPUs, and gives nobody any of them: jobs share what the machine has. Slurm
looks at time limits every 30 seconds only, so a job with `--time=1 --signal=B:USR1@45` is warned up to half a minute
after it began, and ends after one to two minutes.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

PROGRAMS = ("sbatch", "scontrol", "sinfo", "munged", "slurmctld", "slurmd", "setpriv")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
START_SECONDS = 10
STOP_SECONDS = 10
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

# cred_expire is also how long a requeued job waits before it may start again: 120 s by default, which stays if it is
# less than 5. Without DefMemPerCPU a job that asks for no memory takes all, and the next one waits for its end.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={sockets}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={sockets}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
MinJobAge=86400
KillWait=2
OverTimeLimit=0
CompleteWait=0
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:8 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def available() -> str:
    """Why no cluster can be started here; '' where one can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if missing:
        return f"a real Slurm needs the Debian packages slurm-wlm and munge: there is no {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "a real Slurm is started by root only"


@dataclass
class Cluster:
    """One running cluster; `environment` leads sbatch, squeue, scontrol and scancel to it."""

    folder: Path
    environment: dict[str, str]
    munge: str
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess:
        """A command of Slurm's that must not fail; its output is text."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def job(self, job_id: str | int) -> dict[str, str]:
        """What `scontrol show job` says about a job, name by name."""
        words = self.run("scontrol", "--oneliner", "show", "job", str(job_id)).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job_id: str | int) -> str:
        return self.job(job_id)["JobState"]

    def wait(self, job_id: str | int, states: str | Collection[str] = ENDED, timeout: float = 60) -> str:
        """The state in which the job is as soon as that is one of these."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout
        while (state := self.state(job_id)) not in wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout:g} s job {job_id} is not {' or '.join(sorted(wanted))} but {state}")
            time.sleep(0.1)
        return state

    def processes(self) -> list[psutil.Process]:
        """Daemons, jobs and commands of this cluster, with all that they started."""
        family = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self._owns(process):
                    family |= {member.pid: member for member in [process, *process.children(recursive=True)]}
        return [process for process in family.values() if _lives(process)]

    def _owns(self, process: psutil.Process) -> bool:
        # a slurmstepd hides its environment, outlives its slurmd and stays in the folder where that was started
        if process.name() == "slurmstepd":
            return process.cwd() == str(self.folder)
        return process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]

    def tails(self, lines: int = 15) -> str:
        """The end of what every daemon has logged."""
        logs = {name: self.folder / f"{name}.log" for name in self.daemons}
        ends = {name: log.read_text(errors="replace").splitlines()[-lines:] for name, log in logs.items()}
        return "\n".join(f"--- {name} ---\n" + "\n".join(end) for name, end in ends.items())


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of one idle node with its files in this folder; all its processes and jobs end with it."""
    # a test's folder may have a path too long for a Unix socket: 107 bytes
    with TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as sockets:
        started = _prepare(Path(folder).resolve(), sockets)
        try:
            _start(started)
            yield started
        finally:
            _stop(started)


def _prepare(folder: Path, sockets: str) -> Cluster:
    """Everything that the daemons read."""
    (folder / "state").mkdir(parents=True)
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    controller_port, node_port = _free_ports(2)
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    for number in range(8):
        (folder / f"gpu{number}").touch()
    places = {"folder": folder, "sockets": sockets, "controller_port": controller_port, "node_port": node_port}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**places))
    return Cluster(folder, {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}, f"{sockets}/munge")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _start(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    files = [f"--{kind}-file={cluster.folder}/munge.{kind}" for kind in ("key", "pid", "seed")]
    # a temporary folder is closed to other users, which munged refuses unless forced
    _daemon(cluster, "munged", "--foreground", "--force", f"--socket={cluster.munge}", *files)
    _await(cluster, Path(cluster.munge).exists, deadline)
    _daemon(cluster, "slurmctld", "-D")
    _daemon(cluster, "slurmd", "-D", "-N", "localhost")
    _await(cluster, lambda: _is_idle(cluster), deadline)


def _daemon(cluster: Cluster, name: str, *arguments: str) -> None:
    """Starts a daemon that dies with this process, were it killed."""
    with (cluster.folder / f"{name}.log").open("wb") as log:
        cluster.daemons[name] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", name, *arguments], start_new_session=True, cwd=cluster.folder,
            env=os.environ | cluster.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _await(cluster: Cluster, ready, deadline: float) -> None:
    while not ready():
        dead = [name for name, daemon in cluster.daemons.items() if daemon.poll() is not None]
        if dead or time.monotonic() > deadline:
            reason = f"{', '.join(dead)} ended" if dead else f"it is not ready after {START_SECONDS} s"
            raise RuntimeError(f"Slurm does not start: {reason}\n{cluster.tails()}")
        time.sleep(0.1)


def _is_idle(cluster: Cluster) -> bool:
    try:
        return cluster.run("sinfo", "--noheader", "--format=%T", timeout=3).stdout.strip() == "idle"
    except (RuntimeError, subprocess.TimeoutExpired):
        return False


def _stop(cluster: Cluster) -> None:
    """Kills daemons first, so that no job begins any more, then jobs."""
    for daemon in cluster.daemons.values():
        daemon.kill()
    for daemon in cluster.daemons.values():
        daemon.wait()
    deadline = time.monotonic() + STOP_SECONDS
    while left := cluster.processes():
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of Slurm that do not end: {left}")
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=0.1)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
