"""What a notebook tells its reader: predictions are compared kindly, smoke's tables and figures carry their warning."""

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from longalign.common import paths
from longalign.experiments import lesson
from longalign.report.figures import style


@pytest.mark.parametrize(
    ("prediction", "told"),
    [(None, "you wrote down no prediction"), (4, "You said 4: close."), (3.0, "too low by 1."),
     (np.float64(8), "too high by 4."), ("4", "write a number"), (True, "write a number"),
     (float("nan"), "write a number")],
)  # fmt: skip
def test_a_prediction_is_compared_with_what_was_found(prediction, told, capsys):
    lesson.compare(prediction, 4.0, "the packs")
    line = capsys.readouterr().out
    assert line.startswith("the packs: 4") and told in line


@pytest.fixture
def shell(monkeypatch):
    """An IPython of its own, as a notebook's kernel has one."""
    shell = InteractiveShell()
    monkeypatch.setattr(lesson, "get_ipython", lambda: shell)
    return shell


def test_every_table_carries_the_warning_of_smoke_and_none_that_of_another_profile(shell):
    table = pd.DataFrame({"T": [2, 4, 3]})
    warned = "smoke: numbers mean nothing"
    for profile, expected in (("smoke", True), ("laptop", False)):
        lesson.begin(profile)
        for shown in (table, table["T"], table.style):
            data, _ = shell.display_formatter.format(shown)
            kinds = {"text/html", "text/plain"} & set(data) - ({"text/plain"} if shown is table.style else set())
            assert all((warned in data[kind]) == expected for kind in kinds), type(shown)
        assert "4" in shell.display_formatter.format(table)[0]["text/plain"]


def test_every_figure_of_smoke_carries_the_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    monkeypatch.setitem(style.FIGURES, "empty", lambda folder: style.plt.figure())
    for profile, count in (("smoke", 1), ("laptop", 0)):
        drawn = style.draw("empty", paths.run_dir(profile))
        assert [text.get_text() for text in drawn.texts] == ["smoke: numbers mean nothing"] * count
        style.plt.close(drawn)


def test_what_is_printed_quietly_is_in_the_log_that_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    with lesson.quietly("laptop", "03b_loop"):
        print("{'loss': 2.0}")
    assert capsys.readouterr().out.strip().endswith("laptop/logs/03b_loop.jobs.log")
    assert (tmp_path / "laptop" / "logs" / "03b_loop.jobs.log").read_text() == "{'loss': 2.0}\n"
