"""DeepSpeed under the one training engine: two real ranks follow a single process at every stage of ZeRO."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import ENGINES, METHODS, methods_of
from longalign.train.events import read_events
from longalign.train.launcher import command
from longalign.train.models import load_model
from longalign.train.parallelism import Parallelism, deepspeed_config
from test_trainer import make_store

EXACT = [name for name, engine in ENGINES.items() if not engine.bf16]
both = pytest.mark.parametrize(("engine", "method"), [(e, m) for e in EXACT for m in methods_of(ENGINES[e])])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    make_store(folder / "store")
    script = str(Path(__file__).with_name("engines.py"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for start in ([sys.executable], torchrun):
        done = subprocess.run(
            [*start, script, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.cluster
@both
def test_two_ranks_under_deepspeed_train_as_one_process(folder, engine, method):
    """Losses and gradient norms of clipped, accumulated steps, the first step's gradients, the model at the end."""
    expected, got = (read_events(folder / name / method / "events.jsonl") for name in ("alone", engine))
    assert len(got) == len(expected) == 4 and expected[0]["grad_norm"] > 0.5, "what is not clipped shows no clipping"
    assert [event["loss"] for event in got] == pytest.approx([event["loss"] for event in expected], rel=1e-5)
    if engine != "ZeRO 0":  # which reports none
        norms = [event["grad_norm"] for event in expected]
        assert [event["grad_norm"] for event in got] == pytest.approx(norms, rel=1e-5)
    first, second = (np.load(folder / name / method / "gradients.npz") for name in ("alone", engine))
    assert sorted(first) == sorted(second)
    # where ranks multiply matrices of other shapes (rows apart, of which the last layer takes what is read; slices;
    # stage 3's own layers) fp32 rounds otherwise: by 2e-7 for sorted rows
    alike = method == "packing" and engine in ("ZeRO 0", "ZeRO 1", "ZeRO 2")
    for name in first:
        scale = 0 if alike else np.abs(first[name]).max()
        assert np.abs(first[name] - second[name]).max() <= 1e-7 + 1e-6 * scale, name
    alone, together = (load_model(folder / name / method / "model") for name in ("alone", engine))
    ids = torch.arange(2, 26)[None]
    with torch.no_grad():
        assert torch.allclose(alone(ids).logits, together(ids).logits, atol=1e-4)


@pytest.mark.cluster
@pytest.mark.parametrize("model", ["mini-6b", "mini-13b"])
def test_ranks_that_share_a_pack_give_its_logits(folder, model):
    """21 tokens of four sequences in two slices, a filler behind them; one sequence lies across the cut."""
    whole = np.load(folder / f"{model}-1-0.npy")
    slices = np.concatenate([np.load(folder / f"{model}-2-{rank}.npy") for rank in range(2)], axis=1)
    assert whole.shape[1] == 21 and slices.shape[1] == 22
    assert np.abs(slices[:, :21] - whole).max() <= 1e-6 * np.abs(whole).max()


@pytest.mark.cluster
@pytest.mark.parametrize("engine", ["ZeRO 3", "ZeRO 3, Ulysses", "ZeRO 2, bf16"])
def test_every_rank_refuses_an_attention_that_leaks(folder, engine):
    told = {(folder / engine / "leaking" / f"refusal-{rank}.txt").read_text() for rank in range(2)}
    assert len(told) == 1 and "depends on the others" in told.pop()
    assert not (folder / engine / "leaking" / "events.jsonl").exists(), "before the first step"


@pytest.mark.cluster
@pytest.mark.parametrize(("attention", "told"), [("exact", "0"), ("leaking", "depends on the others")])
def test_a_model_that_is_dealt_before_there_is_an_engine_is_proved_on_every_rank(folder, attention, told):
    """As the recipe of the README does where DeepSpeed's arguments are made before the model; it stays dealt."""
    said = {(folder / "dealt" / f"{attention}-{rank}.txt").read_text() for rank in range(2)}
    assert len(said) == 1 and told in said.pop()


@pytest.mark.cluster
def test_the_methods_do_not_train_alike(folder):
    """Negative control: a loss that forgot its weights or its batches would make them equal."""
    losses = {m: tuple(e["loss"] for e in read_events(folder / "alone" / m / "events.jsonl")) for m in METHODS}
    assert len(set(losses.values())) == len(METHODS)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ranks": 0}, "ranks 0"), ({"zero": 4}, "the stages 0, 1, 2 and 3"), ({"offload": "disk"}, "'disk'"),
        ({"offload": "optimizer", "zero": 0}, "needs zero: 1, 2 or 3"),
        ({"offload": "all", "zero": 2}, "needs zero: 3"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_be_is_refused_in_one_line(fields, told):
    with pytest.raises(ValueError, match=told) as caught:
        Parallelism(**fields)
    assert "\n" not in str(caught.value)


def test_deepspeed_is_told_every_value():
    engine = Parallelism(nodes=2, ranks=4, zero=3, offload="all", bf16=True)
    config = deepspeed_config(engine, accumulation=3, max_grad_norm=1)
    assert config["train_batch_size"] == 24 and config["gradient_clipping"] == 1 and config["bf16"]["enabled"]
    assert config["zero_optimization"]["offload_param"] == config["zero_optimization"]["offload_optimizer"]
    assert "auto" not in str(config)
    with pytest.raises(ValueError, match="no DeepSpeed"):
        deepspeed_config(Parallelism(), accumulation=1, max_grad_norm=1)


def test_several_nodes_meet_at_the_first_and_too_few_are_refused():
    engine = Parallelism(nodes=2, ranks=8, zero=3)
    made = command(engine, "longalign.train.runs", "job.json", hosts=["a1", "a2"])
    assert "--nnodes=2" in made and "--nproc-per-node=8" in made and any("=a1:" in part for part in made)
    assert made[0] == "srun" and "--nodes=2" in made
    with pytest.raises(ValueError, match=r"2 nodes, but 1 are here \(a1\): start it inside a Slurm"):
        command(engine, "longalign.train.runs", hosts=["a1"])


def test_hosts_in_a_file_are_left_to_deepspeeds_launcher(tmp_path):
    with pytest.raises(ValueError, match="where there is none"):
        Parallelism(nodes=2, hostfile=str(tmp_path / "hosts"))
    (tmp_path / "hosts").write_text("a1 slots=8\na2 slots=8\n")
    engine = Parallelism(nodes=2, ranks=8, zero=3, hostfile=str(tmp_path / "hosts"))
    made = command(engine, "longalign.train.runs", "job.json")
    assert "deepspeed.launcher.runner" in made and made[-2:] == ["longalign.train.runs", "job.json"]


@pytest.mark.cluster
@pytest.mark.parametrize("method", METHODS)
def test_in_bf16_the_losses_are_those_of_fp32_to_its_eight_bits(folder, method):
    expected, got = (read_events(folder / name / method / "events.jsonl") for name in ("alone", "ZeRO 2, bf16"))
    losses = [event["loss"] for event in expected]
    assert [event["loss"] for event in got] == pytest.approx(losses, rel=1e-2)
    assert [event["loss"] for event in got] != pytest.approx(losses, rel=1e-5), "bf16 was not used"
