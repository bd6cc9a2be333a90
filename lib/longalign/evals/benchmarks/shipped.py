"""The miniature's benchmarks in the published formats, as they are shipped: written by a command, the same every time.

    python -m longalign.evals.benchmarks.shipped

LongBench-Chat with three answers to each question whose scores are known by construction, LongBench under the names of
official prompts and metrics, MT-Bench from conversations.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from longalign.common import provenance
from longalign.evals import rubric
from longalign.evals.benchmarks import longbench
from longalign.miniature import benchmarks
from longalign.miniature.settings import Evaluation

WINDOW = 1024
LONGBENCH = {
    ("single-document-qa", "en"): "multifieldqa_en", ("single-document-qa", "zh"): "multifieldqa_zh",
    ("multi-document-qa", "en"): "hotpotqa", ("multi-document-qa", "zh"): "dureader",
    ("summarization", "en"): "qmsum", ("summarization", "zh"): "vcsum",
}  # fmt: skip
"""The official dataset that a task of the miniature stands for, by language."""
EVALUATION = Evaluation(longbench_per_task=10, short_per_task=10)


def files() -> dict[str, str]:
    """The content of every shipped file, by its path from the folder of data."""
    return {
        "longbench_chat/test_cases.json": _json([_case(i, item) for i, item in enumerate(_items("longbench_chat"), 1)]),
        "longbench_chat/few_shots.json": _json([scored(item, i) for i, item in enumerate(_items("longbench_chat"), 1)]),
        **{f"longbench/{name}.jsonl": text for name, text in _longbench().items()},
        "mt_bench/question.jsonl": _lines(_conversations()),
    }


def degraded(reference: str, *, seed: str, others: list[str]) -> list[str]:
    """Answers made worse step by step: the reference, one sentence wrong, half of it left out, nothing right.

    `others` are sentences that are wrong here. The rubric knows the score of each.
    """
    random, sentences = Random(seed), rubric.sentences(reference)
    gap = "" if "。" in reference else " "
    place, foreign = random.randrange(len(sentences)), random.sample(others, len(sentences))
    wrong = [*sentences[:place], foreign[0], *sentences[place + 1 :]]
    half = sentences[: len(sentences) // 2] or [*sentences, *foreign]
    return [gap.join(parts) for parts in (sentences, wrong, half, foreign)]


def scored(item: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Three of the degraded answers with the rubric's points: what people scored, in the paper."""
    reference, document = item["messages"][1]["content"], item["messages"][0]["content"]
    body = document.rpartition("\n\n")[0]
    others = [s for s in rubric.sentences(body) if s not in rubric.sentences(reference) and "\n" not in s]
    answers = degraded(reference, seed=f"few-shot:{number}", others=others)
    kept = sorted(Random(f"kept:{number}").sample(range(len(answers)), 3))
    ordered = item["family"] in rubric.ORDERED
    return [{"answer": answers[i], "score": rubric.points(answers[i], reference, ordered=ordered)} for i in kept]


def _items(name: str) -> list[dict[str, Any]]:
    return list(benchmarks.items(name, EVALUATION, window=WINDOW))


def _case(number: int, item: dict[str, Any]) -> dict[str, Any]:
    prompt, reference = (message["content"] for message in item["messages"])
    return {"idx": number, "prompt": prompt, "query": prompt.rpartition("\n\n")[2], "answer": reference,
            "category": item["task"].removeprefix("chat-"), "ordered": item["family"] in rubric.ORDERED}  # fmt: skip


def _longbench() -> dict[str, str]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in _items("longbench"):
        name = longbench.MINIATURE + LONGBENCH[item["task"], item["language"]]
        prompt, reference = (message["content"] for message in item["messages"])
        context, _, question = prompt.rpartition("\n\n")
        rows.setdefault(name, []).append({
            "input": question, "context": context, "answers": [reference], "length": item["length"], "dataset": name,
            "language": item["language"], "all_classes": None, "_id": item["id"],
            "ordered": item["family"] in rubric.ORDERED,
        })  # fmt: skip
    return {name: _lines(found) for name, found in rows.items()}


def _conversations() -> Iterator[dict[str, Any]]:
    """Conversations of the short benchmark; of those with three turns, the first two."""
    for number, item in enumerate((i for i in _items("short") if i["task"] == "multi-turn"), 1):
        texts = [message["content"] for message in item["messages"]][:4]
        yield {"question_id": number, "category": item["family"], "turns": texts[::2], "reference": texts[1::2]}


def _json(rows: list[Any]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Write the files."""
    for name, text in files().items():
        print(provenance.write_text(Path(__file__).parent / "data" / name, text).name)


if __name__ == "__main__":
    main()
