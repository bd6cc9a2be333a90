"""Ranks composed from micro-batches that are timed alone: what is timed, and what an epoch takes by hand."""

from dataclasses import replace

import numpy as np
import pytest

from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.experiments import composed
from longalign.experiments.design import Arm
from longalign.experiments.operations import Pace, step_seconds
from longalign.recipe.cost import SequenceCost, idle_share
from longalign.train.runs import Run
from longalign.train.trainer import TrainingConfig, make_plans
from longalign.train.workers import execute

NEW = {"name": "mini-6b", "vocab_size": 40, "max_length": 32, "seed": 0}
PADDED = {"method": "naive", "rows": 4, "micro_batches_per_step": 6, "epochs": 3, "learning_rate": 3e-3}
PACKED = {"method": "packing", "capacity": 32, "micro_batches_per_step": 3, "epochs": 3, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 40, length).astype(np.int32) for length in rng.integers(2, 32, 50)]
    sequences = (Encoded(input_ids=one, labels=one, truncated=0) for one in ids)
    return write_store(tmp_path_factory.mktemp("store") / "store", sequences, meta={})


def run_of(store, training):
    return composed.as_in_the_paper(Run(training["method"], str(store.folder), training, new_model=NEW))


def plan_of(store, run, ranks=8, **changes):
    return make_plans(store, TrainingConfig(**(run.training | changes)), ranks=ranks)[0]


@pytest.fixture
def times_of_positions(monkeypatch, tmp_path):
    """A pass "takes" a second for each position, a filler nothing, the optimizer a quarter of a second."""
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))

    def passed(model, batch):
        return float(batch["input_ids"].numel() * (batch["loss_weights"].sum() > 0))

    monkeypatch.setattr(composed, "_pass", passed)
    monkeypatch.setattr(composed, "_optimizer_seconds", lambda model, run: [0.25, 0.5, 0.25])


def test_the_plan_is_the_papers_with_a_row_or_a_pack_on_each_of_8_ranks(store):
    padded, packed = (run_of(store, training).training for training in (PADDED, PACKED))
    assert [padded[name] for name in ("rows", "micro_batches_per_step", "epochs")] == [1, 96, 1]
    assert [packed[name] for name in ("micro_batches_per_step", "epochs", "capacity")] == [8, 1, 32]


@pytest.mark.parametrize("barrier", ["step", "micro_step"])
@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("training", [PADDED, PACKED], ids=["padded", "packed"])
def test_an_epoch_of_times_that_follow_a_pace_is_that_of_the_pace(
    training, ranks, barrier, store, times_of_positions
):
    run = run_of(store, training)
    execute(timed := composed.timed(run, ranks=8))
    pace = Pace(per_position=1.0, per_pair=0.0, per_micro_batch=0.0, per_step=0.25)
    # other ranks have the same rows: no new times are needed; nor for sorted batching
    for plan in (plan_of(store, run, ranks), plan_of(store, run, ranks, micro_batches_per_step=2 * ranks)):
        assert timed.times().epoch(plan, barrier=barrier) == step_seconds(plan, pace, barrier=barrier).sum()
    if training is PADDED:
        plan = plan_of(store, run, ranks, method="sorted")
        assert timed.times().epoch(plan, barrier=barrier) == step_seconds(plan, pace, barrier=barrier).sum()


def test_the_rows_of_the_table_say_seconds_waiting_and_that_ranks_are_composed(store, times_of_positions):
    run = run_of(store, PADDED)
    execute(timed := composed.timed(run, ranks=8))
    plan, arm = plan_of(store, run), Arm("naive", "mini-6b", 2)
    for barrier, waits in (("micro_step", 1), ("step", 1 / 12)):
        rows = {row["metric"]: row for row in composed.tidy(arm, "8 ranks", plan, timed, barrier=barrier)}
        assert rows["waits per micro-step"]["value"] == waits
        lengths = composed.Times({((i,),): float(n) for i, n in enumerate(store.lengths)} | {(): 0.0}, 0.25)
        assert rows["seconds"]["value"] == lengths.epoch(plan, barrier=barrier)
        assert 0 < rows["idle share"]["value"] == pytest.approx(idle_share(plan, SequenceCost(1.0, 0.0), barrier))
        for row in rows.values():
            assert row["kind"] == "measured micro-batches, composed ranks" and row["processor"]
            assert (row["arm"], row["model"], row["seed"], row["task"]) == (*arm, "8 ranks")


def test_of_the_times_of_a_micro_batch_the_least_counts_and_of_the_optimizer_the_median(store, monkeypatch, tmp_path):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    clock = iter(range(1, 10_000))
    monkeypatch.setattr(composed, "_pass", lambda model, batch: float(next(clock)))
    monkeypatch.setattr(composed, "_optimizer_seconds", lambda model, run: [1.0, 9.0, 2.0])
    execute(timed := composed.timed(run_of(store, PACKED), ranks=8))
    least, first, second = (timed.times(only) for only in (None, 0, 1))
    count = len(least.micro_batches)
    assert list(first.micro_batches.values()) == list(range(2, count + 2)) == list(least.micro_batches.values())
    assert list(second.micro_batches.values()) == list(range(count + 2, 2 * count + 2))
    assert least.optimizer == 2.0


@pytest.mark.parametrize("training", [PADDED, PACKED], ids=["padded", "packed"])
def test_a_real_pass_of_every_micro_batch_takes_processor_time_and_its_times_are_kept(
    training, store, monkeypatch, tmp_path
):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    run = run_of(store, training)
    timed = composed.timed(run, ranks=8)
    assert not timed.finished
    execute(timed)
    times, plan = timed.times(), plan_of(store, run)
    planned = {rows for step in plan.steps for rank in step.micro_batches for rows in rank}
    assert set(times.micro_batches) == planned | {()} and times.optimizer > 0
    assert min(times.micro_batches.values()) > 0 and timed.finished
    monkeypatch.setattr(composed, "_seconds", lambda *_: pytest.fail("it was timed before"))
    execute(timed)


def test_the_key_knows_start_ranks_and_settings_and_not_the_label(store):
    run = run_of(store, PADDED)
    key = composed.timed(run, ranks=8).key
    assert key == composed.timed(replace(run, label="another"), ranks=8).key
    others = [(run, 2), (replace(run, new_model={**NEW, "seed": 1}), 8), (run_of(store, PACKED), 8)]
    assert len({key, *(composed.timed(other, ranks=ranks).key for other, ranks in others)}) == 4
