"""The pilots' rules on constructed tables, and the held-out loss that they judge by."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from benchmarks import pilots
from benchmarks.pilots import choice, data, learning, power, questions, referee
from scipy import stats

from longalign.common import paths
from longalign.evals import crossed
from longalign.evals.power import Chance
from longalign.experiments import base_loss, design, later
from longalign.experiments.profiles import load_profile
from longalign.miniature import tokenizer
from longalign.report.later import load_later
from longalign.train.memory import ModelShape
from longalign.train.models import new_model

FIRST, SECOND, THIRD = choice.SHAPES


def speed(*ratios):
    return [{"candidate": name, "ratio": str(ratio)} for name, ratio in zip(choice.SHAPES, ratios, strict=True)]


def losses(*means):
    return [{"candidate": name, "seed": str(seed), "loss": str(mean + sign * 0.01)}
            for name, mean in zip(choice.SHAPES, means, strict=True)
            for seed, sign in zip(pilots.SEEDS, (1, -1), strict=True)]  # fmt: skip


def rates(**by_model):
    return [{"model": model.replace("_", "-"), "rate": str(rate), "seed": str(seed), "loss": str(loss)}
            for model, found in by_model.items() for rate, loss in found.items() for seed in pilots.SEEDS]  # fmt: skip


@pytest.mark.parametrize(("means", "chosen"), [
    ((0.80, 0.82, 0.825), THIRD),
    ((0.80, 0.82, 0.84), SECOND),
    ((0.80, 0.84, 0.84), FIRST),
    ((0.86, 0.84, 0.80), THIRD),
], ids=["all as good", "the cheapest is worse", "both cheaper ones are worse", "the cheapest is the best"])  # fmt: skip
def test_the_cheapest_of_the_shapes_that_learn_as_well_is_chosen(means, chosen):
    assert choice.shape_name(speed(1.0, 0.9, 0.7), losses(*means)) == chosen


def test_no_shape_is_chosen_before_all_are_measured():
    with pytest.raises(ValueError, match="must be finished first"):
        choice.shape_name([], losses(0.8, 0.8, 0.8))
    with pytest.raises(ValueError, match="must be finished first"):
        choice.shape_name(speed(1, 1, 1), losses(0.8, 0.8, 0.8)[:-1])


def test_rates_are_tried_until_the_best_lies_inside_or_none_is_left():
    found = {}
    for rate, loss in ((1.5e-3, 0.9), (3e-3, 0.8), (6e-3, 0.7), (1.2e-2, 0.75)):
        assert choice.next_rate(rates(mini_7b=found), "mini-7b") == rate
        found[rate] = loss
    assert choice.next_rate(rates(mini_7b=found), "mini-7b") is None
    assert choice.rate(rates(mini_7b=found), "mini-7b") == 6e-3
    highest = rates(mini_7b=found | {1.2e-2: 0.6})
    assert choice.rate(highest, "mini-7b") == 1.2e-2, "none is left beyond"
    with pytest.raises(ValueError, match="mini-13b lacks 0.0015"):
        choice.rate(highest, "mini-13b")


def test_a_rate_that_one_seed_lacks_is_not_judged():
    found = rates(mini_7b={1.5e-3: 0.9, 3e-3: 0.8, 6e-3: 0.9})
    assert choice.next_rate(found, "mini-7b") is None and choice.next_rate(found[:-1], "mini-7b") == 6e-3


@pytest.mark.parametrize("name", choice.SHAPES)
def test_a_candidate_has_the_weights_and_its_bases_the_tokens_that_the_rules_say(name):
    vocabulary = len(tokenizer.load())
    for model, shape in choice.SHAPES[name].items():
        count = new_model(model, vocab_size=vocabulary, max_length=8, seed=0, shape=vars(shape)).num_parameters()
        assert count == choice.weights(shape, vocabulary) and 450_000 < count < 1_300_000
        stages = choice.recipe(model, name, 3e-3, vocabulary).stages
        assert sum(stage.tokens for stage in stages) == pytest.approx(14 * count, rel=1e-4)


@pytest.mark.parametrize(("recall", "kept"), [("0.7578", FIRST), ("0.9499", FIRST), ("0.95", SECOND)])
def test_a_size_whose_first_base_has_not_learnt_to_recall_keeps_todays_attention_and_others_do_not(recall, kept):
    found = [{"candidate": SECOND, "model": "mini-6b", "seed": "0", "recall": recall}]
    assert choice.attention("mini-6b", SECOND, found) == kept
    assert choice.attention("mini-7b", SECOND, found) == choice.attention("mini-6b", SECOND, []) == SECOND


def test_another_seed_takes_the_place_of_a_base_that_has_not_learnt_to_recall():
    found = [{"candidate": SECOND, "model": "mini-7b", "seed": str(seed), "recall": recall}
             for seed, recall in enumerate(("0.998", "0.74", "0.999", "0.6"))]  # fmt: skip
    assert choice.attention("mini-7b", SECOND, found) == SECOND
    assert choice.seeds("mini-7b", SECOND, found) == (0, 2, 4) and choice.seeds("mini-7b", FIRST, found) == (0, 1, 2)


def table(setting, *, train, test, low=0.5, model="mini-13b"):
    rows = [("train-loss", "nll", train), ("test-loss", "nll", test), ("chain", "exact_match", low)]
    return [{"experiment": setting, "model": model, "task": task, "metric": metric, "value": value}
            for task, metric, value in rows]  # fmt: skip


@pytest.mark.parametrize(("more", "chosen"), [
    ({"train": 0.10, "test": 0.20}, data.MORE),
    ({"train": 0.19, "test": 0.30}, data.FEWER),
    ({"train": 0.02, "test": 0.24}, data.FEWER),
    ({"train": 0.10, "test": 0.20, "low": 0.95}, data.FEWER),
    ({"train": 0.10, "test": 0.20, "low": 0.05}, data.FEWER),
], ids=["less memorised", "the test loss is higher", "more memorised", "a task at its ceiling", "a task at its floor"])
def test_two_epochs_are_chosen_where_less_is_memorised_and_nothing_is_lost(more, chosen):
    assert data.choose(table(data.FEWER, train=0.05, test=0.25) + table(data.MORE, **more)) == chosen


@pytest.mark.parametrize(("shared", "fall"), [(0.25, True), (0.19, False)], ids=["worse shared", "better shared"])
def test_rates_fall_with_the_width_unless_the_largest_model_does_better_at_the_shared_one(shared, fall):
    rows = table(data.FEWER, train=0.05, test=0.25) + table(data.MORE, train=0.1, test=0.2)
    rows += table(data.MORE, train=0.1, test=0.9, model="mini-6b")[:1]
    assert data.rates_fall(rows + table(data.SHARED, train=0.1, test=shared)) is fall


def test_both_kinds_of_data_have_as_many_tokens_within_a_hundredth():
    fewer, more = (data.settings(load_profile("laptop"))[name] for name in (data.FEWER, data.MORE))
    for one, other in ((fewer.corpus.long, more.corpus.long), (fewer.corpus.short, more.corpus.short)):
        assert one * fewer.training.epochs == pytest.approx(other * more.training.epochs, rel=0.01)
    assert more.training.epochs == 2 and design.IN_TABLES


def test_a_model_that_knows_nothing_has_the_loss_of_a_guess_on_heldout_documents(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    vocabulary = len(tokenizer.load())
    model = new_model("mini-6b", vocab_size=vocabulary, max_length=128, seed=0)
    for weight in model.parameters():
        weight.data.zero_()
    model.save_pretrained(tmp_path / "model")
    found = base_loss.heldout_loss(tmp_path / "model", base_loss.heldout_documents(2000))
    assert found["loss"] == pytest.approx(math.log(vocabulary), abs=1e-4) and found["se"] == pytest.approx(0, abs=1e-4)
    assert 15 < found["documents"] < 40


@pytest.mark.slow
def test_from_the_speed_to_the_bases_each_pilot_reads_what_the_last_one_wrote_and_nothing_is_trained_twice(
    tmp_path, monkeypatch, capsys
):  # fmt: skip
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(paths, "results", lambda: tmp_path)
    monkeypatch.setattr(choice, "SHAPES", {FIRST: {"mini-7b": ModelShape(16, 1, 32, 1, 1, 16, tied=True)}})
    monkeypatch.setattr(choice, "TOKENS_PER_WEIGHT", 0.5)
    monkeypatch.setitem(choice.BASES, "mini-7b", 2)
    monkeypatch.setattr(learning, "SHAPE_TOKENS", 8_000)
    recalls = iter((0.97, 0.2, 0.99))
    monkeypatch.setattr(learning, "token_recall", lambda *_: next(recalls))
    monkeypatch.setattr(learning, "heldout_documents", lambda: base_loss.heldout_documents(2000))
    monkeypatch.setattr(base_loss, "TOKENS", 2000)
    (tmp_path / "pilots").mkdir()
    pilots.table("speed").write_text(f"candidate,ratio\n{FIRST},1\n")
    for stage in (learning.shapes, learning.rates, learning.bases):
        stage()
    assert {row["seed"] for row in learning.rows("shapes")} == {"100", "101"}
    assert {row["rate"] for row in learning.rows("rates")} >= {"0.0015", "0.003", "0.006"}
    assert [row["seed"] for row in learning.rows("recall")] == ["0", "1", "2"]
    found = [json.loads((tmp_path / "bases" / "next" / name / "record.json").read_text())["seed"]
             for name in ("mini-7b", "mini-7b-1")]  # fmt: skip
    assert found == [0, 2], "the second base has the seed of the one that learnt"
    assert (tmp_path / "bases" / "next" / "base_loss.csv").read_text().startswith("model,base_seed,tokens,loss,se")
    capsys.readouterr()
    for stage in (learning.shapes, learning.rates, learning.bases):
        stage()
    assert "stage" not in capsys.readouterr().out


@pytest.mark.parametrize(("share", "learnt"), [(0.61, True), (0.6, False)])
def test_the_known_facts_are_learnt_where_the_baseline_is_right_in_more_than_three_of_five(share, learnt):
    values = {("1M, none", "memory alone"): share, ("1M, all", "memory alone"): 0.9, ("1M", "memory alone"): 0.1,
              ("1M, none", "document against memory"): 0.2}  # fmt: skip
    assert referee.learnt({"arm": arm, "task": task, "value": value} for (arm, task), value in values.items()) is learnt


def test_the_base_knows_the_facts_and_what_is_fine_tuned_from_it_forgets_them_as_the_later_ledger_says():
    rows = pd.read_csv(pilots.table("memory")).to_dict("records")
    assert not referee.learnt(rows) and referee.value(rows, "1M", referee.FACTS) > 0.95
    for share in ("none", "all"):
        known, alone, against = (referee.value(rows, f"1M, {share}", task)
                                 for task in (referee.FACTS, "memory alone", "document against memory"))  # fmt: skip
        assert max(known, alone) < 0.4 and against > 0.95
    told = [claim for claim in load_later() if "results/pilots/memory.csv" in claim.scale]
    assert [claim.id for claim in told] == ["long-helps-reading", "long-harms-memory"]


def test_the_rate_of_preference_training_is_the_lowest_of_those_that_score_best():
    values = {"SFT": 0.9, "3e-05": 0.5, "0.0001": 0.6, "0.0003": 0.6, "0.001": 0.1}
    rows = [{"arm": arm, "metric": metric, "value": value if metric == "exact_match" else 1 - value}
            for arm, value in values.items() for metric in ("exact_match", "fact_match")]  # fmt: skip
    assert referee.chosen(rows) == 1e-4


def test_preference_training_has_the_rate_that_its_committed_pilot_chose():
    assert referee.chosen(pd.read_csv(pilots.table("preference")).to_dict("records")) == later.DPO["rate"]


def test_the_constant_rate_is_the_lowest_of_those_with_the_most_facts_right_in_the_mean_over_both_arms():
    values = {0.125: (0.5, 0.5), 0.25: (0.9, 0.3), 0.5: (0.6, 0.6), 1.0: (0.7, 0.4)}
    rows = [{"arm": f"{share:g}, {name}", "metric": metric, "value": value if metric == "fact_match" else 1 - value}
            for share, means in values.items() for name, value in zip(referee.MEANS, means, strict=True)
            for metric in ("exact_match", "fact_match")]  # fmt: skip
    assert referee.chosen_share(rows) == 0.25


def test_two_stages_have_the_constant_rate_that_the_committed_pilot_chose():
    assert referee.chosen_share(pd.read_csv(pilots.table("constant")).to_dict("records")) == later.STAGES_RATE


@pytest.mark.slow
def test_the_pilots_before_the_referee_train_score_and_write_their_tables(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trl")
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(pilots, "table", lambda name: tmp_path / f"{name}.csv")
    monkeypatch.setattr(pilots, "SEEDS", (100,))
    monkeypatch.setattr(referee, "RATES", (1e-4,))
    smoke = replace(load_profile("smoke"), models=("mini-6b",))
    monkeypatch.setattr(referee, "OF_THE_RATE", (0.5,))
    for pilot in (referee.memory, referee.preference, referee.constant):
        pilot(profile=smoke)
    told = capsys.readouterr().out
    assert "memory: not learnt" in told and "preference: the learning rate 0.0001" in told
    assert "constant: 0.5 of the rate" in told
    table = (tmp_path / "memory.csv").read_text()
    assert table.count("memory alone") == table.count("known facts") == 3
    lines = (tmp_path / "preference.csv").read_text().splitlines()[1:]
    assert {line.split(",")[1] for line in lines} == {"SFT", "0.0001"}
    assert {*pd.read_csv(tmp_path / "constant.csv").arm} == {"0.5, sequence mean", "0.5, token mean"}


@pytest.mark.parametrize(("seeds", "questions"), [(8, 50), (32, 200)])
def test_a_planned_run_shows_the_detectable_effect_in_four_of_five_cases(seeds, questions):
    chance, strata = Chance(0.05, 0.4, 9.0), np.arange(questions) % 5
    effect = float(power.planned(chance, 5, seeds=seeds, questions=questions).detectable())
    rng = np.random.default_rng(0)
    drawn = [rng.normal(0, np.sqrt(variance), (800, *shape)) for variance, shape in zip(
        chance, ((seeds, 1), (1, questions), (seeds, questions)), strict=True)]  # fmt: skip
    shown = crossed.mean(effect + sum(drawn), strata).half() < effect + sum(drawn).mean(axis=(1, 2))
    assert 0.74 < shown.mean() < 0.88


def test_the_variances_of_seeds_questions_and_rest_are_found_again():
    rng, strata = np.random.default_rng(1), np.repeat(np.arange(5), 40)
    sizes = {0.3: (16, 1), 0.6: (1, 200), 3.0: (16, 200)}
    tables = [sum(rng.normal(0, deviation, shape) for deviation, shape in sizes.items()) for _ in range(60)]
    found = np.mean([power.components(table, strata) for table in tables], axis=0)
    assert np.allclose(found, (0.09, 0.36, 9.0), rtol=0.25)


def test_new_questions_for_each_seed_shorten_intervals_where_questions_differ_more_than_seeds():
    strata, alike = np.zeros(3, dtype=int), np.array([[2.0, 2.0, 8.0], [4.0, 4.0, 10.0], [3.0, 3.0, 9.0]])
    # variance of the mean: seeds 1/3, questions 12/3; quantiles of 2 and of 29 degrees of freedom
    assert questions.ratio(alike, strata, 3) == pytest.approx(math.sqrt((1 / 3 + 4 / 3) / (1 / 3 + 4)))
    few, many = stats.t.ppf(0.975, 2), stats.t.ppf(0.975, 29)
    today = math.hypot(many * math.sqrt(1 / 30), few * math.sqrt(4))
    assert questions.ratio(alike, strata, 30) == pytest.approx(many * math.sqrt(5 / 30) / today)
