r"""Guarantees that the answers and their end tokens alone are targets, and that a prompt begins its training sequence.

The price: a template that rewrites earlier turns is refused unless it marks the answers itself with {% generation %}.

Formats.  "template" is the tokenizer's own chat template.  "llama" and "chatglm" are the two of LongAlign (arXiv
2401.18058):
    [INST]question[/INST]answer<eos>\n\n[INST]question[/INST]answer<eos>
    [Round 1]\n\n问：question\n\n答：answer<eos>\n\n[Round 2]\n\n问：question\n\n答：answer<eos>
after the tokens that the tokenizer puts before any text by itself (<s>, or [gMASK] sop).  A system message stands
before the first question, a blank line between them.  The released code writes one <eos>, after the last answer, and
labels the token behind every earlier answer (it is the first of the blank line) with <eos>: a label that is not in
the input, so a question of a later turn never sees an end.  Here <eos> follows every answer in input and labels, so
that labels[t] is input_ids[t] at every target and the model learns the same thing: to end there.

Boundaries.  In the two formats of LongAlign every answer, and what stands before it, is tokenized apart (the released
code reaches the same by special tokens around the answer); text that looks like a special token stays text.  A
template is tokenized as a whole, as `apply_chat_template` does, and cut apart at an answer only where its first token
would otherwise depend on the prompt's end (as when a template ends in a line feed and the answer begins with one).
Where a template marks the answers by {% generation %}, the tokenizer's own mask says which tokens are theirs, a token
that reaches across the mark included.  Text in a message that spells a special token of a template is that token, as
in `apply_chat_template`; it moves no label.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from longalign.jsonl import DataError, check_messages
from longalign.rendering import Messages, Span, Tokens, format_of, has_offsets, render, tokenize
from longalign.shapes import IGNORE_INDEX

MIN_KEPT = 16  # tokens of a document that middle truncation leaves at least, half of them at each end

_STAND_IN = "<the document stands here>"


@dataclass(frozen=True)
class Encoded:
    """One sequence: `input_ids` and `labels` int32 [T] (input_ids[t] or IGNORE_INDEX, not shifted), tokens removed."""

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: int = 0


def encode(
    messages: Messages, tokenizer: Any, *, chat_format: str | None = None, max_length: int | None = None
) -> Encoded:
    """The training sequence of a conversation, at most `max_length` tokens long.

    A longer one loses tokens from the middle of its longest user message (in characters): the head of the document,
    its tail with the question, and every answer stay, and at least MIN_KEPT tokens of the document.  Raises DataError
    for messages that are no conversation ending in an answer, for "no room for its answer", and for a template in
    which an answer cannot be found; ValueError for a tokenizer that lacks what the format needs.  Without
    `chat_format` it is the tokenizer's own (`longalign.rendering.format_of`).

    With one token a word, the question "a b" (2 tokens) and the answer "c d e" (3) in the format "llama":

        input_ids   [INST]  a  b  [/INST]  c  d  e  <eos>
        labels        .     .  .     .     c  d  e  <eos>
    """
    tokens, removed = _fit(check_messages(messages), tokenizer, chat_format, max_length)
    return Encoded(tokens.ids, np.where(tokens.targets, tokens.ids, np.int32(IGNORE_INDEX)), removed)


def encode_prompt(
    messages: Messages,
    tokenizer: Any,
    *,
    chat_format: str | None = None,
    max_length: int | None = None,
    reserve: int = 0,
) -> np.ndarray:
    """int32 [T]: what the model sees before its last answer, truncated as in `encode` to `max_length - reserve`.

    Without truncation it is the beginning of the training sequence, up to the first token of the last answer.
    `reserve` is the room for new tokens.  Raises as `encode` does; the last message must be the user's.
    """
    room = None if max_length is None else max_length - reserve
    return _fit(check_messages(messages, last="user"), tokenizer, chat_format, room)[0].ids


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 (hex) of the tokenizer's definition, its special tokens, and how it writes conversations."""
    definition = tokenizer.get_vocab()
    if getattr(tokenizer, "is_fast", False):
        definition = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    spoken = [format_of(tokenizer)] if format_of(tokenizer) != "template" else []
    text = json.dumps([definition, special, tokenizer.chat_template, *spoken], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fit(
    messages: Messages, tokenizer: Any, chat_format: str | None, max_length: int | None
) -> tuple[Tokens, int]:
    """The tokens of a conversation without the middle of its document that is too much, and how many those are."""
    chat_format = chat_format or format_of(tokenizer)
    tokens = tokenize(messages, tokenizer, chat_format)
    if max_length is None or len(tokens.ids) <= max_length:
        return tokens, 0
    document = _document_span(messages, tokenizer, chat_format)
    if not has_offsets(tokenizer):
        tokens = tokenize(messages, tokenizer, chat_format, cuts=document)
    start, end = (int(edge) for edge in np.searchsorted(tokens.starts, document))
    excess = max(0, len(tokens.ids) - max_length)
    kept = end - start - excess
    if kept < min(MIN_KEPT, end - start):
        needed = len(tokens.ids) - (end - start) + min(MIN_KEPT, end - start)
        detail = f"{len(tokens.ids)} tokens, {needed} with the document cut to the least, {max_length} are allowed"
        raise DataError("no room for its answer", detail, field="messages")
    hole = slice(start + (kept + 1) // 2, end - kept // 2)
    return Tokens(*(np.delete(x, hole) for x in (tokens.ids, tokens.targets, tokens.starts))), excess


def _document_span(messages: Messages, tokenizer: Any, chat_format: str) -> Span:
    """Where the longest user message stands in the rendered text, found by rendering a stand-in in its place."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    longest = max(users, key=lambda index: len(messages[index]["content"]))
    text = render(messages, tokenizer, chat_format)
    changed = [dict(m, content=_STAND_IN) if i == longest else m for i, m in enumerate(messages)]
    before, _, after = render(changed, tokenizer, chat_format).partition(_STAND_IN)
    if not (text.startswith(before) and text.endswith(after)):
        raise DataError("template unsuitable", "it changes with the question", field=f"messages[{longest}].content")
    return len(before), len(text) - len(after)
