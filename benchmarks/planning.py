"""Planning packs: how few, how fast, in how much memory; a plan counts only after every sequence is found in it once.

Lengths as in tests/test_packing.py (90 % lognormal around 800 tokens, 10 % uniform over 8k-64k), capacity 65,536, 10 k,
100 k and 1 M of them. CPU seconds are the planner's call alone, without imports; memory is how far the process's peak
grew during the call over the interpreter with its libraries and the lengths, the finished plan included. Peers are
called as they call themselves, in their default windows, and over all lengths at once where they can be. What would
take over 100 s at 1 M is timed at less, and its row says what follows for 1 M.

    python -m benchmarks.planning
"""

import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, peers
from longalign import packing

TARGET = "planning"
CAPACITY = 65_536
SIZES = {"10k": 10_000, "100k": 100_000, "1M": 1_000_000}
UNITS = {"packs": "packs", "fill": "share", "time": "CPU s", "memory": "MB"}
OURS = f"{common.OURS}: best fit"
# planner of a peer: the largest size that it is asked for, and what is said of the larger ones
PEERS = {
    ("trl", "windows of 1,000"): ("100k", "its default; windows are independent: 1 M takes 10 times this"),
    ("trl", "one call"): ("10k", ""),
    ("llamafactory", "windows of 1,000"): ("1M", "its default; gives lengths, which sequence has one is not counted"),
    ("llamafactory", "one call"): ("1M", "gives lengths, which sequence has one is not counted"),
    ("axolotl", "groups of 100,000"): ("100k", "its default, at most 200 sequences a pack; compiled before; groups "
                                               "are independent: 1 M takes 10 times what 100 k takes"),
}  # fmt: skip


def mixture(sequences: int, seed: int = 0) -> np.ndarray:
    """90 % lognormal around 800 tokens, 10 % uniform over 8k-64k, in random order."""
    random = np.random.default_rng(seed)
    long = random.integers(8192, CAPACITY + 1, sequences // 10)
    short = np.clip(random.lognormal(np.log(800), 1.0, sequences - len(long)), 1, CAPACITY).astype(int)
    return random.permutation(np.concatenate([short, long]))


def check(packs: Sequence[Sequence[int]], lengths: np.ndarray, capacity: int) -> None:
    """Raises ValueError unless every sequence is in exactly one of the packs of indices and none is over capacity."""
    flat = np.fromiter((i for pack in packs for i in pack), dtype=np.int64)
    times = np.bincount(flat, minlength=len(lengths))
    if len(times) > len(lengths):
        raise ValueError(f"the plan holds sequence {len(times) - 1}, and there are {len(lengths)}")
    if (wrong := np.flatnonzero(times != 1)).size:
        raise ValueError(f"the plan holds sequence {wrong[0]} {times[wrong[0]]} times ({wrong.size} are not once)")
    _check_room(packs, lengths[flat], capacity)


def check_lengths(packs: Sequence[Sequence[int]], lengths: np.ndarray, capacity: int) -> None:
    """The same for packs of lengths, of a planner that does not say which sequence it takes."""
    flat = np.fromiter((length for pack in packs for length in pack), dtype=np.int64)
    if not np.array_equal(np.sort(flat), np.sort(lengths)):
        raise ValueError(f"the plan's {flat.size} lengths are not those of the {len(lengths)} sequences")
    _check_room(packs, flat, capacity)


def _check_room(packs: Sequence[Sequence[int]], lengths: np.ndarray, capacity: int) -> None:
    ends = np.cumsum([len(pack) for pack in packs])
    used = np.diff(np.concatenate([[0], np.cumsum(lengths)])[np.concatenate([[0], ends])])
    if (over := np.flatnonzero(used > capacity)).size:
        raise ValueError(f"pack {over[0]} holds {used[over[0]]} tokens, over the capacity of {capacity}")


# ---- in a child: a planner is (what it takes, made of the lengths before; the call; how its packs are checked) ----


def ours(lengths: np.ndarray, rule: str) -> tuple[Callable[[], Any], Callable[..., None]]:
    pack = {"best fit": packing.best_fit_decreasing, "next fit": packing.next_fit}[rule]
    return lambda: pack(lengths, CAPACITY), check


def trl(lengths: np.ndarray, rule: str) -> tuple[Callable[[], Any], Callable[..., None]]:
    import datasets
    import pyarrow as pa
    from trl import pack_dataset

    datasets.disable_progress_bars()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    # a byte a token, for it moves the tokens as it packs: real ones take four or eight
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], dtype=np.int8)))
    dataset = datasets.Dataset(pa.table({"input_ids": tokens}))
    window = {"batch_size": len(lengths), "writer_batch_size": len(lengths)} if rule == "one call" else {}
    return lambda: pack_dataset(dataset, CAPACITY, "bfd", window)["seq_lengths"], check_lengths


def llamafactory(lengths: np.ndarray, rule: str) -> tuple[Callable[[], Any], Callable[..., None]]:
    peers.stand_in()
    from llamafactory.data.processor.processor_utils import greedy_knapsack

    window = len(lengths) if rule == "one call" else 1000
    parts = [lengths[start : start + window].tolist() for start in range(0, len(lengths), window)]
    return lambda: [pack for part in parts for pack in greedy_knapsack(part, CAPACITY)], check_lengths


def axolotl(lengths: np.ndarray, rule: str) -> tuple[Callable[[], Any], Callable[..., None]]:
    from axolotl.utils.samplers.multipack import pack_parallel

    lengths = lengths.astype(np.int32)
    pack_parallel(lengths[:100], CAPACITY, group_size=100_000, bin_size=200, num_processes=1)
    return lambda: pack_parallel(lengths, CAPACITY, group_size=100_000, bin_size=200, num_processes=1), check


PLANNERS = {planner.__name__: planner for planner in (ours, trl, llamafactory, axolotl)}


def child(system: str, rule: str, file: str) -> None:
    """Plan once and report; ends with an error when the plan is wrong."""
    lengths = np.load(file)
    plan, checked = PLANNERS[system](lengths, rule)
    gc.collect()
    memory, began = common.peak_mb(), common.cpu_seconds()
    packs = plan()
    seconds, memory = common.cpu_seconds() - began, common.peak_mb() - memory
    checked(packs, lengths, CAPACITY)
    common.report(packs=len(packs), fill=lengths.sum() / (len(packs) * CAPACITY), time=seconds, memory=memory)


# ---- the script ------------------------------------------------------------------------------------------------------


def run(rounds: int = 2) -> list[common.Row]:
    """All planners on all sizes, in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case, sequences in SIZES.items():
            file = Path(folder) / f"{case}.npy"
            np.save(file, mixture(sequences))
            rows += _size(case, file, rounds)
    return rows


def _size(case: str, file: Path, rounds: int) -> list[common.Row]:
    bound = packing.lower_bound(np.load(file), CAPACITY)
    rows = [common.row(TARGET, "provable lower bound", case, "packs", "packs", bound, "no packing has fewer")]
    commands = {f"{common.OURS}: {rule}": _command("ours", rule, file) for rule in ("best fit", "next fit")}
    notes = {}
    for (name, rule), (largest, note) in PEERS.items():
        known = peers.state(name)
        system = f"{known.system}: {rule}"
        notes[system] = note
        if known.reason:
            rows += [common.row(TARGET, system, case, metric, unit, [], known.reason) for metric, unit in UNITS.items()]
        elif SIZES[case] > SIZES[largest]:
            why = f"over 100 s: timed at {largest} and less" if rule != "one call" else f"asked up to {largest}"
            rows.append(common.row(TARGET, system, case, "time", UNITS["time"], [], f"{why}; {note}".strip("; ")))
        else:
            commands[system] = _command(name, rule, file)
    samples = common.alternate(commands, rounds)
    return rows + common.rows_of(TARGET, case, samples, UNITS, notes) + _against_fastest(case, samples)


def _command(system: str, rule: str, file: Path) -> common.Command:
    arguments = ("-m", "benchmarks.planning", system, rule, str(file))
    return common.Command(arguments) if system == "ours" else peers.command(system, *arguments)


def _against_fastest(case: str, samples: dict[str, common.Samples]) -> list[common.Row]:
    times = {name: taken.of("time") for name, taken in samples.items() if not name.startswith(common.OURS)}
    times = {name: sorted(values)[len(values) // 2] for name, values in times.items() if values}
    if not times:
        return [common.row(TARGET, f"fastest peer / {OURS}", case, "time", "ratio", [], "no peer was measured")]
    rows = [common.ratio(TARGET, case, "time", samples, min(times, key=times.get), OURS, "of the fastest peer")]
    packs = {name: taken.of("packs")[0] for name, taken in samples.items() if taken.of("packs")}
    few = [name for name in times if packs[name] <= packs[OURS] * 1.0001]
    if few and few != [min(times, key=times.get)]:
        fastest = min(few, key=times.get)
        rows.append(common.ratio(TARGET, case, "time", samples, fastest, OURS, "of the fastest with as few packs"))
    return rows


def main() -> int:
    """Measure and keep the rows."""
    return common.finish(TARGET, run(), peers=peers.versions())


if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]) if sys.argv[1:] else main())
