"""The writer of token stores. A store appears whole or not at all: it is written beside its place and then renamed.

The format is described in `longalign.data.store`.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longalign.common.array_types import IGNORE_INDEX
from longalign.common.provenance import file_sha256
from longalign.data.jsonl import DataError, Line

CONTENT = ("tokens.bin", "targets.bin", "offsets.npy")  # what the store's sha256 covers
NUMBERS = ("truncated_sequences", "truncated_tokens", "masked_answers", "shortened_messages", "doubtful_cuts")
COUNTERS = {"lost_characters": "lost", "unread_keys": "unread"}  # of the manifest, by the field of `Encoded`
VERSION = 1


@dataclass(frozen=True)
class Encoded:
    """One sequence: `input_ids` and `labels` int32 [T] (input_ids[t] or IGNORE_INDEX, not shifted), tokens removed.

    `masked` counts answers that are no targets, `shortened` messages of which the template writes only a part;
    `doubtful` is 1 where what was removed may be words of an instruction; `lost` are the characters that the tokenizer
    has no token for, `unread` the keys of the sample that nothing reads.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: int = 0
    masked: int = 0
    shortened: int = 0
    doubtful: int = 0
    lost: str = ""
    unread: tuple[str, ...] = ()


class StoreWriter:
    """Takes sequences one by one, in a `with` block; without `finish` nothing is left behind.

    Where `folder` is a symbolic link, the store is written in the place that it leads to.  Raises DataError when
    `folder` is there and holds something else than a store.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = target_of(folder)
        occupied = self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir()))
        if occupied and not (self.folder / "manifest.json").is_file():
            raise DataError("not a token store", "it is there already; name another folder").at(folder)
        self.temporary = self.folder.parent / f".{self.folder.name}.{os.getpid()}.part"
        self.offsets, self.counts, self.lines = array("q", [0]), array("q"), array("q")
        self.numbers = Counter(dict.fromkeys(NUMBERS, 0))
        self.counters: dict[str, Counter[str]] = {name: Counter() for name in COUNTERS}
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "StoreWriter":  # noqa: PYI034 - Self needs Python 3.11
        self.temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        self._tokens, self._targets = self._open("tokens.bin"), self._open("targets.bin")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stack.close()  # fails again where the disk is full
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return self.offsets[-1]

    def _open(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = self._stack.enter_context(open(self.temporary / name, "wb"))
        return self._files[name]

    def add(self, sequence: Encoded, *, line: int = 0, offset: int = -1) -> None:
        """Append a sequence; raises ValueError unless its labels are its own tokens or IGNORE_INDEX."""
        ids, labels = np.asarray(sequence.input_ids), np.asarray(sequence.labels)
        targets = labels != IGNORE_INDEX
        if ids.ndim != 1 or not len(ids) or ids.shape != labels.shape or (labels[targets] != ids[targets]).any():
            raise ValueError(f"sequence {len(self)}: its labels must be its own tokens or {IGNORE_INDEX}, one a token.")
        if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
            raise ValueError(f"sequence {len(self)}: token ids must be between 0 and 2^31 - 1.")
        self._tokens.write(ids.astype("<i4").tobytes())
        self._targets.write(targets.astype(np.uint8).tobytes())
        self.offsets.append(self.tokens + len(ids))
        self.counts.append(target_count(labels))
        self.lines.extend((line, offset))
        found = (sequence.truncated > 0, sequence.truncated, sequence.masked, sequence.shortened, sequence.doubtful)
        told = {name: Counter(getattr(sequence, field)) for name, field in COUNTERS.items()}
        self.count({**dict(zip(NUMBERS, map(int, found), strict=True)), **told})

    def count(self, told: Mapping[str, Any]) -> None:
        """Add what a manifest counts, as that of a part."""
        self.numbers.update({name: told.get(name, 0) for name in NUMBERS})
        for name, counter in self.counters.items():
            counter.update(told.get(name, {}))

    def skip(self, line: Line, error: DataError) -> None:
        """Note a line that is left out in skipped.jsonl; of a line too long for memory only the beginning."""
        raw = line.raw[:4096] if line.too_long else line.raw.rstrip(b"\r\n")
        row = {"line": line.number, "reason": error.reason, "field": error.field, "detail": error.detail}
        row["raw"] = raw.decode("utf-8", "surrogateescape")
        self._open("skipped.jsonl").write(json.dumps(row).encode() + b"\n")

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Write the manifest, with `meta` in it, and move the store to its place."""
        self._stack.close()
        np.save(self.temporary / "offsets.npy", np.array(self.offsets, dtype="<i8"))
        np.save(self.temporary / "target_counts.npy", np.array(self.counts, dtype="<i8"))
        np.save(self.temporary / "lines.npy", np.array(self.lines, dtype="<i8").reshape(-1, 2))
        paths = sorted(self.temporary.iterdir())
        files: dict[str, dict[str, Any]] = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in paths
        }
        manifest = {
            **meta,
            "version": VERSION,
            "sequences": len(self),
            "tokens": self.tokens,
            "targets": sum(self.counts),
            **{name: count for name, count in self.numbers.items() if count or name.startswith("truncated")},
            **{name: dict(sorted(counter.items())) for name, counter in self.counters.items() if counter},
            "files": files,
            "sha256": hashlib.sha256("".join(files[name]["sha256"] for name in CONTENT).encode()).hexdigest(),
        }
        manifest["manifest_sha256"] = manifest_checksum(manifest)
        (self.temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        previous = self.temporary.with_suffix(".old")
        if self.folder.exists():
            os.replace(self.folder, previous)
        os.replace(self.temporary, self.folder)
        shutil.rmtree(previous, ignore_errors=True)


def target_of(folder: str | os.PathLike) -> Path:
    """A folder, or what a symbolic link in its place leads to. Raises DataError for a link that leads nowhere."""
    path = Path(folder)
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise DataError("cannot be written", "it is a symbolic link to itself; name a folder").at(folder)
    return target


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 (hex) of a manifest without its own checksum."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def target_count(labels: np.ndarray) -> int:
    """N of a sequence: labels [T] other than IGNORE_INDEX, position 0 never counted."""
    return int(np.count_nonzero(labels[1:] != IGNORE_INDEX))
