"""The exercises of course/ as the tests execute them: cell after cell in one namespace, without a kernel."""

import re
from pathlib import Path

import nbformat

from longalign.common import paths

COURSE = paths.root() / "course"
SOURCES = sorted((COURSE / "source").glob("*/*.ipynb"))
WRONG_ANSWERS = sorted((COURSE / "wrong_answers").glob("*/*.py"))


class Failed(Exception):
    """A cell raised: `cell` is its id, and the error is the cause."""

    def __init__(self, cell: str) -> None:
        super().__init__(cell)
        self.cell = cell


def source(exercise: str) -> Path:
    return COURSE / "source" / exercise / f"{exercise}.ipynb"


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def of_nbgrader(cell: nbformat.NotebookNode) -> dict:
    """What nbgrader knows about a cell: {} where it is none of its cells."""
    return cell.metadata.get("nbgrader", {})


def run(exercise: str, answers: dict[str, str] | None = None) -> None:
    """Executes an exercise with its own solutions, or with these `answers`, by the id of their cell. Raises Failed."""
    answers, names = dict(answers or {}), {"__name__": "__main__"}
    for cell in code_cells(source(exercise)):
        text = answers.pop(cell.id, cell.source)
        try:
            exec(compile(text, cell.id, "exec"), names)
        except Exception as error:
            raise Failed(cell.id) from error
    assert not answers, f"{exercise} has no cell {', '.join(answers)}"


def wrong_answer(path: Path) -> tuple[str, str]:
    """The id of the cell that a wrong answer replaces, and its text. The first line is `# cell: ID`."""
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# cell: (\S+)\n", text)
    assert named, f"{path.name}: the first line must be '# cell: ID', the cell that the answer replaces"
    return named[1], text
