"""Claims: constructed tables give every verdict, and what is missing is said without stopping the other claims."""

import numpy as np
import pandas as pd
import pytest

from claim_tables import BASE, FAR, claim, equal, items, not_less, one, table, two_equal_questions
from longalign.evals import crossed
from longalign.evals.intervals import holm, t_interval
from longalign.report.claim_schema import Claim, Number
from longalign.report.claims import OF_BOTH, OF_SEEDS, measure_all

NEAR = [0.501, 0.499, 0.500, 0.502, 0.498]
LOOSE = [0.10, 0.95, 0.60, 0.30, 0.80]


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
