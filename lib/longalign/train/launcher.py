"""Starts the processes of a training, one a device, and ends them together: the only module that knows torchrun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from longalign.common import paths
from longalign.train.parallelism import Parallelism

ASKED_BY = "LONGALIGN_ASKED_BY"
"""Environment variable of the ranks: host and process that started them, without which nobody waits for them."""
HOSTS = "SLURM_JOB_NODELIST"
PORT = 29_400


def command(engine: Parallelism, module: str, *arguments: str, hosts: Sequence[str] = ()) -> list[str]:
    """What runs `python -m module arguments` as every rank of the engine.

    On one node that is torchrun; on several, torchrun on each of them, which meet at the first of `hosts`: started by
    Slurm inside an allocation, or by DeepSpeed's launcher (pdsh) on the hosts of `engine.hostfile`. Raises ValueError
    when there are fewer hosts than the engine has nodes.

    >>> command(Parallelism(ranks=2), "longalign.train.runs", "job.json")[1:]
    ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '-m', 'longalign.train.runs', 'job.json']
    """
    if engine.hostfile:
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", engine.hostfile, "--num_nodes"]
        count = [str(engine.nodes), "--num_gpus", str(engine.ranks), "--no_local_rank", "--module"]
        return [*launcher, *count, module, *arguments]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if engine.nodes == 1:
        torchrun += ["--standalone"]
    elif len(hosts) < engine.nodes:
        told = ", ".join(hosts) or "none"
        raise ValueError(
            f"the engine needs {engine.nodes} nodes, but {len(hosts)} are here ({told}): start it inside a Slurm "
            "allocation of as many, where scontrol is, or list them in a file and name the file in engine.hostfile"
        )
    else:
        srun = ["srun", f"--nodes={engine.nodes}", f"--ntasks={engine.nodes}", "--kill-on-bad-exit=1"]
        if processors := os.environ.get("SLURM_CPUS_PER_TASK"):  # srun does not take the allocation's by itself
            srun.append(f"--cpus-per-task={processors}")
        meeting = [f"--nnodes={engine.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0]}:{PORT}"]
        torchrun = [*srun, *torchrun, *meeting, f"--rdzv-id={os.environ.get('SLURM_JOB_ID', 'longalign')}"]
    return [*torchrun, f"--nproc-per-node={engine.ranks}", "-m", module, *arguments]


def run(engine: Parallelism, module: str, *arguments: str, log: Path) -> None:
    """Run the ranks to their end; their output goes to `log`.

    Raises RuntimeError, in one line that names the cause and the log, when one of them fails; the others are ended
    then.
    """
    asker = f"{os.uname().nodename} {os.getpid()}"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "DS_BUILD_OPS": "0", ASKED_BY: asker}
    environment.setdefault("OMP_NUM_THREADS", "1")
    log.parent.mkdir(parents=True, exist_ok=True)
    parent, began = os.getppid(), log.stat().st_size if log.exists() else 0
    with log.open("a") as told:
        process = subprocess.Popen(
            command(engine, module, *arguments, hosts=allocated()), stdout=told, stderr=subprocess.STDOUT,
            env=environment,
        )  # fmt: skip
        try:
            while process.poll() is None:
                if os.getppid() != parent:
                    raise InterruptedError("the process that asked for this training has ended")
                time.sleep(0.1)
        finally:
            process.terminate()  # torchrun ends its ranks
            process.wait()
    if process.returncode:
        lines = log.read_bytes()[began:].decode(errors="replace").splitlines()
        # the one that failed first; what the others say of their lost connection comes later
        told = (re.search(r"Signal \d+ \(\w+\)|\w+(Error|Exception): .*", line) for line in lines)
        causes = [found[0] for found in told if found]
        cause = next(iter([c for c in causes if c.startswith("Signal 9")] or causes), f"exit {process.returncode}")
        raise RuntimeError(f"one of {engine.world_size} processes failed: {cause}; the log is {paths.relative(log)}")


def allocated() -> list[str]:
    """The hosts of the Slurm allocation that this process is in; none outside of one, and in a container without
    Slurm's programs, where one node needs no list."""
    if HOSTS not in os.environ:
        return []
    try:
        told = subprocess.run(["scontrol", "show", "hostnames", os.environ[HOSTS]], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return told.stdout.split()


def exit_rank() -> None:
    """In a rank that has done its work: end at once, with the others.

    What the libraries do at the end of a process now and then aborts it (gloo's threads), which would be taken for a
    failure of the work.
    """
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def exit_with_parent() -> None:
    """In a rank: end when the process that started the ranks has gone, at whatever moment that is."""
    host, _, asker = os.environ.get(ASKED_BY, "").partition(" ")
    if host != os.uname().nodename:  # of another node's processes torchrun alone knows
        return

    def watch() -> None:
        while True:
            try:
                os.kill(int(asker), 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1.0)

    threading.Thread(target=watch, daemon=True).start()
