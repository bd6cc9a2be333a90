"""Files of replies: each reply is kept once it has arrived, and what is no such file is refused."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from asking import ask_all, request
from fault_server import serving
from longalign.clients.client import Asker
from longalign.clients.errors import Refused
from longalign.clients.reply_store import Replies, Reply
from longalign.common.provenance import LockedError
from longalign.data.jsonl import DataError


def test_a_line_that_was_cut_short_is_dropped_and_the_rest_is_known(tmp_path):
    path = tmp_path / "a.jsonl"
    with Replies(path) as file:
        file.add("k1", Reply("one"), model="m")
        file.add("k2", Reply("two", "length", 3, 4), model="m")
    whole = path.read_bytes()
    for cut in range(len(whole) - 2, len(whole) - 30, -7):
        path.write_bytes(whole[:cut])
        with Replies(path) as file:
            assert len(file) == 1 and file.get("k2") is None
            file.add("k3", Reply("three"), model="m")
        with Replies(path) as file:
            assert [file.get(k).text for k in ("k1", "k3")] == ["one", "three"]


def test_a_last_line_that_only_lacks_its_end_is_known_and_another_may_follow(tmp_path):
    path = tmp_path / "a.jsonl"
    with Replies(path) as file:
        file.add("k1", Reply("one"), model="m")
    path.write_bytes(path.read_bytes()[:-1])
    with Replies(path) as file:
        assert file.get("k1").text == "one"
        file.add("k2", Reply("two"), model="m")
    with Replies(path) as file:
        assert [file.get(k).text for k in ("k1", "k2")] == ["one", "two"]


def test_a_recording_is_read_by_many_and_left_as_it_is(tmp_path):
    path = tmp_path / "a.jsonl"
    with Replies(path) as file:
        file.add("k1", Reply("one"), model="m")
    (tmp_path / ".a.jsonl.lock").unlink()
    before = path.read_bytes()[:-1]
    path.write_bytes(before)
    with Replies(path, recorded=True) as one, Replies(path, recorded=True) as two:
        assert one.get("k1").text == two.get("k1").text == "one"
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_half_of_a_surrogate_pair_in_a_recording_is_a_question_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    with Replies(path) as file:
        file.add("k1", Reply("\ud83d [[7]]"), model="m")
    with Replies(path, recorded=True) as file:
        assert file.get("k1").text == "? [[7]]"


def test_another_file_is_refused_by_line_and_left_as_it_is(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match="data.jsonl, line 1: no record of replies"), Replies(path):
        pass
    assert path.read_text() == '{"messages": []}\n'


def test_a_file_has_one_writer(tmp_path):
    with Replies(tmp_path / "a.jsonl"), pytest.raises(LockedError), Replies(tmp_path / "a.jsonl"):
        pass


def test_without_a_server_only_what_is_known_is_answered(tmp_path):
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["say it"])
    with Replies(tmp_path / "a.jsonl") as file:
        assert file.models == {"a-model"}
        recorded = Asker(None, file, model="a-model")
        assert recorded.ask(request("say it")).text == "it"
        with pytest.raises(Refused, match="holds no reply to q7"):
            recorded.ask(request("new", label="q7"))


def test_a_run_that_is_killed_loses_no_reply_that_had_arrived(tmp_path):
    path, here = tmp_path / "a.jsonl", os.path.dirname(__file__)
    with serving(delay=0.02) as server:
        code = (
            f"import sys; sys.path.insert(0, {here!r}); import test_endpoints as t; from types import SimpleNamespace;"
            f"s = SimpleNamespace(url={server.url!r}); t.ask_all(s, {str(path)!r}, [f'q {{n}}' for n in range(300)])"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        while sum(server.paid.values()) < 60:
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # what the server was still writing
        before = sum(server.paid.values())
        with Replies(path) as file:
            kept = len(file)
        assert 60 - 8 <= kept and before - kept <= 8, "only what was under way can be missing"
        found, _ = ask_all(server, path, [f"q {i}" for i in range(300)])
        assert found == [str(i) for i in range(300)] and sum(server.paid.values()) - 300 == before - kept


def test_an_interrupt_keeps_what_was_under_way_and_is_raised(tmp_path):
    with serving(delay=0.3) as server:
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(200)], at_once=2)
        timer.join()
        time.sleep(0.1)
        with Replies(tmp_path / "a.jsonl") as file:
            assert len(file) == sum(server.paid.values()) < 20


def test_a_second_interrupt_does_not_wait_for_a_server_that_never_answers(tmp_path):
    here = os.path.dirname(__file__)
    with serving(delay=30) as server:
        code = (
            f"import sys; sys.path.insert(0, {here!r}); import test_endpoints as t; from types import SimpleNamespace;"
            f"s, path = SimpleNamespace(url={server.url!r}), {str(tmp_path / 'a.jsonl')!r};"
            "t.ask_all(s, path, ['q 1', 'q 2'], slow=1)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        while len(server.times) < 2:
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again" in process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
        assert time.monotonic() - began < 5
