"""The README says what is tested: its recipes are the tested ones, its results are the committed tables' own."""

import re
import textwrap
from pathlib import Path

import pytest
from transformers import LlamaConfig

from gpu_rows import CARD, exact, figure_5
from longalign import launch, paths, readme

README = paths.root() / "README.md"
RECIPES = Path(__file__).with_name("recipes.py")


def code_lines(text):
    """Lines of code without what differs on purpose: formatter marks and the two settings the reader brings along."""
    text = re.sub(r"  # fmt: skip", "", text).replace('output_dir="run")', "**settings)")
    return [line.strip() for line in textwrap.dedent(text).splitlines() if line.strip()]


def test_the_step_from_messages_to_sequences_is_the_tested_one():
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S) if "encode(" in b]
    (tested,) = re.findall(r"# recipe: from messages.*?\n(.*?)# end of the recipe", RECIPES.read_text(), flags=re.S)
    assert set(code_lines(tested)) <= set(code_lines(block))


@pytest.mark.parametrize("base_class", ["transformers.Trainer", "trl.SFTTrainer"])
def test_each_recipe_of_the_readme_is_the_tested_one(base_class):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    (shown,) = [block for block in blocks if f"({base_class}):" in block]
    tested = re.findall(r"# recipe:.*?\n(.*?)# end of the recipe", RECIPES.read_text(), flags=re.S)
    (body,) = [code_lines(text) for text in tested if f"({base_class}):" in text]
    assert [line for line in code_lines(shown) if line != "trainer.train()"] == body


def test_the_results_in_the_readme_are_those_of_the_committed_tables():
    text = README.read_text(encoding="utf-8")
    shown = text.split(readme.BEGIN)[1].split(readme.END)[0].strip()
    assert shown == readme.block(paths.results())
    shown = text.split(readme.SPEED_BEGIN)[1].split(readme.SPEED_END)[0].strip()
    assert shown == readme.speed_block(paths.results())
    shown = text.split(readme.GPU_BEGIN)[1].split(readme.GPU_END)[0].strip()
    assert shown == readme.gpu_block(paths.results())


def test_the_readme_says_that_nothing_has_run_on_a_gpu_and_how_to_run_it_while_nothing_is_committed(tmp_path):
    told = readme.gpu_block(tmp_path)
    assert told.startswith("Nothing here has run on a GPU yet") and "`make gpu`" in told and "`results/gpu/`" in told


def test_the_readme_names_each_card_what_was_exact_and_the_ratios_of_figure_5(tmp_path):
    h100 = exact(tmp_path / "gpu" / "h100", [0.4, 1.1, 1.9])
    figure_5(h100, {"packing": 2.61, "sorted": 2.84})
    exact(tmp_path / "gpu" / "h200", [0.4, 2.3], card="NVIDIA H200")
    first, second, last = readme.gpu_block(tmp_path).split("\n\n")
    assert first.startswith(f"On {CARD} (2026-11-28, torch 2.11.0+cu130): 3 of 3 distances")
    assert "the largest is 0.95 of it" in first and first.endswith("No rows failed.")
    assert "packing 2.6 (the paper: 2.9), sorted 2.8 (the paper: 2.9)" in first
    assert second.startswith("On NVIDIA H200") and "1 of 2 distances" in second and "Llama-2-7B" not in second
    assert "the largest is 1.15 of it" in second and second.endswith("1 row failed, with reasons in `22_gpu`.")
    assert "`make gpu`" in last and "several GPUs" in last


def test_the_job_of_the_readme_is_one_that_can_be_launched(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text(), flags=re.S)
    for name in ("my-base", "store"):
        (tmp_path / name).mkdir()
        block = block.replace(f": {name} ", f": {tmp_path / name} ")
    LlamaConfig().save_pretrained(tmp_path / "my-base")
    (tmp_path / "job.yaml").write_text(block)
    job = launch.load_job(tmp_path / "job.yaml")
    assert job.engine.zero == 3 and job.engine.world_size == 8 and job.training.capacity == job.max_length == 65_536


def test_only_the_block_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "README.md"
    speed = f"{readme.SPEED_BEGIN}\nold\n{readme.SPEED_END}\n"
    gpu = f"{readme.GPU_BEGIN}\nold\n{readme.GPU_END}\n"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nbetween\n{speed}{gpu}after\n")
    readme.update(page, paths.results())
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold" not in text and "\nbetween\n" in text
    assert readme.block(paths.results()) in text and readme.speed_block(paths.results()) in text
    assert readme.gpu_block(paths.results()) in text


def test_a_readme_without_its_marks_is_refused_and_left_as_it_is(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="once each"):
        readme.update(page, paths.results())
    assert page.read_text() == "no marks"


def test_every_notebook_and_every_make_target_that_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    notebooks = {path.stem for path in paths.notebooks().glob("[0-9][0-9]_*.ipynb")}
    assert set(re.findall(r"`(\d\d_\w+)`", text)) == notebooks
    assert "`make reference`" in text and "\nmake reproduce" in text
    targets = set(re.findall(r"^([a-z-]+):", (paths.root() / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.M)) <= targets
