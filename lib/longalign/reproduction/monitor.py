"""A kernel under watch: the memory of its processes, its limit, the process that asked for it; and how it is ended.

The kernel is ended from here, never by an exception in the client that waits for it: the client then sees a kernel that
has gone and leaves in good order, and `cause` says why.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import psutil

from longalign.reproduction.askers import Askers
from longalign.reproduction.outcomes import INTERRUPTED, NOTEBOOK_LIMIT

LOOK = 0.5
GRACE = 5.0
"""Seconds from the kernel's interrupt, in which a cell can put away what it holds, to its end by force."""


SAME = 1.0
"""Seconds in which several signals are one wish: a terminal and make both pass an interrupt on."""


class Monitor:
    """Watches the kernel that this process starts; `limit` in seconds, 0 for none.

    `peak` is the largest memory (bytes, resident) of the kernel and all below it; `cause` the state in which the
    notebook ends when it was ended from here, else empty. With `parent`, the end of the process that started this one,
    or of a make above it, ends the notebook, too.
    """

    def __init__(self, *, limit: float = 0, parent: bool = False) -> None:
        self.peak, self.cause = 0, ""
        self._deadline = time.monotonic() + limit if limit else float("inf")
        self._askers = Askers() if parent else None
        self._ended, self._over = float("inf"), threading.Event()
        self._others: set[int] = set()  # processes that were there before, and are no kernel
        self._groups: set[int] = set()  # the kernels' process groups, which outlive a kernel that is killed
        self._own, self._thread = psutil.Process(), threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Monitor:
        """Watch from now on; an interrupt or a polite kill of this process ends the kernel."""
        self._others = {process.pid for process in self._kernels()}
        self._handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no longer; what a kernel that died has left behind ends, too."""
        self._over.set()
        self._thread.join()
        for group in self._groups:
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def end(self, cause: str) -> None:
        """End the kernel: politely, by force after `GRACE`; at once when it is asked for again."""
        again, self.cause = time.monotonic() > self._ended + SAME, self.cause or cause
        self._ended = min(self._ended, time.monotonic())
        self._signal(signal.SIGKILL if again else signal.SIGINT)

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            self.peak = max(self.peak, self._memory())
            self._groups |= {kernel.pid for kernel in self._kernels() if _leads(kernel.pid)}
            if not self.cause and time.monotonic() > self._deadline:
                self.end(NOTEBOOK_LIMIT)
            if not self.cause and self._askers and self._askers.gone():
                self.end(INTERRUPTED)
            if time.monotonic() > self._ended + GRACE:
                self._signal(signal.SIGKILL)

    def _on_signal(self, *_: object) -> None:
        if not self._kernels():  # nothing has been started, or everything has ended
            raise KeyboardInterrupt
        self.end(INTERRUPTED)

    def _kernels(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [process for process in self._own.children() if process.pid not in self._others]
        return []

    def _signal(self, number: int) -> None:
        for kernel in self._kernels():
            with suppress(OSError, psutil.Error):
                if _leads(kernel.pid):
                    os.killpg(kernel.pid, number)

    def _memory(self) -> int:
        total = 0
        with suppress(psutil.Error):
            for kernel in self._kernels():
                for process in (kernel, *kernel.children(recursive=True)):
                    with suppress(psutil.Error):
                        total += process.memory_info().rss
        return total


def _leads(process: int) -> bool:
    """Whether it leads a group, which then holds its workers."""
    try:
        return os.getpgid(process) == process
    except OSError:
        return False
