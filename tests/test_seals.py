"""Seals: a folder that was changed, cut short or never finished is told from one that is as it was written."""

import os

import pytest

from longalign.common import checksums
from longalign.common.provenance import write_json


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(bytes(range(200)))
    (tmp_path / "events.jsonl").write_text("2\n4\n3\n")
    (tmp_path / ".lock").write_text("process 1")
    return tmp_path


def damage(file, how):
    data = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(data[:-1])
    elif how == "bit":
        data[-2] ^= 1
        file.write_bytes(data)
    elif how == "gone":
        file.unlink()


def test_a_sealed_folder_is_whole_until_a_file_changes(folder):
    assert not checksums.is_sealed(folder)
    checksums.seal(folder)
    assert checksums.is_sealed(folder)
    (folder / ".lock").write_text("process 2")
    (folder / "new.txt").write_text("what came later does not count")
    assert checksums.is_sealed(folder)


@pytest.mark.parametrize("how", ["cut", "bit", "gone"])
@pytest.mark.parametrize("name", ["model/weights.bin", "events.jsonl"])
def test_a_damaged_file_breaks_the_seal_and_the_record(folder, name, how):
    checksums.seal(folder)
    write_json(folder / "record.json", {"files": checksums.hashes(folder, "model", "events.jsonl"), "steps": 3})
    assert checksums.finished_record(folder)["steps"] == 3
    damage(folder / name, how)
    assert not checksums.is_sealed(folder) and checksums.finished_record(folder) is None


def test_a_change_of_equal_size_and_time_in_another_process_is_still_found(folder):
    """The memory of what was read is one process's own, and a rewritten file has another time."""
    checksums.seal(folder)
    assert checksums.is_sealed(folder)
    file = folder / "events.jsonl"
    before = file.stat().st_mtime_ns
    file.write_text("2\n4\n7\n")
    os.utime(file, ns=(before + 1, before + 1))
    assert not checksums.is_sealed(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"steps": 3}', "null"])
def test_a_record_that_is_torn_or_lists_no_files_is_none(folder, text):
    (folder / "record.json").write_text(text)
    (folder / checksums.SEAL).write_text(text)
    assert checksums.finished_record(folder) is None and not checksums.is_sealed(folder)
