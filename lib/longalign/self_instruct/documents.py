"""Documents from a folder: clean text in English or Chinese, each once, with source, license and name.

What is left out is named with its reason. All are in memory at once, and languages are guessed from samples.

    folder           its files in sorted order, those of its folders too; hidden ones and symbolic links passed over
    .txt .md .rst    one document a file
    .py .c .go ...   one document a file, of source "code"
    .jsonl           one document a line: {"text": str, optional "source": str, "license": str}, other keys ignored

Files are untrusted: UTF-8 alone, without NUL bytes, control characters at most one in a hundred, lines of at most
MOST_LINE characters, files of at most MOST_BYTES (JSONL is read by lines, of which each has longalign.data.jsonl's
bound).
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from longalign.data.chinese import CHINESE_SHARE, chinese_share, language_of
from longalign.data.jsonl import VISIBLE, DataError, read_lines

PROSE, ROWS = (".txt", ".md", ".rst"), ".jsonl"
CODE = (
    ".py", ".js", ".ts", ".java", ".c", ".h", ".cpp", ".hpp", ".go", ".rs", ".rb", ".sh", ".sql", ".r", ".jl",
    ".scala", ".kt", ".swift", ".cs", ".php", ".lua", ".pl",
)  # fmt: skip
KINDS = (*PROSE, ROWS, *CODE)
SPOKEN = ("en", "zh")
"""The languages that there are prompts in."""
MOST_BYTES, MOST_LINE, MOST_TAG = 64 * 2**20, 1_000_000, 100
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_LICENSE = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+()-]+(?:[ \t]+(?:AND|OR|WITH)[ \t]+[\w.+()-]+){0,9})")
# UTF-32's little-endian mark begins with UTF-16's
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Refusal(NamedTuple):
    """What was left out (a document's name, or files "*.suffix" of a folder) and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Document:
    """A text without white space around it, lines ended by line feeds; `sha256` is that of its UTF-8 bytes.

    `name` is the path in the given folder, or the file's name, with "#line" for a row of JSONL; `language` is an
    ISO 639 code; `source` is "code" for source files, whose sentences are their lines.
    """

    text: str
    name: str
    source: str
    language: str
    license: str
    sha256: str


def read(
    paths: Sequence[Path], *, license: str | None = None, leave_out: Sequence[Path] = (),
    spoken: Sequence[str] = SPOKEN,
) -> tuple[list[Document], list[Refusal]]:  # fmt: skip
    """The documents of folders and files, in the order given, and what was left out.

    A document's license is its row's, else what `SPDX-License-Identifier:` says in its first 20 lines, else `license`,
    else "unknown"; its source its row's, else "code", else the name of the folder given (of a file, its parent's).
    Bad files and rows of a folder are refusals; a file given by its name raises DataError with the place. Texts in
    other languages than those `spoken` (empty: any), and those that were there before, are refusals either way. Files
    of a folder that `leave_out` names are none of its documents.
    """
    documents: list[Document] = []
    refusals: list[Refusal] = []
    names: dict[str, str] = {}
    for path in map(Path, paths):
        for found in _folder(path, license, leave_out) if path.is_dir() else _named(path, license):
            if isinstance(found, Refusal):
                refusals.append(found)
            elif spoken and found.language not in spoken:
                refusals.append(Refusal(found.name, f"language {found.language}: prompts are English and Chinese"))
            elif found.sha256 in names:
                refusals.append(Refusal(found.name, f"duplicate of {names[found.sha256]}"))
            else:
                names[found.sha256] = found.name
                documents.append(found)
    return documents, refusals


def language(text: str) -> str:
    """The language of prose as an ISO 639 code, "zh" for all of Chinese, "zxx" for text that is none (numbers, say).

    py3langid reads some 3,000 characters: of beginning, middle and end. It knows the languages of Wikipedia, so that a
    few words, names or code may look like any of them: where it gives the best one less than an even chance, at least
    0.3 of Chinese characters among the letters make Chinese, and plain letters a to z in 99 of 100 English.

    >>> language("The cat sat on the mat."), language("猫坐在垫子上。"), language("Die Katze saß auf der Matte.")
    ('en', 'zh', 'de')
    """
    part = 1_000
    middle = len(text) // 2 - part // 2
    if len(text) > 3 * part:
        text = "\n".join((text[:part], text[middle : middle + part], text[-part:]))
    found, probability = _identifier().classify(text)
    share = chinese_share(text)
    if share is None:
        return "zxx"
    # Written Cantonese and Wu are as near to short standard texts as Mandarin.
    if found in ("zh", "yue", "wuu") or (probability < 0.5 and found != "ja" and share >= CHINESE_SHARE):
        return "zh"
    plain = sum(character.isascii() and character.isalpha() for character in text)
    if probability < 0.5 and plain >= 0.99 * sum(map(str.isalpha, text)):
        return "en"
    return found


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _folder(folder: Path, license: str | None, leave_out: Sequence[Path]) -> Iterator[Document | Refusal]:
    others, unread = Counter[str](), {path.resolve() for path in leave_out}
    for found in _walk(folder):
        if isinstance(found, Refusal):
            yield found
        elif found.resolve() in unread:
            continue
        elif found.suffix.lower() in KINDS:
            name = found.relative_to(folder).as_posix()
            yield from _documents(found, name, _source(folder, found), license, named=False)
        else:
            others[_printable(found.suffix.lower()) or " without a suffix"] += 1
    for suffix, count in sorted(others.items()):
        yield Refusal(f"*{suffix}", f"another kind of file ({count:,} of them)")


def _walk(folder: Path) -> Iterator[Path | Refusal]:
    failed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(place, name) for name in sorted(files) if not name.startswith("."))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())
    for error in failed:
        yield Refusal(_printable(os.path.relpath(error.filename, folder)), f"cannot be read ({error.strerror})".lower())


def _named(file: Path, license: str | None) -> Iterator[Document | Refusal]:
    if not file.is_file():
        raise DataError("cannot be read", "it is neither a file nor a folder").at(file)
    if file.suffix and file.suffix.lower() not in KINDS:  # LICENSE and README are texts
        raise DataError("another kind of file", f"documents are {' '.join(KINDS)}").at(file)
    yield from _documents(file, file.name, _source(file.parent, file), license, named=True)


def _source(folder: Path, file: Path) -> str:
    if file.suffix.lower() in CODE:
        return "code"
    name = _printable(folder.resolve().name)[:MOST_TAG]
    return name if name not in ("", "code") else "documents"


def _printable(name: str) -> str:
    """A file's name, in which other systems' bytes and control characters are question marks."""
    name = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in name)


def _documents(file: Path, name: str, source: str, license: str | None, *, named: bool) -> Iterator[Document | Refusal]:
    name = _printable(name)
    try:
        for line, load in _rows(file):
            label = name if line is None else f"{name}#{line}"
            try:
                found = _document(load(), label, source, license)
            except DataError as error:
                if named:
                    raise error.at(file, line) from None
                found = _refusal(label, error)
            yield found
    except DataError as error:
        if named:
            raise
        yield _refusal(name, error)


def _refusal(name: str, error: DataError) -> Refusal:
    return Refusal(name, error.reason + f" ({error.detail})" * bool(error.detail))


def _rows(file: Path) -> Iterator[tuple[int | None, Callable[[], Mapping[str, Any]]]]:
    """The line and the row of each document; a row is loaded on demand, so that one that fails stands for itself."""
    if file.suffix.lower() == ROWS:
        for line in read_lines(file):
            yield line.number, line.row
    else:
        yield None, partial(_whole, file)


def _whole(file: Path) -> dict[str, str]:
    """A file's text, as a row."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError("file too large", f"a file may hold at most {MOST_BYTES // 2**20} MiB")
        data = file.read_bytes()
    except OSError as error:
        raise DataError("cannot be read", str(error.strerror).lower()) from None
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise DataError("not UTF-8", f"it begins with the byte order mark of {encoding}; save the file as UTF-8")
    if (place := data.find(b"\0")) >= 0:
        raise DataError("binary", f"byte {place + 1} is NUL")
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8", f"byte {error.start + 1} of the file; save it as UTF-8") from None


def _document(row: Mapping[str, Any], name: str, source: str, license: str | None) -> Document:
    text = _text(row.get("text"))
    source, stated = _tag(row, "source") or source, _tag(row, "license")
    spoken = language_of(text) if source == "code" else language(text)
    header = _LICENSE.search("\n".join(text.split("\n", 20)[:20]))
    license = stated or (header and header[1][:MOST_TAG]) or license or "unknown"
    return Document(text, name, source, spoken, license, hashlib.sha256(text.encode()).hexdigest())


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise DataError("no text", 'a row needs a string under "text"', field="text")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip()
    if not VISIBLE.search(text):
        raise DataError("empty", "it holds no visible text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError("lone surrogate", f"at character {error.start + 1}") from None
    if "\0" in text or len(_CONTROL.findall(text)) > len(text) / 100:
        raise DataError("binary", "it holds NUL, or more than one control character in a hundred")
    if (longest := max(map(len, text.split("\n")))) > MOST_LINE:
        raise DataError("line too long", f"{longest:,} characters, at most {MOST_LINE:,}")
    return text


def _tag(row: Mapping[str, Any], key: str) -> str | None:
    """A row's source or license, where it has one: both go into records and reports."""
    value = row.get(key)
    if value is not None and not (isinstance(value, str) and len(value) <= MOST_TAG and value.isprintable()):
        raise DataError(f"bad {key}", f"one line of at most {MOST_TAG} characters", field=key)
    return value.strip() if value else None
