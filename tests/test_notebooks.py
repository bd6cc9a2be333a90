"""Notebooks: sources are clean and teach in short cells; all of them run in the smoke profile, through make."""

import ast
import re

import nbformat
import pandas as pd
import pytest

from longalign.common import paths
from longalign.reproduction.parameters import declared_parameters
from maketool import make, with_this_python

NOTEBOOKS = paths.notebook_files()
LONGEST_CELL = 25

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@each_notebook
def test_a_source_notebook_carries_no_outputs_and_is_valid(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@each_notebook
def test_a_notebook_begins_with_its_title_and_has_one_typed_parameters_cell(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown" and re.match(r"# \S", notebook.cells[0].source)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(statement, ast.AnnAssign) for statement in statements), "each parameter has its type"
    assert "profile" in declared_parameters(notebook)


@each_notebook
def test_every_parameter_of_a_notebook_is_used(path):
    declared = declared_parameters(nbformat.read(path, as_version=4))
    names = [n.id for c in code_cells(path) for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.Name)]
    assert all(names.count(name) > 1 for name in declared), "once it is declared, and then it must count"


@each_notebook
def test_a_notebook_prints_the_versions_it_ran_with(path):
    assert any("versions(" in cell.source for cell in code_cells(path))


@each_notebook
def test_a_code_cell_has_at_most_25_lines(path):
    longest = max(code_cells(path), key=lambda cell: cell.source.count("\n"))
    assert longest.source.count("\n") < LONGEST_CELL, longest.source.splitlines()[0]


@each_notebook
def test_a_notebook_names_no_path_of_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|var|opt|mnt)/\w+", text)


def wrong_references(text):
    """What refers to a notebook by its bare number, and names of notebooks and exercises that do not exist."""
    names = {path.stem for path in (*NOTEBOOKS, *(paths.root() / "course" / "source").glob("*/*.ipynb"))}
    bare = re.findall(r"\bnotebooks?\s+\d\d\b", text, flags=re.IGNORECASE)
    return [*bare, *(name for name in re.findall(r"(?<![\w.-])\d\d[a-z]?_[a-z]\w\w+", text) if name not in names)]


@each_notebook
def test_a_notebook_refers_to_others_by_names_that_exist(path):
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert not [wrong for source in sources for wrong in wrong_references(source)]


def test_readme_ledger_and_library_refer_to_notebooks_by_names_that_exist():
    root = paths.root()
    modules = [path for folder in ("lib", "benchmarks") for path in (root / folder).rglob("*.py")]
    texts = [root / "README.md", root / "claims.yaml", *sorted((root / "docs").rglob("*.md")), *modules]
    found = {path.name: wrong_references(path.read_text(encoding="utf-8")) for path in texts}
    assert not {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("as in notebook 05", ["notebook 05"]),
        ("Notebooks\n13 to 16 train", ["Notebooks\n13"]),
        ("see `05_data_scales`", ["05_data_scales"]),
        ("see `05_data_scale`, written to 05_data_scale.json by 13 notebooks", []),
    ],
)
def test_a_bare_number_and_an_unknown_name_are_found(text, wrong):
    assert wrong_references(text) == wrong


@each_notebook
def test_a_notebook_uses_no_widgets(path):
    assert "ipywidgets" not in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_notebooks_run_in_the_smoke_profile_and_a_second_make_runs_none(tmp_path):
    first = make("smoke", *with_this_python(tmp_path))
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    copies = sorted((tmp_path / "run" / "smoke" / "notebooks").glob("*.ipynb"))
    assert [copy.name for copy in copies] == [path.name for path in NOTEBOOKS]
    for copy in copies:
        assert all(cell.execution_count for cell in code_cells(copy) if cell.source.strip()), copy.name
        drawing = [cell for cell in code_cells(copy) if "style.draw(" in cell.source]
        if copy.stem == "22_gpu" and not list(paths.results().glob("gpu/*/gpu.csv")):
            drawing = []  # no run on a GPU is committed
        assert all(any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in drawing), copy.name
        record = tmp_path / "run" / "smoke" / f"{copy.stem}.json"
        assert record.is_file(), f"{copy.name} ends by writing its record"
    second = make("smoke", *with_this_python(tmp_path))
    assert second.returncode == 0 and " starts" not in second.stdout and "nothing to do" in second.stdout


def opening(path):
    return "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells[:3])


@each_notebook
def test_a_notebook_says_first_what_one_learns_what_one_needs_and_how_long_it_takes(path):
    assert re.search(r"\*\*You will know\*\*.+\*\*You need\*\*.+\*\*It takes\*\*", opening(path), flags=re.DOTALL)
    measured = pd.read_csv(paths.results() / "durations.csv").set_index("notebook")
    minutes, gigabytes = re.search(r"about (\d+) minutes? and ([\d.]+)\s+GB", opening(path)).groups()
    if path.stem in measured.index:
        row = measured.loc[path.stem]
        assert max(1, row.seconds / 60) / 2 <= int(minutes) <= 2 * max(1, row.seconds / 60)
        assert row.peak_memory_mb / 1024 / 2 <= float(gigabytes) <= 2 * row.peak_memory_mb / 1024


@each_notebook
def test_a_notebook_asks_for_two_or_three_predictions_and_compares_each(path):
    cells = nbformat.read(path, as_version=4).cells
    asked = [number for number, cell in enumerate(cells) if "**Predict before you run.**" in cell.source]
    assert 2 <= len(asked) <= 3
    for number in asked:
        assert cells[number].cell_type == "markdown"
        (name,) = re.findall(r"^(my_\w+) = None  # ", cells[number + 1].source)
        later = "\n".join(cell.source for cell in cells[number + 2 :] if cell.cell_type == "code")
        assert re.search(rf"lesson\.compare\(\s*{name}, ", later), f"{name} is compared with nothing"


@each_notebook
def test_a_notebook_ends_with_what_was_learned_in_computed_numbers_and_what_it_cannot_show(path):
    cells = nbformat.read(path, as_version=4).cells
    (start,) = [number for number, cell in enumerate(cells) if cell.source.startswith("## What we learned")]
    learned, rest = cells[start + 1], "\n".join(cell.source for cell in cells[start:] if cell.cell_type == "markdown")
    assert learned.cell_type == "code" and "**What this cannot show.**" in rest
    printed = [call for call in ast.walk(ast.parse(learned.source)) if isinstance(call, ast.Call)]
    numbers = [node for call in printed for node in ast.walk(call) if isinstance(node, ast.FormattedValue)]
    assert len(numbers) >= 2, "numbers are computed, not typed"
    assert cells[-1].cell_type == "code" and start >= len(cells) - 5, "only the record comes after it"


GREEK = "alpha beta delta Delta eta lambda rho tau theta".split()


def symbols_in(text):
    """The symbols of the maths in a text: single letters and Greek names; words and operators are none.

    Indices of two letters and more are words, and code is no maths.
    """
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    found = set()
    for long, short in re.findall(r"\$\$(.+?)\$\$|\$((?:[^$\n]|\n(?!\n))+?)\$", text, flags=re.DOTALL):
        maths = re.sub(r"\\(?:text|texttt|operatorname|mathbb)\{[^}]*\}|_\{?[a-z]{2,}\}?", " ", long or short)
        found |= {f"\\{name}" for name in re.findall(r"\\([a-zA-Z]+)", maths) if name in GREEK}
        found |= set(re.sub(r"\\[a-zA-Z]+|[^A-Za-z]", "", maths.replace("MS", "")))
    return found


OVERVIEW = nbformat.read(paths.notebooks() / "00_overview.ipynb", as_version=4)
SYMBOLS = next(cell.source.splitlines() for cell in OVERVIEW.cells if cell.id == "symbols")
SHARED = symbols_in("\n".join(line.split("|")[1] for line in SYMBOLS if line.startswith("| $")))


@each_notebook
def test_every_symbol_of_a_notebook_is_in_the_table_of_the_overview(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown" and c.id != "symbols"]
    used = set().union(*(symbols_in(cell.source) for cell in cells))
    own = symbols_in("\n".join(line for line in SYMBOLS if line.startswith(f"| `{path.stem}`")))
    assert not used - SHARED - own, "a symbol that the table lacks"
    assert not own - SHARED - used, "a symbol that the table has for nothing"


def test_the_page_of_symbols_has_the_rows_of_the_overview():
    lines = (paths.root() / "docs" / "learn" / "notation.md").read_text(encoding="utf-8").splitlines()
    page, shared = ([line for line in text if line.startswith("| $")] for text in (lines, SYMBOLS))
    assert page == shared


def test_letters_of_maths_are_found_and_words_and_code_are_not():
    text = "an $x$ of $$\\sum_i L_i / N_{in} \\text{ if } \\rho > 0$$ costs `$5 y$`"
    assert symbols_in(text) == {"x", "i", "L", "N", "\\rho"}
