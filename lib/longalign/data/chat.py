r"""Conversations made into tokens and labels: targets are the answers and their end tokens alone.

A prompt is made into the same tokens as in the training sequence that begins with it. A template in which an answer
cannot be found exactly is refused, unless it marks the answers itself with {% generation %}.

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
Where a template marks the answers by {% generation %}, its marks say which tokens are theirs, a token that reaches
across a mark which stands elsewhere than at a prompt's end included. Text in a message that spells a special token of a
template is that token, as in `apply_chat_template`; it moves no label.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat_formats import Chat, Messages, check_fields, format_of, shortened
from longalign.data.jsonl import check_messages, check_tools, is_target
from longalign.data.store_writer import Encoded
from longalign.data.tool_calls import readable
from longalign.data.truncation import MIN_KEPT, fit

__all__ = ["MIN_KEPT", "Encoded", "encode", "encode_prompt", "end_of_answers", "tokenizer_hash"]


def encode(
    messages: Messages,
    tokenizer: Any,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_format: str | None = None,
    max_length: int | None = None,
) -> Encoded:
    """The training sequence of a conversation, at most `max_length` tokens long.

    `messages` are those of `longalign.data.jsonl.check_messages`: an answer with `weight` 0 or `train` false is no
    target; `reasoning_content`, `tool_calls`, the role "tool" and the `tools` go through the chat template, which gets
    the arguments of calls as objects or as strings of JSON, whichever it writes as JSON.  A longer sequence loses
    tokens from the middle of its documents (`longalign.data.truncation`): the head of the document, its tail with the
    question, and every answer stay, and at least MIN_KEPT tokens of the document.  Raises DataError for messages that
    are no conversation ending in an answer, for a field that the template drops, for "no room for its answer", and for
    a template in which an answer cannot be found; ValueError for a tokenizer that lacks what the format needs.  Without
    `chat_format` it is the tokenizer's own (`longalign.data.chat_formats.format_of`).

    With one token a word, the question "a b" (2 tokens) and the answer "c d e" (3) in the format "llama":

        input_ids   [INST]  a  b  [/INST]  c  d  e  <eos>
        labels        .     .  .     .     c  d  e  <eos>

    Conversations become what `longalign.recipe.dataset.measure` and `PlannedDataset` take:

    >>> from longalign.miniature import tokenizer
    >>> from longalign.recipe.dataset import measure
    >>> words = tokenizer.load()
    >>> turns = [[{"role": "user", "content": "?" * n}, {"role": "assistant", "content": "!"}] for n in (2, 4, 3)]
    >>> encoded = [encode(messages, words) for messages in turns]
    >>> lengths, target_counts = measure([{"input_ids": e.input_ids, "labels": e.labels} for e in encoded])
    >>> lengths.tolist(), target_counts.tolist()
    ([8, 10, 9], [3, 3, 3])
    """
    chat = _chat(check_messages(messages), tokenizer, tools, chat_format)
    tokens, removed, doubtful = fit(chat, max_length)
    labels = np.where(tokens.targets, tokens.ids, np.int32(IGNORE_INDEX))
    masked = sum(m["role"] == "assistant" and not is_target(m) for m in chat.messages)
    return Encoded(tokens.ids, labels, removed, masked, shortened(chat, tokens.text), int(doubtful), tokens.lost)


def encode_prompt(
    messages: Messages,
    tokenizer: Any,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_format: str | None = None,
    max_length: int | None = None,
    reserve: int = 0,
) -> np.ndarray:
    """int32 [T]: what the model sees before its last answer, truncated as in `encode` to `max_length - reserve`.

    Without truncation it is the beginning of the training sequence, up to the first token of the last answer, unless
    the template writes earlier turns otherwise once more follow; a prompt is what a server would give the model.
    `reserve` is the room for new tokens.  Raises as `encode` does; the last message must be the user's or a tool's.
    """
    room = None if max_length is None else max_length - reserve
    return fit(_chat(check_messages(messages, last="user"), tokenizer, tools, chat_format), room)[0].ids


def end_of_answers(tokenizer: Any) -> int | None:
    """The token that a tokenizer's conversations have behind an answer, with which training teaches to end; None where
    it has no template, or one in which answers are not found.

    >>> from longalign.miniature import tokenizer
    >>> end_of_answers(tokenizer.load())
    1
    """
    try:
        said = encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], tokenizer)
    except ValueError:
        return None
    return int(said.labels[said.labels != IGNORE_INDEX][-1])


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 (hex) of the tokenizer's definition, its special tokens, and how it writes conversations."""
    definition = tokenizer.get_vocab()
    if getattr(tokenizer, "is_fast", False):
        definition = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    spoken = [format_of(tokenizer)] if format_of(tokenizer) != "template" else []
    text = json.dumps([definition, special, tokenizer.chat_template, *spoken], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _chat(messages: Messages, tokenizer: Any, tools: Any, chat_format: str | None) -> Chat:
    chat = Chat(messages, tokenizer, chat_format or format_of(tokenizer), check_tools(tools))
    chat.check_format()
    chat = readable(chat)
    check_fields(chat)
    return chat
