"""The file of replies: a reply is on the disk before it is used, and nothing is asked twice.

The file is JSONL, a line for every reply in the order in which they came:
    {"key", "label", "model", "text", "finish", "prompt_tokens", "completion_tokens", "thoughts"}
`key` is a hash of model, messages and settings, so the same question asked of the same model finds its reply, whichever
server gave it. `text` is the reply and `thoughts` what a reasoning model thought before it, which is no part of the
reply; a file in which both stand in `text` is read as if they stood apart. The messages are not kept: with documents of
64k tokens they would stand there three times. A line that was cut short by a kill is dropped; the file serves as a
recording, too, from which judges are replayed without a key.
"""

import dataclasses
import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.clients.thoughts import split
from longalign.common import provenance
from longalign.data.jsonl import DataError


@dataclass(frozen=True)
class Request:
    """One question to a chat model: `messages`, at most `max_tokens` tokens of reply.

    `tag` tells requests of the same words apart (a judge's second run); `label` is for people. Neither is sent.
    """

    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float = 0.0
    tag: str = ""
    label: str = ""

    def key(self, model: str) -> str:
        """Sixteen hex digits; equal keys mean the same question to the same model.

        >>> ask = Request([{"role": "user", "content": "2, 4, 3?"}], max_tokens=8)
        >>> ask.key("a") == dataclasses.replace(ask, label="q1").key("a") != dataclasses.replace(ask, tag="2").key("a")
        True
        """
        settings = {name: value for name, value in dataclasses.asdict(self).items() if name != "label"}
        return provenance.config_hash({"model": model, **settings})


@dataclass(frozen=True)
class Reply:
    """What a model said; `finish` is "length" where it was cut off, as by `max_tokens`. Tokens as it counts them.

    Thoughts in the text are moved to `thoughts` (`longalign.clients.thoughts`); thoughts without an end leave no
    text.

    >>> reply = Reply("<think>At first [[3]].</think> [[7]]")
    >>> reply.text, reply.thoughts
    ('[[7]]', '<think>At first [[3]].</think>')
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    thoughts: str = ""

    def __post_init__(self) -> None:
        found = split(self.text)
        if found.thoughts:
            object.__setattr__(self, "text", found.answer)
            object.__setattr__(self, "thoughts", "\n".join(filter(None, (self.thoughts, found.thoughts))))

    @property
    def thoughts_alone(self) -> bool:
        """Whether it ended within its thoughts, or after them without a word, so that there is no reply."""
        return bool(self.thoughts) and not self.text.strip()


class Replies:
    """The replies in a file, which one process may add to at a time: use it in a `with` block.

    A file that is `recorded` is read alone, and left as it is. Raises `LockedError` when another process has it,
    DataError for a file that holds something else.
    """

    def __init__(self, path: Path | str, *, recorded: bool = False) -> None:
        self.path, self.recorded = Path(path), recorded
        self.models: set[str] = set()
        self._known: dict[str, Reply] = {}
        self._lock, self._stack = threading.Lock(), ExitStack()

    def __enter__(self) -> "Replies":  # noqa: PYI034 - Self needs Python 3.11
        if self.recorded:
            self._read()
            return self
        self._stack.enter_context(provenance.alone(self.path.with_name(f".{self.path.name}.lock"), wait=False))
        whole = self._read()
        self._file = self._stack.enter_context(self.path.open("a+b"))
        if self._file.seek(0, os.SEEK_END) > whole:
            self._file.truncate(whole)
        self._file.seek(max(0, whole - 1))
        if whole and self._file.read(1) != b"\n":
            self._file.write(b"\n")  # the last reply is whole, its line's end is not there
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Reply | None:
        """The reply that is known under this key."""
        return self._known.get(key)

    def add(self, key: str, reply: Reply, *, model: str, label: str = "") -> None:
        """Write a reply; it is on the disk when this returns."""
        row = {"key": key, "label": label, "model": model, **dataclasses.asdict(reply)}
        with self._lock:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._known[key] = reply

    def _read(self) -> int:
        """Read the file; returns where its last whole line ends."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return 0
        end = 0
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), 1):
            last = end + len(line) == self.path.stat().st_size
            try:
                if line:
                    self._take(line, number)
            except DataError:
                if last and not self.recorded:
                    return end  # cut short by a kill
                raise
            end += len(line) + (not last)
        return end

    def _take(self, line: bytes, number: int) -> None:
        try:
            row: dict[str, Any] = json.loads(line)
            row.setdefault("thoughts", "")  # older files have none
            values = {field.name: row[field.name] for field in dataclasses.fields(Reply)}
            for name in ("text", "thoughts"):  # half of a surrogate pair is no character that a file can hold
                values[name] = values[name].encode("utf-8", "replace").decode("utf-8")
            reply = Reply(**values)
            self._known[row["key"]] = reply
            self.models.add(row["model"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            detail = "a line holds key, model, text, finish and tokens; name another file"
            raise DataError("no record of replies", detail).at(self.path, number) from None
