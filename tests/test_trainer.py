"""The training engine on real ranks: two processes with accumulation 3 train exactly as one with accumulation 6.

Run by torchrun, this file is one of the processes: `torchrun test_trainer.py FOLDER METHOD`.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from longalign.chat import Encoded
from longalign.events import read_events
from longalign.models import new_model
from longalign.store import TokenStore, write_store
from longalign.trainer import TrainingConfig, make_plans, train

RANKS, ACCUMULATION = 2, 3
# Weight decay 0 and few steps: what differs is only the order in which fp32 numbers are added.
CONFIG = TrainingConfig(capacity=24, accumulation=ACCUMULATION, rows=2, epochs=2, checkpoint_every=1000)


def fresh_model():
    return new_model("mini-6b", vocab_size=40, max_length=24, seed=0)


def make_store(folder):
    """Lengths 1 to 24, token id 0 among them, some sequences without a target."""
    rng = np.random.default_rng(0)

    def sequence(number, length):
        input_ids = rng.integers(0, 40, length).astype(np.int32)
        targets = (rng.random(length) < 0.5) & (number % 7 != 3)
        return Encoded(input_ids=input_ids, labels=np.where(targets, input_ids, -100).astype(np.int32), truncated=0)

    return write_store(folder, (sequence(*pair) for pair in enumerate(rng.integers(1, 25, 40))), meta={})


def on_this_rank(folder, method):
    train(fresh_model(), TokenStore(folder / "store"), replace(CONFIG, method=method), folder / method)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    make_store(folder / "store")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    done = subprocess.run(
        [*command, __file__, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("method", ["packing", "naive"])
def test_two_ranks_with_accumulation_3_train_as_one_rank_with_accumulation_6(folder, tmp_path, method):
    store, config = TokenStore(folder / "store"), replace(CONFIG, method=method)
    alone = replace(config, accumulation=RANKS * ACCUMULATION)
    plans = make_plans(store, config, ranks=RANKS), make_plans(store, alone)
    together, single = ([set(step.sequences) for plan in part for step in plan.steps] for part in plans)
    assert together == single and len(single) > 3, "both see the same sequences in every optimizer step"
    train(fresh_model(), store, alone, tmp_path)
    expected, got = read_events(tmp_path / "events.jsonl"), read_events(folder / method / "events.jsonl")
    assert [event["step"] for event in got] == [event["step"] for event in expected] == [*range(1, len(single) + 1)]
    assert [event["tokens"] for event in got] == [event["tokens"] for event in expected]
    for name, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3)):
        assert got[0][name] == pytest.approx(expected[0][name], rel=1e-5)
        assert [event[name] for event in got] == pytest.approx([event[name] for event in expected], rel=tolerance)
    assert expected[0]["loss"] > 1, "a loss that is halved or doubled would show"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("packing", "naive"):
        on_this_rank(Path(sys.argv[1]), name)
