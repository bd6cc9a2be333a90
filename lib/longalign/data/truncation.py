"""What is cut from a conversation that is too long: the middle of its documents, never a question or an answer.

A document is the longest message that is no answer: the user's, the system's, or what a tool gave back.  Where it alone
does not suffice, the next longest is cut, too, down to those that may be questions.  LongAlign's form is a document
with the question behind it (arXiv 2401.18058, 3.2); what follows the last blank line, or else the last line or
sentence, is the question, and stays whole.  Where a long last paragraph shows that the document comes last, the first
paragraph does.  Elsewhere what comes first, up to a break, may be an instruction, too, and is cut last.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longalign.data.chat_formats import STAND_IN, Chat
from longalign.data.conversation import Tokens, tokenize
from longalign.data.jsonl import DataError
from longalign.data.text_tokens import has_offsets, tokens_of

MIN_KEPT = 16  # tokens of a document that middle truncation leaves at least, half of them at each end
QUESTION = 1000  # characters that a question has at most; a longer paragraph is part of a document
_BREAKS = (  # between paragraphs, lines, sentences
    re.compile(r"\n[^\S\n]*\n\s*(?=\S)"),
    re.compile(r"\n\s*(?=\S)"),
    re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？])(?=\S)"),
)


def documents(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The messages that may be cut, the longest first (in characters): that one, and all that are no mere questions.

    >>> documents([{"role": "system", "content": "s" * 2000}, {"role": "user", "content": "u" * 900}])
    [0]
    """
    sizes = {i: len(m.get("content", "")) for i, m in enumerate(messages) if m["role"] != "assistant"}
    order = sorted(sizes, key=lambda index: -sizes[index])
    return order[:1] + [index for index in order[1:] if sizes[index] > QUESTION]


def question_in(content: str) -> tuple[int, int]:
    """Up to where a document's message is kept, and from where on: the characters around the document.

    >>> question_in("one two. three four.\\n\\nWhat is it?"), question_in("Sum this up.\\n\\n" + "so " * 999)
    ((0, 20), (14, 3011))
    """
    text, lead = content.rstrip(), 0
    paragraphs = list(_BREAKS[0].finditer(text))
    if paragraphs and len(text) - paragraphs[-1].end() > QUESTION >= paragraphs[0].end():
        lead = paragraphs[0].end()
    for break_ in _BREAKS:
        found = list(break_.finditer(text, lead))
        if found and len(text) - found[-1].end() <= QUESTION:
            return lead, found[-1].start()
    return lead, len(content)


def opening(content: str) -> int:
    """Up to where a message's first paragraph goes, or its first line or sentence: 0 where that is no instruction.

    >>> opening("Sum this up: " + "so " * 999), opening("Sum this up.\\n" + "so " * 999)
    (0, 13)
    """
    begin = len(content) - len(content.lstrip())
    ends = (found.end() for break_ in _BREAKS if (found := break_.search(content, begin)))
    return next((end for end in ends if end <= QUESTION), 0)


@dataclass(frozen=True)
class Hole:
    """The tokens of a message from `start` to `end`, of which `lead` at the start and `rest` at the end are kept, and
    `first` at the start where there is room; `doubtful` says that all of it may be an instruction."""

    start: int
    end: int
    lead: int
    first: int
    rest: int
    doubtful: bool = False

    @property
    def most(self) -> int:
        """Tokens that may be taken out."""
        length, kept = self.end - self.start, self.lead + self.rest
        return length - max(min(MIN_KEPT, length), min(length, kept + MIN_KEPT // 2))

    def cut(self, excess: int) -> slice:
        """Where to take out `excess` tokens: the middle, unless it reaches into what is kept."""
        kept = self.end - self.start - excess
        tail = min(max(kept // 2, self.rest), kept - max(self.lead, min(self.first, kept - self.rest)))
        return slice(self.start + kept - tail, self.end - tail)


def fit(chat: Chat, max_length: int | None) -> tuple[Tokens, int, bool]:
    """The tokens of a conversation, at most `max_length`, how many were taken out of its documents, and whether these
    may be of an instruction.

    Raises DataError for "no room for its answer", and as `longalign.data.conversation.tokenize` does.
    """
    tokens = tokenize(chat)
    if max_length is None or len(tokens.ids) <= max_length:
        return tokens, 0, False
    found, text = documents(chat.messages), tokens.text
    for count in range(1, len(found) + 1):
        places = [_place(chat, index, text) for index in found[:count]]
        if not has_offsets(chat.tokenizer):
            tokens = tokenize(chat, cuts=[edge for start, end, *_ in places for edge in (start, end)])
        contents = [chat.messages[index]["content"] for index in found[:count]]
        doubts = [len(said) <= QUESTION or not opening(said) for said in contents]
        holes = [_hole(chat, *pair, text, tokens) for pair in zip(places, doubts, strict=True)]
        excess = max(0, len(tokens.ids) - max_length)
        if sum(hole.most for hole in holes) >= excess:
            kept, doubtful = _kept(tokens, holes, excess)
            fewer = (tokens.ids[kept], tokens.targets[kept], tokens.starts[kept])
            return Tokens(tokens.text, *fewer, tokens.lost), excess, doubtful
    needed = len(tokens.ids) - sum(hole.most for hole in holes)
    detail = f"{len(tokens.ids)} tokens, {needed} with the document cut to the least, {max_length} are allowed"
    raise DataError("no room for its answer", detail, field="messages")


def _kept(tokens: Tokens, holes: Sequence[Hole], excess: int) -> tuple[np.ndarray, bool]:
    """Which tokens stay, and whether one of an instruction may be gone: the longest document gives what it can, then
    the next."""
    kept, doubtful = np.ones(len(tokens.ids), dtype=bool), False
    for hole in holes:
        taken = min(hole.most, excess)
        out = hole.cut(taken)
        kept[out] = False
        doubtful |= taken > 0 and (hole.doubtful or out.start < hole.start + hole.first)
        excess -= taken
    return kept, doubtful


def _place(chat: Chat, index: int, text: str) -> tuple[int, int, int, int, int]:
    """Where a message stands in the rendered text, found by rendering a stand-in in its place; what is kept of it."""
    message = chat.messages[index]
    before, found, after = chat.having(index, {**message, "content": STAND_IN}).text().partition(STAND_IN)
    if not (found and text.startswith(before) and text.endswith(after)):
        raise DataError("template unsuitable", "it changes with the question", field=f"messages[{index}].content")
    start, end = len(before), len(text) - len(after)
    content = message["content"]
    lead, rest = question_in(content)

    def behind_first(edge: int) -> int:
        part = content[:edge].strip()
        at = text.find(part, start, end) if part else -1
        return at + len(part) if at >= 0 else start

    last = content[rest:].strip()
    question = text.rfind(last, start, end) if last else -1
    behind = len(content[rest:]) - len(content[rest:].lstrip())
    since = max(start, question - behind) if question >= 0 else end
    return start, end, behind_first(lead), behind_first(opening(content)), since


def _hole(chat: Chat, place: tuple[int, int, int, int, int], doubtful: bool, text: str, tokens: Tokens) -> Hole:
    start, end, lead, first, rest = place
    begin, behind = (int(edge) for edge in np.searchsorted(tokens.starts, (start, end)))
    if has_offsets(chat.tokenizer):
        one, two = (int(np.searchsorted(tokens.starts, edge)) - begin if edge > start else 0 for edge in (lead, first))
        since = int(np.searchsorted(tokens.starts, rest, side="right")) - 1 if rest < end else behind
        return Hole(begin, behind, one, two, behind - max(begin, since), doubtful)
    parts = ((start, lead), (start, first), (rest, end))
    kept = (len(tokens_of(text[a:b], chat.tokenizer)[0]) + 1 if b > a else 0 for a, b in parts)
    one, two, three = (min(number, behind - begin) for number in kept)
    return Hole(begin, behind, one, two, three, doubtful)
