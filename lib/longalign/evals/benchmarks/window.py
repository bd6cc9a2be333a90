"""Prompts cut to a model's window, with room for the answer: what is too much goes from the document's middle.

As in the paper (arXiv 2401.18058, 3.4) and as `longalign.data.chat` does for training, but on text, so that a server
may be asked as well as a model in this process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from longalign.data.chat import encode_prompt
from longalign.data.jsonl import DataError
from longalign.data.text_tokens import has_offsets
from longalign.data.truncation import Hole, documents, opening, question_in

TRIES = 5


def fit(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, *, window: int, reserve: int
) -> tuple[list[dict[str, str]], int]:
    """The messages, at most `window - reserve` tokens with their chat template, and how many tokens were taken out.

    The longest document loses its middle (`longalign.data.truncation`), then the next: characters, so that what is left
    is the text's own; the question stays whole. Raises DataError where less than MIN_KEPT tokens of a document would be
    left, ValueError for a tokenizer that tells no offsets.
    """
    fitted = [dict(message) for message in messages]
    before, room = len(encode_prompt(fitted, tokenizer)), window - reserve
    length = before
    for index in documents(fitted) if length > room else ():
        text, excess = fitted[index]["content"], length - room
        spans = _spans(text, tokenizer)
        hole = _hole(text, spans)
        for _ in range(TRIES):
            out = hole.cut(min(excess, hole.most))
            if out.start < out.stop:
                behind = spans[out.stop][0] if out.stop < len(spans) else len(text)
                fitted[index]["content"] = text[: spans[out.start - 1][1]] + text[behind:]
            length = len(encode_prompt(fitted, tokenizer))
            if length <= room or excess >= hole.most:
                break
            excess += length - room  # the two ends may make other tokens where they meet
        if length <= room:
            break
    if length <= room:
        return fitted, before - length
    detail = f"{before} tokens, a window of {window} and {reserve} for the answer; take a larger window"
    raise DataError("no room for its answer", detail)


def _hole(text: str, spans: Sequence[tuple[int, int]]) -> Hole:
    lead, rest = question_in(text)
    ahead = (sum(start < edge for start, _ in spans) for edge in (lead, opening(text)))
    return Hole(0, len(spans), *ahead, sum(end > rest for _, end in spans))


def _spans(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    if not has_offsets(tokenizer):
        raise ValueError("cutting a prompt needs a fast tokenizer (one with offsets): name another with --tokenizer")
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
