"""Claims: constructed tables give every verdict, and what is missing is said without stopping the other claims."""

import csv
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from gpu_rows import add, row
from longalign.evals import crossed
from longalign.evals.intervals import holm, t_interval
from longalign.report import claims
from longalign.report.claim_schema import GPU, Claim, Number, load_ledger
from longalign.report.claims import COLUMNS, OF_BOTH, OF_SEEDS, check, main, measure_all, of_notebook, write

ARMS = (Number("new", 1.0), Number("old", -1.0))


def claim(name="c", **changes):
    fields = {
        "id": name, "source": "Table 2", "statement": "New is better.", "notebook": "05_data_scale",
        "results": "scores", "model": "mini-6b", "metric": "accuracy", "arms": ARMS, "direction": "greater",
        "margin": 0.05,
    }  # fmt: skip
    return Claim(**(fields | changes))


def equal(name="c", **changes):
    return claim(name, direction="equal", **changes)


def not_less(name="c", **changes):
    return claim(name, direction="not_less", **changes)


def table(folder, new, old, *, name="scores", extra=(), task="reading"):
    """A tidy CSV of two arms, a value per seed, and its item file, where every score is that of two equal questions."""
    rows = [
        {"experiment": name, "arm": arm, "model": "mini-6b", "seed": seed, "task": task, "length": 0,
         "metric": "accuracy", "value": value}
        for arm, values in (("new", new), ("old", old)) for seed, value in enumerate(values)
    ]  # fmt: skip
    frame = pd.DataFrame([*rows, *extra])
    frame.to_csv(folder / f"{name}.csv", index=False)
    two_equal_questions(folder, frame, name)


def two_equal_questions(folder, frame, name="scores"):
    runs = frame.assign(run=frame.model + "|" + frame.arm + "|" + frame.seed.map(str))
    wide = runs.pivot_table(index=["task", "length", "metric"], columns="run", values="value", aggfunc="first")
    (folder / "items").mkdir(exist_ok=True)
    both = pd.concat([wide.reset_index().assign(item=item) for item in ("i0", "i1")])
    both.to_csv(folder / "items" / f"{name}.csv", index=False)


def items(folder, columns, *, name="scores", task="reading"):
    """An item file whose columns are runs of mini-6b: {"new|0": values}."""
    (folder / "items").mkdir(exist_ok=True)
    count = len(next(iter(columns.values())))
    keys = {"benchmark": "short", "task": task, "length": 0, "item": [f"i{n}" for n in range(count)],
            "metric": "accuracy"}  # fmt: skip
    frame = pd.DataFrame(keys | {f"mini-6b|{run}": values for run, values in columns.items()})
    frame.to_csv(folder / "items" / f"{name}.csv", index=False)


def one(folder, stated):
    (row,) = measure_all([stated], folder)
    return row


FAR = [0.80, 0.82, 0.81, 0.79, 0.83]
NEAR = [0.501, 0.499, 0.500, 0.502, 0.498]
LOOSE = [0.10, 0.95, 0.60, 0.30, 0.80]
BASE = [0.50, 0.50, 0.50, 0.50, 0.50]


@pytest.mark.parametrize(
    ("stated", "new", "old", "expected"),
    [
        (claim(), FAR, BASE, "reproduced"),
        (claim(), LOOSE, BASE, "inconclusive"),
        (claim(), BASE, LOOSE, "inconclusive"),
        (claim(), BASE, BASE, "inconclusive"),  # seeds that do not differ carry no interval
        (claim(), BASE, FAR, "contradicted"),
        (claim(), NEAR, BASE, "no such effect"),
        (claim(paper=(Number("new", 0.3), Number("old", 0.2)), margin=None), NEAR, BASE, "no such effect"),
        (claim(paper=(Number("new", 0.2005), Number("old", 0.2)), margin=None), NEAR, BASE, "inconclusive"),
        (claim(paper=(Number("new", 30), Number("old", 20)), unit="0-100", margin=None), NEAR, BASE, "no such effect"),
        (claim(direction="less"), BASE, FAR, "reproduced"),
        (claim(direction="less"), BASE, LOOSE, "inconclusive"),
        (claim(direction="less"), FAR, BASE, "contradicted"),
        (claim(direction="less"), NEAR, BASE, "no such effect"),
        (equal(), NEAR, BASE, "reproduced"),
        (equal(), [0.40, 0.62, 0.45, 0.58, 0.50], BASE, "inconclusive"),
        (equal(), [0.90, 0.35, 0.80, 0.40, 0.75], BASE, "inconclusive"),
        (equal(), FAR, BASE, "contradicted"),
        (equal(), BASE, FAR, "contradicted"),
        (not_less(), NEAR, BASE, "reproduced"),
        (not_less(), FAR, BASE, "reproduced"),  # a gain does no harm
        (not_less(), LOOSE, BASE, "inconclusive"),
        (not_less(), BASE, FAR, "contradicted"),
    ],
)
def test_constructed_scores_of_five_seeds_give_each_verdict(tmp_path, stated, new, old, expected):
    table(tmp_path, new, old)
    row = one(tmp_path, stated)
    assert row["verdict"] == expected
    assert row["seeds"] == 5


def test_estimate_and_interval_are_those_of_the_paired_differences(tmp_path):
    table(tmp_path, FAR, NEAR)
    row = one(tmp_path, claim())
    differences = np.array(FAR) - np.array(NEAR)
    assert row["estimate"] == pytest.approx(differences.mean())
    assert (row["low"], row["high"]) == pytest.approx(tuple(t_interval(differences)))
    assert (row["chance"], row["questions"], row["note"]) == (OF_BOTH, 2, "")


def test_seeds_are_paired_by_their_number_not_by_their_order(tmp_path):
    table(tmp_path, [0.9, 0.5, 0.7], [0.8, 0.3, 0.4])
    frame = pd.read_csv(tmp_path / "scores.csv")
    frame.iloc[[5, 0, 3, 1, 4, 2]].to_csv(tmp_path / "scores.csv", index=False)
    row = one(tmp_path, claim())
    assert (row["low"], row["high"]) == pytest.approx(tuple(t_interval(np.array([0.1, 0.2, 0.3]))))


def test_tasks_and_lengths_count_once_each(tmp_path):
    more = [{"experiment": "scores", "arm": arm, "model": "mini-6b", "seed": seed, "task": "chat", "length": length,
             "metric": "accuracy", "value": value}
            for arm, value in (("new", 1.0), ("old", 0.0)) for seed in range(3) for length in (64, 128)]  # fmt: skip
    table(tmp_path, [0.5, 0.6, 0.7], [0.5, 0.6, 0.7], extra=more)
    assert one(tmp_path, claim())["estimate"] == pytest.approx(2 / 3)
    assert one(tmp_path, claim(tasks=("chat",)))["estimate"] == 1
    assert one(tmp_path, claim(tasks=("reading", "chat"), lengths=(0, 64)))["estimate"] == pytest.approx(0.5)


def test_weights_may_be_halves_and_a_seed_that_one_arm_lacks_is_left_out(tmp_path):
    table(tmp_path, [0.9, 0.8, 0.9, 0.4], [0.5, 0.6, 0.4])
    third = pd.read_csv(tmp_path / "scores.csv").query("arm == 'old'").assign(arm="older", value=[0.3, 0.2, 0.2])
    frame = pd.concat([pd.read_csv(tmp_path / "scores.csv"), third])
    frame.to_csv(tmp_path / "scores.csv", index=False)
    two_equal_questions(tmp_path, frame)
    row = one(tmp_path, claim(arms=(Number("old", 1.0), Number("older", -0.5), Number("new", -0.5))))
    assert row["estimate"] == pytest.approx(np.mean([0.5 - 0.6, 0.6 - 0.5, 0.4 - 0.55]))
    assert row["seeds"] == 3


def test_an_arm_may_be_of_another_model(tmp_path):
    table(tmp_path, FAR, BASE)
    frame = pd.read_csv(tmp_path / "scores.csv")
    frame.loc[frame.arm == "new", "model"] = "mini-13b"
    frame.to_csv(tmp_path / "scores.csv", index=False)
    two_equal_questions(tmp_path, frame)
    assert one(tmp_path, claim(arms=(Number("mini-13b|new", 1.0), Number("old", -1.0))))["verdict"] == "reproduced"
    assert one(tmp_path, claim())["verdict"] == "not measured"


def test_a_ratio_is_tested_against_its_threshold_and_printed_as_a_ratio(tmp_path):
    table(tmp_path, [30.0, 31.0, 29.0, 30.0, 30.5], [10.0, 10.2, 9.8, 10.1, 9.9])
    fast, faster, too_fast = (
        one(tmp_path, claim(statistic="log_ratio", threshold=threshold)) for threshold in (2.0, 3.0, 4.0)
    )
    assert fast["estimate"] == pytest.approx(3.01, abs=0.01) and 2.9 < fast["low"] < fast["high"] < 3.1
    verdicts = (fast["verdict"], faster["verdict"], too_fast["verdict"])
    assert verdicts == ("reproduced", "inconclusive", "contradicted")


def test_holm_goes_over_all_tests_of_one_source_whatever_their_direction(tmp_path):
    new = [0.58, 0.56, 0.61, 0.49, 0.57]  # p of about 0.03 alone
    table(tmp_path, new, BASE)
    ledger = [claim("a"), equal("b"), claim("c", arms=(Number("absent", 1.0),)), claim("d", source="Table 3")]
    first, second, absent, other = measure_all(ledger, tmp_path)
    mean = crossed.mean((np.array(new) - 0.5)[:, None])
    tests = [mean.p_value(), 1.0, mean.p_within(0.05), mean.p_value(0.05)]
    p = holm([*tests, 1.0], most=3)[:4]  # the claim that is not measured counts as a test that shows nothing
    assert [first["p_holm"], first["p_against"], second["p_holm"], second["p_against"]] == pytest.approx(p)
    assert other["p_holm"] == pytest.approx(tests[0]) and other["verdict"] == "reproduced"
    assert first["verdict"] == "inconclusive" and first["deciding_low"] < 0 < first["low"]
    assert first["confidence"] == pytest.approx(1 - 0.05 / 3) and other["confidence"] == pytest.approx(0.95)
    assert absent["verdict"] == "not measured"


def test_a_claim_that_restates_another_is_tested_in_its_family(tmp_path):
    table(tmp_path, [0.58, 0.56, 0.61, 0.49, 0.57], BASE)
    alone, first, again = (row["p_holm"] for row in (
        one(tmp_path, claim("a")),
        *measure_all([claim("a"), claim("b", source="Headlines", restates="a")], tmp_path)))  # fmt: skip
    assert first == again == pytest.approx(2 * alone)


def test_the_interval_holds_the_chance_of_seeds_and_of_questions(tmp_path):
    rng = np.random.default_rng(0)
    scores = {f"{arm}|{seed}": (rng.random(100) < share).astype(float)
              for arm, share in (("new", 0.8), ("old", 0.5)) for seed in range(3)}  # fmt: skip
    table(tmp_path, *([scores[f"{arm}|{seed}"].mean() for seed in range(3)] for arm in ("new", "old")))
    items(tmp_path, scores)
    row = one(tmp_path, claim())
    values = np.array([scores[f"new|{seed}"] - scores[f"old|{seed}"] for seed in range(3)])
    assert (row["low"], row["high"]) == pytest.approx(tuple(crossed.mean(values).interval()))
    assert row["chance"] == OF_BOTH and row["questions"] == 100
    ratio = one(tmp_path, claim(statistic="log_ratio", margin=None, paper=(Number("new", 1.0), Number("old", 0.9))))
    assert ratio["low"] < ratio["estimate"] < ratio["high"] and ratio["questions"] == 100


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_numbers_without_a_verdict(tmp_path, seeds):
    table(tmp_path, FAR[:seeds], BASE[:seeds])
    table(tmp_path, FAR, BASE, name="sound")
    few, sound = measure_all([claim(), claim("other", results="sound")], tmp_path)
    assert few["verdict"] == "not measured" and few["estimate"] == pytest.approx(np.mean(FAR[:seeds]) - 0.5)
    assert few["note"].startswith(f"c: {seeds} seed") and "fewer than the 3" in few["note"]
    alone = one(tmp_path, claim(results="sound"))
    assert sound["p_holm"] == pytest.approx(2 * alone["p_holm"]), "the ledger fixes the family, not the run"


def test_a_gate_that_holds_a_claim_back_makes_no_other_of_its_table_easier(tmp_path):
    table(tmp_path, [0.58, 0.56, 0.61, 0.49, 0.57], BASE)
    table(tmp_path, [1.0] * 5, [1.0] * 5, name="easy")
    alone = one(tmp_path, claim("a"))
    held, first = measure_all([not_less("b", results="easy", needs=("headroom",)), claim("a")], tmp_path)
    assert held["verdict"] == "cannot be shown here" and first["p_holm"] == pytest.approx(2 * alone["p_holm"])
    assert (alone["verdict"], first["verdict"]) == ("reproduced", "inconclusive")
    assert 'alone it would be "reproduced", but the verdict counts all 2 claims of its table' in first["note"]


def test_a_claim_that_is_withdrawn_makes_no_other_of_its_table_easier(tmp_path):
    table(tmp_path, [0.58, 0.56, 0.61, 0.49, 0.57], BASE)
    told = {"id": "b", "source": claim().source, "statement": "s", "notebook": "05_data_scale", "scale": "needs more"}
    alone, beside, counted = (
        measure_all([claim("a"), *others], tmp_path)[0]["p_holm"]
        for others in ([], [Claim(**told)], [Claim(**told, withdrawn=True)])
    )
    assert beside == alone and counted == pytest.approx(2 * alone)


def test_one_question_in_a_task_gives_no_verdict(tmp_path):
    table(tmp_path, FAR, BASE)
    frame = pd.read_csv(tmp_path / "items" / "scores.csv")
    frame[:1].to_csv(tmp_path / "items" / "scores.csv", index=False)
    row = one(tmp_path, claim())
    assert row["verdict"] == "not measured" and "a task has one question at a length" in row["note"]


def test_seeds_that_share_bases_count_as_their_bases_where_sizes_are_compared(tmp_path):
    """Bases 0 and 1 of both sizes, which seeds 0 to 3 take in turn: their means are 0.2 and 0.4."""
    rows = [{"experiment": "scores", "arm": "a", "model": model, "seed": seed, "metric": "points", "value": value}
            for model, values in (("mini-13b", [1.1, 1.3, 1.3, 1.5]), ("mini-7b", [1.0] * 4))
            for seed, value in enumerate(values)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    (tmp_path / "items").mkdir()
    losses = {f"{model}|{base}": [loss] * 3 for model, loss in (("mini-13b", 0.5), ("mini-7b", 0.9)) for base in (0, 1)}
    pd.DataFrame({"targets": [1] * 3} | losses).to_csv(tmp_path / "items" / "base_loss.csv", index=False)
    arms = (Number("mini-13b|a", 1.0), Number("mini-7b|a", -1.0))
    row = one(tmp_path, claim(metric="points", arms=arms, needs=("sizes",)))
    assert (row["low"], row["high"]) == pytest.approx(tuple(t_interval(np.array([0.2, 0.4]))))
    assert row["verdict"] == "inconclusive" and "2 bases of each size, each of them one draw" in row["note"]


def test_scores_of_questions_have_no_verdict_without_the_questions(tmp_path):
    table(tmp_path, FAR, BASE)
    (tmp_path / "items" / "scores.csv").unlink()
    row = one(tmp_path, claim())
    assert row["verdict"] == "not measured" and "no items/scores.csv has its accuracy" in row["note"]
    assert row["low"] < row["estimate"] < row["high"] and row["chance"] == OF_SEEDS


def test_a_time_has_no_questions_and_needs_none(tmp_path):
    rows = [{"arm": arm, "model": "mini-6b", "seed": seed, "metric": "seconds", "value": value}
            for arm, values in (("new", FAR), ("old", NEAR)) for seed, value in enumerate(values)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    row = one(tmp_path, claim(metric="seconds"))
    assert row["verdict"] == "reproduced" and (row["chance"], row["questions"]) == (OF_SEEDS, 0)
    items(tmp_path, {f"{arm}|{seed}": [0.0, 1.0] for arm in ("new", "old") for seed in range(5)})  # of another metric
    assert one(tmp_path, claim(metric="seconds")) == row


def test_a_score_at_its_ceiling_shows_no_absence_of_an_effect(tmp_path):
    for lift, expected in ((0.0, "no such effect"), (0.49, "inconclusive")):
        table(tmp_path, [value + lift for value in NEAR], [value + lift for value in BASE])
        assert one(tmp_path, claim())["verdict"] == expected


def test_an_inconclusive_claim_says_which_effect_would_have_been_seen(tmp_path):
    table(tmp_path, LOOSE, BASE)
    row = one(tmp_path, claim())
    seen = crossed.mean((np.array(LOOSE) - 0.5)[:, None]).detectable(0.05)
    assert row["detectable"] == pytest.approx(seen) and f"an effect of {seen:.2g} would have been seen" in row["note"]


def test_without_a_difference_80_percent_of_runs_show_equality_within_the_margin_that_is_named(tmp_path):
    table(tmp_path, LOOSE, BASE)
    row, values = one(tmp_path, equal()), np.array(LOOSE) - 0.5
    runs = np.random.default_rng(0).normal(0, values.std(ddof=1), (20_000, 5, 1))
    assert (crossed.mean(runs).p_within(row["detectable"]) < 0.05).mean() == pytest.approx(0.8, abs=0.02)
    assert f"would exclude a difference of more than {row['detectable']:.2g} (the margin: 0.05)" in row["note"]


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
        for one in stated:
            middle, spread = rng.choice([0, 0.06, -0.06, 0.15, -0.15, 0.3]), rng.choice([0.004, 0.03, 0.06])
            mean = crossed.mean(rng.normal(middle, spread, (5, 1)))
            found.append(claims.Measured(one, mean, 5, 0, "", "", "", "", claims._tests(one, mean, headroom=True)))
        adjusted = claims._holm({one.claim.id: one for one in found}, stated)
        for one in found:
            row = claims._row(one, adjusted[one.claim.id])
            assert shown(one.claim, row["deciding_low"], row["deciding_high"]) == row["verdict"]
            seen.append((one.claim.direction, row["verdict"]))
    assert len(set(seen)) == 4 + 4 + 3 + 3, "every verdict of every direction was seen"
