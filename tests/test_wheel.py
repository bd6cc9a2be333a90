"""The package as pip installs it: built from a copy of its source, it works outside of a clone and with little."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from longalign.common import paths

pytestmark = pytest.mark.slow
HEAVY = ("transformers", "accelerate", "peft", "deepspeed", "pandas", "yaml", "scipy", "matplotlib", "nbformat",
         "papermill", "psutil", "datasets", "openai", "jaxtyping")  # fmt: skip
RECIPE = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
sys.path.insert(0, {place!r})
import torch
import longalign
assert longalign.__file__.startswith({place!r}), longalign.__file__
plan = longalign.plan_packing([2, 4, 3], capacity=6, algorithm="best_fit")
sequences = [{{"input_ids": list(range(n)), "labels": list(range(n))}} for n in (2, 4, 3)]
dataset = longalign.PlannedDataset(sequences, [plan])
batch = longalign.PackedCollator(0)([dataset[0]])
hidden, weight = torch.ones(*batch["input_ids"].shape, 4), torch.zeros(9, 4)
print(float(longalign.weighted_cross_entropy(hidden, weight, batch["labels"], batch["loss_weights"])))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel holds."""
    pytest.importorskip("setuptools", reason="builds the wheel without a network")
    source, out, place = (tmp_path_factory.mktemp(name) for name in ("source", "out", "place"))
    shutil.copytree(paths.root() / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.root() / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def test_the_wheel_holds_every_room_and_every_file_of_data(installed):
    package = paths.root() / "lib" / "longalign"
    for suffix in (".py", ".json", ".jsonl", ".txt"):
        ours, theirs = ({path.relative_to(folder) for path in folder.rglob(f"*{suffix}")}
                        for folder in (package, installed / "longalign"))  # fmt: skip
        assert ours == theirs


def test_the_recipe_works_with_numpy_and_torch_alone(installed, tmp_path):
    code = RECIPE.format(blocked=HEAVY, place=str(installed))
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert float(told.stdout) == pytest.approx(2.1972246, rel=1e-6), "ln 9, the loss of a model that knows nothing"


def test_the_command_plans_outside_of_a_clone(installed, tmp_path):
    (tmp_path / "lengths.txt").write_text("2\n4\n3\n")
    command = [sys.executable, "-m", "longalign.cli", "plan", "lengths.txt", "--capacity", "6"]
    environment = {"PYTHONPATH": str(installed), "PATH": ""}
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert told.returncode == 0 and "provable minimum 2" in told.stdout, told.stderr
