"""A model or data set of the Hugging Face Hub, brought to a folder: whole, at one commit, or not at all.

What arrived before an interruption waits in `.NAME.part` beside the folder and is not fetched again; a file that was on
its way then begins anew (a connection that breaks is taken up in the middle of a file). Python files of a repository
are taken only with `remote_code`, weights in torch's format only where it has no safetensors.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from longalign.common import checksums, disk, provenance
from longalign.fetch.source import Source

CONVERSION = 2  # raised when the same files are written in another way
OTHER_FORMATS = ("*.msgpack", "*.h5", "*.onnx")
WEIGHTS = (".safetensors", ".bin", ".index.json")
LONGALIGN_ROPE_RATIO = 200.0
SECONDS = 30.0  # without a word of the Hub's, for what it lists
AGAIN = "give the same command again: what has arrived is kept"
CONNECTION = (ConnectionError, TimeoutError, LocalEntryNotFoundError)  # and httpx's, or httpx2's in newer versions


def fetch(source: Source, folder: Path | str, *, endpoint: str | None = None) -> Path:
    """The folder with the files of `source`, at its commit; a ChatGLM3 is converted, its other files in `original`.

    A whole folder is used again without a network, a damaged one is made anew, from the same commit.  `endpoint` is the
    Hub, HF_ENDPOINT's or the public one; the token is HF_TOKEN's or that of `hf auth login`.  Raises OSError where the
    Hub cannot be reached or does not give the files, where these are damaged and where the disk is full, ValueError for
    a repository or commit that is not there, a folder that holds something else, and as the converter does: a sentence
    each.  After any of them, `folder` is what it was.

    >>> source = Source("LongAlign-10k", "data", hub="zai-org/LongAlign-10k", files=("long.jsonl",))
    >>> fetch(source, "results/run/sources/LongAlign-10k")                                    # doctest: +SKIP
    """
    folder = Path(folder)
    if is_whole(source, folder):  # asked before the lock, which a folder that may only be read cannot have
        return folder
    with _in_a_sentence(source, folder, endpoint), provenance.alone(folder.parent / f".{folder.name}.lock"):
        if not is_whole(source, folder):
            _make(source, folder, endpoint)
    return folder


def is_whole(source: Source, folder: Path | str) -> bool:
    """Whether `fetch` made this folder, of this source, and its files are as they were."""
    return is_there(source, folder) and checksums.is_sealed(folder)


def is_there(source: Source, folder: Path | str) -> bool:
    """Whether `fetch` made this folder of this source; the files are not read, so damage is not seen.

    >>> is_there(Source("LongAlign-10k", "data", hub="zai-org/LongAlign-10k"), "no-such-folder")
    False
    """
    told = _read(folder)
    commit = told.pop("commit", "")
    return told == _identity(source) and source.revision in ("", commit)


def commit_of(folder: Path | str) -> str:
    """The commit of the Hub that a fetched folder holds, nothing where it is of none.

    >>> commit_of("no-such-folder")
    ''
    """
    return str(_read(folder).get("commit", ""))


def _make(source: Source, folder: Path, endpoint: str | None) -> None:
    if folder.exists() and not _read(folder) and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something else than {source.hub}: move it away")
    work = folder.parent / f".{folder.name}.part"
    files = work / "files"
    commit, listed = _listing(source, _pinned(source, folder, work), endpoint)
    made = {**_identity(source), "commit": commit}
    if _read(work) != made:
        shutil.rmtree(work, ignore_errors=True)
        provenance.write_json(work / "source.json", made)
    _check_room(source, folder, files, listed)
    size = sum(file.size or 0 for file in listed)
    print(f"{source.name}: {len(listed)} files, {size / 1e9:.2f} GB, {source.hub} at {commit[:7]}", flush=True)
    huggingface_hub.snapshot_download(
        source.hub, repo_type=source.repository, revision=commit, local_dir=files, endpoint=endpoint,
        allow_patterns=[glob.escape(file.rfilename) for file in listed],
    )  # fmt: skip
    _check_files(source, files, listed)
    shutil.rmtree(files / ".cache", ignore_errors=True)
    whole = _converted(source, work) if source.convert else files
    provenance.write_json(whole / "source.json", made)
    checksums.seal(whole)
    shutil.rmtree(folder, ignore_errors=True)
    whole.replace(folder)
    shutil.rmtree(work, ignore_errors=True)


def _identity(source: Source) -> dict[str, Any]:
    return {
        "hub": source.hub, "kind": source.kind, "files": list(source.files), "convert": source.convert,
        "remote_code": source.remote_code, "conversion": CONVERSION,
    }  # fmt: skip


def _read(folder: Path | str) -> dict[str, Any]:
    try:
        return dict(json.loads((Path(folder) / "source.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _pinned(source: Source, *folders: Path) -> str:
    """The commit to take: the source's, else the one that a fetch of it, finished or not, has taken; none at first."""
    found = [_read(folder) for folder in folders]
    return source.revision or next((told["commit"] for told in found if told.get("hub") == source.hub), "")


def _listing(source: Source, commit: str, endpoint: str | None) -> tuple[str, list[Any]]:
    """The commit, and of each file that is taken of it rfilename, size, blob_id and lfs."""
    info = huggingface_hub.HfApi(endpoint=endpoint).repo_info(
        source.hub, repo_type=source.repository, revision=commit or None, files_metadata=True, timeout=SECONDS
    )
    names = [file.rfilename for file in info.siblings or []]
    ignored = [".*"] if source.remote_code else [".*", "*.py"]
    if source.kind == "model":
        safe = any(name.endswith(".safetensors") for name in names)
        ignored += [*OTHER_FORMATS, "*.bin"] if safe else OTHER_FORMATS
    kept = set(filter_repo_objects(names, allow_patterns=list(source.files) or None, ignore_patterns=ignored))
    if not kept:
        there = ", ".join(sorted(names)[:5]) or "nothing"
        raise ValueError(f"{source.hub} has no file like {', '.join(source.files) or '*'}, but {there}: correct files")
    return info.sha, [file for file in info.siblings if file.rfilename in kept]


def _check_room(source: Source, folder: Path, files: Path, listed: list[Any]) -> None:
    needed = sum(file.size or 0 for file in listed) * (2 if source.convert else 1)
    needed -= sum((files / f.rfilename).stat().st_size for f in listed if (files / f.rfilename).is_file())
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise OSError(
            f"{folder}: {source.hub} needs {needed / 1e9:.2f} GB more on this disk, {free / 1e9:.2f} GB are free: make "
            "room, or set LONGALIGN_RUNS to a folder on another disk"
        )


def _check_files(source: Source, files: Path, listed: list[Any]) -> None:
    """Raises OSError for what is not as the Hub has it, once it is removed, so that it is fetched again."""
    wrong = [file.rfilename for file in listed if not _is_right(files / file.rfilename, file)]
    for name in wrong:
        (files / name).unlink(missing_ok=True)
    if wrong:
        raise OSError(f"{source.name}: {', '.join(wrong[:3])} of {source.hub} did not arrive undamaged: {AGAIN}")


def _is_right(path: Path, listed: Any) -> bool:
    if not path.is_file() or path.stat().st_size != (listed.size if listed.size is not None else path.stat().st_size):
        return False
    if listed.lfs is not None:
        return provenance.file_sha256(path) == listed.lfs.sha256
    if listed.blob_id is None:
        return True
    content = path.read_bytes()  # git's own files are small: large ones are with LFS
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == listed.blob_id


def _converted(source: Source, work: Path) -> Path:
    """Model and tokenizer as transformers' own classes have them, and the files of the original that are no weights."""
    from longalign.fetch import chatglm, chatglm_tokenizer

    files, target = work / "files", work / "model"
    shutil.rmtree(target, ignore_errors=True)
    # its remote code multiplies the RoPE base in its text, of which the config says nothing
    ratio = LONGALIGN_ROPE_RATIO if "LongAlign" in source.hub else None
    chatglm.convert(files, target, rope_ratio=ratio)
    if (files / "tokenizer.model").is_file():
        chatglm_tokenizer.convert(files / "tokenizer.model", target)
    for file in sorted(path for path in files.rglob("*") if path.is_file() and not path.name.endswith(WEIGHTS)):
        kept = target / "original" / file.relative_to(files)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
    return target


@contextmanager
def _in_a_sentence(source: Source, folder: Path, endpoint: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        said = _said(error, source, folder, endpoint or huggingface_hub.constants.ENDPOINT)
        if said is error:
            raise
        raise said from error


def _said(error: Exception, source: Source, folder: Path, hub: str) -> Exception:
    """What went wrong, in a sentence: the library's own are paragraphs, and of other classes in every version."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    what = f"{source.name} ({source.hub})"
    if isinstance(error, HfHubHTTPError):
        return _answered(error, source, folder, what, hub)
    if isinstance(error, OfflineModeIsEnabled):
        return OSError(f"{what} is not in {folder} and HF_HUB_OFFLINE is set: fetch it where there is a network, with "
                       "LONGALIGN_RUNS naming a folder that both see")  # fmt: skip
    if "Consistency check failed" in str(error):
        return OSError(f"{what}: a file was cut short on its way: {AGAIN}")
    if disk.is_full(error):
        return OSError(f"{folder}: the disk became full while {source.hub} was written: make room, then {AGAIN}")
    if isinstance(error, CONNECTION) or any(c.__name__ == "TransportError" for c in type(error).__mro__):
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return OSError(f"{what}: {hub} cannot be reached ({reason}): see to the connection, its proxy and HF_ENDPOINT, "
                       f"then {AGAIN}")  # fmt: skip
    if isinstance(error, OSError) and error.strerror:
        return OSError(f"{what} cannot be written to {folder} ({error.strerror}): name another with LONGALIGN_RUNS")
    if isinstance(error, ValueError | OSError):
        return error  # says already what, where and what to do
    return OSError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")


def _answered(error: HfHubHTTPError, source: Source, folder: Path, what: str, hub: str) -> Exception:
    """What the Hub's refusal means."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError) and status == 401:
        return OSError(f"{what} is given to known accounts alone and no token was sent: accept its terms at "
                       f"{source.url}, then give `hf auth login` or set HF_TOKEN")  # fmt: skip
    if isinstance(error, GatedRepoError):
        return OSError(f"{what} is not given to the account of your token: ask for access at {source.url}")
    if isinstance(error, RepositoryNotFoundError):
        return ValueError(f"{what}: {hub} has no such {source.repository} repository, or it is private: correct hub in "
                          "the profile, or set HF_TOKEN to a token that may read it")  # fmt: skip
    if isinstance(error, RevisionNotFoundError):
        commit = _pinned(source, folder, folder.parent / f".{folder.name}.part")
        remedy = "correct revision in the profile" if source.revision else f"remove {folder} to take its main of today"
        return ValueError(f"{what} has no commit {commit}: {remedy}")
    if status == 401:
        return OSError(f"{what}: {hub} does not know your token: give `hf auth login`, or set HF_TOKEN to a valid one")
    if status == 403:
        return OSError(f"{what}: your token may not read it: let it, in its settings, or take another as HF_TOKEN")
    return OSError(f"{what}: {hub} answered {status}: wait a little, then {AGAIN}")
