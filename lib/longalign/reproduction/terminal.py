"""What a terminal and a log show of notebooks side by side.

A line that ends in a carriage return is shown until the next of the same notebook comes; logs and whatever is no
terminal keep none of these. One sign at the start of a line (`05 | `) says whose it is.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from longalign.train.progress import LIVE


def say(text: str) -> None:
    """One line with the time of day."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


@contextmanager
def log(path: Path) -> Iterator[IO[str] | None]:
    """A text file that grows line by line; None where it cannot be made: a full disk costs the log, not the work."""
    file = None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", buffering=1)
    try:
        yield file
    finally:
        if file is not None:
            with suppress(OSError):
                file.close()


class Prefixed:
    """A text stream that puts `prefix` before every line and copies the lines without it into `log`.

    Lines that come once `over` is true go into the log alone: a process that is being ended says in its own words what
    that did to it.
    """

    def __init__(self, stream: IO[str], prefix: str, log: IO[str] | None = None, *,
                 over: Callable[[], bool] = lambda: False) -> None:  # fmt: skip
        self.stream, self.prefix, self.log, self.over, self.fresh = stream, prefix, log, over, True
        self.live = stream.isatty() or LIVE in os.environ

    def write(self, text: str) -> None:
        """Write `text`; a line that ends in a carriage return, as progress does, only where it is seen live."""
        for line in text.splitlines(keepends=True):
            if not self.over() and (self.live or not line.endswith("\r")):
                self.stream.write(self.prefix + line if self.fresh else line)
                self.fresh = line[-1] in "\r\n"
            self._log(line)

    def flush(self) -> None:
        """Pass everything on to the stream beneath."""
        self.stream.flush()

    def _log(self, line: str) -> None:
        if self.log is not None and not line.endswith("\r"):
            try:
                self.log.write(line)
            except OSError:
                self.log = None


class Board:
    """Lines that stay, above one live line for each notebook that runs.

    >>> import sys
    >>> board = Board(sys.stdout, width=24)
    >>> board.write("05 | step 1/9 loss 2.1 and\\r")  # shown where the output is a terminal
    >>> board.write("05 | trained\\n")
    05 | trained
    """

    def __init__(self, stream: IO[str], width: int | None = None) -> None:
        self.stream, self.live, self.drawn = stream, {}, 0
        self.terminal = stream.isatty() if hasattr(stream, "isatty") else False
        self.width = width or shutil.get_terminal_size().columns

    def write(self, line: str) -> None:
        """Show a line; it ends in a newline (stays) or a carriage return (until the next of that notebook)."""
        text = line.rstrip("\r\n")
        name = text.split(" | ")[0] if " | " in text[:8] else ""
        if not line.endswith("\r"):
            # a notebook's line is over when it prints another one, or when one about it is printed
            self.live = {n: live for n, live in self.live.items() if n != name and f" {n}_" not in text}
            self._draw(text)
        elif self.terminal:
            self.live[name] = text
            self._draw(None)

    def _draw(self, text: str | None) -> None:
        if self.drawn:
            self.stream.write(f"\x1b[{self.drawn}A\x1b[J")
        if text is not None:
            self.stream.write(text + "\n")
        lines = [self.live[name][: self.width - 1] for name in sorted(self.live)] if self.terminal else []
        self.stream.write("".join(line + "\n" for line in lines))
        self.drawn = len(lines)
        self.stream.flush()
