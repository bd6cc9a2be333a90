"""A JSONL file becomes the same store by one process or many."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chat_tokenizers import assistant, byte_tokenizer, user
from longalign.cli import main
from longalign.data import jsonl, tokenize_files
from longalign.data.chat import encode, tokenizer_hash
from longalign.data.jsonl import DataError
from longalign.data.store import TokenStore
from longalign.data.tokenize_files import print_progress, tokenize_jsonl
from rows import BAD, GOOD, write_rows
from tokenized import WORDS, contents, quiet, sample


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
    store = tokenize_jsonl(write_rows(tmp_path / "a.jsonl", [long, GOOD, long]), WORDS, tmp_path / "s",
                           max_length=np.int64(50))  # fmt: skip
    assert store.lengths.tolist() == [50, 11, 50]
    assert store.manifest["max_length"] == 50
    assert (store.manifest["truncated_sequences"], store.manifest["truncated_tokens"]) == (2, 2 * (107 - 50))


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


def test_speed_is_that_of_the_last_seconds(monkeypatch):
    stream, clock = io.StringIO(), iter(range(0, 1000, 5))
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(tokenize_files.time, "monotonic", lambda: float(next(clock)))
    show = print_progress()
    for number in range(6):  # half of the file is there already; then 100 tokens a second
        show(number, 1_000_000 + 500 * number, 0.5 + 0.01 * number)
    assert stream.getvalue().splitlines()[-1] == "tokenize: 5 samples, 100 tokens/s, 55%, 225 s left"


# --- in parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 300, 2000])
@pytest.mark.parametrize("workers", [1, 3])
def test_parts_give_byte_for_byte_the_store_of_a_whole_file(tmp_path, parts_of, monkeypatch, size, workers):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 900)
    too_long = [b"x" * 899 + b"\r" + b"y" * 100 + b"\r", b" " * 900 + b"\r\r", json.dumps(sample(1, 400)).encode()]
    rows = [b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", *map(sample, range(15)), b"", b" \t", *BAD, *too_long,
            b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), sample(3, 60), GOOD, b"", *map(sample, range(15)), b"", b"\r",
            json.dumps(GOOD).encode("utf-8") + b"\n\n\n"]  # fmt: skip
    file = write_rows(tmp_path / "data.jsonl", rows)
    options = {"max_length": 40, "skip_invalid": True, "progress": quiet}
    whole = tokenize_jsonl(file, WORDS, tmp_path / "whole", **options)
    assert whole.manifest["dropped"] == dict.fromkeys(BAD.values(), 1) | {"line too long": 3, "malformed JSON": 2}
    asked = parts_of(size)
    store = tokenize_jsonl(file, WORDS, tmp_path / "store", workers=workers, **options)
    assert len(asked) > 1 and set(asked) == {None}
    assert contents(store) == contents(whole)
    assert store.sha256 == whole.sha256
    assert store.source_row(len(store) - 1, file) == GOOD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "store", "whole"]


@pytest.mark.parametrize(("raw", "reason"), BAD.items(), ids=BAD.values())
def test_the_first_bad_sample_in_the_file_is_the_error_also_when_a_later_part_is_sooner_done(
    tmp_path, parts_of, raw, reason
):
    slow, later = [sample(0, 35)] * 40, [b"[]", *[GOOD] * 9]
    file = write_rows(tmp_path / "data.jsonl", [*slow, b"", raw, b"", *[GOOD] * 5, *later * 3])
    parts_of(8000)
    with pytest.raises(DataError, match=f"data.jsonl, line 42[,:].*{reason}") as error:
        tokenize_jsonl(file, WORDS, tmp_path / "store", max_length=40, workers=4, progress=quiet)
    assert error.value.__cause__ is None
    assert not (tmp_path / "store").exists()


def test_a_file_in_parts_of_which_nothing_remains_says_the_same(tmp_path, parts_of):
    file = write_rows(tmp_path / "data.jsonl", [b"", b"[]", b"{", b"{"])
    parts_of(1)
    with pytest.raises(
        DataError, match="no valid sample .*malformed JSON: 2, not an object: 1; the first: .*line 2: not an"
    ):
        tokenize_jsonl(file, WORDS, tmp_path / "store", skip_invalid=True)
    with pytest.raises(DataError, match="data.jsonl: empty file"):
        tokenize_jsonl(write_rows(file, [b""] * 9), WORDS, tmp_path / "store", skip_invalid=True)


def test_a_tokenizer_that_lacks_what_the_format_needs_says_so_from_a_part_too(tmp_path, parts_of):
    file = write_rows(tmp_path / "data.jsonl", [GOOD] * 9)
    parts_of(1)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        tokenize_jsonl(file, byte_tokenizer(None), tmp_path / "store", progress=quiet)
    with pytest.raises(ValueError, match="workers is 0; at least one process must work"):
        tokenize_jsonl(file, WORDS, tmp_path / "store", workers=0)


def test_an_error_nobody_foresaw_comes_with_the_place_where_it_was_raised(tmp_path, parts_of, monkeypatch):
    def broken(way, line):
        return {}["nothing"]

    monkeypatch.setattr(tokenize_files.Way, "encode", broken)
    parts_of(1)
    with pytest.raises(KeyError, match="nothing") as error:
        tokenize_jsonl(write_rows(tmp_path / "data.jsonl", [GOOD] * 3), WORDS, tmp_path / "store")
    assert "in broken" in str(error.value.__cause__)


def test_progress_grows_to_the_whole_and_the_last_call_says_so(tmp_path, parts_of):
    file = write_rows(tmp_path / "data.jsonl", [*[GOOD] * 30, b"", b""])
    parts_of(300)
    calls = []
    tokenize_jsonl(file, WORDS, tmp_path / "store", workers=2, progress=lambda *told: calls.append(told))
    assert calls == sorted(calls) and calls[-1] == (30, 330, 1.0)


def test_a_process_that_dies_is_told_and_the_next_call_goes_on(tmp_path, parts_of, monkeypatch, capsys):
    encoded = tokenize_files.Way.encode

    def dies_once(way, line):
        if line.number == 2 and line.offset > 3000 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encoded(way, line)

    file = write_rows(tmp_path / "data.jsonl", [GOOD] * 60)
    whole = tokenize_jsonl(file, WORDS, tmp_path / "whole", progress=quiet)
    monkeypatch.setattr(tokenize_files.Way, "encode", dies_once)
    parts_of(500)
    with pytest.raises(RuntimeError, match=r"bytes [\d,]+ to [\d,]+ of the file died .signal 9: was memory short"):
        tokenize_jsonl(file, WORDS, tmp_path / "store", workers=2, progress=quiet)
    assert "parts are done and kept" in capsys.readouterr().err
    asked = parts_of(500)
    store = tokenize_jsonl(file, WORDS, tmp_path / "store", workers=2, progress=quiet)
    assert contents(store) == contents(whole) and sum(answer is not None for answer in asked) >= 5


def test_the_command_takes_a_number_of_workers(tmp_path, parts_of, capsys):
    rows = [{"messages": [user("Who guards it?"), assistant("Marlow.")]}] * 50
    file = write_rows(tmp_path / "data.jsonl", rows)
    parts_of(500)
    assert main.main(["data", "tokenize", str(file), "--out", str(tmp_path / "store"), "--workers", "2"]) == 0
    assert "store: 50 sequences, " in capsys.readouterr().out
    assert len(TokenStore(tmp_path / "store", verify=True)) == 50
    with pytest.raises(SystemExit):
        main.main(["data", "tokenize", str(file), "--out", str(tmp_path / "store"), "--workers", "0"])
    assert "--workers" in capsys.readouterr().err


MEASURE = """
import sys, threading
import psutil
from chat_tokenizers import word_tokenizer
from longalign.data import tokenize_files

tokenize_files.PART_BYTES = 500_000
peak, over = 0, threading.Event()

def look():
    global peak
    while not over.wait(0.05):
        memory = 0
        for process in [psutil.Process(), *psutil.Process().children()]:
            try:
                memory += process.memory_full_info().pss
            except psutil.Error:
                pass
        peak = max(peak, memory)

watcher = threading.Thread(target=look)
watcher.start()
tokenize_files.tokenize_jsonl(sys.argv[1], word_tokenizer(), sys.argv[2], workers=2, progress=lambda *told: None)
over.set()
watcher.join()
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="proportional set sizes are Linux's")
def test_all_processes_together_need_the_memory_of_a_few_samples_however_many_there_are(tmp_path):
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    needed = []
    for samples in (20, 80):
        rows = [sample(number, 60_000) for number in range(samples)]
        file = write_rows(tmp_path / f"{samples}.jsonl", rows)
        command = [sys.executable, "-c", MEASURE, str(file), str(tmp_path / f"{samples}")]
        told = subprocess.run(command, env=place, check=True, capture_output=True, text=True).stdout
        needed.append(int(told) / 2**20)
    assert max(needed) < 350 and needed[1] < 1.2 * needed[0], needed
