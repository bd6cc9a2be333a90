"""A JSONL file made into a token store, whole or not at all; a bad sample is named by its place.

Any number of processes make the same store, byte for byte; whatever ends them, the next call goes on from the
parts of the file that were done. Until the store is whole, its parts are on the disk beside it, and they stay there
after a failure.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from longalign.common import provenance
from longalign.common.source_hash import source_hash
from longalign.data.chat import Encoded, encode, tokenizer_hash
from longalign.data.chat_formats import format_of, unread_keys
from longalign.data.file_parts import PART_BYTES, WHOLE, Part, Tell, cores, heeding, in_order, split
from longalign.data.jsonl import DataError, Line, read_lines
from longalign.data.store import TokenStore
from longalign.data.store_writer import StoreWriter, target_of

TOO_LONG = "line too long"  # the reason of which skipped.jsonl has only the line's beginning
CHANGED = ("changed while it was read", "call again")
WITHOUT = ("common.provenance", "data.tokenize_files.print_progress")
"""What tokenizing uses that changes no token."""
WINDOW_SECONDS = 10.0

Progress = Callable[[int, int, float], None]  # samples so far, tokens so far, share of the file done


@dataclass(frozen=True)
class Way:
    """How conversations become sequences: the arguments of `longalign.data.chat.encode`."""

    tokenizer: Any
    chat_format: str
    max_length: int | None

    def encode(self, line: Line) -> Encoded:
        """The sequence of a line's messages and tools, with the keys that nothing reads; raises DataError."""
        row = line.conversation()
        sequence = encode(row["messages"], self.tokenizer, tools=row.get("tools"), chat_format=self.chat_format,
                          max_length=self.max_length)  # fmt: skip
        return replace(sequence, unread=unread_keys(row, self.tokenizer, self.chat_format))

    @cached_property
    def described(self) -> dict[str, Any]:
        """The way as the manifest has it."""
        settings = {"chat_format": self.chat_format, "max_length": self.max_length and int(self.max_length)}
        return {"tokenizer_sha256": tokenizer_hash(self.tokenizer), **settings}


def tokenize_jsonl(
    jsonl: str | os.PathLike,
    tokenizer: Any,
    folder: str | os.PathLike,
    *,
    chat_format: str | None = None,
    max_length: int | None = None,
    skip_invalid: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> TokenStore:
    """The token store of a JSONL file in LongAlign-10k's schema; formats and truncation are
    `longalign.data.chat.encode`'s.

    A file of more than PART_BYTES is done in parts by `workers` processes side by side, by default as many as this
    process may use cores; it needs Linux or macOS, for they are forked.  Any number of them makes the same store and
    raises the same errors.  After a failure, an interrupt or a kill, finished parts stay beside `folder`, and a call
    with the same tokenizer, format and length goes on from those whose bytes stand where they stood.

    A bad sample raises DataError with file, line and field, and no store is left behind.  With `skip_invalid` it is
    left out instead, counted by reason in the manifest's "dropped", copied to skipped.jsonl (bytes that are not UTF-8
    as lone surrogates \\udcXX), and the counts are printed.  A file of which nothing remains raises, and so does a disk
    that is full; `longalign.common.provenance.LockedError` when another process is making the same store.  `progress`
    is called after samples, often; None prints a line.

    >>> import tempfile
    >>> from longalign.miniature import tokenizer
    >>> folder = Path(tempfile.mkdtemp())
    >>> turns = [[{"role": "user", "content": "?" * n}, {"role": "assistant", "content": "!"}] for n in (2, 4, 3)]
    >>> _ = (folder / "a.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\\n" for turn in turns))
    >>> store = tokenize_jsonl(folder / "a.jsonl", tokenizer.load(), folder / "store", progress=lambda *told: None)
    >>> store.lengths.tolist(), store.target_counts.tolist()
    ([8, 10, 9], [3, 3, 3])
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; at least one process must work")
    job = Job(Path(jsonl), Way(tokenizer, chat_format or format_of(tokenizer), max_length), skip_invalid)
    progress, size = progress or print_progress(), file_size(jsonl)
    try:
        with heeding(progress) as told, StoreWriter(folder) as writer, _parts_beside(target_of(folder)) as lock:
            digest, first = hashlib.sha256(), None
            dropped: Counter[str] = Counter()
            with closing(job.write(writer, lock, digest, workers or cores(), told)) as left_out:
                for error in left_out:
                    dropped[error.reason] += 1
                    first = first or error
            if not len(writer):
                detail = f"all were skipped: {_counts(dropped)}; the first: {first}"
                raise DataError("no valid sample", detail).at(jsonl)
            if file_size(jsonl) != size:  # as where it is still being written
                raise DataError(*CHANGED).at(jsonl)
            source = {"name": Path(jsonl).name, "bytes": size, "sha256": digest.hexdigest()}
            named = {"tokenizer": name} if (name := getattr(tokenizer, "name_or_path", "")) else {}
            writer.finish({"source": source, **job.way.described, **named, "dropped": dict(sorted(dropped.items()))})
    except OSError as error:
        raise _unwritable(error, folder) from None
    if dropped:
        where = Path(folder) / "skipped.jsonl"
        print(f"{jsonl}: {sum(dropped.values())} samples skipped ({_counts(dropped)}); see {where}", file=sys.stderr)
    return TokenStore(folder)


@dataclass(frozen=True)
class Job:
    """A file that becomes a store, as a whole or in parts that are small stores: lines count from the part's first."""

    jsonl: Path
    way: Way
    skip_invalid: bool

    def write(
        self, writer: StoreWriter, lock: Any, digest: Any, workers: int, progress: Progress
    ) -> Generator[DataError, None, None]:
        """Write all samples of the file; yields what is left out.  If there are several parts, they are done in the
        folder of the `lock`."""
        size = file_size(self.jsonl)
        told = tally(progress, size)
        if size <= PART_BYTES:
            yield from self._fill(writer, WHOLE, partial(told, WHOLE), digest)
            return
        parts = split(self.jsonl, digest, PART_BYTES)
        known, make = partial(self._known, Path(lock.name).parent), partial(self._make, lock)
        with closing(in_order(parts, make, workers=workers, known=known, told=told)) as finished:
            for part, made in finished:
                store = TokenStore(made)
                yield from self._append(writer, store, part)
                told(part, len(store), store.manifest["tokens"], part.end - part.start)
        progress(len(writer), writer.tokens, 1.0)

    def _fill(self, writer: StoreWriter, part: Part, tell: Tell, digest: Any) -> Iterator[DataError]:
        """Tokenize the lines of a part; yields what is left out, or raises it."""
        for line in read_lines(self.jsonl, digest=digest, start=part.start, end=part.end or None):
            try:
                sequence = self.way.encode(line)
            except DataError as error:
                error.at(self.jsonl, part.lines + line.number)
                if not self.skip_invalid:
                    raise error from None
                writer.skip(line, error)
                yield error
                continue
            offset = line.offset - part.start
            writer.add(sequence, line=line.number, offset=offset)
            tell(len(writer), writer.tokens, offset + len(line.raw))

    def _make(self, lock: Any, part: Part, tell: Tell) -> Path:
        """The store of a part, beside the lock, which the process that asked holds alone: it may be killed."""
        lock.close()
        digest, folder = hashlib.sha256(), Path(lock.name).parent / self._key(part)
        shutil.rmtree(folder, ignore_errors=True)
        with StoreWriter(folder) as writer:
            dropped = len(list(self._fill(writer, part, tell, digest)))
            if digest.hexdigest() != part.sha256:
                raise DataError(*CHANGED).at(self.jsonl)
            writer.finish({"part": folder.name, "dropped": dropped})
        return folder

    def _known(self, place: Path, part: Part) -> Path | None:
        """The store of a part that an earlier call made, if it is whole and says what this call would say."""
        folder = place / self._key(part)
        try:
            manifest = TokenStore(folder, verify=True).manifest
        except DataError:
            return None
        fits = manifest.get("part") == folder.name and (self.skip_invalid or not manifest["dropped"])
        return folder if fits else None

    def _key(self, part: Part) -> str:
        """Hash of what a part is made of and by; its place too, for two parts of a file may be equal."""
        code = source_hash("data.tokenize_files.Job", without=WITHOUT)
        made_of = {"bytes": part.sha256, "start": part.start, **self.way.described, "code": code}
        return provenance.config_hash(made_of)

    def _append(self, writer: StoreWriter, store: TokenStore, part: Part) -> Iterator[DataError]:
        """Add a part's samples with their places in the file; yields what the part left out."""
        for (number, offset), row in zip(store.lines.tolist(), map(store.__getitem__, range(len(store))), strict=True):
            writer.add(Encoded(row["input_ids"], row["labels"]), line=part.lines + number, offset=part.start + offset)
        writer.count(store.manifest)
        if not store.manifest["dropped"]:
            return
        with open(store.folder / "skipped.jsonl", encoding="ascii") as file:
            for row in map(json.loads, file):
                number, raw = part.lines + row["line"], row["raw"].encode("utf-8", "surrogateescape")
                error = DataError(row["reason"], row["detail"], field=row["field"]).at(self.jsonl, number)
                writer.skip(Line(number, 0, raw, too_long=row["reason"] == TOO_LONG), error)
                yield error


def tally(progress: Progress, size: int) -> Callable[..., None]:
    """A function to call with a part and the samples, tokens and bytes done of it; `progress` gets those of the file.

    >>> told = tally(lambda *so_far: print(*so_far), size=20)
    >>> told(Part(0, 8, 0, ""), 1, 2, 5), told(Part(8, 20, 2, ""), 1, 4, 5), told(Part(0, 8, 0, ""), 2, 5, 8)
    1 2 0.25
    2 6 0.5
    3 9 0.65
    (None, None, None)
    """
    done: dict[int, tuple[int, ...]] = {}

    def told(part: Part, *values: int) -> None:
        done[part.start] = values
        samples, tokens, read = (sum(column) for column in zip(*done.values(), strict=True))
        progress(samples, tokens, min(1.0, read / max(1, size)))

    return told


def print_progress(label: str = "tokenize", *, every: float = 5.0) -> Progress:
    """A progress callable: one changing line on a terminal, else a line every `every` seconds, on stderr.

    Speed and time left are those of the last WINDOW_SECONDS: parts that were there already soon count no more.
    """
    last = time.monotonic()
    terminal, seen = sys.stderr.isatty(), deque([(last, 0, 0.0)])

    def show(samples: int, tokens: int, share: float) -> None:
        nonlocal last
        now, done = time.monotonic(), share >= 1
        if now - last < (0.2 if terminal else every) and not (terminal and done):
            return
        while len(seen) > 1 and now - seen[1][0] > WINDOW_SECONDS:
            seen.popleft()
        began, known_tokens, known_share = seen[0]
        seen.append((now, tokens, share))
        last, spent = now, max(now - began, 1e-9)
        speed, left = (tokens - known_tokens) / spent, (1 - share) * spent / max(share - known_share, 1e-9)
        text = f"{label}: {samples:,} samples, {speed:,.0f} tokens/s, {share:.0%}, {left:,.0f} s left"
        text, end = (f"\r{text:<80}", "\n" * done) if terminal else (text, "\n")
        print(text, end=end, file=sys.stderr, flush=True)

    return show


def file_size(path: str | os.PathLike) -> int:
    """Bytes of a file, 0 of a pipe; raises DataError for what is not there."""
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise DataError("cannot be read", str(error.strerror).lower()).at(path) from None


@contextmanager
def _parts_beside(folder: Path) -> Iterator[Any]:
    """The lock of a folder for parts beside a store; the folder goes when the block ends well or left no part in it."""
    place = folder.parent / f".{folder.name}.parts"
    with provenance.alone(place / "lock", wait=False) as lock:
        _sweep(folder.parent, re.escape(f".{folder.name}.") + rf"(?!{os.getpid()}\.)\d+\.part")
        _sweep(place, r"\..+\.part")
        try:
            yield lock
        except BaseException:
            _sweep(place, r"\..+\.part")
            if kept := sum(path.is_dir() for path in place.iterdir()):
                print(f"{folder}: {kept} parts are done and kept; the same command goes on after them", file=sys.stderr)
            else:
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)


def _sweep(place: Path, names: str) -> None:
    """Remove what processes that were killed had begun to write."""
    for path in place.iterdir():
        if re.fullmatch(names, path.name):
            shutil.rmtree(path, ignore_errors=True)


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))


def _unwritable(error: OSError, folder: str | os.PathLike) -> DataError:
    detail = str(error.strerror or error).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        detail += "; make room and call again, what is done is kept"
    return DataError("cannot be written", detail).at(folder)
