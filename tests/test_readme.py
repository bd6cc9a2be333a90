"""The README says what is tested: its recipes are the tested ones, its results are the committed tables' own."""

import re
import shutil
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import yaml
from transformers import LlamaConfig

import longalign
from gpu_rows import CARD, exact, figure_5
from longalign.common import paths
from longalign.report import page_blocks, readme
from longalign.train import jobs

README = paths.root() / "README.md"
DOCS = paths.root() / "docs"
PAGES = [README, *(paths.root() / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(paths.root()).as_posix())
RECIPES = Path(__file__).with_name("recipes.py")


def code_lines(text):
    """Lines of code without what differs on purpose: formatter marks and the two settings the reader brings along."""
    text = re.sub(r"  # fmt: skip", "", text).replace('output_dir="run")', "**settings)")
    return [line.strip() for line in textwrap.dedent(text).splitlines() if line.strip()]


def test_the_step_from_messages_to_sequences_is_the_tested_one():
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S) if "encode(" in b]
    (tested,) = re.findall(r"# recipe: from messages.*?\n(.*?)# end of the recipe", RECIPES.read_text(), flags=re.S)
    assert set(code_lines(tested)) - {"from longalign import encode"} <= set(code_lines(block))


@pytest.mark.parametrize(
    ("page", "base_class"),
    [(README, "transformers.Trainer"), (DOCS / "use" / "trl.md", "trl.SFTTrainer")],
    ids=["transformers", "trl"],
)
def test_each_recipe_that_is_shown_is_the_tested_one(page, base_class):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    (shown,) = [block for block in blocks if f"({base_class}):" in block]
    tested = re.findall(r"# recipe:.*?\n(.*?)# end of the recipe", RECIPES.read_text(), flags=re.S)
    (body,) = [code_lines(text) for text in tested if f"({base_class}):" in text]
    lines = [line for line in code_lines(shown) if line != "trainer.train()"]
    first = {text: next(i for i, line in enumerate(of) if f"({base_class}):" in line)
             for text, of in (("shown", lines), ("tested", body))}  # fmt: skip
    assert lines[first["shown"] :] == body[first["tested"] :]
    imported = []
    for text in (" ".join(lines[: first["shown"]]), " ".join(body[: first["tested"]])):
        imported.append(set(re.findall(r"\w+", text.split("from longalign import (")[1].split(")")[0])))
    assert imported[1] <= imported[0]


@pytest.mark.parametrize("page", readme.PAGES)
def test_what_commands_write_into_a_page_is_what_the_committed_tables_say(page):
    shown = readme.blocks((paths.root() / page).read_text(encoding="utf-8"))
    assert shown == {name: content(paths.results()) for name, content in readme.PAGES[page].items()}


def test_the_seconds_that_planning_takes_are_what_the_committed_table_says():
    told = float(re.search(r"\(10k sequences\) .* takes less than ([\d.]+) seconds", README.read_text()).group(1))
    rows = pd.read_csv(paths.results() / "benchmarks.csv").query("target == 'planning' and metric == 'time'")
    ours = rows[rows.system.str.startswith("ours") & rows.case.str.startswith("10k")].highest
    assert len(ours) == 4 and ours.max() < told


@each_page
def test_headings_go_one_level_down_at_a_time(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.M)]
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False)), "the web site refuses"


def test_every_committed_figure_has_a_caption_and_every_caption_a_figure():
    captions = yaml.safe_load((DOCS / "results" / "figures.yaml").read_text(encoding="utf-8"))
    assert set(captions) == {path.stem for path in paths.figures().glob("*.png")} and len(captions) > 20
    notebooks = {path.stem for path in paths.notebooks().glob("*.ipynb")}
    for name, figure in captions.items():
        assert figure.keys() == {"title", "notebook", "caption"} and figure["notebook"] in notebooks, name
        assert figure["caption"].count(". ") >= 2 and figure["caption"].endswith("."), name


def test_the_citation_and_the_changelog_name_this_version_and_one_date():
    cited = yaml.safe_load((paths.root() / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (paths.root() / "CHANGELOG.md").read_text(encoding="utf-8")
    assert cited["version"] == longalign.__version__
    assert re.search(r"^## (.*)", changes, flags=re.M)[1] == f"{cited['version']} ({cited['date-released']})"


def test_the_front_page_has_at_most_170_lines_and_tables_of_at_most_a_dozen_rows():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 170
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    assert tables and all(len(table.splitlines()) <= 2 + 12 for table in tables)


@each_page
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_can_be_reached_from_the_front_page():
    seen, left = set(), [README]
    while left:
        page = left.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
            left += [(page.parent / link).resolve() for link in links]
    assert set(PAGES) - {DOCS / "index.md"} <= seen


def test_a_source_is_shown_by_its_first_measured_claim_and_by_the_count_of_all(tmp_path):
    rows = {"id": ["a", "b", "c", "d"], "source": ["Table 2"] * 3 + ["Headlines"],
            "statement": ["A.", "B.", "C.", "D."], "metric": "score", "direction": ["greater"] * 3 + ["equal"],
            "threshold": [None, 0.0, 1.1, 0.0], "margin": 0.5, "estimate": [None, 0.5, 1.2, 0.1],
            "low": [None, 0.25, 1.1, -0.1], "high": [None, 0.75, 1.3, 0.3], "deciding_low": [None, -0.1, None, None],
            "deciding_high": [None, 1.1, None, None], "detectable": [None, 0.6, 1.4, 0.7],
            "verdict": ["not measured", "inconclusive", "reproduced", "inconclusive"]}  # fmt: skip
    results = tmp_path / "results"
    results.mkdir()
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(results / "claims.csv", index=False)
    (tmp_path / "claims.yaml").write_text("claims: [{id: a}, {id: b}, {id: c}, {id: d, restates: a}]")
    shutil.copy(paths.results() / "05_data_scale.json", results)
    (results / "later_claims.csv").write_text(
        "id,arxiv,source,statement,verdict,metric,threshold,estimate,"
        "deciding_low,deciding_high,low,high,margin,p_against,direction\n"
        'a,2410.10,"A, Table 1",C helps.,reproduced,fact_match,0,0.05,0.01,0.09,0.01,0.09,0.1,0.001,greater\n'
        'b,2410.10,"A, Table 2",D helps.,not measured\nc,2411.11,B,E helps.,not measured\n'
        'd,2411.11,B,F helps.,not measured\n')
    told = page_blocks.findings(results)
    assert "Of 4 claims of 2 such papers: 1 reproduced, 3 not measured. [Claims of later papers]" in told
    assert "| A, Table 1 | C helps. | +0.05 of the facts (0.01 to 0.09) | reproduced, and less than 0.1 |" in told
    assert "in the same way as long" not in told, "nothing is contradicted"
    assert "| Table 2 | B. | +0.5 points of 10 (-0.1 to 1.1) | inconclusive (we would see 0.6) | 1 reproduced" in told
    assert "Of 3 claims of the paper: 1 reproduced, 1 inconclusive, 1 not measured. 1 more claims (headlines)" in told
    assert "+0.1 points of 10 (-0.1 to 0.3); equal: within 0.5 | inconclusive (we would exclude more than 0.7)" in told
    assert "0 of the 0 claims that have numbers get the same verdict as with all our seeds, and none" in told


def test_the_readme_says_that_nothing_has_run_on_a_gpu_and_how_to_run_it_while_nothing_is_committed(tmp_path):
    told = page_blocks.gpu(tmp_path)
    assert told.startswith("Nothing here has run on a GPU yet") and "`make gpu`" in told and "`results/gpu/`" in told


def test_the_readme_names_each_card_what_was_exact_and_the_ratios_of_figure_5(tmp_path):
    h100 = exact(tmp_path / "gpu" / "h100", [0.4, 1.1, 1.9])
    figure_5(h100, {"packing": 2.61, "sorted": 2.84})
    exact(tmp_path / "gpu" / "h200", [0.4, 2.3], card="NVIDIA H200")
    first, second, last = page_blocks.gpu(tmp_path).split("\n\n")
    assert first.startswith(f"On {CARD} (2026-11-28, torch 2.11.0+cu130): 3 of 3 distances")
    assert "the largest is 0.95 of it" in first and first.endswith("No rows failed.")
    assert "packing 2.6 (the paper: 2.9), sorted 2.8 (the paper: 2.9)" in first
    assert second.startswith("On NVIDIA H200") and "1 of 2 distances" in second and "Llama-2-7B" not in second
    assert "the largest is 1.15 of it" in second and second.endswith("1 row failed, with reasons in `22_gpu`.")
    assert "`make gpu`" in last and "several GPUs" in last


def test_the_job_that_is_shown_is_one_that_can_be_launched(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "scale" / "deepspeed.md").read_text(), flags=re.S)
    for name in ("my-base", "store"):
        (tmp_path / name).mkdir()
        block = block.replace(f": {name} ", f": {tmp_path / name} ")
    LlamaConfig().save_pretrained(tmp_path / "my-base")
    (tmp_path / "job.yaml").write_text(block)
    job = jobs.load_job(tmp_path / "job.yaml")
    assert job.engine.zero == 3 and job.engine.world_size == 8 and job.training.capacity == job.max_length == 65_536


MARKED = """before
<!-- a:begin (written by `x`) -->
old
<!-- a:end -->
between
<!-- b:begin (written) -->
<!-- b:end -->
after
"""


def test_only_the_blocks_between_the_marks_are_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(MARKED)
    for _ in range(2):
        readme.update(page, {"a": "one", "b": "| two |"})
        text = page.read_text()
        assert readme.blocks(text) == {"a": "one", "b": "| two |"}
        assert re.sub(r"<!--.*?-->", "", text, flags=re.S).split() == "before one between | two | after".split()


@pytest.mark.parametrize(
    "text", ["no marks", MARKED.replace("b:end", "b:and"), MARKED + MARKED, MARKED.replace("b:begin", "c:begin")]
)
def test_a_page_without_its_marks_is_refused_and_left_as_it_is(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="once each"):
        readme.update(page, {"a": "one", "b": "two"})
    assert page.read_text() == text


@pytest.mark.parametrize("page", [README, DOCS / "learn" / "notebooks.md"], ids=["front page", "page of notebooks"])
def test_every_notebook_is_named_with_its_source_and_its_executed_copy(page):
    text = page.read_text(encoding="utf-8")
    notebooks = {path.stem for path in paths.notebook_files()}
    assert set(re.findall(r"`(\d\d[a-z]?_\w+)`", text)) == notebooks
    for folder in ("notebooks", "results/notebooks"):
        assert {name for name in notebooks if re.search(rf"\((\.\./)*{folder}/{name}\.ipynb\)", text)} == notebooks


@each_page
def test_every_make_target_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (paths.root() / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.M)) <= targets
