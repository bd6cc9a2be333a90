"""Long sequences shared by two real ranks and short ones each on one: as one process with one sequence at a time.

Run by torchrun, this file is one of the ranks: `torchrun test_mixed_ranks.py FOLDER`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml

from engines import keep_first_gradients
from longalign.common import paths
from longalign.data.store import TokenStore
from longalign.recipe.batching import deal
from longalign.recipe.collators import PackedCollator
from longalign.train import trainer
from longalign.train.events import read_events
from longalign.train.launcher import exit_rank
from longalign.train.models import load_model, new_model
from longalign.train.parallelism import Parallelism
from longalign.train.sequence_parallel import attach, slice_of
from longalign.train.trainer import make_plans
from test_launch import start, trained
from test_trainer import CONFIG, fresh_model, make_store

DEGREE, ABOVE = 2, 10
CONFIGS = {  # capacity 12: the longest of 24 tokens fills a pack of two ranks
    "both": replace(CONFIG, capacity=12, rows=1, micro_batches_per_step=12, epochs=1, max_grad_norm=0.5, steps=3),
    "one kind a step": replace(CONFIG, capacity=12, rows=1, micro_batches_per_step=2, epochs=1, steps=8),
}
ENGINES = {f"ZeRO {zero}": Parallelism(ranks=2, zero=zero, sequence_parallel=DEGREE, share_above=ABOVE)
           for zero in range(4)}  # fmt: skip
FOUR = {"four ranks": Parallelism(ranks=4, zero=3, sequence_parallel=DEGREE, share_above=ABOVE)}
TRAININGS = [(name, "both") for name in ENGINES] + [("ZeRO 3", "one kind a step"), ("four ranks", "both")]


def mixed_plans(store, settings, ranks=2):
    return make_plans(store, settings, ranks=ranks, share_above=ABOVE, degree=DEGREE)


def one_by_one(store, settings, **ignored):
    """The plans of one process that takes each sequence of a step by itself, as if nothing were packed or shared."""
    plans = []
    for plan in mixed_plans(store, settings):
        most = max(len(step.sequences) for step in plan.steps)
        steps = [deal([(i,) for i in step.sequences], ranks=1, accumulation=most, rows=1)[0] for step in plan.steps]
        plans.append(replace(plan, ranks=1, accumulation=most, steps=tuple(steps), degree=1))
    return plans


def keep_logits(folder):
    """Each rank's own pack, a slice of one that both share, and its own again, by the same model."""
    rank = int(os.environ["RANK"])
    for name in ("mini-6b", "mini-13b"):  # the three heads of mini-7b are not for two ranks
        model = new_model(name, vocab_size=40, max_length=24, seed=0)
        attach(model, DEGREE)
        own, shared = pack_of(*PACKS[rank]), slice_of(pack_of(*SHARED), rank, DEGREE, pad_token_id=0)
        with torch.no_grad():
            for number, batch in enumerate((own, shared, own)):
                np.save(folder / f"{name}-{number}-{rank}.npy", model(**without_labels(batch)).logits.numpy())


PACKS, SHARED = ((2, 5), (7,)), (4, 3, 14)


def pack_of(*lengths):
    return PackedCollator(0)([{"input_ids": range(2, 2 + n), "labels": range(2, 2 + n), "loss_weight": 1.0}
                              for n in lengths])  # fmt: skip


def without_labels(batch):
    return {key: value for key, value in batch.items() if key not in ("labels", "loss_weights")}


def train_here(folder, name, settings, engine):
    kept, target = {}, folder / name / settings
    keep_first_gradients(kept)
    arguments = trainer.training_arguments(CONFIGS[settings], target, engine)
    shared = {"sequence_parallel": engine.sequence_parallel, "share_above": engine.share_above}
    done = trainer.train(
        fresh_model(), TokenStore(folder / "store"), CONFIGS[settings], target, arguments=arguments, **shared
    )
    done.write_model(target / "model")
    if os.environ.get("RANK", "0") == "0":
        np.savez(target / "gradients.npz", **kept)


def main(folder):
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        trainer.make_plans = one_by_one
        for settings in CONFIGS:
            train_here(folder, "alone", settings, Parallelism())
        return
    for name, settings in TRAININGS:
        engine = (ENGINES | FOUR)[name]
        if engine.ranks == ranks:
            train_here(folder, name, settings, engine)
    if ranks == 2:
        keep_logits(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    make_store(folder / "store")
    for ranks in (1, 2, 4):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        done = subprocess.run(
            [sys.executable, *torchrun, __file__, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.cluster
@pytest.mark.parametrize(("engine", "settings"), TRAININGS)
def test_ranks_that_share_long_sequences_alone_train_as_one_process_does(folder, engine, settings):
    """Losses and gradient norms of clipped, accumulated steps, the first step's gradients, the model at the end."""
    expected, got = (read_events(folder / name / settings / "events.jsonl") for name in ("alone", engine))
    assert len(got) == len(expected) == CONFIGS[settings].steps
    assert [event["loss"] for event in got] == pytest.approx([event["loss"] for event in expected], rel=1e-5)
    if engine != "ZeRO 0":  # which reports none
        norms = [event["grad_norm"] for event in expected]
        assert [event["grad_norm"] for event in got] == pytest.approx(norms, rel=1e-5)
    first, second = (np.load(folder / name / settings / "gradients.npz") for name in ("alone", engine))
    assert sorted(first) == sorted(second)
    for name in first:
        assert np.abs(first[name] - second[name]).max() <= 1e-7 + 1e-6 * np.abs(first[name]).max(), name
    alone, together = (load_model(folder / name / settings / "model") for name in ("alone", engine))
    ids = torch.arange(2, 26)[None]
    with torch.no_grad():
        assert torch.allclose(alone(ids).logits, together(ids).logits, atol=1e-4)


@pytest.mark.cluster
@pytest.mark.parametrize("model", ["mini-6b", "mini-13b"], ids=["grouped heads", "plain heads"])
def test_one_model_computes_packs_of_its_own_and_slices_of_shared_ones_by_turns(folder, model):
    whole = new_model(model, vocab_size=40, max_length=24, seed=0)
    with torch.no_grad():
        own, shared = ([whole(**without_labels(pack_of(*lengths))).logits.numpy() for lengths in some]
                       for some in (PACKS, (SHARED,)))  # fmt: skip
    got = [[np.load(folder / f"{model}-{number}-{rank}.npy") for rank in range(2)] for number in range(3)]
    for number in (0, 2):
        assert all(np.abs(a - b).max() <= 1e-6 * np.abs(a).max() for a, b in zip(own, got[number], strict=True))
    slices = np.concatenate(got[1], axis=1)[:, :21]
    assert np.abs(slices - shared[0]).max() <= 1e-6 * np.abs(slices).max()


def test_the_plans_have_what_is_to_be_tried(tmp_path):
    """Steps of both kinds and of one; a shared pack without a target."""
    store = make_store(tmp_path / "store")
    kinds = {}
    for settings, config in CONFIGS.items():
        (plan,) = mixed_plans(store, config)
        steps = plan.steps[: config.steps]
        kinds[settings] = {(step.shared[0] > 0, step.shared[0] < plan.accumulation) for step in steps}
        without = [row for step in steps for group in plan.shared_micro_batches(step) for (row,) in group
                   if not plan.target_counts[list(row)].any()]  # fmt: skip
        assert without, settings
    assert (True, True) in kinds["both"] and kinds["one kind a step"] == {(True, False), (False, True)}


def finish(process):
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


@pytest.mark.cluster
def test_a_job_of_both_kinds_whose_rank_is_killed_goes_on_to_the_same_losses(tmp_path):
    make_store(tmp_path / "store")
    training = asdict(replace(CONFIGS["both"], checkpoint_every=2, micro_batches_per_step=4, steps=7))
    jobs = {}
    for name in ("quiet", "killed"):
        jobs[name] = tmp_path / name / "job.yaml"
        jobs[name].parent.mkdir()
        engine = {"ranks": 2, "zero": 2, "sequence_parallel": DEGREE, "share_above": ABOVE}
        jobs[name].write_text(yaml.safe_dump({
            "model": str(paths.bases() / "mini-6b"), "data": str(tmp_path / "store"), "training": training,
            "engine": engine,
        }))  # fmt: skip
    status, _, told = finish(start(jobs["quiet"]))
    assert status == 0, told
    process, sealed = start(jobs["killed"]), []
    while process.poll() is None and not sealed:
        time.sleep(0.02)
        sealed = list(tmp_path.glob("killed/trained/trained/*/work/checkpoint-*/sha256.json"))
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if "longalign.train.runs" in p.cmdline()
             and "torch.distributed.run" not in p.cmdline()]  # fmt: skip
    ranks[1].send_signal(signal.SIGKILL)
    status, _, told = finish(process)
    assert status == 1 and "one of 2 processes failed: Signal 9 (SIGKILL)" in told
    status, _, told = finish(start(jobs["killed"]))
    assert status == 0, told
    quiet, killed = (read_events(trained(jobs[name]) / "events.jsonl") for name in ("quiet", "killed"))
    assert [event["loss"] for event in killed] == [event["loss"] for event in quiet] and len(quiet) == 7
    recorded = json.loads((trained(jobs["killed"]) / "record.json").read_text())["run"]
    assert recorded["engine"]["share_above"] == ABOVE


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    exit_rank()
