"""A notebook's page: a run and a replay read the same tables; a replay trains nothing, writes nothing, says whose."""

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

from longalign.common import paths
from longalign.experiments import design, evaluations, pages
from longalign.experiments.design import Arm
from longalign.experiments.evaluations import Scored, write_items
from longalign.experiments.pages import Page, origin, read_items
from longalign.experiments.profiles import load_profile
from longalign.train import workers

ARMS = {Arm(name, "mini-6b", seed): SimpleNamespace(start="base") for name in ("packing", "naive") for seed in (0, 1)}
"""In an order that is not that of the alphabet, as tables are sorted."""
NAME = "05_small"


class Scores:
    """Stands for a finished evaluation: the scores of three items."""

    def __init__(self, seed):
        self.seed = seed

    def rows(self):
        of = {"benchmark": "test", "task": "note", "length": 64}
        values = (2.0, 4.0, 3.0 + self.seed)
        return [{**of, "item": f"note-{n}", "metric": "exact_match", "value": v} for n, v in enumerate(values)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The page of a run in a folder of its own, whose trainings and evaluations are given; `done` counts the jobs."""
    done = []
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "run"))
    monkeypatch.setattr(paths, "results", lambda: tmp_path / "results")
    monkeypatch.setattr(workers, "execute_all", lambda jobs, **_: done.extend(jobs))
    monkeypatch.setattr(pages, "trainings", lambda arms: {" ".join(map(str, a)): {"steps": a.seed} for a in arms})
    scored = {Scored(*arm, "test"): Scores(arm.seed) for arm in ARMS}
    monkeypatch.setattr(design, "evaluations", lambda *_, **__: scored)
    page = Page(NAME, "smoke")
    page.done = done
    return page


def promoted(run):
    """The run's tables and record in the place of the committed ones, and the page that replays them."""
    shutil.copytree(run.folder, paths.results())
    return Page(NAME, "laptop", seeds=9, replay=True)


def shown(page):
    """All that a notebook takes from its page."""
    return {
        "trained": page.train(ARMS, first=[SimpleNamespace(model="base"), SimpleNamespace(model="a base of no arm")]),
        "scores": page.scores("small", ARMS),
        "items": page.items("small", ARMS),
        "losses": page.table("losses", lambda: [{"step": 2, "loss": 4.0}, {"step": 1, "loss": 3.0}]),
        "answer": pd.DataFrame([page.text("an answer", lambda: "Marlow leads.")]),
    }


def test_a_replay_shows_what_the_run_showed_and_does_no_job(run):
    first = shown(run)
    run.record(results={"n": 3})
    assert len(run.done) == 1 + 2 * len(ARMS), "the base that arms start from, the arms, their evaluations"
    again = shown(promoted(run))
    assert len(run.done) == 1 + 2 * len(ARMS)
    for name, table in first.items():
        pd.testing.assert_frame_equal(again[name], table)


def test_rows_stand_in_the_order_of_the_arms_and_not_of_the_file(run):
    scores = shown(run)["scores"]
    assert list(zip(scores.arm, scores.seed, scores.value, strict=True)) == [
        ("packing", 0, 3.0), ("packing", 1, pytest.approx(10 / 3, abs=1e-5)),
        ("naive", 0, 3.0), ("naive", 1, pytest.approx(10 / 3, abs=1e-5)),
    ]  # fmt: skip


def test_a_replay_writes_nothing(run):
    shown(run)
    run.record(results={})
    page = promoted(run)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths.results().rglob("*") if p.is_file()}
    shutil.rmtree(run.folder)
    shown(page)
    page.record(results={"n": 4})
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths.results().rglob("*") if p.is_file()}
    assert after == before and not run.folder.exists()
    assert page.figures is None


def test_a_replay_has_the_settings_of_the_record_and_says_whose_numbers_it_shows(run):
    shown(run)
    written = json.loads(run.record(results={}).read_text())
    page = promoted(run)
    assert page.settings == load_profile("smoke"), "the record's, not those it was asked for"
    assert page.seeds == 1
    told = page.banner().data
    commit = written["git"]["commit"]
    assert (commit or "no commit")[:7] in told and "profile smoke" in told and "seeds 0 to 1" in told
    assert written["hardware"]["processor"] in told and "make notebook NB=05" in told


def test_a_run_says_whose_numbers_it_shows_and_that_those_of_smoke_mean_nothing(run):
    assert "smoke: numbers mean nothing" in run.banner().data and "profile smoke" in run.banner().data
    told = Page(NAME, "laptop").banner().data
    assert "mean nothing" not in told and "Computed here" in told and "profile laptop" in told


def test_a_replay_becomes_a_run_of_the_profile_only_where_it_is_asked_for(run, monkeypatch):
    monkeypatch.setattr(pages, "display", lambda shown: None)
    run.record(results={})
    page = promoted(run)
    assert page.computing(False) is page
    computing = page.computing(True)
    assert (computing.replay, computing.settings.name, computing.seeds) == (False, "laptop", 9)
    assert computing.computing(True) is computing, "papermill has asked for a run already"


def test_a_text_that_the_record_did_not_keep_is_told_with_its_command(run):
    run.record(results={})
    told = promoted(run).text("an answer", lambda: pytest.fail("nothing is computed"))
    assert told == "not kept with the committed tables: make notebook NB=05 computes it"


def test_a_replay_without_a_record_is_refused_in_a_sentence(run):
    with pytest.raises(FileNotFoundError, match="05_small.json to replay: make notebook NB=05 computes it"):
        Page(NAME, "laptop", replay=True)


@pytest.mark.parametrize(
    ("seeds", "told"), [([], "no seed"), ([3], "seed 3"), ([0, 2], "seed 0, 2"), ([2, 3, 4], "seeds 2 to 4")]
)
def test_the_seeds_of_a_record_are_told(seeds, told):
    machine = {"processor": "x", "cores": 2, "memory_gib": 4}
    git = {"commit": None, "dirty": None}
    record = {"git": git, "hardware": machine, "seeds": seeds, "config": {"name": "laptop"}, "date": "2026-11-25T1"}
    assert f", {told}, computed on 2026-11-25 by x" in origin(record)


def test_items_are_read_as_they_were_written(tmp_path):
    scored = {Scored("a, b", "mini-6b", seed, "test"): Scores(seed) for seed in (0, 1)}
    items = read_items(write_items(tmp_path / "items.csv", scored))
    rows = [{"arm": "a, b", "model": "mini-6b", "seed": s, **row} for s in (0, 1) for row in Scores(s).rows()]
    pd.testing.assert_frame_equal(items[list(rows[0])], pd.DataFrame(rows), check_dtype=False)
    assert evaluations.COLUMNS == tuple(rows[0])[3:]
