"""Figures: each reads one small CSV and is the same bytes every time, in a process that never loads torch."""

import subprocess
import sys

import pandas as pd
import pytest

import longalign.report.figures  # noqa: F401  enters the figures
from longalign.common import paths
from longalign.common.provenance import write_csv
from longalign.report.figures import style

POSITIONS = list(enumerate("aabbbbccc"))
EXAMPLES = {
    "attention_mask": [
        {"query": t, "key": s, "query_sequence": b, "key_sequence": a, "attends": int(a == b and s <= t)}
        for t, b in POSITIONS for s, a in POSITIONS
    ],
    "batching": [
        {"method": method, "rank": rank, "micro_step": micro_step, "place": 0, "cost": (rank + micro_step + 1) / 4}
        for method in ("naive", "sorted", "packing") for rank in range(2) for micro_step in range(2)
    ],
    "loss_normalisation": [
        {"normalisation": name, "loss_error": -error, "gradient_error": error, "direction_error": error / 2}
        for name, error in (("Eq. 4", 0.0), ("Eq. 3", 0.4), ("token mean", 0.1))
    ],
    "weight_shares": [
        {"by": "target tokens", "bucket": bucket, "first": first, "rule": rule, "share": share}
        for first, bucket in ((1, "1-2"), (3, "3+")) for rule, share in (("a = 0", 0.5), ("a = 1", first / 4))
    ],
}  # fmt: skip
DRAW_TWICE = (
    "import sys; from longalign.report.figures import style; data, *folders = sys.argv[1:];"
    "[style.draw_all(data, folder) for folder in folders]; sys.exit('torch' in sys.modules)"
)

each_figure = pytest.mark.parametrize("name", EXAMPLES)


def test_every_figure_drawn_twice_is_the_same_bytes_and_loads_no_torch(tmp_path):
    for name, rows in EXAMPLES.items():
        write_csv(tmp_path / f"{name}.csv", rows)
    folders = [tmp_path / "one", tmp_path / "two"]
    command = [sys.executable, "-c", DRAW_TWICE, tmp_path, *folders]
    assert subprocess.run(list(map(str, command))).returncode == 0
    for file in (f"{name}.{kind}" for name in EXAMPLES for kind in ("pdf", "png")):
        first, second = ((folder / file).read_bytes() for folder in folders)
        assert first == second and len(first) > 1000, file


@each_figure
def test_a_figure_reads_the_csv_of_its_own_name_and_names_it_when_it_is_missing(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{name}.csv"):
        style.draw(name, tmp_path)


@each_figure
def test_other_numbers_are_another_figure(name, tmp_path):
    for folder, rows in (("all", EXAMPLES[name]), ("fewer", EXAMPLES[name][:-1])):
        write_csv(tmp_path / folder / f"{name}.csv", rows)
        style.plt.close(style.draw(name, tmp_path / folder, tmp_path / folder))
    drawn = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("all", "fewer")]
    assert drawn[0] != drawn[1]


def test_the_share_of_idle_time_in_a_panel_is_worked_out_by_hand(tmp_path):
    write_csv(tmp_path / "batching.csv", [
        {"method": "naive", "rank": 0, "micro_step": 0, "place": 0, "cost": 2.0},
        {"method": "naive", "rank": 1, "micro_step": 0, "place": 0, "cost": 4.0},
        {"method": "naive", "rank": 0, "micro_step": 1, "place": 0, "cost": 3.0},
    ])  # fmt: skip
    drawn = style.draw("batching", tmp_path)
    # the barriers fall at 4 and 7: two ranks have 14, of which 9 are work
    assert drawn.axes[0].get_title(loc="left") == "naive: 3 sequences, 36 % idle"
    style.plt.close(drawn)


def test_seeds_of_different_length_meet_at_the_same_share_of_the_steps(tmp_path):
    """Scores 2, 4, 3 of seed 0 and 1, 2, 3 of seed 1: halfway through, 4 / 3 and 2 / 3 of the final score."""
    rows = [
        {"arm": arm, "model": "mini-6b", "seed": seed, "task": task, "metric": metric, "step": step, "share": place / 2,
         "value": value}
        for seed, steps, values in ((0, (0, 112, 224), (2, 4, 3)), (1, (0, 107, 214), (1, 2, 3)))
        for place, (step, value) in enumerate(zip(steps, values, strict=True))
        for task, metric in (("chat-coding", "score"), ("multi-turn", "exact_match")) for arm in ("raw",)
    ]  # fmt: skip
    write_csv(tmp_path / "curves.csv", rows)
    figure = style.draw("learning_curves", tmp_path)
    for axes in figure.axes:
        (mean,) = (line for line in axes.lines if line.get_label() == "mean over seeds")
        assert mean.get_xdata().tolist() == [0, 0.5, 1] and mean.get_ydata() == pytest.approx([0.5, 1, 1])
    style.plt.close(figure)


@pytest.mark.parametrize("arms", [["equal epochs"], ["equal epochs", "equal steps"]])
def test_a_legend_names_what_is_drawn_and_nothing_else(arms, tmp_path):
    """`make headline` trains no arms of equal steps."""
    rows = pd.read_csv(paths.results() / "data_scale.csv")
    shown = rows[~rows.arm.str.endswith("equal steps") | ("equal steps" in arms)]
    shown.to_csv(tmp_path / "data_scale.csv", index=False)
    drawn = style.FIGURES["data_scale"](tmp_path)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == arms
    style.plt.close(drawn)
