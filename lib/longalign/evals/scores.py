"""A model's score on a benchmark, as tidy rows: one for every item and metric; and its loss on a set of sequences.

| metric | of | what | chance | best |
|---|---|---|---|---|
| exact_match | all others | share of the item's answers that are exact (multi-turn has several) | 0 | 1 |
| fact_match | all others | share of the facts of its answers that are exact | 0 | 1 |
| accuracy | multiple choice | the right one of four options has the highest mean log-likelihood per token | 1/4 | 1 |
| score | longbench_chat | points of the decoded answer (`longalign.evals.rubric`) | 1 | 10 |

All but `score` come from one forward pass over packs. What is longer than the window is cut in the middle.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from longalign.common.array_types import IGNORE_INDEX
from longalign.data import chat
from longalign.data.text_tokens import has_offsets, tokens_before_text, tokens_of
from longalign.evals.chat_answers import answers
from longalign.evals.teacher_forced import answer_match, fact_match, preferred, runs_of, sequence_nll, target_hits
from longalign.miniature import tokenizer

MARKS = (".", "。")
"""End a fact."""

Row = dict[str, Any]


def score(
    model: PreTrainedModel, name: str, items: Iterable[dict[str, Any]], *, window: int, encode: Any = None
) -> tuple[list[Row], list[Row]]:
    """Rows (benchmark, task, length, item, metric, value) of benchmark `name`, in the order of its items.

    `length` is the item's `cell`. The second list holds what `conversation.answers` tells of every item of
    longbench_chat, and is empty for the other benchmarks. `window`: tokens that the model may read. `encode`: the
    model's tokenizer, with a chat template; None is the miniature's.
    """
    items, encode = list(items), encode or tokenizer.load()
    if name == "longbench_chat":
        told = answers(model, items, window=window, encode=encode)
        return [_row(name, item, "score", row["score"]) for item, row in zip(items, told, strict=True)], told
    asked = [item for item in items if "options" not in item]
    choices = [item for item in items if "options" in item]
    return [*_matches(model, name, asked, window, encode), *_accuracies(model, name, choices, window, encode)], []


def mean_loss(model: PreTrainedModel, sequences: Sequence[dict[str, Any]]) -> float:
    """Mean over sequences of the mean NLL of their targets: Eq. 2 of arXiv 2401.18058, over a whole data set.

    Sequences without targets do not count. Raises ValueError if none has any.
    """
    sums, counts = sequence_nll(model, sequences)
    if not counts.any():
        raise ValueError(f"none of the {len(counts)} sequences has a target token: label the answers")
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def _matches(model: PreTrainedModel, name: str, items: list[dict[str, Any]], window: int, encode: Any) -> list[Row]:
    sequences = [_conversation(item["messages"], window, encode) for item in items]
    rows = []
    for item, sequence, hits in zip(items, sequences, target_hits(model, sequences), strict=True):
        labels = sequence["labels"]
        rows.append(_row(name, item, "exact_match", answer_match(hits, labels)))
        rows.append(_row(name, item, "fact_match", fact_match(hits, labels, ends=fact_ends(labels, encode))))
    return rows


def fact_ends(labels: np.ndarray, encode: Any) -> np.ndarray:
    """Which targets end a fact (bool, shape (N,)): with them a mark comes into the text.

    A tokenizer may have a mark in the token of other signs, or as the last of several bytes, so that it is no id.
    """
    ends: list[bool] = []
    for run in runs_of(labels):
        texts = [encode.decode(run[:count]) for count in range(len(run) + 1)]
        marks = [sum(text.count(mark) for mark in MARKS) for text in texts]
        ends += [more > before for before, more in itertools.pairwise(marks)]
    return np.array(ends, dtype=bool)


def _accuracies(
    model: PreTrainedModel, name: str, items: list[dict[str, Any]], window: int, encode: Any
) -> list[Row]:
    chosen = preferred(model, [option_sequences(item, window=window, encode=encode) for item in items])
    return [
        _row(name, item, "accuracy", float(choice == item["right"]))
        for item, choice in zip(items, chosen, strict=True)
    ]  # fmt: skip


def option_sequences(item: dict[str, Any], *, window: int, encode: Any = None) -> list[dict[str, np.ndarray]]:
    """One sequence for each option of a multiple-choice item, the option (and its end token in a chat) as target."""
    encode = encode or tokenizer.load()
    *prompt, answer = item["messages"]
    if item["form"] == "text":
        return [_text(prompt[0]["content"], option, item["language"], encode) for option in item["options"]]
    return [_conversation([*prompt, {**answer, "content": option}], window, encode) for option in item["options"]]


def _conversation(messages: list[dict[str, str]], window: int, encode: Any) -> dict[str, np.ndarray]:
    encoded = chat.encode(messages, encode, max_length=window)
    return {"input_ids": encoded.input_ids, "labels": encoded.labels}


def _text(prompt: str, option: str, language: str, encode: Any) -> dict[str, np.ndarray]:
    """Every token that holds a sign of the option is a target, what the tokenizer puts behind a text is left out."""
    text, before = prompt + ("" if language == "zh" else " ") + option, tokens_before_text(encode)
    ids, _, ends = tokens_of(text, encode, cuts=[] if has_offsets(encode) else [len(prompt)])
    targets = np.concatenate([np.zeros(len(before), dtype=bool), ends > len(prompt)])
    ids = np.concatenate([np.array(before, dtype=np.int32), ids])
    return {"input_ids": ids, "labels": np.where(targets, ids, np.int32(IGNORE_INDEX))}


def _row(name: str, item: dict[str, Any], metric: str, value: float) -> Row:
    return {
        "benchmark": name, "task": item["task"], "length": item["cell"], "item": item["id"], "metric": metric,
        "value": float(value),
    }  # fmt: skip
