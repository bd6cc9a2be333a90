"""Promotion: a run's tables, records and scrubbed notebooks become the reference; nothing of one machine goes along."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from longalign.common import paths
from longalign.common.provenance import hash_files, write_csv, write_json
from longalign.reproduction import outcomes
from longalign.reproduction.reference import check_part, main, promote, scrub


def executed():
    """A notebook as papermill leaves it: an injected cell, timings and paths in the metadata."""
    printed = new_output("stream", name="stdout", text=f"3 {paths.root()}/results\n")
    cell = new_code_cell("print(3)", execution_count=2, outputs=[printed])
    cell.metadata |= {"papermill": {"duration": 0.1}, "execution": {"iopub.execute_input": "now"}, "tags": ["kept"]}
    injected = new_code_cell("profile = 'smoke'", execution_count=1)
    injected.metadata["tags"] = ["injected-parameters"]
    return new_notebook(cells=[injected, cell], metadata={"papermill": {"input_path": "/a/b"}, "title": "Small"})


def test_a_scrubbed_notebook_keeps_outputs_and_loses_paths_timings_and_papermills_cell():
    notebook = scrub(executed())
    assert [c.source for c in notebook.cells] == ["print(3)"]
    assert notebook.cells[0].outputs[0].text.startswith("3 ")
    assert notebook.cells[0].metadata == {"tags": ["kept"]} and notebook.metadata == {"title": "Small"}


def test_a_scrubbed_notebook_says_in_its_own_parameters_cell_what_it_was_run_with():
    own = new_code_cell('profile: str = "smoke"\nlengths: list[int] = [2, 4, 3]\nseed: int = 0', execution_count=1)
    own.metadata["tags"] = ["parameters"]
    notebook = executed()
    notebook.cells.insert(0, own)
    notebook.cells[1].source = "# Parameters\nprofile = 'laptop'\nlengths = [7]\n"
    cells = scrub(notebook).cells
    assert cells[0].source == 'profile: str = "laptop"\nlengths: list[int] = [7]\nseed: int = 0'


@pytest.fixture
def run(tmp_path):
    """A run with a table, a record, a training folder and one executed notebook; one more is still running."""
    folder = tmp_path / "run"
    write_csv(folder / "03_fill.csv", [{"n": 2}])
    write_json(folder / "03_fill.json", {"n": 2})
    write_json(folder / "data" / "manifest.json", {})
    (folder / "notebooks").mkdir()
    nbformat.write(executed(), folder / "notebooks" / "03_small.ipynb")
    nbformat.write(executed(), folder / "notebooks" / ".04_small.running.ipynb")
    return folder


def test_promotion_copies_tables_records_and_notebooks_and_leaves_training_behind(run, tmp_path):
    results = tmp_path / "results"
    written = promote(run, results, ["03_small.ipynb"])
    found = sorted(p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file())
    assert found == ["03_fill.csv", "03_fill.json", "notebooks/03_small.ipynb"]
    assert sorted(p.relative_to(results).as_posix() for p in written) == found
    text = (results / "notebooks" / "03_small.ipynb").read_text()
    assert "3 results" in text and "/a/b" not in text and str(paths.root()) not in text


def test_a_run_that_lacks_a_notebook_is_not_promoted(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="04_small"):
        promote(run, tmp_path / "results", ["03_small.ipynb", "04_small.ipynb"])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("what", ["an error", "a cell that was not reached"])
def test_a_notebook_that_did_not_finish_is_not_promoted(run, tmp_path, what):
    notebook = executed()
    cell = notebook.cells[-1]
    if what == "an error":
        cell.outputs = [new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]
    else:
        cell.execution_count = None
    nbformat.write(notebook, run / "notebooks" / "03_small.ipynb")
    with pytest.raises(ValueError, match="03_small.ipynb did not finish"):
        promote(run, tmp_path / "results", ["03_small.ipynb"])
    assert not (tmp_path / "results").exists()


def test_a_table_that_was_changed_after_its_notebook_wrote_it_is_not_promoted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    name = next(paths.notebooks().glob("05_*.ipynb")).stem
    table = write_csv(tmp_path / "smoke" / "data_scale.csv", [{"n": 2}])
    files = {"data_scale.csv": hash_files(table)}
    outcomes.write(outcomes.Outcome(name, "smoke", outcomes.EXECUTED, began=0.0, files=files))
    table.write_text("n\n3\n")
    assert main(["smoke"]) == 2
    assert f"data_scale.csv has changed since {name} wrote it" in capsys.readouterr().err


def record(folder, name, *, code="1a2b", seeds=(0, 1), epochs=2, **more):
    """A record of a notebook that trained something, in a folder."""
    found = {"code": code, "seeds": list(seeds), "config": {"name": "laptop", "workers": 2, "epochs": epochs}}
    git = {"commit": "475a5828471e", "dirty": False}
    write_json(folder / f"{name}.json", {**found, "results": {"runs": {"a": {}}}, "git": git, **more})


def test_a_part_of_the_same_code_settings_and_seeds_is_taken(tmp_path):
    record(tmp_path / "run", "05_data", seeds=(0, 1, 2))
    for name in ("05_data", "06_source"):
        record(tmp_path / "results", name)
    record(tmp_path / "results", "02_packing", code="", results={}, epochs=3)  # trains nothing
    check_part(tmp_path / "run", tmp_path / "results", ["05_data"])


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({"code": "3c4d"}, "05_data was computed by code 1a2b, and 06_source, which stays, by code 3c4d"),
        ({"code": ""}, "05_data was computed by code 1a2b, and 06_source, which stays, by commit 475a582"),
        ({"epochs": 3}, "05_data was computed with other settings than 06_source, which stays: epochs is 2, in the "
         "reference 3"),
    ],
    ids=["another code", "a record that knows its commit only", "other settings"],
)  # fmt: skip
def test_a_part_that_would_make_a_mixture_is_refused_and_both_are_named(kept, told, tmp_path):
    record(tmp_path / "run", "05_data")
    record(tmp_path / "results", "05_data", code="old")  # would be replaced
    record(tmp_path / "results", "06_source", **kept)
    with pytest.raises(ValueError, match=told):
        check_part(tmp_path / "run", tmp_path / "results", ["05_data"])
    record(tmp_path / "run", "06_source")
    check_part(tmp_path / "run", tmp_path / "results", ["05_data", "06_source"])  # nothing of the other stays
    with pytest.raises(ValueError, match="07_methods has not run to its end: `make notebook NB=07`"):
        check_part(tmp_path / "run", tmp_path / "results", ["07_methods"])


def test_a_part_with_fewer_seeds_than_it_replaces_is_refused(tmp_path):
    record(tmp_path / "run", "05_data", seeds=(0, 1))
    record(tmp_path / "results", "05_data", seeds=(0, 1, 2))
    with pytest.raises(ValueError, match="05_data: the run has the seeds 0, 1, and of the reference's 2 would be lost"):
        check_part(tmp_path / "run", tmp_path / "results", ["05_data"])


def test_of_a_part_only_its_own_files_are_copied(run, tmp_path):
    write_csv(run / "04_other.csv", [{"n": 4}])
    results = tmp_path / "results"
    promote(run, results, ["03_small.ipynb"], {"03_fill.csv", "notebooks/03_small.ipynb"})
    found = sorted(p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file())
    assert found == ["03_fill.csv", "notebooks/03_small.ipynb"]


def test_a_number_that_no_notebook_has_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    assert main(["smoke", "5"]) == 2
    assert "there is no notebook 5; there are: 00_overview" in capsys.readouterr().err
