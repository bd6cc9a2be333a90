"""The published benchmarks: files read or refused by place, metrics, the miniature."""

import json
import socket
from pathlib import Path

import pytest

from benchmark_answers import Says, answer
from longalign.clients.client import Asker
from longalign.clients.reply_store import Replies
from longalign.data.jsonl import DataError
from longalign.evals import rubric
from longalign.evals.benchmarks import answering, longbench, longbench_chat, mt_bench, shipped
from longalign.evals.benchmarks.catalogue import BENCHMARKS
from longalign.evals.benchmarks.questions import Answer
from longalign.evals.judges.prompts import SCALES
from longalign.experiments.evaluations import COLUMNS

# ---- the shipped miniature, in the published formats -----------------------------------------------------------------


def test_the_shipped_files_are_those_that_the_generator_writes_now():
    folder = Path(shipped.__file__).parent / "data"
    for name, text in shipped.files().items():
        told = f"{name}: python -m longalign.evals.benchmarks.shipped"
        assert (folder / name).read_text(encoding="utf-8") == text, told


def test_the_miniature_of_longbench_chat_has_fifty_questions_ten_of_them_chinese_with_three_scored_answers():
    questions, examples = longbench_chat.questions(), longbench_chat.examples()
    assert len(questions) == 50 == len(examples) and sum(q.language == "zh" for q in questions) == 10
    for q in questions:
        shots = examples[q.id]
        assert len(shots) == 3 and all(1 <= score <= 10 for _, score in shots)
        assert q.turns[0].endswith(f"\n\n{q.query}")
        for text, score in shots:
            assert rubric.points(text, q.references[0], ordered=q.ordered) == score, "known by construction"
    assert len({score for shots in examples.values() for _, score in shots}) >= 6


def test_the_miniature_has_no_more_than_the_official_fields_and_two():
    rows = json.loads((longbench_chat.SHIPPED / "test_cases.json").read_text())
    assert all(set(row) == {"idx", "prompt", "query", "answer", "category", "ordered"} for row in rows)
    assert [row["idx"] for row in rows] == list(range(1, 51))


# ---- LongBench-Chat --------------------------------------------------------------------------------------------------


def official(folder, cases, shots=None):
    folder.mkdir(exist_ok=True)
    (folder / "test_cases.json").write_text(cases if isinstance(cases, str) else json.dumps(cases))
    if shots is not None:
        (folder / "few_shots.json").write_text(json.dumps(shots))
    return folder


CASE = {"idx": 1, "prompt": "Text.\n\nWho leads?", "query": "Who leads?", "answer": "Calis."}


def test_official_files_are_read_as_they_are(tmp_path):
    shots = [[{"answer": "a", "score": 10}, {"answer": "b", "score": "3"}, {"answer": "c", "score": 1.0}]]
    folder = official(tmp_path / "o", [CASE, {**CASE, "idx": 2, "query": "谁领头？"}], shots)
    first, second = longbench_chat.questions(folder)
    assert (first.id, first.language, first.task) == ("chat-1", "en", "longbench_chat") and second.language == "zh"
    assert longbench_chat.examples(folder) == {"chat-1": (("a", 10), ("b", 3), ("c", 1))}
    assert longbench_chat.template(folder) == ""
    (folder / "prompt_fs.txt").write_text("Rate {}")
    assert longbench_chat.template(folder) == "Rate {}"


@pytest.mark.parametrize(
    ("cases", "says"),
    [("[", "test_cases.json: not JSON"), ("{}", "not a list"), ([], "not a list"), (["x"], r"field \[0\].idx"),
     ([{**CASE, "answer": None}], r"field \[0\].answer: no question"),
     ([CASE, CASE], "test_cases.json: id occurs twice")],
)  # fmt: skip
def test_a_wrong_file_of_questions_is_refused_by_place(tmp_path, cases, says):
    with pytest.raises(DataError, match=says):
        longbench_chat.questions(official(tmp_path / "o", cases))


@pytest.mark.parametrize(
    ("shots", "says"),
    [([[{"answer": "a", "score": 3}]], "not three answers"),
     ([[{"answer": "a", "score": s} for s in (1, 2, 11)]], r"\[0\]\[2\]: no scored answer .*from 1 to 10"),
     ([[{"answer": "a", "score": s} for s in (1, 2.5, 3)]], r"\[0\]\[1\]: no scored answer")],
)  # fmt: skip
def test_wrong_scored_answers_are_refused_by_place(tmp_path, shots, says):
    with pytest.raises(DataError, match=says):
        longbench_chat.examples(official(tmp_path / "o", [CASE], shots))


def test_missing_official_files_are_told_with_the_command_that_brings_them(tmp_path):
    with pytest.raises(DataError, match="longalign fetch --benchmark longbench-chat"):
        longbench_chat.questions(tmp_path)


# ---- LongBench -------------------------------------------------------------------------------------------------------


def test_the_miniature_of_longbench_has_the_three_groups_and_both_languages():
    questions = longbench.questions()
    groups = {longbench.GROUP_OF[q.task.removeprefix(longbench.MINIATURE)] for q in questions}
    assert groups == set(longbench.GROUPS) and {q.language for q in questions} == {"en", "zh"}
    assert len({q.id for q in questions}) == len(questions) == 30


ROW = {"input": "Who leads?", "context": "Calis leads. {{input}} {{question}}", "answers": ["Calis"], "length": 3,
       "dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": "7"}  # fmt: skip


def rows_file(tmp_path, *rows):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_an_official_row_gets_the_official_prompt_and_a_document_is_no_template(tmp_path):
    (found,) = longbench.questions(rows_file(tmp_path, ROW))
    assert (found.id, found.most_tokens, found.references) == ("hotpotqa-7", 32, ("Calis",))
    prompt = found.turns[0]
    assert prompt.startswith("Answer the question based on the given passages.") and prompt.endswith("Answer:")
    assert prompt.count("Calis leads. {{input}} {{question}}") == 1 and prompt.count("Who leads?") == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [({**ROW, "dataset": "trec"}, "line 1, field dataset: unknown dataset .*narrativeqa"),
     ({**ROW, "answers": []}, "field answers: no reference"), ({**ROW, "context": 3}, "field context")],
)  # fmt: skip
def test_a_wrong_row_of_longbench_is_refused_by_line_and_field(tmp_path, row, says):
    with pytest.raises(DataError, match=says):
        longbench.questions(rows_file(tmp_path, row))


def test_datasets_of_other_groups_are_passed_over(tmp_path):
    for name in ("trec", "passage_retrieval_en", "repobench-p", "qasper_e"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    assert len(longbench.questions(rows_file(tmp_path, ROW))) == 1


def test_a_folder_without_rows_is_told_what_belongs_there(tmp_path):
    with pytest.raises(DataError, match="data.zip"):
        longbench.questions(tmp_path)


@pytest.mark.parametrize(
    ("task", "text", "reference", "metric", "value"),
    [("hotpotqa", "The Calis, he!", "calis he", "qa_f1_score", 100.0),  # articles, case and marks do not count
     ("hotpotqa", "Calis leads here", "Calis guards", "qa_f1_score", 40.0),  # 1 of 3 and 1 of 2 words: F1 = 0.4
     ("gov_report", "a b c d", "a b x d", "rouge_score", 75.0),  # longest common subsequence 3 of 4 and 4
     ("multifieldqa_zh", "王安领头", "王安领头", "qa_f1_zh_score", 100.0), ("qasper", "", "Calis", "qa_f1_score", 0.0)],
)  # fmt: skip
def test_the_official_metrics_give_what_is_reckoned_by_hand(task, text, reference, metric, value):
    (row,) = longbench.metrics([answer(text, reference, task)])
    assert row["metric"] == metric and row["value"] == pytest.approx(value, abs=0.01) and set(row) == set(COLUMNS)


def test_the_best_of_several_references_counts():
    several = Answer(**(vars(answer("Calis", "No", "qasper")) | {"references": ("No", "Calis")}))
    assert longbench.metrics([several])[0]["value"] == 100


def test_each_of_the_twelve_datasets_has_prompt_bound_metric_group_and_scale():
    for name, group in longbench.GROUP_OF.items():
        settings = longbench._settings(name)
        assert "{{context}}" in settings["prompt"] and settings["most_tokens"] >= 32
        made = answer("x", "x", name)
        assert longbench.group_of(made) == group and longbench.scale_of(made) in SCALES


# ---- MT-Bench --------------------------------------------------------------------------------------------------------


def test_the_second_turn_of_mt_bench_is_asked_with_the_first_answer(tmp_path):
    model = Says()
    with Replies(tmp_path / "r.jsonl") as file:
        answers, missing = answering.answer_all(mt_bench.questions()[:2], Asker(model, file))
    assert not missing and [a.id for a in answers] == ["mt-1-1", "mt-1-2", "mt-2-1", "mt-2-2"]
    second = model.asked[1].messages
    assert [m["role"] for m in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == answers[0].answer == second[0]["content"].upper()
    assert answers[1].query.startswith("User: ") and f"\n\nAssistant: {answers[0].answer}\n\nUser: " in answers[1].query
    assert answers[0].references == (mt_bench.questions()[0].references[0],)


@pytest.mark.parametrize(
    ("row", "says"),
    [({"question_id": "1", "turns": ["a"]}, "field question_id"), ({"question_id": 1, "turns": []}, "field turns"),
     ({"question_id": 1, "turns": "a"}, "field turns"),
     ({"question_id": 1, "turns": ["a"], "reference": 2}, "field reference")],
)  # fmt: skip
def test_a_wrong_row_of_mt_bench_is_refused(tmp_path, row, says):
    with pytest.raises(DataError, match=says):
        mt_bench.questions(rows_file(tmp_path, row) / "x.jsonl")


def rouge_of(answer, reference):
    said = Answer("n", "n", "m", "longbench", "gov_report", "en", 0, "?", (reference,), False, answer, "stop", 0)
    return longbench.metrics([said])[0]["value"]


def test_rouge_of_long_texts_without_a_full_stop_is_their_rouge_and_not_0():
    answer, reference = ("start " + " ".join(f"{letter}{i}" for i in range(500)) for letter in "ab")
    assert rouge_of(answer, reference) == pytest.approx(100 / 501, rel=1e-3)


def test_an_interrupt_within_rouge_is_no_answer_worth_0_points(monkeypatch):
    def interrupted(*texts, **options):
        raise KeyboardInterrupt

    assert rouge_of("...", "a word") == 0
    monkeypatch.setattr(longbench._functions().rouge._rouge, "get_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rouge_of("a word", "a word")


def test_every_benchmark_of_the_catalogue_reads_its_miniature_without_a_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("no network is needed"))
    for benchmark in BENCHMARKS.values():
        if benchmark.read:
            assert benchmark.read(benchmark.shipped)
