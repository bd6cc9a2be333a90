"""A conversation as tokens, of which it is known which are targets and where in the text they start.

T = tokens of the conversation.  A template is tokenized as a whole, LongAlign's formats in pieces, and a text whose
tokenizer knows no offsets at the edges of its answers: `longalign.data.chat` says why.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longalign.data import answers
from longalign.data.chat_formats import Chat, Span, check_contents
from longalign.data.jsonl import DataError
from longalign.data.text_tokens import Specials, has_offsets, lost_in, tokens_before_text, tokens_end_at, tokens_of


@dataclass(frozen=True)
class Tokens:
    """A tokenized conversation: text, tokens, which are targets (with end tokens), where in the text they start.

    `lost` are the characters of the text that the tokenizer has no token for, as far as it tells.
    """

    text: str
    ids: np.ndarray  # int32 [T]
    targets: np.ndarray  # bool [T]
    starts: np.ndarray  # int64 [T], the character of the rendered text at which a token starts
    lost: str = ""


def tokenize(chat: Chat, *, cuts: Sequence[int] = ()) -> Tokens:
    """All tokens of a conversation; it ends where the assistant begins if its last message is not an answer.

    A tokenizer without offsets has its text cut at `cuts`, too.  Raises DataError where a target cannot be found,
    ValueError for a tokenizer that lacks what the format needs.
    """
    chat.check_format()
    if chat.chat_format != "template":
        return _in_pieces(chat, cuts)
    if chat.is_marked:
        return _marked(chat)
    return _whole(chat, cuts)


def _in_pieces(chat: Chat, cuts: Sequence[int]) -> Tokens:
    """LongAlign's formats."""
    tokenizer, text = chat.tokenizer, chat.text()
    if tokenizer.eos_token_id is None:
        raise ValueError(f'the tokenizer has no end-of-sequence token, which chat_format "{chat.chat_format}" needs.')
    found = answers.find(chat, text, None)
    edges = [edge for answer in found.values() for edge in (answer.start, answer.end)]
    ids, starts, _ = tokens_of(text, tokenizer, cuts=[*edges, *cuts], split_special_tokens=True)
    if tokenizer.eos_token_id in ids:  # a Unigram model reads it in text, whatever it is asked
        detail = f"the text spells {tokenizer.eos_token}, and the tokenizer cannot write that as text: change it there"
        raise DataError("end token in the text", detail, field="messages")
    ends = [answer.end for answer in found.values()]
    at = np.searchsorted(starts, ends)
    ids, starts = np.insert(ids, at, tokenizer.eos_token_id), np.insert(starts, at, ends)
    before = tokens_before_text(tokenizer)
    ids = np.concatenate([np.array(before, dtype=np.int32), ids])
    starts = np.concatenate([np.full(len(before), -1), starts])
    learnt = [(answer.start, answer.end) for index, answer in found.items() if answers.learns(chat, index)]
    runs = [(int(a), int(b) + 1) for a, b in (np.searchsorted(starts, span) for span in learnt)]
    return Tokens(text, ids, _mask(runs, len(ids)), starts, lost_in(text, tokenizer))


def _whole(chat: Chat, cuts: Sequence[int]) -> Tokens:
    """A template in which the answers are found by rendering."""
    tokenizer, text, special = chat.tokenizer, chat.text(), Specials.of(chat.tokenizer)
    found = answers.find(chat, text, special)
    if not chat.asks:
        check_contents(chat, text)
    begins = [answer.start for answer in found.values()] + [len(text)] * chat.asks
    learnt = [answer for index, answer in found.items() if answers.learns(chat, index)]
    if not has_offsets(tokenizer):
        edges = [edge for answer in found.values() for edge in (answer.start, answer.end)]
        ids, starts, _ = tokens_of(text, tokenizer, cuts=[*begins, *edges, *cuts])
        runs = [_in_piece(answer, ids, starts, special) for answer in learnt]
        return Tokens(text, ids, _mask(runs, len(ids)), starts, lost_in(text, tokenizer))
    ids, starts, _ = _apart(begins, text, tokenizer)
    edges_of = (np.searchsorted(starts, (answer.start, answer.stop)) for answer in learnt)
    runs = [(int(first), int(last)) for first, last in edges_of]
    _check_ends([end for _, end in runs], ids, special)
    return Tokens(text, ids, _mask(runs, len(ids)), starts)


def _marked(chat: Chat) -> Tokens:
    """A template with {% generation %}: its marks say which tokens are the assistant's."""
    if not has_offsets(chat.tokenizer):
        raise ValueError("a chat template with {% generation %} needs a fast tokenizer (one with offsets), which drops "
                         "no character.")  # fmt: skip
    if chat.asks:
        text = chat.text()
        ids, starts, _ = tokens_of(text, chat.tokenizer)
        return Tokens(text, ids, np.zeros(len(ids), dtype=bool), starts)
    special = Specials.of(chat.tokenizer)
    text, marks = chat.marked_text()
    found = list(answers.find_marked(chat, text, marks, special))
    check_contents(chat, text)
    prompts = [chat.until(index).text() for index, said in enumerate(chat.messages) if said["role"] == "assistant"]
    begins = [len(prompt) for prompt in prompts if text.startswith(prompt)]
    ids, starts, ends = _apart(begins, text, chat.tokenizer)
    runs = [
        (int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(starts, end)))
        for spans in found for start, end in spans
    ]  # fmt: skip
    _check_ends([int(np.searchsorted(starts, spans[-1][1])) for spans in found], ids, special)
    return Tokens(text, ids, _mask(runs, len(ids)), starts)


def _apart(begins: Sequence[int], text: str, tokenizer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of a text as `tokens_of` gives them, cut apart at those of `begins`, where prompts end, across which a
    token would reach."""
    found = tokens_of(text, tokenizer)
    torn = [begin for begin in begins if not tokens_end_at(begin, text, *found[:2], tokenizer)]
    return tokens_of(text, tokenizer, cuts=torn) if torn else found


def _in_piece(answer: answers.Answer, ids: np.ndarray, starts: np.ndarray, special: Specials) -> Span:
    """The tokens of an answer whose turn is a piece: up to and with its last special token."""
    start, end = (int(edge) for edge in np.searchsorted(starts, (answer.start, answer.end)))
    found = np.flatnonzero(np.isin(ids[start:end], list(special.ids)))
    if not len(found):
        raise answers.endless()
    return start, start + int(found[-1]) + 1


def _check_ends(ends: Iterable[int], ids: np.ndarray, special: Specials) -> None:
    """Raises DataError where the token before one of these is no special one: the tokenizer does not know it there."""
    if any(int(ids[end - 1]) not in special.ids for end in ends):
        raise answers.endless()


def _mask(runs: Sequence[Span], length: int) -> np.ndarray:
    targets = np.zeros(length, dtype=bool)
    for start, end in runs:
        if end - start < 2:
            raise DataError("empty answer", "the tokenizer has no token for its text", field="messages")
        targets[start:end] = True
    return targets
