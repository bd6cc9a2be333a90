"""The course: every solution passes its checks, every wrong answer fails the right one, nbgrader grades for real."""

import os
import shutil
import subprocess
from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
import pytest

import exercises
from longalign.common import paths
from test_notebooks import LONGEST_CELL, wrong_references

NBGRADER = Path(os.environ.get("LONGALIGN_NBGRADER", paths.root() / ".course" / "bin" / "nbgrader"))
OFTEN = ("01_three_currencies", "02_two_ranks", "03_by_hand", "03b_two_ranks")
"""What `make test` executes; `make test-long` executes all."""

each_exercise = pytest.mark.parametrize("path", exercises.SOURCES, ids=lambda path: path.stem)


def often_or_slow(name):
    return () if name in OFTEN else pytest.mark.slow


@pytest.fixture(autouse=True)
def _figures_are_not_shown():
    matplotlib.use("agg")


@each_exercise
def test_a_source_carries_no_outputs_and_names_notebooks_that_exist(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in exercises.code_cells(path))
    assert not [wrong for cell in notebook.cells for wrong in wrong_references(cell.source)]


@each_exercise
def test_an_exercise_predicts_computes_checks_and_ends_with_a_question(path):
    cells = nbformat.read(path, as_version=4).cells
    opening, closing = cells[0].source, cells[-1].source
    assert opening.startswith("# ") and all(part in opening for part in ("**Notebook", "**Time**", "**The claim.**"))
    assert "## What you have learnt" in closing and "**To discuss.**" in closing
    assert any("**Predict before you" in cell.source for cell in cells)
    assert all(cell.source.count("\n") < LONGEST_CELL for cell in exercises.code_cells(path))


@each_exercise
def test_the_check_of_an_answer_is_the_cell_behind_it(path):
    cells = exercises.code_cells(path)
    kinds = [exercises.of_nbgrader(cell) for cell in cells]
    assert sum(kind.get("solution", False) for kind in kinds) >= 2, "a prediction and a function"
    for place, kind in enumerate(kinds):
        if kind:
            assert kind["grade_id"] == cells[place].id and kind["schema_version"] == 3 and not kind["task"]
            assert kind["locked"] == kind["grade"] != kind["solution"]
        if kind.get("solution"):
            assert kinds[place + 1].get("grade_id") == f"{kind['grade_id']}-check"
            assert cells[place].source.count("### BEGIN SOLUTION") == cells[place].source.count("### END SOLUTION") == 1


def test_there_are_18_exercises_and_each_has_a_wrong_answer():
    names = [path.stem for path in exercises.SOURCES]
    assert len(names) >= 18 and all(path.parent.name == path.stem for path in exercises.SOURCES)
    assert {path.parent.name for path in exercises.WRONG_ANSWERS} == set(names)


@pytest.mark.parametrize("name", [pytest.param(p.stem, marks=often_or_slow(p.stem)) for p in exercises.SOURCES])
def test_a_solution_passes_its_checks(name):
    exercises.run(name)


@pytest.mark.parametrize("path", [
    pytest.param(path, marks=often_or_slow(path.parent.name), id=f"{path.parent.name} {path.stem}")
    for path in exercises.WRONG_ANSWERS
])  # fmt: skip
def test_a_wrong_answer_fails_the_check_behind_it_in_a_sentence(path):
    cell, text = exercises.wrong_answer(path)
    with pytest.raises(exercises.Failed) as failed:
        exercises.run(path.parent.name, {cell: text})
    assert failed.value.cell == f"{cell}-check"
    error = failed.value.__cause__
    assert isinstance(error, AssertionError) and str(error).endswith((".", "?")), repr(error)


def test_groups_of_a_right_division_may_be_tuples():
    exercises.run("02_two_ranks", {"least-padding": "least_padding = [(2, 2, 3), (4, 8, 9)]",
                                   "least-waiting": "least_waiting = ((9, 2, 2), (8, 4, 3))"})  # fmt: skip


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of the course in which nbgrader has released everything, and a call of nbgrader in it."""
    if not NBGRADER.is_file():
        pytest.skip("nbgrader is not installed: make test-long installs it")
    folder = tmp_path_factory.mktemp("course")
    shutil.copy(exercises.COURSE / "nbgrader_config.py", folder)
    shutil.copytree(exercises.COURSE / "source", folder / "source")

    def nbgrader(*arguments):
        # it calls alembic by its name
        kept = {**os.environ, "LONGALIGN_ROOT": str(paths.root()), "PATH": f"{NBGRADER.parent}:{os.environ['PATH']}"}
        done = subprocess.run([NBGRADER, *arguments], cwd=folder, env=kept, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    nbgrader("generate_assignment", "*")
    nbgrader("generate_solution", "*")
    return folder, nbgrader


@pytest.mark.slow
def test_a_released_exercise_has_no_solution_and_no_hidden_test(course):
    folder, _ = course
    for path in exercises.SOURCES:
        student, solution = (
            (folder / step / path.stem / path.name).read_text(encoding="utf-8") for step in ("release", "solution")
        )
        assert not {"SOLUTION", "HIDDEN TESTS"} & set(student.split()) and "NotImplementedError" in student
        assert "NotImplementedError" not in solution


def submit(folder, student, exercise, answers):
    """A released notebook, filled in as a student does it."""
    notebook = nbformat.read(folder / "release" / exercise / f"{exercise}.ipynb", as_version=4)
    for cell in notebook.cells:
        if exercises.of_nbgrader(cell).get("solution"):
            cell.source = answers[cell.id]
    target = folder / "submitted" / student / exercise
    target.mkdir(parents=True)
    nbformat.write(notebook, target / f"{exercise}.ipynb")


@pytest.mark.slow
def test_nbgrader_gives_a_good_submission_all_points_and_a_bad_one_fewer(course, tmp_path):
    folder, nbgrader = course
    exercise = OFTEN[0]
    right = {cell.id: cell.source for cell in exercises.code_cells(exercises.source(exercise))}
    wrong = next(path for path in exercises.WRONG_ANSWERS if path.parent.name == exercise)
    cell, text = exercises.wrong_answer(wrong)
    submit(folder, "good", exercise, right)
    submit(folder, "bad", exercise, {**right, cell: text})
    nbgrader("autograde", exercise)
    nbgrader("export", f"--to={tmp_path / 'grades.csv'}")
    grades = pd.read_csv(tmp_path / "grades.csv").query("assignment == @exercise").set_index("student_id")
    points = {of["grade_id"]: of["points"] for of in map(exercises.of_nbgrader, exercises.code_cells(
        exercises.source(exercise))) if of.get("grade")}  # fmt: skip
    assert grades.score["good"] == grades.max_score["good"] == sum(points.values())
    assert grades.score["bad"] == sum(points.values()) - points[f"{cell}-check"]
