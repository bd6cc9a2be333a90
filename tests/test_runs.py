"""Training runs: keys, reuse, resumption, and the trainer's loss and gradient on a real model."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from longalign.data.chat import Encoded
from longalign.data.store import write_store
from longalign.train import runs
from longalign.train.events import read_events
from longalign.train.runs import Run
from longalign.train.workers import execute, execute_all, order

NEW = {"name": "mini-6b", "vocab_size": 40, "max_length": 32, "seed": 0}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    rng = np.random.default_rng(0)

    def sequence(length):
        input_ids = rng.integers(2, 40, length).astype(np.int32)
        labels = np.where(np.arange(length) * 2 > length, input_ids, -100).astype(np.int32)
        return Encoded(input_ids=input_ids, labels=labels, truncated=0)

    return write_store(tmp_path / "store", (sequence(n) for n in rng.integers(2, 32, 30)), meta={})


def packed(store, **changes):
    training = {"capacity": 32, "micro_batches_per_step": 2, "epochs": 2, "checkpoint_every": 2, **changes}
    return Run("packed", str(store.folder), training, new_model=NEW)


def weights(run):
    from longalign.train.models import load_model

    return torch.cat([p.flatten() for p in load_model(run.model).parameters()])


def test_a_run_is_trained_once_and_reused(store, capsys):
    run = packed(store)
    execute_all([run, run], workers=1)
    written = (run.folder / "record.json").stat().st_mtime_ns
    execute_all([run], workers=1)
    assert (run.folder / "record.json").stat().st_mtime_ns == written
    assert "reused" in capsys.readouterr().out
    assert run.record()["tokens"] == 2 * store.lengths.sum()


def test_the_key_holds_the_ranks_where_they_make_other_steps(store):
    """Steps of like costs are others where ranks wait in every micro-step, and there by their number."""
    def key(balance, **engine):
        run = packed(store, micro_batches_per_step=4, **({"balance": balance} if balance else {}))
        return dataclasses.replace(run, engine=engine).key

    engines = ({}, {"ranks": 2, "zero": 1}, {"ranks": 2, "zero": 2}, {"ranks": 4, "zero": 3}, {"ranks": 1, "zero": 2})
    for balance in ("", "steps", "fill"):
        assert len({key(balance, **engine) for engine in engines}) == 1
    found = [key("compose", **engine) for engine in engines]
    assert found[0] == found[1] and len(set(found)) == 4
    assert key("compose", ranks=2, zero=2) == key("compose", ranks=2, zero=3)


def test_a_rank_does_not_train_another_run_than_the_one_it_was_planned_for(store, monkeypatch):
    """Whoever waits for the run would find it unfinished, though every rank ended well."""
    run = packed(store)
    other = dataclasses.replace(run, max_length=31)
    job = runs.provenance.write_json(run.folder / "job.json", dataclasses.asdict(other))
    monkeypatch.setattr(runs, "_train", pytest.fail)
    with pytest.raises(RuntimeError, match="changed after this training was planned: start it again"):
        runs.main(job)


def test_a_store_that_was_written_over_in_a_training_is_found_before_anything_is_called_finished(store, monkeypatch):
    finish, tokens = runs._finish, store.folder / "tokens.bin"

    def written_over(run, opened):
        tokens.write_bytes(tokens.read_bytes()[::-1])
        finish(run, opened)

    monkeypatch.setattr(runs, "_finish", written_over)
    run = packed(store)
    with pytest.raises((ValueError, RuntimeError), match="tokens.bin"):
        runs._train(run)
    assert not run.finished and list((run.folder / "work").glob("checkpoint-*"))


def test_the_key_depends_on_settings_data_and_start_but_not_on_the_label(store):
    run = packed(store)
    assert run.key == dataclasses.replace(run, label="another name").key
    others = [
        packed(store, seed=1), packed(store, exponent=1.0), dataclasses.replace(run, rope_factor=200.0),
        dataclasses.replace(run, new_model={**NEW, "seed": 1}),
    ]  # fmt: skip
    assert len({run.key, *(other.key for other in others)}) == 5


@pytest.mark.parametrize("field", [{"balance": "by_fill"}, {"defect": "cut_pack"}, {"lora_rank": 4}], ids=str)
def test_code_that_only_some_trainings_use_is_in_their_keys_alone(field, store, monkeypatch):
    plain, special = packed(store), packed(store, **field)
    (names,) = [runs.SOMETIMES[name] for name in field]
    codes = plain.code, special.code
    assert codes[0] != codes[1]
    monkeypatch.setattr(runs, "WITHOUT", (*runs.WITHOUT, *names))
    assert (plain.code, special.code) == (codes[0], codes[0])


def test_a_run_that_was_killed_goes_on_to_the_same_losses_and_weights(store, tmp_path, monkeypatch):
    whole = packed(store)
    execute(whole)
    expected, expected_weights = read_events(whole.folder / "events.jsonl"), weights(whole)
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "killed"))
    run = packed(store)
    run.folder.mkdir(parents=True)
    specification = order(run)
    process = subprocess.Popen(
        [sys.executable, "-m", "longalign.train.workers", str(os.getpid())],
        stdin=subprocess.PIPE, text=True, env=os.environ,
    )
    process.stdin.write(specification + "\n")
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not list((run.folder / "work").glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run.finished, "it was killed in the middle"
    often = packed(store, checkpoint_every=1)
    assert often.key == run.key, "how often it saves changes no number: the same training goes on"
    execute(often)
    got = read_events(run.folder / "events.jsonl")
    assert [event["loss"] for event in got] == [event["loss"] for event in expected]
    assert [event["tokens"] for event in got] == [event["tokens"] for event in expected]
    assert torch.equal(weights(run), expected_weights)


def _models(run):
    """The trained model and those kept on the way; the folder of the work may go a moment after a run is finished."""
    return [file for folder in (run.model, run.snapshots) for file in folder.rglob("*.safetensors")]


def stopped_at_the_end(run, monkeypatch):
    """A run that was killed when its last step was done: the folder `work` with its checkpoints is left."""
    with monkeypatch.context() as broken:
        broken.setattr("longalign.train.runs._finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute(run)
    by_step = lambda folder: int(folder.name.split("-")[1])  # noqa: E731
    return sorted((run.folder / "work").glob("checkpoint-*"), key=by_step)


@pytest.mark.parametrize("state", ["has no seal", "is cut short", "has a wrong bit", "is whole"])
def test_a_run_that_was_killed_while_it_wrote_a_checkpoint_goes_on_from_the_one_before(
    store, monkeypatch, capsys, state
):
    run = packed(store)
    *_, newest = stopped_at_the_end(run, monkeypatch)
    expected = read_events(run.folder / "work" / "events.jsonl")
    weights, optimizer = newest / "model.safetensors", newest / "optimizer.pt"
    if state == "has no seal":  # the engine writes file by file, and was killed among them
        (newest / "sha256.json").unlink()
        (newest / "trainer_state.json").unlink()
    elif state == "is cut short":
        optimizer.write_bytes(optimizer.read_bytes()[:-100])
    elif state == "has a wrong bit":
        data = bytearray(weights.read_bytes())
        data[-9] ^= 64
        weights.write_bytes(data)
    execute(run)
    told = capsys.readouterr().out
    assert (f"{newest.name} is damaged or was cut short" in told) == (state != "is whole")
    got = read_events(run.folder / "events.jsonl")
    for name in ("step", "loss", "grad_norm", "tokens"):
        assert [event[name] for event in got] == [event[name] for event in expected]
    assert run.record()["tokens"] == 2 * store.lengths.sum()


@pytest.mark.parametrize("name", ["model/model.safetensors", "events.jsonl", "snapshots/step-00002/model.safetensors"])
def test_a_finished_run_whose_files_were_damaged_is_trained_again(store, capsys, name):
    run = packed(store, snapshots=3)
    execute_all([run], workers=1)
    whole = {file: file.read_bytes() for file in _models(run)}
    (damaged,) = run.folder.glob(name.replace("step-00002", "*[0-9]2"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert not run.finished
    execute_all([run], workers=1)
    assert "packed: its files are not those that were written; it is done again" in capsys.readouterr().out
    assert run.finished and {file: file.read_bytes() for file in _models(run)} == whole


def test_a_damaged_run_is_not_finished_before_all_its_files_are_written_anew(store, monkeypatch):
    run = packed(store, snapshots=3)
    execute(run)
    run.model.joinpath("model.safetensors").unlink()
    finish, finished = runs._finish, []
    monkeypatch.setattr("longalign.train.runs._finish", lambda *given: (finished.append(run.finished), finish(*given)))
    execute(run)
    assert finished == [False] and run.finished


def test_a_run_that_was_killed_among_its_last_files_has_all_its_snapshots(store, monkeypatch):
    run = packed(store, snapshots=3)
    with monkeypatch.context() as broken:
        broken.setattr("longalign.common.provenance.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        broken.setattr("longalign.common.checksums.seal", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            execute(run)
    execute(run)
    assert len(list(run.snapshots.iterdir())) == 3


def test_two_processes_that_ask_for_the_same_run_train_it_once(store):
    run = packed(store)
    run.folder.mkdir(parents=True)
    specification = order(run) + "\n"
    command = [sys.executable, "-m", "longalign.train.workers", str(os.getpid())]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdin.write(specification)
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    events = read_events(run.folder / "events.jsonl")
    assert [event["step"] for event in events] == [*range(1, events[-1]["steps"] + 1)]
    assert (run.folder / "log.txt").read_text().count("train_runtime") == 1


def test_a_run_that_fails_names_itself_and_its_log(store):
    with pytest.raises(RuntimeError, match="'packed' failed.*log.txt") as told:
        execute_all([packed(store, learning_rate="fast")], workers=1)
    first, *rest = str(told.value).splitlines()
    assert rest and not any(line.startswith(" ") for line in rest), "what went wrong, and no places in the code"


def test_a_worker_whose_code_is_not_the_planned_one_says_so_in_the_log_of_its_run(store, monkeypatch):
    run = packed(store)
    run.__dict__["key"] = "0123456789abcdef"  # as if a module had been edited since
    with pytest.raises(RuntimeError, match="changed after this job was planned"):
        execute_all([run], workers=1)


def test_a_run_that_was_killed_after_its_record_was_written_is_finished(store, monkeypatch):
    run = packed(store, checkpoint_every=1000)
    with monkeypatch.context() as broken:
        broken.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute(run)
    assert run.finished and read_events(run.folder / "events.jsonl") and (run.folder / "work").is_dir()
    execute_all([run])
    assert run.finished and not (run.folder / "work").exists(), "whoever asks for it removes what is left"


def test_a_worker_whose_parent_dies_before_training_has_begun_does_not_train(store):
    run = packed(store)
    run.folder.mkdir(parents=True)
    specification = order(run) + "\n"
    code = (
        "import os, subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'longalign.train.workers', str(os.getpid())]\n"
        "worker = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)\n"
        "worker.stdin.write(sys.argv[1])\nworker.stdin.flush()\nprint(worker.pid, flush=True)\nos._exit(1)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, specification], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        check=False,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not run.finished:
        try:
            os.kill(int(parent.stdout), 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    assert not run.finished


def test_no_workers_are_refused(store):
    with pytest.raises(ValueError, match="at least one process"):
        execute_all([packed(store)], workers=0)


def test_the_first_loss_of_every_method_is_the_mean_over_sequences_of_the_token_mean(store):
    """Naive, sorted and weighted packing with one optimizer step an epoch see the same set, hence the same loss and
    gradient."""
    first = {}
    for method, rows, accumulation in (("naive", 5, 6), ("sorted", 5, 6), ("packing", 1, 40)):
        training = {"method": method, "capacity": 32, "rows": rows, "micro_batches_per_step": accumulation, "epochs": 1}
        run = Run(method, str(store.folder), training, new_model=NEW)
        execute(run)
        events = read_events(run.folder / "events.jsonl")
        assert len(events) == 1
        first[method] = (events[0]["loss"], events[0]["grad_norm"])
    losses, norms = zip(*first.values(), strict=True)
    assert max(losses) - min(losses) < 1e-5 and max(norms) - min(norms) < 1e-5 * max(norms) + 1e-6
    assert losses[0] == pytest.approx(mean_of_token_means(store), abs=1e-5)


def mean_of_token_means(store):
    """Eq. 2, one sequence at a time, on the same fresh model."""
    from longalign.train.models import new_model

    model, means = new_model(**NEW), []
    for sequence in (store[i] for i in range(len(store))):
        ids, labels = (torch.from_numpy(sequence[name]).long() for name in ("input_ids", "labels"))
        if (labels[1:] != -100).any():
            logits = model(ids[None]).logits[0, :-1]
            means.append(torch.nn.functional.cross_entropy(logits, labels[1:]).item())
    return sum(means) / len(means)
