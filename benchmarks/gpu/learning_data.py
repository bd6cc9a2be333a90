"""What stage f learns from and is asked, at three sizes: made on a CPU beforehand, read where there is a GPU.

    python -m benchmarks.gpu.learning --prepare        writes benchmarks/gpu/stores, which git ignores: carry it along

One file a size holds its parts, each a list of sequences: `extension` (documents of continual training), `probe` (new
documents), `short` and `long` (instructions), `test` and `needle` (questions on new documents). Every sequence depends
on the names of size and part and on its number alone, so that any number of processes make the same file. Tokens are
stored in 16 bits, compressed: of 1:64, 1:16 and 1:1 some 4, 3 and 19 million in 3, 3 and 17 MiB. They take 4 minutes of
one core, three of them for 1:1, at 70,000 to 250,000 tokens a second.

The keys of facts are pairs of words (`longalign.miniature.pools`), at all sizes, so that facts keep their share of a
document and a larger size asks for more of the same.
"""

import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from longalign import miniature
from longalign.common.array_types import IGNORE_INDEX
from longalign.data import chat
from longalign.data.jsonl import DataError
from longalign.miniature import samples, tokenizer, training_sets
from longalign.miniature.benchmarks.long import needle_item

TOKENS_PER_SECOND, START_SECONDS = 70_000, 10.0
"""What one core makes, and what starting the processes takes."""

PARTS = ("extension", "probe", "short", "long", "test", "needle")
FAMILIES = ("lookup", "translation")
"""What is asked: whole sentences on one to six keys, which small models learn first of all families."""
RECALL_SHARE = 0.5
"""Of the documents of continual training, those that state facts and then state them again."""
SHORTEST_SAMPLE = 64

Sequence = dict[str, Any]
"""`input_ids` and `labels` int32 [T]; of probe, test and needle `cell`, too: (length, depth of a needle or None)."""


@dataclass(frozen=True)
class Size:
    """One size of the paper: lengths in tokens, counts of sequences. `longest` stands for the paper's 65,536; documents
    begin at `shortest`, and a step of training on them holds `step` tokens."""

    name: str
    longest: int
    shortest: int
    documents: int
    step: int
    short: int
    long: int
    per_probe: int
    per_cell: int
    needle_depths: int
    per_needle: int

    @property
    def short_length(self) -> int:
        """Most tokens of a short instruction, fewest of a long one: the paper's 8k."""
        return self.longest // 8

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of test samples: the paper's 8k, 16k, 32k and 64k."""
        return tuple(self.longest // share for share in (8, 4, 2, 1))

    @property
    def needle_lengths(self) -> tuple[int, ...]:
        """Of needles, up to the paper's 60k."""
        return tuple(self.longest * share // 16 for share in (2, 4, 8, 12, 15))

    def counts(self) -> dict[str, int]:
        """Sequences of each part."""
        cells = len(self.needle_lengths) * self.needle_depths
        return {
            "extension": self.documents, "probe": len(self.lengths) * self.per_probe,
            "short": self.short, "long": self.long,
            "test": len(self.lengths) * len(FAMILIES) * self.per_cell, "needle": cells * self.per_needle,
        }  # fmt: skip


def moments(size: Size, part: str) -> tuple[float, float]:
    """Mean of the lengths that a part draws, and of their squares: what its FLOPs follow from."""
    if part in ("probe", "test", "needle"):
        lengths = np.array(size.needle_lengths if part == "needle" else size.lengths, dtype=np.float64)
        return float(lengths.mean()), float((lengths**2).mean())
    a, b = {
        "extension": (size.shortest, size.longest), "short": (SHORTEST_SAMPLE, size.short_length),
        "long": (size.short_length, size.longest),
    }[part]  # fmt: skip
    if part == "extension":
        scale = math.log(b / a)
        return (b - a) / scale, (b**2 - a**2) / (2 * scale)
    return (a + b) / 2, (a**2 + a * b + b**2) / 3


def key(size: Size) -> str:
    """What a file of this size is made from, as a hash: the size, this module and the generator."""
    # bytes and not syntax trees, which other versions of Python print otherwise
    files = [Path(__file__), *sorted(Path(miniature.__file__).parent.rglob("*.py"))]
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(json.dumps([asdict(size), *code]).encode()).hexdigest()[:16]


def sequence(size: Size, part: str, index: int) -> Sequence:
    """Sequence `index` of a part, as tokens."""
    kind = f"gpu-{size.name}-{part}"
    if part == "extension":
        return _document(size, kind, index)
    if part == "probe":
        length = size.lengths[index // size.per_probe]
        document = samples.base_document(f"{kind}-{length}", 0, index % size.per_probe, length=length, pairs=True)
        return {**_tokens(training_sets.encode_document(document, None)), "cell": (length, None)}
    if part == "test":
        place, number = divmod(index, size.per_cell)
        length, family = size.lengths[place // len(FAMILIES)], FAMILIES[place % len(FAMILIES)]
        sample = _instruction(f"{kind}-{length}-{family}", number, int(0.9 * length), length, (family,))
        return {**_encoded(sample), "cell": (length, None)}
    if part == "needle":
        place, number = divmod(index, size.per_needle)
        length, step = size.needle_lengths[place // size.needle_depths], place % size.needle_depths
        depth = step / max(1, size.needle_depths - 1)
        item = needle_item(f"{kind}-{length}-{step}", number, length, depth, pairs=True)
        return {**_encoded(item), "cell": (length, depth)}
    longest, shortest = size.short_length, min(SHORTEST_SAMPLE, size.short_length)
    if part == "long":
        longest, shortest = size.longest, size.short_length
    return _encoded(_instruction(kind, index, shortest, longest, FAMILIES))


def _document(size: Size, kind: str, index: int) -> Sequence:
    rng = Random(f"{kind}:labels:{index}")
    # As many documents from 1,000 to 2,000 tokens as from 2,000 to 4,000: short ones are quick and teach the most.
    length = round(math.exp(rng.uniform(math.log(size.shortest), math.log(size.longest))))
    options = {"length": length, "pairs": True}
    if rng.random() < RECALL_SHARE:
        # In another order, for in the same one the fact before tells where to look, and its key need not be read.
        document = samples.recall_document(kind, 0, index, **options, same_order=0.0)
    else:
        document = samples.base_document(kind, 0, index, **options)
    return _tokens(training_sets.encode_document(document, None, rng))


def _instruction(kind: str, index: int, shortest: int, longest: int, families: tuple[str, ...]) -> dict[str, Any]:
    lengths = {"min_length": shortest, "max_length": longest}
    return samples.instruction(kind, 0, index, **lengths, families=families, pairs=True)


def _encoded(sample: dict[str, Any]) -> Sequence:
    return _tokens(chat.encode(sample["messages"], tokenizer.load()))


def _tokens(encoded: chat.Encoded) -> Sequence:
    return {"input_ids": encoded.input_ids, "labels": encoded.labels}


def _numbered(task: tuple[Size, str, int]) -> Sequence:
    return sequence(*task)


def made(size: Size, *, processes: int = 1) -> dict[str, list[Sequence]]:
    """All parts of a size, generated here and now by as many processes."""
    tasks = [(size, part, index) for part, count in size.counts().items() for index in range(count)]
    if processes == 1:
        drawn = [sequence(*task) for task in tasks]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            drawn = pool.map(_numbered, tasks, chunksize=1)
    parts: dict[str, list[Sequence]] = {part: [] for part in PARTS}
    for (_, part, _), one in zip(tasks, drawn, strict=True):
        parts[part].append(one)
    return parts


def path(size: Size, folder: Path) -> Path:
    """Where a size's file lies in a folder."""
    return folder / f"{size.name.replace(':', '-')}.npz"


def write(size: Size, parts: dict[str, list[Sequence]], folder: Path) -> Path:
    """Write the parts as one file, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {"key": np.array(key(size))}
    for part, sequences in parts.items():
        tokens = np.concatenate([one["input_ids"] for one in sequences])
        labels = np.concatenate([one["labels"] for one in sequences])
        arrays[f"{part}.tokens"] = tokens.astype("<u2")
        arrays[f"{part}.targets"] = np.packbits(labels != IGNORE_INDEX)
        arrays[f"{part}.lengths"] = np.array([len(one["input_ids"]) for one in sequences], dtype="<i4")
        arrays[f"{part}.cells"] = np.array([one.get("cell", (0, None)) for one in sequences], dtype="<f8")
    target = path(size, folder)
    temporary = target.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, target)
    return target


def read(size: Size, folder: Path) -> dict[str, list[Sequence]]:
    """The parts of a size as they were written. Raises DataError when the file is absent, or of other sizes or code."""
    target = path(size, folder)
    if not target.is_file():
        raise DataError("no data", "prepare it with python -m benchmarks.gpu.learning --prepare FOLDER").at(target)
    with np.load(target, allow_pickle=False) as arrays:
        if str(arrays["key"]) != key(size):
            raise DataError("other data", "it was made by other code or for other sizes; prepare it again").at(target)
        return {part: list(_sequences(arrays, part)) for part in PARTS}


def _sequences(arrays: Any, part: str) -> Iterator[Sequence]:
    tokens = arrays[f"{part}.tokens"].astype(np.int32)
    targets = np.unpackbits(arrays[f"{part}.targets"], count=len(tokens)).astype(bool)
    labels = np.where(targets, tokens, np.int32(IGNORE_INDEX))
    ends, cells = np.cumsum(arrays[f"{part}.lengths"]), arrays[f"{part}.cells"]
    for start, end, cell in zip([0, *ends[:-1]], ends, cells, strict=True):
        one = {"input_ids": tokens[start:end], "labels": labels[start:end]}
        length, depth = int(cell[0]), None if math.isnan(cell[1]) else float(cell[1])
        yield {**one, "cell": (length, depth)} if length else one


def making_seconds(size: Size, folder: Path) -> float:
    """What `of` takes: nothing where the data lies in the folder."""
    if path(size, folder).is_file():
        return 0.0
    tokens = sum(count * moments(size, part)[0] for part, count in size.counts().items())
    return START_SECONDS + tokens / (TOKENS_PER_SECOND * (os.cpu_count() or 1))


def of(size: Size, folder: Path) -> tuple[dict[str, list[Sequence]], str]:
    """The parts, read where they were prepared, else made here by every core; and which it was, in words."""
    try:
        return read(size, folder), "data prepared before"
    except DataError as error:
        print(f"{error}; it is made here", file=sys.stderr)
        return made(size, processes=os.cpu_count() or 1), "data made here"
