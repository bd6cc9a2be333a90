"""Reasoning models as teachers, judges and models under test: their thoughts are kept, and are not their reply."""

import json
from dataclasses import asdict

import pytest

from fault_server import serving
from longalign.cli import main
from longalign.clients.client import Asker
from longalign.clients.errors import NoReply
from longalign.clients.local_model import LocalModel
from longalign.clients.reply_store import Replies, Reply, Request
from longalign.clients.server import Server
from longalign.clients.thoughts import is_mark, opened_by, split
from longalign.common import paths
from longalign.evals import chat_answers
from longalign.evals.benchmarks import answering
from longalign.evals.benchmarks.questions import Question, read_answers
from longalign.evals.judges.prompts import Unrated, rating
from longalign.miniature import tokenizer as miniature

BASE = str(paths.bases() / "mini-7b")
WORDS = miniature.load()
QUESTIONS = "<think>\nQuestions, then.\n1. Maybe about the mill?\n</think>\n\n" + "\n".join(
    f"{n}. What does the text say about the {word}?"
    for n, word in enumerate(("harbour", "bridge", "market", "school", "tower"), 1)
)
ANSWER = "<think>\nLet me look at the document.\n</think>\n\nThe harbour was built of stone and the mill is beside it."
HARMONY = "<|channel|>"
RATING = "<think>\nAt first sight [[3]], but the reference agrees.\n</think>\n\nRating: [[7]]"


def run(*arguments):
    """The exit status of a command line."""
    try:
        return main.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code


def says(content, *, finish="stop", **message):
    """A server's body with this message, for `serving(says(...))`."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    usage = {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}
    told = {"id": "x", "object": "chat.completion", "created": 0, "model": "thinker", "choices": [choice],
            "usage": usage}  # fmt: skip
    return lambda *_: json.dumps(told).encode()


def asked(server, path, request=None, **options):
    with Replies(path) as file:
        asker = Asker(Server(server.url, model="thinker", key_variable="TEST_API_KEY"), file, **options)
        return asker.ask(request or Request([{"role": "user", "content": "2 + 2?"}], 64))


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


# ---- teachers, judges, models under test -----------------------------------------------------------------------------


@pytest.fixture
def documents(tmp_path):
    (tmp_path / "docs").mkdir()
    texts = (f"The harbour was built of stone in {year} and the mill is beside it." for year in range(1800, 1830))
    (tmp_path / "docs" / "harbour.txt").write_text(" ".join(texts))
    return tmp_path / "docs"


SIZE = ("--max-length", 1024, "--min-length", 40)


def test_a_teachers_thoughts_become_neither_questions_nor_answers(tmp_path, documents):
    out = tmp_path / "long.jsonl"
    with serving(answer=lambda text: QUESTIONS if "five different questions" in text else ANSWER) as teacher:
        assert run("data", "build", "--documents", documents, "--teacher", teacher.url, "--out", out, *SIZE) == 0
    (sample,) = map(json.loads, out.read_text().splitlines())
    question, answer = (message["content"] for message in sample["messages"])
    assert question.endswith("?") and "What does the text say about" in question and "mill?" not in question
    assert answer == "The harbour was built of stone and the mill is beside it."
    assert "Let me look at the document" in (tmp_path / "long.replies.jsonl").read_text()


@pytest.mark.parametrize(
    ("body", "fault"),
    [(says("<think>1. What is the mill?", finish="length"), "question: no reply after its thoughts"),
     (says("1. What is the mill?\n2. And", finish="length"), "question: cut off"),
     (says(None, reasoning_content="1. What is the mill?"), "question: no reply after its thoughts")],
    ids=["in its thoughts", "in thoughts that its template opened", "without a reply"],
)  # fmt: skip
def test_questions_of_a_reply_that_was_cut_off_are_not_used_but_counted(tmp_path, documents, capsys, body, fault):
    out = tmp_path / "long.jsonl"
    with serving(body) as teacher:
        assert run("data", "build", "--documents", documents, "--teacher", teacher.url, "--out", out, *SIZE) == 2
    told = capsys.readouterr().err
    assert f"no sample was built: {fault}" in told and ("--teacher-thinking-tokens" in told) == ("thoughts" in fault)
    assert json.loads((tmp_path / "long.report.json").read_text())["results"]["faults"] == {fault: 1}


def test_an_answer_that_was_cut_off_within_its_thoughts_costs_another_question(tmp_path, documents):
    given = iter(["<think>Hm", ANSWER])

    def body(text, attempt):
        content = QUESTIONS if "five different questions" in text else next(given)
        return says(content, finish="length" if content == "<think>Hm" else "stop")()

    with serving(body) as teacher:
        told = ("--documents", documents, "--teacher", teacher.url, "--out", tmp_path / "long.jsonl")
        assert run("data", "build", *told, *SIZE) == 0
    faults = json.loads((tmp_path / "long.report.json").read_text())["results"]["faults"]
    assert faults == {"answer: no reply after its thoughts": 1}


def judgments(folder):
    return [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]


ASKED = ("eval", "longbench-chat", "--model", BASE, "--window", 512, "--limit", 2)


def test_a_judges_rating_is_the_one_behind_its_thoughts_and_recorded_ones_give_the_same(tmp_path):
    with serving(answer=lambda _: RATING) as judge:
        assert run(*ASKED, "--judge", judge.url, "--out", tmp_path / "asked") == 0
    assert [row["rating"] for row in judgments(tmp_path / "asked")] == [7] * 4
    assert all("[[3]]" in row["thoughts"] and row["reply"] == "Rating: [[7]]" for row in judgments(tmp_path / "asked"))
    recorded = tmp_path / "asked" / "judge.replies.jsonl"
    assert run(*ASKED, "--judge", recorded, "--out", tmp_path / "recorded") == 0
    assert judgments(tmp_path / "recorded") == judgments(tmp_path / "asked")


@pytest.mark.parametrize(
    ("body", "problem"),
    [(says("<think>At first [[3]]", finish="length"), "no reply after its thoughts"),
     (says("At first [[3]], but", finish="length"), "cut off"), (says("[[8]] [[8]]"), "several ratings"),
     (says(None), "empty reply"), (says("[[" + "1" * 5000 + "]]"), "rating out of range")],
    ids=["thoughts alone", "cut off", "said twice", "nothing", "a number of 5,000 digits"],
)  # fmt: skip
def test_a_judge_that_gives_no_rating_leaves_its_item_missing(tmp_path, capsys, body, problem):
    with serving(body) as judge:
        assert run(*ASKED, "--judge", judge.url, "--out", tmp_path) == 1
    assert {(row["rating"], row["problem"]) for row in judgments(tmp_path)} == {(None, problem)}
    told = capsys.readouterr()
    assert f"4 ({problem})" in told.out and ("--judge-thinking-tokens" in told.err) == ("thoughts" in problem)


def questions(count, *, turns=("2 + 2?",)):
    return [Question(f"q{n}", "mt_bench", "math", "en", tuple(f"{n}: {turn}" for turn in turns), "", ("4",), 64)
            for n in range(count)]  # fmt: skip


def test_the_answer_under_test_follows_the_thoughts_and_a_second_turn_does_not_see_them(tmp_path):
    class Thinker:
        model = "m"

        def ask(self, request):
            seen.append([message["content"] for message in request.messages])
            return Reply("<think>Two and two.</think>Four.")

    seen = []
    with Replies(tmp_path / "replies.jsonl") as file:
        answers, missing = answering.answer_all(questions(1, turns=("2 + 2?", "Sure?")), Asker(Thinker(), file))
    assert [(row.answer, row.thoughts) for row in answers] == [("Four.", "<think>Two and two.</think>")] * 2
    assert not missing and seen[1] == ["0: 2 + 2?", "Four.", "0: Sure?"]


def test_answers_of_an_older_file_are_read_with_their_thoughts_apart(tmp_path):
    class Plain:
        model = "m"

        def ask(self, request):
            return Reply("Four.")

    with Replies(tmp_path / "replies.jsonl") as file:
        answers, _ = answering.answer_all(questions(3), Asker(Plain(), file))
    written = ("<think>Two and two.</think>Four.", "<think>Two and", "Four.")
    rows = [{**asdict(row), "answer": text} for row, text in zip(answers, written, strict=True)]
    lines = [json.dumps({name: value for name, value in row.items() if name != "thoughts"}) + "\n" for row in rows]
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    found = [(row.answer, row.finish) for row in read_answers(tmp_path / "answers.jsonl")]
    assert found == [("Four.", "stop"), ("no reply after its thoughts", "missing"), ("Four.", "stop")]


def test_a_turn_without_a_reply_keeps_the_turns_before_it_and_is_missing(tmp_path, capsys):
    def body(text, attempt):
        return says("Four." if "2 + 2" in text else "<think>Let me", finish="stop" if "2 + 2" in text else "length")()

    asked = [{"question_id": 1, "category": "math", "turns": ["2 + 2?", "Sure?"], "reference": ["4", "yes"]}]
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    with serving(body) as server:
        told = ("--model", server.url, "--data", tmp_path / "question.jsonl", "--out", tmp_path / "out")
        assert run("eval", "mt-bench", *told) == 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [(row["answer"][:27], row["finish"]) for row in rows] == [
        ("Four.", "stop"), ("no reply after its thoughts", "missing")
    ]  # fmt: skip
    told = capsys.readouterr()
    assert "--model-thinking-tokens" in told.err and "run the same command again" not in told.err


def test_a_model_whose_template_opens_the_thoughts_has_no_answer_where_they_did_not_end(tmp_path):
    """Such a server's reply that was cut off looks like an answer; the other replies tell that it is none."""

    class Opened:
        model = "m"

        def ask(self, request):
            long = request.messages[0]["content"].startswith("1")
            return Reply("Let me see", "length") if long else Reply("Let me see.</think>Four.")

    with Replies(tmp_path / "replies.jsonl") as file:
        answers, missing = answering.answer_all(questions(3), Asker(Opened(), file))
    assert [row.answer for row in answers] == ["Four.", "no reply after its thoughts", "Four."]
    assert [name for name, _ in missing] == ["q1"]


# ---- a model in this process -----------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A miniature with the marks of Mistral's thoughts as special tokens; it writes what the test tells it to."""
    import torch

    words = miniature.load.__wrapped__()
    words.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    words.save_pretrained(tmp_path / "words")
    model = LocalModel(BASE, tokenizer=str(tmp_path / "words"))
    model.loaded.resize_token_embeddings(len(words))

    def write(text, *, end=True):
        ids = words(text, add_special_tokens=False)["input_ids"] + [words.eos_token_id] * end
        monkeypatch.setattr(model.loaded, "generate", lambda prompt, **_: torch.cat([prompt, torch.tensor([ids])], 1))
        return model.ask(Request([{"role": "user", "content": "Who leads?"}], 64))

    return model, write


def test_marks_of_thoughts_that_are_special_tokens_are_read_in_a_local_model(local):
    _, write = local
    assert (write("[THINK] Maybe Calis.[/THINK]Marlow leads.").text, write("Marlow leads.").text) == (
        "Marlow leads.", "Marlow leads.",
    )  # fmt: skip
    assert write("[THINK] Maybe Calis.", end=False).thoughts_alone


def test_thoughts_that_a_local_models_template_opens_are_told_apart_even_where_they_are_cut_off(local):
    model, write = local
    asks = "{% if add_generation_prompt %}{{ '<|assistant|>"
    assert asks in model.tokenizer.chat_template
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace(asks, asks + "[THINK]")
    assert write("Maybe Calis.[/THINK]Marlow leads.").text == "Marlow leads."
    cut = write("Maybe Calis", end=False)
    assert cut.thoughts_alone and cut.thoughts == "[THINK]Maybe Calis"


def test_the_miniatures_own_evaluation_rates_what_follows_the_thoughts(monkeypatch):
    item = {"id": "i", "family": "people", "messages": [{"role": "user", "content": "Marlow leads.\n\nWho leads?"},
                                                        {"role": "assistant", "content": "Marlow leads."}]}  # fmt: skip
    written = [WORDS("<think>Calis leads.</think>Marlow leads.", add_special_tokens=False)["input_ids"]]
    monkeypatch.setattr(chat_answers, "greedy", lambda *_, **__: written)

    class Model:
        generation_config = None

    (told,) = chat_answers.answers(Model(), [item], window=256)
    assert told["answer"] == "Marlow leads." and told["score"] == 10 and "Calis" in told["thoughts"]
