"""Packing with Eq. 4's weights is Eq. 2 (arXiv 2401.18058), in loss and gradient, for any plan and real ranks."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import gradients, largest_difference, tiny_llama
from eq2 import GRID, LENGTHS, case, oracle, run_grid, steps_in_one_process
from longalign.recipe.dataset import step_weights

LOSS, GRADIENT = 1e-10, 1e-8


def assert_is_eq_2(sequences, plan, results):
    results = list(results)
    assert len(results) == len(plan.steps)
    for step, (loss, grads) in zip(plan.steps, results, strict=True):
        expected, expected_grads = oracle([sequences[i] for i in step.sequences])
        assert abs(loss - expected) < LOSS
        assert largest_difference(grads, expected_grads) < GRADIENT


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 24), min_size=1, max_size=12),
    ranks=st.integers(1, 4),
    accumulation=st.sampled_from([1, 3, 12]),
    rows=st.integers(1, 2),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_packed_with_eq_4_is_eq_2_for_random_lengths(lengths, ranks, accumulation, rows, seed, data):
    empty = data.draw(st.sets(st.integers(0, len(lengths) - 1)), label="sequences without targets")
    sequences, plan = case(
        lengths=lengths, seed=seed, without_targets=empty, ranks=ranks, accumulation=accumulation, rows=rows
    )
    assert_is_eq_2(sequences, plan, steps_in_one_process(sequences, plan))


def test_a_step_in_which_no_sequence_has_a_target_has_loss_and_gradient_zero():
    sequences, plan = case(lengths=[5, 7], without_targets=(0, 1))
    ((loss, grads),) = steps_in_one_process(sequences, plan)
    assert loss == 0 and not any(grad.any() for grad in grads.values())


@pytest.fixture(scope="module")
def processes():
    """A server that has imported the libraries once and forks every rank from that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.llama.modeling_llama", "transformers.masking_utils"])
    return context


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_on_real_ranks_every_method_is_eq_2_with_any_accumulation_and_rows(world_size, tmp_path, processes):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        processes.Process(target=run_grid, args=(rank, world_size, store.port, str(tmp_path)), daemon=True)
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0] * world_size
    results = iter(torch.load(tmp_path / "results.pt"))
    short_last_window = False
    for options in GRID:
        sequences, plan = case(lengths=LENGTHS, without_targets=(3, 10), ranks=world_size, **options)
        assert_is_eq_2(sequences, plan, [next(results) for _ in plan.steps])
        last = [micro_batch for of_rank in plan.steps[-1].micro_batches for micro_batch in of_rank]
        short_last_window |= len(plan.steps) > 1 and () in last
    assert short_last_window and not list(results)


def test_naive_sorted_and_packed_give_the_same_gradient_for_the_same_sequences():
    found = []
    for method, rows in (("naive", 1), ("naive", 17), ("sorted", 2), ("packing", 1), ("packing", 3)):
        sequences, plan = case(method, lengths=LENGTHS, without_targets=(3,), ranks=2, accumulation=12, rows=rows)
        ((_, grads),) = steps_in_one_process(sequences, plan)
        found.append(grads)
    for other in found[1:]:
        assert largest_difference(found[0], other) < GRADIENT


def scaled(plan, factor):
    """Every weight of the step, times `factor(number of sequences with targets in this micro-batch)`."""

    def reweigh(micro_batch):
        with_targets = sum(f["loss_weight"] > 0 for f in micro_batch)
        return [{**f, "loss_weight": f["loss_weight"] * factor(with_targets)} for f in micro_batch]

    return reweigh


def test_eq_3_a_wrong_k_and_a_wrong_m_differ():
    sequences, plan = case(lengths=LENGTHS, without_targets=(3,), ranks=2, accumulation=3)
    step = plan.steps[0]
    packs, with_targets = plan.packs(step), plan.sequences_with_targets(step)
    expected, expected_grads = oracle([sequences[i] for i in step.sequences])
    wrong = {
        "Eq. 3": {"weighting": "eq3"},
        "the token mean": {"exponent": 1.0},
        "K without accumulation": {"reweigh": scaled(plan, lambda _: plan.ranks / packs)},
        "K of one rank": {"reweigh": scaled(plan, lambda _: plan.accumulation / packs)},
        "M with the sequences that have no target": {
            "reweigh": scaled(plan, lambda _: with_targets / len(step.sequences))
        },
        "M of each micro-batch": {"reweigh": scaled(plan, lambda m: with_targets / max(m, 1) / packs)},
    }
    right, right_grads = next(steps_in_one_process(sequences, plan))
    assert abs(right - expected) < LOSS and largest_difference(right_grads, expected_grads) < GRADIENT
    for name, change in wrong.items():
        loss, grads = next(steps_in_one_process(sequences, plan, **change))
        assert abs(loss - expected) > 1e-3, name
        assert largest_difference(grads, expected_grads) > 1e-3, name


def token_mean(sums, counts, packs):
    return sum(sums[i] for pack in packs for i in pack) / sum(counts)


def square_root(sums, counts, packs):
    """InternVL 2.5's w_i = 1 / N_i^0.5 of every token, normalised by the sum of all weights (arXiv 2412.05271, 3.4)."""
    return sum(s / n**0.5 for s, n in zip(sums, counts, strict=True) if n) / sum(n**0.5 for n in counts)


def sequence_mean(sums, counts, packs):
    return sum(s / n for s, n in zip(sums, counts, strict=True) if n) / sum(n > 0 for n in counts)


def pack_mean(sums, counts, packs):
    means = [sum(sums[i] for i in pack) / total for pack in packs if (total := sum(counts[i] for i in pack))]
    return sum(means) / len(means)


ORACLES = {"token": token_mean, "square_root": square_root, "sequence": sequence_mean, "eq3": pack_mean}


def normalised(sequences, step, rule):
    """(loss, gradients) of a rule over the step, the slow way: one sequence at a time, stock attention, no weights."""
    model, sums, counts = tiny_llama(attention="sdpa"), [], []
    for i in step.sequences:
        labels = torch.tensor(sequences[i]["labels"])[1:]
        logits = model(torch.tensor(sequences[i]["input_ids"])[None], use_cache=False).logits[0, :-1]
        sums.append(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        counts.append(int((labels != -100).sum()))
    place = {i: number for number, i in enumerate(step.sequences)}
    loss = ORACLES[rule](sums, counts, [[place[i] for i in row] for row in step.rows])
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize("schedule", [
    "square_root", [(0, "token"), (0.5, "sequence")], [(0, "sequence"), (0.5, "token")], [(0, "eq3"), (0.5, "token")],
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("ranks", "accumulation", "rows"), [(2, 1, 2), (1, 3, 1)])
def test_every_stage_of_a_schedule_is_its_rule_over_the_true_step(schedule, ranks, accumulation, rows):
    shape = {"ranks": ranks, "accumulation": accumulation, "rows": rows}
    sequences, plan = case(lengths=[13, 24, 2, 7, 9, 3, 21, 5, 11, 17], without_targets=(3,), **shape)
    stages = [(0, schedule)] if isinstance(schedule, str) else schedule
    results = list(steps_in_one_process(sequences, plan, weighting=schedule))
    rules = [[rule for share, rule in stages if number >= share * len(results)][-1] for number in range(len(results))]
    assert set(rules) == {rule for _, rule in stages}, "both stages are reached"
    for step, rule, (loss, grads) in zip(plan.steps, rules, results, strict=True):
        expected, expected_grads = normalised(sequences, step, rule)
        assert abs(loss - expected) < LOSS and largest_difference(grads, expected_grads) < GRADIENT


def test_eq_4_as_the_paper_writes_it_is_the_same_number_for_any_k():
    sequences, plan = case(lengths=LENGTHS, ranks=2, accumulation=3)
    step = plan.steps[0]
    packs, with_targets = plan.packs(step), plan.sequences_with_targets(step)
    for i, weight in step_weights(plan, step).items():
        if plan.target_counts[i]:
            assert packs / (plan.target_counts[i] * with_targets) / packs == pytest.approx(weight, rel=1e-14)
