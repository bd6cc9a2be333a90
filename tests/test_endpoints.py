"""Servers that fail in every way: nothing is lost, nothing is paid twice, no key gets out, order does not matter."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from fault_server import FAULTS, by_chance, serving
from longalign.clients import concurrency, reply_store
from longalign.clients.client import ATTEMPTS, MOST_FAILURES, Asker, Pace
from longalign.clients.errors import Passing, Refused, Stopped
from longalign.clients.reply_store import Replies, Reply, Request
from longalign.clients.server import Server
from longalign.common.provenance import LockedError
from longalign.data.jsonl import DataError

KEY = "sk-" + "planted-0123456789abcdef"


def request(question, **more):
    return Request([{"role": "user", "content": question}], max_tokens=8, **more)


def asker(server, file, **more):
    more = {"backoff": 0.01} | more
    return Asker(Server(server.url, model="a-model", key_variable="TEST_API_KEY", timeout=2.0), file, **more)


def ask_all(server, path, questions, *, at_once=8, slow=0, **more):
    with Replies(path) as file:
        ask = asker(server, file, **more)
        ask.server.timeout = ask.server._client.timeout = 60.0 if slow else 2.0
        found = concurrency.each(lambda q: ask.ask(request(q)).text, questions, asker=ask, at_once=at_once)
    return found, ask


def test_200_requests_with_30_percent_faults_lose_nothing_and_pay_nothing_twice(tmp_path):
    questions = [f"word {i} w{i}" for i in range(200)]
    with serving(by_chance(0.3)) as server:
        found, ask = ask_all(server, tmp_path / "asked.jsonl", questions)
        assert found == [f"w{i}" for i in range(200)], "in the items' order, whatever failed on the way"
        assert set(server.given) == set(FAULTS), "each kind of fault was met"
        assert sum(server.given.values()) >= 60 and ask.retries >= sum(server.given.values())
        assert server.paid == dict.fromkeys(questions, 1), "delivered once each"
        again, second = ask_all(server, tmp_path / "asked.jsonl", questions[::-1])
        assert again == found[::-1] and second.retries == 0
        assert server.paid == dict.fromkeys(questions, 1), "a second run asks nothing"
    lines = (tmp_path / "asked.jsonl").read_text().splitlines()
    assert len(lines) == 200 == len({json.loads(line)["key"] for line in lines})


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_passed_over(kind, tmp_path):
    with serving(lambda question, attempt: kind if attempt < 2 else None) as server:
        found, ask = ask_all(server, tmp_path / "a.jsonl", ["say yes"])
        assert found == ["yes"] and ask.retries == 2 and server.given[kind] == 2


def test_a_server_that_never_recovers_is_left_after_some_attempts_and_the_others_are_kept(tmp_path):
    with serving(lambda question, _: "500" if "bad" in question else None) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["one good", "one bad", "two good"])
        assert (found[0], found[2]) == ("good", "good") and isinstance(found[1], Passing)
        assert server.attempts["one bad"] == ATTEMPTS
        with Replies(tmp_path / "a.jsonl") as file:
            assert len(file) == 2


@pytest.mark.parametrize(("kind", "says"), [("401", "set TEST_API_KEY"), ("404", "model's name"), ("quota", "quota")])
def test_what_no_request_can_pass_ends_all_of_them_at_once(kind, says, tmp_path):
    with serving(lambda *_: kind) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(50)], at_once=2)
        assert all(isinstance(error, Stopped) and says in str(error) for error in found)
        assert sum(server.attempts.values()) <= 6


def test_what_is_only_told_to_stop_names_the_reason_for_which_all_ended():
    told, begun = SimpleNamespace(stop=threading.Event()), threading.Event()

    def work(item):
        if item == 0:
            begun.wait(20)
            raise Stopped("no such model")
        begun.set()
        told.stop.wait(20)
        raise Stopped("interrupted")

    assert [str(error) for error in concurrency.each(work, range(3), asker=told, at_once=2)] == ["no such model"] * 3


def test_a_server_that_stays_down_is_left_after_ten_requests(tmp_path):
    with serving(lambda *_: "500") as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(40)], at_once=2)
        assert isinstance(found[-1], Stopped) and "in a row" in str(found[-1])
        assert len(server.attempts) <= MOST_FAILURES + 2


def test_a_request_that_is_refused_is_not_asked_again_and_the_others_go_on(tmp_path):
    with serving(lambda question, _: "400" if "long" in question else None) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["too long", "short one"])
        assert isinstance(found[0], Refused) and found[1] == "one" and server.attempts["too long"] == 1


def test_retry_after_is_waited_for_by_every_thread(tmp_path):
    all_begun = threading.Barrier(3)  # the first is turned away, and the others answered, when all three are under way

    def fault(question, attempt):
        if attempt == 0 and question in ("first q", "q 0", "q 1"):
            all_begun.wait(timeout=30)
        return "429" if (question, attempt) == ("first q", 0) else None

    with serving(fault) as server:
        server.retry_after = "1"
        server.delay = 0.2  # so that the others have not begun their second request when the first is turned away
        ask_all(server, tmp_path / "a.jsonl", ["first q", *(f"q {i}" for i in range(9))], at_once=3, slow=1)
        assert server.times[3] - server.times[2] >= 0.9, "nobody asks while the server wants none"
        assert len(server.times) == 11


def test_a_server_that_asks_for_an_hour_is_not_waited_for(tmp_path):
    with serving(lambda *_: "429") as server:
        server.retry_after = "3600"
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert isinstance(found[0], Stopped) and "60 minutes" in str(found[0])


def test_a_rate_is_kept_over_all_threads(tmp_path):
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(6)], per_minute=600)
        assert server.times[-1] - server.times[0] >= 0.45, "six at 0.1 s from each other"


def test_the_same_question_at_the_same_time_is_asked_once(tmp_path):
    with serving(delay=0.2) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["say it"] * 8)
        assert found == ["it"] * 8 and server.paid["say it"] == 1


def test_a_tag_makes_the_same_words_another_question_and_a_label_does_not(tmp_path):
    with serving() as server, Replies(tmp_path / "a.jsonl") as file:
        ask = asker(server, file)
        for more in ({}, {"label": "x"}, {"tag": "run 2"}):
            ask.ask(request("say it", **more))
        assert server.paid["say it"] == 2


def test_no_key_reaches_a_file_an_error_or_another_server(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TEST_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    with serving(by_chance(0.5, kinds=("500", "error body", "401")), answer=lambda q: f"I was told {KEY}") as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(40)])
        assert server.authorizations == {f"Bearer {KEY}"}
    said = [str(item) for item in found]
    assert any("401" in text for text in said) and any("[key]" in text for text in said)
    everything = "".join([*said, (tmp_path / "a.jsonl").read_text(), *capfd.readouterr()])
    assert KEY not in everything


@pytest.mark.parametrize("placeholder", ["test", "EMPTY", "ollama", "token-abc123"])
def test_a_placeholder_for_a_key_changes_no_word_of_a_reply(placeholder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", placeholder)
    said = f"The latest {placeholder} of the word EMPTY."
    with serving(answer=lambda _: said) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["a b"])
    assert found == [said]


def test_openais_own_key_is_sent_to_nobody_else(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert server.authorizations == {"Bearer none"}
    assert Server("https://api.openai.com/v1", model="m", key_variable="TEST_API_KEY").key_variable == "OPENAI_API_KEY"
    for url in ("http://api.openai.com/v1", "https://api.openai.com.example.org/v1", "https://api.openai.com:8443/v1",
                "HTTP://API.OPENAI.COM:443/v1"):  # fmt: skip
        server = Server(url, model="m", key_variable="TEST_API_KEY")
        assert server.key_variable == "TEST_API_KEY" and KEY not in (server._key, server._client.api_key)


def test_no_account_and_no_project_is_named_not_even_an_empty_one(tmp_path, monkeypatch):
    """OpenAI refuses a header that names no organization."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-of-mine")
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["a b"])
    assert "authorization" in server.headers and not {"openai-organization", "openai-project"} & server.headers


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://192.0.2.1/v1", True), ("http://api.openai.com/v1", True), ("https://192.0.2.1/v1", False),
     ("http://localhost:8000/v1", False), ("http://127.0.0.1:8000/v1", False), ("http://[::1]:8000/v1", False)],
)  # fmt: skip
def test_a_key_that_would_be_sent_without_tls_to_another_machine_is_told(url, told, monkeypatch, capsys):
    monkeypatch.setenv("TEST_API_KEY", KEY)
    Server(url, model="m", key_variable="TEST_API_KEY")
    error = capsys.readouterr().err
    assert ("is not encrypted: others can read TEST_API_KEY" in error) == told and KEY not in error
    monkeypatch.delenv("TEST_API_KEY")
    Server(url, model="m", key_variable="TEST_API_KEY")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "says"),
    [("localhost:8000", "begins with http"), ("http://me:secret@127.0.0.1/v1", "an address has no user, password"),
     ("http://127.0.0.1/v1?key=secret", "query")],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_its_secret(url, says):
    with pytest.raises(ValueError, match=says) as error:
        Server(url, model="m", key_variable="TEST_API_KEY")
    assert "secret" not in str(error.value)


def test_the_only_model_of_a_server_needs_no_name_and_several_are_listed():
    with serving() as server:
        assert Server(server.url, key_variable="TEST_API_KEY").model == "a-model"
        server.models = ["b", "a"]
        with pytest.raises(Stopped, match="has a, b: name one"):
            Server(server.url, key_variable="TEST_API_KEY")
    with pytest.raises(Stopped, match="nothing answers at .*start the server"):
        Server(server.url, key_variable="TEST_API_KEY")


def test_a_model_that_answers_in_anothers_place_is_told_once_and_a_refusal_is_what_it_said(capsys):
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "small", "choices": [choice]}
    with serving(lambda *_: json.dumps(body).encode()) as server:
        asked = Server(server.url, model="large", key_variable="TEST_API_KEY")
        assert [asked.ask(request(question)).text for question in ("a", "b")] == ["I cannot."] * 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "was asked for large and says that small answered" in told


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


ODD = [
    b'{"choices": [null]}', b'{"choices": ["x"]}', b"[" * 100_000, b'{"choices": 3}', b'"text"', b"<html>busy</html>",
    b'{"choices": [{"message": {"content": 7}}]}', b'{"choices": [{"message": {"content": [7]}}]}',
    b'{"choices": [{"text": "no"}]}', b'{"choices": [{"delta": {"content": "no"}}]}',
    b'{"choices": [{"message": {"content": "n"}, "finish_reason": "stop"}], "error": {"message": "died"}}',
    b'{"choices": [{"message": {"content": ""}, "error": {"message": "died"}}]}',
    b'{"choices": [{"message": null}], "usage": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_an_odd_answer_is_a_fault_like_others(body, tmp_path):
    with serving(lambda _, attempt: body if attempt < 2 else None) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["say yes"])
        assert found == ["yes"]


@pytest.mark.parametrize("header", ["0", "-5", "nan", "x GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "soon", "99999999 GMT"])
def test_an_odd_retry_after_is_none_and_the_own_back_off_counts(header, tmp_path):
    with serving(lambda _, attempt: "429" if attempt < 2 else None) as server:
        server.retry_after = header
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["say yes"])
        assert found == ["yes"]


def test_half_of_a_surrogate_pair_in_a_reply_does_not_stop_what_comes_after(tmp_path):
    with serving(answer=lambda _: "bad \ud800 one") as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["say it"])
    assert found == ["bad ? one"] and request(found[0]).key("m")


@pytest.mark.parametrize("key", ["sk-SECRET 123456", "sk-SECRET\x07123456", "sk-SECRETé123456"])
def test_a_key_that_is_none_is_refused_without_being_told(key, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", key)
    with pytest.raises(ValueError, match="TEST_API_KEY is not a key") as error:
        Server("http://127.0.0.1:9/v1", model="m", key_variable="TEST_API_KEY")
    assert "SECRET" not in str(error.value)


def test_a_line_break_behind_a_key_is_no_part_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_API_KEY", KEY + "\n")
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert server.authorizations == {f"Bearer {KEY}"}


def test_a_document_is_not_sent_on_to_another_address(tmp_path):
    with serving() as other, serving(lambda *_: "307") as server:
        server.location = other.url + "/chat/completions"
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert isinstance(found[0], Stopped) and "not followed" in str(found[0]) and not other.attempts


def test_an_error_that_is_no_servers_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        concurrency.each(lambda n: 1 / n, [2, 4, 0])


def test_turns_are_apart_and_a_pause_holds_them_back():
    pace = Pace(per_minute=60)
    assert [round(pace.turn()) for _ in range(3)] == [0, 1, 2]
    pace.pause(10)
    assert 9 < pace.turn() <= 10


def test_a_key_of_replies_depends_on_model_messages_and_settings():
    one = request("q")
    others = [request("r"), request("q", tag="x"), reply_store.Request(one.messages, max_tokens=9)]
    assert len({r.key("m") for r in (one, *others)} | {one.key("n")}) == 5
