"""A JSONL file becomes the same store by one process or many, and what was done before a failure is not done again."""

import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from chat_tokenizers import MARKED, assistant, byte_tokenizer, user, word_tokenizer
from longalign.cli import main
from longalign.common import provenance
from longalign.data import jsonl, tokenize_files
from longalign.data import store as stores
from longalign.data.chat import encode, tokenizer_hash
from longalign.data.jsonl import DataError
from longalign.data.store import TokenStore
from longalign.data.tokenize_files import print_progress, tokenize_jsonl
from rows import BAD, GOOD, write_rows

WORDS = word_tokenizer()


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


def sample(number, words=20):
    return {"messages": [user(" ".join(f"w{(number + i) % 5}" for i in range(words))), assistant("w1 w2")]}


def contents(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def quiet(*told):
    """Progress that nobody needs."""


@pytest.fixture
def parts_of(monkeypatch):
    """Sets the least bytes of a part; returns what `_known` answered, part by part, of the calls that follow."""
    answers, known = [], tokenize_files.Job._known

    def noted(*given):
        answers.append(known(*given))
        return answers[-1]

    monkeypatch.setattr(tokenize_files.Job, "_known", noted)

    def set_bytes(size):
        monkeypatch.setattr(tokenize_files, "PART_BYTES", size)
        answers.clear()
        return answers

    return set_bytes


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


# --- going on ---------------------------------------------------------------------------------------------------------


class Interrupt:
    """Progress that interrupts once half of the file is done."""

    def __call__(self, samples, tokens, share):
        if share > 0.5:
            raise KeyboardInterrupt


@pytest.fixture
def half_done(tmp_path, parts_of):
    """A file of 40 samples, of which the first half was tokenized, in parts of a few samples."""
    file = write_rows(tmp_path / "data.jsonl", [sample(n) for n in range(40)])
    parts_of(400)
    with pytest.raises(KeyboardInterrupt):
        tokenize_jsonl(file, WORDS, tmp_path / "store", workers=1, progress=Interrupt())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.parts", "data.jsonl"]
    assert len(kept(file)) > 5
    return file


def kept(file):
    """Folders of the parts that were done."""
    return sorted(path for path in file.with_name(".store.parts").iterdir() if path.is_dir())


def reused(parts_of, file, tokenizer=WORDS, **options):
    """Parts that a call takes over and all that it has; its store is that of one whole file."""
    parts_of(10**9)
    whole = tokenize_jsonl(file, tokenizer, file.with_name("whole"), progress=quiet, **options)
    asked = parts_of(400)
    store = tokenize_jsonl(file, tokenizer, file.with_name("store"), progress=quiet, workers=2, **options)
    assert contents(store) == contents(whole)
    assert not file.with_name(".store.parts").exists()
    return sum(answer is not None for answer in asked), len(asked)


def test_an_interrupted_call_is_gone_on_with(half_done, parts_of):
    done = len(kept(half_done))
    taken, parts = reused(parts_of, half_done)
    assert taken == done and parts > 1.6 * done


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [GOOD, GOOD])

    def grow(samples, tokens, share):
        with data.open("ab") as file:
            file.write(json.dumps(GOOD).encode() + b"\n")

    with pytest.raises(DataError, match="data.jsonl: changed while it was read .call again"):
        tokenize_jsonl(data, WORDS, tmp_path / "store", progress=lambda *told: grow(*told) if told[0] < 5 else None)
    assert not (tmp_path / "store").exists()


def test_a_changed_line_costs_its_own_part_alone(half_done, parts_of):
    done, lines = len(kept(half_done)), half_done.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"w1 w2", b"w2 w1")
    half_done.write_bytes(b"".join(lines))
    assert reused(parts_of, half_done)[0] == done - 1


@pytest.mark.parametrize(
    "other", [{"max_length": 25}, {"chat_format": "llama"}, {"tokenizer": byte_tokenizer(MARKED)}], ids=str
)
def test_parts_of_another_tokenizer_format_or_length_are_not_taken(half_done, parts_of, other):
    assert reused(parts_of, half_done, **other)[0] == 0


def test_parts_of_another_code_are_not_taken(half_done, parts_of, monkeypatch):
    monkeypatch.setattr(tokenize_files, "source_hash", lambda *names, without: "other")
    assert reused(parts_of, half_done)[0] == 0


@pytest.mark.parametrize("damage", ["token", "shorter", "gone", "renamed", "empty"])
def test_a_faulty_part_is_done_again(half_done, parts_of, damage):
    first, second, *others = kept(half_done)
    tokens = first / "tokens.bin"
    if damage == "token":
        tokens.write_bytes(bytes([tokens.read_bytes()[0] ^ 1]) + tokens.read_bytes()[1:])
    elif damage == "shorter":
        tokens.write_bytes(tokens.read_bytes()[:-4])
    elif damage == "gone":
        (first / "manifest.json").unlink()
    else:
        shutil.rmtree(first)
        shutil.copytree(second, first) if damage == "renamed" else first.mkdir()
    assert reused(parts_of, half_done)[0] == 1 + len(others)


def test_parts_that_left_samples_out_serve_only_calls_that_may(tmp_path, parts_of):
    file = write_rows(tmp_path / "data.jsonl", [GOOD, b"[]", *map(sample, range(40))])
    parts_of(400)
    with pytest.raises(KeyboardInterrupt):
        tokenize_jsonl(file, WORDS, tmp_path / "store", skip_invalid=True, workers=1, progress=Interrupt())
    with pytest.raises(DataError, match="line 2: not an object"):
        tokenize_jsonl(file, WORDS, tmp_path / "store", workers=1, progress=quiet)
    done = len(kept(file))  # the first of them is done again, and lost, for it may leave nothing out
    assert reused(parts_of, file, skip_invalid=True)[0] == done > 5


def test_two_calls_do_not_make_the_same_store_at_a_time(tmp_path):
    file = write_rows(tmp_path / "data.jsonl", [GOOD])
    with provenance.alone(tmp_path / ".store.parts" / "lock"):
        with pytest.raises(provenance.LockedError, match="being done already by process"):
            tokenize_jsonl(file, WORDS, tmp_path / "store")


def test_what_a_killed_call_had_begun_goes_with_the_next(tmp_path):
    for name in (".store.1.part", ".store.other.1.part"):
        (tmp_path / name).mkdir()
    tokenize_jsonl(write_rows(tmp_path / "data.jsonl", [GOOD]), WORDS, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.other.1.part", "data.jsonl", "store"]


SCRIPT = """
import signal, sys, time
from chat_tokenizers import word_tokenizer
from longalign.data import tokenize_files

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell would ignore it
encode = tokenize_files.Way.encode
tokenize_files.Way.encode = lambda way, line: time.sleep(0.05) or encode(way, line)
tokenize_files.PART_BYTES = 2000
tokenize_files.tokenize_jsonl(sys.argv[1], word_tokenizer(), sys.argv[2], workers=2, progress=lambda *told: None)
"""


@pytest.mark.parametrize("how", ["kill -9", "interrupt"])
def test_a_real_process_that_is_ended_leaves_finished_parts_and_no_process(tmp_path, parts_of, how):
    file = write_rows(tmp_path / "data.jsonl", [sample(n) for n in range(300)])
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, str(file), str(tmp_path / "store")]
    running = subprocess.Popen(command, env=place, start_new_session=True, stderr=subprocess.PIPE, text=True)
    done, workers, until = [], [], time.monotonic() + 60
    while not (len(done) >= 10 and workers) and time.monotonic() < until:  # between two parts there may be no worker
        time.sleep(0.01)
        done = list(tmp_path.glob(".store.parts/[0-9a-f]*/manifest.json"))
        workers = psutil.Process(running.pid).children()
    if how == "kill -9":
        running.kill()
    else:
        os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=30)[1]
    assert workers and not psutil.wait_procs(workers, timeout=10)[1], "workers end with the process that asked"
    assert running.returncode
    if how == "interrupt":
        assert "parts are done and kept; the same command goes on after them" in told
    asked = parts_of(2000)
    store = tokenize_jsonl(file, WORDS, tmp_path / "store", workers=2, progress=quiet)
    assert len(done) <= sum(answer is not None for answer in asked) < len(asked)
    parts_of(10**9)
    assert contents(store) == contents(tokenize_jsonl(file, WORDS, tmp_path / "whole", progress=quiet))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "store", "whole"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_comes_where_a_part_is_closed_is_not_lost(tmp_path, parts_of, monkeypatch):
    closed, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)

    def close(column):  # Python calls this where the object goes, and swallows what it raises
        column.file.close()
        closed.append(column)
        if len(closed) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stores._Column, "__del__", close)
    file = write_rows(tmp_path / "data.jsonl", [sample(n) for n in range(400)])
    parts_of(4000)
    try:
        with pytest.raises(KeyboardInterrupt):
            tokenize_jsonl(file, WORDS, tmp_path / "store", progress=quiet)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "store").exists()


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [400, 10**9])
def test_a_full_disk_is_one_sentence_and_what_is_done_is_kept(tmp_path, parts_of, monkeypatch, size):
    def full(writer, meta):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = write_rows(tmp_path / "data.jsonl", [sample(n) for n in range(40)])
    parts_of(size)
    with monkeypatch.context() as broken:
        broken.setattr(tokenize_files.StoreWriter, "finish", full)
        with pytest.raises(
            DataError, match="store: cannot be written .no space left on device; make room and call again"
        ):
            tokenize_jsonl(file, WORDS, tmp_path / "store", progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    reused(parts_of, file)


def test_a_file_that_may_not_grow_is_told_in_a_sentence(tmp_path, parts_of):
    file = write_rows(tmp_path / "data.jsonl", [sample(n) for n in range(400)])
    parts_of(4000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DataError, match="store: cannot be written .file too large"):
            tokenize_jsonl(file, WORDS, tmp_path / "store", workers=2, progress=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob(".store.*.part"))
    assert reused(parts_of, file)[1] > 40


def test_a_file_system_without_room_costs_nothing_once_there_is_room(tmp_path, parts_of):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=200k tmpfs '{disk}' 2>/dev/null"):
        pytest.skip("a small file system can be mounted by root only")
    file = write_rows(tmp_path / "data.jsonl", [sample(n) for n in range(1000)])
    try:
        parts_of(20_000)
        with pytest.raises(DataError, match="store: cannot be written .no space left on device"):
            tokenize_jsonl(file, WORDS, disk / "store", workers=2, progress=quiet)
        assert os.system(f"mount -o remount,size=20m '{disk}'") == 0
        asked = parts_of(20_000)
        store = tokenize_jsonl(file, WORDS, disk / "store", workers=2, progress=quiet)
        assert any(asked) and len(store) == 1000
        del store
    finally:
        os.system(f"umount -l '{disk}'")


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
