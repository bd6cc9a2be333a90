"""A benchmark's published files, brought to a folder: whole, from one commit, or not at all.

Git's hosts tell no hash of a file, so the first fetch notes what came, and any later one insists on the same. Files
that arrived before an interruption are kept.
"""

import http.client
import json
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from longalign.common import checksums, paths, provenance

SECONDS = 60.0
PLACES = 9
"""Of the judge's template, `{}`: question, reference, three times answer and rating, answer."""


@dataclass(frozen=True)
class Published:
    """Where a benchmark's files are published: `base` names repository and commit."""

    base: str
    files: tuple[str, ...]


BENCHMARKS = {
    # arXiv 2401.18058's own repository, at the commit that brought questions, scored answers and the judge's prompt
    "longbench-chat": Published(
        "https://raw.githubusercontent.com/THUDM/LongAlign/7fc4c6d9a93ae88b3994228503a652877a993dec/LongBench-Chat",
        ("test_cases.json", "few_shots.json", "prompt_fs.txt"),
    ),
}


def folder_of(name: str) -> Path:
    """Where a benchmark lies once it is fetched.

    >>> folder_of("longbench-chat").parts[-2:]
    ('sources', 'longbench-chat')
    """
    return paths.runs() / "sources" / name


def state(name: str) -> str:
    """What is in a benchmark's folder; nothing is fetched. Raises ValueError for a name that is not known."""
    _check_name(name)
    return f"there: {folder_of(name)}" if checksums.is_sealed(folder_of(name)) else "not fetched"


def fetch(name: str, folder: Path | str | None = None, *, base: str = "") -> Path:
    """The folder with the files of benchmark `name`, fetched where it is not whole; `base` is in the published place's
    stead.

    Raises ValueError for a name that is not known and for files that are not those that came before, OSError where they
    cannot be had.
    """
    _check_name(name)
    source, folder = BENCHMARKS[name], Path(folder or folder_of(name))
    if checksums.is_sealed(folder):
        return folder
    with provenance.alone(folder.parent / f".{folder.name}.lock"):
        for file in source.files:
            if not (folder / file).is_file():
                _bring(f"{base or source.base}/{file}", folder / file)
        _check(folder, source)
        provenance.write_json(folder / "source.json", {"base": source.base, "files": _hashes(folder, source)})
        checksums.seal(folder)
    return folder


def _check_name(name: str) -> None:
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r} to fetch; there is {', '.join(BENCHMARKS)}")


def _bring(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer, provenance.atomic(path, "wb") as file:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length") or ""
            if expected.isdecimal() and file.tell() != int(expected):
                raise OSError(f"it was cut short after {file.tell():,} of {int(expected):,} bytes")
    except (OSError, http.client.HTTPException) as error:  # of the latter are a cut and an answer that is none of HTTP
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise OSError(f"{url} could not be downloaded ({reason}): check the connection and its proxy, then run the "
                      "same command again; what has arrived is kept") from None  # fmt: skip


def _check(folder: Path, source: Published) -> None:
    """The files have their form, and are those that came the first time. Raises ValueError."""
    for name in source.files:
        if not _has_form(folder / name):
            raise ValueError(f"{folder / name}: it is not the published file, but perhaps the page of a proxy: remove "
                             "it, check the connection, then fetch")  # fmt: skip
    try:
        known = json.loads((folder / "source.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return
    if changed := [name for name, value in _hashes(folder, source).items() if known.get(name, value) != value]:
        raise ValueError(f"{folder}: {', '.join(changed)} has changed since the first fetch: remove it, then fetch")


def _has_form(file: Path) -> bool:
    """Whether a file is a list of items, or a prompt with the places that are filled: whatever answers for a host may
    send a page instead, which may hold {}, too, or other JSON."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".txt":
            return text.count("{}") == PLACES
        items = json.loads(text)
        return isinstance(items, list) and bool(items) and all(isinstance(item, dict | list) for item in items)
    except (ValueError, RecursionError):
        return False


def _hashes(folder: Path, source: Published) -> dict[str, str]:
    return {name: provenance.file_sha256(folder / name) for name in source.files}
