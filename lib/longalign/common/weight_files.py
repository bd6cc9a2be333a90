"""The files that a model's weights are read from: chosen among those of a folder as transformers chooses."""

import contextlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"


def chosen(folder: Path | str) -> list[Path]:
    """The weight files that are read, the index of shards first; [] where there is none.

    A single file goes before shards, safetensors before torch's own files; which shards there are says the index alone.
    Raises ValueError for an index that cannot be read.
    """
    folder = Path(folder)
    named = _json(folder / "config.json").get("transformers_weights")
    names = [named] if isinstance(named, str) else [name + end for name in SINGLE for end in ("", INDEX)]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return []
    shards = dict.fromkeys(_weight_map(file).values()) if file.name.endswith(INDEX) else ()
    return [file, *(folder / shard for shard in shards)]


def of_identity(folder: Path | str) -> list[Path]:
    """The weight files that make a model another one when they change: all that bear the usual names, and what is read.

    Where what is read bears other names, the index counts, too.
    """
    folder = Path(folder)
    usual = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    others = [file for file in chosen(folder) if file not in usual]
    if all(file.name.endswith(INDEX) for file in others):
        others = []
    return usual + others or [folder / SINGLE[0]]


def check(folder: Path | str) -> None:
    """Raise ValueError where shards hold a weight twice: the last one read would win, whatever the index says."""
    found: dict[str, Path] = {}
    for file in chosen(folder)[1:]:
        for name in _names(file):
            if (other := found.setdefault(name, file)) != file:
                raise ValueError(f"{folder}: {name} lies in two files ({other.name}, {file.name}): keep the one that "
                                 "the index names")  # fmt: skip


def _names(file: Path) -> list[str]:
    """Of the weights in a file; [] where it cannot be read: who loads it says so."""
    import torch
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                return list(weights.keys())
        return list(torch.load(file, map_location="meta", weights_only=True))
    return []


def names(folder: Path | str) -> list[str]:
    """Of the weights that are read from a folder; [] where there are none that can be read. Errors: `chosen`."""
    file = next(iter(chosen(folder)), None)
    return [] if file is None else list(_weight_map(file)) if file.name.endswith(INDEX) else _names(file)


def _weight_map(index: Path) -> Mapping[str, str]:
    told = _json(index).get("weight_map")
    if not isinstance(told, dict) or not all(isinstance(name, str) for name in told.values()):
        raise ValueError(f"{index} does not say which file holds which weight (weight_map): fetch it again")
    return told


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}): fetch it again") from None
    return told if isinstance(told, dict) else {}
