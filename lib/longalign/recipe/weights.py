"""Weight of each target token in an optimizer step, such that the step's loss is the plain sum of weight x CE.

`loss_weights` is right for any placement of the sequences: packs, ranks and micro-steps do not enter it, but the target
counts of the whole optimizer step, which the plan has and a single rank has not. `eq3_weights` and `released_weights`
put two other normalisations into the same form, to be compared with it.

All take N_i, the target tokens of each sequence in the optimizer step on all ranks and micro-steps, shape [sequences],
and return float64 weights of the same shape; a sequence without targets weighs 0 and is not counted. L_i is the summed
cross entropy over the N_i tokens (arXiv 2401.18058). Packs (`step.rows`) hold indices into the counts; a sequence in
none weighs 0. All raise ValueError for counts that are not valid, and an index that is out of range or occurs twice.

A training may change its weighting on the way: `stages` reads which one holds from which share of the steps on.
"""

from collections.abc import Sequence
from operator import index
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np

from longalign.common.array_types import Counts, Float, Int, as_counts

Packing = Sequence[Sequence[SupportsIndex]]
Weighting = Literal["sequence", "square_root", "token", "eq3", "released"]
Schedule = Sequence[Sequence[Any]]
"""Pairs: the share of the steps from which on a weighting holds, and its name."""
EXPONENTS = {"sequence": 0.0, "square_root": 0.5, "token": 1.0}
"""The exponent a of each weighting that `loss_weights` gives."""


def stages(weighting: str | Schedule) -> tuple[tuple[Any, Any], ...]:
    """The schedule that `weighting` is, or stands for: one name holds from the first step to the last.

    Of n steps, step k (from 0) has the last weighting whose share is at most k / n. Nemotron 3 Super (arXiv 2604.12374)
    takes the token mean first and then the sequence mean: [(0, "token"), (0.8, "sequence")] does so for the last fifth.
    Raises ValueError for an unknown name, for a schedule that is no pairs of a share and a name, and for shares that do
    not start with 0 and ascend below 1.

    >>> [[name for share, name in stages([(0, "token"), (0.8, "sequence")]) if k / 5 >= share][-1] for k in (0, 3, 4)]
    ['token', 'token', 'sequence']
    """
    given: Sequence[Any] = [(0.0, weighting)] if isinstance(weighting, str) else weighting
    if any(isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2 for pair in given):
        raise ValueError('a schedule of weightings is pairs of a share of the steps and a name, such as [(0, "token"), '
                         f'(0.8, "sequence")], not {weighting!r}')  # fmt: skip
    schedule = tuple((share, name) for share, name in given)
    shares, known = [share for share, _ in schedule], get_args(Weighting)
    for name in (name for _, name in schedule if name not in known):
        raise ValueError(f"weighting must be one of {', '.join(known)}, not {name!r}")
    if shares[:1] != [0] or any(not after > before for before, after in zip(shares, [*shares[1:], 1], strict=True)):
        told = f"the stages of a weighting begin at shares of the steps, 0 first, ascending below 1, not {shares}"
        raise ValueError(told)
    return schedule


def loss_weights(target_counts: Counts, exponent: float = 0.0) -> Float[np.ndarray, " sequences"]:
    """w_i = N_i^(a - 1) / sum_j N_j^a: the weight of each target token of sequence i; sum_i w_i N_i = 1.

    a = 0: Eq. 2, the mean over the M sequences of their token means, w_i = 1 / (N_i M): LongAlign's loss weighting;
    a = 1: the mean over all target tokens, w_i = 1 / sum_j N_j;
    a = 1/2: between the two (InternVL 2.5, arXiv 2412.05271).
    Eq. 4 writes a = 0 as a factor K / (N_i M) = K w_i on L_i, summed within each of K packs and averaged over the
    packs: the same number, whatever K is. Raises ValueError for an exponent outside [0, 1]: beyond it, one sequence
    would outweigh both means.

    >>> loss_weights([2, 4, 3]).round(4).tolist()  # 1/6, 1/12, 1/9: each sequence has a share of 1/3
    [0.1667, 0.0833, 0.1111]
    """
    if not 0.0 <= exponent <= 1.0:
        raise ValueError(f"exponent must lie from 0 (sequence mean) to 1 (token mean), not {exponent}")
    counts = as_counts(target_counts, name="target_counts").astype(np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = counts[present] ** (exponent - 1.0) / (counts[present] ** exponent).sum()
    return weights


def eq3_weights(target_counts: Counts, packs: Packing) -> Float[np.ndarray, " sequences"]:
    """Plain packing (Eq. 3): the token mean of each pack, averaged over the packs, in the form of `loss_weights`.

    w_i = 1 / (K sum of N_j over the pack of i). Biased twice: within a pack, to sequences with many targets; between
    packs, to sequences in packs with few targets. A pack without targets has no mean and is not counted in K.

    >>> eq3_weights([2, 4, 3], [[0, 1], [2]]).round(4).tolist()  # 1/12, 1/12, 1/6; Eq. 2 wants 1/6, 1/12, 1/9
    [0.0833, 0.0833, 0.1667]
    """
    counts = as_counts(target_counts, name="target_counts")
    pack_of = _pack_of(packs, len(counts))
    placed = pack_of >= 0
    totals = np.bincount(pack_of[placed], weights=counts[placed], minlength=len(packs))
    weights = np.zeros(len(counts))
    counted = placed & (counts > 0)
    weights[counted] = 1.0 / (np.count_nonzero(totals) * totals[pack_of[counted]])
    return weights


def released_weights(
    target_counts: Counts, packs: Packing, *, local_gpus: int, ranks: int, accumulation: int = 1
) -> Float[np.ndarray, " sequences"]:
    """What the released code's loss weighting amounts to after the engine's mean over ranks and micro-steps.

    It scales 1 / N_i by local_gpus / n, where n counts the sequences in a block of local_gpus consecutive packs and
    local_gpus is the device count of one machine; a micro-batch takes the n of its first pack. The engine then divides
    by ranks x accumulation. On one machine, with one pack a device and no accumulation, that is Eq. 2. With several
    machines or accumulation each block has the same share, so that a sequence weighs less the more there are in its
    block; with R packs a device the loss is about R times too large. A block without targets weighs 0, where the
    released code divides zero by zero. `packs` are in the data's order, as many for each device and micro-step.

    Raises ValueError for local_gpus below 1 (the released code divides by zero on a CPU), ranks that are no multiple of
    it, and packs that do not fill ranks x accumulation micro-batches evenly.

    >>> released_weights([2, 4, 3], [[0, 1], [2]], local_gpus=1, ranks=2).round(4).tolist()  # two machines
    [0.125, 0.0625, 0.1667]
    """
    counts = as_counts(target_counts, name="target_counts")
    pack_of = _pack_of(packs, len(counts))
    if local_gpus < 1 or accumulation < 1 or ranks < local_gpus or ranks % local_gpus:
        raise ValueError(
            f"local_gpus and accumulation must be at least 1 and ranks a multiple of local_gpus, not {local_gpus}, "
            f"{accumulation} and {ranks}"
        )
    if len(packs) % (ranks * accumulation):
        raise ValueError(f"{len(packs)} packs do not fill {ranks} ranks x {accumulation} micro-steps evenly")
    rows = len(packs) // (ranks * accumulation)
    counted = (pack_of >= 0) & (counts > 0)
    in_block = np.bincount(pack_of[counted] // local_gpus, minlength=len(packs) // local_gpus)
    first_of_micro_batch = pack_of[counted] // max(1, rows) * rows
    divisor = in_block[first_of_micro_batch // local_gpus]
    scale = np.divide(local_gpus, divisor, out=np.zeros(len(divisor)), where=divisor > 0)
    weights = np.zeros(len(counts))
    weights[counted] = scale / (ranks * accumulation * counts[counted])
    return weights


def _pack_of(packs: Packing, sequences: int) -> Int[np.ndarray, " sequences"]:
    """Number of the pack that each sequence is in, -1 for none."""
    pack_of = np.full(sequences, -1)
    for number, pack in enumerate(packs):
        for sequence in map(index, pack):
            if not 0 <= sequence < sequences:
                raise ValueError(f"pack {number} holds sequence {sequence}, but target_counts has {sequences} entries")
            if pack_of[sequence] >= 0:
                raise ValueError(f"sequence {sequence} occurs twice, in packs {pack_of[sequence]} and {number}")
            pack_of[sequence] = number
    return pack_of
