"""One notebook through papermill: parameters checked before a kernel starts, an executed copy whole or absent.

    python -m longalign.execute notebooks/03_loss_weighting.ipynb --profile smoke -p seed=1

Exit status: 0 executed, 1 the notebook failed, 2 the request was wrong (no kernel was started), 130 interrupted. The
price: one process and one kernel start (about five seconds) a notebook. The working directory of the caller does not
matter; the notebook runs in its own folder, as it does in JupyterLab.
"""

from __future__ import annotations

import argparse
import ast
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nbformat
import yaml

from longalign import paths
from longalign.profiles import ProfileError, load_profile, nearest, typed
from longalign.record import write_text

EXECUTED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class NotebookFailed(RuntimeError):
    """A cell failed or the kernel died; the message names notebook, nearest heading, cell and error."""


@dataclass(frozen=True)
class Parameter:
    """A name of the `parameters` cell, with its annotation (a type) and whether the cell annotates it."""

    name: str
    annotation: Any


def declared_parameters(notebook: nbformat.NotebookNode) -> dict[str, Parameter]:
    """The annotated names of the cell tagged `parameters`, in order.

    >>> cell = nbformat.v4.new_code_cell("profile: str = 'smoke'\\nlengths: list[int] = [2, 4, 3]")
    >>> cell.metadata["tags"] = ["parameters"]
    >>> list(declared_parameters(nbformat.v4.new_notebook(cells=[cell])))
    ['profile', 'lengths']
    """
    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    found = {}
    for statement in (s for c in cells for s in ast.parse(c.source).body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = eval(compile(ast.Expression(statement.annotation), "<parameters>", "eval"))
            found[statement.target.id] = Parameter(statement.target.id, annotation)
    return found


def check_parameters(notebook: nbformat.NotebookNode, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`values` typed as the parameters cell declares them.

    Raises ProfileError for a name that the cell does not declare (with the nearest one) and for a wrong type.
    """
    declared = declared_parameters(notebook)
    for name in values:
        if name not in declared:
            raise ProfileError(f"{where}: unknown parameter {name}: {nearest(name, declared)}")
    return {n: typed(v, declared[n].annotation, where=where, key=n) for n, v in values.items()}


@dataclass(frozen=True)
class Job:
    """A notebook whose parameters are checked: where it is, where its executed copy goes, what it is given."""

    source: Path
    target: Path
    parameters: dict[str, Any]


def prepare(
    source: Path | str, *, profile: str, parameters: Mapping[str, Any] | None = None, folder: Path | str | None = None
) -> Job:
    """Check everything that can be checked without a kernel; the copy goes to `folder` or the profile's run.

    Raises ProfileError for an unknown profile, a missing notebook, an unknown parameter and a wrong type.
    """
    source = Path(source).resolve()
    values = {"profile": load_profile(profile).name, **(parameters or {})}
    if not source.is_file():
        raise ProfileError(f"no notebook at {paths.relative(source)}")
    try:
        notebook = nbformat.read(source, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise ProfileError(f"{paths.relative(source)}: not a notebook: {str(error).splitlines()[0]}") from None
    values = check_parameters(notebook, values, where=paths.relative(source))
    target = Path(folder or paths.run_notebooks(values["profile"])).resolve() / source.name
    return Job(source, target, values)


def execute(job: Job) -> Path:
    """Run the notebook and return the path of its executed copy.

    Raises NotebookFailed when a cell fails or the kernel dies; then the copy shows how far it came.
    """
    job.target.parent.mkdir(parents=True, exist_ok=True)
    running = job.target.with_name(f".{job.target.stem}.running.ipynb")
    running.unlink(missing_ok=True)
    try:
        _papermill(job.source, running, job.parameters)
    finally:
        if running.exists():
            write_text(job.target, running.read_text(encoding="utf-8"))
            running.unlink()
    return job.target


def _papermill(source: Path, target: Path, values: dict[str, Any]) -> None:
    # papermill takes a second to import, too long for a refusal
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    _kernel_environment()
    prefix = source.stem.split("_")[0]
    short = None if len(tempfile.gettempdir()) < 70 else "/tmp"  # a socket's path may have about 100 characters
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=short) as sockets:
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=values,
                cwd=str(source.parent),
                progress_bar=False,
                stdout_file=Prefixed(sys.stdout, f"{prefix} | "),
                stderr_file=Prefixed(sys.stderr, f"{prefix} | "),
                autosave_cell_every=5,
                shutdown_kernel="immediate",  # the kernel's whole process group: an interrupt leaves no worker behind
                # sockets in a folder of their own: parallel kernels can never pick the same TCP port
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}}),
            )
        except PapermillExecutionError as error:
            raise NotebookFailed(_explain(source, target, error.ename, error.evalue)) from None
        except DeadKernelError:
            raise NotebookFailed(_explain(source, target, "the kernel died", "perhaps out of memory")) from None


def _kernel_environment() -> None:
    os.environ.pop("MPLBACKEND", None)  # a backend named here silently drops inline figures
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a python3 kernel of the user's own is another environment
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars too: timings in executed notebooks
    # there are no widgets on purpose: they make pages that some viewers refuse
    silenced = "ignore:IProgress not found"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), silenced)))


def _explain(source: Path, executed: Path, name: str, value: str) -> str:
    """The failure in four lines; the cell is the last code cell that was started."""
    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    injected = [c for c in cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    started = [i for i, c in enumerate(injected) if c.cell_type == "code" and _was_started(c)]
    last = started[-1] if started else -1
    heading = "(before the first heading)"
    for cell in injected[: last + 1]:
        titles = [line for line in cell.source.splitlines() if line.startswith("#")]
        heading = titles[-1].lstrip("# ") if cell.cell_type == "markdown" and titles else heading
    first_line = injected[last].source.strip().splitlines()[:1] if started else []
    count = injected[last].get("execution_count") if started else None
    return "\n".join((
        f"notebook  {paths.relative(source)}",
        f"heading   {heading}",
        f"cell      [{count if count is not None else '*'}] {first_line[0] if first_line else '(no cell was started)'}",
        f"error     {name}{': ' if value else ''}{value.strip()}",
    ))  # fmt: skip


def _was_started(cell: nbformat.NotebookNode) -> bool:
    # papermill marks every cell completed when a kernel dies: only the time of starting can be believed
    return cell.metadata.get("papermill", {}).get("start_time") is not None


class Prefixed:
    """A text stream that puts `prefix` before every line, so that notebooks side by side can be told apart."""

    def __init__(self, stream: IO[str], prefix: str) -> None:
        self.stream, self.prefix, self.fresh = stream, prefix, True

    def write(self, text: str) -> None:
        """Write `text`; a carriage return starts a line anew, as progress bars want."""
        for line in text.splitlines(keepends=True):
            self.stream.write(self.prefix + line if self.fresh else line)
            self.fresh = line[-1] in "\r\n"

    def flush(self) -> None:
        """Pass everything on to the stream beneath."""
        self.stream.flush()


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(3.21), duration(754.0)
    ('3.2 s', '12 min 34 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def main(arguments: list[str] | None = None) -> int:
    """Execute one notebook from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m longalign.execute", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", default="laptop", help="a name in profiles/ (default: laptop)")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=YAML", help="may be repeated")
    parser.add_argument("--folder", type=Path, help="for the executed copy (default: results/run/PROFILE/notebooks)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a polite kill ends the kernel, too
    name, begun = f"{options.notebook.stem} ({options.profile})", time.monotonic()
    try:
        pairs = dict(_pair(text) for text in options.parameter)
        job = prepare(options.notebook, profile=options.profile, parameters=pairs, folder=options.folder)
        _say(f"{name} starts")
        copy = execute(job)
    except ProfileError as error:
        print(f"longalign.execute: {error}", file=sys.stderr)
        return REFUSED
    except NotebookFailed as error:
        _say(f"{name} FAILED after {duration(time.monotonic() - begun)}")
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        _say(f"{name} interrupted after {duration(time.monotonic() - begun)}")
        return INTERRUPTED
    _say(f"{name} done in {duration(time.monotonic() - begun)}: {paths.relative(copy)}")
    return EXECUTED


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ProfileError(f"a parameter is given as NAME=VALUE, not {text!r}")
    return name.strip(), yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
