"""The benchmarks of cost model, attention and loss, at sizes that take no time: what they compare is the same, and what
they say of an error is the error."""

import numpy as np
import pytest
import torch
from benchmarks import attention, common, cost, loss

from longalign.experiments import paper_plan
from longalign.experiments.operations import Pace
from longalign.experiments.profiles import load_profile

PACE = Pace(per_position=4e-5, per_pair=8e-8, per_micro_batch=5e-3, per_step=2e-2)


def constructed(slower=1.0, steps=40):
    """Work of three methods and the seconds that a pace makes of it; the padded ones take `slower` times as long."""
    random = np.random.default_rng(0)
    measured = {}
    for method in cost.METHODS:
        positions = random.uniform(500, 5000, steps)
        micro_batches = np.where(np.arange(steps) % 2, 3.0, 6.0)
        work = np.stack([positions, positions * random.uniform(50, 800, steps), micro_batches, np.ones(steps)], axis=1)
        measured[method] = (work, PACE(work) * (1.0 if method == "packing" else slower))
    return measured


def values(rows, case):
    return {row["metric"]: row["value"] for row in rows if row["case"] == case}


def test_steps_that_follow_a_pace_are_predicted_whoever_it_was_fitted_to():
    rows = cost.error_rows(constructed())
    assert len({row["case"] for row in rows}) == 3 + 3 + 2
    assert max(abs(row["value"]) for row in rows) < 1e-6


def test_a_pace_of_packing_that_promises_too_little_for_the_others_says_so():
    rows = cost.error_rows(constructed(slower=1.25))
    transferred = values(rows, "pace of packing on naive")
    assert transferred["error of the total"] == pytest.approx(-20) and transferred["median error"] == pytest.approx(20)
    assert max(map(abs, values(rows, "pace of naive on naive").values())) < 1e-6
    (steps,) = {row["note"] for row in rows if row["case"] == "pace of packing on naive"}
    assert steps == "40 steps, none seen before", "it is asked for all of them, held out or not"


def test_measured_steps_come_with_the_work_of_their_own_plans(tmp_path, monkeypatch):
    monkeypatch.setattr(cost.timing, "measure", lambda runs, folder: [
        {"cpu_seconds": [[9.0, *(run.training["seed"] + n for n in range(2))]]} for run in runs])  # fmt: skip
    measured = cost.measured_steps(tmp_path, steps=3)
    assert list(measured) == ["packing", "naive", "sorted"]
    for work, seconds in measured.values():
        assert seconds.tolist() == [0, 1, 1, 2], "two runs, without the first step of each"
        assert work.shape == (4, 4) and (work[:, 3] == 1).all()
    assert measured["packing"][0][:, 2].tolist() == [3, 3, 6, 6]


@pytest.fixture(scope="module")
def figure_5():
    """The rows of Figure 5 from few lengths, which the assumed ones would take seconds to lay out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_plan, "assumed_lengths", lambda seed, long: (np.array([65536, 9000, 800, 500] * 40), None))
        return cost.figure_5_rows(load_profile("paper"))


def test_figure_5_has_the_nine_trainings_and_hits_the_hours_that_were_fitted(figure_5):
    for what, fitted in (("uniform lengths", 1), ("uniform lengths, with traffic", 2)):
        errors = [row for row in figure_5 if row["metric"] == f"error, {what}"]
        assert len(errors) == 9
        hit = [row for row in errors if "fitted" in row["note"]]
        assert len(hit) == fitted and max(abs(row["value"]) for row in hit) < 1e-6
        (together,) = [row for row in figure_5 if row["metric"] == f"|error|, {what}"]
        others = [abs(row["value"]) for row in errors if row not in hit]
        assert together["n"] == 9 - fitted and together["value"] == pytest.approx(np.median(others))


def test_hours_and_errors_of_figure_5_belong_together(figure_5):
    hours = [row for row in figure_5 if row["metric"].startswith("hours")]
    errors = [row for row in figure_5 if row["metric"].startswith("error")]
    for row, error in zip(hours, errors, strict=True):
        paper = float(row["note"].split()[1])
        assert error["value"] == pytest.approx(100 * (row["value"] / paper - 1), abs=1e-6)


def test_the_mask_lets_a_token_see_its_own_sequence_up_to_itself(monkeypatch):
    masks = []
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention",
                        lambda query, key, value, attn_mask: masks.append(attn_mask) or value)  # fmt: skip
    states = torch.zeros(1, 1, 9, 1)
    attention.dense(states, states, states, [2, 4, 3])
    blocks = torch.block_diag(*(torch.ones(n, n).tril() for n in (2, 4, 3)))
    assert torch.equal(masks[0], blocks.bool())


def test_both_attentions_have_the_same_value_and_gradients_and_other_boundaries_have_not():
    here, there = (attention.passes(system, [3, 7, 5, 5]) for system in attention.ATTENTIONS)
    for a, b in zip(here[:-1], there[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    leaking = attention.passes(attention.DENSE, [10, 10])
    assert (here[0] - leaking[0]).abs().max() > 0.1


def test_the_losses_have_the_same_value_and_gradients():
    found = {}
    for system in ("ours", "plain"):
        given = loss.inputs(300, 8, 40)
        value = loss.LOSSES[system](*given)
        value.backward()
        found[system] = [value.detach(), given[0].grad, given[1].grad]
    assert found["plain"][0] > 1
    assert max(loss.apart(a, b) for a, b in zip(found["ours"], found["plain"], strict=True)) < 2e-6


def test_apart_is_the_largest_difference_over_the_largest_entry():
    assert loss.apart(torch.tensor([1.0, 4.0]), torch.tensor([2.0, -4.0])) == 2.0


def test_a_peer_that_is_not_there_is_a_row_without_a_value_that_says_why(monkeypatch):
    monkeypatch.setattr(loss.peers, "state", lambda name: loss.peers.State("trl", {}, "not installed: no wheel"))
    rows = loss._peer_rows("2,048 tokens", [1.0])
    assert {row["system"] for row in rows} == {"trl", loss.LIGER}
    assert all(row["value"] is None and row["note"] for row in rows)
    assert "no wheel" in rows[0]["note"] and common.OURS not in {row["system"] for row in rows}


def test_a_peer_whose_loss_is_another_has_no_time(monkeypatch):
    monkeypatch.setattr(loss.peers, "state", lambda name: loss.peers.State("trl 1.0", {}))
    told = {"time": 1.0, "memory": 10.0, "value": 11.0}
    monkeypatch.setattr(common, "alternate", lambda commands, rounds: {"trl 1.0": common.Samples([told])})
    values = {expected: [row["value"] for row in loss._peer_rows("c", [expected]) if row["system"] == "trl 1.0"]
              for expected in (11.0, 12.0)}  # fmt: skip
    assert values == {11.0: [1.0, 10.0], 12.0: [None, None]}
