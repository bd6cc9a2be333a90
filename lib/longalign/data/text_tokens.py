"""A text as tokens that know where in it they start, and the special tokens that a text spells.

T = tokens of the text.  A tokenizer without offsets (a slow one) cannot say which characters a token is made of: its
text is cut in pieces, and of a token is known only which piece it is of.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from longalign.data.jsonl import VISIBLE


def has_offsets(tokenizer: Any) -> bool:
    """Whether a tokenizer can say which characters a token is made of; one that drops characters counts wrong."""
    return bool(getattr(tokenizer, "is_fast", False)) and _of_dropped(tokenizer)[0] is None


def tokens_of(
    text: str, tokenizer: Any, *, cuts: Sequence[int] = (), **options: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids int32 [T], first characters and characters behind the last, int64 [T], of a text that is tokenized in pieces.

    `cuts` are the places between pieces, `options` go to the tokenizer.  Without offsets a token has those of its
    piece.
    """
    ids, spans, offsets = [], [np.zeros((0, 2), dtype=np.int64)], has_offsets(tokenizer)
    edges = sorted({0, len(text), *cuts})
    for start, end in itertools.pairwise(edges):
        out = tokenizer(
            text[start:end],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            verbose=False,
            **options,
        )
        ids.append(np.array(out["input_ids"], dtype=np.int32))
        found = out["offset_mapping"] if offsets else [(0, end - start)] * len(ids[-1])
        spans.append(np.array(found, dtype=np.int64).reshape(-1, 2) + start)
    starts, ends = np.concatenate(spans).T.copy()
    blank = np.flatnonzero(starts == ends)  # of a tokenizer that leaves blanks out of its offsets
    starts[blank] = np.minimum(starts[blank], np.maximum.accumulate(np.r_[0, ends])[blank])
    return np.concatenate([np.zeros(0, dtype=np.int32), *ids]), starts, ends


def unknown_token(tokenizer: Any) -> str | None:
    """What a tokenizer writes for text that it has no token for, None where it has no such token."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return tokenizer.unk_token or getattr(model, "unk_token", None) or _unknown_of_unigram(model)


def _unknown_of_unigram(model: Any) -> str | None:
    """The token of a Unigram model's `unk_id`, which is shown in its state alone; None for other models."""
    if type(model).__name__ != "Unigram":
        return None
    number = json.loads(model.__getstate__())["unk_id"]
    return None if number is None else model.id_to_token(number)


@lru_cache(maxsize=8)
def _of_dropped(tokenizer: Any) -> tuple[list[int] | None, dict[str, list[int]]]:
    """The tokens of a character that a tokenizer drops, None where it drops none; those of characters seen so far.

    So do tokenizers (BPE) without a token for what is unknown: two characters that none knows become the same.
    """
    first, second = tokenizer(["\U0001f000", "\U0001f063"], add_special_tokens=False)["input_ids"]
    unknown = tokenizer.convert_tokens_to_ids(word) if (word := unknown_token(tokenizer)) else None
    return (first if first == second and unknown not in first else None), {}


def lost_in(text: str, tokenizer: Any) -> str:
    """The visible characters of a text that a tokenizer has no token for and writes nothing for."""
    dropped, known = _of_dropped(tokenizer)
    if dropped is None:
        return ""
    text = _pattern(frozenset(tokenizer.get_added_vocab())).sub("", text)
    if new := sorted(set(text) - known.keys()):
        known.update(zip(new, tokenizer(new, add_special_tokens=False)["input_ids"], strict=True))
    return "".join(character for character in VISIBLE.findall(text) if known[character] == dropped)


TOLD_APART = {
    "a line end and a blank": ("one\ntwo", "one two"),
    "several blanks and one": ("one    two", "one two"),
    "capital and small letters": ("ONE Two", "one two"),
}
"""Pairs of texts that are not the same, by what they differ in."""


def not_told_apart(tokenizer: Any) -> list[str]:
    """What a tokenizer writes as the same known tokens, so that a model cannot learn the difference (`TOLD_APART`)."""
    unknown = tokenizer.convert_tokens_to_ids(word) if (word := unknown_token(tokenizer)) else None
    pairs = {what: tokenizer(list(pair), add_special_tokens=False)["input_ids"] for what, pair in TOLD_APART.items()}
    return [what for what, (one, other) in pairs.items() if one == other and unknown not in one]


@dataclass(frozen=True)
class Specials:
    """The special tokens of a tokenizer: their ids, and the pattern of their texts."""

    ids: frozenset[int]
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any) -> "Specials":
        """Those that it calls special, those with a role (end, padding), and no others."""
        found = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        found |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=False))
        return cls(frozenset(found.values()) - {None}, _pattern(frozenset(found)))

    def last(self, text: str, start: int, behind: int, end: int) -> int:
        """Where the last special token that `text[start:end]` spells and that ends after `behind` ends; -1 if none.

        >>> Specials(frozenset(), _pattern(frozenset({"<e>"}))).last("a<e>b<e>c", 0, 5, 9)
        8
        """
        ends = [match.end() for match in self.pattern.finditer(text, start, end)]
        return ends[-1] if ends and ends[-1] > behind else -1


@lru_cache
def _pattern(texts: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def tokens_end_at(position: int, text: str, ids: np.ndarray, starts: np.ndarray, tokenizer: Any) -> bool:
    """Whether the tokens before a position are those that its text gives alone.

    Not so where a token reaches across, or holds a blank of the prompt's end.  Only the last 64 tokens are tokenized
    again and only the last 8 compared: a long prompt is not worth a second pass, and the first of a piece may differ
    by where it begins.
    """
    count = int(np.searchsorted(starts, position))
    begin = int(starts[count - 64]) if count > 64 else 0
    alone = tokens_of(text[begin:position], tokenizer)[0]
    compare = 8 if count > 64 else max(count, len(alone))
    return np.array_equal(alone[-compare:], ids[max(0, count - compare) : count])


def tokens_before_text(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before any text (as <s>); what it puts behind is left out, the format has its own end."""
    return _tokens_around_text(tokenizer)[0]


def tokens_behind_text(tokenizer: Any) -> list[int]:
    """What a tokenizer puts behind any text, as </s> where it adds an end token; mostly nothing."""
    return _tokens_around_text(tokenizer)[1]


def _tokens_around_text(tokenizer: Any) -> tuple[list[int], list[int]]:
    alone, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    for start in range(len(whole) - len(alone) + 1):
        if alone and whole[start : start + len(alone)] == alone:
            return list(whole[:start]), list(whole[start + len(alone) :])
    return [], []
