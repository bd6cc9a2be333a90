"""A store gives back what was written, is whole or refused, and needs the memory of one sample."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import Encoded
from longalign.data.jsonl import DataError
from longalign.data.store import TokenStore, write_store
from longalign.data.store_writer import manifest_checksum


def sequence(ids, targets):
    ids = np.array(ids, dtype=np.int32)
    return Encoded(ids, np.where(np.array(targets, dtype=bool), ids, np.int32(IGNORE_INDEX)))


class Features(torch.utils.data.Dataset):
    """The rows of a store as lists, for a DataLoader."""

    def __init__(self, store):
        self.store = store

    def __len__(self):
        return len(self.store)

    def __getitem__(self, index):
        return [self.store[index][name].tolist() for name in ("input_ids", "labels")]


@pytest.fixture
def three(tmp_path):
    """The store of lengths 2, 4, 3, with token id 0 in it, position 0 labelled in the last."""
    sequences = [sequence([5, 0], [0, 1]), sequence([0, 0, 7, 0], [0, 0, 1, 1]), sequence([1, 2, 3], [1, 1, 1])]
    return write_store(tmp_path / "store", sequences, meta={"note": "lengths 2, 4, 3"})


def test_lengths_2_4_3_are_written_and_read_back(three):
    assert len(three) == 3
    assert three.offsets.tolist() == [0, 2, 6, 9]
    assert three.lengths.tolist() == [2, 4, 3]
    assert three.target_counts.tolist() == [1, 2, 2], "position 0 of the last never counts"
    assert three[1]["input_ids"].tolist() == [0, 0, 7, 0]
    assert three[1]["labels"].tolist() == [-100, -100, 7, 0]
    assert three[-1]["labels"].tolist() == [1, 2, 3]
    assert three[0]["input_ids"].dtype == three[0]["labels"].dtype == np.int32
    assert (three.manifest["tokens"], three.manifest["targets"], three.manifest["note"]) == (9, 5, "lengths 2, 4, 3")
    three[0]["input_ids"][0] = 99
    assert three[0]["input_ids"][0] == 5, "what is read may be written to without touching the store"
    for index in (3, -4):
        with pytest.raises(IndexError):
            three[index]


@given(
    rows=st.lists(
        arrays(np.int32, st.integers(1, 30), elements=st.integers(0, 2**31 - 1)).flatmap(
            lambda ids: st.tuples(st.just(ids), arrays(bool, len(ids)))
        ),
        max_size=6,
    )
)
def test_any_sequences_come_back_as_they_were(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any") / "deep" / "store"
    sequences = [sequence(ids, targets) for ids, targets in rows]
    store = write_store(folder, iter(sequences), meta={})
    assert len(store) == len(rows)
    for index, expected in enumerate(sequences):
        assert store[index]["input_ids"].tolist() == expected.input_ids.tolist()
        assert store[index]["labels"].tolist() == expected.labels.tolist()
        assert store.target_counts[index] == (expected.labels[1:] != IGNORE_INDEX).sum()
    TokenStore(folder, verify=True)


def test_the_hash_is_of_the_content_and_not_of_the_place(three, tmp_path):
    rows = [Encoded(**three[i]) for i in range(3)]
    assert write_store(tmp_path / "other", rows, meta={"note": "?"}).sha256 == three.sha256
    changed = rows[:2] + [sequence([1, 2, 3], [0, 1, 1])]
    assert write_store(tmp_path / "changed", changed, meta={}).sha256 != three.sha256
    regrouped = [sequence([5, 0, 0, 0, 7, 0], [0, 1, 0, 0, 1, 1]), rows[2]]
    assert write_store(tmp_path / "regrouped", regrouped, meta={}).sha256 != three.sha256


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        ([], [], "sequence 1: .* labels"),
        ([1, 2], [-100, 3], "sequence 1: .* labels must be its own tokens"),
        ([1, 2], [-100], "sequence 1: .* labels"),
        ([1, -2], [-100, -100], "sequence 1: token ids"),
        ([1, 2**31], [-100, -100], "sequence 1: token ids"),
    ],
)
def test_a_sequence_that_cannot_be_stored_is_an_error_and_leaves_nothing(tmp_path, ids, labels, message):
    bad = Encoded(np.array(ids, dtype=np.int64), np.array(labels, dtype=np.int64))
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "store", [sequence([1], [0]), bad], meta={})
    assert list(tmp_path.iterdir()) == []


# --- damage -----------------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def edit_manifest(path):
    path.write_text(path.read_text().replace('"targets": 5', '"targets": 6'))


def flip_last_byte(path):
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("tokens.bin", truncate, "tokens.bin: damaged token store .it holds 35 bytes instead of 36"),
        ("targets.bin", lambda path: path.unlink(), "targets.bin: damaged token store .it is missing"),
        ("offsets.npy", flip_last_byte, "offsets.npy: damaged token store .its sha256 differs"),
        ("manifest.json", edit_manifest, "manifest.json: damaged token store .it was edited"),
        ("manifest.json", truncate, None),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest.json: damaged token store .it is no manifest"),
        ("manifest.json", lambda path: path.write_bytes(b"\xff"), "manifest.json: damaged token store"),
        ("manifest.json", lambda path: path.unlink(), "store: not a token store .manifest.json: no such file"),
    ],
)
def test_a_damaged_store_is_refused_by_name(three, name, damage, message):
    damage(three.folder / name)
    if message is None:  # the manifest's last byte is a line feed: nothing of it is lost
        assert len(TokenStore(three.folder)) == 3
        truncate(three.folder / name)
        message = "manifest.json: damaged token store .it is no manifest"
    with pytest.raises(DataError, match=message):
        TokenStore(three.folder)


@pytest.mark.parametrize("left_out", ["files", "offsets.npy", "tokens"])
def test_a_whole_manifest_that_lacks_what_a_store_has_is_refused(three, left_out):
    path = three.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    (manifest["files"] if left_out in manifest["files"] else manifest).pop(left_out)
    path.write_text(json.dumps(manifest | {"manifest_sha256": manifest_checksum(manifest)}))
    with pytest.raises(DataError, match=f"manifest.json: damaged token store .it does not .*{left_out}"):
        TokenStore(three.folder)


@pytest.mark.parametrize("name", ["tokens.bin", "targets.bin"])
def test_a_file_that_becomes_shorter_while_the_store_is_open_is_refused_by_name(three, name):
    truncate(three.folder / name)
    assert three[1]["input_ids"].tolist() == [0, 0, 7, 0]
    with pytest.raises(DataError, match=f"{name}: damaged token store .it has become shorter; tokenize again"):
        three[2]


def test_a_store_that_was_replaced_or_removed_while_it_is_open_still_gives_what_it_held(three):
    write_store(three.folder, [sequence([1], [0])], meta={})
    assert three[1]["input_ids"].tolist() == [0, 0, 7, 0]
    shutil.rmtree(three.folder)
    assert three[2]["labels"].tolist() == [1, 2, 3]


def test_forked_processes_and_those_that_unpickle_read_the_same(three):
    expected = [[row["input_ids"].tolist(), row["labels"].tolist()] for row in three]
    for method in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            Features(three), batch_size=None, num_workers=2, multiprocessing_context=method
        )
        assert list(loader) == expected
    assert len(pickle.dumps(three)) < 500, "a pickled store is its name"


def test_a_store_that_was_written_over_is_not_opened_in_the_place_of_the_one_that_was_pickled(three):
    pickled = pickle.dumps(three)
    write_store(three.folder, [sequence([1], [0])], meta={})
    with pytest.raises(DataError, match="another store .this one was written over the one that is in use"):
        pickle.loads(pickled)


def test_a_store_that_goes_closes_its_files(three):
    before = len(os.listdir("/dev/fd"))
    stores = [TokenStore(three.folder) for _ in range(10)]
    assert len(os.listdir("/dev/fd")) == before + 20
    del stores
    assert len(os.listdir("/dev/fd")) == before


def test_a_changed_token_is_found_by_verify(three):
    flip_last_byte(three.folder / "tokens.bin")
    assert len(TokenStore(three.folder)) == 3
    with pytest.raises(DataError, match=r"tokens.bin: damaged token store .its sha256 differs"):
        TokenStore(three.folder, verify=True)


def test_writing_replaces_a_store_but_nothing_else(three, tmp_path):
    replaced = write_store(three.folder, [sequence([1], [0])], meta={})
    assert len(replaced) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for path in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(DataError, match="not a token store .it is there already"):
            write_store(path, [], meta={})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_failure_halfway_leaves_the_old_store_as_it_was(three, tmp_path):
    def breaks():
        yield sequence([1], [0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(three.folder, breaks(), meta={})
    assert TokenStore(three.folder, verify=True).sha256 == three.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


# --- memory -----------------------------------------------------------------------------------------------------------

SAMPLES, LENGTH = 300, 65536
DENSE = SAMPLES * LENGTH * 8  # bytes of one (300, 65536) int64 array: 150 MiB
MEASURE = """
import sys
import numpy as np
import psutil
from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.data.lengths import read_lengths

folder, samples, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
memory = []

def note():
    memory.append(psutil.Process().memory_info().rss)

def sequences(samples, length):
    for index in range(samples):
        ids = np.random.default_rng(index).integers(0, 50_000, length - index, dtype=np.int32)
        labels = np.where(np.arange(len(ids)) >= len(ids) - 100, ids, np.int32(-100))
        note()
        yield Encoded(ids, labels)

store = write_store(folder + "/store", sequences(3, 1000), meta={})
store[0]
memory.clear()
note()
store = write_store(folder + "/store", sequences(samples, length), meta={})
lengths, target_counts = read_lengths(store.folder)
tokens = 0
for index in range(len(store)):
    tokens += int((store[index]["labels"] >= 0).sum())
    note()
assert tokens == target_counts.sum() == 100 * samples
ragged = max(memory) - memory[0]
dense = np.ones((samples, length), dtype=np.int64)
note()
print(ragged, max(memory) - memory[0])
"""


def test_300_samples_of_64k_are_written_planned_and_read_in_the_memory_of_a_few(tmp_path):
    """The bound is a tenth of what a dense int64 array of the same data takes, and that array breaks it."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(SAMPLES), str(LENGTH)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ragged, dense = (int(number) for number in output.split())
    assert ragged < DENSE / 10, f"{ragged / 2**20:.0f} MiB"
    assert dense > 0.9 * DENSE
