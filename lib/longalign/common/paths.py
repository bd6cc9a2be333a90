"""Every path of the repository, from any working directory; nothing is looked up at import.

The root is, in this order: the environment variable LONGALIGN_ROOT, the checkout that holds this package, the nearest
folder at or above the working directory that looks like a checkout. A run writes below ``runs()`` only.
"""

from __future__ import annotations

import os
from pathlib import Path

_MARKS = ("pyproject.toml", "profiles", "lib/longalign")


def _is_root(folder: Path) -> bool:
    return all((folder / mark).exists() for mark in _MARKS)


def root() -> Path:
    """The repository's root folder. Raises FileNotFoundError when there is no checkout to be found."""
    named = os.environ.get("LONGALIGN_ROOT")
    if named:
        if not _is_root(Path(named)):
            raise FileNotFoundError(f"LONGALIGN_ROOT is {named!r}, a folder without {', '.join(_MARKS)}: name a clone")
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (Path(__file__).resolve().parents[3], here, *here.parents):
        if _is_root(folder):
            return folder
    raise FileNotFoundError("this folder is not in a clone of LongAlign: change into one, or set LONGALIGN_ROOT to it")


def notebooks() -> Path:
    """The source notebooks, without outputs."""
    return root() / "notebooks"


def notebook_files() -> list[Path]:
    """The source notebooks, in the order of their numbers."""
    return sorted(notebooks().glob("[0-9][0-9]*_*.ipynb"))


def record_files(folder: Path) -> list[Path]:
    """The records of executed notebooks in the folder of a run, or in results/, in the order of their numbers."""
    return sorted(folder.glob("[0-9][0-9]*_*.json"))


def number(stem: str) -> str:
    """The number of a notebook, which its name begins with.

    >>> number("03b_training_loop")
    '03b'
    """
    return stem.partition("_")[0]


def profiles() -> Path:
    """One YAML file per profile."""
    return root() / "profiles"


def results() -> Path:
    """The committed reference: tidy CSV, JSON records, executed notebooks."""
    return root() / "results"


def figures() -> Path:
    """The committed figures, drawn from ``results()`` only."""
    return root() / "figures"


def bases() -> Path:
    """The committed short base models (safetensors, record, hash), one folder each."""
    return results() / "bases"


def long_bases() -> Path:
    """The committed long base models: the first base of each size after its context extension, one folder each."""
    return results() / "long_bases"


def runs() -> Path:
    """The ignored folder that runs write to; the environment variable LONGALIGN_RUNS puts it elsewhere."""
    named = os.environ.get("LONGALIGN_RUNS")
    return Path(named).resolve() if named else results() / "run"


def run_dir(profile: str) -> Path:
    """Where a run of one profile writes: CSV and records here, with ``figures`` and ``notebooks`` below.

    >>> run_dir("smoke").relative_to(runs()).as_posix()
    'smoke'
    """
    return runs() / profile


def warning(folder: Path | str) -> str:
    """What stands on every table and figure of a run's folder: a sentence for the profile smoke, "" for all others.

    >>> warning(run_dir("smoke")), warning(run_dir("laptop"))
    ('smoke: numbers mean nothing', '')
    """
    return "smoke: numbers mean nothing" if Path(folder).resolve() == run_dir("smoke").resolve() else ""


def run_figures(profile: str) -> Path:
    """The figures of one run."""
    return run_dir(profile) / "figures"


def run_notebooks(profile: str) -> Path:
    """The executed notebooks of one run."""
    return run_dir(profile) / "notebooks"


def trained() -> Path:
    """Training runs, a folder per key (hash of configuration, data and code), shared by all profiles and notebooks."""
    return runs() / "trained"


def warned() -> bool:
    """Whether this process is part of a job that is about to be ended: the file exists that LONGALIGN_WARNING names."""
    named = os.environ.get("LONGALIGN_WARNING")
    return bool(named) and Path(named).exists()


def relative(path: Path | str) -> str:
    """`path` as seen from the root where it lies below it, unchanged otherwise: for messages and records."""
    full = Path(path).resolve()
    try:
        return full.relative_to(root()).as_posix()
    except (ValueError, FileNotFoundError):
        return str(path)
