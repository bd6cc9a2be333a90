"""How a notebook ended, told the same way in its executed copy, in a file, in the exit status and on the terminal.

The engine beneath marks every cell "completed", also those that a dead kernel never reached; only the time at which a
cell was started can be believed, and everything here follows from that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from longalign.common import checksums, paths
from longalign.common.provenance import write_json

EXECUTED, FAILED, REFUSED, DIED, CELL_LIMIT, NOTEBOOK_LIMIT, INTERRUPTED = (
    "executed", "an exception", "refused", "the kernel died", "the limit of a cell", "the limit of the notebook",
    "interrupted",
)  # fmt: skip
EXIT_STATUS = {EXECUTED: 0, FAILED: 1, REFUSED: 2, DIED: 3, CELL_LIMIT: 4, NOTEBOOK_LIMIT: 5, INTERRUPTED: 130}
STOPPED, NOT_RUN = "stopped-here", "not-run"
_OURS = {"papermill-error-cell-tag", STOPPED}


@dataclass(frozen=True)
class Outcome:
    """One execution of one notebook. Times in seconds, memory in MB (2^20 bytes) over all of its processes.

    `cell` is the last code cell that was started; `files` gives the sha256 of every file that the notebook wrote into
    its run, by path from there.
    """

    notebook: str
    profile: str
    state: str
    began: float
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    reason: str = ""
    heading: str = ""
    cell: str = ""
    error: str = ""
    log: str = ""
    resume: str = ""
    parameters: dict[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """What the process ends with."""
        return EXIT_STATUS[self.state]

    def report(self) -> str:
        """The failure in a few lines, for a terminal."""
        lines = {
            "notebook": self.notebook, "heading": self.heading, "cell": self.cell, "error": self.error,
            "log": self.log, "memory": f"{self.peak_memory_mb:,.0f} MB at most", "resume": self.resume,
        }  # fmt: skip
        indent = "\n" + " " * 12  # an error may have several lines
        return "\n".join(f"  {name:9} {value}".replace("\n", indent) for name, value in lines.items() if value)


def path(profile: str, notebook: str) -> Path:
    """Where the last outcome of a notebook (its file's stem) stands."""
    return paths.run_dir(profile) / "outcomes" / f"{notebook}.json"


def write(outcome: Outcome) -> Path:
    """Write it to its place, atomically."""
    return write_json(path(outcome.profile, outcome.notebook), dataclasses.asdict(outcome))


def read(profile: str, notebook: str) -> Outcome | None:
    """The last outcome; None where there is none, or none that can be read."""
    try:
        return Outcome(**json.loads(path(profile, notebook).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def where_it_stopped(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """The nearest heading above the last code cell that was started, and that cell's number and first line.

    >>> cells = [nbformat.v4.new_markdown_cell("## Loss"), nbformat.v4.new_code_cell("1 / 0")]
    >>> cells[1].metadata["papermill"] = {"start_time": "2024-01-31T00:00:00"}
    >>> where_it_stopped(nbformat.v4.new_notebook(cells=cells))
    ('Loss', '[*] 1 / 0')
    """
    index = _last_started(notebook)
    if index is None:
        return "", "(no cell was started)"
    heading = ""
    for cell in notebook.cells[: index + 1]:
        titles = [line for line in cell.source.splitlines() if line.startswith("#")]
        heading = titles[-1].lstrip("# ") if cell.cell_type == "markdown" and titles else heading
    cell = notebook.cells[index]
    first = next(iter(cell.source.strip().splitlines()), "")
    return heading, f"[{cell.get('execution_count') or '*'}] {first}"


def without_marks(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out the banners of the engine and of earlier executions, in place."""
    notebook.cells = [cell for cell in notebook.cells if not _OURS & set(cell.metadata.get("tags", []))]
    return notebook


def mark(notebook: nbformat.NotebookNode, outcome: Outcome) -> nbformat.NotebookNode:
    """Put a banner above the cell that was running, and `not run` under all later code cells, in place."""
    without_marks(notebook)
    index = _last_started(notebook)
    for cell in _code(notebook.cells[0 if index is None else index + 1 :]):
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), NOT_RUN]
        cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="not run\n")]
    first = next(iter(outcome.error.splitlines()), "")
    what = f": {first}" if first and first != outcome.state else ""
    text = f"> **Stopped here after {duration(outcome.seconds)}: {outcome.state}{what}.** The cells below were not run."
    banner = nbformat.v4.new_markdown_cell(text + (f" To go on: `{outcome.resume}`." if outcome.resume else ""))
    banner.metadata["tags"] = [STOPPED]
    notebook.cells.insert(0 if index is None else index, banner)
    return notebook


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(3.21), duration(754.0), duration(7380)
    ('3.2 s', '12 min 34 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def damaged(profile: str, notebooks: Sequence[str]) -> dict[str, list[str]]:
    """For each of the notebooks (stems) the files of its last execution that are gone or not as it wrote them.

    A file that two of them wrote belongs to the one that came later.
    """
    found = sorted((o for name in notebooks if (o := read(profile, name))), key=lambda o: o.began)
    owner = {file: one.notebook for one in found for file in one.files}
    wrong: dict[str, list[str]] = {}
    for one in found:
        for file, value in one.files.items():
            if owner[file] == one.notebook and not checksums.is_intact(paths.run_dir(profile), {file: value}):
                wrong.setdefault(one.notebook, []).append(file)
    return wrong


def execute_again(profile: str, notebook: str, wrong: Sequence[str]) -> None:
    """Make `make` execute a notebook again, and write the files `wrong`: what is there would be taken as it is."""
    for file in (*wrong, f"notebooks/{notebook}.ipynb"):  # without its executed copy it is out of date
        (paths.run_dir(profile) / file).unlink(missing_ok=True)


def _code(cells: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    return [cell for cell in cells if cell.cell_type == "code"]


def _last_started(notebook: nbformat.NotebookNode) -> int | None:
    started = [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    return started[-1] if started else None
