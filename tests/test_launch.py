"""A training job from a file: what it will take, refusals in one line, and two real ranks that are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from longalign.common import paths
from longalign.common.config import ConfigError
from longalign.data.store import TokenStore
from longalign.recipe.balance import within_steps
from longalign.recipe.cost import micro_batch_costs
from longalign.train import jobs, launcher
from longalign.train.events import read_events
from longalign.train.models import load_model, model_shape
from longalign.train.parallelism import Parallelism
from longalign.train.prediction import Pace, predict
from longalign.train.trainer import TrainingConfig
from test_needs import SHAPES
from test_trainer import make_store

TRAINING = {"capacity": 24, "micro_batches_per_step": 2, "epochs": 6, "checkpoint_every": 3}


@pytest.fixture
def job(tmp_path):
    """A job file on a short base and its folder; `job(zero=2)` has that engine on two ranks."""
    make_store(tmp_path / "store")

    def write(name="job", **engine):
        engine = {"ranks": 2, **engine} if engine else {}
        data = {"model": str(paths.bases() / "mini-6b"), "data": str(tmp_path / "store"), "training": TRAINING}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**data, "engine": engine}))
        return path

    return write


def test_a_container_in_an_allocation_that_lacks_slurms_programs_trains_on_its_one_node(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launcher.allocated() == []
    assert "--standalone" in launcher.command(Parallelism(ranks=2), "m", hosts=launcher.allocated())
    with pytest.raises(ValueError, match="0 are here .*allocation of as many, where scontrol is, or list them"):
        launcher.command(Parallelism(nodes=2, ranks=2), "m", hosts=launcher.allocated())


def start(job, *options):
    command = [sys.executable, "-m", "longalign.train.jobs", str(job), "--out", str(job.parent / "trained"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def trained(job):
    """The run of a job in its folder."""
    (folder,) = (job.parent / "trained" / "trained").iterdir()
    return folder


def test_a_dry_run_says_everything_and_trains_nothing(job, capsys):
    path = job(zero=3, offload="all", gradient_checkpointing=True)
    assert jobs.main([str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert '"offload_param"' in told and '"train_batch_size": 2' in told and "--nproc-per-node=2" in told
    assert "memory of a device: about" in told and "an estimate" in told
    plans = jobs.load_job(path).plans(jobs.TokenStore(path.parent / "store"))
    steps = [step for plan in plans for step in plan.steps]
    tokens = sum(int(plans[0].lengths[i]) for step in steps for i in step.sequences)
    assert f"{len(steps)} steps, {tokens:,} tokens" in told and " hours on 2 devices of 312 TFLOP/s" in told
    assert sorted(path.parent.iterdir()) == [path, path.parent / "store"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"modle": "x"}, "unknown key modle: did you mean 'model'"),
        ({"model": "nowhere"}, f"model is nowhere, where there is no folder (paths count from {Path.cwd()})"),
        ({"engine": {"zero": 9}}, "ZeRO has the stages 0, 1, 2 and 3"),
        ({"engine": {"rank": 2}}, "engine.rank: did you mean 'ranks'"),
        ({"training": {"capacity": "many"}}, "training.capacity must be int"),
        ({"training": {"capacity": 20}}, "of 20: raise training.capacity, or tokenize with --max-length 20"),
        ({"training": {"schedule": "constant"}}, "schedule constant has no warm-up, and warmup_ratio is 0.03"),
        ({"training": {"schedule": "warmup_stable_decay"}}, "training.schedule is 'warmup_stable_decay'; it is one of"),
        ({"training": {"capacity": 24, "steps": 99}}, "training.steps is 99, and there are "),
        ({"training": {"capacity": 24, "snapshots": 99}}, "training.snapshots is 99, and there are "),
        ({"training": {"capacity": 24, "steps": 1}}, "the only step is the warm-up of training.warmup_ratio (0.03), "),
        ({"training": {"exponent": 0.5, "weighting": "token"}}, "exponent belongs to the weighting sequence alone"),
        ({"training": {"exponent": 2.0}}, "exponent must lie from 0 (sequence mean) to 1 (token mean), not 2.0"),
        ({"training": {"defect": "lost"}}, "training.defect is 'lost'; it is one of "),
        ({"training": {"beta2": 1.0}}, "training.beta2 is 1.0; it must be below 1"),
        ({"training": {"learning_rate": -1.0}}, "training.learning_rate is -1.0; it must be at least 0"),
        ({"training": {"method": "naive", "packing_algorithm": "bogus"}},
         "training.packing_algorithm is 'bogus'; it is one of next_fit, best_fit"),
        ({"training": {"method": "naive", "packing_algorithm": "best_fit"}},
         "training.packing_algorithm is for method packing, not naive: leave it out"),
        ({"training": {"group_size": 4}}, "training.group_size is for method sorted, not packing: leave it out"),
        ({"training": {"steps": -1}}, "training.steps is -1; it must be at least 0"),
        ({"training": {"epochs": 0}}, "training.epochs is 0; it must be at least 1"),
        ({"training": {"seed": -1}}, "training.seed is -1; it must be at least 0"),
        ({"training": {"seed": 2**32}}, "training.seed is 4294967296; it must be below 4294967296"),
        ({"training": {"capacity": 24}, "max_length": -5}, "max_length is -5; a model has at least 1 position"),
        ({"rope_factor": -2.0}, "rope_factor is -2.0; it must be above 0"),
        ({"rope_type": "yarnn"}, "rope_type is 'yarnn'; it is default or yarn"),
        ({"rope_type": "yarn", "max_length": 64}, "yarn needs a max_length above the 128 positions; it is 64"),
        ({"training": {"method": "naive"}, "engine": {"ranks": 2, "zero": 2, "sequence_parallel": 2}},
         "sequence_parallel is for method packing, not naive"),
        ({"engine": {"ranks": 4, "zero": 2, "sequence_parallel": 4}}, "the model has 6 heads: they can be shared by"),
    ],
)
def test_a_job_that_cannot_be_is_refused_in_one_line(job, capsys, change, told):
    path = job()
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    assert jobs.main([str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1, error


def test_ranks_share_the_heads_of_a_model_that_groups_none_and_none_of_a_recurrence(job, tmp_path):
    path = job(zero=1, ranks=2, sequence_parallel=2)
    for kind, sizes in (("gpt_neox", {"num_attention_heads": 4}), ("mamba2", {"num_heads": 8, "head_dim": 8})):
        AutoConfig.for_model(kind, hidden_size=32, **sizes).save_pretrained(tmp_path / kind)
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": str(tmp_path / kind)}))
        if kind == "gpt_neox":
            assert jobs.load_job(path).engine.sequence_parallel == 2
        else:
            with pytest.raises(ConfigError, match="has no attention heads that ranks could share"):
                jobs.load_job(path)


def test_a_model_whose_layers_have_several_sizes_is_estimated_and_not_balanced_by_them(job, capsys, tmp_path):
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma4_text", **SHAPES["gemma4_text"])).save_pretrained(
        tmp_path / "gemma4")  # fmt: skip
    path = job()
    given = yaml.safe_load(path.read_text()) | {"model": str(tmp_path / "gemma4"), "engine": {}}
    made, store = replace(jobs.load_job(path), **{"model": given["model"]}), TokenStore(path.parent / "store")
    assert jobs.estimated(made, store, made.plans(store)).device > 0
    path.write_text(yaml.safe_dump(given | {"training": {**given["training"], "balance": "steps"}}))
    capsys.readouterr()
    assert jobs.main([str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "training.balance is 'steps', which goes by the sizes of a layer" in error and error.count("\n") == 1


def test_the_key_of_a_run_is_the_same_on_every_engine_that_computes_the_same(job):
    run, alone = jobs.load_job(job(zero=2)).run(), jobs.load_job(job("alone")).run()
    assert run.engine != alone.engine and run.key == alone.key
    assert jobs.load_job(job("rounded", zero=2, bf16=True)).run().key != run.key


def test_ranks_that_share_packs_take_as_long_as_ranks_that_have_their_own(job, capsys):
    hours = {}
    for shared in (1, 2):
        assert jobs.main([str(job(zero=2, sequence_parallel=shared)), "--dry-run"]) == 0
        said = re.search(r"about (\S+) hours on 2 devices.* send (\d+)%", capsys.readouterr().out)
        hours[shared] = float(said[1]) * (1 - int(said[2]) / 100)
    assert 0.5 < hours[2] / hours[1] <= 1, "shared packs leave no rank waiting"


def test_from_zero_2_on_ranks_wait_in_every_micro_step_and_are_balanced_for_it(job):
    store = TokenStore(job(zero=3).parent / "store")
    hours, found = {}, {}
    for zero in (1, 2, 3):
        made = replace(jobs.load_job(job(zero=zero)), training=TrainingConfig(capacity=24, micro_batches_per_step=6))
        plain = made.plans(store)
        hours[zero] = predict(plain, model_shape(made.config), made.engine, Pace(flops=1e12)).hours
        balanced = replace(made, training=replace(made.training, balance="steps"))
        found[zero] = [plan.order_hash() for plan in balanced.plans(store)]
        expected = [within_steps(plan, cost=made.cost(), barrier=made.engine.barrier) for plan in plain]
        assert found[zero] == [plan.order_hash() for plan in expected]
        costs = [micro_batch_costs(plan, made.cost()) for plan in plain]
        flops = sum((part.sum(2).max(1) if zero == 1 else part.max(1).sum(1)).sum() for part in costs)
        assert hours[zero] == pytest.approx(flops / 1e12 / 3600)
    assert hours[3] == hours[2] > hours[1] and found[3] == found[2] != found[1]


def test_ranks_that_cannot_share_a_step_evenly_are_refused(job, capsys):
    assert jobs.main([str(job(ranks=3, zero=2)), "--dry-run"]) == 2
    assert "micro_batches_per_step is 2" in (told := capsys.readouterr().err) and "make it a multiple of 3" in told


@pytest.mark.cluster
@pytest.mark.parametrize(("zero", "ranks", "shared"), [(2, 2, 1), (2, 1, 1), (3, 1, 1), (3, 2, 2)])
def test_a_job_whose_rank_is_killed_goes_on_to_the_same_losses_however_its_steps_are_dealt(job, zero, ranks, shared):
    quiet, path = job("quiet", zero=zero), job("killed", zero=zero)
    quiet_folder = quiet.parent / "whole"
    status = subprocess.run(
        [sys.executable, "-m", "longalign.train.jobs", str(quiet), "--out", str(quiet_folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert status.returncode == 0 and "trained: " in status.stdout, status.stderr
    (whole,) = (quiet_folder / "trained").iterdir()
    process, checkpoints = start(path), []
    while process.poll() is None and not checkpoints:
        time.sleep(0.02)
        checkpoints = list(path.parent.glob("trained/trained/*/work/checkpoint-*/sha256.json"))
    running = [p for p in psutil.Process(process.pid).children(recursive=True) if "longalign.train.runs" in p.cmdline()
               and "torch.distributed.run" not in p.cmdline()]  # fmt: skip
    assert len(running) == 2
    running[1].kill()
    status, _, told = finish(process)
    assert status == 1 and "one of 2 processes failed: Signal 9 (SIGKILL)" in told and "Traceback" not in told
    psutil.wait_procs(running, timeout=15)
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in running)
    job("killed", zero=zero, ranks=ranks, sequence_parallel=shared)
    status, told, error = finish(start(path))
    assert status == 0, error
    expected, got = (read_events(folder / "events.jsonl") for folder in (whole, trained(path)))
    assert len(expected) > 6 and [event["tokens"] for event in got] == [event["tokens"] for event in expected]
    # the same ranks add in the same order; the updates of an optimizer that lost a state would drift apart
    tolerance = 0 if (ranks, shared) == (2, 1) else 1e-5
    losses = [event["loss"] for event in expected]
    assert [event["loss"] for event in got] == pytest.approx(losses, rel=tolerance, abs=0)
    load_model(trained(path) / "model")
    assert "finished already and reused" in finish(start(path))[1]
    recorded = json.loads((trained(path) / "record.json").read_text())["run"]
    assert recorded["engine"] == {**vars(Parallelism()), "ranks": ranks, "zero": zero, "sequence_parallel": shared}


@pytest.mark.cluster
def test_ranks_end_with_the_process_that_asked_for_them(job):
    process = start(job(zero=1))
    children = []
    while process.poll() is None and len(children) < 4:  # a worker, torchrun and two ranks
        time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=30)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


@pytest.mark.parametrize(
    ("weighting", "told"),
    [
        ("[[0, token], [0.8, sequence]]", None),
        ("token", None),
        ("[[0, token], [0.8, sequenc]]", "training: weighting must be one of sequence, .* not 'sequenc'"),
        ("[[0.2, token]]", "training: the stages of a weighting begin at shares"),
        ("[[0, token, 1]]", r"training.weighting\[0\] must hold 2 values"),
        ("[[token, 0]]", r"training.weighting\[0\]\[0\] must be float, not str 'token'"),
        ("0.5", "training.weighting must be str, not float 0.5"),
    ],
)
def test_a_job_states_its_weighting_by_a_name_or_a_schedule(job, weighting, told):
    path = job()
    text = path.read_text().replace("training:\n", f"training:\n  weighting: {weighting}\n")
    path.write_text(text)
    if told is None:
        run = jobs.load_job(path).run()
        assert TrainingConfig(**json.loads(json.dumps(run.training))).weighting
        return
    with pytest.raises(ConfigError, match=told):
        jobs.load_job(path)


@pytest.mark.parametrize(
    "text",
    ["model: " + "[" * 2000, "{a: " * 2000 + "}" * 2000, f"seed: {'1' * 5000}", "day: 2026-02-30"],
    ids=["lists in lists", "keys in keys", "a number of 5,000 digits", "a day that is none"],
)
def test_a_job_that_yaml_cannot_hold_is_named(tmp_path, text):
    (tmp_path / "deep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"deep.yaml: not readable as YAML"):
        jobs.load_job(tmp_path / "deep.yaml")


def test_a_job_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: No such file"):
        jobs.load_job(tmp_path / "none.yaml")
