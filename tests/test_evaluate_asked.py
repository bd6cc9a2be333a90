"""`longalign eval` asks what its options say, and counts it before."""

import json
import math

from fault_server import serving
from longalign.evals.benchmarks import harness
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


def test_a_short_task_that_is_done_is_not_computed_again(tmp_path, monkeypatch, capsys):
    """Of the same model, data and settings; a killed command loses the task that it was at."""
    done, killed_at = [], "mmlu"

    def evaluate(*_, tasks, **__):
        if tasks[0] == killed_at:
            raise KeyboardInterrupt
        done.append(tasks[0])
        return [{"benchmark": "short_tasks", "task": task, "length": 0, "item": f"{task}-0", "metric": "acc",
                 "value": math.nan if task == "arc" else 1.0} for task in tasks]  # fmt: skip

    monkeypatch.setattr(harness, "evaluate", evaluate)
    data = tmp_path / "data"
    (data / "arc").mkdir(parents=True)
    (data / "arc" / "test.jsonl").write_text("{}\n")
    command = ("short", "--out", tmp_path / "out", "--data", data)
    assert run(*command, model=BASE) == 130
    assert done == ["arc", "hellaswag", "truthfulqa"]
    killed_at = "nothing"
    assert run(*command, model=BASE) == 0 and done == [*harness.SHORT_TASKS]
    assert "arc, hellaswag, truthfulqa: scored already, and not computed again" in capsys.readouterr().err
    scores, summary = ((tmp_path / "out" / name).read_bytes() for name in ("items.csv", "summary.json"))
    killed_at = "hellaswag"
    assert run(*command, model=BASE) == 0, "nothing is computed, so nothing that is there can be lost"
    assert (tmp_path / "out" / "items.csv").read_bytes() == scores and b"mmlu" in summary
    killed_at = "nothing"
    for other in (("--limit", 1), ("--window", 256)):
        done.clear()
        assert run(*command, *other, model=BASE) == 0 and len(done) == 4, other
    (data / "arc" / "test.jsonl").write_text("{} \n")
    done.clear()
    assert run(*command, "--window", 256, model=BASE) == 0 and len(done) == 4
