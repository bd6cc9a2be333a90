"""The two packing rules against the definition of best-fit decreasing, and on cases where they part."""

from hypothesis import given
from hypothesis import strategies as st

from longalign.recipe.packing import best_fit, exact_fit


def grouped(lengths):
    """Sequences, the longest first, and how many have each length."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return order, {length: lengths.count(length) for length in sorted(lengths, reverse=True)}


def slow_best_fit(lengths, capacity):
    """The definition, one sequence at a time: free tokens of the packs at the end."""
    free = []
    for length in sorted(lengths, reverse=True):
        fitting = [pack for pack in range(len(free)) if free[pack] >= length]
        if not fitting:
            free.append(capacity)
            fitting = [len(free) - 1]
        free[min(fitting, key=free.__getitem__)] -= length
    return sorted(free)


@given(capacity=st.integers(1, 300), shares=st.lists(st.floats(0, 1), max_size=60))
def test_best_fit_leaves_the_same_free_tokens_as_its_definition(capacity, shares):
    lengths = [round(share * capacity) for share in shares]
    packs = best_fit(*grouped(lengths), capacity)
    assert sorted(capacity - sum(lengths[i] for i in pack) for pack in packs) == slow_best_fit(lengths, capacity)


@given(capacity=st.integers(1, 40), shares=st.lists(st.floats(0, 1), max_size=60))
def test_exact_fit_places_every_sequence_once_within_the_capacity(capacity, shares):
    lengths = [round(share * capacity) for share in shares]
    packs = exact_fit(*grouped(lengths), capacity)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(pack and sum(lengths[i] for i in pack) <= capacity for pack in packs)


def test_exact_fit_needs_fewer_packs_where_best_fit_leaves_holes():
    groups = grouped([5, 4, 4, 3, 2, 2])
    assert best_fit(*groups, 10) == [[0, 1], [2, 3, 4], [5]]  # 5+4 and 4+3+2 leave holes of 1
    assert exact_fit(*groups, 10) == [[0, 3, 4], [1, 2, 5]]  # 5+3+2 and 4+4+2 are full


def test_a_pair_of_equal_lengths_needs_two_sequences():
    assert exact_fit(*grouped([6, 3, 2]), 10) == [[0, 1], [2]]  # 6+2+2 would be exact, but there is one 2
