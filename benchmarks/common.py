"""One form for every benchmark: each number is the median of separate processes that took turns, and says of how many.

A script measures by child processes, one thread each, which print their metrics as a JSON object on their last line.
`alternate` runs them in turn (A B A B), so that whatever else the machine does falls on all of them, and every
sample includes a start. What cannot be measured is a row without a value that says why.

A row: target (the script's name), system (ours, or a peer and its version), case, metric, unit, value (the median),
lowest, highest, n (samples), note.

    python -m benchmarks.planning            one script; its rows replace its earlier ones in results/benchmarks.csv
    make bench BENCH="planning training"     these scripts, with what they need
"""

import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from longalign.common import paths, provenance

COLUMNS = ("target", "system", "case", "metric", "unit", "value", "lowest", "highest", "n", "note")
NUMBERS = ("value", "lowest", "highest")
OURS = "ours"
ROUND = "BENCHMARK_ROUND"
"""Environment variable: the number of the round, from 0, for a child that takes other data in every round."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """`python ARGUMENTS` in the repository's root, by this interpreter or a peer's; `environment` is added."""

    arguments: Sequence[str]
    python: Path | str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0


@dataclass
class Samples:
    """The metrics that a command printed, round by round; `failure` says why it was not asked again."""

    rounds: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""

    def of(self, metric: str) -> list[float]:
        """The values of one metric; none if a round failed, for half a comparison is none."""
        return [] if self.failure else [values[metric] for values in self.rounds if metric in values]


def row(
    target: str, system: str, case: str, metric: str, unit: str, values: Iterable[float] | float, note: str = ""
) -> Row:
    """A row: the median of `values`, their ends and number. Without values it needs a note, which says why.

    >>> row("planning", OURS, "10k", "packs", "packs", [709, 710, 709])["value"]
    709.0
    """
    values = [float(value) for value in (values if isinstance(values, Iterable) else [values])]
    if not values and not note:
        raise ValueError(f"{target}, {system}, {case}, {metric}: a row without a value says in its note why")
    ends = (statistics.median(values), min(values), max(values)) if values else (None, None, None)
    return dict(zip(COLUMNS, (target, system, case, metric, unit, *ends, len(values), note), strict=True))


def rows_of(
    target: str, case: str, samples: Mapping[str, Samples], units: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
) -> list[Row]:  # fmt: skip
    """A row for each system and each metric of `units` ({metric: unit}); `notes` are by system."""
    notes = notes or {}
    return [
        row(target, system, case, metric, unit, taken.of(metric),
            "; ".join(part for part in (notes.get(system, ""), taken.failure or _missing(taken, metric)) if part))
        for system, taken in samples.items() for metric, unit in units.items()
    ]  # fmt: skip


def ratio(
    target: str, case: str, metric: str, samples: Mapping[str, Samples], over: str, under: str, note: str = ""
) -> Row:
    """One system's metric over another's, divided round by round, for what ran side by side met the same machine."""
    pairs = zip(samples[over].of(metric), samples[under].of(metric), strict=False)
    values = [a / b for a, b in pairs]
    if not values:
        note = "; ".join(filter(None, (note, samples[over].failure, samples[under].failure, "not measured")))
    return row(target, f"{over} / {under}", case, metric, "ratio", values, note)


def alternate(commands: Mapping[str, Command], rounds: int = 3) -> dict[str, Samples]:
    """Run the commands in turn, `rounds` times each, and return what they printed; who fails is not asked again."""
    samples = {system: Samples() for system in commands}
    for number in range(rounds):
        for system, command in commands.items():
            if not samples[system].failure:
                told = replace(command, environment={**command.environment, ROUND: str(number)})
                _take(told, samples[system])
    return samples


def compare(
    target: str, case: str, commands: Mapping[str, Command], units: Mapping[str, str], rounds: int = 3,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:  # fmt: skip
    """`alternate`, as rows."""
    return rows_of(target, case, alternate(commands, rounds), units, notes)


def run(command: Command) -> dict[str, Any]:
    """Run one command and return the JSON object of its last line. Raises RuntimeError, in one line, when it fails."""
    told = subprocess.run(
        [str(command.python), *command.arguments], cwd=paths.root(), env=environment(command.environment),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=command.timeout,
    )  # fmt: skip
    try:
        if told.returncode == 0:
            return dict(json.loads(told.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        pass
    last = [line.strip() for line in (told.stderr or told.stdout).splitlines() if line.strip()][-1:]
    raise RuntimeError(f"failed (exit {told.returncode}): {''.join(last)[:200].replace(str(paths.root()), '.')}")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment with one thread, no hub, and both this folder and the library importable, for peers as well."""
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(paths.root()), str(paths.root() / "lib")]), **(more or {}),
    }  # fmt: skip


def report(**metrics: Any) -> None:
    """What a child says at its end: its metrics, on the last line."""
    print(json.dumps(metrics), flush=True)


def cpu_seconds() -> float:
    """User time that this process has taken so far, all its threads: what others do meanwhile does not count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def peak_mb() -> float:
    """Largest resident size of this process so far, in MB (2^20 bytes)."""
    return provenance.peak_memory_mb()


def user_seconds() -> float:
    """User time of this process and of those below it that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_utime for kind in kinds)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """MB of this process and all below it, the largest sums seen until the block ends."""
    import psutil

    peak, over, faults = {"memory": 0.0, "anonymous": 0.0}, threading.Event(), []

    def look() -> None:
        while not over.wait(0.1):
            try:
                below = [psutil.Process(), *psutil.Process().children(recursive=True)]
                sums = [sum(column) for column in zip(*(_memory(process.pid) for process in below), strict=True)]
            except Exception as error:  # noqa: BLE001  whatever ends the look-out, the peak is not known
                faults.append(error)
                return
            for name, value in zip(peak, sums, strict=True):
                peak[name] = max(peak[name], value / 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        if faults:
            raise faults[0]


def _memory(process: int) -> tuple[int, int]:
    """kB of a process's share of what it has in memory: all, and what is no file's."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    kinds = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kinds["Pss"], kinds["Pss_Anon"] + kinds["Pss_Shmem"]


def save(target: str, rows: Sequence[Row], *, table: Path | None = None, **more: Any) -> Path:
    """Put a script's rows in place of its earlier ones in results/benchmarks.csv, and what made them in the JSON
    beside it: versions, hardware, commit, date and whatever else is given. Returns the table's path."""
    table = table or paths.results() / "benchmarks.csv"
    if wrong := {entry["target"] for entry in rows} - {target}:
        raise ValueError(f"the rows of {target} name other targets: {', '.join(sorted(wrong))}")
    made = {"versions": provenance.versions(), "hardware": provenance.hardware(), "git": provenance.git_state(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **more}  # fmt: skip
    notes = table.with_suffix(".json")
    with provenance.alone(paths.runs() / "benchmarks.lock"):
        known = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        provenance.write_csv(table, [*(old for old in read(table) if old["target"] != target), *rows], columns=COLUMNS)
        provenance.write_json(notes, {**known, target: made})
    return table


def read(table: Path) -> list[Row]:
    """The rows of a table, numbers as numbers, None where there is none; no rows without a table."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return [
            {**entry, "n": int(entry["n"]), **{name: float(entry[name]) if entry[name] else None for name in NUMBERS}}
            for entry in csv.DictReader(file)
        ]


def show(rows: Iterable[Row]) -> None:
    """Print the rows, a line each."""
    for entry in rows:
        value = "-" if entry["value"] is None else f"{entry['value']:,.4g}"
        if entry["n"] > 1:
            value += f" ({entry['lowest']:,.4g} to {entry['highest']:,.4g})"
        note = f"  # {entry['note']}" if entry["note"] else ""
        print(f"{entry['system']:28} {entry['case']:22} {entry['metric']:30} {value} {entry['unit']}{note}", flush=True)


def finish(target: str, rows: Sequence[Row], **more: Any) -> int:
    """The end of every script's `main`: show and save the rows; returns 1 when something of ours has no value."""
    show(rows)
    save(target, rows, **more)
    return int(any(is_ours(entry["system"]) and entry["value"] is None for entry in rows))


def is_ours(system: str) -> bool:
    """Whether a row is of the library alone.

    >>> [is_ours(name) for name in ("ours", "ours: best fit", "ours, one by one", "ours / plain", "trl 1.16.0")]
    [True, True, True, False, False]
    """
    return system.startswith(OURS) and " / " not in system


def _take(command: Command, samples: Samples) -> None:
    try:
        samples.rounds.append(run(command))
    except subprocess.TimeoutExpired:
        samples.failure = f"took longer than {command.timeout:.0f} s"
    except (RuntimeError, OSError) as error:
        samples.failure = str(error)


def _missing(taken: Samples, metric: str) -> str:
    return "" if taken.of(metric) else f"it does not tell {metric}"
