"""A row for each number, the budget of a stage, and the two files that are added to after every stage.

`gpu.csv` holds the rows: stage, case, system, metric, value, unit, backend, status, note. A row of status "ok" has a
value; one of status "failed" says in its note why it has none, or why its value is not what it should be. What is not
installed is no row: it is named once in the stage's record.
`gpu.jsonl` holds a record for each stage: card, driver, versions, commit, clock, seconds budgeted and taken, counted
FLOPs and bytes, number of rows, what is absent.
"""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

TABLE = "gpu.csv"
RECORDS = "gpu.jsonl"

PRODUCTS = {"cuda": 790e12, "cpu": 20e9}
"""FLOP/s that budgets assume: bf16 products of 8192^3 on an H100; fp32 products on one core of a laptop."""
COPIES = {"cuda": 3.0e12, "cpu": 5e9}
"""Bytes/s that budgets assume, read and written together: an H100; one core of a laptop."""


@dataclass(frozen=True)
class Row:
    """One number: what was measured (stage, case, system, metric), on which backend, and whether it is good."""

    stage: str
    case: str
    system: str
    metric: str
    value: float | None
    unit: str
    backend: str
    status: str
    note: str = ""


COLUMNS = tuple(column.name for column in fields(Row))


@dataclass(frozen=True)
class Budget:
    """What a stage may take: seconds, and the FLOPs and bytes (read and written) from which they follow."""

    seconds: float
    flops: float = 0.0
    bytes: float = 0.0


@dataclass
class Context:
    """Where a stage runs: `tiny` sizes or full ones, the folder of all files, and the time that is left to it."""

    device: torch.device
    tiny: bool
    out: Path
    commit: str = "unknown"
    dtype: torch.dtype = torch.bfloat16
    ends: float = field(default=math.inf)

    def left(self) -> float:
        """Seconds of the running stage's budget that are left; infinite outside a stage, below 0 when it is over."""
        return self.ends - time.monotonic()


def counted(
    context: Context, flops: float = 0.0, bytes: float = 0.0, *, share: float = 0.5, fixed: float = 0.0
) -> Budget:
    """A Budget: flops / (assumed products x share) + bytes / (assumed copies x share) + `fixed` seconds.

    `share` is how much of `PRODUCTS` and `COPIES` the stage is taken to reach; `fixed` is for what is not counted:
    starting, compiling, reading files.

    >>> context = Context(torch.device("cuda"), False, Path("out"))
    >>> round(counted(context, flops=3.95e15, bytes=1.5e12, fixed=2).seconds)
    13
    """
    kind = context.device.type
    seconds = flops / (PRODUCTS[kind] * share) + bytes / (COPIES[kind] * share) + fixed
    return Budget(seconds, flops, bytes)


def measured(
    stage: str, case: str, system: str, metric: str, value: float, unit: str, backend: str, note: str = ""
) -> Row:
    """A row with its value. A value that is not finite makes it a failed one."""
    if math.isfinite(value):
        return Row(stage, case, system, metric, float(value), unit, backend, "ok", note)
    note = f"it came out as {value}; {note}".strip("; ")
    return Row(stage, case, system, metric, None, unit, backend, "failed", note)


def failed(
    stage: str, case: str, system: str, metric: str, reason: BaseException | str, *, value: float | None = None,
    unit: str = "", backend: str = "",
) -> Row:  # fmt: skip
    """A row that says why there is no value, or why the value is not what it should be."""
    return Row(stage, case, system, metric, value, unit, backend, "failed", one_line(reason))


def absent(stage: str, system: str, note: str) -> Row:
    """`system` is not installed, or not made for this device: named in the stage's record, and no row of the table."""
    return Row(stage, "", system, "", None, "", "", "absent", note)


def guarded(context: Context, stage: str, case: str, system: str, make: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows that `make` gives; what it raises is a failed row, and so is a budget that is over before it begins."""
    if context.left() <= 0:
        yield failed(stage, case, system, "", "not started: the budget of the stage is over")
        return
    try:
        yield from make()
    except Exception as error:  # noqa: BLE001  whatever stops one kernel, the others are measured
        yield failed(stage, case, system, "", error)


def one_line(reason: BaseException | str) -> str:
    """An exception or a text in one line of at most 300 characters.

    >>> one_line(ValueError("no card\\n  at all"))
    'ValueError: no card at all'
    """
    text = f"{type(reason).__name__}: {reason}" if isinstance(reason, BaseException) else reason
    return " ".join(text.split())[:300]


def append(out: Path, rows: Iterable[Row], record: dict[str, Any] | None = None) -> None:
    """Add rows to the table and a record to the records, on the disk before this returns."""
    table = out / TABLE
    is_new = not table.exists()
    with table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows if row.status != "absent")
        _to_disk(file)
    if record is not None:
        with (out / RECORDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            _to_disk(file)


def read(out: Path) -> list[Row]:
    """The rows of the table in a folder; none where there is no table."""
    table = out / TABLE
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return [Row(**{**entry, "value": float(entry["value"]) if entry["value"] else None})
                for entry in csv.DictReader(file)]  # fmt: skip


def _to_disk(file) -> None:
    file.flush()
    os.fsync(file.fileno())
