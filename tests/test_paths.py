"""Paths: the same from every working directory; where a run writes can be moved."""

import pytest

from longalign.common import paths


def test_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    before = paths.root(), paths.run_dir("smoke")
    monkeypatch.chdir(tmp_path)
    assert (paths.root(), paths.run_dir("smoke")) == before


def test_a_run_writes_where_longalign_runs_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    assert paths.run_notebooks("smoke") == tmp_path / "smoke" / "notebooks"
    assert paths.trained().parent == tmp_path
    assert paths.results() == paths.root() / "results"


def test_a_root_that_is_no_checkout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="LONGALIGN_ROOT"):
        paths.root()


def test_relative_says_paths_from_the_root_and_leaves_others_alone(tmp_path):
    assert paths.relative(paths.profiles() / "smoke.yaml") == "profiles/smoke.yaml"
    assert paths.relative(tmp_path / "x") == str(tmp_path / "x")
