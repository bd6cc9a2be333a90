"""Training time measured on two real processes: the plan's steps, kept once, and a failure that says why."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.experiments import timing
from longalign.experiments.operations import Pace, step_seconds
from longalign.train.runs import Run
from longalign.train.trainer import TrainingConfig, make_plans
from longalign.train.workers import execute

NEW = {"name": "mini-6b", "vocab_size": 40, "max_length": 32, "seed": 0}
PADDED = {"method": "naive", "rows": 2, "micro_batches_per_step": 4, "epochs": 3}
PACKED = {"method": "packing", "capacity": 32, "micro_batches_per_step": 3, "epochs": 3, "snapshots": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)

    def sequence(length):
        input_ids = rng.integers(0, 40, length).astype(np.int32)
        labels = np.where(np.arange(length) * 2 > length, input_ids, -100).astype(np.int32)
        return Encoded(input_ids=input_ids, labels=labels, truncated=0)

    folder = tmp_path_factory.mktemp("store")
    return write_store(folder / "store", (sequence(n) for n in rng.integers(2, 32, 30)), meta={})


def run_of(store, training, **changes):
    return Run(training["method"], str(store.folder), training, **{"new_model": NEW, **changes})


@pytest.fixture(scope="module")
def pair(store):
    """A padded and a packed run, dealt to two devices; of the second only three steps."""
    return [
        timing.on_devices(run_of(store, PADDED), ranks=2),
        timing.on_devices(run_of(store, PACKED), ranks=2, steps=3),
    ]


@pytest.fixture(scope="module")
def kept(pair, tmp_path_factory):
    """The folder of the measurements of the pair, made by one start of two processes, and what was returned."""
    folder = tmp_path_factory.mktemp("times")
    return folder, timing.measure(pair, folder, ranks=2)


def planned(run, store, ranks=2):
    return make_plans(store, TrainingConfig(**run.training), ranks=ranks)[0]


def test_a_step_keeps_its_rows_when_it_is_dealt_to_devices_with_one_row_each(store):
    run = run_of(store, {"method": "naive", "rows": 4, "micro_batches_per_step": 6, "epochs": 5, "snapshots": 12})
    dealt = timing.on_devices(run, ranks=2, steps=16).training
    names = ("rows", "micro_batches_per_step", "epochs", "steps", "snapshots")
    assert [dealt[name] for name in names] == [1, 24, 1, 16, 0]
    alone = timing.on_devices(run, ranks=1).training
    assert (alone["rows"], alone["micro_batches_per_step"], alone["epochs"]) == (4, 6, 1)
    packs = run_of(store, {"method": "packing", "rows": 1, "micro_batches_per_step": 3})
    assert [timing.on_devices(packs, ranks=n).training["micro_batches_per_step"] for n in (1, 2, 8)] == [3, 4, 8]


def test_two_real_processes_take_the_planned_steps(pair, kept, store):
    padded, packed = kept[1]
    plan = planned(pair[0], store)
    assert padded["world_size"] == 2 and padded["steps"] == len(plan.steps) == 4
    assert padded["tokens"] == store.lengths.sum()
    assert packed["world_size"] == 2 and packed["steps"] == 3 < len(planned(pair[1], store).steps)
    assert packed["tokens"] < store.lengths.sum()


def test_every_rank_reports_the_processor_time_of_every_step(kept):
    for measured in kept[1]:
        cpu = np.array(measured["cpu_seconds"])
        assert cpu.shape == (2, measured["steps"]) and (cpu > 0).all()
        assert measured["slowest_seconds"] == pytest.approx(cpu.max(axis=0).sum(), abs=2e-3)
        assert cpu.sum(axis=1).max() - 2e-3 <= measured["slowest_seconds"] <= cpu.sum() + 2e-3
        assert measured["seconds"] > 0


def test_a_measurement_is_made_once_and_kept_whole(pair, kept, monkeypatch, capsys):
    folder, first = kept
    names = sorted(f"{timing.key(run, ranks=2)}.json" for run in pair)
    assert sorted(path.name for path in folder.iterdir()) == names
    assert {json.loads((folder / name).read_text())["label"] for name in names} == {"naive", "packing"}
    monkeypatch.setattr(timing.subprocess, "Popen", None)  # a process could not be started
    assert timing.measure(pair, folder, ranks=2) == first
    assert not capsys.readouterr().out


def test_a_measurement_that_was_cut_short_is_made_again(pair, kept, tmp_path, monkeypatch):
    whole = {path.name: path.read_text() for path in kept[0].iterdir()}
    for name, text in whole.items():
        (tmp_path / name).write_text(text[:40])

    def measure(missing, work, ranks):
        for file in missing:
            file.write_text(whole[file.name])

    monkeypatch.setattr(timing, "_measure", measure)
    assert timing.measure(pair, tmp_path, ranks=2) == kept[1]


def test_the_key_depends_on_settings_and_ranks(pair):
    run = pair[0]
    keys = {timing.key(run, ranks=1), timing.key(run, ranks=2)}
    keys.add(timing.key(replace(run, training={**run.training, "micro_batches_per_step": 1}), ranks=2))
    assert len(keys) == 3
    assert timing.key(replace(run, label="another name"), ranks=2) == timing.key(run, ranks=2)


def test_an_epoch_is_scaled_up_from_the_steps_that_were_measured(pair, kept, store):
    pace = Pace(per_position=1e-3, per_pair=0.0, per_micro_batch=1e-2, per_step=0.0)
    modelled = step_seconds(planned(pair[1], store), pace)
    exact = {"world_size": 2, "steps": 3, "cpu_seconds": [[9.0, *(2 * modelled[1:3])], [0.0, 0.0, 0.0]]}
    assert timing.epoch_seconds(pair[1], exact, pace) == pytest.approx(2 * modelled.sum())
    with pytest.raises(ValueError, match="measure at least 2"):
        timing.epoch_seconds(pair[1], {**exact, "steps": 1}, pace)


def test_a_finished_run_gives_work_and_time_of_every_step_but_the_first(store, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    run = run_of(store, {**PADDED, "checkpoint_every": 1000})
    execute(run)
    work, seconds = timing.step_times(run)
    steps = [step for plan in make_plans(store, TrainingConfig(**run.training)) for step in plan.steps]
    assert work.shape == (len(steps) - 1, 4) and seconds.shape == (len(steps) - 1,) and (seconds > 0).all()
    rows = [[store.lengths[row[0]] for row in batch] for batch in steps[1].micro_batches[0]]
    assert work[0, 0] == sum(len(batch) * max(batch) for batch in rows if batch)


def test_a_run_that_fails_is_named_with_its_error_and_what_was_measured_before_is_kept(store, tmp_path):
    good = timing.on_devices(run_of(store, PADDED), ranks=1, steps=2)
    bad = replace(good, new_model={**NEW, "vocab_size": 8}, label="bad")  # the tokens go up to 39
    with pytest.raises(RuntimeError, match="time of 'bad' could not be measured in one process .exit 1") as failure:
        timing.measure([good, bad], tmp_path)
    assert "knows the ids 0 to 7" in str(failure.value)
    assert [path.stem for path in tmp_path.iterdir()] == [timing.key(good, ranks=1)]


def test_an_interrupted_measurement_ends_its_processes_and_leaves_nothing(store, tmp_path, monkeypatch):
    started = []
    real = timing.subprocess.Popen

    def popen(*arguments, **options):
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[0]

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing.subprocess, "Popen", popen)
    monkeypatch.setattr(timing.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        timing.measure([timing.on_devices(run_of(store, PADDED), ranks=2)], tmp_path, ranks=2)
    assert started[0].poll() is not None and list(tmp_path.iterdir()) == []
