"""Conversations read from JSONL: bad data are named by file, line, field and reason, and nothing is guessed.

The files have LongAlign-10k's schema, one JSON object a line: {"messages": [{"role": ..., "content": ...}, ...], any
other key}. They are untrusted and large: one line is in memory at a time, and a line may hold at most MAX_LINE_BYTES.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from longalign.data import other_formats
from longalign.data.other_formats import MASKS, UNREAD, UNREAD_OF_MESSAGE, kind

MAX_LINE_BYTES = 64 * 2**20
ROLES = ("system", "user", "assistant", "tool")
_FOLLOWS = {
    "system": ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool"),
}  # fmt: skip
CARRIED = (
    "reasoning_content", "reasoning", "reasoning_details", "reasoning_text", "thinking", "thought", "thoughts",
    "tool_plan", "tool_calls", "function_call", "refusal",
)  # fmt: skip
"""What a message says beside its content, under the names that chat templates and servers have for it."""
VISIBLE = re.compile(
    r"[^\s\u00ad\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2800\u3164\ufe0f\ufeff\uffa0]"
)
_BOM = b"\xef\xbb\xbf"


class DataError(ValueError):
    """Bad data, in one sentence: where (file, line, field), which of the known reasons, and details.

    `reason` is short and the same for all errors of a kind, so that skipped samples can be counted by it.

    >>> str(DataError("empty answer", "say something", field="messages[1].content").at("a.jsonl", 3))
    'a.jsonl, line 3, field messages[1].content: empty answer (say something)'
    """

    def __init__(self, reason: str, detail: str = "", *, field: str | None = None) -> None:
        self.reason, self.detail, self.field = reason, detail, field
        self.path: str | None = None
        self.line: int | None = None
        super().__init__(reason)

    def at(self, path: str | os.PathLike, line: int | None = None) -> "DataError":
        """The same error with its place filled in (`line` counts from 1)."""
        self.path, self.line = os.fspath(path), line
        return self

    def __str__(self) -> str:
        field = f"field {self.field}" if self.field else None
        place = ", ".join(filter(None, (self.path, f"line {self.line}" if self.line else None, field)))
        return f"{place}: " * bool(place) + self.reason + f" ({self.detail})" * bool(self.detail)


@dataclass(frozen=True)
class Line:
    """One line as it stands in the file: `number` from 1, `offset` in bytes from the start of the file, `raw` bytes."""

    number: int
    offset: int
    raw: bytes
    too_long: bool = False

    def row(self) -> dict[str, Any]:
        """The JSON object of the line; raises DataError for anything else."""
        other = other_formats.of_file(self.raw[:64]) if self.offset <= len(_BOM) else ""
        if self.too_long:
            raise DataError("line too long", other or f"a line may hold at most {MAX_LINE_BYTES // 2**20} MiB")
        try:
            row = json.loads(self.raw.rstrip(b"\r\n").decode("utf-8"), object_pairs_hook=_once)
        except UnicodeDecodeError as error:
            detail = other or f"byte {error.start + 1} of the line; make the file text in UTF-8"
            raise DataError("not UTF-8", detail) from None
        except json.JSONDecodeError as error:
            detail = other or f"{error.msg} at column {error.colno}; a line is an object"
            raise DataError("malformed JSON", detail) from None
        except DataError:
            raise
        except (RecursionError, ValueError) as error:
            detail = "nested too deeply" if isinstance(error, RecursionError) else "a number has thousands of digits"
            raise DataError("malformed JSON", detail) from None
        if not isinstance(row, dict):
            raise DataError("not an object", other or f"each line must be a JSON object, this one is {kind(row)}")
        return row

    def conversation(self) -> dict[str, Any]:
        """The object with `messages` and `tools` as they are; raises DataError for a key that would change what they
        say."""
        row = self.row()
        if row.get("messages") is None:
            raise DataError("missing messages", other_formats.of_row(row), field="messages")
        for key, instead in UNREAD.items():
            if row.get(key):
                raise DataError("field is not read", instead, field=key)
        _check_masks(row)
        for key in ("system", "system_prompt", "system_message"):
            _check_system(key, row.get(key), row.get("messages"))
        return row


def read_lines(
    path: str | os.PathLike, *, digest: Any = None, start: int = 0, end: int | None = None
) -> Iterator[Line]:
    """The lines of a file that are not blank, one at a time; `digest` (of hashlib) is fed with every byte read.

    Lines end at a line feed only; a byte order mark at the start is passed over; blank lines hold no sample, but are
    counted in the line numbers.  Of a part of the file, the lines that begin at the bytes from `start` (where a line
    begins) to before `end`; their numbers count from there.  Raises DataError for a file that cannot be read, and for
    one that holds nothing.
    """
    found = False
    try:
        with open(path, "rb") as file:
            if start:  # a pipe has no other
                file.seek(start)
            for line in _split(file, digest, start, end):
                if line.too_long or line.raw.strip():
                    found = True
                    yield line
    except OSError as error:
        raise DataError("cannot be read", str(error.strerror).lower()).at(path) from None
    if not found:
        raise DataError("empty file", "it holds no sample").at(path)


def _split(file: BinaryIO, digest: Any, offset: int, end: int | None) -> Iterator[Line]:
    number = 0
    while (end is None or offset < end) and (raw := file.readline(MAX_LINE_BYTES)):
        number, start, part, too_long = number + 1, offset, raw, False
        while True:
            offset += len(part)
            if digest is not None:
                digest.update(part)
            if part.endswith(b"\n") or not (part := file.readline(MAX_LINE_BYTES)):
                break
            too_long = True
        if start == 0 and raw.startswith(_BOM):
            raw, start = raw[len(_BOM) :], len(_BOM)
        yield Line(number, start, raw, too_long)


def check_messages(messages: Any, *, last: str = "assistant") -> list[dict[str, Any]]:
    """The messages, without keys that say nothing, when they are a conversation that ends with a turn of `last`.

    An optional system message comes first; then user and assistant take turns, the user first.  After an answer the
    results of tools (role "tool") may stand in the user's place.  `last="user"` is a prompt: it ends with what is to
    be answered, a question or a tool's result.  A question may be empty, an answer may not: the paper removes the
    empty assistant turns of ShareGPT from the data (arXiv 2401.18058), here the sample is refused; an answer that only
    calls tools has no text.  `weight` (0 or 1) and `train` (true or false) say whether an answer is a target
    (`is_target`).  Other keys go to the chat template, which may write them (a `name`); one that is null or
    empty is none.  Raises DataError with the field.

    >>> check_messages([{"role": "user", "content": "Why?", "weight": None, "name": "Ann"}], last="user")
    [{'role': 'user', 'content': 'Why?', 'name': 'Ann'}]
    """
    if messages is None:
        raise DataError("missing messages", 'a sample needs a list under "messages"', field="messages")
    if not isinstance(messages, list | tuple):
        raise DataError("messages not a list", f"it is {kind(messages)}", field="messages")
    if not messages:
        raise DataError("empty messages", "a sample needs a question and an answer", field="messages")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    roles = [message["role"] for message in messages]
    if last == "assistant" and "assistant" not in roles:
        raise DataError("no assistant turn", "there is nothing to learn from", field="messages")
    for index, role in enumerate(roles):
        expected = _FOLLOWS[roles[index - 1] if index else "system"]
        if role not in expected and not (role == "system" and index == 0):
            detail = f"expected {expected[0]}, found {role}; user and assistant take turns"
            raise DataError("wrong order of roles", detail, field=f"messages[{index}].role")
    if (roles[-1] == "assistant") != (last == "assistant") or roles[-1] == "system":
        detail = f"it is of the {roles[-1]}"
        raise DataError(f"last turn not of the {last}", detail, field=f"messages[{len(roles) - 1}].role")
    said = [{key: value for key, value in message.items() if value not in (None, [], {}, "")} for message in messages]
    return [{**kept, "content": ""} if message.get("content") == "" else kept
            for kept, message in zip(said, messages, strict=True)]  # fmt: skip


def check_tools(tools: Any) -> list[dict[str, Any]] | None:
    """The descriptions of tools that a conversation may call, None without any. Raises DataError.

    >>> check_tools([{"type": "function", "function": {"name": "weather"}}])[0]["type"]
    'function'
    """
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list | tuple):
        raise DataError("tools not a list", f"it is {kind(tools)}", field="tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise DataError("tool not an object", f"it is {kind(tool)}", field=f"tools[{index}]")
        _check_text(tool, f"tools[{index}]")
    return list(tools)


def is_target(message: Mapping[str, Any]) -> bool:
    """Whether a message is an answer that is learnt: `weight` 0, or `train` false, says no.

    >>> is_target({"role": "assistant", "content": "Five.", "weight": 0})
    False
    """
    return message["role"] == "assistant" and message.get("weight", 1) == 1 and message.get("train", True)


def _check_message(message: Any, field: str) -> None:
    if not isinstance(message, dict):
        raise DataError("message not an object", f"it is {kind(message)}", field=field)
    if "role" not in message:
        raise DataError("missing role", f"one of {', '.join(ROLES)}", field=f"{field}.role")
    role = message["role"]
    if role not in ROLES:
        own = other_formats.OTHER_ROLES.get(str(role).lower())
        detail = f"{role!a:.40} is none of {', '.join(ROLES)}" + f"; write {own}" * bool(own)
        raise DataError("unknown role", detail, field=f"{field}.role")
    content, calls = message.get("content"), role == "assistant" and _calls(message, field)
    if not isinstance(content, str) and not (calls and content is None):
        detail = "it is missing" if "content" not in message else f"it is {kind(content)}"
        detail += other_formats.of_content(content)
        raise DataError("content not a string", detail, field=f"{field}.content")
    for key, value in message.items():
        _check_text(value, f"{field}.{key}")
        if key in UNREAD_OF_MESSAGE and value is not None and value not in ([], {}, ""):
            raise DataError("field is not read", UNREAD_OF_MESSAGE[key], field=f"{field}.{key}")
        if key != key.lower() and key.lower() in ("weight", "train"):
            raise DataError("field is not read", f"write {key.lower()}", field=f"{field}.{key}")
    if role == "assistant" and not calls and not VISIBLE.search(content or ""):
        raise DataError("empty answer", "an answer needs visible text", field=f"{field}.content")
    _check_weight(message, field)


def _check_masks(row: Mapping[str, Any]) -> None:
    """Raises DataError for a sample that is not to be learnt as a whole, or more than others."""
    detail = "of messages alone it is; leave the sample out, or say it of its answers"
    for key in ("train", "weight", "weights", *MASKS):
        value, one = row.get(key), key in ("train", "weight")
        if value not in (None, True, 1, []) and (one or isinstance(value, list | bool)):
            raise DataError("field is not read", detail, field=key)


def _check_system(key: str, system: Any, messages: Any) -> None:
    """Raises DataError for a system message beside the messages, unless it is the first of them as well."""
    if not isinstance(system, str) or not system.strip():
        return
    first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
    if (first.get("role"), first.get("content")) != ("system", system):
        raise DataError("field is not read", "make it the first message, of the role system", field=key)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises DataError for one that says a key twice, of which one would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise DataError("malformed JSON", f"the key {twice!a:.40} occurs twice in an object")
    return found


def _calls(message: Mapping[str, Any], field: str) -> bool:
    """Whether an answer calls tools; raises DataError for calls that are no list of objects."""
    calls = message.get("tool_calls")
    if calls is None or calls == []:
        return False
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise DataError("tool calls not a list of objects", f"it is {kind(calls)}", field=f"{field}.tool_calls")
    return True


def _check_weight(message: Mapping[str, Any], field: str) -> None:
    weight, train, role = message.get("weight"), message.get("train"), message["role"]
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        detail = f"it is {weight!a:.40}; 1 learns the answer, 0 does not: the weights of a loss are the plan's"
        raise DataError("weight not 0 or 1", detail, field=f"{field}.weight")
    if train is not None and not isinstance(train, bool):
        raise DataError("train not true or false", f"it is {train!a:.40}", field=f"{field}.train")
    if None not in (weight, train) and bool(weight) != train:
        raise DataError("weight and train differ", f"weight {weight}, train {train}", field=f"{field}.train")
    if role != "assistant" and (weight or train):
        key = "weight" if weight else "train"
        raise DataError("no answer to learn", f"the role is {role}; only answers are learnt", field=f"{field}.{key}")


def _check_text(value: Any, field: str) -> None:
    """Raises DataError for text that UTF-8 has no bytes for, however deep in the value."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "lone surrogate", f"{text[error.start]!a} at character {error.start + 1}", field=field
        ) from None
