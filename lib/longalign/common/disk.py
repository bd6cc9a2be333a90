"""A disk without room, whatever a library calls it."""

import errno
import re
import shutil
from pathlib import Path

FULL = re.compile(r"No space left|quota exceeded|File too large|unexpected pos \d+ vs")
"""What systems and libraries say of it; the last is what torch says of a file that could not be written whole."""


LEAST = 2**16
"""Bytes; where fewer are left, not even a log says whole why a program ended."""


def has_no_room(folder: Path) -> bool:
    """Whether the disk of a folder has so little room that this may be why a program there ended.

    >>> has_no_room(Path())
    False
    """
    return shutil.disk_usage(folder).free < LEAST


def is_full(error: BaseException) -> bool:
    """Whether an error came from a disk without room.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full(ValueError("no labels"))
    (True, False)
    """
    said = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return said or FULL.search(str(error)) is not None
