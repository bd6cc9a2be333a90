"""Servers that fail in every way: nothing is lost, nothing is paid twice, order does not matter."""

import json
import threading
from types import SimpleNamespace

import pytest

from asking import ask_all, asker, request
from fault_server import FAULTS, by_chance, serving
from longalign.clients import concurrency, reply_store
from longalign.clients.client import ATTEMPTS, MOST_FAILURES, Pace
from longalign.clients.errors import Passing, Refused, Stopped
from longalign.clients.reply_store import Replies
from longalign.clients.server import Server


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


def test_a_model_that_answers_in_anothers_place_is_told_once_and_a_refusal_is_what_it_said(capsys):
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "small", "choices": [choice]}
    with serving(lambda *_: json.dumps(body).encode()) as server:
        asked = Server(server.url, model="large", key_variable="TEST_API_KEY")
        assert [asked.ask(request(question)).text for question in ("a", "b")] == ["I cannot."] * 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "was asked for large and says that small answered" in told


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
