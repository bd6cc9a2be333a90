"""`longalign eval` scores answers that another program has written, or refuses them in a sentence."""

import json

import pytest

from longalign.data.chinese import language_of
from test_evaluate_command import BASE, items, run, summary

ROW = {"id": "a", "question": "a", "model": "mine", "benchmark": "longbench_chat", "task": "x", "language": "en",
       "length": 0, "query": "Who?", "references": ["Marlow."], "ordered": False, "answer": "Marlow.", "finish": "stop",
       "truncated": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("benchmark", "rows", "says"),
    [
        ("longbench-chat", [{"references": [42]}], "line 1, field references: no reference (references is a list of"),
        ("longbench-chat", [{}, {"id": "b", "benchmark": "mt_bench"}], "holds answers of mt-bench"),
        ("longbench-chat", [{"finish": "missing"}], "has an answer: there is nothing to score"),
        ("needle", [{"finish": "error"}], "field finish: unknown finish ('error'; it is 'stop', 'length' if"),
        ("needle", [{"length": -8}], "line 1, field length: below zero (-8 tokens)"),
        ("longbench", [{"task": "trec"}], "answers.jsonl, field task: unknown dataset ('trec'; one of narrativeqa"),
        ("longbench", [{"task": "qasper", "references": []}], "answer 'a' has no reference"),
        ("needle", [{"references": []}], "answer 'a' has no reference"),
        ("needle", [{"references": [" "]}], "answer 'a' has no reference"),
        ("needle", [{"references": ["42", ""]}], "answer 'a' has no reference"),
        ("needle", [{}, {"id": "b", "model": "other"}], "answers of several models (mine, other): give each"),
    ],
)  # fmt: skip
def test_answers_from_elsewhere_that_cannot_be_scored_are_refused_in_a_sentence(
    benchmark, rows, says, tmp_path, capsys
):
    with (tmp_path / "answers.jsonl").open("w") as file:
        file.writelines(json.dumps({**ROW, "benchmark": benchmark.replace("-", "_"), **row}) + "\n" for row in rows)
    assert run(benchmark, "--out", tmp_path, *(("--judge", "rubric") if benchmark == "longbench-chat" else ())) == 2
    assert says in (told := capsys.readouterr().err) and len(told.splitlines()) == 1
    assert not (tmp_path / "summary.json").exists()


def test_a_needle_from_elsewhere_is_found_where_one_of_its_references_is(tmp_path):
    rows = [{"id": name, "answer": said, "references": ["42", "forty-two"]}
            for name, said in (("a", "Forty-two."), ("b", "42"), ("c", "43"))]  # fmt: skip
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps({**ROW, "benchmark": "needle", **row}) + "\n"
                                                    for row in rows))  # fmt: skip
    assert run("needle", "--out", tmp_path) == 0
    assert [row["value"] for row in items(tmp_path)] == ["1", "1", "0"]


def test_somebodys_own_answers_are_not_written_over(tmp_path, capsys):
    (tmp_path / "answers.jsonl").write_text('{"student": "Ann", "answer": "42"}\n')
    assert run("needle", "--lengths", 64, "--depths", 1, "--out", tmp_path, model=BASE) == 2
    assert "did not write the file: name another folder" in capsys.readouterr().err
    assert "Ann" in (tmp_path / "answers.jsonl").read_text()


def test_questions_in_other_languages_are_not_counted_as_english_or_chinese(tmp_path):
    asked = ("Who leads?", "谁领头？", "Кто ведёт?", "誰が率いますか。", "东京人口多少？", "누가 이끕니까?", "42?")
    rows = [{"id": str(n), "question": str(n), "query": text, "language": language_of(text)}
            for n, text in enumerate(asked)]  # fmt: skip
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps({**ROW, **row}) + "\n" for row in rows))
    assert run("longbench-chat", "--judge", "rubric", "--out", tmp_path) == 0
    counted = {mean["group"]: mean["questions"] for mean in summary(tmp_path)["score"]}
    assert counted == {"all": 7, "English": 2, "Chinese": 2, "other languages": 3}
