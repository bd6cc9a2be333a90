"""The paper's trainings from lengths alone: arithmetic by hand, every sequence placed, what of it fits the paper."""

import json
import re
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from longalign.cli import main
from longalign.common import paths
from longalign.experiments import paper_costs, paper_plan, paper_plan_report
from longalign.experiments.profiles import load_profile
from longalign.recipe import cost

TINY = """
name: tiny
training: {epochs: 2, capacity: 64, sequences_per_step: 4, rows: 1, micro_batches_per_step: 4, group_size: 2,
           packs_per_step: 2}
engine: {ranks: 2, zero: 3, bf16: true, gradient_checkpointing: true}
corpus: {min_long: 64, max_length: 64, max_short: 64}
windows: [64]
notebooks: []
evaluation: {lengths: [64], needle_lengths: [64]}
"""
PAPER = """
name: paperlike
corpus: {min_long: 8192, max_length: 65536, max_short: 8192}
windows: [65536]
training: {epochs: 2, capacity: 65536, sequences_per_step: 96, rows: 1, micro_batches_per_step: 96, group_size: 8,
           packs_per_step: 8}
engine: {ranks: 8, zero: 3, bf16: true, gradient_checkpointing: true}
"""
LENGTHS, TARGETS = [2, 4, 8], [1, 2, 1]


@pytest.fixture
def tiny(tmp_path):
    """Capacity 8, two ranks: packing 1 pack a rank and step, naive and sorted 2 rows; 7/8 of the capacity is 7."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    profile = load_profile(path)  # which takes no capacity under 64
    return replace(profile, training=replace(profile.training, capacity=8))


@pytest.fixture(scope="module")
def paper_file(tmp_path_factory):
    """A profile of the paper's settings."""
    path = tmp_path_factory.mktemp("profile") / "paperlike.yaml"
    path.write_text(PAPER)
    return path


@pytest.fixture(scope="module", params=paper_plan.DISTRIBUTIONS)
def assumed(request, paper_file):
    """What the command says of the paper's settings under either assumption: its name and the report."""
    command = [sys.executable, "-m", "longalign.cli", "plan", "--profile", str(paper_file), "--long", request.param]
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    known = {field.name: told[field.name] for field in fields(paper_plan.Report)}
    rows = tuple(paper_plan.Row(**row) for row in told["rows"])
    return request.param, paper_plan.Report(**(known | {"rows": rows, "fitted": told["fitted"] is not None}))


def pick(found, method, *, model="Llama-2-7B", longest=None):
    rows = [row for row in found.rows if (row.model, row.method) == (model, method)]
    return next(row for row in rows if longest in (None, row.longest))


def test_the_arms_are_one_row_a_device_and_the_packs_dealt_to_the_ranks(tiny):
    found = [(arm.method, arm.capacity, arm.accumulation) for arm in paper_plan.arms(tiny)]
    assert found == [("packing", 8, 1), ("naive", 8, 2), ("naive", 7, 2), ("sorted", 8, 2), ("sorted", 7, 2)]


def test_steps_sequences_fill_and_cuts_by_hand(tiny):
    found = paper_plan.report(tiny, LENGTHS, TARGETS)
    assert len(found.rows) == 3 * 5
    packed, naive, short = pick(found, "packing"), pick(found, "naive"), pick(found, "naive", longest=7)
    # 2 and 4 share a pack if they are neighbours in the order: then 2 packs and 1 step an epoch, else 3 packs and 2
    packs = [sum(plan.packs(step) for step in plan.steps) for plan in paper_plan.lay_out(
        tiny, paper_plan.arms(tiny)[0], LENGTHS)]  # fmt: skip
    assert set(packs) <= {2, 3} and packed.steps == sum(-(-number // 2) for number in packs)
    assert packed.sequences_per_pack == 6 / sum(packs) and packed.fill == pytest.approx(28 / (8 * sum(packs)))
    assert (naive.steps, naive.sequences_per_step, naive.sequences_per_pack, naive.fill) == (2, 3, None, 1)
    assert (naive.cut, naive.without_targets) == (0, 0)
    assert (short.cut, short.without_targets) == (1, 1), "8 tokens cut to 7, the one target last"


def test_hours_and_idle_time_by_hand(tiny):
    found = paper_plan.report(tiny, [4, 4, 4], utilisation=0.5)
    llama = cost.LLAMA_2_7B
    row = pick(found, "naive")  # two ranks, two micro-steps: 4 and 4, then 4 and a filler; two epochs
    flops = 2 * 2 * float(llama([4])[0]) * 4 / 3
    assert row.hours == pytest.approx(flops / (0.5 * 312e12) / 3600)
    assert row.idle == pytest.approx(1 / 4)
    assert row.paper_hours == 67.2 and row.ratio == pytest.approx(row.hours / 67.2)
    assert found.tflops == 156 and not found.fitted and found.barrier == "micro_step" and found.checkpointing


def test_the_engine_says_where_ranks_wait_and_whether_the_forward_pass_is_done_twice(tiny):
    lengths = [8, 1, 8, 1, 1, 8, 1, 8]
    zero3 = paper_plan.report(tiny, lengths, utilisation=0.4)
    plain = replace(tiny, engine=replace(tiny.engine, zero=1, gradient_checkpointing=False))
    once = paper_plan.report(plain, lengths, utilisation=0.4)
    assert (once.barrier, once.checkpointing) == ("step", False)
    assert pick(once, "naive").hours < pick(zero3, "naive").hours * 3 / 4 + 1e-12
    packed = (pick(found, "packing").hours for found in (zero3, once))
    assert next(packed) == pytest.approx(next(packed) * 4 / 3), "one micro-step a step: both waits are the same"


def test_idle_time_is_that_of_the_cost_model(tiny):
    once = replace(tiny, training=replace(tiny.training, epochs=1))
    lengths = [2, 4, 8, 3, 5, 1]
    found = paper_plan.report(once, lengths)
    for arm in paper_plan.arms(once):
        (plan,) = paper_plan.lay_out(once, arm, lengths)
        for model in paper_plan.MODELS:
            row = pick(found, arm.method, model=model.name, longest=arm.capacity)
            assert row.idle == pytest.approx(cost.idle_share(plan, model.cost, "micro_step"))


def test_every_sequence_is_placed_once_an_epoch_by_every_arm(tiny):
    lengths = [2, 4, 8, 3, 5, 1, 1]
    for arm in paper_plan.arms(tiny):
        plans = paper_plan.lay_out(tiny, arm, lengths)
        assert len(plans) == 2
        for plan in plans:
            assert sorted(i for step in plan.steps for i in step.sequences) == list(range(7))


def test_fitted_to_one_number_that_one_comes_out_and_the_others_keep_their_proportions(tiny):
    found, given = paper_plan.report(tiny, LENGTHS), paper_plan.report(tiny, LENGTHS, utilisation=0.4)
    assert found.fitted and pick(found, "packing").hours == pytest.approx(23.4)
    scale = {row.hours / other.hours for row, other in zip(found.rows, given.rows, strict=True)}
    assert max(scale) == pytest.approx(min(scale)) == pytest.approx(given.tflops / found.tflops)


def test_the_papers_hours_stand_beside_what_it_trained_and_are_those_of_figure_5(tiny):
    times = pytest.importorskip("longalign.report.figures.times")
    found = paper_plan.report(tiny, LENGTHS)
    beside = [(row.model, row.method, row.longest) for row in found.rows if row.paper_hours]
    assert len(beside) == 9 and ("ChatGLM3-6B", "sorted", 7) in beside and ("Llama-2-7B", "sorted", 8) in beside
    for model, name in zip(paper_plan.MODELS, ("6B", "7B", "13B"), strict=True):
        assert model.hours == times.PAPER_HOURS.loc[name].to_dict()


def test_the_models_are_of_the_size_that_their_names_say_and_the_devices_the_launchers():
    # weights that are multiplied: without the embedding look-up
    sizes = [model.cost.per_token / 6e9 for model in paper_plan.MODELS]
    assert sizes == pytest.approx([6.0, 6.6, 12.9], abs=0.1)
    assert paper_plan.MODELS[1].cost == cost.LLAMA_2_7B


def test_assumed_lengths_are_those_that_are_written_down():
    for long in paper_plan.DISTRIBUTIONS:
        lengths, targets = paper_plan.assumed_lengths(3, long)
        far, near = np.split(lengths, [10_000])
        assert len(near) == 74_000 and far.min() >= 8192 and far.max() <= 65_536
        assert near.min() >= 16 and near.max() <= 8192 and np.median(near) == pytest.approx(800, rel=0.03)
        assert (targets >= 1).all() and (targets < lengths).all()
        assert (lengths == paper_plan.assumed_lengths(3, long)[0]).all()
    with pytest.raises(ValueError, match="uniform or log-uniform"):
        paper_plan.assumed_lengths(0, "normal")


def test_what_fits_the_paper_under_the_assumed_lengths_and_what_does_not(assumed):
    """Padded steps fit by the choice of N. Packing fits if long samples are log-uniform; if uniform, it does not."""
    long, found = assumed
    packed = pick(found, "packing")
    assert all(pick(found, method).steps == 1750 for method in ("naive", "sorted"))
    said = paper_plan_report.as_text(found)
    if long == "log-uniform":
        assert round(packed.sequences_per_pack) == 12 and 1500 <= packed.steps <= 2000
        assert "here outside of that: nothing" in said
    else:
        assert (round(packed.sequences_per_pack, 1), packed.steps) == (9.5, 2219)
        assert "here outside of that: packing 2,219 steps, 9.5 sequences a pack" in said


def test_the_page_of_the_command_line_says_what_the_command_prints(assumed):
    long, found = assumed
    told = " ".join((paths.root() / "docs" / "use" / "command-line.md").read_text(encoding="utf-8").split())
    packed = pick(found, "packing")
    assert f"{packed.sequences_per_pack:.1f}" in told and f"over {packed.steps:,}" in told
    if long == paper_plan.DISTRIBUTIONS[0]:
        ratios = {method: [row.ratio for row in found.rows if row.method == method and row.ratio]
                  for method in ("naive", "sorted", "packing")}  # fmt: skip
        assert all(abs(ratio - 1) < 0.02 for ratio in ratios["packing"])
        for method in ("naive", "sorted"):
            assert f"{min(ratios[method]):.2f} to {max(ratios[method]):.2f} times" in told


def test_the_table_says_what_it_is_and_fits_a_terminal(assumed):
    told = paper_plan_report.as_text(assumed[1])
    assert told.startswith("Simulated from lengths by a cost model, not measured.\nassumed lengths: ")
    assert max(map(len, told.splitlines())) <= 100
    assert len(re.findall(r"^(?:ChatGLM3|Llama-2)-", told, flags=re.M)) == 15 and told.count(" *\n") == 1


def test_json_has_the_rows_and_what_they_rest_on(paper_file, tmp_path, capsys):
    data = tmp_path / "lengths.txt"
    data.write_text("60000\n4000\n300\n")
    assert main.main(["plan", str(data), "--profile", str(paper_file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["simulated"] is True and told["lengths"] == "lengths of lengths.txt: 3 sequences"
    assert told["fitted"] == "Llama-2-7B packing" and told["barrier"] == "micro_step"
    assert told["paper"]["sequences_per_pack"] == 12 and told["paper"]["hours"]["Llama-2-13B"]["naive"] == 117.2
    assert len(told["rows"]) == 15 and list(told["rows"][0]) == [
        "model", "method", "longest", "steps", "sequences_per_step", "sequences_per_pack", "fill", "idle", "hours",
        "paper_hours", "ratio", "cut", "without_targets",
    ]  # fmt: skip
    assert told["rows"][2]["cut"] == 1 and told["rows"][2]["without_targets"] is None


def test_data_over_the_capacity_are_refused_in_a_line_or_cut_and_told(paper_file, tmp_path, capsys):
    data = tmp_path / "lengths.txt"
    data.write_text("60000\n70000\n")
    command = ["plan", str(data), "--profile", str(paper_file)]
    with pytest.raises(SystemExit) as stopped:
        main.main(command)
    told = capsys.readouterr()
    assert stopped.value.code == 2 and told.out == "" and told.err.count("\n") == 1
    assert "1 of 2 sequences" in told.err and "that of profile paperlike; cut them with --truncate" in told.err
    assert main.main([*command, "--truncate", "--utilisation", "0.4"]) == 0
    told = capsys.readouterr()
    assert "are cut to it" in told.err and "125 TFLOP/s a device (40% of 312), given by --utilisation" in told.out
    assert "*" not in told.out and "assumed" not in told.out


def test_what_cannot_be_laid_out_is_refused(tiny):
    with pytest.raises(ValueError, match="1 of 3 sequences are over the capacity of 8 tokens .* sequence 2 first"):
        paper_plan.report(tiny, [2, 4, 9])
    with pytest.raises(ValueError, match="no sequence"):
        paper_plan.report(tiny, [])
    three = replace(tiny, engine=replace(tiny.engine, ranks=3))
    with pytest.raises(ValueError, match="packs_per_step is 2, which 3 ranks"):
        paper_plan.arms(three)


def test_a_training_costs_hours_by_its_work_and_the_peak_and_needs_to_fit_into_memory(monkeypatch, tiny):
    monkeypatch.setattr(paper_plan, "assumed_lengths", lambda seed: (np.array([4, 4, 4, 4]), np.array([1, 1, 1, 1])))
    offloaded = replace(tiny, engine=replace(tiny.engine, offload="all"))
    _, found = paper_costs.costs(offloaded)
    whole = next(cost.memory for cost in found if cost.model == "Llama-2-7B")
    limit = whole - 0.001  # GB; a pack of 8 tokens takes 0.004, beside the gradient of the vocabulary's matrix
    small = replace(paper_costs.DEVICES[0], name="small", tflops=156.0, memory=limit / paper_costs.SPARE)
    none = replace(small, name="none", memory=1e-6)
    monkeypatch.setattr(paper_costs, "DEVICES", (paper_costs.DEVICES[0], small, none))
    share, found = paper_costs.costs(offloaded)
    large, half, refused = (next(c for c in found if (c.model, c.device.name) == ("Llama-2-7B", name))
                            for name in ("A100 or A800, 80 GB", "small", "none"))  # fmt: skip
    assert large.hours[0] == pytest.approx(23.4), "the share is fitted to the paper's hours"
    assert large.hours[1] == pytest.approx(23.4 * share / paper_costs.CAREFUL)
    assert half.hours == pytest.approx([2 * hours for hours in large.hours])
    assert (large.shared, half.shared, refused.shared) == (1, 2, None)
    assert half.memory < limit < large.memory == whole, "each of two ranks holds half a pack"
    assert 16 * 6.738 < large.node < 16 * 6.739, "16 bytes of each weight lie in the machine's memory"
