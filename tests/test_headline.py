"""`make headline`: the first finding alone, by the trainings and scores that 05_data_scale would make anyway."""

from dataclasses import replace

import pytest

from longalign.common.provenance import write_csv
from longalign.experiments import design
from longalign.experiments.profiles import load_profile
from longalign.report import tables
from longalign.reproduction import headline
from maketool import make, with_this_python

SCORES = {"LongAlign-0k": 3.0, "LongAlign-5k": 5.0, "LongAlign-10k": 6.0}


def rows(*, short=0.5):
    """Chat scores of three seeds, one above, one below the mean; half of the long prompts are answered exactly."""
    for arm, mean in SCORES.items():
        for seed, more in enumerate((-0.1, 0.0, 0.1)):
            run = {"experiment": "data_scale", "arm": arm, "model": "mini-6b", "seed": seed}
            for task in tables.CHAT:
                yield {**run, "task": task, "length": 0, "metric": "score", "value": mean + more}
            for task in tables.TEST:
                for length in (64, 128, 256, 512, 1024):
                    value = short if length < 256 and arm == "LongAlign-10k" else 0.5
                    yield {**run, "task": task, "length": length, "metric": "exact_match", "value": value}


def test_the_paragraph_and_the_table_say_the_means_and_the_share_of_the_first_half():
    found = tables.scores_by_seed(rows(short=0.75))
    told = " ".join(headline._paragraph(load_profile("laptop"), found).split())
    assert "Without long instructions the mean is 3.00, with half of them 5.00, with all 6.00: +3.00 points" in told
    assert "The first half brings 67% of this" in told and "changes by +25.0 points of 100" in told
    assert "3.73, 5.97 and 6.21" in told and "was trained 3 times" in told
    table = headline._table(found)
    assert list(table.index) == ["none", "half", "all"] and table.iloc[2, 0] == "6.00 ± 0.25"


def test_without_a_gain_nothing_is_said_of_its_first_half():
    level = [row | {"value": 4.0} for row in rows() if row["metric"] == "score"]
    others = [row for row in rows() if row["metric"] != "score"]
    told = headline._paragraph(load_profile("laptop"), tables.scores_by_seed([*level, *others]))
    assert "+0.00 points" in told and "first half" not in told


def test_the_verdict_is_the_ledgers_for_the_profile_that_its_claims_are_about(tmp_path):
    write_csv(tmp_path / "data_scale.csv", rows())
    told = headline._verdicts(load_profile("laptop"), tmp_path).splitlines()
    (row,) = [row for row in headline.claims.measure_all(headline.load_ledger(), tmp_path)
              if row["id"] == headline.CLAIM]  # fmt: skip
    assert told[:2] == [f"VERDICT: {row['verdict']}", row["statement"]] and "+3.00 points" in told[2]
    assert any(line.startswith("also ") and "first half" in line for line in told)
    assert "none; the claims are about" in headline._verdicts(load_profile("smoke"), tmp_path)


def test_the_interval_that_decides_is_told_with_its_confidence_and_the_plain_one_where_nothing_is_decided():
    row = {"low": 0.1, "high": 0.9, "deciding_low": -0.2, "deciding_high": 1.2, "confidence": 0.9978}
    told = headline._interval(row)
    assert "decides: -0.20 to 1.20, with 99.8% confidence" in told and "alone, 95 % interval: 0.10 to 0.90" in told
    assert headline._interval(row | {"deciding_low": float("nan")}) == " (95 % interval: 0.10 to 0.90)"
    assert headline._interval(row | {"low": float("nan")}) == ""


def test_its_trainings_and_scores_are_those_of_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    profile = load_profile("smoke")
    profile = replace(profile, extension=replace(profile.extension, tokens=0))  # no training for the sake of its hash
    monkeypatch.setattr(headline.workers, "execute_all", lambda jobs, *, workers: None)
    ours, notebook = headline._trained(profile), design.data_scale(profile)
    assert [arm.arm for arm in ours] == list(headline.AMOUNTS)
    assert {arm: run.key for arm, run in ours.items()} == {arm: notebook[arm].key for arm in ours}
    assert set(headline.BENCHMARKS) <= set(design.IN_TABLES)


@pytest.mark.slow
def test_make_headline_trains_scores_draws_and_a_second_one_trains_nothing(tmp_path):
    first = make("headline", "PROFILE=smoke", *with_this_python(tmp_path))
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    folder = tmp_path / "run" / "smoke" / "headline"
    names = ["data_scale.csv", "data_scale.pdf", "data_scale.png", "items"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for told in ("long instructions", "VERDICT: none", "The paper trained a model", "go on      make reproduce"):
        assert told in first.stdout
    second = make("headline", "PROFILE=smoke", *with_this_python(tmp_path))
    assert "3 of 3 are finished already and reused" in second.stdout and " steps, " not in second.stdout


def test_a_profile_that_does_not_exist_is_refused_in_a_sentence(capsys):
    assert headline.main(["labtop"]) == 2
    assert "labtop" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "says"), [
    ("SEEDS=1", "SEEDS is for make reproduce; make headline trains the seeds of the profile laptop"),
    ("EXECUTOR=slurm", "EXECUTOR=slurm is for make reproduce; headline runs here"),
])  # fmt: skip
def test_what_the_headline_would_not_follow_is_refused(given, says, tmp_path):
    told = make("--dry-run", "headline", given, *with_this_python(tmp_path))
    assert told.returncode == 2 and says in told.stderr
