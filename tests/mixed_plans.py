"""Plans of two kinds of packs, drawn at random, and who computes which of their rows."""

from hypothesis import strategies as st

from longalign.recipe.batching import make_plan
from longalign.recipe.cost import SequenceCost

CAPACITY, QUADRATIC = 10, SequenceCost(per_token=3.0, per_pair=1.0)


@st.composite
def settings_of_plans(draw):
    degree, groups = draw(st.sampled_from([2, 3, 4])), draw(st.integers(1, 2))
    lengths = draw(st.lists(st.integers(0, degree * CAPACITY), max_size=30))
    return lengths, {
        "capacity": CAPACITY, "degree": degree, "ranks": degree * groups, "accumulation": draw(st.integers(1, 3)),
        "share_above": draw(st.integers(0, CAPACITY)), "rows": draw(st.integers(1, 2)), "seed": draw(st.integers(0, 5)),
        "algorithm": draw(st.sampled_from(["next_fit", "best_fit"])),
    }  # fmt: skip


def mixed(lengths, **given_settings):
    return make_plan("packing", lengths, **given_settings)


def computed(plan, step):
    """The oracle: (rows, how many ranks compute them) for each micro-step and group, read off rank by rank."""
    groups = [range(first, first + plan.degree) for first in range(0, plan.ranks, plan.degree)]
    for micro_step in range(plan.accumulation):
        for group in groups:
            kinds = {plan.shared_by(step, rank, micro_step) for rank in group}
            assert len(kinds) == 1, "all ranks of a group do the same at the same time"
            if kinds == {plan.degree}:
                assert not any(step.micro_batches[rank][micro_step] for rank in group[1:]), "listed once"
                yield step.micro_batches[group[0]][micro_step], plan.degree
            else:
                yield from ((step.micro_batches[rank][micro_step], 1) for rank in group)
