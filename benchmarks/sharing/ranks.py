"""Seconds of a step on two real ranks: long sequences shared and short ones not, all shared, and none shared.

    python -m benchmarks.sharing.ranks OUT            both mixtures, three rounds, the three ways in turn

Two processes on CPUs under ZeRO-2, `mini-7b`, lengths of `simulate` scaled to a context of 1,024 tokens. A rank
holds 512, so that "not shared" takes more than one may hold; it stands here because a CPU has the memory. Every way has
steps of about as many tokens. The prediction is by FLOPs, its pace fitted to the way without sharing: the error of the
others is what sending, shorter slices and another order of work add. Not part of `make bench`: it takes half an hour.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.sharing import simulate
from longalign.common import paths
from longalign.data.chat import Encoded
from longalign.data.store import TokenStore, write_store
from longalign.recipe.cost import micro_batch_costs, slowest
from longalign.train.config import TrainingConfig
from longalign.train.events import read_events
from longalign.train.launcher import exit_rank
from longalign.train.models import new_model, sequence_cost
from longalign.train.parallelism import Parallelism

CONTEXT, CAPACITY, VOCABULARY, STEPS, ROUNDS, SEQUENCES = 1024, 512, 512, 5, 3, 400
WAYS = {
    "mixed": ({"capacity": CAPACITY, "micro_batches_per_step": 8}, {"sequence_parallel": 2, "share_above": CAPACITY}),
    "all shared": ({"capacity": CONTEXT, "micro_batches_per_step": 4}, {"sequence_parallel": 2}),
    "not shared": ({"capacity": CONTEXT, "micro_batches_per_step": 4}, {}),
}
MIXTURES = {"longalign": simulate.longalign, "llama3": simulate.llama3}


def stored(folder: Path, mixture: str) -> TokenStore:
    """Random tokens in sequences of the mixture's lengths, divided by what makes 64k tokens the context here."""
    lengths = np.maximum(2, MIXTURES[mixture](2**16)[:SEQUENCES] * CONTEXT // 2**16)
    random = np.random.default_rng(0)
    rows = (random.integers(0, VOCABULARY, n).astype(np.int32) for n in lengths)
    return write_store(folder, (Encoded(row, row, 0) for row in rows), meta={})


def on_this_rank(folder: Path) -> None:
    """Every way in turn, again and again; rank 0 writes the medians and the predictions."""
    from longalign.train import trainer

    found: dict[str, dict[str, list[float]]] = {}
    for number in range(ROUNDS):
        for mixture in MIXTURES:
            for way, (settings, shared) in WAYS.items():
                store, target = TokenStore(folder / mixture), folder / f"{mixture}-{way}-{number}"
                config = TrainingConfig(**settings, balance="steps", steps=STEPS)
                engine = Parallelism(ranks=2, zero=2, **shared)
                arguments = trainer.training_arguments(config, target, engine)
                model = new_model("mini-7b", vocab_size=VOCABULARY, max_length=CONTEXT, seed=0)
                cost = sequence_cost(model.config)
                options = {"sequence_parallel": engine.sequence_parallel, "share_above": engine.share_above}
                trainer.train(model, store, config, target, arguments=arguments, **options)
                if os.environ["RANK"] == "0":
                    seconds = np.diff([event["seconds"] for event in read_events(target / "events.jsonl")])
                    (plan,) = trainer.make_plans(store, config, ranks=engine.batches, cost=cost, **engine.mixed)
                    work = slowest(micro_batch_costs(plan, cost), "step")[1:STEPS] / engine.slices
                    taken = found.setdefault(f"{mixture}, {way}", {"seconds": [], "flops": []})
                    taken["seconds"].append(statistics.median(seconds))
                    taken["flops"].append(float(np.median(work)))
    if os.environ["RANK"] == "0":
        (folder / "found.json").write_text(json.dumps(found))


def main(out: Path) -> int:
    """Measure, and write a table as JSON: median seconds of a step, their range, predicted seconds, error."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for mixture in MIXTURES:
            stored(folder / mixture, mixture)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_BUILD_OPS": "0"}
        command = [*torchrun, "-m", "benchmarks.sharing.ranks", str(folder), "--rank"]
        subprocess.run(command, check=True, env=environment, cwd=paths.root())
        found = json.loads((folder / "found.json").read_text())
    table = {}
    for mixture in MIXTURES:
        known = found[f"{mixture}, not shared"]
        pace = statistics.median(known["seconds"]) / known["flops"][0]
        for way in WAYS:
            taken = found[f"{mixture}, {way}"]
            median, predicted = statistics.median(taken["seconds"]), pace * taken["flops"][0]
            table[f"{mixture}, {way}"] = {
                "seconds": median, "range": [min(taken["seconds"]), max(taken["seconds"])], "predicted": predicted,
                "error": predicted / median - 1,
            }  # fmt: skip
    ways = {way: [settings, asdict(Parallelism(ranks=2, zero=2, **shared))] for way, (settings, shared) in WAYS.items()}
    out.write_text(json.dumps({"table": table, "ways": ways}, indent=1))
    print(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    if sys.argv[2:] == ["--rank"]:
        on_this_rank(Path(sys.argv[1]))
        exit_rank()
    sys.exit(main(Path(sys.argv[1])))
