"""A file of lines worked on by several processes, with the same results and the same first error as by one.

A part is a run of whole lines, some MiB long, known by its place and the sha256 of its bytes. Every part is done by a
process that is forked for it.
"""

import gc
import hashlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Any

from longalign.common.parents import end_with
from longalign.data.jsonl import read_lines

PART_BYTES = 16 * 2**20
"""Least bytes of a part but the last: some seconds of tokenizing, which is what a kill costs a process."""
TELL_SECONDS = 0.2
_FORK = get_context("fork")

Tell = Callable[..., None]


class WorkerDied(RuntimeError):
    """A process ended before it had done its part."""


@dataclass(frozen=True)
class Part:
    """The bytes from `start` to before `end` of a file, whole lines, and how many `lines` stand before them."""

    start: int
    end: int
    lines: int
    sha256: str


WHOLE = Part(0, 0, 0, "")
"""A file to its end, also a pipe."""


def split(path: str | os.PathLike, digest: Any, size: int) -> Iterator[Part]:
    r"""The parts of a file in order, each of at least `size` bytes but the last; `digest` is fed with the whole file.

    A part holds at least one line that is not blank.  Raises DataError as `longalign.data.jsonl.read_lines` does.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"aa\nbbbb\n\nccc\n"), file.flush()
    ...     [(part.start, part.end, part.lines) for part in split(file.name, hashlib.sha256(), 5)]
    [(0, 8, 0), (8, 13, 2)]
    """
    both, start, before, line = _Both(digest), 0, 0, None
    for line in read_lines(path, digest=both):
        if both.bytes - start >= size:
            yield Part(start, both.bytes, before, both.cut())
            start, before, line = both.bytes, line.number, None
    if line is not None:
        yield Part(start, both.bytes, before, both.cut())


def in_order(
    parts: Iterator[Part], work: Callable[[Part, Tell], Any], *, workers: int,
    known: Callable[[Part], Any] = lambda part: None, told: Callable[..., None] = lambda part, *values: None,
) -> Generator[tuple[Part, Any], None, None]:  # fmt: skip
    """Each part with what `work(part, tell)` returned in a process of its own, `workers` side by side, in file order.

    A part of which `known(part)` is not None is not worked on.  What a worker tells goes to `told(part, *values)`, a
    few times a second.  What `work` raises comes here, that of the first part in the file that raises, as a
    RuntimeError where it cannot be sent; WorkerDied when a process dies.  Close the generator (`contextlib.closing`),
    and its processes end.

    >>> parts = [Part(0, 2, 0, ""), Part(2, 6, 1, ""), Part(6, 9, 2, "")]
    >>> [done for _, done in in_order(iter(parts), lambda part, tell: part.end - part.start, workers=2)]
    [2, 4, 3]
    """
    running: dict[Any, _Worker] = {}
    outcomes: dict[int, tuple[Part, Any]] = {}
    numbered, more, following = enumerate(parts), True, 0
    try:
        while more or running:
            with _interrupt_later():
                if more and len(running) < workers:
                    index, new = next(numbered, (-1, None))
                    more = new is not None
                    if new and (result := known(new)) is not None:
                        outcomes[index] = new, result
                    elif new:
                        worker = _Worker(index, new, work)
                        running[worker.inbox] = worker
            if running and (len(running) == workers or not more):
                ready = connection.wait(running)
                with _interrupt_later():
                    more = _hear(ready, running, outcomes, told) and more
            while following in outcomes:
                part, result = outcomes.pop(following)
                if isinstance(result, BaseException):
                    raise result
                yield part, result
                following += 1
    finally:
        with _interrupt_later():
            while running:
                running.popitem()[1].end()


def _hear(
    ready: list[Any], running: dict[Any, "_Worker"], outcomes: dict[int, tuple[Part, Any]], told: Callable[..., None]
) -> bool:
    """Take what workers say; False if one has failed, which ends those that are after it in the file."""
    well = True
    for inbox in ready:
        if inbox not in running:  # ended just now
            continue
        kind, value = running[inbox].message()
        if kind == "told":
            told(running[inbox].part, *value)
            continue
        worker = running.pop(inbox)
        outcomes[worker.index] = worker.part, value
        if isinstance(value, BaseException):
            well = False
            for other in [other for other in running.values() if other.index > worker.index]:
                running.pop(other.inbox).end()
    return well


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Both:
    """Feeds a digest of the whole file and one of the part, and counts bytes."""

    def __init__(self, whole: Any) -> None:
        self.whole, self.part, self.bytes = whole, hashlib.sha256(), 0

    def update(self, data: bytes) -> None:
        self.whole.update(data)
        self.part.update(data)
        self.bytes += len(data)

    def cut(self) -> str:
        """sha256 (hex) of the part that ends here."""
        done, self.part = self.part.hexdigest(), hashlib.sha256()
        return done


class _Worker:
    """A forked process that does one part."""

    def __init__(self, index: int, part: Part, work: Callable[[Part, Tell], Any]) -> None:
        self.index, self.part = index, part
        self.inbox, outbox = _FORK.Pipe(duplex=False)
        self.process = _FORK.Process(target=_serve, args=(work, part, outbox, os.getpid()), daemon=True)
        try:
            with _without_threads():
                self.process.start()
        except BaseException:
            if self.process.pid:  # it is under way already, and nobody else knows of it
                self.end()
            raise
        outbox.close()

    def message(self) -> tuple[str, Any]:
        """("told", values) while it works, then ("done", what `work` returned or raised)."""
        try:
            kind, value = self.inbox.recv()
        except (EOFError, OSError):  # OSError: it died while it sent
            self.process.join()
            code = self.process.exitcode or 0
            cause = f"signal {-code}: was memory short?" if code < 0 else f"exit {code}"
            where = f"bytes {self.part.start:,} to {self.part.end:,} of the file"
            kind, value = "done", WorkerDied(f"the process that was at {where} died ({cause})")
        if kind == "done":
            self.end()
        return kind, value

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.inbox.close()


def _serve(work: Callable[[Part, Tell], Any], part: Part, outbox: Any, asker: int) -> None:
    """In the forked process: do the part, say how far it is, and what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for who asked, and then ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what is there already is not looked at again, which would copy its pages
    end_with(asker)
    last = time.monotonic()

    def tell(*values: Any) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            outbox.send(("told", values))

    try:
        value = work(part, tell)
    except (ValueError, OSError) as error:  # says what is wrong; of others one wants to know where
        value = error
    except BaseException as error:
        value = _sendable(error)
    outbox.send(("done", value))


def _sendable(error: BaseException) -> Any:
    """The error with its traceback; what pickle cannot bring over, as a RuntimeError that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  an error may refuse in any way
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    return ExceptionWithTraceback(error, error.__traceback__)


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """An interrupt comes at the end of the block: functions that Python calls around a fork, or where an object goes,
    would swallow what it raises, and processes that are half begun or half ended would be known to nobody."""
    if threading.current_thread() is not threading.main_thread():  # which no interrupt reaches
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def heeding(call: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """`call`, which in this block also raises a KeyboardInterrupt that Python has swallowed, as where an object goes.

    >>> with heeding(print) as told:
    ...     told(2, 4, 3)
    2 4 3
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield call  # somebody else decides what an interrupt is
        return
    came: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    def heed(*values: Any) -> None:
        if came:
            raise KeyboardInterrupt
        call(*values)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _without_threads() -> Iterator[None]:
    """Processes that are forked here tokenize with one thread each: those of this process do not come along."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
