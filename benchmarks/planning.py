"""Planning packs: how few, how fast, in how much memory; a plan counts only after every sequence is found in it once.

Lengths as in tests/test_packing.py (90 % lognormal around 800 tokens, 10 % uniform over 8k-64k), capacity 65,536, 10 k,
100 k and 1 M of them, and 10 k of the long ones alone, where no short one fills a hole. CPU seconds are the planner's
call alone, without imports; memory is how far the process's peak grew during the call over the interpreter with its
libraries and the lengths, the finished plan included. Peers are called as they call themselves, in their default
windows, and over all lengths at once where they can be. A peer is not asked for a larger size than its row
allows, and the row says what follows for it.

    python -m benchmarks.planning
"""

import contextlib
import gc
import importlib.util
import runpy
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, peers
from longalign.recipe import packing

TARGET = "planning"
CAPACITY = 65_536
CASES = {"10k": (10_000, 0.1), "10k, long alone": (10_000, 1.0), "100k": (100_000, 0.1), "1M": (1_000_000, 0.1)}
"""Sequences, and the share of long ones."""
UNITS = {"packs": "packs", "fill": "share", "time": "CPU s", "memory": "MB"}
OURS = f"{common.OURS}: best fit"
LEAST_MB = 1.0
"""What grows by less is compared as if it had grown by so much: the allocator hands out more at a time."""
LENGTHS_ALONE = "gives lengths: which sequence has one is not looked up"
# planner of a peer: the largest size that it is asked for, a note, and what is said of larger sizes
PEERS = {
    ("trl", "windows of 1,000"): ("100k", "its default; it moves the tokens as it packs, a byte each here",
                                  "not asked to move 4.9 billion; windows are independent: 10 times its time at 100k"),
    ("llamafactory", "windows of 1,000, lengths alone"): ("1M", f"its default; {LENGTHS_ALONE}", ""),
    ("llamafactory", "windows of 1,000"): ("1M", "its default, and a look-up by length as it does one", ""),
    ("llamafactory", "one call, lengths alone"): ("1M", LENGTHS_ALONE, ""),
    ("llamafactory", "one call"): ("1M", "and a look-up by length as it does one", ""),
    ("axolotl", "groups of 100,000"): ("1M", "its default, at most 200 sequences a pack; compiled before", ""),
}  # fmt: skip


def mixture(sequences: int, share: float = 0.1, seed: int = 0) -> np.ndarray:
    """The share `share` uniform over 8k-64k, the others lognormal around 800 tokens, in random order."""
    random = np.random.default_rng(seed)
    long = random.integers(8192, CAPACITY + 1, round(sequences * share))
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
    return lambda: pack_dataset(dataset, CAPACITY, "bfd")["seq_lengths"], check_lengths


def llamafactory(lengths: np.ndarray, rule: str) -> tuple[Callable[[], Any], Callable[..., None]]:
    # the file of its packer alone, for the package around it takes ten seconds to load
    (folder,) = importlib.util.find_spec("llamafactory").submodule_search_locations
    greedy_knapsack = runpy.run_path(f"{folder}/data/processor/processor_utils.py")["greedy_knapsack"]
    window = len(lengths) if rule.startswith("one call") else 1000
    parts = {start: lengths[start : start + window].tolist() for start in range(0, len(lengths), window)}

    def found(start: int, part: list[int]) -> list[list[int]]:
        waiting = defaultdict(list)
        for sequence, length in enumerate(part, start):
            waiting[length].append(sequence)
        return [[waiting[length].pop() for length in pack] for pack in greedy_knapsack(part, CAPACITY)]

    if rule.endswith("lengths alone"):
        return lambda: [pack for part in parts.values() for pack in greedy_knapsack(part, CAPACITY)], check_lengths
    return lambda: [pack for start, part in parts.items() for pack in found(start, part)], check


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
    _forget_peak()
    memory, began = common.peak_mb(), time.process_time()
    packs = plan()
    seconds, memory = time.process_time() - began, common.peak_mb() - memory
    checked(packs, lengths, CAPACITY)
    common.report(packs=len(packs), fill=lengths.sum() / (len(packs) * CAPACITY), time=seconds, memory=memory)


def _forget_peak() -> None:
    """Let the peak of the imports not hide what the plan takes; only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# ---- the script ------------------------------------------------------------------------------------------------------


def run(rounds: int = 2) -> list[common.Row]:
    """All planners in all cases, in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case, (sequences, share) in CASES.items():
            file = Path(folder) / f"{case}.npy"
            np.save(file, mixture(sequences, share))
            rows += _case(case, file, rounds)
    return rows


def _case(case: str, file: Path, rounds: int) -> list[common.Row]:
    bound = packing.lower_bound(np.load(file), CAPACITY)
    rows = [common.row(TARGET, "provable lower bound", case, "packs", "packs", bound, "no packing has fewer")]
    commands = {f"{common.OURS}: {rule}": _command("ours", rule, file) for rule in ("best fit", "next fit")}
    notes = {}
    for (name, rule), (largest, note, beyond) in PEERS.items():
        known = peers.state(name)
        system = f"{known.system}: {rule}"
        notes[system] = note
        if known.reason:
            rows += [common.row(TARGET, system, case, metric, unit, [], known.reason) for metric, unit in UNITS.items()]
        elif CASES[case][0] > CASES[largest][0]:
            rows.append(common.row(TARGET, system, case, "time", UNITS["time"], [], f"{beyond}; {note}"))
        else:
            commands[system] = _command(name, rule, file)
    samples = common.alternate(commands, rounds)
    return rows + common.rows_of(TARGET, case, samples, UNITS, notes) + _against_peers(case, samples)


def _command(system: str, rule: str, file: Path) -> common.Command:
    arguments = ("-m", "benchmarks.planning", system, rule, str(file))
    return common.Command(arguments) if system == "ours" else peers.command(system, *arguments)


def _against_peers(case: str, samples: dict[str, common.Samples]) -> list[common.Row]:
    """Ours beside every peer, in time and memory; which one is the fastest, also of those whose plan names sequences,
    and of those with as few packs (1 in 10,000 more counts as few)."""
    taken = {name: statistics.median(one.of("time")) for name, one in samples.items() if one.of("time")}
    packs = {name: samples[name].of("packs")[0] for name in taken}
    others = sorted((name for name in taken if not name.startswith(common.OURS)), key=taken.get)
    if not others or OURS not in taken:
        why = "no peer was measured" if OURS in taken else "ours was not measured"
        return [common.row(TARGET, f"fastest peer / {OURS}", case, "time", "ratio", [], why)]
    whole = [name for name in others if not name.endswith("lengths alone")]
    few = [name for name in whole if packs[name] <= packs[OURS] * 1.0001]
    asked = {"the fastest of all": others, "the fastest plan of sequences": whole, "the fastest with as few packs": few}
    notes = {name: ", ".join(note for note, names in asked.items() if names[:1] == [name]) for name in others}
    ratios = [common.ratio(TARGET, case, "time", samples, name, OURS, note) for name, note in notes.items()]
    grown = {name: _at_least(LEAST_MB, one) for name, one in samples.items()}
    return ratios + [common.ratio(TARGET, case, "memory", grown, name, OURS) for name in others]


def _at_least(least: float, samples: common.Samples) -> common.Samples:
    rounds = [{**one, "memory": max(least, one["memory"])} for one in samples.rounds if "memory" in one]
    return replace(samples, rounds=rounds)


def main() -> int:
    """Measure and keep the rows."""
    return common.finish(TARGET, run(), peers=peers.versions())


if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]) if sys.argv[1:] else main())
