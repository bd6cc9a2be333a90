"""Packing: every sequence once, capacity kept, the provable minimum reached; offsets and positions against loops."""

import time
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.data.lengths import fit_lengths
from longalign.recipe.packing import (
    best_fit_decreasing,
    cu_seqlens,
    fill,
    lower_bound,
    next_fit,
    position_ids,
)

PACKERS = pytest.mark.parametrize("packer", [next_fit, best_fit_decreasing])


@st.composite
def lengths_and_capacity(draw, most=60):
    capacity = draw(st.integers(1, 40))
    return draw(st.lists(st.integers(0, capacity), max_size=most)), capacity


def mixture(sequences, seed=0):
    """90 % lognormal around 800 tokens, 10 % uniform over 8k-64k, in random order."""
    random = np.random.default_rng(seed)
    long = random.integers(8192, 65537, sequences // 10)
    short = np.clip(random.lognormal(np.log(800), 1.0, sequences - len(long)), 1, 65536).astype(int)
    return random.permutation(np.concatenate([short, long]))


def fewest_packs(lengths, capacity):
    """The true minimum, by trying every subset as the next pack."""

    @cache
    def needed(left):
        if not left:
            return 0
        first, rest, best = left[0], left[1:], len(left)
        for subset in range(1 << len(rest)):
            chosen = [i for i in range(len(rest)) if subset >> i & 1]
            if first + sum(rest[i] for i in chosen) <= capacity:
                best = min(best, 1 + needed(tuple(x for i, x in enumerate(rest) if i not in chosen)))
        return best

    return needed(tuple(sorted(lengths, reverse=True)))


@PACKERS
@given(case=lengths_and_capacity())
def test_every_sequence_is_in_exactly_one_pack_and_no_pack_is_over_the_capacity(packer, case):
    lengths, capacity = case
    packs = packer(lengths, capacity)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(pack and sum(lengths[i] for i in pack) <= capacity for pack in packs)


def test_next_fit_equals_a_hand_worked_example():
    # 3+5 is exactly full; 2+4 leaves 2, too few for 4; 4+1 leaves 3, too few for 7, which stays alone in the last pack
    assert next_fit([3, 5, 2, 4, 4, 1, 7], 8) == [[0, 1], [2, 3], [4, 5], [6]]


@given(case=lengths_and_capacity())
def test_next_fit_keeps_the_order_and_opens_a_pack_only_when_it_must(case):
    lengths, capacity = case
    packs = next_fit(lengths, capacity)
    assert [i for pack in packs for i in pack] == list(range(len(lengths)))
    for pack, following in pairwise(packs):
        assert sum(lengths[i] for i in pack) + lengths[following[0]] > capacity


@settings(max_examples=60, deadline=None)
@given(case=lengths_and_capacity(most=7))
def test_the_bound_is_never_above_and_best_fit_never_below_the_true_minimum(case):
    lengths, capacity = case
    assert (
        lower_bound(lengths, capacity) <= fewest_packs(lengths, capacity) <= len(best_fit_decreasing(lengths, capacity))
    )


def test_best_fit_reaches_the_true_minimum_in_almost_all_small_cases():
    random = np.random.default_rng(0)
    cases = [random.integers(1, 21, random.integers(1, 9)).tolist() for _ in range(200)]
    reached = [len(best_fit_decreasing(lengths, 20)) == fewest_packs(lengths, 20) for lengths in cases]
    assert np.mean(reached) >= 0.98


@pytest.mark.parametrize("seed", range(12))
def test_best_fit_reaches_the_provable_minimum_on_the_long_tailed_mixture(seed):
    lengths = mixture(10_000, seed)
    assert len(best_fit_decreasing(lengths, 65536)) == lower_bound(lengths, 65536)


def test_best_fit_takes_the_exact_packing_where_it_is_smaller():
    assert best_fit_decreasing([5, 4, 4, 3, 2, 2], 10) == [[0, 3, 4], [1, 2, 5]]


def test_best_fit_reaches_the_provable_minimum_on_the_miniature_mixture():
    random = np.random.default_rng(0)
    lengths = np.concatenate([random.integers(8, 129, 1400), random.integers(128, 1025, 160)])
    assert len(best_fit_decreasing(lengths, 1024)) == lower_bound(lengths, 1024)


def test_next_fit_leaves_about_a_fifth_of_the_mixture_empty():
    lengths = mixture(10_000)
    assert 0.77 < fill(next_fit(lengths, 65536), lengths, 65536) < 0.83


@PACKERS
def test_a_hundred_thousand_sequences_take_less_than_a_second(packer):
    lengths = mixture(100_000)
    start = time.process_time()
    packer(lengths, 65536)
    assert time.process_time() - start < 1.0


def test_the_bound_is_above_the_volume_where_sequences_cannot_share():
    assert lower_bound([6, 6, 6, 1], 10) == 3  # 19 tokens would fit into 2 packs
    assert lower_bound([6, 6, 3, 5, 5, 5], 10) == 4  # 6+3, 6, 5+5, 5: nothing but the 3 fits beside a 6


def test_the_bound_is_the_volume_where_sequences_are_small():
    assert lower_bound([1] * 25, 10) == 3


@PACKERS
def test_no_sequence_gives_no_pack(packer):
    assert packer([], 8) == []
    assert lower_bound([], 8) == 0
    assert fill([], [], 8) == 1.0


@PACKERS
def test_one_sequence_gives_one_pack_that_it_may_fill(packer):
    assert packer([8], 8) == [[0]]
    assert fill([[0]], [8], 8) == 1.0
    assert packer([8, 8, 3], 8)[:2] == [[0], [1]]


@PACKERS
def test_sequences_of_length_zero_share_one_pack(packer):
    assert packer([0, 0, 0], 8) == [[0, 1, 2]]
    assert len(packer([0, 8, 0], 8)) == lower_bound([0, 8, 0], 8) == 1


@PACKERS
def test_arrays_of_any_integer_type_are_taken_and_the_indices_are_plain_ints(packer):
    packs = packer(np.array([2, 4, 3], dtype=np.uint16), 9)
    assert packs == packer([2, 4, 3], 9)
    assert all(type(i) is int for i in packs[0])


def test_best_fit_is_deterministic_and_ties_follow_the_order_given():
    assert best_fit_decreasing([5, 5, 5], 9) == [[0], [1], [2]]
    assert best_fit_decreasing(mixture(1000), 65536) == best_fit_decreasing(mixture(1000), 65536)


@pytest.mark.parametrize("function", [next_fit, best_fit_decreasing, lower_bound, fit_lengths])
def test_a_length_over_the_capacity_is_an_error_that_names_it(function):
    with pytest.raises(ValueError, match=r"sequence 1 has 9 tokens, over the capacity of 8 \(and 2 more\)"):
        function([2, 9, 10, 8, 11], 8)


@pytest.mark.parametrize("function", [next_fit, best_fit_decreasing, lower_bound, fit_lengths])
def test_a_capacity_below_one_token_is_an_error(function):
    with pytest.raises(ValueError, match="capacity must be at least 1 token, not 0"):
        function([0], 0)


@pytest.mark.parametrize("function", [next_fit, best_fit_decreasing, lower_bound, fit_lengths])
@pytest.mark.parametrize("capacity", [10**18 - 1, 10**30])
def test_a_capacity_of_which_the_sequences_cannot_be_added_up_is_an_error(function, capacity):
    with pytest.raises(ValueError, match="20 sequences of up to 1?[09]+ tokens do not add up in 64 bits"):
        function([6 * 10**17] * 20, capacity)


def test_truncation_reports_what_it_cut():
    lengths, truncated = fit_lengths([2, 9, 8, 11], 8, overlong="truncate")
    assert lengths.tolist() == [2, 8, 8, 8]
    assert truncated.tolist() == [1, 3]


def test_lengths_that_fit_pass_unchanged():
    for overlong in ("error", "truncate"):
        lengths, truncated = fit_lengths([2, 4, 3], 4, overlong=overlong)
        assert (lengths.tolist(), truncated.tolist()) == ([2, 4, 3], [])


def test_an_unknown_treatment_of_overlong_sequences_is_refused():
    with pytest.raises(ValueError, match='must be "error" or "truncate"'):
        fit_lengths([2], 4, overlong="drop")


@given(lengths=st.lists(st.integers(0, 9), max_size=9))
def test_offsets_and_positions_equal_a_loop_over_the_sequences(lengths):
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    assert cu_seqlens(lengths).tolist() == offsets
    assert position_ids(lengths).tolist() == [t for length in lengths for t in range(length)]
    assert (cu_seqlens(lengths).dtype, position_ids(lengths).dtype) == (np.int32, np.int64)


def test_more_tokens_than_int32_can_address_are_refused():
    with pytest.raises(ValueError, match="more than int32 offsets can address"):
        cu_seqlens([2**31 - 1, 1])
    with pytest.raises(ValueError, match="holds 9223372036854775811 tokens"):
        cu_seqlens([2**62, 2**62, 3])  # their sum is below zero in 64 bits
    assert cu_seqlens([2**31 - 1])[-1] == 2**31 - 1
