"""Guarantees that a prompt leaves room for its answer: what is too much is taken from the middle of the document.

As in the paper (arXiv 2401.18058, 3.4) and as `longalign.chat` does for training, but on text, so that a server may be
asked as well as a model in this process. The price: the text is tokenized again after the cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from longalign.chat import MIN_KEPT, encode_prompt
from longalign.jsonl import DataError

TRIES = 5


def fit(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, *, window: int, reserve: int
) -> tuple[list[dict[str, str]], int]:
    """The messages, at most `window - reserve` tokens with their chat template, and how many tokens were taken out.

    The longest user message loses its middle: characters, so that what is left is the text's own. Raises DataError
    where less than MIN_KEPT tokens of it would be left, ValueError for a tokenizer that tells no offsets.
    """
    fitted = [dict(message) for message in messages]
    length, room = len(encode_prompt(fitted, tokenizer)), window - reserve
    if length <= room:
        return fitted, 0
    place = max((i for i, m in enumerate(fitted) if m["role"] == "user"), key=lambda i: len(fitted[i]["content"]))
    text, excess, before = fitted[place]["content"], length - room, length
    spans = _spans(text, tokenizer)
    for _ in range(TRIES):
        kept = len(spans) - excess
        if kept < MIN_KEPT:
            detail = f"{before} tokens, a window of {window} and {reserve} for the answer; take a larger window"
            raise DataError("no room for its answer", detail)
        fitted[place]["content"] = text[: spans[(kept + 1) // 2 - 1][1]] + text[spans[len(spans) - kept // 2][0] :]
        length = len(encode_prompt(fitted, tokenizer))
        if length <= room:
            return fitted, before - length
        excess += length - room  # the two ends may make other tokens where they meet
    raise DataError("no room for its answer", f"the prompt stays at {length} tokens; take a larger window")


def _spans(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("cutting a prompt needs a fast tokenizer (one with offsets): name another with --tokenizer")
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
