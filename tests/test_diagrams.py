"""Diagrams for teaching: drawn without any table, readable, with the numbers of the recipe."""

import pytest

import longalign.report.figures  # noqa: F401  enters the figures
from longalign.report.figures import diagrams, style

NAMES = ("data_way", "pack_step_rank", "two_biases")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Every diagram by name, from an empty folder of tables."""
    drawn = {name: style.draw(name, tmp_path_factory.mktemp("empty")) for name in NAMES}
    yield drawn
    for figure in drawn.values():
        style.plt.close(figure)


def words(figure):
    return {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize("name", NAMES)
def test_no_two_texts_of_a_diagram_overlap_and_all_lie_inside(name, drawings):
    figure = drawings[name]
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) > 15
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_the_biases_are_those_of_notebook_03(drawings):
    told = words(drawings["two_biases"])
    assert {"pack 1  1/2", "pack 2  1/2", "a  1/8", "b  3/8", "c  1/2", "a  1/3", "b  1/3", "c  1/3"} <= told
    assert any("Eq. 3 gives 2.125, and Eq. 2 gives 2." in line for line in told)


def test_each_sequence_counts_one_third_on_the_way_of_the_data(drawings):
    assert {"1 target x 1/3 = 1/3", "3 targets x 1/9 = 1/3", "2 targets x 1/6 = 1/3"} <= words(drawings["data_way"])


def test_k_and_m_count_the_whole_step(drawings, tmp_path, monkeypatch):
    assert {"K = 4 packs", "M = 6 sequences (a to f)"} <= words(drawings["pack_step_rank"])
    monkeypatch.setattr(diagrams, "STEP", (((2, 4), (3,)),))
    drawn = style.draw("pack_step_rank", tmp_path)
    assert {"K = 2 packs", "M = 3 sequences (a to c)"} <= words(drawn)
    style.plt.close(drawn)
