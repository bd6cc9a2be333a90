"""The README's recipes, two real ranks and accumulation 3: the gradient that the optimizer sees is Eq. 2's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from conftest import largest_difference, random_sequences, tiny_llama
from eq2 import LENGTHS, oracle
from longalign.miniature import tokenizer as corpus_tokenizer
from longalign.recipe.batching import plan_packing
from longalign.recipe.dataset import measure
from recipes import ACCUMULATION, CAPACITY, HELD_OUT, RANKS, encoded_recipe, small, trainer_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one launch of two ranks left what both recipes did."""
    folder = tmp_path_factory.mktemp("recipes")
    script = Path(__file__).with_name("recipes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    done = subprocess.run(
        [*command, str(script), str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["trainer", "sft"])
def test_the_recipe_trains_with_eq_2(name, folder):
    found = torch.load(folder / f"{name}.pt")
    sequences = random_sequences(LENGTHS, without_targets=(3, 10))
    lengths, target_counts = measure(sequences)
    options = {"target_counts": target_counts, "capacity": CAPACITY, "ranks": RANKS, "accumulation": ACCUMULATION}
    steps = [step for epoch in range(2) for step in plan_packing(lengths, epoch=epoch, **options).steps]
    loss, grads = oracle([sequences[i] for i in steps[0].sequences])
    # The recipe's weights are fp32, everything else here is fp64.
    assert largest_difference(found["gradients"], grads) < 1e-6
    assert found["losses"][0] == pytest.approx(loss, abs=1e-3)
    assert found["steps"] == len(steps) == len(found["losses"])

    _, without_one = oracle([sequences[i] for i in steps[0].sequences[:-1]])
    assert largest_difference(found["gradients"], without_one) > 1e-3, "one sequence less would show"


@pytest.mark.parametrize("name", ["trainer", "sft"])
def test_the_recipe_evaluates_to_the_mean_over_held_out_sequences(name, folder):
    """Of packs that two ranks do not share evenly, a filler among them, and of a sequence without a target."""
    found = torch.load(folder / f"{name}.pt")
    held_out = random_sequences(HELD_OUT, seed=1, without_targets=(2,))
    model = tiny_llama(attention="sdpa")
    model.load_state_dict(found["model"])
    loss, _ = oracle(held_out, model)
    assert len(found["evaluated"]) >= 1
    assert found["evaluated"][-1] == pytest.approx(loss, abs=1e-5)
    without_one, _ = oracle(held_out[1:], model)
    assert abs(found["evaluated"][-1] - without_one) > 1e-3, "one sequence less would show"


def test_deepspeed_in_bf16_does_not_round_the_weights_of_the_recipe(tmp_path, monkeypatch):
    sequences, rounded = random_sequences(LENGTHS), lambda _, inputs: {n: v.bfloat16() for n, v in inputs.items()}
    monkeypatch.setattr(Trainer, "_prepare_inputs", rounded)  # as with DeepSpeed, numbers that are no integers
    trainer = trainer_recipe(tiny_llama(), sequences, sequences, small(str(tmp_path)))
    batch = {"loss_weights": torch.tensor([[1 / 3]]), "other": torch.ones(1)}
    prepared = trainer._prepare_inputs(batch)
    assert torch.equal(prepared["loss_weights"], batch["loss_weights"]) and prepared["other"].dtype == torch.bfloat16


def test_the_recipe_makes_sequences_of_messages_whose_answers_alone_are_targets():
    conversations = [
        [{"role": "user", "content": "?" * n}, {"role": "assistant", "content": "!" * n}] for n in (2, 4, 3)
    ]
    sequences = encoded_recipe(conversations, corpus_tokenizer.load())
    _, target_counts = measure(sequences)
    assert target_counts.tolist() == [4, 6, 5], "what is said, its leading space, and the end"
