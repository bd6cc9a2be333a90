"""What people wrote about the results, in README.md, claims.yaml and captions, holds in the committed tables."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from longalign.common import paths
from longalign.evals.intervals import t_interval
from longalign.report.claim_schema import load_ledger
from longalign.report.claims import measure_all
from longalign.report.tables import CHAT, TEST

RESULTS = paths.results()
ALIGN, ALPACA, ALL_KINDS = "LongAlign-10k", "LongAlpaca-12k", "LongAlpaca, all kinds"
ROWS = {row["id"]: row for row in measure_all(load_ledger(), RESULTS)}


def by_seed(table, metric, tasks):
    rows = pd.read_csv(RESULTS / f"{table}.csv")
    rows = rows[(rows.metric == metric) & rows.task.isin(tasks)]
    return rows.groupby(["arm", "seed"]).value.mean().unstack("arm")


@pytest.mark.parametrize(
    ("metric", "tasks", "least", "most"),
    [
        ("score", CHAT, 0.75, 1.0), ("exact_match", ["multi-turn"], 0.35, 0.65),
        ("fact_match", ["summarization"], 0.85, 1.15),
    ],
    ids=["most of the difference in chat", "half of it in several turns", "all of it in summaries"],
)
def test_all_kinds_of_questions_close_the_distance_of_longalpacas_sources(metric, tasks, least, most):
    means = by_seed("data_source", metric, tasks).mean()
    assert least <= (means[ALL_KINDS] - means[ALPACA]) / (means[ALIGN] - means[ALPACA]) <= most


def test_longalpacas_counterpart_is_ahead_on_its_own_kinds_and_below_no_long_instructions_in_coding():
    domains = pd.read_csv(RESULTS / "data_source_domains.csv")
    ahead = domains.groupby(["domain", "seed", "arm"]).value.mean().unstack("arm")
    for domain, part in (ahead[ALPACA] - ahead[ALIGN]).groupby("domain"):
        low, high = t_interval(part.to_numpy())
        assert low > 0 if domain.endswith("its kinds") else high < 0
    chat = pd.read_csv(RESULTS / "chat.csv").query("metric == 'score' and model == 'mini-6b'")
    means = chat.groupby(["task", "arm"]).value.mean().unstack("arm")
    assert (means[ALIGN] > means["LongAlign-0k"]).all()
    assert means.loc["chat-coding", ALPACA] < means.loc["chat-coding", "LongAlign-0k"]


def test_needles_are_near_the_ceiling_and_the_longer_half_alone_would_decide_nothing():
    found = by_seed("needle", "exact_match", ["needle"]).mean()
    assert min(found[ALIGN], found[ALPACA]) > 0.9 and abs(found[ALIGN] - found[ALPACA]) < 0.03
    name, lengths = "figure-4-needle-10k-over-longalpaca", (512, 640, 768, 960)
    ledger = [replace(claim, lengths=lengths) if claim.id == name else claim for claim in load_ledger()]
    (row,) = (row for row in measure_all(ledger, RESULTS) if row["id"] == name)
    assert row["deciding_low"] < 0 < row["margin"] < row["deciding_high"]


def test_long_instructions_have_by_far_the_largest_effect_and_loss_weighting_a_small_one():
    weighting = ROWS["table-3-weighting-over-packing-6b"], ROWS["table-3-weighting-over-packing-7b"]
    assert [row["verdict"] for row in weighting] == ["no such effect", "reproduced"]
    assert weighting[1]["estimate"] >= weighting[1]["paper_effect"]
    both = ROWS["headline-weighting-10-percent"]
    assert 1 < both["deciding_low"] and both["deciding_high"] < 1.1
    assert ROWS["table-2-chat-10k-over-0k"]["estimate"] > 5 * max(row["estimate"] for row in weighting)
    assert ROWS["table-3-packing-chat-equals-naive-6b"]["margin"] > max(row["estimate"] for row in weighting)


def test_both_contradictions_of_a_table_or_figure_are_those_that_the_front_page_explains():
    told = {row["id"] for row in ROWS.values() if row["verdict"] == "contradicted" and row["source"] != "Headlines"}
    assert told == {"figure-6-long-flat-after-half", "table-2-longalpaca-summarization"}
    ends = pd.read_csv(RESULTS / "curves.csv").groupby("seed").step.max()
    assert 211 <= ends.mean() <= 221


def test_means_rise_with_the_size_of_the_model_on_the_score_and_fall_on_the_loss():
    rows = pd.read_csv(RESULTS / "model_scale.csv")
    for chosen, sign in ((rows[rows.metric == "score"], 1), (rows[rows.task == "test-loss"], -1)):
        means = chosen.groupby(["arm", "model"]).value.mean().unstack("model")
        assert (sign * means["mini-6b"] < sign * means["mini-7b"]).all()
        assert (sign * means["mini-7b"] < sign * means["mini-13b"]).all()


def test_with_lora_answers_begin_right_as_often_and_seldom_end():
    ends = json.loads((RESULTS / "16_lora.json").read_text())["results"]["endings"]
    assert ends["LoRA"]["right so far"] > ends["all weights"]["right so far"] - 0.05
    assert ends["LoRA"]["ends there"] < 0.15 and ends["all weights"]["ends there"] > 0.9


def test_one_of_ten_faults_intervals_excludes_zero_and_there_the_fault_helps():
    rows = pd.read_csv(RESULTS / "defects.csv")
    long = rows[(rows.metric == "exact_match") & rows.task.isin(TEST) & (rows.length >= 256)]
    seen = []
    for part in (long, rows[(rows.metric == "score") & rows.task.isin(CHAT)]):
        means = part.groupby(["arm", "seed"]).value.mean().unstack("arm")
        for fault in means.columns.drop(["sorted", "packing + loss weighting"]):
            right = "sorted" if fault.startswith("sorted") else "packing + loss weighting"
            seen.append(t_interval((means[fault] - means[right]).to_numpy()))
    assert len(seen) == 10 and [low > 0 for low, high in seen if low > 0 or high < 0] == [True]


def test_longer_answers_gain_by_the_exponent_relative_to_short_ones_and_neither_end_alone_is_shown():
    means = pd.read_csv(RESULTS / "exponents.csv").query("metric == 'fact_match' and task.str.startswith('answers of')")
    means = means.groupby(["task", "seed", "arm"]).value.mean().unstack("arm")
    gain = (means["a = 1"] - means["a = 0"]).unstack("task")
    short, longest = gain["answers of 1-8"], gain["answers of over 16"]
    assert t_interval((longest - short).to_numpy())[0] > 0
    for alone in (short, longest):
        low, high = t_interval(alone.to_numpy())
        assert low < 0 < high
