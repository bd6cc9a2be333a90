"""One notebook through papermill: parameters checked before a kernel starts, its end told as what it was.

    python -m longalign.reproduction.execute notebooks/03_loss_weighting.ipynb --profile smoke -p seed=1

Exit status: 0 executed, 1 an exception, 2 the request was wrong (no kernel was started), 3 the kernel died, 4 the limit
of a cell, 5 the limit of the notebook (both are the profile's), 130 interrupted. However it ends, the executed copy is
whole and shows where. A notebook runs in its folder.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the imports below take a second, in which no kernel has been started
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import nbformat
import yaml

from longalign.common import paths
from longalign.common.config import ConfigError, parse_yaml
from longalign.common.provenance import WRITTEN, LockedError, alone, hash_files, write_text
from longalign.experiments.profiles import Limits, load_profile
from longalign.reproduction import outcomes, terminal
from longalign.reproduction.monitor import Monitor
from longalign.reproduction.outcomes import Outcome, duration
from longalign.reproduction.parameters import REPLAY, check_parameters, declared_parameters


@dataclass(frozen=True)
class Job:
    """A notebook whose parameters are checked: where it is, where its executed copy goes, what it is given.

    `resume` is the command that goes on where this execution stops, `reason` why it runs at all; with `with_parent` it
    is interrupted when the process that asked for it ends.
    """

    source: Path
    target: Path
    parameters: dict[str, Any]
    limits: Limits = field(default_factory=Limits)
    resume: str = ""
    reason: str = ""
    with_parent: bool = False

    @property
    def log(self) -> Path:
        """Everything that the notebook's cells print, as it comes."""
        return self.target.parent.parent / "logs" / f"{self.source.stem}.log"


def prepare(
    source: Path | str, *, profile: str, parameters: Mapping[str, Any] | None = None, folder: Path | str | None = None
) -> Job:
    """Check everything that can be checked without a kernel; the copy goes to `folder` or the profile's run.

    Raises ConfigError for an unknown profile, a missing notebook, an unknown parameter and a wrong type.
    """
    source, named = Path(source).resolve(), load_profile(profile).name
    values = {"profile": named, **(parameters or {})}
    if not source.is_file():
        raise ConfigError(f"no notebook at {paths.relative(source)}")
    try:
        notebook = nbformat.read(source, as_version=4)
    except Exception as error:  # whatever it holds in the place of a notebook
        raise ConfigError(f"{paths.relative(source)}: not a notebook: {str(error).splitlines()[0]}") from None
    if REPLAY in declared_parameters(notebook):  # whoever opens it by hand sees the reference; this computes
        values = {REPLAY: False} | values
    values = check_parameters(notebook, values, where=paths.relative(source))
    if values.get(REPLAY) and values.get("seeds"):
        raise ConfigError(f"{paths.relative(source)}: replay draws the committed numbers, whose seeds are what they "
                          "are: leave seeds or replay out")  # fmt: skip
    values["profile"] = (loaded := load_profile(values["profile"])).name
    if loaded.name != named:
        raise ConfigError(f"two profiles are given, {named} and the parameter profile={loaded.name}: leave one out")
    target = Path(folder or paths.run_notebooks(values["profile"])).resolve() / source.name
    given = [f" -p {shlex.quote(f'{name}={_flow(value)}')}" for name, value in (parameters or {}).items()]
    again = f"python -m longalign.reproduction.execute {paths.relative(source)} --profile {loaded.name}{''.join(given)}"
    return Job(source, target, values, loaded.limits, resume=again)


def execute(job: Job) -> Outcome:
    """Run the notebook; its executed copy and its outcome are written however it ends.

    Raises LockedError while another process executes the same notebook into the same folder.
    """
    job.target.parent.mkdir(parents=True, exist_ok=True)
    running = job.target.with_name(f".{job.target.stem}.running.ipynb")
    with (
        alone(job.log.with_suffix(".lock"), wait=False),
        tempfile.TemporaryDirectory(prefix="kernel-", dir=_short()) as work,
        Monitor(limit=job.limits.notebook, parent=job.with_parent) as monitor,
    ):
        began, clock = time.time(), time.monotonic()
        try:
            state, error = _papermill(job, running, Path(work), over=lambda: bool(monitor.cause))
        except KeyboardInterrupt:
            state, error = outcomes.INTERRUPTED, ""
        seconds, name = time.monotonic() - clock, job.source.stem
        outcome = Outcome(
            name, job.parameters["profile"], monitor.cause or state, began, round(seconds, 2),
            round(monitor.peak / 2**20, 1), job.reason, error="" if monitor.cause else error,
            log=paths.relative(job.log), resume=job.resume, parameters=job.parameters,
        )  # fmt: skip
        try:
            return _conclude(job, outcome, running, Path(work) / "written")
        except OSError as full:
            return replace(outcome, state=outcomes.FAILED, error=f"{outcome.error or outcome.state}; {full}")


def _conclude(job: Job, outcome: Outcome, running: Path, written: Path) -> Outcome:
    """Write the copy with its marks and the outcome with the hashes of what the notebook wrote."""
    try:
        notebook = nbformat.read(running, as_version=4)
    except (OSError, ValueError):  # nothing was saved, or a full disk cut it short
        notebook = nbformat.read(job.source, as_version=4)
    heading, cell = outcomes.where_it_stopped(notebook)
    engine = notebook.metadata.setdefault("papermill", {})
    engine |= {"input_path": paths.relative(job.source), "output_path": paths.relative(job.target)}
    if outcome.state == outcomes.EXECUTED:
        outcomes.without_marks(notebook)
    else:
        outcome = replace(outcome, heading=heading, cell=cell)
        outcomes.mark(notebook, outcome)
    write_text(job.target, nbformat.writes(notebook) + "\n")
    running.unlink(missing_ok=True)
    run = job.target.parent.parent
    listed = {Path(line) for line in written.read_text().splitlines()} if written.exists() else set()
    files = {file.relative_to(run).as_posix(): hash_files(file)
             for file in sorted({*listed, job.target}) if file.is_relative_to(run) and file.is_file()}  # fmt: skip
    if job.target.parent == paths.run_notebooks(outcome.profile):
        before = outcomes.read(outcome.profile, outcome.notebook)
        # what an earlier execution wrote and this one found there is still this notebook's
        kept = {f: value for f, value in (before.files if before else {}).items() if (run / f).is_file()}
        outcome = replace(outcome, files=kept | files)
        outcomes.write(outcome)
    return outcome


def _papermill(job: Job, running: Path, work: Path, *, over: Callable[[], bool]) -> tuple[str, str]:
    """The state in which the notebook ended by itself, and its error; `over` says whether it is being ended."""
    # papermill takes a second to import, too long for a refusal
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    running.unlink(missing_ok=True)
    _kernel_environment()
    prefix = job.source.stem.split("_")[0]
    with terminal.log(job.log) as log, _told(work / "written"):
        try:
            papermill.execute_notebook(
                str(job.source),
                str(running),
                parameters=job.parameters,
                cwd=str(job.source.parent),
                progress_bar=False,
                stdout_file=terminal.Prefixed(sys.stdout, f"{prefix} | ", log),
                stderr_file=terminal.Prefixed(sys.stderr, f"{prefix} | ", log, over=over),
                autosave_cell_every=5,
                execution_timeout=job.limits.cell or None,
                coalesce_streams=True,  # a progress line that was overwritten is not kept
                shutdown_kernel="immediate",  # the kernel's whole process group: no worker is left behind
                # sockets in a folder of their own: parallel kernels can never pick the same TCP port
                config=Config({"KernelManager": {"transport": "ipc", "ip": str(work / "k")}}),
            )
        except PapermillExecutionError as error:
            return outcomes.FAILED, f"{error.ename}{': ' if error.evalue else ''}{error.evalue.strip()}"
        except CellTimeoutError:
            return outcomes.CELL_LIMIT, f"{duration(job.limits.cell)} were over"
        except DeadKernelError:
            return outcomes.DIED, "killed or out of memory"
        except BrokenPipeError:  # nobody reads what is told: who asked for it has gone
            return outcomes.INTERRUPTED, ""
        except (OSError, RuntimeError) as error:  # a full disk; a kernel that ended before it was ready
            return outcomes.FAILED, f"{type(error).__name__}: {error}"
    return outcomes.EXECUTED, ""


@contextmanager
def _told(written: Path) -> Iterator[None]:
    os.environ[WRITTEN] = str(written)
    try:
        yield
    finally:
        del os.environ[WRITTEN]


def _kernel_environment() -> None:
    os.environ.pop("MPLBACKEND", None)  # a backend named here silently drops inline figures
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a python3 kernel of the user's own is another environment
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars too: timings in executed notebooks
    # there are no widgets on purpose: they make pages that some viewers refuse
    silenced = "ignore:IProgress not found"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), silenced)))


def _short() -> str | None:
    return None if len(tempfile.gettempdir()) < 70 else "/tmp"  # a socket's path may have about 100 characters


def main(arguments: list[str] | None = None) -> int:
    """Execute one notebook from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m longalign.reproduction.execute", description=__doc__.splitlines()[0]
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", help="a name in profiles/ (default: laptop)")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=YAML", help="may be repeated")
    parser.add_argument("--folder", type=Path, help="for the executed copy (default: results/run/PROFILE/notebooks)")
    parser.add_argument("--resume", metavar="COMMAND", help="what to tell after a failure (default: this command)")
    parser.add_argument("--because", default="", metavar="REASON", help="why it runs, to be told at its start")
    parser.add_argument("--with-parent", action="store_true", help="stop when the process that started this one ends")
    options = parser.parse_args(arguments)
    name = options.notebook.stem + f" ({options.profile})" * bool(options.profile)
    try:
        pairs = _pairs(options.parameter)
        options.profile = options.profile or str(pairs.get("profile", "laptop"))
        name = f"{options.notebook.stem} ({options.profile})"
        job = prepare(options.notebook, profile=options.profile, parameters=pairs, folder=options.folder)
        job = replace(job, resume=options.resume or job.resume, reason=options.because, with_parent=options.with_parent)
        terminal.say(f"{name} starts{': ' if job.reason else ''}{job.reason}")
        outcome = execute(job)
    except (ConfigError, LockedError, OSError) as error:
        print(f"longalign.reproduction.execute: {name}: {error}", file=sys.stderr)
        return outcomes.EXIT_STATUS[outcomes.REFUSED]
    except KeyboardInterrupt:  # when the kernel had ended, or before there was one
        terminal.say(f"{name} interrupted")
        return outcomes.EXIT_STATUS[outcomes.INTERRUPTED]
    took = duration(outcome.seconds)
    if outcome.state == outcomes.EXECUTED:
        terminal.say(f"{name} done in {took}: {paths.relative(job.target)}")
    else:
        terminal.say(f"{name} stopped after {took}: {outcome.state}")
        print(outcome.report(), file=sys.stderr, flush=True)
    return outcome.exit_status


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"a parameter is given as NAME=VALUE, not {text!r}")
        if name in pairs:
            raise ConfigError(f"the parameter {name} is given twice")
        try:
            pairs[name] = parse_yaml(value)
        except yaml.YAMLError:
            raise ConfigError(f"the value of {text!r} is not readable as YAML") from None
    return pairs


if __name__ == "__main__":
    sys.exit(main())
