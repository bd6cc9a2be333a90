"""A store gives back what was written, is whole or refused, and needs the memory of one sample."""

import io
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

from chat_tokenizers import MARKED, assistant, byte_tokenizer, user, word_tokenizer
from longalign.chat import Encoded, encode, tokenizer_hash
from longalign.jsonl import DataError
from longalign.shapes import IGNORE_INDEX
from longalign.store import TokenStore, write_store
from longalign.tokenizing import print_progress, read_lengths, tokenize_jsonl

WORDS = word_tokenizer()
GOOD = {"messages": [user("w0 w1"), assistant("w2 w0 w4")], "length": 11, "task": "lookup"}


def sequence(ids, targets):
    ids = np.array(ids, dtype=np.int32)
    return Encoded(ids, np.where(np.array(targets, dtype=bool), ids, np.int32(IGNORE_INDEX)))


def write_rows(path, rows):
    """JSON rows as lines; bytes as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


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


# --- from JSONL -------------------------------------------------------------------------------------------------------


def test_a_jsonl_file_becomes_a_store_that_knows_where_it_came_from(tmp_path):
    other = {"messages": [user("w7"), assistant("w0")], "extra": [1, {"键": "值"}]}
    jsonl = write_rows(tmp_path / "data.jsonl", [GOOD, b"", other])
    store = tokenize_jsonl(jsonl, WORDS, tmp_path / "store")
    for index, row in enumerate([GOOD, other]):
        expected = encode(row["messages"], WORDS)
        assert store[index]["input_ids"].tolist() == expected.input_ids.tolist()
        assert store[index]["labels"].tolist() == expected.labels.tolist()
        assert store.source_row(index, jsonl) == row
    assert store.lines[:, 0].tolist() == [1, 3]
    manifest = store.manifest
    assert manifest["source"]["name"] == "data.jsonl"
    assert (manifest["chat_format"], manifest["max_length"], manifest["dropped"]) == ("template", None, {})
    assert manifest["tokenizer_sha256"] == tokenizer_hash(WORDS)
    assert str(tmp_path) not in (store.folder / "manifest.json").read_text()
    with pytest.raises(DataError, match="another file"):
        store.source_row(0, write_rows(tmp_path / "short.jsonl", [GOOD]))
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        store.source_row(0, tmp_path / "nowhere")


def test_truncation_is_counted_in_the_manifest(tmp_path):
    long = {"messages": [user(" ".join(["w1"] * 100)), assistant("w2")]}
    store = tokenize_jsonl(write_rows(tmp_path / "a.jsonl", [long, GOOD, long]), WORDS, tmp_path / "s", max_length=50)
    assert store.lengths.tolist() == [50, 11, 50]
    assert (store.manifest["truncated_sequences"], store.manifest["truncated_tokens"]) == (2, 2 * (107 - 50))


BAD = {
    b'{"messages": [': "malformed JSON",
    b"[]": "not an object",
    b'{"message": 1}': "missing messages",
    json.dumps({"messages": [{"role": "human", "content": "w1"}]}).encode(): "unknown role",
    json.dumps({"messages": [user("w1")]}).encode(): "no assistant turn",
    json.dumps({"messages": [user("w1"), assistant("")]}).encode(): "empty answer",
    json.dumps({"messages": [user("w1 \ud800"), assistant("w1")]}).encode(): "lone surrogate",
    json.dumps({"messages": [user("w1"), assistant(" ".join(["w1"] * 99))]}).encode(): "no room for its answer",
    '{"messages": "grün"}'.encode("latin-1"): "not UTF-8",
}


@pytest.mark.parametrize(("raw", "reason"), BAD.items(), ids=BAD.values())
def test_a_bad_sample_stops_with_file_and_line_and_leaves_nothing(tmp_path, raw, reason):
    jsonl = write_rows(tmp_path / "data.jsonl", [GOOD, raw, GOOD])
    with pytest.raises(DataError, match=f"data.jsonl, line 2[,:].*{reason}") as error:
        tokenize_jsonl(jsonl, WORDS, tmp_path / "store", max_length=40)
    assert error.value.__cause__ is None
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_skipped_samples_are_counted_by_reason_printed_and_kept(tmp_path, capsys):
    rows = [GOOD, *BAD, b"[]", GOOD]
    jsonl = write_rows(tmp_path / "data.jsonl", rows)
    store = tokenize_jsonl(jsonl, WORDS, tmp_path / "store", max_length=40, skip_invalid=True)
    assert len(store) == 2
    assert store.lines[:, 0].tolist() == [1, len(rows)]
    assert store.manifest["dropped"] == dict.fromkeys(BAD.values(), 1) | {"not an object": 2}
    printed = capsys.readouterr().err
    assert "10 samples skipped (" in printed
    assert all(reason in printed for reason in BAD.values())
    skipped = [json.loads(line) for line in (store.folder / "skipped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in skipped] == list(range(2, len(rows)))
    assert [row["reason"] for row in skipped] == [*BAD.values(), "not an object"]
    assert [row["raw"].encode("utf-8", "surrogateescape") for row in skipped] == rows[1:-1]
    assert skipped[5]["field"] == "messages[1].content"
    TokenStore(store.folder, verify=True)


def test_a_file_of_which_nothing_remains_is_an_error_that_says_why(tmp_path):
    jsonl = write_rows(tmp_path / "data.jsonl", [b"[]", b"{", b"{"])
    with pytest.raises(
        DataError, match="no valid sample .*malformed JSON: 2, not an object: 1; the first: .*line 1: not an"
    ):
        tokenize_jsonl(jsonl, WORDS, tmp_path / "store", skip_invalid=True)
    with pytest.raises(DataError, match="nowhere.jsonl: cannot be read"):
        tokenize_jsonl(tmp_path / "nowhere.jsonl", WORDS, tmp_path / "store", skip_invalid=True)
    assert not (tmp_path / "store").exists()


def test_progress_is_told_after_every_sample_and_prints_plain_lines(tmp_path, monkeypatch):
    jsonl = write_rows(tmp_path / "data.jsonl", [GOOD] * 3)
    calls = []
    tokenize_jsonl(jsonl, WORDS, tmp_path / "store", progress=lambda *told: calls.append(told))
    assert [call[:2] for call in calls] == [(1, 11), (2, 22), (3, 33)]
    assert calls[-1][2] == 1.0
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    show = print_progress(every=0.0)
    show(10, 2000, 0.5)
    line = stream.getvalue()
    assert line.startswith("tokenize: 10 samples, ")
    assert "tokens/s, 50%, " in line and line.endswith(" s left\n")


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_lengths_of_a_store_of_jsonl_and_of_a_text_file_agree(tmp_path):
    rows = [{"messages": [user(" ".join(["w0"] * n)), assistant("w1 w2")], "length": n + 8} for n in (2, 4, 3)]
    jsonl = write_rows(tmp_path / "data.jsonl", rows)
    (tmp_path / "lengths.txt").write_text("10\n12\r\n\n 11 \n")
    store = tokenize_jsonl(jsonl, WORDS, tmp_path / "store")
    for source, options, counts in [
        (store.folder, {}, [3, 3, 3]),
        (jsonl, {"tokenizer": WORDS}, [3, 3, 3]),
        (jsonl, {}, None),
        (tmp_path / "lengths.txt", {}, None),
    ]:
        lengths, target_counts = read_lengths(source, **options)
        assert lengths.tolist() == [10, 12, 11] and lengths.dtype == np.int64
        assert counts is target_counts or target_counts.tolist() == counts
    shutil.copy(jsonl, tmp_path / "rows")
    assert read_lengths(tmp_path / "rows", max_length=11)[0].tolist() == [10, 11, 11]


@pytest.mark.parametrize("text", ["-4", "0", "4.5", "four", "1_000", "４", "9" * 30, "4 5", "\x00"])
def test_a_line_that_is_no_length_is_named(tmp_path, text):
    path = tmp_path / "lengths.txt"
    path.write_text(f"2\n{text}\n3\n", encoding="utf-8")
    with pytest.raises(DataError, match="lengths.txt, line 2: not a length"):
        read_lengths(path)


@pytest.mark.parametrize("length", [None, True, 0, -3, 2.0, "7", 2**70])
def test_rows_without_a_length_ask_for_a_tokenizer(tmp_path, length):
    jsonl = write_rows(tmp_path / "data.jsonl", [GOOD, {**GOOD, "length": length}])
    with pytest.raises(DataError, match="data.jsonl, line 2, field length: no length .*--tokenizer"):
        read_lengths(jsonl)


def test_what_holds_no_lengths_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "folder").mkdir()
    for name, message in [("empty.txt", "empty file"), ("folder", "not a token store"), ("nowhere", "cannot be read")]:
        with pytest.raises(DataError, match=message):
            read_lengths(tmp_path / name)
    with pytest.raises(DataError, match=r"data.jsonl, line 2, field messages\[1\].content: empty answer"):
        rows = [GOOD, {"messages": [user("w1"), assistant("")]}]
        read_lengths(write_rows(tmp_path / "data.jsonl", rows), tokenizer=byte_tokenizer(MARKED))


# --- memory -----------------------------------------------------------------------------------------------------------

SAMPLES, LENGTH = 300, 65536
DENSE = SAMPLES * LENGTH * 8  # bytes of one (300, 65536) int64 array: 150 MiB
MEASURE = """
import sys
import numpy as np
import psutil
from longalign.chat import Encoded
from longalign.store import write_store
from longalign.tokenizing import read_lengths

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
