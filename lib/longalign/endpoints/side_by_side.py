"""Work on many items at a time: results in the items' order whatever the order in which they came; nothing is lost.

The price: an error that stops everything is told after what is under way has ended, since that is paid for.
"""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from longalign.endpoints.asker import Asker
from longalign.endpoints.errors import EndpointError, Stopped

Item, Result = TypeVar("Item"), TypeVar("Result")
EVERY = 20.0
"""Seconds between two lines of progress; on a terminal one line changes."""


def each(
    work: Callable[[Item], Result], items: Sequence[Item], *, asker: Asker | None = None, at_once: int = 4,
    label: str = "asked",
) -> list[Result | EndpointError]:  # fmt: skip
    """What `work` returns for each item, or the error of a server that it ended with.

    `Stopped` ends all: items that had not begun get the same error. On Ctrl-C (KeyboardInterrupt) those under way may
    end, and then it is raised again. `asker` is told to stop waiting in both cases.

    >>> each(lambda length: length * 2, [2, 4, 3])
    [4, 8, 6]
    """
    results: list[Any] = [None] * len(items)
    show, done = _progress(label, len(items)), 0
    with ThreadPoolExecutor(at_once) as pool:
        places: dict[Future, int] = {pool.submit(_kept, work, item): place for place, item in enumerate(items)}
        waiting = set(places)
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in ended:
                    results[places[future]] = future.result()
                done += len(ended)
                show(done)
                if stopped := next((r for r in (f.result() for f in ended) if isinstance(r, Stopped)), None):
                    return _end(pool, asker, places, results, stopped)
        except BaseException:
            _let_go(pool, asker)
            raise
    return results


def _kept(work: Callable[[Item], Result], item: Item) -> Result | EndpointError:
    try:
        return work(item)
    except EndpointError as error:
        return error


def _let_go(pool: ThreadPoolExecutor, asker: Asker | None) -> None:
    print("longalign: stopping; what is under way may end, and is kept", file=sys.stderr, flush=True)
    if asker is not None:
        asker.stop.set()
    pool.shutdown(wait=True, cancel_futures=True)


def _end(
    pool: ThreadPoolExecutor, asker: Asker | None, places: dict[Future, int], results: list[Any], stopped: Stopped
) -> list[Any]:
    _let_go(pool, asker)
    for future, place in places.items():
        results[place] = stopped if future.cancelled() else future.result()
    return results


def _progress(label: str, total: int) -> Callable[[int], None]:
    began = last = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < (0.2 if terminal else EVERY) and not (terminal and done == total):
            return
        last = now
        left = f"{(now - began) / done * (total - done):,.0f} s left" if done else "no answer yet"
        text = f"{label}: {done:,} of {total:,}, {left}"
        text, end = (f"\r{text:<60}", "\n" * (done == total)) if terminal else (text, "\n")
        print(text, end=end, file=sys.stderr, flush=True)

    return show
