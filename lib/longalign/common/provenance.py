"""A number and where it came from are written together, and a file is either whole or absent.

Every writer here goes through `atomic`: a temporary name in the same folder, flush, fsync, rename. Nothing here imports
torch; versions come from package metadata.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from longalign.common import paths, weight_files

WRITTEN = "LONGALIGN_WRITTEN"
"""Environment variable: the file in which whoever executes a notebook wants the paths of all that it writes."""

_STARTED = time.time()
_PACKAGES = ("numpy", "torch", "transformers", "accelerate", "deepspeed", "peft", "pandas", "scipy", "papermill")


class LockedError(RuntimeError):
    """Another process is in the block that one alone may be in; the message names it."""


@contextmanager
def alone(path: Path | str, *, wait: bool = True) -> Iterator[IO[str]]:
    """Be the only process in a block with this lock file, made where it is missing; others wait.

    The lock is given back when the process ends, however it ends, and with it those that inherited the file that the
    block is given; the file stays. Raises LockedError when another process has it and `wait` is False.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            lock.seek(0)
            raise LockedError(f"this is being done already by {lock.read().strip() or 'another process'}") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, started {time.strftime('%H:%M:%S')}\n")
        lock.flush()
        yield lock


@contextmanager
def atomic(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """An open file that becomes `path` when the block ends, and leaves nothing behind when the block fails.

    Text is UTF-8 with newlines as given; `mode` is "w" or "wb". The folder is made where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _tell(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` atomically; returns the path."""
    with atomic(path) as file:
        file.write(text)
    return Path(path)


def write_json(path: Path | str, data: Any) -> Path:
    """Write `data` as indented JSON with sorted keys, atomically; NaN and infinity become null. Returns the path."""
    text = json.dumps(_jsonable(data), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def write_csv(
    path: Path | str, rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str] | None = None, digits: int = 6
) -> Path:
    """Write tidy rows (a DataFrame is taken too): sorted, floats with `digits` significant digits, atomic.

    Rows are sorted by their non-float columns from left to right (those are the keys), so the same rows give the same
    bytes in any order. None and NaN are empty cells. Raises ValueError for a row whose keys are not the columns.

    >>> path = write_csv(Path(tempfile.mkdtemp()) / "fill.csv", [{"method": "packing", "length": n} for n in (2, 4, 3)])
    >>> print(path.read_text().split())
    ['method,length', 'packing,2', 'packing,3', 'packing,4']
    """
    if hasattr(rows, "to_dict"):
        columns = columns or list(rows.columns)
        rows = rows.to_dict("records")
    table = [{k: _scalar(v) for k, v in row.items()} for row in rows]
    columns = list(columns or (table[0] if table else ()))
    for number, row in enumerate(table):
        if set(row) != set(columns):
            raise ValueError(f"row {number} of {Path(path).name} has the columns {sorted(row)}, not {sorted(columns)}")
    keys = [c for c in columns if not any(isinstance(row[c], float) for row in table)]
    order = keys + [c for c in columns if c not in keys]
    table.sort(key=lambda row: [_sort_key(row[c]) for c in order])
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[c], digits) for c in columns] for row in table)
    return Path(path)


def write_record(
    path: Path | str,
    *,
    config: Any,
    results: Mapping[str, Any],
    seeds: Iterable[int] = (),
    data_hash: str | None = None,
    wall_seconds: float | None = None,
    **more: Any,
) -> Path:
    """Write results with what produced them: commit, configuration, its hash, seeds, versions, machine, time, memory.

    `config` is a profile, a dataclass or plain data; `data_hash` says which data (``hash_files``). `wall_seconds` left
    out is the time since this module was imported; `peak_memory_mb` is the process's or its largest child's.
    """
    data = config_dict(config)
    seconds = time.time() - _STARTED if wall_seconds is None else wall_seconds
    return write_json(path, {
        **more,
        "results": dict(results),
        "config": data,
        "config_hash": config_hash(data),
        "data_hash": data_hash,
        "seeds": sorted(seeds),
        "git": git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "wall_seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    })  # fmt: skip


def config_dict(config: Any) -> dict[str, Any]:
    """`config` (profile, dataclass or mapping) as plain data."""
    if hasattr(config, "as_dict"):
        return config.as_dict()
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)


def config_hash(config: Any) -> str:
    """Sixteen hex digits of the sha256 of the configuration as canonical JSON; the order of keys does not matter.

    >>> config_hash({"lengths": [2, 4, 3], "seed": 0}) == config_hash({"seed": 0, "lengths": (2, 4, 3)})
    True
    """
    text = json.dumps(_jsonable(config_dict(config)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_files(*files: Path | str) -> str:
    """Sixteen hex digits over the contents of `files`, in the order given; names and times do not count."""
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(name)) for name in files)).hexdigest()[:16]


def file_sha256(path: Path | str) -> str:
    """sha256 (hex) of a file, read a piece at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_model(folder: Path | str) -> str:
    """Sixteen hex digits over a model's config, weights (in one file or in shards) and, where it has one, its
    generation_config.json, which may name the tokens that end an answer. Raises FileNotFoundError, and ValueError for
    an index of shards that cannot be read."""
    folder = Path(folder)
    settings = [file for file in [folder / "generation_config.json"] if file.exists()]
    return hash_files(folder / "config.json", *settings, *weight_files.of_identity(folder))


def git_state() -> dict[str, Any]:
    """Commit of the checkout, and whether tracked files differ from it; both None where there is no git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(paths.root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Python's version and those of the installed `packages`; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, its kind, cores, memory (GiB) and, when torch is loaded already, GPUs; no host names, no paths."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {
        "system": platform.system(),
        **_cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_gib": round(memory, 1),
        "gpus": gpus,
    }


def peak_memory_mb() -> float:
    """Largest resident size, in MB (2^20 bytes), that this process or one of its finished children has reached."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        # Linux hands ru_maxrss down from the process that started this one; VmHWM (kB) is this one's own
        status = Path("/proc/self/status").read_text()
        own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / unit


def _cpu() -> dict[str, str]:
    """The processor's name, and its kind, for two of one name may add in another order: numbers and instructions."""
    text = info.read_text().partition("\n\n")[0] if (info := Path("/proc/cpuinfo")).exists() else ""
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    widest = [name for name in ("avx512f", "avx2") if name in said.get("flags", "").split()] or [platform.machine()]
    kind = [f"{name} {said[name]}" for name in ("cpu family", "model", "stepping") if name in said]
    kind.append(os.environ.get("ATEN_CPU_CAPABILITY") or widest[0])
    return {"processor": said.get("model name") or platform.processor() or platform.machine(), "kind": ", ".join(kind)}


def _tell(path: Path) -> None:
    if listed := os.environ.get(WRITTEN):
        with open(listed, "a", encoding="utf-8") as file:
            file.write(f"{path.resolve()}\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _scalar(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _sort_key(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def _cell(value: Any, digits: int) -> Any:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else value
