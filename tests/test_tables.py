"""The paper's tables: cells against sums by hand, one seed without an interval, numbers that agree with the claims."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats as distributions

from longalign.common import paths
from longalign.evals.rubric import BEST, CHANCE
from longalign.report import tables

LENGTHS = (64, 128, 256, 512)


def tidy(values, *, task="lookup", metric="exact_match", length=256, arm="sorted", model="mini-6b"):
    """One row a seed."""
    row = {"arm": arm, "model": model, "task": task, "metric": metric, "length": length}
    return [{**row, "seed": seed, "value": value} for seed, value in enumerate(values)]


def cell(rows, column, **options):
    (value,) = tables.paper_table(rows, **options)[column]
    return value


def test_the_chat_score_is_the_mean_of_the_five_tasks_on_its_own_scale():
    rows = [row for number, task in enumerate(tables.CHAT) for row in tidy([number], task=task, metric="score")]
    assert cell(rows, "LBC", numbers=True) == 2.0


def test_long_and_short_lengths_are_told_apart_and_each_cell_counts_once():
    rows = [
        row
        for (number, length), task in product(enumerate(LENGTHS), ("lookup", "note"))
        for row in tidy([number / 10], task=task, length=length)
    ]
    assert cell(rows, "test short", numbers=True) == pytest.approx(5.0)
    assert cell(rows, "test long", numbers=True) == pytest.approx(25.0)


def test_another_metric_of_the_same_task_is_left_out():
    rows = tidy([0.25]) + tidy([0.75], metric="fact_match")
    assert cell(rows, "test long") == "25.0"


def test_a_cell_holds_the_t_interval_over_seeds():
    values = [0.2, 0.4, 0.3, 0.5]
    half = distributions.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert cell(tidy(values), "test long") == f"35.0 ± {100 * half:.1f}"


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5]], ids=["one seed", "seeds that do not differ"])
def test_there_is_no_interval_for(values):
    assert cell(tidy(values), "test long") == "50.0"
    (found,) = tables.intervals(pd.DataFrame(tidy(values)), ["arm"]).half
    assert np.isnan(found)


def test_columns_that_were_not_measured_are_left_out():
    assert list(tables.paper_table(tidy([0.5])).columns) == ["test long"]


def test_arms_keep_the_order_of_the_rows():
    rows = tidy([0.5], arm="sorted") + tidy([0.5], arm="naive") + tidy([0.5], arm="naive", model="mini-7b")
    assert list(tables.paper_table(rows).index) == [("mini-6b", "sorted"), ("mini-6b", "naive"), ("mini-7b", "naive")]


def test_chance_and_best_stand_below_on_the_scale_of_the_column():
    rows = tidy([5], task="chat-coding", metric="score", length=0) + tidy([1.0], task="reasoning", metric="accuracy")
    table = tables.paper_table(rows, numbers=True, limits={"chance": CHANCE, "best": BEST})
    assert table.loc[("", "chance")].tolist() == [1.0, 25.0]
    assert table.loc[("", "best")].tolist() == [10.0, 100.0]


def test_every_column_has_a_metric_with_a_chance_level():
    assert {column.metric for column in tables.COLUMNS.values()} <= set(CHANCE)


def test_the_groups_of_tasks_are_those_of_the_claims():
    ledger = yaml.safe_load((paths.root() / "claims.yaml").read_text(encoding="utf-8"))
    assert set(tables.CHAT) == set(ledger["tasks"]["chat"])
    assert set(tables.TEST) == set(ledger["tasks"]["test"])
    for name in tables.COLUMNS:
        low, high = tables.COLUMNS[name].low, tables.COLUMNS[name].high
        for group, lengths in ledger["lengths"].items():
            if name == f"test {group}":
                assert all(low <= length <= high for length in lengths)


def test_the_printed_numbers_are_those_of_the_claims():
    ledger = yaml.safe_load((paths.root() / "claims.yaml").read_text(encoding="utf-8"))
    columns = {unit: unit.split(",")[0] for unit in ("ARC, 0-100", "HellaSwag, 0-100", "TruthfulQA, 0-100")}
    columns |= {"LongBench-Chat, 1-10": "LBC", "MMLU, 0-100": "MMLU", "LongBench S-Doc QA, 0-100": "S-Doc"}
    columns |= {"LongBench M-Doc QA, 0-100": "M-Doc", "MT-Bench, 1-10": "MT-Bench"}
    compared = 0
    for claim in ledger["claims"]:
        if claim["source"] != "Table 2" or claim.get("unit") not in columns:
            continue
        for arm, value in claim["paper"].items():
            assert tables.printed("Table 2").loc[("ChatGLM3-6B", arm), columns[claim["unit"]]] == value, claim["id"]
            compared += 1
    assert compared > 20


def test_an_unknown_table_of_the_paper_is_an_error():
    with pytest.raises(KeyError):
        tables.printed("Table 9")


def test_a_mean_that_rounds_to_zero_has_no_sign():
    assert tables.mean_and_interval([-1e-9]) == "0.00"
    assert tables.mean_and_interval([-0.006]) == "-0.01"
