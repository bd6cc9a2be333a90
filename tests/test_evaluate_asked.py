"""`longalign eval` asks what its options say, and counts it before."""

import json

from fault_server import serving
from test_evaluate_command import BASE, items, run


def test_depths_that_fall_together_and_haystacks_that_are_too_short_are_told(tmp_path, capsys):
    long, short = tmp_path / "long.txt", tmp_path / "short.txt"
    long.write_text(("The fish " + "and the harbour " * 15 + "are old. ") * 4)
    short.write_text("The fish are old. The harbour is new. " * 40)
    for text, places in ((long, 2), (short, 5)):
        size = ("--lengths", 300, "--depths", 5, "--haystack", text, "--out", tmp_path / text.stem)
        own = ("--needle", "The boat is blue.", "--question", "What is the boat?", "--answer", "blue")
        assert run("needle", *size, *own, model=BASE) == 0
        told = capsys.readouterr().err
        assert (f"and {places} places for 5 depths" in told) == (places < 5)


def test_every_turn_of_mt_bench_is_counted_before_it_is_asked(tmp_path, capsys):
    questions = tmp_path / "question.jsonl"
    rows = [{"question_id": 1, "turns": ["One?", "And two?"]}, {"question_id": 2, "turns": ["Three?"]}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    with serving(answer=lambda text: "A word. ") as model:
        command = ("mt-bench", "--model", model.url, "--data", questions, "--out", out)
        assert run(*command, "--dry-run") == 0
        assert "will get 3 requests: 1,029 tokens of prompts, replies of 3,072 at most" in capsys.readouterr().err
        assert run(*command) == 0 and sum(model.paid.values()) == 3
        replies = (out / "model.replies.jsonl").read_text().splitlines(keepends=True)
        (out / "model.replies.jsonl").write_text("".join(line for line in replies if "mt-1-2" not in line))
        capsys.readouterr()
        assert run(*command, "--dry-run") == 0
    assert "1 requests (2 more have their reply): 5 tokens of prompts, replies of 1,024" in capsys.readouterr().err


def test_a_question_of_one_turn_is_shown_to_the_judge_of_mt_bench(tmp_path):
    (tmp_path / "question.jsonl").write_text(json.dumps({"question_id": 7, "turns": ["Who guards the harbour?"]}))
    with serving(answer=lambda text: "[[9]]" if "Who guards the harbour?" in text else "[[1]]") as judge:
        files = ("--data", tmp_path / "question.jsonl", "--out", tmp_path / "out")
        assert run("mt-bench", *files, "--judge", judge.url, model=BASE) == 0
    assert [row["value"] for row in items(tmp_path / "out")] == ["9"]
