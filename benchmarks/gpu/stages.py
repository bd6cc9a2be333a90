"""The stages, by letter: each is imported when its turn comes, run, and written to the files before the next begins.

A stage is a module with NAME, `budget(context) -> Budget` and `run(context) -> Iterator[Row]`. What it raises becomes a
failed row. Stages learn nothing from each other except through the files in `context.out`.
"""

import importlib
import math
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.gpu import GRACE, NAMES, REHEARSAL, RUNNING, STAGES, machine, rows, timing
from benchmarks.gpu.rows import Budget, Context, Row

REHEARSED = 30.0
"""Seconds that all stages at tiny sizes may take on a card: their own counts are below one, kernels are compiled."""


def perform(letters: Iterable[str], context: Context, minutes: float) -> Iterator[Row]:
    """Run the stages in order, as long as their budgets fit into what is left of the minutes.

    Ends early when the card is lost; the file `RUNNING` then still names the stage that lost it.
    """
    ends = time.monotonic() + minutes * 60
    running = context.out / RUNNING
    for letter in letters:
        running.write_text(letter)
        yield from rehearse(context) if letter == REHEARSAL else perform_one(letter, context, ends)
        if is_lost(context.device):
            return
        running.unlink()


def rehearse(context: Context) -> list[Row]:
    """All stages at tiny sizes on this device, into a folder of their own."""
    folder = context.out / NAMES[REHEARSAL]
    folder.mkdir(exist_ok=True)
    tiny = replace(context, tiny=True, out=folder)
    began = time.monotonic()
    taken = []
    for letter in STAGES:
        if not is_lost(context.device):
            taken += perform_one(letter, tiny, math.inf)
    taken = [replace(row, stage=NAMES[REHEARSAL], case=f"{row.stage}: {row.case}".strip(": ")) for row in taken]
    _write(context, NAMES[REHEARSAL], Budget(REHEARSED), time.monotonic() - began, taken)
    return taken


def perform_one(letter: str, context: Context, ends: float) -> list[Row]:
    """Run one stage and write what it gave; `ends` is when the whole program must be through (time.monotonic).

    At tiny sizes there is no limit: a budget is a card's, or a guess for a CPU.
    """
    name, began = STAGES[letter], time.monotonic()
    budget, taken = Budget(0.0), []
    try:
        stage = load(name)
        budget = stage.budget(context)
        left = ends - began
        if not context.tiny and budget.seconds > left + GRACE:
            raise TimeoutError(f"not started: its budget is {budget.seconds:.0f} s, and {max(left, 0):.0f} s are left")
        context.ends = math.inf if context.tiny else min(began + budget.seconds, ends + GRACE)
        for row in stage.run(context):
            taken.append(row)
            show(row)
    except Exception as error:  # noqa: BLE001  whatever stops a stage is a row, and the next stage begins
        reason = rows.one_line(error) + ("" if isinstance(error, TimeoutError) else f" ({_place(error)})")
        taken.append(rows.failed(name, "", "", "", reason))
        show(taken[-1])
    context.ends = math.inf
    _write(context, name, budget, time.monotonic() - began, taken)
    return taken


def load(name: str) -> ModuleType:
    """The module of a stage. Raises ImportError, with the module's name, when this checkout lacks it."""
    return importlib.import_module(f"benchmarks.gpu.{name}")


def show(row: Row) -> None:
    """Print a row."""
    value = f"{row.value:,.4g} {row.unit}" if row.value is not None else row.status
    told = " | ".join(filter(None, (row.case, row.system, row.metric)))
    marks = (" FAILED" if row.status == "failed" else "", f" [{row.backend}]" if row.backend else "")
    print(f"  {told}: {value}{''.join(marks)}{f'  # {row.note}' if row.note else ''}", flush=True)


def _write(context: Context, name: str, budget: Budget, seconds: float, taken: list[Row]) -> None:
    record = {
        "stage": name, "tiny": context.tiny, **machine.describe(context.device, context.commit),
        "seconds_budgeted": round(budget.seconds, 2), "seconds_taken": round(seconds, 2), "flops": budget.flops,
        "bytes": budget.bytes, "rows": sum(row.status != "absent" for row in taken),
        "failed": sum(row.status == "failed" for row in taken),
        "absent": {row.system: row.note for row in taken if row.status == "absent"},
    }  # fmt: skip
    rows.append(context.out, taken, record)
    print(f"{name}: took {seconds:.1f} s of {budget.seconds:.1f} s budgeted ({budget.flops / 1e12:,.1f} TFLOPs, "
          f"{budget.bytes / 1e9:,.1f} GB counted); written to {context.out / rows.TABLE}", flush=True)  # fmt: skip


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def is_lost(device: torch.device) -> bool:
    """Whether the card answers no more, as after an illegal address: only another process can go on."""
    try:
        timing.wait(device)
        timing.free(device)
    except RuntimeError:
        return True
    return False
