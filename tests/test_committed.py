"""The committed reference is clean: nothing of one machine, one hour or one account is in it, and pages show it."""

import json
import re

import nbformat
import pytest

from longalign.common import paths
from longalign.experiments.profiles import load_profile
from longalign.reproduction import verify
from test_repository import MEGABYTE, tracked

EXECUTED = sorted((paths.results() / "notebooks").glob("*.ipynb"))
SECRETS = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[abps]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{30,}|glpat-[\w-]{20,}|pypi-[\w-]{40,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|[?&]token=[0-9a-f]{16,}|\beyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}"
)
PLACES = re.compile(r"(?<![\w.:/])(/home|/root|/Users|/tmp|/var/folders|[A-Z]:\\Users)[/\\]\w+")

each_executed = pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_every_source_notebook_has_its_executed_copy():
    assert [p.name for p in EXECUTED] == [p.name for p in paths.notebook_files()]


@each_executed
def test_an_executed_notebook_is_whole_and_valid(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert path.stat().st_size < MEGABYTE, "larger ones are not shown on GitHub"
    for cell in cells(path):
        assert cell.execution_count or not cell.source.strip()
        assert not [output for output in cell.outputs if output.output_type == "error"]


@each_executed
def test_its_metadata_hold_no_time_no_place_no_widget_and_no_trace_of_the_engine(path):
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.source[:40]
        assert set(cell.metadata.get("tags", [])) <= {"parameters"}
        for output in cell.get("outputs", []):
            assert not [kind for kind in output.get("data", {}) if "widget" in kind]
    assert len([c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]) == 1


@each_executed
def test_every_figure_that_is_drawn_is_an_image_in_the_page(path):
    if path.stem == "22_gpu" and not list(paths.results().glob("gpu/*/gpu.csv")):
        pytest.skip("no run on a GPU is committed, so there is nothing to draw")
    for cell in cells(path):
        if "plots.draw(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source[:60]


@each_executed
def test_its_cells_are_those_of_the_source_but_for_the_parameters(path):
    source = paths.notebooks() / path.name
    ours, theirs = (
        [c.source for c in nbformat.read(p, as_version=4).cells if "parameters" not in c.metadata.get("tags", [])]
        for p in (path, source)
    )
    assert ours == theirs, "run `make reproduce` and `make reference` after a notebook was changed"


SCREEN = 40


@each_executed
def test_what_a_cell_prints_fits_on_a_screen(path):
    outputs = [out for cell in cells(path) for out in cell.outputs]
    texts = [out.text if out.output_type == "stream" else out.data.get("text/plain", "") for out in outputs
             if not {"text/html", "image/png"} & set(out.get("data", {}))]  # fmt: skip
    assert max((len(text.splitlines()) for text in texts), default=0) <= SCREEN, "a log or a table takes the rest"


def test_no_committed_file_of_the_reference_names_a_place_or_holds_a_secret():
    found = []
    for path in tracked():
        if path.is_relative_to(paths.results()) and path.suffix in {".json", ".csv", ".ipynb", ".html", ".jsonl"}:
            text = path.read_text(encoding="utf-8")
            found += [(path.name, m.group()[:40]) for m in (*PLACES.finditer(text), *SECRETS.finditer(text))]
    assert not found


def test_no_committed_text_holds_a_secret():
    kinds = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".ipynb", ""}
    texts = [path for path in tracked() if path.suffix in kinds and not path.is_relative_to(paths.results())]
    assert len(texts) > 50
    assert not [path.name for path in texts if SECRETS.search(path.read_text(encoding="utf-8", errors="replace"))]


@pytest.mark.parametrize(
    "secret",
    ["sk-" + "a1B2" * 6, "hf_" + "Ab1" * 10, "ghp_" + "x9" * 18, "AKIA" + "A1B2" * 4, "?token=" + "0f" * 12,
     "-----BEGIN RSA " + "PRIVATE KEY-----"],
)  # fmt: skip
def test_the_search_for_secrets_finds_each_kind(secret):
    assert SECRETS.search(json.dumps({"key": f"x {secret} y"}))


def test_the_search_for_places_finds_them_and_lets_addresses_be():
    assert PLACES.search("in /ho" + "me/anna/x") and PLACES.search('"/tm' + 'p/kernel-1/k"')
    assert not PLACES.search("https://example.org/home") and not PLACES.search("results/run")


def test_the_report_is_one_page_that_asks_no_network():
    text = (paths.results() / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', text)
    assert "the interval that decides" in text and "<img" in text
    prose = "".join(cell.source for cell in cells(paths.notebooks() / "90_report.ipynb", "markdown"))
    assert "$" not in prose, "nothing would draw a formula"


def test_every_record_has_the_settings_of_todays_profile_for_else_no_run_could_be_compared_with_it():
    settings = load_profile("laptop").as_dict()
    for record in paths.record_files(paths.results()):
        config = json.loads(record.read_text(encoding="utf-8"))["config"]
        assert not verify.differing(settings, config), record.name
