"""Lengths come from a store, from JSONL, from text; a large file is measured by processes side by side."""

import shutil

import numpy as np
import pytest

from chat_tokenizers import MARKED, assistant, byte_tokenizer, user, word_tokenizer
from longalign.data import lengths
from longalign.data.jsonl import DataError
from longalign.data.lengths import read_lengths
from longalign.data.tokenize_files import tokenize_jsonl
from rows import BAD, GOOD, write_rows

WORDS = word_tokenizer()


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


def test_a_file_in_parts_has_the_same_lengths_and_the_same_first_error(tmp_path, monkeypatch):
    rows = [{"messages": [user(" ".join(["w0"] * n)), assistant("w1 w2")]} for n in range(1, 90)]
    jsonl = write_rows(tmp_path / "data.jsonl", [*rows, b"", GOOD])
    expected = read_lengths(jsonl, tokenizer=WORDS, max_length=60)
    monkeypatch.setattr(lengths, "PART_BYTES", 1500)
    for workers in (1, 3):
        found = read_lengths(jsonl, tokenizer=WORDS, max_length=60, workers=workers)
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one, other) and one.dtype == np.int64
    write_rows(jsonl, [*rows, *BAD, *rows, b"[]"])
    with pytest.raises(DataError, match="data.jsonl, line 90: malformed JSON"):
        read_lengths(jsonl, tokenizer=WORDS, workers=3)
