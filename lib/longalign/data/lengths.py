"""The lengths that a plan needs, from a list, JSONL or a token store; what cannot be read is named by file and line."""

import hashlib
import itertools
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from operator import index
from typing import Any, SupportsIndex

import numpy as np

from longalign.common.array_types import Counts, Int, as_counts
from longalign.data.chat_formats import format_of
from longalign.data.file_parts import PART_BYTES, WHOLE, Part, Tell, cores, in_order, split
from longalign.data.jsonl import DataError, Line, read_lines
from longalign.data.store import TokenStore
from longalign.data.store_writer import target_count
from longalign.data.tokenize_files import Way, file_size, print_progress, tally
from longalign.recipe.packing import checked

LONGEST = 2**40
"""2^40. No sequence has so many tokens: sums of eight million lengths below it fit 64 bits."""


def read_lengths(
    path: str | os.PathLike,
    *,
    tokenizer: Any = None,
    chat_format: str | None = None,
    max_length: int | None = None,
    workers: int | None = None,
    load_tokenizer: Callable[[], Any] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Lengths and, where known, target counts (int64 [n]) of a token store, a JSONL file, or a text file of lengths.

    A folder is a store; a file whose first line begins with "{", or that is named .jsonl or .json, is JSONL; anything
    else holds one positive integer a line (2, 4, 3 on three lines).  JSONL is tokenized when there is a tokenizer, a
    large file by `workers` processes (by default as many as this process may use cores), else the rows' key "length"
    tells, cut to `max_length` as truncation would.  `load_tokenizer` is asked for one when none is given and the first
    row has "messages" and no "length".  Blank lines hold nothing.  A pipe is read once.  Raises DataError that names
    file and line, and ValueError for a tokenizer, format or length that would change nothing.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w") as file:
    ...     _ = file.write("2\\n4\\n3\\n"), file.flush()
    ...     read_lengths(file.name)
    (array([2, 4, 3]), None)
    """
    given = {"tokenizer": tokenizer, "chat_format": chat_format, "max_length": max_length}
    if os.path.isdir(path):
        _refuse_unused(path, given, "a token store, whose tokens are there")
        store = TokenStore(path)
        return store.lengths, store.target_counts
    lines = read_lines(path)
    first = next(lines)
    lines = itertools.chain([first], lines)
    is_jsonl = os.fspath(path).endswith((".jsonl", ".json")) or first.raw.lstrip().startswith(b"{")
    if is_jsonl and tokenizer is None and load_tokenizer and _has_only_messages(first):
        tokenizer = load_tokenizer()
    if is_jsonl and tokenizer is not None:
        way = Way(tokenizer, chat_format or format_of(tokenizer), max_length)
        return _tokenized(path, lines, way, workers or cores())
    if is_jsonl:
        _refuse_unused(path, {"chat_format": chat_format}, "read by the lengths of its rows, without a tokenizer")
    else:
        _refuse_unused(path, given, "a file of lengths")
    lengths = array("q")
    for line in lines:
        try:
            lengths.append(min(_length_key(line.row()), max_length or sys.maxsize) if is_jsonl else _length_line(line))
        except DataError as error:
            raise error.at(path, line.number) from None
    return np.array(lengths, dtype=np.int64), None


def _refuse_unused(path: str | os.PathLike, given: Mapping[str, Any], what: str) -> None:
    if unused := next((name for name, value in given.items() if value is not None), None):
        raise ValueError(f"{os.fspath(path)} is {what}: {unused.replace('_', ' ')} changes nothing there, leave it out")


def _tokenized(
    path: str | os.PathLike, lines: Iterable[Line], way: Way, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and target counts of a file of conversations; `lines` are all of it, for one that is not large."""
    size = file_size(path)
    told = tally(print_progress("measure"), size)
    if size <= PART_BYTES:
        return _measure(path, lines, way, WHOLE, partial(told, WHOLE))

    def work(part: Part, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        return _measure(path, read_lines(path, start=part.start, end=part.end), way, part, tell)

    lengths, counts = [], []
    with closing(in_order(split(path, hashlib.sha256(), PART_BYTES), work, workers=workers, told=told)) as done:
        for part, measured in done:
            lengths.append(measured[0])
            counts.append(measured[1])
            told(part, len(lengths[-1]), int(lengths[-1].sum()), part.end - part.start)
    return np.concatenate(lengths), np.concatenate(counts)


def _measure(
    path: str | os.PathLike, lines: Iterable[Line], way: Way, part: Part, tell: Tell
) -> tuple[np.ndarray, np.ndarray]:
    lengths, counts, tokens = array("q"), array("q"), 0
    for line in lines:
        try:
            sequence = way.encode(line)
        except DataError as error:
            raise error.at(path, part.lines + line.number) from None
        lengths.append(len(sequence.input_ids))
        counts.append(target_count(sequence.labels))
        tokens += lengths[-1]
        tell(len(lengths), tokens, line.offset + len(line.raw) - part.start)
    return np.array(lengths, dtype=np.int64), np.array(counts, dtype=np.int64)


def _has_only_messages(line: Line) -> bool:
    try:
        row = line.row()
    except DataError:  # whoever reads the line says so
        return False
    return "messages" in row and "length" not in row


def _length_key(row: Mapping[str, Any]) -> int:
    length = row.get("length")
    if type(length) is not int or not 0 < length < LONGEST:
        found = "is missing" if length is None else f"is {length!a:.40}"
        detail = f"it {found}; without --tokenizer every row needs its number of tokens there, from 1 to below 2^40"
        raise DataError("no length", detail, field="length")
    return length


def _length_line(line: Line) -> int:
    text = line.raw.strip()
    if not (text.isdigit() and len(text) < 19 and 0 < int(text) < LONGEST):
        raise DataError("not a length", f"{text[:40].decode('latin-1')!a}; a line holds a positive integer below 2^40")
    return int(text)


def fit_lengths(
    lengths: Counts, capacity: SupportsIndex, *, overlong: str = "error"
) -> tuple[Int[np.ndarray, " sequences"], Int[np.ndarray, " truncated"]]:
    """The lengths as a packer may take them, and the indices of those that were cut: nothing goes silently.

    A length over the capacity is refused ("error") or cut ("truncate"): who holds the tokens must then truncate these.
    Raises ValueError for a length that is refused, and for arguments that are not valid.

    >>> fit_lengths([2, 4, 3], 3, overlong="truncate")
    (array([2, 3, 3]), array([1]))
    """
    if overlong not in ("error", "truncate"):
        raise ValueError(f'overlong must be "error" or "truncate", not {overlong!r}')
    given = as_counts(lengths)
    checked(np.zeros_like(given), capacity)
    fitted, _ = checked(given if overlong == "error" else np.minimum(given, index(capacity)), capacity)
    return fitted, np.flatnonzero(given > fitted)
