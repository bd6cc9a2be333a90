"""Promotion: a run's tables, records and scrubbed notebooks become the reference; nothing of one machine goes along."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from longalign.record import write_csv, write_json
from longalign.reference import promote, scrub


def executed():
    """A notebook as papermill leaves it: an injected cell, timings and paths in the metadata."""
    cell = new_code_cell("print(3)", execution_count=1, outputs=[new_output("stream", name="stdout", text="3\n")])
    cell.metadata |= {"papermill": {"duration": 0.1}, "execution": {"iopub.execute_input": "now"}, "tags": ["kept"]}
    injected = new_code_cell("profile = 'smoke'")
    injected.metadata["tags"] = ["injected-parameters"]
    return new_notebook(cells=[injected, cell], metadata={"papermill": {"input_path": "/a/b"}, "title": "Small"})


def test_a_scrubbed_notebook_keeps_outputs_and_loses_paths_timings_and_papermills_cell():
    notebook = scrub(executed())
    assert [c.source for c in notebook.cells] == ["print(3)"]
    assert notebook.cells[0].outputs[0].text == "3\n"
    assert notebook.cells[0].metadata == {"tags": ["kept"]} and notebook.metadata == {"title": "Small"}


def test_promotion_copies_tables_records_and_notebooks_and_leaves_training_behind(tmp_path):
    run, results = tmp_path / "run", tmp_path / "results"
    write_csv(run / "03_fill.csv", [{"n": 2}])
    write_json(run / "03_fill.json", {"n": 2})
    write_json(run / "data" / "manifest.json", {})
    (run / "notebooks").mkdir()
    nbformat.write(executed(), run / "notebooks" / "03_small.ipynb")
    nbformat.write(executed(), run / "notebooks" / ".04_small.running.ipynb")
    written = promote(run, results)
    found = sorted(p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file())
    assert found == ["03_fill.csv", "03_fill.json", "notebooks/03_small.ipynb"]
    assert sorted(p.relative_to(results).as_posix() for p in written) == found
    assert "/a/b" not in (results / "notebooks" / "03_small.ipynb").read_text()


def test_a_run_without_notebooks_is_not_promoted(tmp_path):
    write_csv(tmp_path / "run" / "a.csv", [{"n": 2}])
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        promote(tmp_path / "run", tmp_path / "results")
    assert not (tmp_path / "results").exists()
