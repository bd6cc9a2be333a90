"""Records: a file is whole or absent, the same rows are the same bytes, a record says where its numbers come from."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.common.provenance import (
    atomic,
    config_hash,
    hash_files,
    peak_memory_mb,
    versions,
    write_csv,
    write_json,
    write_record,
    write_text,
)  # fmt: skip
from longalign.experiments.profiles import load_profile


def test_an_atomic_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write("new, but not all of it")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_atomic_file_is_not_seen_before_it_is_whole(tmp_path):
    with atomic(tmp_path / "deep" / "a.bin", "wb") as file:
        file.write(b"\x00")
        assert not (tmp_path / "deep" / "a.bin").exists()
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"\x00"


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("x")
    assert write_text(tmp_path / "a", "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


@given(st.permutations([("naive", 2, 0.5), ("naive", 4, 1 / 3), ("packing", 3, None), ("packing", 10, float("nan"))]))
def test_the_order_of_the_rows_does_not_change_a_byte(tmp_path_factory, rows):
    rows = [dict(zip(("method", "length", "exact_match"), row, strict=True)) for row in rows]
    path = write_csv(tmp_path_factory.mktemp("csv") / "a.csv", rows)
    assert path.read_bytes() == (
        b"method,length,exact_match\nnaive,2,0.5\nnaive,4,0.333333\npacking,3,\npacking,10,\n"
    )


def test_rows_with_equal_keys_are_sorted_by_their_numbers(tmp_path):
    rows = [{"method": "naive", "loss": loss} for loss in (0.3, 0.1, 0.2)]
    assert write_csv(tmp_path / "a.csv", rows).read_text().split()[1:] == ["naive,0.1", "naive,0.2", "naive,0.3"]


def test_a_data_frame_and_its_rows_give_the_same_file(tmp_path):
    rows = [{"method": "naive", "n": np.int64(4), "x": np.float32(0.25)}, {"method": "naive", "n": 2, "x": 1e-9}]
    one, other = write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", pd.DataFrame(rows))
    assert one.read_bytes() == other.read_bytes() == b"method,n,x\nnaive,2,1e-09\nnaive,4,0.25\n"


def test_a_row_with_other_columns_is_refused_and_no_file_appears(tmp_path):
    with pytest.raises(ValueError, match=r"row 1 of a\.csv"):
        write_csv(tmp_path / "a.csv", [{"n": 2}, {"m": 4}])
    assert not os.listdir(tmp_path)


def test_a_table_without_rows_has_its_columns(tmp_path):
    assert write_csv(tmp_path / "a.csv", [], columns=["n", "x"]).read_text() == "n,x\n"


def test_json_knows_arrays_tuples_and_no_nan(tmp_path):
    path = write_json(tmp_path / "a.json", {"b": np.arange(2), "a": (np.float64("nan"), Path("x")), "c": np.int64(3)})
    assert json.loads(path.read_text()) == {"a": [None, "x"], "b": [0, 1], "c": 3}


def test_a_record_says_what_produced_its_results(tmp_path):
    profile = load_profile("smoke")
    path = write_record(
        tmp_path / "a.json", config=profile, results={"loss": 0.5}, seeds=[1, 0], data_hash="ab", claim="Eq. 4 = Eq. 2"
    )
    record = json.loads(path.read_text())
    assert record["results"] == {"loss": 0.5} and record["claim"] == "Eq. 4 = Eq. 2"
    assert record["config"] == profile.as_dict() and record["config_hash"] == config_hash(profile)
    assert record["seeds"] == [0, 1] and record["data_hash"] == "ab"
    assert record["versions"]["torch"] and record["hardware"]["cores"] >= 1
    assert record["wall_seconds"] >= 0 and record["peak_memory_mb"] > 1
    assert record["git"].keys() == {"commit", "dirty"}


def test_the_configuration_hash_follows_every_value_and_no_order():
    data = load_profile("smoke").as_dict()
    shuffled = dict(random.Random(0).sample(list(data.items()), len(data)))
    assert config_hash(shuffled) == config_hash(data)
    data["training"] = data["training"] | {"exponent": 1.0}
    assert config_hash(data) != config_hash(shuffled)


def test_the_hash_of_files_follows_contents_and_their_order_and_no_names(tmp_path):
    a, b, c = (write_text(tmp_path / name, text) for name, text in (("a", "2"), ("b", "43"), ("c", "2")))
    assert hash_files(a, b) == hash_files(c, b)
    assert len({hash_files(a, b), hash_files(b, a), hash_files(a), hash_files(b)}) == 4


def test_versions_leave_out_what_is_not_installed():
    assert versions(["numpy", "no-such-package"]).keys() == {"python", "numpy"}


def test_peak_memory_grows_with_what_a_process_takes():
    code = "from longalign.common.provenance import peak_memory_mb as p; b = p(); x = b'1' * 2**27; print(p() - b)"
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 100 < grown < 200
    assert peak_memory_mb() > 1


def test_recording_does_not_load_torch():
    code = "import sys, longalign.common.provenance as r; r.hardware(); r.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
