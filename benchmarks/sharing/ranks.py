"""Seconds of a step on two real ranks: long sequences shared and short ones not, all shared, and none shared.

    python -m benchmarks.sharing.ranks OUT            about 20 minutes of two quiet cores; goes on where it was stopped
    python -m benchmarks.sharing.ranks OUT --small    the same code in a minute or two; its numbers say nothing

Two processes of one thread under ZeRO-2 train an epoch of the same sequences in three ways by turns (A B C A B C), for
both mixtures of `simulate` with lengths scaled to a context of 2,048 tokens. A rank holds half of that, so that "not
shared" takes more than it may hold; a CPU has the memory. The model is built so that attention has the part of the
FLOPs of the longest sequence that it has in Llama-2-7B at 64k (56 %), and a micro-batch takes tenths of a second,
beside which starting it is little. Sending takes some percent of the time, as it does beside an A800 by NVLink: larger
differences there are none to see.

The prediction is the proposal's (`longalign.train.prediction`): FLOPs, barriers of ZeRO-2, and what is sent. Its
FLOP/s are fitted to "not shared" of the same mixture, which so has no error of its own, and its bytes/s are those of
the exchange alone between the same two processes. Nothing is fitted to the two ways that it is asked for.

OUT/measured.jsonl has a line for each epoch, OUT/ranks.csv and OUT/ranks.json are for results/sharing/, from which
docs/scale/mixed.md takes its table. Not part of `make bench`: it wants both cores for itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sharing import simulate
from longalign.common import paths, provenance
from longalign.data.chat import Encoded
from longalign.data.store import TokenStore, write_store
from longalign.train import prediction
from longalign.train.config import TrainingConfig
from longalign.train.events import read_events
from longalign.train.launcher import exit_rank
from longalign.train.memory import ModelShape
from longalign.train.models import new_model
from longalign.train.parallelism import Parallelism

CONTEXT, CAPACITY, STEP_TOKENS = 2048, 1024, 8192
SCALED = 2**16 // CONTEXT
"""Tokens of a context of 64k for one here."""
SHAPE = ModelShape(192, 4, 512, heads=12, key_value_heads=12, head_size=32, vocab_size=512, tied=True)
MIXTURES = {"longalign": simulate.longalign, "llama3": simulate.llama3}
NOT_SHARED = "not shared"
WAYS = {
    "mixed": (CAPACITY, {"sequence_parallel": 2, "share_above": CAPACITY}),
    "all shared": (CONTEXT, {"sequence_parallel": 2}),
    NOT_SHARED: (CONTEXT, {}),
}
EXCHANGE = "exchange alone"
COLUMNS = ("mixture", "way", "seconds", "lowest", "highest", "over_mixed", "over_mixed_lowest", "over_mixed_highest",
           "predicted", "error", "idle", "sending", "steps", "tokens", "rounds")  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How often every way is measured, and on how many sequences of each mixture."""

    rounds: int = 4
    sequences: dict[str, int] = field(default_factory=lambda: {"longalign": 1000, "llama3": 3600})


SMALL = Sizes(1, {"longalign": 40, "llama3": 100})


def stored(folder: Path, mixture: str, sequences: int) -> TokenStore:
    """Random tokens in sequences of the mixture's lengths at a context of 64k, all divided alike."""
    lengths = np.maximum(2, MIXTURES[mixture](2**16, sequences) // SCALED)
    random = np.random.default_rng(0)
    rows = (random.integers(0, SHAPE.vocab_size, n).astype(np.int32) for n in lengths)
    return write_store(folder, (Encoded(row, row, 0) for row in rows), meta={})


def settings(way: str) -> tuple[TrainingConfig, Parallelism]:
    """An epoch of steps of about `STEP_TOKENS` tokens."""
    capacity, shared = WAYS[way]
    config = TrainingConfig(capacity=capacity, micro_batches_per_step=STEP_TOKENS // capacity, balance="steps",
                            checkpoint_every=1_000_000)  # fmt: skip
    return config, Parallelism(ranks=2, zero=2, **shared)


def on_this_rank(out: Path, sizes: Sizes) -> None:
    """What is not measured yet, in turn; rank 0 adds a line for each."""
    import torch

    torch.set_num_threads(1)
    done = {(line["round"], line["mixture"], line["way"]) for line in measured(out)}  # the same on both ranks
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stores = {name: stored(folder / name, name, number) for name, number in sizes.sequences.items()}
        train(stored(folder / "few", "longalign", 10), "mixed", folder / "warm-up")
        for number in range(sizes.rounds):
            for mixture, store in stores.items():
                for way in WAYS:
                    if (number, mixture, way) not in done:
                        found = train(store, way, folder / f"{number}-{mixture}-{way}")
                        write(out, {"round": number, "mixture": mixture, "way": way, **found})
            if (number, "", EXCHANGE) not in done:
                write(out, {"round": number, "mixture": "", "way": EXCHANGE, "bytes_per_second": sent_per_second()})


def train(store: TokenStore, way: str, target: Path) -> dict[str, float]:
    """Seconds, steps and tokens of an epoch."""
    from longalign.train import trainer

    config, engine = settings(way)
    arguments = trainer.training_arguments(config, target, engine)
    model = new_model("mini-7b", vocab_size=SHAPE.vocab_size, max_length=CONTEXT, seed=0, shape=asdict(SHAPE))
    options = {"sequence_parallel": engine.sequence_parallel, "share_above": engine.share_above}
    trainer.train(model, store, config, target, arguments=arguments, **options)
    # rank 1 may look before the last line is written, and its numbers are not kept
    last = (read_events(target / "events.jsonl") or [{"seconds": 0.0, "steps": 0, "tokens": 0}])[-1]
    return {name: last[name] for name in ("seconds", "steps", "tokens")}


def sent_per_second(times: int = 50) -> float:
    """Bytes that a rank sends to the other in the exchange of one state of a shared pack in one layer."""
    import torch

    state = torch.zeros(CONTEXT // 2 * SHAPE.query_size)
    torch.distributed.all_to_all_single(received := torch.empty_like(state), state)
    torch.distributed.barrier()
    began = time.perf_counter()
    for _ in range(times):
        torch.distributed.all_to_all_single(received, state)
    return times * state.numel() * state.element_size() / 2 / (time.perf_counter() - began)


def write(out: Path, line: dict[str, Any]) -> None:
    """On rank 0, onto the disk."""
    if os.environ["RANK"] == "0":
        with (out / "measured.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def measured(out: Path) -> list[dict[str, Any]]:
    """The lines so far."""
    return read_events(out / "measured.jsonl")


def table(lines: list[dict[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """A row for each mixture and way: seconds per `STEP_TOKENS` tokens, their prediction, how far it is off."""
    sent = statistics.median(line["bytes_per_second"] for line in lines if line["way"] == EXCHANGE)
    pace, found = prediction.Pace(sent=sent * 2 / 4), []  # it counts numbers of 2 bytes, and these have 4
    for mixture, number in sizes.sequences.items():
        seconds, sized = defaultdict(list), {}
        for line in (line for line in lines if line["mixture"] == mixture):
            seconds[line["way"]].append(line["seconds"])
            sized[line["way"]] = {"steps": line["steps"], "tokens": line["tokens"]}
        with tempfile.TemporaryDirectory() as folder:
            store = stored(Path(folder) / mixture, mixture, number)
            pace = fitted(pace, store, statistics.median(seconds[NOT_SHARED]))
            for way, taken in seconds.items():
                told = predicted(store, way, pace)
                over = [a / b for a, b in zip(taken, seconds["mixed"], strict=True)]
                each = {"seconds": taken, "over_mixed": over}
                unit = {"seconds": STEP_TOKENS / sized[way]["tokens"], "over_mixed": 1.0}
                values = {name: [unit[name] * value for value in some] for name, some in each.items()}
                found.append({
                    "mixture": mixture, "way": way, **spread("seconds", "", values["seconds"]),
                    **spread("over_mixed", "over_mixed_", values["over_mixed"]),
                    "predicted": told["seconds"] * unit["seconds"],
                    "error": told["seconds"] / statistics.median(taken) - 1,
                    "idle": told["idle"], "sending": told["sending"], **sized[way], "rounds": len(taken),
                })  # fmt: skip
    return found


def spread(name: str, prefix: str, values: list[float]) -> dict[str, float]:
    """Median and ends, as columns."""
    return {name: statistics.median(values), f"{prefix}lowest": min(values), f"{prefix}highest": max(values)}


def predicted(store: TokenStore, way: str, pace: prediction.Pace) -> dict[str, float]:
    """Seconds of the epoch as it is planned, the share of them in which ranks wait, and that in which they send."""
    from longalign.train.trainer import make_plans

    config, engine = settings(way)
    (plan,) = make_plans(store, config, ranks=engine.batches, cost=SHAPE.cost, barrier=engine.barrier, **engine.mixed)
    told = prediction.predict([plan], SHAPE, engine, pace)
    return {"seconds": 3600 * told.hours, "idle": told.idle, "sending": told.sending}


def fitted(pace: prediction.Pace, store: TokenStore, seconds: float) -> prediction.Pace:
    """The pace whose FLOP/s give what "not shared" took."""
    return replace(pace, flops=pace.flops * predicted(store, NOT_SHARED, pace)["seconds"] / seconds)


def record(file: Path, lines: list[dict[str, Any]], sizes: Sizes) -> None:
    """What the table was measured with."""
    provenance.write_json(file, {
        "context": CONTEXT, "capacity": CAPACITY, "step_tokens": STEP_TOKENS, "shape": asdict(SHAPE), **asdict(sizes),
        "sent": statistics.median(line["bytes_per_second"] for line in lines if line["way"] == EXCHANGE),
        "attention": SHAPE.cost.per_pair * CONTEXT / (SHAPE.cost.per_pair * CONTEXT + SHAPE.cost.per_token),
        "load": os.getloadavg(), "versions": provenance.versions(), "hardware": provenance.hardware(),
        "git": provenance.git_state(), "date": time.strftime("%Y-%m-%d", time.gmtime()),
    })  # fmt: skip


def main(out: Path, *, small: bool = False) -> int:
    """Measure what is missing, and write the table."""
    sizes = SMALL if small else Sizes()
    out.mkdir(parents=True, exist_ok=True)
    kept, asked = out / "sizes.json", json.loads(json.dumps(asdict(sizes)))
    if kept.exists() and json.loads(kept.read_text()) != asked:
        print(f"{out} holds a measurement of other sizes: name another folder", file=sys.stderr)
        return 2
    provenance.write_json(kept, asked)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
               "benchmarks.sharing.ranks", str(out.resolve()), *["--small"] * small, "--rank"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_BUILD_OPS": "0", "CUDA_VISIBLE_DEVICES": ""}
    streams = {"stderr": subprocess.STDOUT, "env": environment, "cwd": paths.root()}
    try:
        # ranks that outlive this process keep the lock
        with provenance.alone(out / "lock", wait=False) as lock, (out / "log.txt").open("a") as log:
            subprocess.run(command, check=True, stdout=log, pass_fds=[lock.fileno()], **streams)
    except (provenance.LockedError, subprocess.CalledProcessError) as error:
        print(f"{error}; see {out / 'log.txt'}, and then the same command goes on", file=sys.stderr)
        return 1
    lines = measured(out)
    provenance.write_csv(out / "ranks.csv", table(lines, sizes), columns=COLUMNS)
    record(out / "ranks.json", lines, sizes)
    print((out / "ranks.csv").read_text())
    print(f"now: cp {out}/ranks.csv {out}/ranks.json results/sharing/ && python -m longalign.report.readme")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser("benchmarks.sharing.ranks", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder, made if need be")
    parser.add_argument("--small", action="store_true", help="only to see that it runs")
    parser.add_argument("--rank", action="store_true", help="for torchrun: be one of the two")
    given = parser.parse_args()
    if given.rank:
        on_this_rank(given.out, SMALL if given.small else Sizes())
        exit_rank()
    sys.exit(main(given.out, small=given.small))
