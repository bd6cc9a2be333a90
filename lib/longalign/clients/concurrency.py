"""Work on many items at a time: results in the items' order whatever the order in which they came; nothing is lost.

An error that stops everything is told after what is under way has ended, since that is paid for; who interrupts twice
does not wait for it.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from longalign.clients.client import Asker
from longalign.clients.errors import EndpointError, Stopped

Item, Result = TypeVar("Item"), TypeVar("Result")
EVERY = 20.0
"""Seconds between two lines of progress; on a terminal one line changes."""
Done = tuple[int, Any]


def each(
    work: Callable[[Item], Result], items: Sequence[Item], *, asker: Asker | None = None, at_once: int = 4,
    label: str = "asked",
) -> list[Result | EndpointError]:  # fmt: skip
    """What `work` returns for each item, or the error of a server that it ended with.

    `Stopped` ends all: items that had not begun, or did not come to their end, get the same error. On Ctrl-C
    (KeyboardInterrupt) those under way may end, and then it is raised again; on a second one it is raised at once.
    `asker` is told to stop waiting. Any other error of `work` is raised.

    >>> each(lambda length: length * 2, [2, 4, 3])
    [4, 8, 6]
    """
    team = _Team(work, items, at_once)
    results: list[Any] = [None] * len(items)
    show = _progress(label, len(items))
    try:
        for count, (place, found) in enumerate(team.results(), 1):
            results[place] = found
            show(count)
            if isinstance(found, Stopped):
                for place, last in team.end(asker):
                    results[place] = found if isinstance(last, Stopped) else last  # one that was only told to stop
                return [found if result is None else result for result in results]
    except BaseException:
        team.end(asker)
        raise
    return results


class _Team:
    """Threads that take items one by one; they end with the process, so that none is waited for who leaves at once."""

    def __init__(self, work: Callable[[Any], Any], items: Sequence[Any], at_once: int) -> None:
        self.work, self.total = work, len(items)
        self.todo: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        for pair in enumerate(items):
            self.todo.put(pair)
        self.threads = [threading.Thread(target=self._take, daemon=True) for _ in range(min(at_once, self.total))]
        for thread in self.threads:
            thread.start()

    def results(self) -> Any:
        """Place and result as they come. Raises what `work` raised."""
        for _ in range(self.total):
            place, found = self._next()
            if isinstance(found, BaseException) and not isinstance(found, EndpointError):
                raise found
            yield place, found

    def end(self, asker: Asker | None) -> list[Done]:
        """Begin nothing more, wait for what is under way, and return what came of it."""
        while not self.todo.empty():
            try:
                self.todo.get_nowait()
            except queue.Empty:
                break
        if asker is not None:
            asker.stop.set()
        print("longalign: stopping; requests under way may end, and replies are kept (Ctrl-C again leaves at once)",
              file=sys.stderr, flush=True)  # fmt: skip
        while any(thread.is_alive() for thread in self.threads):
            time.sleep(0.05)  # a join without an end would not be interrupted
        return [self.done.get() for _ in range(self.done.qsize())]

    def _next(self) -> Done:
        while True:
            try:
                return self.done.get(timeout=1.0)
            except queue.Empty:
                continue

    def _take(self) -> None:
        while True:
            try:
                place, item = self.todo.get_nowait()
            except queue.Empty:
                return
            try:
                self.done.put((place, self.work(item)))
            except BaseException as error:  # raised again where the results are read
                self.done.put((place, error))


def _progress(label: str, total: int) -> Callable[[int], None]:
    began = last = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < (0.2 if terminal else EVERY) and not (terminal and done == total):
            return
        last = now
        text = f"{label}: {done:,} of {total:,}, {(now - began) / done * (total - done):,.0f} s left"
        text, end = (f"\r{text:<60}", "\n" * (done == total)) if terminal else (text, "\n")
        print(text, end=end, file=sys.stderr, flush=True)

    return show
