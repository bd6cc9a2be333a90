"""Folders that are sealed when they are finished: one whose files have changed since, or were cut short, is not used.
"""

import json
from pathlib import Path

from longalign.common import provenance

SEAL = "sha256.json"
_known: dict[tuple[str, int, int], str] = {}


def hashes(folder: Path | str, *names: str) -> dict[str, str]:
    """The hash of every file in `folder`, by its path from there; with `names`, of these files and folders only.

    Seals and what begins with a dot (locks, unfinished files) are left out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "lengths.txt").write_text("2 4 3")
    >>> list(hashes(folder))
    ['lengths.txt']
    """
    folder = Path(folder)
    found = [folder / name for name in names] or [folder]
    files = [file for path in found for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    kept = [f for f in files if f.is_file() and f.name != SEAL and not f.name.startswith(".")]
    return {file.relative_to(folder).as_posix(): _hash(file) for file in kept}


def is_intact(folder: Path | str, expected: dict[str, str]) -> bool:
    """Whether every file of `expected` (path from `folder`: hash) is there, and is as it was."""
    try:
        return all(_hash(Path(folder) / name) == value for name, value in expected.items())
    except OSError:
        return False


def seal(folder: Path | str) -> None:
    """Write the hashes of all files in `folder` beside them: after this the folder is finished."""
    provenance.write_json(Path(folder) / SEAL, hashes(folder))


def is_sealed(folder: Path | str) -> bool:
    """Whether the folder was sealed, and is as it was then."""
    try:
        return is_intact(folder, json.loads((Path(folder) / SEAL).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return False


def finished_record(folder: Path | str) -> dict | None:
    """What `folder`/record.json says, None unless it is whole and the files that it lists are as they were."""
    try:
        told = json.loads((Path(folder) / "record.json").read_text(encoding="utf-8"))
        return told if is_intact(folder, told["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash(file: Path) -> str:
    # the same file, unchanged by its size and time, is read once: a run is asked for many times
    state = file.stat()
    key = (str(file.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _known:
        _known[key] = provenance.hash_files(file)
    return _known[key]
