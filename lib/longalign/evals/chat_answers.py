"""LongBench-Chat in miniature: long prompts cut in the middle to the model's window, greedy answers, exact points."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from longalign.clients.generation import end_tokens, tell_ignored
from longalign.clients.thoughts import LONGEST_MARK, opened_by, split
from longalign.data.chat import encode_prompt
from longalign.evals.decoding import greedy
from longalign.evals.rubric import ORDERED, ceiling, points
from longalign.miniature import tokenizer

ANSWER_ROOM = 64
"""Tokens kept free for an answer; the longest reference has some 40."""


def answers(
    model: PreTrainedModel, items: Iterable[dict[str, Any]], *, window: int, encode: Any = None
) -> list[dict[str, Any]]:
    """What the model answers to the last question of each item, and its points.

    One dict an item: `item` (id), `question` (without the document), `reference`, `answer`, `thoughts` (of a reasoning
    model: they are no part of its answer, which is empty where they did not end), `score` (1 to 10), `truncated`
    (tokens taken from the prompt's middle), `ceiling` (the score that what is left allows). `encode` is the model's
    tokenizer, with a chat template; None is the miniature's.
    """
    items, encode = list(items), encode or tokenizer.load()
    prompts = [encode_prompt(item["messages"][:-1], encode) for item in items]
    shown = [encode_prompt(item["messages"][:-1], encode, max_length=window, reserve=ANSWER_ROOM) for item in items]
    tell_ignored(model)
    asked = [torch.from_numpy(prompt).long() for prompt in shown]
    # Special tokens other than the end stay in the text: they are no part of any right answer.
    written = [encode.decode(ids) for ids in greedy(model, asked, end=end_tokens(model, encode), room=ANSWER_ROOM)]
    return [
        _judged(item, answer, encode.decode(seen), len(whole) - len(seen))
        for item, answer, seen, whole in zip(items, written, shown, prompts, strict=True)
    ]


def _judged(item: dict[str, Any], written: str, seen: str, truncated: int) -> dict[str, Any]:
    *prompt, last = item["messages"]
    thoughts, answer, _ = split(opened_by(seen[-LONGEST_MARK:]) + written)
    reference, ordered = last["content"], item["family"] in ORDERED
    return {
        "item": item["id"],
        "question": prompt[-1]["content"].rpartition("\n\n")[2],
        "reference": reference,
        "answer": answer,
        **({"thoughts": thoughts} if thoughts else {}),
        "score": points(answer, reference, ordered=ordered),
        "truncated": truncated,
        "ceiling": ceiling(seen, reference, ordered=ordered),
    }
