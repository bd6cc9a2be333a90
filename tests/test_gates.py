"""Gates: each passes where the instrument has what a claim needs, and says number and remedy where it has not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from longalign.report import gates
from longalign.report.claim_schema import Claim, Number, load_ledger
from longalign.report.claim_scores import Folder
from longalign.report.claims import measure_all

SIZES = Claim("c", "Table 4", "Larger is better.", "09_model_scale", results="scores", metric="score",
              direction="greater", needs=("sizes",),
              arms=(Number("mini-13b|a", 1.0), Number("mini-7b|a", -1.0)))  # fmt: skip
SPEED = Claim("c", "Figure 5", "Faster.", "08_training_time", results="times", model="mini-6b", metric="seconds",
              tasks=("ranks",), arms=(Number("naive", 1.0), Number("packing", -1.0)), needs=("waiting",))  # fmt: skip


TARGETS = np.array([20, 40, 30, 10])


def losses(folder, of, hard=(0, 0, 0, 0)):
    """What the gate says of bases with these losses a token; documents are as `hard` for all, or for some alone."""
    hard = hard if isinstance(hard, dict) else dict.fromkeys(of, hard)
    table = {f"{model}|{seed}": TARGETS * (loss + np.array(hard[model])) for model, values in of.items()
             for seed, loss in enumerate(values)}  # fmt: skip
    (folder / "items").mkdir(exist_ok=True)
    pd.DataFrame({"document": range(4), "targets": TARGETS} | table).to_csv(folder / gates.BASE_LOSS, index=False)
    return gates.failures(SIZES, Folder(folder))


def test_a_larger_base_must_be_better_by_more_than_two_standard_errors(tmp_path):
    """Standard error of 0.01, 0, -0.01 around two means: sqrt(2 x 0.0001 / 3) = 0.0082."""
    around = [0.01, 0.0, -0.01]
    for lower, passes in ((0.017, True), (0.016, False), (-0.1, False)):
        failed = losses(tmp_path, {"mini-7b": [1 + a for a in around], "mini-13b": [1 - lower + a for a in around]})
        assert (failed == []) == passes
    assert "1.100" in failed[0] and "1.000" in failed[0] and "0.016" in failed[0] and "would show it" in failed[0]


def test_documents_that_are_hard_for_all_bases_do_not_hide_a_difference_and_others_do(tmp_path):
    """Residuals 1, -2, 1.5, -0.5 of 100 tokens: a standard error of sqrt(4 x 2.5) / 100 = 0.0316."""
    of = {"mini-7b": [1.0, 1.0], "mini-13b": [0.95, 0.95]}
    swing = (0.05, -0.05, 0.05, -0.05)
    assert losses(tmp_path, of, hard=swing) == []
    (told,) = losses(tmp_path, of, hard={"mini-7b": (0, 0, 0, 0), "mini-13b": swing})
    assert "0.063" in told


@pytest.mark.parametrize("large", [{}, {"mini-13b": [0.5]}], ids=["none", "one"])
def test_one_base_of_a_size_has_no_standard_error(tmp_path, large):
    assert "base of mini-13b, fewer than 2" in losses(tmp_path, {"mini-7b": [1.0, 1.1]} | large)[0]


def test_a_run_without_base_losses_of_its_own_is_judged_by_those_of_the_committed_bases(tmp_path, monkeypatch):
    """`make bases` alone writes them; a run starts from the committed bases."""
    around = [0.01, 0.0, -0.01]
    losses(tmp_path, {"mini-7b": [1 + a for a in around], "mini-13b": [0.9 + a for a in around]})
    monkeypatch.setattr(gates.paths, "results", lambda: tmp_path)
    assert gates.failures(SIZES, Folder(tmp_path / "run")) == []


@pytest.mark.parametrize(("small", "large", "expected"), [(3, 3, [0, 1, 2, 0]), (4, 2, [0, 1, 0, 1]), (3, 1, None)])
def test_seeds_share_bases_where_sizes_are_compared_and_each_has_several(tmp_path, small, large, expected):
    """Seed s starts from base s modulo the number of bases; with one base of a size nobody knows how bases differ."""
    losses(tmp_path, {"mini-7b": [1.0] * small, "mini-13b": [1.0] * large})
    found = gates.bases(SIZES, Folder(tmp_path), np.arange(4))
    assert (found if found is None else found.tolist()) == expected
    assert gates.bases(dataclasses.replace(SIZES, needs=()), Folder(tmp_path), np.arange(4)) is None


def test_without_a_table_of_base_losses_the_gate_says_which_command_writes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gates.paths, "results", lambda: tmp_path)
    (told,) = gates.failures(SIZES, Folder(tmp_path))
    assert "there is no items/base_loss.csv" in told and "make bases" in told


@pytest.mark.parametrize(
    ("metric", "mean", "passes"),
    [("accuracy", 0.33, True), ("accuracy", 0.32, False), ("accuracy", 0.93, False), ("accuracy", 0.92, True),
     ("score", 1.8, False), ("score", 9.0, True), ("exact_match", 0.91, False), ("seconds", 99.0, True)],
)  # fmt: skip
def test_headroom_is_a_share_of_the_range_from_chance_to_best_over_the_arms_compared(tmp_path, metric, mean, passes):
    rows = [{"arm": arm, "model": model, "seed": 0, "task": "t", "metric": metric, "value": mean + by}
            for arm, model, by in (("a", "m", 0.05), ("b", "m", -0.05), ("of no claim", "m", -0.5), ("a", "n", -0.5))]
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    claim = Claim("c", "Table 2", "No harm.", "05_data_scale", results="scores", model="m", metric=metric,
                  arms=(Number("a", 1.0), Number("b", -1.0)), needs=("headroom",))  # fmt: skip
    assert (gates.failures(claim, Folder(tmp_path)) == []) == passes


@pytest.mark.parametrize(("waits", "passes"), [(1.0, True), (0.25, False), (None, False)])
def test_ranks_must_wait_in_every_micro_step(tmp_path, waits, passes):
    rows = [{"arm": "naive", "model": "mini-6b", "seed": 0, "task": "ranks", "metric": "seconds", "value": 2.0}]
    rows += [rows[0] | {"metric": gates.WAITS, "value": waits}] if waits else []
    pd.DataFrame(rows).to_csv(tmp_path / "times.csv", index=False)
    failed = gates.failures(SPEED, Folder(tmp_path))
    assert (failed == []) == passes
    assert passes or ("0.25 times in a micro-step" if waits else "once in an optimizer step") in failed[0]


def test_a_gate_that_fails_hides_the_verdict_but_not_the_numbers(tmp_path):
    of = {"model": "mini-6b", "task": "ranks", "metric": "seconds"}
    rows = [{**of, "arm": arm, "seed": seed, "value": value + seed / 99}
            for arm, value in (("naive", 9.0), ("packing", 2.0)) for seed in range(3)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "times.csv", index=False)
    stated = Claim(**{**vars(SPEED), "direction": "greater", "statistic": "log_ratio"})
    (row,) = measure_all([stated], tmp_path)
    assert row["verdict"] == "cannot be shown here" and row["note"].startswith("the instrument: in times.csv the ranks")
    assert row["estimate"] == pytest.approx(4.5, abs=0.05) and row["low"] < row["high"]


def test_comparisons_of_sizes_of_speed_and_of_no_harm_name_what_they_need():
    for claim in (claim for claim in load_ledger() if claim.scale == "laptop"):
        several = len({claim.run(arm)[0] for arm in claim.arms if arm.value > 0} |
                      {claim.run(arm)[0] for arm in claim.arms if arm.value < 0}) > 1  # fmt: skip
        sizes = several and claim.source != "Headlines" or claim.id == "headline-13b-10-percent"
        assert ("sizes" in claim.needs) == sizes, claim.id
        assert ("waiting" in claim.needs) == (claim.metric == "seconds"), claim.id
        no_harm = claim.direction in ("not_less", "equal") and claim.metric != "time_to_90"
        assert ("headroom" in claim.needs) == no_harm, claim.id
