"""The page on GPUs: what is committed is drawn, card by card; with nothing committed it says so and still executes."""

import json

import nbformat
import pytest

from gpu_rows import CARD, add, row, whole
from longalign.common import paths
from longalign.report.figures import gpu as pages
from longalign.report.figures import style
from longalign.report.gpu_results import NEEDLE, exactness, figure_5, learning, read_cards, wide

STAGES = ("run", "exact", "ceilings", "kernels", "figure 5", "training", "learning", "needles", "the rest", "failed")
"""The tables of the page, a card each."""
NOTEBOOK = paths.notebooks() / "22_gpu.ipynb"


def panels(drawn):
    return {axes.get_title(): axes for axes in drawn.axes}


def execute(results, monkeypatch, capsys):
    """Run the notebook's code cells in this process on made-up results; returns what it printed and displayed."""
    monkeypatch.setattr(paths, "results", lambda: results)
    monkeypatch.setenv("LONGALIGN_RUNS", str(results / "runs"))
    shown = []
    names = {"display": shown.append}
    for cell in (cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"):
        exec(compile(cell.source, NOTEBOOK.name, "exec"), names)
    style.plt.close("all")
    return capsys.readouterr().out, shown, json.loads((results / "runs" / "laptop" / "22_gpu.json").read_text())


def test_with_nothing_committed_the_page_says_so_in_one_sentence_and_executes(tmp_path, monkeypatch, capsys):
    told, shown, record = execute(tmp_path, monkeypatch, capsys)
    assert "Nothing here has run on a GPU yet" in told and not shown
    assert record["results"] == {"cards": {}}


def test_the_page_shows_every_stage_with_its_card_and_what_failed(tmp_path, monkeypatch, capsys):
    whole(tmp_path / "gpu" / "h100")
    told, shown, record = execute(tmp_path, monkeypatch, capsys)
    assert "Nothing here" not in told and told.count(f"{CARD}, 2026-11-28") == len(shown) == len(STAGES)
    assert any("OutOfMemoryError" in table.to_string() for table in shown)
    assert record["results"] == {"cards": {CARD: {"date": "2026-11-28", "failed": 1}}}
    assert (tmp_path / "runs" / "laptop" / "figures" / "gpu.png").stat().st_size > 10_000


def test_a_stage_that_was_not_run_is_said_to_be_not_measured(tmp_path, monkeypatch, capsys):
    add(tmp_path / "gpu" / "h100", "ceilings", [row("ceilings", "8192", "copy", "rate", 3.0, "TB/s")])
    told, shown, _ = execute(tmp_path, monkeypatch, capsys)
    assert told.count(": not measured") == len(STAGES) - 2 and len(shown) == 2


@pytest.fixture
def drawn(tmp_path):
    whole(tmp_path / "gpu" / "h100")
    yield pages.gpu(tmp_path)
    style.plt.close("all")


def test_the_figure_has_a_panel_for_each_question_and_the_numbers_of_the_rows(drawn):
    found = panels(drawn)
    assert len(found) == 8 and drawn.subfigs[0].get_suptitle().startswith(f"{CARD}, 2026-11-28")
    exact, controls, line = found["exactness: share of the allowed distance"].lines
    assert sorted(exact.get_xdata()) == pytest.approx([0.2, 0.55, 0.95])
    assert list(controls.get_xdata()) == [20.0] and list(line.get_xdata()) == [1, 1]
    kernels, model, paper = found["Figure 5: times as fast as naive batching, 8 ranks"].lines
    assert list(kernels.get_xdata()) == [2.84, 2.61, 2.9] and set(model.get_xdata()) == {2.4}
    assert list(paper.get_xdata())[:2] == pytest.approx([67.2 / 23.3, 67.2 / 23.4])
    none, every = found["exact match by length of the document"].lines
    assert list(none.get_xdata()) == [4096, 16384, 32768, 65536] and every.get_ydata()[0] == 0.7


def test_each_card_has_a_page_of_its_own(tmp_path):
    whole(tmp_path / "gpu" / "h100")
    add(tmp_path / "gpu" / "h200", "ceilings", [row("ceilings", "8192", "copy", "rate", 4.3, "TB/s")], card="H200")
    drawn = pages.gpu(tmp_path)
    assert [page.get_suptitle().partition(",")[0] for page in drawn.subfigs] == [CARD, "H200"]
    assert all("not measured" in [text.get_text() for text in axes.texts] for axes in drawn.subfigs[1].axes)
    style.plt.close("all")


def test_without_a_card_there_is_no_figure_and_the_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gpu.csv"):
        style.draw("gpu", tmp_path)


def test_the_tables_name_case_system_backend_and_unit(tmp_path):
    (card,) = read_cards(whole(tmp_path / "h100").parent)
    table = wide(card, "kernels")
    assert table.index.names == ["case", "system", "backend"]
    assert table["time, forward + backward, s"].iloc[0] == "0.002"
    assert exactness(card).control.sum() == 1
    speeds = figure_5(card)
    assert speeds.error.iloc[0] == pytest.approx(2.4 / 2.84 - 1) and speeds.paper.isna().sum() == 1
    assert list(wide(card, "learning", without=("exact match", "needle"))) == ["speed, tokens/s"]
    assert wide(card, "nothing").empty and learning(card).length.max() == 65_536
    assert len(learning(card, NEEDLE)) == 2 * len(learning(card))
