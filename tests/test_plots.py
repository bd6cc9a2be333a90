"""Figures: drawn twice they are the same bytes, drawn from CSV only, without torch."""

import importlib
import subprocess
import sys

import pandas as pd
import pytest

from longalign.common.provenance import write_csv
from longalign.report import whole_tables
from longalign.report.figures import style as plots

LENGTHS = [{"method": m, "length": n, "exact_match": n / 10} for m in ("naive", "packing") for n in (2, 4, 3)]


@pytest.fixture
def example(monkeypatch):
    """A registry with one figure, which reads lengths.csv."""
    importlib.import_module("longalign.report.figures")  # before the registry is replaced, or they would enter this one
    monkeypatch.setattr(plots, "FIGURES", {})

    @plots.figure("example")
    def draw_example(data):
        table = pd.read_csv(data / "lengths.csv")
        drawn, axes = plots.plt.subplots()
        for method, style in plots.look(["naive", "packing"]).items():
            rows = table[table.method == method]
            axes.plot(rows.length, rows.exact_match, label=method, **style)
        axes.legend()
        return drawn

    return draw_example


def test_a_figure_drawn_twice_is_the_same_bytes(example, tmp_path):
    write_csv(tmp_path / "lengths.csv", LENGTHS)
    for folder in ("one", "two"):
        assert plots.draw_all(tmp_path, tmp_path / folder) == ["example"]
    for name in ("example.pdf", "example.png"):
        first = (tmp_path / "one" / name).read_bytes()
        assert first == (tmp_path / "two" / name).read_bytes() and len(first) > 1000


def test_another_table_is_another_figure(example, tmp_path):
    for folder, rows in (("one", LENGTHS), ("two", LENGTHS[1:])):
        write_csv(tmp_path / folder / "lengths.csv", rows)
        plots.draw("example", tmp_path / folder, tmp_path / folder)
    assert (tmp_path / "one" / "example.png").read_bytes() != (tmp_path / "two" / "example.png").read_bytes()


def test_a_figure_whose_table_is_missing_is_named_and_the_others_are_drawn(example, tmp_path, capsys):
    plots.figure("other")(lambda data: pd.read_csv(data / "absent.csv"))
    write_csv(tmp_path / "lengths.csv", LENGTHS)
    assert plots.draw_all(tmp_path, tmp_path / "out") == ["example"]
    assert "other: not drawn, absent.csv" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "told"), [
    ("method,length,value\nnaive,2,0.5\nnaive,2,0.7\n", "1 row more than once; the first: method naive"),
    ("method,length,value\nnaive,2,0.5\nnaive,4,nan\n", "lengths.csv, column value: 1 of 2 are no numbers"),
    ("method,length,value\nnaive,2,0.5\nnaive,4,inf\n", "lengths.csv, column value: 1 of 2 are no numbers"),
    ("method,length,value\nnaive,2,0.5\nnaive,4,half\n", "lengths.csv, column value: 1 of 2 are no numbers"),
    ("method,length,value\n", "lengths.csv has no rows"), ("", "lengths.csv cannot be read: No columns"),
    ("kind,share\nlong,0.5\nlong,0.2\n", "lengths.csv gives 1 row more than once; the first: kind long"),
])  # fmt: skip
def test_a_table_of_which_a_mean_would_hide_something_is_drawn_by_no_figure(text, told, example, tmp_path):
    plots.FIGURES.clear()
    plots.figure("damaged")(lambda data: whole_tables.read(data, "lengths"))
    write_csv(tmp_path / "lengths.csv", LENGTHS)
    assert len(whole_tables.read(tmp_path, "lengths")) == len(LENGTHS)
    (tmp_path / "lengths.csv").write_text(text)
    with pytest.raises(ValueError, match=f"damaged: .*{told}"):
        plots.draw_all(tmp_path, tmp_path / "out")


def test_two_figures_of_one_name_are_refused(example):
    with pytest.raises(ValueError, match="two figures called 'example'"):
        plots.figure("example")(example)


def test_names_are_told_apart_by_colour_and_by_marker():
    looks = plots.look([str(i) for i in range(8)]).values()
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 8


def test_drawing_all_figures_does_not_load_torch(tmp_path):
    code = (
        "import sys, pathlib; from longalign.report.figures import style; from longalign.common import paths;"
        "out = pathlib.Path(sys.argv[1]);"
        "style.draw_all(paths.results(), out); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
