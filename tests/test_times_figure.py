"""The figures of training time say what their CSV says, and name what is simulated and what is the paper's."""

import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from longalign.common.provenance import write_csv
from longalign.report.figures import style

SECONDS = {"naive": 12.0, "sorted": 6.0, "packing": 4.0, "packing + loss weighting": 4.0}
TASKS = [
    "one process", "two processes", "two processes (simulated)", "8 devices (simulated)",
    "8 devices, ZeRO-3 (simulated)", "64 devices (simulated)", "64 devices, ZeRO-3 (simulated)",
]  # fmt: skip


def rows():
    """Two models and the FLOP model; the speed against naive is that of SECONDS everywhere."""
    common = {"experiment": "times", "seed": 0, "length": 0}
    for model in ("mini-13b", "mini-6b", "Llama-2-7B (FLOPs)"):
        for task in TASKS if model.startswith("mini") else TASKS[3:]:
            for arm, seconds in SECONDS.items():
                place = {**common, "arm": arm, "model": model, "task": task}
                taken = seconds * (2 if model == "mini-13b" else 1)
                yield {**place, "metric": "seconds", "value": taken}
                yield {**place, "metric": "speed against naive", "value": 12.0 / seconds}
                if task == "two processes":  # a second seed, which took two seconds more
                    yield {**place, "seed": 1, "metric": "seconds", "value": taken + 2}


@pytest.fixture
def drawn(tmp_path, request):
    write_csv(tmp_path / "times.csv", rows())
    figure = style.draw(request.param, tmp_path)
    yield figure
    style.plt.close(figure)


@pytest.fixture
def composed(tmp_path):
    common = {"experiment": "composed_times", "length": 0, "metric": "seconds"}
    write_csv(tmp_path / "composed_times.csv", [
        {**common, "arm": arm, "model": model, "seed": seed, "task": task, "value": seconds * factor + seed}
        for model in ("mini-13b", "mini-6b") for arm, seconds in SECONDS.items() for seed in (0, 2)
        for task, factor in (("8 composed ranks", 1), ("8 composed ranks, ZeRO-3", 2), ("2 composed ranks", 5))
    ])  # fmt: skip
    figure = style.draw("composed_times", tmp_path)
    yield figure
    style.plt.close(figure)


def of_kind(kind, axes):
    return [container for container in axes.containers if isinstance(container, kind)]


@pytest.mark.parametrize("drawn", ["times"], indirect=True)
def test_bars_are_the_seconds_of_each_model_and_the_papers_hours_have_their_own_axis(drawn):
    one, two, paper = drawn.axes
    assert [label.get_text() for label in one.get_xticklabels()] == ["mini-6b", "mini-13b"]
    assert [bar.get_height() for bar in of_kind(BarContainer, one)[0]] == [12.0, 24.0], "naive, smaller model first"
    assert [bar.get_height() for bar in of_kind(BarContainer, two)[2]] == [5.0, 9.0], "packing, mean over two seeds"
    (spans,) = of_kind(ErrorbarContainer, two)[2].lines[2]
    lengths = [span[1, 1] - span[0, 1] for span in spans.get_segments()]
    assert lengths == pytest.approx([2 * 12.7062] * 2, rel=1e-4), "t interval of two seeds that differ by 2"
    assert paper.get_ylabel() == "hours (paper)" and one.get_ylabel() == "seconds an epoch"
    heights = [[bar.get_height() for bar in bars] for bars in paper.containers]
    assert heights == [[45.4, 67.2, 117.2], [19.1, 23.3, 44.5], [20.5, 23.4, 41.2]]
    assert not one.get_shared_y_axes().joined(one, paper)


@pytest.mark.parametrize("drawn", ["times_devices"], indirect=True)
def test_lines_lead_from_what_was_measured_to_what_is_simulated_and_say_so(drawn):
    here, there, measured = drawn.axes
    lines = {line.get_label(): line for line in here.lines}
    assert lines["packing, measured"].get_xdata().tolist() == [1, 2]
    assert lines["packing, wait at each micro-step"].get_xdata().tolist() == [2, 8, 64]
    assert set(lines["packing, wait once a step"].get_ydata()) == {3.0}
    assert set(lines["sorted, measured"].get_ydata()) == {2.0}
    assert "simulated" in here.get_title() and "simulated" in there.get_title()
    paper = next(line for line in measured.lines if line.get_label() == "packing, measured")
    assert "paper" in measured.get_title()
    assert list(paper.get_ydata()) == pytest.approx([45.4 / 20.5, 67.2 / 23.4, 117.2 / 41.2])
    assert "packing, measured" not in {line.get_label() for line in there.lines}


def test_composed_bars_are_means_over_seeds_by_how_often_ranks_wait_and_named_as_composed(composed):
    often, once, paper = composed.axes
    heights = [[bar.get_height() for bar in of_kind(BarContainer, axes)[0]] for axes in (often, once)]
    assert heights == [[25.0, 25.0], [13.0, 13.0]], "naive"
    assert [bar.get_height() for bar in of_kind(BarContainer, often)[1]] == [13.0, 13.0], "sorted"
    assert "each micro-step" in often.get_title() and "once a step" in once.get_title()
    assert paper.get_ylabel() == "hours (paper)"
    (legend,) = composed.legends
    assert legend.get_title().get_text() == "here: measured micro-batches, composed ranks"
