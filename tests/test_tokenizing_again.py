"""What was tokenized before an interrupt, a kill or a full disk is not done again, and nothing else is taken for it."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chat_tokenizers import MARKED, byte_tokenizer
from longalign.common import provenance
from longalign.data import store as stores
from longalign.data import tokenize_files
from longalign.data.jsonl import DataError
from longalign.data.tokenize_files import tokenize_jsonl
from rows import GOOD, write_rows
from tokenized import WORDS, contents, quiet, sample


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
