"""Claims that a GPU decides: not measured while nothing is committed, no verdict below three seeds, then one."""

import pandas as pd
import pytest

from gpu_rows import CARD, add, ratios, row
from longalign.report.claim_schema import GPU, Claim, Number, load_ledger
from longalign.report.claims import main, measure_all

FASTER = Claim(
    "faster", "Figure 5", "Packing is twice as fast.", "22_gpu", scale=GPU, results="figure5", metric="seconds",
    model="8 ranks", arms=(Number("naive", 1.0), Number("packing", -1.0)), statistic="log_ratio", threshold=2.0,
    direction="greater", margin=0.1,
)  # fmt: skip


def one(folder, claim=FASTER):
    (found,) = measure_all([claim], folder, folder / "gpu")
    return found


def test_nothing_is_measured_while_nothing_is_committed(tmp_path):
    found = one(tmp_path)
    assert found["verdict"] == "not measured" and found["estimate"] is None and found["threshold"] == 2.0
    assert "needs a GPU" in found["note"] and "make gpu" in found["note"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_numbers_and_no_verdict(tmp_path, seeds):
    ratios(tmp_path / "gpu" / "h100", seeds)
    found = one(tmp_path)
    assert found["verdict"] == "not measured" and found["seeds"] == seeds
    assert found["estimate"] == pytest.approx(2.5 / 1.01 ** ((seeds - 1) / 2), rel=1e-4)
    assert f"{seeds} seed" in found["note"] and "fewer than the 3" in found["note"]
    assert f"{CARD}, 2026-11-28" in found["note"]
    assert pd.isna(found["p_holm"])


@pytest.mark.parametrize(("packing", "expected"), [(4.0, "reproduced"), (8.0, "contradicted")])
def test_three_seeds_make_a_verdict(tmp_path, packing, expected):
    ratios(tmp_path / "gpu" / "h100", 3, packing=packing)
    found = one(tmp_path)
    assert found["verdict"] == expected and found["seeds"] == 3
    assert found["low"] < found["estimate"] < found["high"]


def test_of_several_cards_the_one_with_most_seeds_decides(tmp_path):
    ratios(tmp_path / "gpu" / "a100", 1, card="NVIDIA A100")
    ratios(tmp_path / "gpu" / "h100", 3)
    assert CARD in one(tmp_path)["note"]


def test_arms_of_two_cases_are_compared_where_they_name_their_case(tmp_path):
    rows = [row("learning", f"1:1, {arm}", "mini-7b", "exact match at 65,536", value, "share")
            for arm, value in (("none", 0.1), ("all", 0.4))]  # fmt: skip
    add(tmp_path / "gpu" / "h100", "learning", rows)
    (stated,) = [claim for claim in load_ledger() if claim.results == "learning"]
    found = one(tmp_path, stated)
    assert found["verdict"] == "not measured" and found["estimate"] == pytest.approx(0.3)


def test_a_row_that_failed_is_no_number(tmp_path):
    rows = [row("figure5", "8 ranks", name, "seconds", 1.0, "s", status=status)
            for name, status in (("naive", "ok"), ("packing", "failed"))]  # fmt: skip
    add(tmp_path / "gpu" / "h100", "figure5", rows)
    found = one(tmp_path)
    assert found["verdict"] == "not measured" and "no arm 'packing'" in found["note"]


def test_a_stage_that_was_not_run_is_named(tmp_path):
    add(tmp_path / "gpu" / "h100", "ceilings", [row("ceilings", "8192", "copy", "rate", 3.0, "TB/s")])
    assert "stage figure5 has no good row in h100" in one(tmp_path)["note"]


def test_a_gpu_changes_no_p_value_of_the_laptop(tmp_path):
    values = {"new": [0.80, 0.82, 0.81], "old": [0.5, 0.5, 0.5]}
    rows = [{"arm": arm, "model": "mini-7b", "seed": seed, "task": "t", "metric": "seconds", "value": value}
            for arm, of in values.items() for seed, value in enumerate(of)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    laptop = Claim("laptop", "Figure 5", "New is better.", "05_data_scale", results="scores", model="mini-7b",
                   metric="seconds", arms=(Number("new", 1.0), Number("old", -1.0)), direction="greater",
                   margin=0.2)  # fmt: skip
    before = measure_all([laptop, FASTER], tmp_path, tmp_path / "gpu")[0]
    ratios(tmp_path / "gpu" / "h100", 5, packing=4.9)  # of the larger p, so that in one family both would change
    after, faster = measure_all([laptop, FASTER], tmp_path, tmp_path / "gpu")
    assert after == before and faster["seeds"] == 5 and faster["p_holm"] > after["p_holm"]


def test_files_that_do_not_fit_together_are_told_in_one_line(tmp_path, monkeypatch, capsys):
    ratios(tmp_path / "results" / "gpu" / "h100", 1, note_rows=99)
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("longalign.common.paths.results", lambda: tmp_path / "results")
    assert main(["smoke"]) == 2
    said = capsys.readouterr()
    assert "h100/gpu.csv" in said.err and said.err.count("\n") == 1


def test_the_committed_claims_of_a_gpu_name_the_model_and_what_is_extrapolated():
    stated = {claim.id: claim for claim in load_ledger() if claim.scale == GPU}
    for claim in stated.values():
        assert claim.notebook == "22_gpu" and claim.results in ("figure5", "learning")
        figure = claim.results == "figure5"
        for words in ("Llama-2-7B's shape", "2 and 4 of 32 layers") if figure else ("mini-7b, a miniature",):
            assert words in claim.statement, claim.id
    assert {claim.results for claim in stated.values()} == {"figure5", "learning"}
