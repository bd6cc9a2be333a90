"""The package as pip installs it: built from a copy of its source, it works outside of a clone and with little."""

import os
import re
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
def built(tmp_path_factory):
    """The wheel."""
    pytest.importorskip("setuptools", reason="builds the wheel without a network")
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "out"))
    shutil.copytree(paths.root() / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.root() / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder with what the wheel holds."""
    place = tmp_path_factory.mktemp("place")
    zipfile.ZipFile(built).extractall(place)
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


BEFORE = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
name = {model!r}
conversations = [[{{"role": "user", "content": "Who?" * n}}, {{"role": "assistant", "content": "Marlow." * n}}]
                 for n in (2, 4, 3, 1, 2, 5)]
"""
HELD_OUT = """
held_out = [{"input_ids": e.input_ids, "labels": e.labels} for e in encoded[:3]]
"""
AFTER = """
losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
print("steps", trainer.state.global_step, "losses", *losses)
"""


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """The folder of a small random model and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from longalign.miniature import tokenizer

    folder, words = tmp_path_factory.mktemp("model"), tokenizer.load()
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=65536, pad_token_id=words.pad_token_id,
    )).save_pretrained(folder)  # fmt: skip
    words.save_pretrained(folder)
    return folder


def shown(page, sign):
    """The block of Python of a page of the repository that has this sign in it."""
    blocks = re.findall(r"```python\n(.*?)```", (paths.root() / page).read_text(encoding="utf-8"), flags=re.S)
    (block,) = [block for block in blocks if sign in block]
    return block


def recipe_of(extra, model):
    """What a reader runs after this installation: the pages' own code, with a model and conversations brought along."""
    front = shown("README.md", "encode(")
    held_out = front.replace("\nclass ", HELD_OUT + "\nclass ", 1)
    if extra == "[trl]":
        held_out = held_out.split("\nclass ")[0] + "\n" + shown("docs/use/trl.md", "SFTTrainer")
        held_out = held_out.replace('output_dir="run"', 'output_dir="run", bf16=False')  # as the page says of a CPU
    return BEFORE.format(model=str(model)) + held_out + AFTER


@pytest.mark.exhaustive
@pytest.mark.parametrize("extra", ["", "[train]", "[trl]"], ids=["base", "train", "trl"])
def test_the_pages_recipes_run_in_an_empty_environment(extra, built, random_model, tmp_path):
    """Installs packages: minutes, and gigabytes in the temporary folder."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", f"{built}{extra}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place = next((python.parents[1] / "lib").glob("python*")) / "site-packages"
    code = recipe_of(extra, random_model) if extra else RECIPE.format(blocked=(), place=str(place))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert told.returncode == 0, told.stderr
    if extra:
        steps, loss = re.search(r"steps (\d+) losses ([\d.]+)", told.stdout).groups()
        assert int(steps) == 2 and 0 < float(loss) < 20
    else:
        assert float(told.stdout) == pytest.approx(2.1972246, rel=1e-6)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert ("transformers" in listed) == bool(extra) and ("trl " in listed) == (extra == "[trl]")
