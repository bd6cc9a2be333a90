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
from accelerate.utils.deepspeed import HfDeepSpeedConfig

from longalign.data.chat import Encoded
from longalign.data.store import TokenStore, write_store
from longalign.recipe.cost import LLAMA_2_7B
from longalign.train import trainer
from longalign.train.events import read_events
from longalign.train.launcher import exit_rank
from longalign.train.models import load_model, new_model, sequence_cost
from longalign.train.parallelism import Parallelism
from longalign.train.trainer import TrainingConfig, make_plans, train

RANKS, ACCUMULATION = 2, 3
# Weight decay 0 and few steps: what differs is only the order in which fp32 numbers are added.
CONFIG = TrainingConfig(
    capacity=24, micro_batches_per_step=RANKS * ACCUMULATION, rows=2, epochs=2, checkpoint_every=1000
)


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


@pytest.mark.parametrize("ranks", [2, 3, 6])
@pytest.mark.parametrize("method", ["naive", "sorted", "packing"])
def test_a_step_holds_the_same_sequences_on_any_number_of_ranks(tmp_path, method, ranks):
    """So that a run may go on with other ranks; sorted batching's groups must not follow their number."""
    store, config = make_store(tmp_path / "store"), replace(CONFIG, method=method, micro_batches_per_step=6)
    alone, together = make_plans(store, config), make_plans(store, config, ranks=ranks)
    steps = [[step.sequences for plan in plans for step in plan.steps] for plans in (alone, together)]
    assert steps[0] == steps[1] and len(steps[0]) > 3


@pytest.mark.parametrize("zero", [None, 0, 1, 2, 3])
def test_from_zero_2_on_plans_are_balanced_for_ranks_that_wait_in_every_micro_step(tmp_path, monkeypatch, zero):
    """DeepSpeed adds gradients up in every micro-step there, since no rank keeps all of them."""
    asked = []

    def planned(*_, **options):
        asked.append(options)
        return []

    monkeypatch.setattr(trainer, "make_plans", planned)
    model, store = fresh_model(), make_store(tmp_path / "store")
    for balance, cost in (("", LLAMA_2_7B), ("steps", sequence_cost(model.config))):
        config = replace(CONFIG, balance=balance)
        arguments = trainer.training_arguments(config, tmp_path / "run")
        if zero is not None:
            arguments.hf_deepspeed_config = HfDeepSpeedConfig({"zero_optimization": {"stage": zero}})
        with pytest.raises(ValueError, match="nothing to train on"):
            train(model, store, config, tmp_path / "run", arguments=arguments)
        wanted = "micro_step" if zero in (2, 3) else "step"
        assert (asked[-1]["barrier"], asked[-1]["cost"]) == (wanted, cost)
        assert Parallelism(zero=zero).barrier == wanted


@pytest.mark.parametrize("method", ["packing", "naive"])
def test_two_ranks_with_accumulation_3_train_as_one_rank_with_accumulation_6(folder, tmp_path, method):
    store, config = TokenStore(folder / "store"), replace(CONFIG, method=method)
    plans = make_plans(store, config, ranks=RANKS), make_plans(store, config)
    together, single = ([set(step.sequences) for plan in part for step in plan.steps] for part in plans)
    assert together == single and len(single) > 3, "both see the same sequences in every optimizer step"
    train(fresh_model(), store, config, tmp_path)
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
    top, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    try:
        train(fresh_model(), TokenStore(top / "store"), replace(CONFIG, seed=rank), top / "x")
    except ValueError as refused:
        (top / f"refused-{rank}.txt").write_text(str(refused))
    exit_rank()


def test_ranks_that_disagree_on_the_plan_stop_before_the_first_step(folder):
    told = [(folder / f"refused-{rank}.txt").read_text() for rank in range(RANKS)]
    assert told[0] == told[1] and "rank 1 has other data or another plan than rank 0" in told[0]


def test_a_loss_that_is_no_number_stops_the_run_with_its_step_and_sequences_and_keeps_the_checkpoint(folder, tmp_path):
    store = TokenStore(folder / "store")
    config = replace(CONFIG, epochs=3, checkpoint_every=1, max_grad_norm=0.0, learning_rate=1e20, warmup_ratio=0.0)
    with pytest.raises(FloatingPointError, match="the loss of step [2-9] is nan") as caught:
        train(fresh_model(), store, config, tmp_path)
    events = read_events(tmp_path / "events.jsonl")
    steps = [step for plan in make_plans(store, config) for step in plan.steps]
    assert str(sorted(steps[len(events) - 1].sequences)) in str(caught.value)
    kept = [int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")]
    assert kept and max(kept) == len(events) - 1, "the step before, and not the one that failed"


def test_steps_cut_the_epochs_and_the_schedule_ends_with_them(folder, tmp_path):
    store = TokenStore(folder / "store")
    config = replace(CONFIG, method="packing", epochs=3, steps=4, schedule="linear", warmup_ratio=0.0)
    train(fresh_model(), store, config, tmp_path / "cut")
    events = read_events(tmp_path / "cut" / "events.jsonl")
    steps = [step for plan in make_plans(store, config) for step in plan.steps]
    assert len(steps) > 4
    assert events[-1]["tokens"] == sum(store.lengths[i] for step in steps[:4] for i in step.sequences)
    rates = [event["learning_rate"] for event in events]
    assert rates == pytest.approx([config.learning_rate * left / 4 for left in (4, 3, 2, 1)])


def test_a_run_that_goes_on_is_in_the_stage_of_its_weighting_that_its_step_is_in(folder, tmp_path, monkeypatch):
    store = TokenStore(folder / "store")
    config = replace(CONFIG, steps=4, checkpoint_every=1, weighting=((0, "token"), (0.75, "sequence")))

    class Interrupted(trainer.StopOnNonFinite):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "StopOnNonFinite", Interrupted)
        train(fresh_model(), store, config, tmp_path / "parts")
    runs = {"parts": config, "whole": config, "one stage": replace(config, weighting="token")}
    for name, each in runs.items():
        train(fresh_model(), store, each, tmp_path / name)
    parts, whole, token = ([event["loss"] for event in read_events(tmp_path / name / "events.jsonl")] for name in runs)
    assert parts == whole and whole[:3] == token[:3] and whole[3] != token[3]


def test_snapshots_are_evenly_spaced_and_the_last_one_is_the_trained_model(folder, tmp_path):
    store = TokenStore(folder / "store")
    model = fresh_model()
    train(model, store, replace(CONFIG, steps=4, snapshots=2), tmp_path / "run")
    kept = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [path.name for path in kept] == ["step-00002", "step-00004"]
    half, last = (load_model(path) for path in kept)
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(half.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("method", ["naive", "sorted", "packing"])
def test_a_sequence_over_the_capacity_is_refused_by_every_method(folder, method):
    with pytest.raises(ValueError, match="capacity"):
        make_plans(TokenStore(folder / "store"), replace(CONFIG, method=method, capacity=20))


def test_a_defect_changes_what_is_trained(folder, tmp_path):
    store = TokenStore(folder / "store")
    for defect in ("", "first packs"):
        train(fresh_model(), store, replace(CONFIG, steps=2, defect=defect), tmp_path / (defect or "whole"))
    whole, cut = (read_events(tmp_path / name / "events.jsonl")[0]["loss"] for name in ("whole", "first packs"))
    assert abs(whole - cut) > 1e-3
