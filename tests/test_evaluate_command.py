"""longalign eval: answers and judgments as separate steps, scores in tidy files, one line for every refusal."""

import copy
import csv
import json
import shutil

import pytest

from chat_tokenizers import byte_tokenizer
from fault_server import by_chance, serving
from longalign.cli import main
from longalign.clients.local_model import check_template
from longalign.common import paths
from longalign.evals.benchmarks import needle
from longalign.experiments.evaluations import COLUMNS
from longalign.miniature import token_length
from longalign.miniature import tokenizer as miniature
from longalign.self_instruct import documents

BASE = str(paths.bases() / "mini-7b")
KEY = "sk-" + "planted-0123456789abcdef"


def run(benchmark, *arguments, model=None):
    """The exit status of a command line; `model` is asked with a window that its answers fit into."""
    given = () if model is None else ("--model", model, "--window", 512)
    try:
        return main.main(["eval", benchmark, *map(str, (*given, *arguments))])
    except SystemExit as stopped:
        return stopped.code


def items(folder):
    with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary(folder):
    return json.loads((folder / "summary.json").read_text())["results"]


def test_a_model_is_asked_and_judged_in_one_command_or_in_two(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    asked = ("longbench-chat", "--model", BASE, "--window", 512, "--limit", 7)
    assert run(*asked, "--judge", "rubric", "--out", one) == 0
    told = capsys.readouterr().out
    assert "7 answers; " in told and "95 % interval" in told and "smallest difference" in told
    assert run(*asked, "--out", two) == 0 and "not judged yet" in capsys.readouterr().out
    assert not (two / "items.csv").exists()
    assert run("longbench-chat", "--judge", "rubric", "--out", two) == 0
    assert (two / "items.csv").read_bytes() == (one / "items.csv").read_bytes()
    rows = items(one)
    assert list(rows[0]) == list(COLUMNS) and {row["metric"] for row in rows} == {"score"} and len(rows) == 7
    groups = [mean["group"] for mean in summary(one)["score"]]
    assert groups[0] == "all" and set(groups[1:]) == {"English", "Chinese"}


def test_a_model_and_a_judge_behind_servers_answer_whatever_fails_and_no_key_gets_out(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MODEL_API_KEY", KEY)
    monkeypatch.setenv("JUDGE_API_KEY", KEY[::-1])
    faults = by_chance(0.3, kinds=("500", "cut", "error body", "no choices"))
    monkeypatch.setattr("longalign.clients.client.LONGEST_BACKOFF", 0.05)
    answers = (lambda _: f"my key is {KEY}", lambda _: "[[4]]")
    with serving(faults, answer=answers[0]) as model, serving(faults, answer=answers[1]) as judge:
        status = run("longbench-chat", "--model", model.url, "--judge", judge.url, "--limit", 8, "--out", tmp_path)
        assert status == 0 and model.authorizations == {f"Bearer {KEY}"}
        assert sum(judge.paid.values()) == 16, "two runs of eight"
        assert run("longbench-chat", "--model", model.url, "--judge", judge.url, "--limit", 8, "--out", tmp_path) == 0
        assert sum(model.paid.values()) == 8 and sum(judge.paid.values()) == 16, "nothing is paid twice"
    assert [row["value"] for row in items(tmp_path)] == ["4"] * 8
    told = capfd.readouterr()
    assert "the judge will get 16 requests" in told.err and "no price given" in told.err
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    for secret in (KEY, KEY[::-1]):
        assert secret not in written + told.out + told.err


def test_answers_that_are_empty_are_counted(tmp_path, capsys):
    with serving(answer=lambda text: "" if len(text) % 2 else "a") as server:
        assert run("longbench-chat", "--model", server.url, "--limit", 6, "--out", tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    empty = sum(row["answer"] == "" for row in rows)
    assert 0 < empty < 6 and f"longalign: {empty} answers are empty" in capsys.readouterr().err


def test_a_recorded_judge_needs_no_key_and_gives_the_same_scores(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    asked = ("longbench-chat", "--model", BASE, "--window", 512, "--limit", 3)
    with serving(answer=lambda text: f"[[{1 + len(text) % 9}]]") as judge:
        assert run(*asked, "--judge", judge.url, "--out", first) == 0
    assert run(*asked, "--judge", first / "judge.replies.jsonl", "--out", second) == 0
    assert (second / "items.csv").read_bytes() == (first / "items.csv").read_bytes()
    assert (second / "judgments.jsonl").read_bytes() == (first / "judgments.jsonl").read_bytes()


def test_ratings_that_cannot_be_read_are_missing_counted_and_told_by_the_exit_status(tmp_path, capsys):
    with serving(answer=lambda text: "[[7]]" if len(text) % 2 else "ten out of ten") as judge:
        asked = ("--limit", 6, "--runs", 1, "--judge", judge.url, "--out", tmp_path)
        status = run("longbench-chat", *asked, model=BASE)
    found = summary(tmp_path)
    missing = found["without a rating"]["no rating"]
    assert status == 1 and 0 < missing < 6 and found["score"][0]["missing"] == missing
    assert f"judgments without a rating: {missing} (no rating)" in capsys.readouterr().out
    assert {row["value"] for row in items(tmp_path)} == {"7"}


def test_why_a_judge_gave_no_reply_is_told(tmp_path, capsys):
    with serving(lambda question, attempt: "400") as judge:
        asked = ("--limit", 2, "--runs", 1, "--judge", judge.url, "--out", tmp_path)
        assert run("longbench-chat", *asked, model=BASE) == 1
    told = capsys.readouterr()
    assert "judgments without a rating: 2 (no reply)" in told.out
    assert f"longalign: no reply: {judge.url} answered 400 (told 400" in told.err


def test_a_judge_that_nobody_reaches_leaves_the_scores_of_the_one_before(tmp_path, capsys):
    assert run("longbench-chat", "--limit", 2, "--judge", "rubric", "--out", tmp_path, model=BASE) == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("judgments.jsonl", "items.csv", "summary.json")}
    with serving(lambda *_: "401") as judge:
        assert run("longbench-chat", "--judge", judge.url, "--out", tmp_path) == 2
    told = capsys.readouterr().err
    assert "the judge rated no answer" in told and "JUDGE_API_KEY to a valid key" in told and "stay" in told
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_the_official_prompt_is_used_where_it_lies_beside_the_questions(tmp_path, capsys):
    data = tmp_path / "official"
    data.mkdir()
    (data / "test_cases.json").write_text(json.dumps([{"idx": 1, "prompt": "T.\n\nQ?", "query": "Q?", "answer": "A"}]))
    (data / "few_shots.json").write_text(json.dumps([[{"answer": f"a{s}", "score": s} for s in (1, 5, 10)]]))
    (data / "prompt_fs.txt").write_text("OFFICIAL {} {}" + " {} [[{}]]" * 3 + " {}")
    with serving(answer=lambda text: "[[5]]" if text.startswith("OFFICIAL Q? A") else "[[1]]") as judge:
        asked = ("longbench-chat", "--data", data, "--model", BASE, "--window", 512, "--judge", judge.url)
        assert run(*asked, "--out", tmp_path / "few") == 0
        assert run(*asked, "--zero-shot", "--out", tmp_path / "zero") == 0
        later = ("longbench-chat", "--judge", judge.url, "--out", tmp_path / "few")
        assert run(*later) == 2  # the miniature's question of this number, and its scored answers, are others
        assert "test_cases.json asks something else in chat-1 than was answered in" in capsys.readouterr().err
        assert run(*later, "--zero-shot") == 0 == run(*later, "--data", data)
    assert items(tmp_path / "few")[0]["value"] == "5" and items(tmp_path / "zero")[0]["value"] == "1"


def test_longbench_has_string_metrics_always_and_ratings_from_0_to_100_with_a_judge(tmp_path):
    assert run("longbench", "--limit", 12, "--judge", "rubric", "--out", tmp_path, model=BASE) == 0
    rows = items(tmp_path)
    metrics = {row["metric"] for row in rows}
    assert {"rating"} < metrics <= {"qa_f1_score", "qa_f1_zh_score", "rouge_score", "rouge_zh_score", "rating"}
    assert all(0 <= float(row["value"]) <= 100 for row in rows)


def test_needles_in_generated_and_in_own_texts(tmp_path, capsys):
    size = ("--lengths", 64, 100, "--depths", 2, "--window", 512)
    assert run("needle", "--model", BASE, *size, "--out", tmp_path / "generated") == 0
    assert len(items(tmp_path / "generated")) == 12 and "100 tokens" in capsys.readouterr().out
    text = tmp_path / "text.md"
    text.write_text("Marlow leads here. Nobody spoke of the harbour. " * 30)
    hidden = ("--needle", "The word is lantern.", "--question", "What is the word?", "--answer", "lantern")
    assert run("needle", "--model", BASE, *size, "--haystack", text, *hidden, "--out", tmp_path / "own") == 0
    assert len(items(tmp_path / "own")) == 4


def test_other_answers_take_the_judgments_of_the_first_away_and_the_record_names_both_models(tmp_path):
    judged = ("--judge", "rubric", "--out", tmp_path)
    assert run("longbench-chat", "--limit", 3, *judged, model=BASE) == 0
    told = json.loads((tmp_path / "summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {line["model"] for line in lines} == {told["answered by"]} and told["judged by"] == "rubric"
    assert len(told["data_hash"]) == 16
    assert run("longbench-chat", "--limit", 2, "--out", tmp_path, model=BASE) == 0
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["answers.jsonl", "model.replies.jsonl"]


def test_questions_without_an_answer_are_missing_in_the_table_and_in_every_later_judgment(tmp_path, capsys):
    with serving(lambda text, _: "400" if "people" in text.rsplit("\n\n")[-1] else None) as model:
        assert run("longbench-chat", "--model", model.url, "--out", tmp_path) == 1
    refused = sum("400" in line for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert run("longbench-chat", "--judge", "rubric", "--out", tmp_path) == 1
    everything = summary(tmp_path)["score"][0]
    assert 0 < refused == everything["missing"] == 50 - everything["questions"]


def test_questions_without_an_answer_are_missing_in_their_string_metric(tmp_path):
    with serving(lambda text, _: "400" if "Make a table" in text else None) as model:
        assert run("longbench", "--model", model.url, "--out", tmp_path) == 1
    refused = sum("400" in line for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    told = {metric: means for metric, means in summary(tmp_path).items() if metric.endswith("_score")}
    assert 0 < refused == sum(means[0]["missing"] for means in told.values())
    assert refused == 30 - sum(means[0]["questions"] for means in told.values())


def test_a_needle_that_would_be_cut_out_is_refused_before_anything_is_asked(tmp_path, capsys):
    text = tmp_path / "text.md"
    text.write_text("Marlow leads here. Nobody spoke of the harbour. " * 60)
    size = ("--lengths", 290, "--depths", 5, "--haystack", text, "--out", tmp_path / "out")
    assert run("needle", "--model", BASE, "--window", 300, *size) == 2
    assert "give shorter --lengths" in capsys.readouterr().err


def test_a_haystack_says_what_it_leaves_out_and_takes_any_language(tmp_path, capsys):
    hay, own = tmp_path / "hay", ("--needle", "Die Zahl ist 42.", "--question", "Welche?", "--answer", "42")
    hay.mkdir()
    (hay / "de.txt").write_text("Der Hafen war alt und grau. Niemand sah das Schiff vom Meer herein kommen.")
    (hay / "latin.txt").write_bytes("Café am Fluß".encode("latin-1"))
    size = ("--lengths", 120, "--depths", 1, "--haystack", hay, "--out", tmp_path / "out")
    assert run("needle", *size, *own, model=BASE) == 0
    told = capsys.readouterr().err
    assert "left out: latin.txt: not UTF-8" in told and "made of 1 texts (1 left out)" in told
    assert "Hafen" in needles(hay, *own) and "Niemand" in needles(hay, *own)
    (hay / "de.txt").unlink()
    assert run("needle", *size, *own, model=BASE) == 2
    assert "holds no text: latin.txt: not UTF-8" in capsys.readouterr().err


def needles(folder, *own):
    """The prompts of a haystack in one text, as the command makes them."""
    texts, _ = documents.read([folder], spoken=())
    given = dict(zip(("needle", "question", "answer"), own[1::2], strict=True))
    made = needle.in_texts([text.text for text in texts], miniature.load(), lengths=[120], depths=2, **given)
    return "\n".join(question.turns[0] for question in made)


def test_an_answer_longer_than_a_reply_may_be_is_refused(tmp_path, capsys):
    text, answer = tmp_path / "text.md", "a very long answer " * 9
    text.write_text("Marlow leads here. Nobody spoke of the harbour. " * 60)
    own = ("--needle", f"It is {answer}.", "--question", "What is it?", "--answer", answer)
    size = ("--lengths", 300, "--depths", 1, "--haystack", text, "--out", tmp_path / "out")
    assert run("needle", *own, *size, model=BASE) == 2
    assert "and a reply has 32 at most in a window of 512: give a shorter --answer" in capsys.readouterr().err


def test_both_turns_of_mt_bench_are_judged(tmp_path):
    with serving(answer=lambda text: "[[9]]" if "User: " in text else "[[1]]") as judge:
        assert run("mt-bench", "--limit", 2, "--judge", judge.url, "--out", tmp_path, model=BASE) == 0
    assert [row["item"] for row in items(tmp_path)] == ["mt-1-1", "mt-1-2", "mt-6-1", "mt-6-2"]
    assert [mean["group"] for mean in summary(tmp_path)["score"]] == ["all", "turn 1", "turn 2"]


def test_a_dry_run_says_what_would_be_asked_and_asks_nothing(tmp_path, capsys):
    with serving() as model:
        assert run("longbench-chat", "--model", model.url, "--price", 10, 30, "--dry-run", "--out", tmp_path) == 0
        assert not model.attempts
    told = capsys.readouterr().err
    assert "the model will get 50 requests" in told and "at most; about" in told
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("longbench-chat",), "name a model (--model)"),
        (("longbenchchat", "--model", "x"), "did you mean longbench-chat?"),
        (("longbench-chat", "--model", "./nowhere"), "--model ./nowhere: there is no such folder"),
        (("longbench-chat", "--model", f"{BASE}/config.json"), "config.json: it is a file; name the folder"),
        (("longbench-chat", "--model", BASE, "--lengths", "9"), "--lengths is for the needle test"),
        (("needle", "--model", BASE), "give the lengths"),
        (("short", "--model", "http://127.0.0.1/v1"), "log-likelihoods"),
        (("needle", "--model", BASE, "--lengths", "64", "--needle", "x"), "--needle needs --haystack"),
        (("needle", "--model", BASE, "--lengths", "64", "--data", "x"), "name the texts that hide the needle with"),
        (("longbench-chat", "--judge", "rubric"), "answers.jsonl: cannot be read"),
        (("longbench-chat", "--model", "http://127.0.0.1:1/v1"), "nothing answers at http://127.0.0.1:1/v1"),
        (("longbench-chat", "--model", "http://127.0.0.1:1/v1", "--window", "100"), "needs --tokenizer"),
        (("longbench-chat", "--model", BASE, "--data", "nowhere"), "test_cases.json: cannot be read"),
        (("longbench-chat", "--model", BASE, "--runs", "0"), "not a positive whole number"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_with_status_2(arguments, says, tmp_path, capsys):
    assert run(*arguments, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and told.startswith("longalign: ")


def test_answers_are_not_written_among_the_questions(tmp_path, capsys):
    (tmp_path / "qasper.jsonl").write_text('{"input": "Who?"}\n')
    assert run("longbench", "--data", f"{tmp_path}/.", "--out", tmp_path, model=BASE) == 2
    assert "is the folder of --data, whose files are read as questions" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["qasper.jsonl"]


def test_a_judge_that_is_no_file_and_answers_of_another_benchmark_are_refused(tmp_path, capsys):
    assert run("needle", "--lengths", 64, 64, "--depths", 1, "--out", tmp_path, model=BASE) == 0  # asked once
    assert run("longbench-chat", "--judge", "rubric", "--out", tmp_path) == 2
    assert "holds answers of needle" in capsys.readouterr().err
    there = (tmp_path / "answers.jsonl").read_bytes()
    assert run("mt-bench", "--out", tmp_path, model=BASE) == 2
    assert "holds answers of needle" in capsys.readouterr().err
    assert (tmp_path / "answers.jsonl").read_bytes() == there
    assert run("needle", "--judge", "no-such-file", "--out", tmp_path) == 2
    assert "no such file or folder" in capsys.readouterr().err


def raises(error):
    def failing(*_, **__):
        raise error

    return failing


def test_the_short_tasks_and_other_benchmarks_do_not_write_over_each_other(tmp_path, capsys, monkeypatch):
    from longalign.evals.benchmarks import harness

    (tmp_path / "answers.jsonl").write_text("{}\n")
    (tmp_path / "items.csv").write_text("of the needles")
    assert run("short", "--out", tmp_path, model=BASE) == 2
    assert "holds answers of another benchmark: name another folder" in capsys.readouterr().err
    assert (tmp_path / "items.csv").read_text() == "of the needles"
    (tmp_path / "answers.jsonl").unlink()
    row = {"benchmark": "short", "task": "arc", "length": 0, "item": "a", "metric": "accuracy", "value": 1.0}
    monkeypatch.setattr(harness, "evaluate", lambda *_, tasks, **__: [row | {"task": tasks[0]}])
    monkeypatch.setattr(harness, "means", lambda rows: {row["task"]: 100.0 for row in rows})
    assert run("short", "--out", tmp_path, model=BASE) == 0
    scores = (tmp_path / "items.csv").read_text()
    monkeypatch.setattr(harness, "evaluate", raises(OSError("no connection")))
    assert run("short", "--out", tmp_path, "--limit", 1, model=BASE) == 2  # and the scores that are there stay
    assert (tmp_path / "items.csv").read_text() == scores and (tmp_path / "summary.json").is_file()
    capsys.readouterr()
    assert run("needle", "--out", tmp_path, "--lengths", 128, model=BASE) == 2
    assert "holds the scores of short" in capsys.readouterr().err and (tmp_path / "items.csv").read_text() == scores


@pytest.mark.parametrize("chat_format", ["llama", "chatglm"])
def test_a_model_that_learnt_one_of_longaligns_formats_needs_no_template(chat_format):
    own = copy.deepcopy(miniature.load())
    own.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        check_template(own, "m")
    own.init_kwargs["chat_format"] = chat_format
    check_template(own, "m")


def test_a_tokenizer_without_a_template_is_refused_without_an_option_that_eval_lacks(tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(BASE, model)
    byte_tokenizer(None).save_pretrained(model)
    assert run("longbench-chat", "--out", tmp_path / "out", model=model) == 2
    told = capsys.readouterr().err
    assert "its tokenizer has no chat template" in told and "--chat-format" not in told


def test_needles_that_no_generated_document_is_short_enough_for_name_the_option(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(token_length, "MOST_DRAWS", 2)
    assert run("needle", "--lengths", 9, "--depths", 1, "--out", tmp_path, model=BASE) == 2
    told = capsys.readouterr().err
    assert "no text of at most" in told and "take longer --lengths" in told and "profile" not in told
