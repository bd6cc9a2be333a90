"""Guarantees that a JSONL file becomes a token store whole or not at all, and that a bad sample is named by its place.

The price: every line is parsed and tokenized, one at a time, also where lengths alone are asked for.
"""

import hashlib
import os
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longalign.chat import encode, tokenizer_hash
from longalign.jsonl import DataError, Line, read_lines
from longalign.rendering import format_of
from longalign.store import TokenStore
from longalign.store_writer import StoreWriter, target_count

Progress = Callable[[int, int, float], None]  # samples so far, tokens so far, share of the file done


def tokenize_jsonl(
    jsonl: str | os.PathLike,
    tokenizer: Any,
    folder: str | os.PathLike,
    *,
    chat_format: str | None = None,
    max_length: int | None = None,
    skip_invalid: bool = False,
    progress: Progress | None = None,
) -> TokenStore:
    """The token store of a JSONL file in LongAlign-10k's schema; formats and truncation are `longalign.chat.encode`'s.

    A bad sample raises DataError with file, line and field, and nothing is left behind.  With `skip_invalid` it is
    left out instead, counted by reason in the manifest's "dropped", copied to skipped.jsonl (bytes that are not UTF-8
    as lone surrogates \\udcXX), and the counts are printed.  A file of which nothing remains raises.  `progress` is
    called after every sample; None prints a line.
    """
    progress = progress or print_progress()
    digest, dropped, first = hashlib.sha256(), Counter(), None
    with StoreWriter(folder) as writer:
        for line in read_lines(jsonl, digest=digest):
            try:
                messages = line.row().get("messages")
                sequence = encode(messages, tokenizer, chat_format=chat_format, max_length=max_length)
            except DataError as error:
                error.at(jsonl, line.number)
                if not skip_invalid:
                    raise error from None
                dropped[error.reason] += 1
                first = first or error
                writer.skip(line, error)
                continue
            writer.add(sequence, line=line.number, offset=line.offset)
            progress(len(writer), writer.tokens, (line.offset + len(line.raw)) / max(1, os.path.getsize(jsonl)))
        summary = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
        if not len(writer):
            raise DataError("no valid sample", f"all were skipped: {summary}; the first: {first}").at(jsonl)
        source = {"name": Path(jsonl).name, "bytes": os.path.getsize(jsonl), "sha256": digest.hexdigest()}
        spoken = chat_format or format_of(tokenizer)
        how = {"tokenizer_sha256": tokenizer_hash(tokenizer), "chat_format": spoken, "max_length": max_length}
        writer.finish({"source": source, **how, "dropped": dict(sorted(dropped.items()))})
    if dropped:
        where = Path(folder) / "skipped.jsonl"
        print(f"{jsonl}: {sum(dropped.values())} samples skipped ({summary}); see {where}", file=sys.stderr)
    return TokenStore(folder)


def read_lengths(
    path: str | os.PathLike, *, tokenizer: Any = None, chat_format: str | None = None, max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Lengths and, where known, target counts (int64 [n]) of a token store, a JSONL file, or a text file of lengths.

    A folder is a store; a file whose first line begins with "{", or that is named .jsonl or .json, is JSONL; anything
    else holds one positive integer a line (2, 4, 3 on three lines).  JSONL is tokenized sample by sample when there
    is a tokenizer, else the rows' key "length" tells, cut to `max_length` as truncation would.  Blank lines hold
    nothing.  Raises DataError that names file and line.
    """
    if os.path.isdir(path):
        store = TokenStore(path)
        return store.lengths, store.target_counts
    lengths, counts, progress = array("q"), array("q"), print_progress("measure")
    tokens, is_jsonl = 0, os.fspath(path).endswith((".jsonl", ".json"))
    for index, line in enumerate(read_lines(path)):
        is_jsonl = is_jsonl or (index == 0 and line.raw.lstrip().startswith(b"{"))
        try:
            if is_jsonl and tokenizer is not None:
                sequence = encode(line.row().get("messages"), tokenizer, chat_format=chat_format, max_length=max_length)
                tokens += len(sequence.input_ids)
                lengths.append(len(sequence.input_ids))
                counts.append(target_count(sequence.labels))
                progress(len(lengths), tokens, (line.offset + len(line.raw)) / max(1, os.path.getsize(path)))
            elif is_jsonl:
                lengths.append(min(_length_key(line.row()), max_length or sys.maxsize))
            else:
                lengths.append(_length_line(line))
        except DataError as error:
            raise error.at(path, line.number) from None
    known = np.array(counts, dtype=np.int64) if is_jsonl and tokenizer is not None else None
    return np.array(lengths, dtype=np.int64), known


def print_progress(label: str = "tokenize", *, every: float = 5.0) -> Progress:
    """A progress callable: one changing line on a terminal, else a line every `every` seconds, on stderr."""
    start = last = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(samples: int, tokens: int, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        done = share >= 1
        if now - last < (0.2 if terminal else every) and not (terminal and done):
            return
        last, spent = now, max(now - start, 1e-9)
        left = spent / share - spent if share else 0.0
        text = f"{label}: {samples:,} samples, {tokens / spent:,.0f} tokens/s, {share:.0%}, {left:,.0f} s left"
        text, end = (f"\r{text:<80}", "\n" * done) if terminal else (text, "\n")
        print(text, end=end, file=sys.stderr, flush=True)

    return show


def _length_key(row: Mapping[str, Any]) -> int:
    length = row.get("length")
    if type(length) is not int or not 0 < length < 2**62:
        found = "is missing" if length is None else f"is {length!a:.40}"
        detail = f"it {found}; without --tokenizer every row needs its number of tokens there, a positive integer"
        raise DataError("no length", detail, field="length")
    return length


def _length_line(line: Line) -> int:
    text = line.raw.strip()
    if not (text.isdigit() and len(text) < 19 and int(text) > 0):
        raise DataError("not a length", f"{text[:40].decode('latin-1')!a}; a line holds one positive integer")
    return int(text)
