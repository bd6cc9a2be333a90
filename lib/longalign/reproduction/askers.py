"""Who asked for this process: its parent, and every make above it, however many makes and shells lie between.

`make smoke` calls a make of its own: when the first is killed, the second does not notice. Only makes count, and the
shells between them: who closes the terminal of a run that was started with nohup does not end it.
"""

from __future__ import annotations

import psutil

MAKES = ("make", "gmake", "gnumake")
BETWEEN = ("sh", "dash", "bash", "ksh", "zsh", "env")


class Askers:
    """The processes above this one as they are now, the parent first, up to the topmost make."""

    def __init__(self) -> None:
        self.own = psutil.Process()
        above = self.own.parents()
        names = [_name(process) for process in above]
        reach = next((i for i, name in enumerate(names) if name not in (*MAKES, *BETWEEN)), len(names))
        makes = [i for i in range(reach) if names[i] in MAKES]
        self.above = [process.pid for process in above[: max(makes, default=0) + 1]]

    def gone(self) -> bool:
        """Whether one of them has ended: its child has another parent then, also before anybody has taken note."""
        try:
            return any(psutil.Process(child).ppid() != asker
                       for child, asker in zip([self.own.pid, *self.above], self.above, strict=False))  # fmt: skip
        except psutil.NoSuchProcess:
            return True


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""
