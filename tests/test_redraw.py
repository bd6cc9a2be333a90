"""Pages from committed tables: every notebook that trains can be replayed, and shows the numbers of its tables."""

import io
import re
import subprocess

import nbformat
import pandas as pd
import pytest

from longalign.common import paths
from longalign.report.tables import primary, scores_by_seed
from longalign.reproduction import redraw
from longalign.reproduction.execute import prepare
from longalign.reproduction.parameters import declared_parameters

SOURCES = {path.stem: nbformat.read(path, as_version=4) for path in paths.notebook_files()}


def test_every_notebook_can_be_drawn_and_one_without_a_record_is_told():
    assert redraw.pages(sorted(SOURCES)) == (sorted(SOURCES), {})
    drawn, left = redraw.pages(["05_data_scale", "99_new"])
    assert drawn == ["05_data_scale"] and "no committed record: `make notebook NB=99`" in left["99_new"]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_notebook_trains_through_its_page_alone(name):
    code = "\n".join(cell.source for cell in SOURCES[name].cells if cell.cell_type == "code")
    assert not re.search(r"\bcrew\b|\.perform\(", code), "what a page trains and finishes is not done in a replay"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_notebook_with_a_page_has_the_parameter_its_name_and_the_banner(name):
    code = "\n".join(cell.source for cell in SOURCES[name].cells if cell.cell_type == "code")
    if "Page(" in code:
        assert f'Page("{name}", profile' in code and "replay=replay" in code and "page.banner()" in code
    assert ("Page(" in code) == (redraw.REPLAY in declared_parameters(SOURCES[name]))


def test_a_notebook_runs_with_the_profile_of_its_record_and_replays_where_it_can():
    assert redraw.command("05_data_scale")[-6:] == [
        "notebooks/05_data_scale.ipynb", "--profile", "laptop", "--with-parent", "-p", "replay=true",
    ]  # fmt: skip
    assert redraw.command("02_packing_and_attention")[-1] == "--with-parent"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_notebook_shows_the_reference_to_a_reader_and_computes_for_whoever_executes_it(name):
    if redraw.REPLAY in declared_parameters(SOURCES[name]):
        cells = {cell.id: cell.source for cell in SOURCES[name].cells}
        assert "replay: bool = True" in "\n".join(cells.values())
        assert name == "90_report" or cells["train-here"].splitlines()[:2] == [
            "train_here = False", "page = page.computing(train_here)"
        ]  # fmt: skip
        path = paths.notebooks() / f"{name}.ipynb"
        assert prepare(path, profile="smoke").parameters["replay"] is False
        assert prepare(path, profile="smoke", parameters={"replay": True}).parameters["replay"] is True


def test_where_one_notebook_fails_no_page_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    monkeypatch.setattr(redraw, "keep_pages", lambda *_: pytest.fail("a page was written"))
    for part in (redraw.claims, redraw.later):
        monkeypatch.setattr(part, "write", lambda _: None)
    with pytest.raises(ValueError, match="did not run to their end: 05_data_scale"):
        redraw.redraw(["05"])


def outputs(notebook, kind):
    found = [out.get("data", {}) for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    return [data[kind] for data in found if kind in data]


@pytest.mark.slow
def test_a_replayed_page_shows_the_numbers_of_the_committed_tables(tmp_path):
    tables = [path for pattern in ("*.csv", "*.json", "items/*.csv") for path in paths.results().glob(pattern)]
    before = {path: path.read_bytes() for path in tables}
    page = redraw.run(["16_lora"], tmp_path, 1)["16_lora.ipynb"]
    assert {path: path.read_bytes() for path in before} == before
    assert "Replay" in outputs(page, "text/markdown")[0]
    assert len(outputs(page, "image/png")) == 1
    shown = pd.read_html(io.StringIO(outputs(page, "text/html")[0]), header=[0, 1], index_col=0)[0]
    committed = pd.read_csv(paths.results() / "lora.csv")
    expected = scores_by_seed(committed).groupby(["arm", "column"]).value.mean()
    compared = 0
    for (_, arm), cells in shown.items():
        for column, text in cells.items():
            if (arm, column) in expected.index:
                number = float(str(text).split(" ")[0])
                assert number == pytest.approx(expected[arm, column], abs=0.051), (arm, column)
                compared += 1
    assert compared == len(expected)
    exact = primary(committed, "exact_match").groupby("arm").value.mean()
    assert exact["LoRA"] != exact["all weights"], "two arms that are told apart"
