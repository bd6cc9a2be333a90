"""Guarantees that a token store is whole or refused, and that using it needs memory for one sample at a time.

The price: a sequence is read from the disk (or the page cache) each time it is asked for, and copied.

A store is a folder; n sequences, lengths 2, 4, 3 have the offsets 0, 2, 6, 9:
    tokens.bin          int32 [tokens], all sequences one behind the other
    targets.bin         uint8 [tokens], 1 where a token is a target
    offsets.npy         int64 [n + 1], where sequences begin
    target_counts.npy   int64 [n], targets of a sequence; its position 0 never counts, since nothing predicts it
    lines.npy           int64 [n, 2], line number (from 1) and byte offset of its JSONL line; 0 and -1 without a file
    skipped.jsonl       lines that were left out: line, reason, field, detail, raw; only if there are any
    manifest.json       counts, what was dropped and why, size and sha256 of every file, where it came from
"""

import hashlib
import json
import os
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longalign.chat import Encoded, encode, tokenizer_hash
from longalign.jsonl import DataError, Line, read_lines
from longalign.rendering import format_of
from longalign.shapes import IGNORE_INDEX
from longalign.store_writer import VERSION, StoreWriter, file_sha256, manifest_checksum, target_count

Progress = Callable[[int, int, float], None]  # samples so far, tokens so far, share of the file done


class TokenStore:
    """A token store opened for reading: `len(store)`, `store[i]`, lengths and counts without touching a token.

    Opening compares every file's size, the sha256 of the small ones and all counts with the manifest, and the
    manifest with its own checksum; `verify=True` reads the tokens too and compares their sha256.  Raises DataError
    for a store that is damaged, and for a folder that is none.
    """

    def __init__(self, folder: str | os.PathLike, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = _read_manifest(self.folder)
        for name, expected in self.manifest["files"].items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != expected["bytes"]:
                found = "is missing" if size is None else f"holds {size} bytes instead of {expected['bytes']}"
                raise _damaged(path, f"it {found}")
            if (verify or path.suffix == ".npy") and file_sha256(path) != expected["sha256"]:
                raise _damaged(path, "its sha256 differs from the manifest's")
        self.offsets = self._array("offsets.npy")
        self.target_counts = self._array("target_counts.npy")
        self.lines = self._array("lines.npy")
        self.lengths = np.diff(self.offsets)
        counts = (len(self.lengths), self.offsets[-1], self.target_counts.sum())
        if counts != tuple(self.manifest[name] for name in ("sequences", "tokens", "targets")):
            raise _damaged(self.folder / "manifest.json", "its counts are not those of the files")

    @property
    def sha256(self) -> str:
        """sha256 (hex) of tokens, targets and offsets: the same for the same data, whatever its source."""
        return self.manifest["sha256"]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"input_ids": int32 [T], "labels": int32 [T]} of a sequence; a label is input_ids[t] or IGNORE_INDEX."""
        index = range(len(self))[index]
        input_ids = self._read("tokens.bin", np.int32, index)
        targets = self._read("targets.bin", np.uint8, index)
        return {"input_ids": input_ids, "labels": np.where(targets, input_ids, np.int32(IGNORE_INDEX))}

    def source_row(self, index: int, jsonl: str | os.PathLike) -> dict[str, Any]:
        """The row of the JSONL file that a sequence was made from, with all its keys.

        Raises DataError when the store was not made from a file of this size, or the line is not the one it was.
        """
        number, offset = (int(value) for value in self.lines[range(len(self))[index]])
        try:
            if offset < 0 or os.path.getsize(jsonl) != self.manifest["source"]["bytes"]:
                raise DataError("another file", f"the store {self.folder} was not made from it")
            with open(jsonl, "rb") as file:
                file.seek(offset)
                return Line(number, offset, file.readline()).row()
        except OSError as error:
            raise DataError("cannot be read", str(error.strerror).lower()).at(jsonl) from None
        except DataError as error:
            raise error.at(jsonl, number if offset >= 0 else None) from None

    def _read(self, name: str, dtype: type, index: int) -> np.ndarray:
        # Mapped for one sequence only: a map of the whole file would keep every page read in this process's memory.
        length = int(self.lengths[index])
        start = int(self.offsets[index]) * np.dtype(dtype).itemsize
        return np.array(np.memmap(self.folder / name, dtype=dtype, mode="r", offset=start, shape=(length,)))

    def _array(self, name: str) -> np.ndarray:
        try:
            return np.load(self.folder / name, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(self.folder / name, f"{error}") from None


def write_store(folder: str | os.PathLike, sequences: Iterable[Encoded], *, meta: Mapping[str, Any]) -> TokenStore:
    """Write sequences as they come and open the store; `meta` (JSON values) joins the manifest.

    The store appears in one step when it is whole: it is written beside `folder` and renamed, and a store that was
    there is replaced.  Raises DataError when `folder` is there and no store, ValueError for a sequence that is empty
    or whose labels are not its own tokens.
    """
    with StoreWriter(folder) as writer:
        for sequence in sequences:
            writer.add(sequence)
        writer.finish(meta)
    return TokenStore(folder)


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


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes().decode("utf-8"))
        if manifest["manifest_sha256"] != manifest_checksum(manifest):
            raise _damaged(path, "it was edited: its checksum does not fit")
    except OSError as error:
        raise DataError("not a token store", f"manifest.json: {str(error.strerror).lower()}").at(folder) from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "it is no manifest") from None
    if manifest.get("version") != VERSION:
        detail = f"version {manifest.get('version')}, this reads {VERSION}; tokenize again"
        raise DataError("another version", detail).at(path)
    return manifest


def _damaged(path: Path, what: str) -> DataError:
    return DataError("damaged token store", f"{what}; tokenize again").at(path)


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
