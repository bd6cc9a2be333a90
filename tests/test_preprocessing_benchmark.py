"""The benchmark of preprocessing counts what it says it counts."""

import pytest
from benchmarks import common, preprocessing
from benchmarks.preprocessing import DENSE, TWO, dense, ours, write_samples

from longalign.data.store import TokenStore


def taken(**metrics):
    """Samples with these values, round by round."""
    rounds = zip(*metrics.values(), strict=True)
    return common.Samples(rounds=[dict(zip(metrics, values, strict=True)) for values in rounds])


def test_samples_hold_as_many_tokens_as_they_are_said_to(tmp_path):
    file = tmp_path / "2.jsonl"
    tokens = write_samples(file, 2)
    file.with_suffix(".tokens").write_text(f"{tokens}")
    assert ours(file, tmp_path / "store", 1) == TokenStore(tmp_path / "store").sha256
    file.with_suffix(".tokens").write_text(f"{tokens + 1}")
    with pytest.raises(RuntimeError, match=f"the store holds {tokens} tokens, the file {tokens + 1}"):
        ours(file, tmp_path / "store", 1)
    assert dense(file, tmp_path / "dense") == "2 rows"
    assert (tmp_path / "dense" / "labels.npy").stat().st_size == 128 + 2 * 65_536 * 8


def test_only_rows_of_one_length_are_extrapolated():
    assert preprocessing.SIZES == (200, 400), "600 MB more for 200 more"
    small = {TWO: taken(anonymous=[100, 300, 120]), DENSE: taken(anonymous=[600]), "none": taken(anonymous=[])}
    large = {TWO: taken(anonymous=[126]), DENSE: taken(anonymous=[1200]), "none": common.Samples(failure="why")}
    rows = [(row["system"], row["unit"], row["value"]) for row in preprocessing._growth(small, large)]
    assert rows == [(TWO, "ratio", 1.05), (DENSE, "ratio", 2.0), (DENSE, "MB", 1200 + 3 * 9600)]


def test_a_restart_costs_what_goes_beyond_the_work_that_was_not_kept():
    again, whole = taken(kept=[0.5, 0.6], cpu=[6, 5], time=[1, 1]), taken(cpu=[10, 10])
    row = preprocessing._restart(again, whole)[-1]
    assert (row["case"], row["metric"], row["n"]) == (f"killed at half of {preprocessing.SIZES[0]}", "beyond", 2)
    assert row["value"] == pytest.approx(0.1)
    failed = preprocessing._restart(common.Samples(failure="it was whole"), whole)[-1]
    assert failed["value"] is None and failed["note"] == "it was whole"
