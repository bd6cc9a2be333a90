"""Loss weights against the equations written out; Eq. 3, a wrong K and a wrong M as negative controls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.recipe.packing import next_fit
from longalign.recipe.weights import eq3_weights, loss_weights, released_weights

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=30)
CLOSE = {"rel": 1e-12, "abs": 0}


@st.composite
def counts_and_packs(draw, multiple=1):
    """Target counts and their packs; the number of packs is a multiple of the one given."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6).map(lambda sizes: sizes * multiple))
    order = draw(st.permutations(range(sum(sizes))))
    counts = draw(st.lists(st.integers(0, 50), min_size=sum(sizes), max_size=sum(sizes)))
    ends = np.cumsum(sizes)
    return counts, [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def eq2(losses, counts):
    """Mean over the sequences with targets of their token means, from L_i."""
    means = [loss / count for loss, count in zip(losses, counts, strict=True) if count]
    return sum(means) / len(means) if means else 0.0


def eq3(losses, counts, packs):
    """Mean over the packs with targets of their token means."""
    means = [sum(losses[i] for i in pack) / total for pack in packs if (total := sum(counts[i] for i in pack))]
    return sum(means) / len(means) if means else 0.0


def eq4(losses, counts, packs, *, k, m):
    """K / (N_i M) on each L_i, summed within a pack, mean over the packs."""
    return sum(sum(k / (counts[i] * m) * losses[i] for i in pack if counts[i]) for pack in packs) / len(packs)


def average_token(losses, counts, packs, *, ranks, unit=lambda pack: 1):
    """The stable loss normaliser of Hierarchical Balance Packing (arXiv 2503.07680, 4.3), written out.

    Each rank divides the summed loss of its local batch by B_l T_ave, the mean over ranks follows; T_ave is the mean of
    target tokens over the global batch of B_g. B counts `unit` of each pack: 1, or its sequences.
    """
    total = sum(unit(pack) for pack in packs)
    t_ave = sum(counts[i] for pack in packs for i in pack) / total
    local = [packs[rank::ranks] for rank in range(ranks)]
    return sum(
        sum(losses[i] for pack in batch for i in pack) / (sum(map(unit, batch)) * t_ave) for batch in local
    ) / ranks  # fmt: skip


def summed_losses(counts, seed=0):
    return (np.random.default_rng(seed).uniform(0.5, 2.0, len(counts)) * np.asarray(counts)).tolist()


@given(counts=COUNTS, exponent=st.floats(0, 1))
def test_the_weights_equal_the_formula_written_out(counts, exponent):
    total = sum(count**exponent for count in counts if count)
    expected = [count ** (exponent - 1) / total if count else 0.0 for count in counts]
    assert loss_weights(counts, exponent).tolist() == pytest.approx(expected, **CLOSE)


@given(counts=COUNTS, exponent=st.floats(0, 1))
def test_the_weights_of_all_target_tokens_sum_to_one(counts, exponent):
    total = (loss_weights(counts, exponent) * counts).sum()
    assert total == pytest.approx(1.0 if any(counts) else 0.0, rel=1e-12, abs=0)


@given(counts=COUNTS)
def test_exponent_zero_is_the_mean_over_sequences_of_the_token_mean(counts):
    losses = summed_losses(counts)
    assert (loss_weights(counts) * losses).sum() == pytest.approx(eq2(losses, counts), **CLOSE)


@given(counts=COUNTS)
def test_exponent_one_is_the_mean_over_all_target_tokens(counts):
    losses = summed_losses(counts)
    expected = sum(losses) / sum(counts) if any(counts) else 0.0
    assert (loss_weights(counts, exponent=1.0) * losses).sum() == pytest.approx(expected, **CLOSE)


@given(data=st.data(), ranks=st.integers(1, 4))
def test_the_average_token_rule_is_the_mean_over_all_target_tokens(data, ranks):
    counts, packs = data.draw(counts_and_packs(multiple=ranks))
    if any(counts):
        losses = summed_losses(counts)
        expected = (loss_weights(counts, exponent=1.0) * losses).sum()
        assert average_token(losses, counts, packs, ranks=ranks) == pytest.approx(expected, **CLOSE)


def test_the_average_token_rule_in_the_paper_s_own_example_is_the_token_mean_and_its_token_mean_is_equation_3():
    counts, ranks = [2, 4, 3, 7], [[0, 1], [2, 3]]  # two ranks with a local batch of two samples
    losses = summed_losses(counts)
    assert average_token(losses, counts, [[0], [2], [1], [3]], ranks=2) == pytest.approx(sum(losses) / 16, **CLOSE)
    assert eq3(losses, counts, ranks) == pytest.approx(
        sum(sum(losses[i] for i in rank) / sum(counts[i] for i in rank) for rank in ranks) / 2, **CLOSE)


def test_the_average_token_rule_over_sequences_is_no_token_mean_where_packs_hold_different_numbers_of_them():
    counts, packs = [2, 4, 3], [[0, 1], [2]]
    losses = summed_losses(counts)
    assert average_token(losses, counts, packs, ranks=2) == pytest.approx(sum(losses) / 9, **CLOSE)
    assert abs(average_token(losses, counts, packs, ranks=2, unit=len) / (sum(losses) / 9) - 1) > 0.05


@given(case=counts_and_packs())
def test_equation_4_is_equation_2_for_the_true_k_and_m(case):
    counts, packs = case
    losses, m = summed_losses(counts), np.count_nonzero(counts)
    if m:
        value = eq4(losses, counts, packs, k=len(packs), m=m)
        assert value == pytest.approx(eq2(losses, counts), **CLOSE)
        assert value == pytest.approx((loss_weights(counts) * losses).sum(), **CLOSE)


def test_a_wrong_k_or_a_wrong_m_is_not_equation_2():
    counts, packs = [2, 4, 3, 5, 0], [[0, 1], [2], [3, 4]]
    losses = summed_losses(counts)
    right = eq2(losses, counts)
    assert eq4(losses, counts, packs, k=3, m=4) == pytest.approx(right, **CLOSE)
    for k, m in [
        (1, 4),
        (2, 4),
        (3, 5),
        (3, 3),
    ]:  # one rank's packs; a count that includes the sequence without targets
        assert abs(eq4(losses, counts, packs, k=k, m=m) / right - 1) > 0.1


@given(case=counts_and_packs())
def test_plain_packing_equals_equation_3_written_out(case):
    counts, packs = case
    losses = summed_losses(counts)
    assert (eq3_weights(counts, packs) * losses).sum() == pytest.approx(eq3(losses, counts, packs), **CLOSE)


def test_plain_packing_is_biased_to_long_targets_and_to_sparse_packs():
    share = eq3_weights([2, 4, 3], [[0, 1], [2]]) * [2, 4, 3]
    assert share.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert (loss_weights([2, 4, 3]) * [2, 4, 3]).tolist() == pytest.approx([1 / 3] * 3)


def test_plain_packing_is_the_token_mean_in_one_pack_and_equation_2_in_packs_of_one():
    assert eq3_weights([2, 4, 3], [[0, 1, 2]]).tolist() == pytest.approx(loss_weights([2, 4, 3], 1.0).tolist())
    assert eq3_weights([2, 4, 3], [[0], [1], [2]]).tolist() == pytest.approx(loss_weights([2, 4, 3]).tolist())


def test_sequences_outside_the_packs_weigh_nothing():
    assert eq3_weights([2, 4, 3], [[2]]).tolist() == pytest.approx([0, 0, 1 / 3])
    assert released_weights([2, 4, 3], [[2]], local_gpus=1, ranks=1).tolist() == pytest.approx([0, 0, 1 / 3])


# ---- the released code


def released_step(losses, counts, packs, *, local_gpus, ranks, accumulation):
    """The released code, pack by pack: 1 / N_i scaled in the collator, summed in the model, averaged by the engine."""
    rows = len(packs) // (ranks * accumulation)
    blocks = [packs[start : start + local_gpus] for start in range(0, len(packs), local_gpus)]
    in_block = [sum(1 for pack in block for i in pack if counts[i]) for block in blocks]
    total = 0.0
    for start in range(0, len(packs), rows):
        n = in_block[start // local_gpus]
        micro_batch = [i for pack in packs[start : start + rows] for i in pack if counts[i]]
        total += sum(losses[i] / counts[i] for i in micro_batch) * local_gpus / n if n else 0.0
    return total / (ranks * accumulation)


@pytest.mark.parametrize(
    ("local_gpus", "ranks", "accumulation"), [(1, 1, 1), (2, 2, 1), (2, 4, 1), (2, 2, 3), (1, 2, 3)]
)
@given(case=counts_and_packs(multiple=12))
def test_released_weights_equal_the_released_steps_written_out(local_gpus, ranks, accumulation, case):
    counts, packs = case
    losses = summed_losses(counts)
    shape = {"local_gpus": local_gpus, "ranks": ranks, "accumulation": accumulation}
    expected = released_step(losses, counts, packs, **shape)
    assert (released_weights(counts, packs, **shape) * losses).sum() == pytest.approx(expected, **CLOSE)


COUNTS_8, PACKS_8 = [2, 4, 3, 5, 1, 7, 6, 9], [[0, 1, 2], [3], [4, 5], [6, 7]]


def test_the_released_code_is_right_on_one_machine_with_one_pack_a_device():
    released = released_weights(COUNTS_8, PACKS_8, local_gpus=4, ranks=4)
    assert released.tolist() == pytest.approx(loss_weights(COUNTS_8).tolist(), **CLOSE)


@pytest.mark.parametrize(
    "shape",
    [
        {"local_gpus": 1, "ranks": 4},
        {"local_gpus": 1, "ranks": 2, "accumulation": 2},
        {"local_gpus": 1, "ranks": 1, "accumulation": 4},
    ],
)
def test_the_released_code_favours_sparse_packs_with_several_machines_or_accumulation(shape):
    share = released_weights(COUNTS_8, PACKS_8, **shape) * COUNTS_8
    assert share.sum() == pytest.approx(1.0)
    assert share.tolist() == pytest.approx([1 / 12] * 3 + [1 / 4] + [1 / 8] * 4)


def test_the_released_code_is_twice_too_large_with_two_packs_per_device():
    share = released_weights([3] * 8, [[0, 1], [2, 3], [4, 5], [6, 7]], local_gpus=2, ranks=2) * 3
    assert share.sum() == pytest.approx(2.0)


def test_the_released_code_cannot_run_without_a_gpu():
    with pytest.raises(ValueError, match="local_gpus and accumulation must be at least 1"):
        released_weights([2, 4, 3], [[0, 1], [2]], local_gpus=0, ranks=2)


# ---- edges and bad input


def test_sequences_without_targets_weigh_nothing_and_are_not_counted():
    assert loss_weights([2, 0, 4]).tolist() == pytest.approx([1 / 4, 0, 1 / 8])
    assert eq3_weights([2, 0, 4], [[0, 2], [1]]).tolist() == pytest.approx([1 / 6, 0, 1 / 6])
    assert released_weights([2, 0, 4], [[0, 2], [1]], local_gpus=2, ranks=2).tolist() == pytest.approx(
        [1 / 4, 0, 1 / 8]
    )


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_without_any_target_all_weights_are_zero(counts):
    packs = next_fit(counts, 1)
    assert loss_weights(counts).tolist() == [0.0] * len(counts)
    assert eq3_weights(counts, packs).tolist() == [0.0] * len(counts)
    assert released_weights(counts, packs, local_gpus=1, ranks=1).tolist() == [0.0] * len(counts)


def test_one_sequence_has_the_whole_step():
    assert loss_weights([5]).tolist() == eq3_weights([5], [[0]]).tolist() == [1 / 5]


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan"), float("inf")])
def test_an_exponent_outside_zero_to_one_is_refused(exponent):
    with pytest.raises(ValueError, match="exponent must lie from 0"):
        loss_weights([2, 4, 3], exponent)


@pytest.mark.parametrize(
    ("packs", "message"),
    [
        ([[0, 3]], "pack 0 holds sequence 3"),
        ([[0], [-1]], "pack 1 holds sequence -1"),
        ([[0], [1, 0]], "occurs twice, in packs 0 and 1"),
    ],
)
def test_packs_that_do_not_fit_the_counts_are_refused(packs, message):
    with pytest.raises(ValueError, match=message):
        eq3_weights([2, 4, 3], packs)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"local_gpus": 2, "ranks": 3}, "a multiple of local_gpus"),
        ({"local_gpus": 1, "ranks": 1, "accumulation": 2}, "3 packs do not fill 1 ranks x 2 micro-steps evenly"),
    ],
)
def test_a_shape_that_the_packs_do_not_fill_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        released_weights([2, 4, 3], [[0], [1], [2]], **shape)


def test_negative_counts_are_refused_by_name():
    with pytest.raises(ValueError, match=r"target_counts\[1\] is -4"):
        loss_weights([2, -4, 3])
