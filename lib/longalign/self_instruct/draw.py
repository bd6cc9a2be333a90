r"""The draw of documents and tasks: how often each document is used, and which task each copy gets.

Text and task of an item depend on the seed, its document and its copy's number, and on no other document; so the four
tasks are even on average only.

Longer documents are taken more often, as in the paper (arXiv 2401.18058): of n items in a language whose documents have
l_1 ... l_m tokens, document i has n l_i / (l_1 + ... + l_m) copies, rounded down or up, and n in all. With the running
sums L_i = l_1 + ... + l_i, L = L_m, and one whole number 0 <= u < L drawn by the seed (systematic sampling):

    copies of i = floor((n L_i + u) / L) - floor((n L_(i-1) + u) / L)

Lengths 2, 4, 3 and n = 9 give 2, 4 and 3 copies; n = 3 gives 0 or 1, 1 or 2, and 1: 2/3, 4/3 and 1 on average.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any

from longalign.self_instruct.documents import Document, Refusal

TASKS = ("general", "summary", "reasoning", "information extraction")
# A cut may move by a tenth of its budget to stand between paragraphs, else lines, else sentences.
SLACK = 10
_BREAKS = tuple(map(re.compile, (r"\n[ \t]*\n", r"\n", r"(?<=[.!?])[ \t]+|(?<=[。！？])")))


@dataclass(frozen=True)
class Item:
    """One sample to make: a document, what is shown of it, and the task; `seed` is for what is drawn later.

    `text` is a slice of the document's, `tokens` its length without special tokens; `copy` counts from 0. Of the same
    text and task there may be `again` items before it, the first of them with the seed `first` (None: its own).
    """

    id: str
    document: Document
    text: str
    tokens: int
    task: str
    copy: int
    seed: int
    first: int | None = None
    again: int = 0


def draw(
    documents: Sequence[Document], *, count: int | None, tokenizer: Any, min_length: int, max_length: int, room: int,
    chinese_share: float = 0.1, seed: int = 0,
) -> tuple[list[Item], list[Refusal]]:  # fmt: skip
    """`count` items (None: as many as there are documents that are long enough), in an order that the files' is no part
    of, and the documents left out.

    Lengths are tokens; documents of at least `min_length` are taken, texts of more than `max_length - room` are cut.
    Where there are documents of both languages, round(count * chinese_share) items are Chinese. The copies of a
    document take turns in the four tasks. Raises ValueError for numbers that leave nothing to draw and for a document
    given twice; a tokenizer without character offsets raises NotImplementedError where a text has to be cut.
    """
    limit = max_length - room
    if not 1 <= min_length <= limit:
        raise ValueError(f"no document has at least {min_length}, at most {limit} tokens ({max_length}, less {room} "
                         "for question and answer): lower min_length or raise max_length")  # fmt: skip
    if not 0 <= chinese_share <= 1 or (count is not None and count < 1):
        raise ValueError(f"count ({count}) must be at least 1, the share of Chinese ({chinese_share}) from 0 to 1")
    if len({document.sha256[:12] for document in documents}) < len(documents):
        raise ValueError("a document was given twice: its items would have the same ids")
    lengths = {document: _count(document.text, tokenizer) for document in sorted(documents, key=lambda d: d.sha256)}
    refusals = [Refusal(document.name, f"shorter than {min_length} tokens")
                for document in documents if lengths[document] < min_length]  # fmt: skip
    eligible = {document: length for document, length in lengths.items() if length >= min_length}
    items: list[Item] = []
    for document, times in _copies(eligible, count, chinese_share, seed):
        found = list(_items(document, times, seed, eligible[document], limit, tokenizer))
        items += found
        if len(found) < times:
            refusals.append(Refusal(document.name, f"cannot be cut to {limit} tokens"))
    return items, refusals


def copies(lengths: Sequence[int], count: int, start: int) -> list[int]:
    """How often each is taken, in proportion to its length, `count` in all; `start` is the formula's u.

    >>> copies([2, 4, 3], 9, 5), copies([2, 4, 3], 3, 0), copies([2, 4, 3], 3, 8)
    ([2, 4, 3], [0, 2, 1], [1, 1, 1])
    """
    total = sum(lengths)
    ends = [(count * end + start) // total for end in accumulate(lengths, initial=0)]
    return [end - begin for begin, end in zip(ends, ends[1:], strict=False)]


def cut(text: str, limit: int, tokenizer: Any, rng: Random) -> str:
    """A slice of a longer text, of at most `limit` tokens, from a place that `rng` draws.

    It begins and ends between paragraphs where there is such a place within a tenth of `limit`, else between lines,
    else sentences, else tokens. Offsets of the whole text say where tokens stand; the slice is counted by itself, and
    shortened where its tokens are others. Empty where one token is too many.
    """
    places = _places(text, tokenizer)
    first = rng.randint(0, len(places) - 1 - limit)
    begin = _back(text, places[max(0, first - limit // SLACK)], places[first])
    first = bisect_left(places, begin)
    for budget in range(limit, 0, -1):
        last = first + budget
        end = len(text) if last >= len(places) - 1 else _back(text, places[last - budget // SLACK], places[last])
        piece = text[begin:end].lstrip("\n").rstrip()
        if _count(piece, tokenizer) <= limit:
            return piece
    return ""


@lru_cache(maxsize=1)  # the copies of a document come one after the other
def _places(text: str, tokenizer: Any) -> list[int]:
    """Where tokens begin, and where the text ends."""
    encoding = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    return [*(start for start, _ in encoding["offset_mapping"]), len(text)]


def _back(text: str, low: int, high: int) -> int:
    """The last place from `low` to `high` that is between paragraphs, else lines, else sentences, else `high`."""
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, low, high)]
        if ends:
            return ends[-1]
        if low == 0:
            return 0
    return high


def _count(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _copies(
    lengths: dict[Document, int], count: int | None, chinese_share: float, seed: int
) -> Iterator[tuple[Document, int]]:
    """Each document's number of copies, those of both languages mixed by their hashes."""
    count = len(lengths) if count is None else count
    groups = {spoken: [d for d in lengths if d.language == spoken] for spoken in ("en", "zh")}
    chinese = round(count * chinese_share) if all(groups.values()) else count if groups["zh"] else 0
    taken: dict[Document, int] = {}
    for (spoken, group), share in zip(groups.items(), (count - chinese, chinese), strict=True):
        if group:
            sizes = [lengths[document] for document in group]
            start = Random(f"{seed}:{spoken}").randrange(sum(sizes))
            taken |= zip(group, copies(sizes, share, start), strict=True)
    yield from ((document, taken[document]) for document in lengths if taken[document])


def _items(document: Document, times: int, seed: int, length: int, limit: int, tokenizer: Any) -> Iterator[Item]:
    turns = list(TASKS)
    Random(f"{seed}:{document.sha256}").shuffle(turns)
    name = re.sub(r"[^a-z0-9.]+", "-", document.source.lower()).strip("-.") or "text"
    numbers = [_number(f"{seed}:{document.sha256}:{copy}") for copy in range(times)]
    for copy, number in enumerate(numbers):
        text, tokens, before = document.text, length, (numbers[copy % 4], copy // 4)
        if length > limit:
            text = cut(text, limit, tokenizer, Random(number))
            tokens, before = _count(text, tokenizer), (number, 0)
        if text:
            label, task = f"{name}-{document.sha256[:12]}-{copy}", turns[copy % 4]
            yield Item(label, document, text, tokens, task, copy, number, *before)


def _number(text: str) -> int:
    """Drawn by a text, of 48 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
