"""Claims whose numbers are missing or cannot be used, and ledgers: what is told, and what is written."""

import csv
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from claim_tables import BASE, FAR, claim, equal, items, not_less, one, table, two_equal_questions
from gpu_rows import add, row
from longalign.evals import crossed
from longalign.report import claims
from longalign.report.claim_schema import GPU, Claim, Number, load_ledger
from longalign.report.claims import COLUMNS, check, main, measure_all, of_notebook, write


def test_items_of_other_means_than_the_table_give_no_verdict(tmp_path):
    table(tmp_path, FAR, BASE)
    items(tmp_path, {f"{arm}|{seed}": [0.0, 1.0] for arm in ("new", "old") for seed in range(5)})
    row = one(tmp_path, claim())
    assert "items/scores.csv has other means than scores.csv" in row["note"] and row["verdict"] == "not measured"


def test_a_question_that_is_there_twice_gives_no_verdict(tmp_path):
    """Twice as many questions would make the interval narrower, of the same means."""
    table(tmp_path, [0.5] * 3, [0.5] * 3)
    items(tmp_path, {f"{arm}|{seed}": [0.0, 1.0] for arm in ("new", "old") for seed in range(3)})
    assert one(tmp_path, claim())["questions"] == 2
    path = tmp_path / "items" / "scores.csv"
    pd.concat([pd.read_csv(path)] * 2).to_csv(path, index=False)
    row = one(tmp_path, claim())
    assert "items/scores.csv gives the question" in row["note"] and row["verdict"] == "not measured"


@pytest.mark.parametrize("scores", [[0.0, "", 1.0], [0.0, "none", 1.0]], ids=["empty", "a word"])
def test_items_that_are_not_numbers_give_no_verdict(tmp_path, scores):
    table(tmp_path, [0.5] * 3, [0.5] * 3)
    items(tmp_path, {f"{arm}|{seed}": scores for arm in ("new", "old") for seed in range(3)})
    assert "the chance of the questions is not known" in one(tmp_path, claim())["note"]


@pytest.mark.parametrize(
    ("stated", "parts"),
    [
        (claim(results="nowhere"), ["there is no nowhere.csv"]),
        (claim(arms=(Number("nwe", 1.0), Number("old", -1.0))), ["no arm 'nwe' of mini-6b", "'new'"]),
        (claim(model="mini-7b"), ["no arm 'new' of mini-7b"]),
        (claim(metric="accuracies"), ["no metric accuracies", "'accuracy'"]),
        (claim(tasks=("reeding",)), ["no task reeding", "'reading'"]),
        (claim(lengths=(512,)), ["no length 512", "valid: 0"]),
    ],
)
def test_what_is_missing_is_one_sentence_with_claim_file_and_name(tmp_path, stated, parts):
    table(tmp_path, FAR, BASE)
    missing, measured = measure_all([stated, claim("other")], tmp_path)
    assert missing["verdict"] == "not measured" and missing["estimate"] is None and missing["seeds"] == 0
    assert missing["note"].startswith("c: ") and stated.results in missing["note"] and "\n" not in missing["note"]
    assert all(part in missing["note"] for part in parts)
    assert check([missing, measured]) == [missing["note"]]
    assert measured["verdict"] == "reproduced"


def broken_twice(path):
    frame = pd.read_csv(path)
    pd.concat([frame, frame.head(1)]).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("break_it", "part"),
    [
        (lambda path: path.write_text(""), "cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda path: path.write_text("arm,model\nnew,mini-6b\n"), "has no column seed"),
        (lambda path: path.write_text("arm,model,seed,metric,value\n"), "has no metric accuracy"),
        (lambda path: path.write_text(path.read_text().replace("0.8", "none")), "not a number"),
        (broken_twice, "the same cell and seed twice"),
    ],
)
def test_a_table_that_cannot_be_used_stops_no_other_claim(tmp_path, break_it, part):
    table(tmp_path, FAR, BASE)
    table(tmp_path, FAR, BASE, name="sound")
    break_it(tmp_path / "scores.csv")
    broken, sound = measure_all([claim(), claim("other", results="sound")], tmp_path)
    assert broken["verdict"] == "not measured" and part in broken["note"]
    assert sound["verdict"] == "reproduced"


def test_arms_without_a_common_seed_are_not_measured(tmp_path):
    table(tmp_path, FAR, BASE)
    frame = pd.read_csv(tmp_path / "scores.csv")
    frame.loc[frame.arm == "new", "seed"] += 100
    frame.to_csv(tmp_path / "scores.csv", index=False)
    assert "no seed with all arms" in one(tmp_path, claim())["note"]


def test_a_claim_beyond_this_scale_gives_its_reason(tmp_path):
    row = one(tmp_path, Claim("far", "Table 1", "GPT-4 agrees.", "12_longbench_chat", scale="needs GPT-4"))
    assert row["verdict"] == "cannot be shown here" and row["note"] == "needs GPT-4"
    assert not check([row])


def test_the_written_table_has_the_agreed_columns_and_the_same_bytes_again(tmp_path):
    table(tmp_path, FAR, BASE)
    paper = (Number("new", 6.21), Number("old", 3.73))
    write(tmp_path, [claim("b", paper=paper, unit="1-10"), claim("a", results="nowhere")])
    text = (tmp_path / "claims.csv").read_bytes()
    write(tmp_path, [claim("a", results="nowhere"), claim("b", paper=paper, unit="1-10")])
    assert (tmp_path / "claims.csv").read_bytes() == text
    first, second = csv.DictReader(text.decode().splitlines())
    assert tuple(first) == COLUMNS and first["id"] == "a" and first["estimate"] == ""
    assert second["paper"] == "new 6.21, old 3.73 (1-10)" and second["estimate"] == "0.31"


def test_the_committed_ledger_is_measured_from_an_empty_run_without_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    (tmp_path / "smoke").mkdir()
    assert main(["smoke"]) == 0
    written = pd.read_csv(tmp_path / "smoke" / "claims.csv")
    of_a_gpu = written.id.isin([claim.id for claim in load_ledger() if claim.scale == GPU])
    assert set(written.verdict[~of_a_gpu]) == {"not measured", "cannot be shown here"}
    assert len(written) == len(load_ledger())
    assert re.search(r"there is no data_scale\.csv: \d+ claims not measured", capsys.readouterr().out)


@pytest.mark.parametrize(("profile", "told"), [("smok", "unknown profile 'smok'"), ("smoke", "there is no run in")])
def test_a_profile_that_is_unknown_or_has_no_run_is_refused_in_one_line(tmp_path, monkeypatch, capsys, profile, told):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    assert main([profile]) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not list(tmp_path.iterdir())


@pytest.fixture
def whole_run(tmp_path):
    """Made-up scores of three seeds for every arm, task and length that the committed ledger names, a GPU's apart."""
    rng, rows = np.random.default_rng(0), {}
    for stated in load_ledger():
        if stated.scale == GPU:
            for arm, seed in itertools.product(stated.arms, range(3)):
                case, system = stated.run(arm)
                made = row(stated.results, f"{case}, seed {seed}", system, stated.metric, rng.random())
                add(tmp_path / "gpu" / "h100", stated.results, [made])
            continue
        for arm in stated.arms:
            model, name = stated.run(arm)
            for seed in range(3):
                for task in stated.tasks or ("needle",):
                    for length in stated.lengths or (0,):
                        key = (stated.results, name, model, seed, task, length, stated.metric)
                        rows.setdefault(key, 0.5 + rng.random())
    keys = ("experiment", "arm", "model", "seed", "task", "length", "metric")
    frame = pd.DataFrame([dict(zip(keys, key, strict=True)) | {"value": value} for key, value in rows.items()])
    for name, part in frame.groupby("experiment"):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
        two_equal_questions(tmp_path, part, name)
    return tmp_path


def test_the_whole_committed_ledger_is_measured_where_every_number_is_there(whole_run):
    measured = write(whole_run, cards=whole_run / "gpu")
    assert check(measured) == [], "no claim may name what cannot exist"
    assert all(row["seeds"] == 3 for row in measured if row["estimate"] is not None)


def test_a_notebook_shows_the_estimates_of_the_report_and_no_verdict(whole_run):
    reported = pd.DataFrame(write(whole_run)).set_index("id")
    reported = reported[(reported.notebook == "07_training_methods") & (reported.seeds > 0)]
    shown = of_notebook("07_training_methods", whole_run)
    assert list(shown.index) == list(reported.index) and "verdict" not in shown
    for column in ("estimate", "low", "high"):
        assert shown[column].tolist() == pytest.approx(reported[column].tolist(), abs=5e-4)


def shown(stated, low, high):
    """The verdict that one sees in an interval on the scale of the test, from the sentences of the decision table."""
    null, margin, sign = stated.null, stated.margin, stated.sign
    if stated.direction == "equal":
        outside = low > null + margin or high < null - margin
        inside = null - margin < low and high < null + margin
        return "reproduced" if inside else "contradicted" if outside else "inconclusive"
    limit = null - margin if stated.direction == "not_less" else null
    if not low < limit < high:
        return "reproduced" if (low > limit) == (sign > 0) else "contradicted"
    excluded = stated.direction != "not_less" and (high < stated.excluded if sign > 0 else low > stated.excluded)
    return "no such effect" if excluded else "inconclusive"


def test_the_deciding_interval_alone_shows_the_verdict_whatever_the_family_is():
    rng, seen = np.random.default_rng(0), []
    for family in range(60):
        stated = [make(f"{family}-{number}") for number, make in enumerate(
            (claim, equal, not_less, lambda name: claim(name, direction="less"), claim))]  # fmt: skip
        found = []
        for each in stated:
            middle, spread = rng.choice([0, 0.06, -0.06, 0.15, -0.15, 0.3]), rng.choice([0.004, 0.03, 0.06])
            mean = crossed.mean(rng.normal(middle, spread, (5, 1)))
            found.append(claims.Measured(each, mean, 5, 0, "", "", "", "", claims._tests(each, mean, headroom=True)))
        adjusted = claims._holm({each.claim.id: each for each in found}, stated)
        for each in found:
            row = claims._row(each, adjusted[each.claim.id])
            assert shown(each.claim, row["deciding_low"], row["deciding_high"]) == row["verdict"]
            seen.append((each.claim.direction, row["verdict"]))
    assert len(set(seen)) == 4 + 4 + 3 + 3, "every verdict of every direction was seen"
