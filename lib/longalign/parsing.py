"""Options of the command line: no abbreviations, and whatever is wrong is one line that names the nearest spelling."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, reports in one line and names the nearest valid spelling."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"allow_abbrev": False}))
        self.below: list[Parser] = []

    def add_child(self, children: Any, name: str, run: Any = None, **options: Any) -> Parser:
        """A subcommand, so that misspelt options of its own can be told apart from foreign ones."""
        child = children.add_parser(name, description=options.get("help"), **options)
        child.set_defaults(run=run, parser=child)
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
