"""A process that ends with the one that started it, whatever either is doing then."""

from __future__ import annotations

import os
import threading
import time

WATCH_SECONDS = 0.2


def end_with(parent: int) -> None:
    """End this process as soon as the process `parent` (its number) has ended, from a thread that looks now and then.

    `parent` is handed down by the parent itself: who asks the system for it may already hear of another one. The end
    comes at once, with status 1 and without cleaning up, so that whatever is under way has to bear a kill.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
