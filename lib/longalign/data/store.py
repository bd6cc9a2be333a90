"""The token store: sequences and their targets on disk, of which one is in memory at a time; a damaged one is refused.

A store is a folder; n sequences, lengths 2, 4, 3 have the offsets 0, 2, 6, 9:
    tokens.bin          int32 [tokens], all sequences one behind the other
    targets.bin         uint8 [tokens], 1 where a token is a target
    offsets.npy         int64 [n + 1], where sequences begin
    target_counts.npy   int64 [n], targets of a sequence; its position 0 never counts, since nothing predicts it
    lines.npy           int64 [n, 2], line number (from 1) and byte offset of its JSONL line; 0 and -1 without a file
    skipped.jsonl       lines that were left out: line, reason, field, detail, raw; only if there are any
    manifest.json       counts (of answers, too, that are no targets or of which the chat template writes only a part),
                        what was dropped and why, size and sha256 of every file, where it came from and its tokenizer
"""

import json
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common.array_types import IGNORE_INDEX
from longalign.common.provenance import file_sha256
from longalign.data.jsonl import DataError, Line
from longalign.data.store_writer import CONTENT, VERSION, Encoded, StoreWriter, manifest_checksum

FILES = (*CONTENT, "target_counts.npy", "lines.npy")
COUNTS = ("sequences", "tokens", "targets")


class TokenStore:
    """A token store opened for reading: `len(store)`, `store[i]`, lengths and counts without touching a token.

    Opening compares every file's size, the sha256 of the small ones and all counts with the manifest, and the
    manifest with its own checksum; `verify=True` reads the tokens too and compares their sha256.  Raises DataError
    for a store that is damaged, and for a folder that is none.  Forked processes may read beside each other; a pickled
    store is opened again where it is loaded, and refused if another has taken its place.
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
            if path.suffix == ".npy":
                self._compare(name)
        self.offsets = self._array("offsets.npy")
        self.target_counts = self._array("target_counts.npy")
        self.lines = self._array("lines.npy")
        self.lengths = np.diff(self.offsets)
        counts = (len(self.lengths), self.offsets[-1], self.target_counts.sum())
        if counts != tuple(self.manifest[name] for name in COUNTS):
            raise _damaged(self.folder / "manifest.json", "its counts are not those of the files")
        self._tokens, self._targets = self._column("tokens.bin", "<i4"), self._column("targets.bin", "u1")
        if verify:
            self.verify()

    def verify(self) -> None:
        """Read every file and compare its sha256 with the manifest's; raises DataError where they differ."""
        for name in self.manifest["files"]:
            self._compare(name)

    def id_range(self) -> tuple[int, int]:
        """The smallest and the largest token id in the store, (0, -1) without any."""
        tokens = np.memmap(self.folder / "tokens.bin", "<i4", "r") if self.offsets[-1] else np.array([], "<i4")
        return (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, -1)

    def count(self, token: int) -> int:
        """How often a token id stands in the store."""
        tokens = np.memmap(self.folder / "tokens.bin", "<i4", "r") if self.offsets[-1] else np.array([], "<i4")
        return sum(int(np.count_nonzero(tokens[i : i + 2**24] == token)) for i in range(0, len(tokens), 2**24))

    def __reduce__(self) -> tuple[Any, tuple[Path, str]]:
        return _open_again, (self.folder, self.sha256)

    @property
    def sha256(self) -> str:
        """sha256 (hex) of tokens, targets and offsets: the same for the same data, whatever its source."""
        return self.manifest["sha256"]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"input_ids": int32 [T], "labels": int32 [T]} of a sequence; a label is input_ids[t] or IGNORE_INDEX."""
        index = range(len(self))[index]
        start, length = int(self.offsets[index]), int(self.lengths[index])
        input_ids, targets = self._tokens.read(start, length), self._targets.read(start, length)
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

    def _compare(self, name: str) -> None:
        if file_sha256(self.folder / name) != self.manifest["files"][name]["sha256"]:
            raise _damaged(self.folder / name, "its sha256 differs from the manifest's")

    def _column(self, name: str, dtype: str) -> "_Column":
        try:
            return _Column(open(self.folder / name, "rb", buffering=0), dtype)
        except OSError as error:
            raise DataError("cannot be read", str(error.strerror).lower()).at(self.folder / name) from None

    def _array(self, name: str) -> np.ndarray:
        try:
            return np.load(self.folder / name, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(self.folder / name, f"{error}") from None


def _open_again(folder: Path, sha256: str) -> TokenStore:
    store = TokenStore(folder)
    if store.sha256 != sha256:
        raise DataError("another store", "this one was written over the one that is in use").at(folder)
    return store


class _Column:
    """A file of numbers, read range by range: no position moves, so that forked processes may share the descriptor."""

    def __init__(self, file: FileIO, dtype: str) -> None:
        self.file, self.dtype = file, np.dtype(dtype)

    def __del__(self) -> None:
        self.file.close()

    def read(self, start: int, length: int) -> np.ndarray:
        """[length] numbers from number `start` on; raises DataError for a file that has become shorter."""
        numbers = np.empty(length, self.dtype)
        if os.preadv(self.file.fileno(), [numbers.data], start * self.dtype.itemsize) != numbers.nbytes:
            raise _damaged(Path(self.file.name), "it has become shorter")
        return numbers


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
    files = manifest.get("files")
    entries = [files.get(name) if isinstance(files, dict) else None for name in FILES]
    if not all(isinstance(entry, dict) and {"bytes", "sha256"} <= set(entry) for entry in entries):
        raise _damaged(path, f"it does not describe the files {', '.join(FILES)}")
    if missing := [name for name in COUNTS if name not in manifest]:
        raise _damaged(path, f"it does not say {missing[0]}")
    return manifest


def _damaged(path: Path, what: str) -> DataError:
    return DataError("damaged token store", f"{what}; tokenize again").at(path)
