"""Thoughts of reasoning models are told from their reply: what is read, what servers send and files of replies keep."""

import json

import pytest

from fault_server import serving
from longalign.clients.client import Asker
from longalign.clients.errors import NoReply
from longalign.clients.reply_store import Replies, Reply, Request
from longalign.clients.thoughts import is_mark, opened_by, split
from longalign.evals.judges.prompts import Unrated, rating
from thinking import RATING, asked, says

HARMONY = "<|channel|>"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("tool_calls", "stop"), (None, "stop"), ("length", "length"), ("content_filter", "length"),
     ("model_length", "length"), ("abort", "length"), ("STOP", "stop"), ("END_TURN", "stop"), ("MAX_TOKENS", "length")],
)  # fmt: skip
def test_a_reply_that_a_filter_or_a_failure_ended_counts_as_cut_off(tmp_path, reason, finish):
    with serving(says("The mill", finish=reason)) as server:
        assert asked(server, tmp_path / "r.jsonl").finish == finish


# ---- what is told apart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>At first [[3]].</think> [[7]]", "[[7]]"),
        ("At first [[3]].\n</think>\n\n[[7]]", "[[7]]"),
        ("Sure.\n<think>hm</think>\nFour.", "Sure.\nFour."),
        ("<think>The tags are <think> and </think>. [[2]]</think> [[7]]", "[[7]]"),
        ("<thinking>hm</thinking>Four.", "Four."),
        ("<THINK>hm</THINK>Four.", "Four."),
        ("<reasoning>hm</reasoning>\n<answer>Four.</answer>", "Four."),
        ("<seed:think>hm</seed:think>Four.", "Four."),
        ("[THINK]hm[/THINK]Four.", "Four."),
        ("◁think▷hm◁/think▷Four.", "Four."),
        ("<|begin_of_thought|>hm<|end_of_thought|>\n<|begin_of_solution|>\nFour.\n<|end_of_solution|>", "Four."),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|>", "Four."),
        ("<|channel>thought\nhm<channel|>Four.", "Four."),
        (f"{HARMONY}analysis<|message|>hm<|end|><|start|>assistant{HARMONY}final<|message|>Four.<|return|>", "Four."),
        ("analysisWe need a number.assistantfinalFour.", "Four."),
        ("<think></think>\n\nFour.", "Four."),
        ("<reflection>At first [[3]].</reflection>\n[[7]]", "[[7]]"),
        ("<longcat_think>hm</longcat_think>Four.", "Four."),
        ("<|inner_prefix|>hm<|inner_suffix|>Four.", "Four."),
        ("<unused94>thought\nhm<unused95>Four.", "Four."),
        ('<think effort="low">hm</think>Four.', "Four."),
        ("Here is my thought process: hm [[3]].\n\nHere is my response: Four.", "Four."),
        ("Here are my reasoning steps:\nhm\n[BEGIN FINAL RESPONSE]\nFour.\n[END FINAL RESPONSE]\n<|end|>", "Four."),
    ],
)  # fmt: skip
def test_the_answer_is_what_follows_the_thoughts(written, answer):
    found = split(written)
    assert (found.answer, found.closed) == (answer, True) and found.thoughts
    assert split(found.answer) == ("", answer, True), "read again it is the same"


@pytest.mark.parametrize("written", ["<think>At first [[3]]", "Well. <think>At first [[3]]", "[THINK]At first [[3]]",
                                     "<think>a</think><think>[[3]]", "<|channel|>analysis<|message|>[[3]]",
                                     "analysisWe say [[3]]"])  # fmt: skip
def test_thoughts_without_an_end_are_no_answer_and_nothing_of_them_is_lost(written):
    assert split(written) == (written, "", False)
    with pytest.raises(Unrated, match="no reply after its thoughts"):
        rating(written, 1, 10)


@pytest.mark.parametrize("text", ["Four.", " Four.\n", "", "It writes `<think>` and `</think>`, or \"[THINK]\".",
                                  "a <thin> b", "analysis of it", "The analysis. assistantfinal"])  # fmt: skip
def test_a_reply_without_thoughts_stays_as_it_is(text):
    assert split(text) == ("", text, True)


def test_a_prompt_may_open_the_thoughts():
    assert opened_by("<|im_start|>assistant\n<think>\n") == "<think>"
    assert opened_by("<think>\n\n</think>\n\n") == opened_by("Think: <think> is a tag") == ""
    marks = "<longcat_think> </mm:think> <thinking> </seed:think> <|inner_suffix|> <unused95>".split()
    assert all(map(is_mark, marks)) and not is_mark("<thinker>")
    assert is_mark("[THINK]") and is_mark("<|channel|>") and not is_mark("<|user|>")


def test_a_rating_is_read_behind_the_thoughts_and_never_in_them():
    assert rating(RATING, 1, 10) == rating("At first [[3]]</think>[[7]]", 1, 10) == 7
    with pytest.raises(Unrated, match="no rating"):
        rating("<think>Surely [[3]]</think>It is good.", 1, 10)


# ---- servers and files of replies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[7]]", {"reasoning_content": "At first [[3]]"}),
        ("[[7]]", {"reasoning": "At first [[3]]"}),
        ("<think>At first [[3]]</think>[[7]]", {}),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "At first [[3]]"}]},
          {"type": "text", "text": "[[7]]"}], {}),
        ([{"type": "reasoning", "text": "At first [[3]]"}, {"type": "text", "text": "[[7]]"}], {}),
    ],
    ids=["reasoning_content", "reasoning", "content", "parts of content", "a part of reasoning"],
)  # fmt: skip
def test_thoughts_are_kept_in_the_file_wherever_a_server_tells_them(tmp_path, content, message):
    with serving(says(content, **message)) as server:
        reply = asked(server, tmp_path / "replies.jsonl")
    assert reply.text == "[[7]]" and "At first [[3]]" in reply.thoughts
    (row,) = map(json.loads, (tmp_path / "replies.jsonl").read_text().splitlines())
    assert row["text"] == "[[7]]" and row["thoughts"] == reply.thoughts
    with Replies(tmp_path / "replies.jsonl", recorded=True) as file:
        assert file.get(row["key"]) == reply


@pytest.mark.parametrize(
    ("content", "finish", "message"),
    [(None, "length", {"reasoning_content": "At first [[3]]"}), ("", "stop", {"reasoning": "At first [[3]]"}),
     ("<think>At first [[3]]", "length", {}), ("<think>At first [[3]]", "stop", {}), ("hm</think>\n", "stop", {})],
)  # fmt: skip
def test_thoughts_alone_are_no_reply_and_are_paid_for_once(tmp_path, content, finish, message):
    with serving(says(content, finish=finish, **message)) as server:
        for _ in range(2):
            with pytest.raises(NoReply, match="no reply after its thoughts") as told:
                asked(server, tmp_path / "replies.jsonl")
            assert told.value.thoughts and ("all 64 tokens" in str(told.value)) == (finish == "length")
        assert sum(server.attempts.values()) == 1


def test_the_key_is_taken_out_of_thoughts_too(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", "sk-planted-0123456789")
    with serving(says("Four.", reasoning_content="My key is sk-planted-0123456789.")) as server:
        assert asked(server, tmp_path / "replies.jsonl").thoughts == "My key is [key]."


def test_a_file_of_replies_from_before_is_read_with_its_thoughts_apart(tmp_path):
    row = {"key": "k", "label": "q", "model": "m", "text": RATING, "finish": "stop", "prompt_tokens": 1,
           "completion_tokens": 2}  # fmt: skip
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    with Replies(tmp_path / "old.jsonl", recorded=True) as file:
        assert file.get("k").text == "Rating: [[7]]" and "[[3]]" in file.get("k").thoughts


def test_thinking_tokens_are_more_room_for_every_reply_and_another_request(tmp_path):
    class Notes:
        model = "m"

        def ask(self, request):
            rooms.append(request.max_tokens)
            return Reply("Four.")

    rooms, request = [], Request([{"role": "user", "content": "2 + 2?"}], 64)
    with Replies(tmp_path / "replies.jsonl") as file:
        for more in (0, 1000, 1000):
            Asker(Notes(), file, thinking_tokens=more).ask(request)
    assert rooms == [64, 1064]
