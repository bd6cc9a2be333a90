"""Stages d and e of the GPU program: ranks composed from micro-batches, times extrapolated, trainers by turns."""

import doctest
import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from benchmarks.gpu import figure5, llama, ranks, rows, timing, trainers, training
from benchmarks.gpu.rows import Context
from benchmarks.gpu.trainers import Job, Turn
from hypothesis import given
from hypothesis import strategies as st

from longalign.common import paths
from longalign.experiments.operations import Pace, fit_pace
from longalign.recipe.batching import plan_naive, plan_packing
from longalign.recipe.cost import SequenceCost

PACE = Pace(per_position=2e-3, per_pair=1e-5, per_micro_batch=0.05, per_step=0.0)
"""Of all 32 layers, for a clock that is made up."""


def tokens_of(micro_batch):
    return sum(map(sum, micro_batch))


def context(folder, device="cpu", tiny=True):
    return Context(torch.device(device), tiny, folder)


def value(found, case, system, metric):
    (row,) = (row for row in found if case in row.case and (row.system, row.metric) == (system, metric))
    return row.value


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """TRL takes longer to import than all of these tests, and a collection of garbage longer than a tiny turn."""
    monkeypatch.setattr(training, "is_installed", lambda name: False)
    monkeypatch.setattr(timing, "free", lambda device: None)


def paced(call, inputs, device, *, rounds, warm_up):
    """In place of `timing.measure`: what the pace says of so many layers, without a pass."""
    ((model, batch),) = inputs
    length = batch["input_ids"].shape[1]
    offsets = batch.get("cu_seqlens", torch.tensor([0, length]))
    lengths = offsets.diff().numpy().astype(float)
    is_filler = int((batch["labels"] != -100).sum()) == 0
    whole = PACE.per_micro_batch if is_filler else float(PACE(np.array([[lengths.sum(), (lengths**2).sum(), 1, 0]]))[0])
    return timing.Times((whole * (1 + len(model.model.layers)) / 33,), 0)  # what is beside the layers takes as one


@pytest.fixture
def with_a_pace(monkeypatch):
    monkeypatch.setattr(timing, "measure", paced)


@pytest.fixture(scope="module")
def paced_rows(tmp_path_factory):
    """All rows of stage d, by the pace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "measure", paced)
        return list(figure5.run(context(tmp_path_factory.mktemp("gpu"))))


class TestComposition:
    """Lengths 2, 4, 3 on 2 ranks with 2 micro-steps: rank 0 passes 2 and 3, rank 1 passes 4 and a filler."""

    plan = plan_naive([2, 4, 3], ranks=2, accumulation=2, seed=1)

    def test_each_micro_batch_takes_what_was_measured_for_its_lengths(self):
        table = {((2,),): 0.5, ((4,),): 0.75, ((3,),): 0.625, (): 0.25}
        assert ranks.seconds_by(table.__getitem__, self.plan).tolist() == [[[0.5, 0.625], [0.75, 0.25]]]

    @pytest.mark.parametrize(("barrier", "seconds"), [("step", 5), ("micro_step", 7)])
    def test_ranks_wait_for_the_slowest(self, barrier, seconds):
        assert ranks.wall(ranks.seconds_by(tokens_of, self.plan), barrier) == seconds

    def test_packs_of_the_same_lengths_wait_less(self):
        plan = plan_packing([2, 4, 3], capacity=6, ranks=2)
        assert [ranks.wall(ranks.seconds_by(tokens_of, plan), barrier) for barrier in ranks.BARRIERS] == [5, 5]

    def test_a_pace_adds_pairs_and_the_micro_batch_itself(self):
        assert ranks.seconds_by_pace(Pace(1.0, 0.5, 0.25, 9.0), self.plan).tolist() == [[[4.25, 7.75], [12.25, 0.25]]]

    def test_another_barrier_is_refused(self):
        with pytest.raises(ValueError, match="step.* or .*micro_step.*, not 'never'"):
            ranks.wall(np.ones((1, 2, 2)), "never")

    @given(st.lists(st.floats(0, 100), min_size=12, max_size=12))
    def test_waiting_more_often_never_takes_less(self, times):
        times = np.array(times).reshape(2, 3, 2)
        assert ranks.wall(times, "micro_step") >= ranks.wall(times, "step") * (1 - 1e-12)
        assert ranks.wall(times, "step") * 3 >= times.sum() * (1 - 1e-12)


class TestExtrapolation:
    @given(st.floats(0, 10), st.floats(0, 10))
    def test_is_exact_where_layers_take_the_same_time(self, beside, layer):
        seconds = {depth: beside + depth * layer for depth in figure5.DEPTHS}
        assert ranks.extrapolated(seconds, 32) == pytest.approx(beside + 32 * layer, abs=1e-9)

    def test_a_line_that_falls_by_noise_is_level(self):
        assert ranks.extrapolated({2: 1.0, 4: 0.9}, 32) == 0.9

    def test_the_fit_finds_a_pace_again(self):
        work = np.array([[n, n * n, 1.0, 0.0] for n in (10, 50, 200, 900, 2000)])
        found = ranks.fit(work, PACE(work))
        assert (found.per_position, found.per_pair, found.per_micro_batch) == pytest.approx((2e-3, 1e-5, 0.05))

    def test_a_short_micro_batch_weighs_as_much_as_a_long_one(self):
        work = np.array([[n, n * n, 1.0, 0.0] for n in (10, 20, 30, 40, 50, 60, 3000, 4000, 5000)])
        seconds = PACE(work) * [1, 1, 1, 1, 1, 1, 1.1, 0.9, 1.1]
        ours, in_seconds = (np.abs(fit(work, seconds)(work)[:6] / seconds[:6] - 1).max()
                            for fit in (ranks.fit, fit_pace))  # fmt: skip
        assert ours < 0.05 < 0.5 * in_seconds


class TestFigure5:
    def test_times_that_follow_a_pace_are_composed_without_error(self, paced_rows):
        found = paced_rows
        assert {row.status for row in found} == {"ok"}
        assert [row.value for row in found if row.metric == "error of the fit"] == pytest.approx([0.0] * 6, abs=1e-6)
        assert value(found, "micro-batches", "fit_pace", "held-out error, ninetieth") == pytest.approx(0, abs=1e-6)
        assert value(found, "micro-batches", "fit_pace", "per token") == pytest.approx(2e-3 * 1e6, rel=1e-6)

    def test_ratios_have_the_sign_that_follows_from_the_lengths(self, tmp_path, paced_rows):
        found, chosen = paced_rows, figure5.sizes(context(tmp_path))
        for ranks_ in (8, 64):
            case = f"{chosen.sequences} sequences, {ranks_} ranks, {ranks.BARRIERS['micro_step']}"
            # A naive wall is linear in the pace, for the longest row is the slowest by any; a packed one at most.
            plans = ranks.plans(chosen.lengths, chosen.capacity, ranks_, "micro_step", chosen.cost)
            units = [Pace(1.0, 0.0, 0.0, 0.0), Pace(0.0, 1.0, 0.0, 0.0), Pace(0.0, 0.0, 1.0, 0.0)]
            walls = {name: [ranks.wall(ranks.seconds_by_pace(unit, plans[name]), "micro_step") for unit in units]
                     for name in ("naive", "packing")}  # fmt: skip
            least = min(naive / packed for naive, packed in zip(*walls.values(), strict=True))
            assert least > 1
            assert value(found, case, "packing", "naive / this") >= least
            assert value(found, case, "sorted", "naive / this") > 1
            level, as_drawn = (value(found, case, name, "time") for name in ("packing, balance compose", "packing"))
            assert level < as_drawn or ranks_ == 64  # there are fewer packs than 64

    def test_a_barrier_that_nobody_waits_at_is_seen(self, tmp_path, paced_rows, with_a_pace, monkeypatch):
        def waits_more(found):
            of = functools.partial(value, found, system="naive", metric="time")
            at_micro_steps, at_steps = (of(case=f"600 sequences, 8 ranks, {told}") for told in ranks.BARRIERS.values())
            return at_micro_steps > 1.2 * at_steps

        wall = ranks.wall
        monkeypatch.setattr(ranks, "wall", lambda seconds, barrier: wall(seconds, "step"))
        assert waits_more(paced_rows)
        assert not waits_more(list(figure5.run(context(tmp_path))))

    def test_real_passes_give_a_number_in_every_row(self, tmp_path):
        found = list(figure5.run(context(tmp_path)))
        assert [row for row in found if row.status != "ok" or not math.isfinite(row.value)] == []
        assert all(row.backend for row in found)
        assert {"sequences", "sdpa", "fit_pace", "longalign.recipe.cost", "8 x A800"} == {row.backend for row in found}
        written = (tmp_path / figure5.TABLE).read_text().splitlines()
        assert len(written) == 1 + len(figure5.sizes(context(tmp_path)).micro_batches)

    def test_every_ratio_says_from_how_many_measurements_it_follows(self, paced_rows):
        of_epochs = [row for row in paced_rows if row.backend == "fit_pace" and "600" in row.case]
        assert of_epochs
        assert all(row.note.startswith("fitted from 15 measured micro-batches, held-out error") for row in of_epochs)

    def test_what_is_not_measured_in_time_is_a_failed_row(self, tmp_path, monkeypatch):
        left = iter([60.0] * 15 + [figure5.RESERVE - 1])
        monkeypatch.setattr(Context, "left", lambda _: next(left))
        monkeypatch.setattr(timing, "measure", paced)
        failed = [row for row in figure5.run(context(tmp_path)) if row.status == "failed"]
        assert [row.note for row in failed] == ["7 of its 22 micro-batches were not measured: time was up"]

    def test_without_enough_micro_batches_there_is_no_fit(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Context, "left", lambda _: 0.0)
        monkeypatch.setattr(timing, "measure", paced)
        (failed,) = figure5.run(context(tmp_path))
        assert failed.note == "too few to fit to: time was up after 0 of 22 micro-batches"

    def test_packs_halve_where_memory_is_short(self, tmp_path, monkeypatch):
        def short(call, inputs, *arguments, **options):
            if inputs[0][1]["input_ids"].numel() > 1024:
                raise torch.OutOfMemoryError("short")
            return paced(call, inputs, *arguments, **options)

        monkeypatch.setattr(timing, "measure", short)
        monkeypatch.setattr(figure5, "sizes", lambda _: figure5.Sizes(figure5.TINY, 2048, 200))
        found = list(figure5.run(context(tmp_path)))
        assert {row.status for row in found} == {"ok"}
        assert {"halved from 2,048 to 1,024: memory is short"} == {r.note for r in found if r.metric == "2 layers"}

    def test_a_pack_that_is_not_by_a_kernel_fails_on_a_card(self, tmp_path, with_a_pace, monkeypatch):
        monkeypatch.setattr(figure5.backends, "slower", lambda seen, _: "computed by sequences")
        failed = [row for row in figure5.run(context(tmp_path)) if row.status == "failed"]
        assert [(row.metric, row.note) for row in failed] == [("backend", "computed by sequences")]


@pytest.mark.parametrize("stage", [figure5, training])
def test_a_card_of_the_assumed_speed_is_through_in_seventy_seconds(stage, tmp_path):
    budget = stage.budget(context(tmp_path, "cuda", tiny=False))
    products, copies = rows.PRODUCTS["cuda"] * stage.SHARE, rows.COPIES["cuda"] * stage.SHARE
    assert budget.seconds == pytest.approx(budget.flops / products + budget.bytes / copies + 8)
    assert 40 < budget.seconds <= 70


def test_counted_flops_are_those_of_the_paper_s_model():
    counted = llama.cost(figure5.LAYERS, figure5.LLAMA_7B)
    assert (counted.per_token, counted.per_pair) == (6 * 32 * 202_375_168 + 6 * 4096 * 32000, 6 * 32 * 4096)


class TestTraining:
    def test_every_trainer_gives_numbers_on_the_same_tokens(self, tmp_path):
        found = list(training.run(context(tmp_path)))
        assert [row.system for row in found if row.status == "absent"] == ["trl"]
        measured = [row for row in found if row.status != "absent"]
        assert all(row.status == "ok" and row.value > 0 and row.backend for row in measured)
        assert [row.system for row in measured if row.metric == "speed"] == ["longalign", "padded", "flattened"]
        # eight micro-batches of padded rows instead of one pack: it cannot be the faster one
        assert value(measured, "64", "padded", "longalign / this, speed") > 1

    def test_turns_alternate_and_who_fails_is_left_out(self, tmp_path):
        order = []

        def system(name, fails=False):
            def turn(job):
                order.append(name)
                if fails:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return Turn(1.0, 10, 2**30, "none")

            return turn

        systems = {"a": system("a"), "b": system("b", fails=True), "c": system("c")}
        taken = training.by_turns(Job(context(tmp_path), None, [], 8), systems)
        assert order == ["a", "b", "c", "a", "c"]
        assert [len(one.turns) for one in taken.values()] == [2, 0, 2]
        assert taken["b"].reason == "OutOfMemoryError: CUDA out of memory"

    def test_where_memory_is_short_all_are_measured_with_half_as_long_packs(self, tmp_path, monkeypatch):
        def large(job):
            if job.capacity > 32:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return small(job)

        def small(job):
            return Turn(1.0, job.tokens, 2**30, "none")

        monkeypatch.setattr(trainers, "SYSTEMS", {"longalign": small, "plain": large})
        found = [row for row in training.run(context(tmp_path)) if row.metric == "speed"]
        assert [(row.case, row.system, row.status) for row in found] == [
            ("packs of 64 tokens", "longalign", "ok"), ("packs of 64 tokens", "plain", "failed"),
            ("packs of 32 tokens", "longalign", "ok"), ("packs of 32 tokens", "plain", "ok"),
        ]  # fmt: skip

    def test_no_turn_is_begun_that_would_not_end_in_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Context, "left", lambda _: 20.0)
        job = Job(context(tmp_path), None, [], 8)
        taken = training.by_turns(job, {"a": pytest.fail}, needed=25.0)
        assert taken["a"].reason == "not started: 20 s were left of the stage"

    def test_padded_rows_are_as_transformers_pads_them(self):
        batch = trainers._pad([[np.array([5, 6]), np.array([7, 8, 9, 5]), np.array([6, 7, 8])]])
        assert batch["input_ids"].tolist() == [[5, 6, 0, 0], [7, 8, 9, 5], [6, 7, 8, 0]]
        assert batch["labels"].tolist() == [[5, 6, -100, -100], [7, 8, 9, 5], [6, 7, 8, -100]]
        assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]

    def test_packs_are_full_and_no_longer_than_they_may_be(self):
        sums = [sum(pack) for pack in training.packs(32_768)]
        assert len(sums) == 1 + training.STEPS
        assert all(0.9 * 32_768 < tokens <= 32_768 for tokens in sums)

    def test_a_trainer_s_kernel_that_is_not_the_one_it_should_be_is_a_failed_row(self, tmp_path, monkeypatch):
        turn = Turn(1.0, 10, 2**30, "sequences", slower="computed by sequences and not by a kernel")
        monkeypatch.setattr(trainers, "SYSTEMS", {"longalign": lambda job: turn})
        failed = [row for row in training.run(context(tmp_path)) if row.status == "failed"]
        assert [(row.metric, row.note) for row in failed] == [("kernel", turn.slower)]


@pytest.mark.parametrize("module", [ranks, llama], ids=["ranks", "llama"])
def test_worked_examples_hold(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_lengths_are_nine_short_ones_for_a_long_one():
    lengths = llama.mixture(10_000, 65_536)
    assert lengths.min() >= 2 and lengths.max() <= 65_536
    assert 0.1 <= (lengths >= 8192).mean() < 0.13
    assert 700 < np.median(lengths[lengths < 8192]) < 900


def test_the_step_that_is_measured_is_the_nearest_to_the_mean():
    lengths = np.array([3, 3, 3, 3, 3, 3, 3, 3] + [1, 1, 1, 1, 1, 1, 1, 1] * 3)
    packs = ranks.typical_step(lengths, 3, SequenceCost(1.0, 0.0))
    assert len(packs) == 8 and all(sum(pack) <= 3 for pack in packs)


@pytest.mark.slow
def test_trl_is_one_of_the_turns_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.setattr(training, "is_installed", lambda name: True)
    speeds = {row.system: row.value for row in training.run(context(tmp_path)) if row.metric == "speed"}
    assert speeds["trl"] > 0


@pytest.mark.slow
def test_trainers_are_imported_without_what_a_bare_machine_lacks():
    lacking = ("deepspeed", "pandas", "beartype", "papermill", "trl", "datasets", "jaxtyping", "scipy", "sklearn")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import benchmarks.gpu.training"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.root(), timeout=300)
