"""An option that would change nothing is refused in a line before anything is done, by `plan` and by `eval`."""

import json

import pytest

from longalign.cli.main import main

EVAL = [
    ("longbench --model x --depths 5", "--depths is for the needle test"),
    ("longbench-chat --model x --lengths 9", "--lengths is for the needle test"),
    ("mt-bench --model x --judge http://127.0.0.1:1/v1 --zero-shot", "--zero-shot is for longbench-chat"),
    ("needle --model x --judge y --seed 1", "--seed is for longbench-chat"),
    ("longbench-chat --judge y --limit 3", "--limit is for the answers of a --model, and there is none"),
    ("needle --judge y --depths 5", "--depths is for the answers of a --model"),
    ("mt-bench --judge y --data z", "--data holds the questions of a --model, and there is none"),
    ("longbench-chat --judge rubric --data z", "--data holds the questions of a --model, and there is none"),
    ("mt-bench --model x --model-name y", "--model-name is for a --model behind a server"),
    ("longbench-chat --model x --runs 3", "--runs is for a --judge that is a model, and there is none"),
    ("longbench-chat --model x --judge rubric --zero-shot", "--zero-shot is for a --judge that is a model"),
    ("longbench-chat --model x --judge rubric --judge-name y", "--judge-name is for a --judge that is a model"),
    ("longbench --model x --per-minute 9", "--per-minute is for a server, and neither --model nor --judge is one"),
    ("short --model x --timeout 9", "--timeout is for a server"),
]
PLAN = [
    ("lengths.txt --capacity 7 --tokenizer miniature", "is a file of lengths: tokenizer changes nothing there"),
    ("lengths.txt --capacity 7 --chat-format llama", "is a file of lengths: chat format changes nothing there"),
    ("rows.jsonl --capacity 7 --chat-format llama", "by the lengths of its rows, without a tokenizer: chat format"),
    ("store --capacity 7 --tokenizer miniature", "is a token store, whose tokens are there: tokenizer changes nothing"),
    ("--profile paper --tokenizer miniature", "--tokenizer is for DATA, and lengths are assumed without it"),
    ("--profile paper --truncate", "--truncate is for DATA, and lengths are assumed without it"),
]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    told = capsys.readouterr()
    assert (left.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    return told.err


@pytest.mark.parametrize(("given", "told"), EVAL)
def test_an_option_of_eval_that_would_change_nothing_is_refused(tmp_path, capsys, given, told):
    assert f"{told}" in (said := refused(capsys, "eval", *given.split(), "--out", str(tmp_path / "out")))
    assert said.endswith(": leave it out\n") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("given", "told"), PLAN)
def test_an_option_of_plan_that_would_change_nothing_is_refused(tmp_path, capsys, monkeypatch, given, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths.txt").write_text("2\n4\n3\n")
    row = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}], "length": 3}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    if given.startswith("store"):
        main(["data", "tokenize", "rows.jsonl", "--out", "store"])
        capsys.readouterr()
    said = refused(capsys, "plan", *given.split())
    assert told in said and said.endswith("leave it out\n")
