"""The plan's guarantee is enforced, its counts are those of the step, its hash tells two plans apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.recipe.batching import Plan, Step, deal


def plan(steps, lengths=(2, 4, 3), target_counts=(1, 3, 2), ranks=2, accumulation=1):
    return Plan("naive", np.array(lengths), np.array(target_counts), None, ranks, accumulation, 1, tuple(steps))


STEPS = (Step(((((2,),),), (((0,),),))), Step(((((1,),),), ((),))))


@given(
    rows=st.integers(0, 60), ranks=st.integers(1, 5), accumulation=st.integers(1, 4), per_micro_batch=st.integers(1, 3)
)
def test_every_step_is_rectangular_and_the_order_of_the_rows_is_kept(rows, ranks, accumulation, per_micro_batch):
    given_rows = [(i,) for i in range(rows)]
    steps = deal(given_rows, ranks=ranks, accumulation=accumulation, rows=per_micro_batch)
    assert [row for step in steps for row in step.rows] == given_rows
    for step in steps:
        assert [len(micro_batches) for micro_batches in step.micro_batches] == [accumulation] * ranks
        assert all(len(batch) <= per_micro_batch for batches in step.micro_batches for batch in batches)
    assert len(steps) == -(-rows // (ranks * accumulation * per_micro_batch))


def test_neighbours_run_at_the_same_time_on_different_ranks():
    (step,) = deal([(i,) for i in range(6)], ranks=2, accumulation=3, rows=1)
    assert step.micro_batches == ((((0,),), ((2,),), ((4,),)), (((1,),), ((3,),), ((5,),)))


def test_only_the_last_step_has_fillers_and_they_are_empty_micro_batches():
    full, last = deal([(i,) for i in range(5)], ranks=2, accumulation=2, rows=1)
    assert full.sequences == (0, 1, 2, 3)
    assert last.micro_batches == ((((4,),), ()), ((), ()))


@pytest.mark.parametrize("name", ["ranks", "accumulation", "rows"])
def test_a_shape_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        deal([(0,)], **{"ranks": 1, "accumulation": 1, "rows": 1, name: 0})


def test_a_missing_or_doubled_sequence_is_refused():
    plan(STEPS)
    with pytest.raises(ValueError, match="each of the 3 sequences exactly once"):
        plan(STEPS[:1])
    with pytest.raises(ValueError, match="each of the 3 sequences exactly once"):
        plan((*STEPS, STEPS[1]))


def test_a_step_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="step 0 has .* not 2 ranks of 3"):
        plan(STEPS, accumulation=3)


def test_more_targets_than_tokens_that_are_predicted_are_refused():
    with pytest.raises(ValueError, match="sequence 1 has 4 targets in 4 tokens"):
        plan(STEPS, target_counts=(1, 4, 2))


def test_m_counts_sequences_with_targets_and_k_counts_rows_over_all_ranks_and_micro_steps():
    step = Step((((((0, 1)),), ((4,),)), (((2, 3),), ())))
    packed = Plan("packing", np.full(5, 4), np.array([3, 0, 2, 1, 0]), 8, 2, 2, 1, (step,))
    assert (packed.sequences_with_targets(step), packed.packs(step)) == (3, 3)


def test_the_hash_is_the_same_for_the_same_plan_and_differs_when_anything_does():
    assert plan(STEPS).order_hash() == plan(STEPS).order_hash()
    others = [plan(STEPS[::-1]), plan(STEPS, lengths=(2, 5, 3)), plan(STEPS, target_counts=(1, 3, 1))]
    assert len({other.order_hash() for other in [plan(STEPS), *others]}) == 4


def test_the_hash_of_a_small_plan_is_the_same_on_every_machine():
    assert plan(STEPS).order_hash().startswith("5caf67d5d6925960")
