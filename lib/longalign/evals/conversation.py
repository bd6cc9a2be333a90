"""LongBench-Chat in miniature: long prompts cut in the middle to the model's window, greedy answers, exact points.

Price: decoding takes one forward pass a token, where the teacher-forced metrics take one for all.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from longalign.chat import encode_prompt
from longalign.corpus import tokenizer
from longalign.evals.rubric import ORDERED, ceiling, points

ANSWER_ROOM = 64
"""Tokens kept free for an answer; the longest reference has some 40."""


def answers(
    model: PreTrainedModel, items: Iterable[dict[str, Any]], *, window: int, encode: Any = None
) -> list[dict[str, Any]]:
    """What the model answers to the last question of each item, and its points.

    One dict an item: `item` (id), `question` (without the document), `reference`, `answer`, `score` (1 to 10),
    `truncated` (tokens taken from the prompt's middle), `ceiling` (the score that what is left allows). `encode` is the
    model's tokenizer, with a chat template; None is the miniature's.
    """
    training, encode = model.training, encode or tokenizer.load()
    model.eval()
    rows = [_answer(model, item, window, encode) for item in items]
    model.train(training)
    return rows


def _answer(model: PreTrainedModel, item: dict[str, Any], window: int, encode: Any) -> dict[str, Any]:
    *prompt, last = item["messages"]
    reference, ordered = last["content"], item["family"] in ORDERED
    shown = encode_prompt(prompt, encode, max_length=window, reserve=ANSWER_ROOM)
    written = greedy(model, torch.from_numpy(shown).long(), encode=encode)
    return {
        "item": item["id"],
        "question": prompt[-1]["content"].rpartition("\n\n")[2],
        "reference": reference,
        "answer": written,
        "score": points(written, reference, ordered=ordered),
        "truncated": len(encode_prompt(prompt, encode)) - len(shown),
        "ceiling": ceiling(encode.decode(shown), reference, ordered=ordered),
    }


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: torch.Tensor, *, encode: Any = None) -> str:
    """The most probable tokens after `prompt` ([T], int64) up to the end token or ANSWER_ROOM, as text.

    Other special tokens stay in the text: they are no part of any right answer.
    """
    encode = encode or tokenizer.load()
    prompt = prompt[None].to(model.device)
    # Training saves models with the cache off.
    written = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ANSWER_ROOM, do_sample=False, use_cache=True,
        eos_token_id=encode.eos_token_id, pad_token_id=encode.pad_token_id,
    )[0, prompt.shape[1] :].tolist()  # fmt: skip
    return encode.decode(written[:-1] if written[-1:] == [encode.eos_token_id] else written)
