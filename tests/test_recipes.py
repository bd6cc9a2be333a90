"""The README's recipes, two real ranks and accumulation 3: the gradient that the optimizer sees is Eq. 2's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import largest_difference, random_sequences
from eq2 import LENGTHS, oracle
from longalign.batching import plan_packing
from longalign.planned import measure
from recipes import ACCUMULATION, CAPACITY, RANKS


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
