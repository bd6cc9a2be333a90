"""Reasoning models as teachers, judges and models under test: their thoughts are kept, and are not their reply."""

import json
from dataclasses import asdict

import pytest

from fault_server import serving
from longalign.cli import main
from longalign.clients.client import Asker
from longalign.clients.local_model import LocalModel
from longalign.clients.reply_store import Replies, Reply, Request
from longalign.common import paths
from longalign.evals import chat_answers
from longalign.evals.benchmarks import answering
from longalign.evals.benchmarks.questions import Question, read_answers
from longalign.miniature import tokenizer as miniature
from thinking import RATING, says

BASE = str(paths.bases() / "mini-7b")
WORDS = miniature.load()
QUESTIONS = "<think>\nQuestions, then.\n1. Maybe about the mill?\n</think>\n\n" + "\n".join(
    f"{n}. What does the text say about the {word}?"
    for n, word in enumerate(("harbour", "bridge", "market", "school", "tower"), 1)
)
ANSWER = "<think>\nLet me look at the document.\n</think>\n\nThe harbour was built of stone and the mill is beside it."


def run(*arguments):
    """The exit status of a command line."""
    try:
        return main.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code


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
