"""Options of the command line: no abbreviations, and whatever is wrong is one line that names the nearest spelling."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

CHAT_FORMATS = ("template", "llama", "chatglm")


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, reports in one line and names the nearest valid spelling."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"allow_abbrev": False}))
        self.below: list[Parser] = []

    def add_child(self, children: Any, name: str, run: Any = None, into: Any = None, **options: Any) -> Parser:
        """A subcommand, so that misspelt options of its own can be told apart from foreign ones; `run` gets its options
        as the dataclass `into`, or where there is none as they are parsed."""
        child = children.add_parser(name, description=options.get("help"), **options)
        child.set_defaults(run=run, parser=child, into=into)
        self.below.append(child)
        return child

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with status 2."""
        fail(f"{message}{self._suggestion(message)}")

    def _suggestion(self, message: str) -> str:
        known = sorted({o for parser in (self, *self.below) for o in parser._option_string_actions})
        if message.startswith("unrecognized arguments:"):
            words = [word.split("=")[0] for word in message.split() if word.startswith("-")]
        else:
            found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
            words, known = ([found[1]], re.findall(r"[\w-]+", found[2])) if found else ([], [])
        close = [match for word in words for match in difflib.get_close_matches(word, known, n=1)]
        return f"; did you mean {', '.join(close)}?" if close else ""


def fail(message: object) -> NoReturn:
    """One line on stderr, exit status 2."""
    print(f"longalign: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def first_given(options: argparse.Namespace, *names: str) -> str | None:
    """The first of these options that has another value than its default, as it is spelt ("--at-once"); else None."""
    given = (name for name in names if getattr(options, name) != options.parser.get_default(name))
    return next((f"--{name.replace('_', '-')}" for name in given), None)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How models behind servers are asked (`add_server_options`); a command's own class adds what it asks of whom."""

    at_once: int
    per_minute: float | None
    price: tuple[float, float] | None
    timeout: float
    dry_run: bool

    @classmethod
    def of(cls, given: argparse.Namespace) -> Any:
        """What was given on the command line."""
        return cls(**{field.name: getattr(given, field.name) for field in dataclasses.fields(cls)})

    def record(self) -> dict[str, Any]:
        """Plain values, paths as they were given."""
        return {name: [str(v) if isinstance(v, Path) else v for v in value] if isinstance(value, list)
                else str(value) if isinstance(value, Path) else value
                for name, value in dataclasses.asdict(self).items()}  # fmt: skip


def add_server_options(command: Parser, *roles: str) -> None:
    """The options of what asks models behind servers, in each of these roles ("teacher": --teacher-name)."""
    for role in roles:
        which = f"which of the server's models is the {role} (default: its only one)"
        command.add_argument(f"--{role}-name", metavar="NAME", default="", help=which)
        thinking = f"a {role} that reasons: tokens it may think before each reply (default: 0)"
        command.add_argument(f"--{role}-thinking-tokens", metavar="N", type=positive, default=0, help=thinking)
    command.add_argument("--at-once", type=positive, default=4, metavar="N", help="requests at a time (default: 4)")
    command.add_argument("--per-minute", type=amount, metavar="N", help="requests a minute at most")
    price = "price of a million tokens of prompts and of replies, for the estimate"
    command.add_argument("--price", type=amount, nargs=2, metavar=("IN", "OUT"), help=price)
    longest = "longest wait for a reply (default: 600 s)"
    command.add_argument("--timeout", type=amount, default=600.0, metavar="S", help=longest)
    command.add_argument("--dry-run", action="store_true", help="say what would be asked, and ask nothing")


def add_tokenizer_options(command: Parser) -> None:
    """The options that say how conversations become tokens."""
    command.add_argument("--tokenizer", help="folder or Hub name (default: miniature, this package's own)")
    command.add_argument("--chat-format", choices=CHAT_FORMATS, help="(default: the tokenizer's)")


def is_address(text: str) -> bool:
    """Whether an option names a server.

    >>> is_address("http://127.0.0.1:8000/v1"), is_address("oracle")
    (True, False)
    """
    return text.startswith(("http://", "https://"))


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive whole number below 10^18")
    return int(text)


def readable(text: str) -> Path:
    """A file or folder to read, for argparse; "-" is standard input, as elsewhere."""
    return Path("/dev/stdin" if text == "-" else text)


def seed(text: str) -> int:
    """A whole number from 0 on, for argparse."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 on")
    return int(text)


def amount(text: str) -> float:
    """A number above 0, for argparse."""
    return _number(text, 1e12, "a number above 0")


def share(text: str) -> float:
    """A number above 0 and up to 1, for argparse."""
    return _number(text, 1.0, "a share above 0 and up to 1")


def _number(text: str, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what}")
    return value
