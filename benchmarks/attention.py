"""Attention over a pack on a CPU: ours, a sequence at a time, against sdpa with a dense block-diagonal mask.

Forward and backward pass, fp32, one thread, 9 heads of 64 features (SmolLM2-135M's). Time is processor seconds, the
system's included; memory is the resident peak over what was resident before, gradients included; the dense side's mask
is a part of what it needs, so making it counts. A child takes one measurement; what is compared takes turns. Before
anything is timed, values and gradients of both are compared: largest difference over the largest entry.

    python -m benchmarks.attention
"""

import resource
import sys
import time

from benchmarks import common

TARGET = "attention"
HEADS, HEAD_SIZE, LENGTH = 9, 64, 1024
UNEVEN = [4096, 2048, 1024, 512, 256, 128, 64, 64]
DENSE = "sdpa, dense mask"
SIZES, TIMED = (2_048, 4_096, 8_192, 16_384), 8_192


def ours(query, key, value, lengths: list[int]):  # noqa: ANN001, ANN201
    """`longalign.recipe.attention`; [1, T, heads, features]."""
    import torch

    from longalign.recipe.attention import block_causal_attention

    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    return block_causal_attention(query, key, value, offsets, max(lengths))


def dense(query, key, value, lengths: list[int]):  # noqa: ANN001, ANN201
    """What transformers does with a pack: a mask of T x T, true where a token sees one of its sequence before it."""
    import torch

    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (sequence[:, None] == sequence).tril_()
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


ATTENTIONS = {common.OURS: ours, DENSE: dense}


def passes(system: str, lengths: list[int]) -> list:
    """Value and gradients of queries, keys and values after a forward and a backward pass."""
    import torch

    torch.manual_seed(0)
    states = [torch.randn(1, HEADS, sum(lengths), HEAD_SIZE).requires_grad_() for _ in range(3)]
    upstream = torch.randn(1, sum(lengths), HEADS, HEAD_SIZE)
    began, resident = time.process_time(), _resident_mb()
    out = ATTENTIONS[system](*states, lengths)
    out.backward(upstream)
    taken = {"time": time.process_time() - began, "memory": common.peak_mb() - resident}
    return [out.detach(), *(state.grad for state in states), taken]


def child(system: str, *lengths: str) -> None:
    """One forward and backward pass; or, for "compare", how far both systems are apart."""
    import torch

    torch.set_num_threads(1)
    sizes = [int(length) for length in lengths]
    if system != "compare":
        passes(system, [8, 4])  # what is made once
        return common.report(**passes(system, sizes)[-1])
    here, there = passes(common.OURS, sizes), passes(DENSE, sizes)
    apart = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(here[:-1], there[:-1], strict=True)]
    common.report(value=apart[0], gradients=max(apart[1:]))


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def run(rounds: int = 3) -> list[common.Row]:
    """Both compared, times by turns (uneven lengths once), and memory over the size."""
    compared = common.alternate({common.OURS: _command("compare", UNEVEN)}, rounds=1)
    rows = common.rows_of(TARGET, "8,192 uneven", compared, {"value": "relative", "gradients": "relative"},
                          {common.OURS: "largest difference from the dense mask, fp32"})  # fmt: skip
    uneven = _taken(UNEVEN, 1)
    even = {tokens: _taken([LENGTH] * (tokens // LENGTH), rounds if tokens == TIMED else 1) for tokens in SIZES}
    for case, taken in (("8,192 uneven", uneven), (_case(TIMED), even[TIMED])):
        rows += common.rows_of(TARGET, case, taken, {"time": "CPU s"})
        rows.append(common.ratio(TARGET, case, "time", taken, DENSE, common.OURS))
    for tokens, taken in even.items():
        rows += common.rows_of(TARGET, _case(tokens), taken, {"memory": "MB"})
    for system in ATTENTIONS:
        pair = {f"{n:,} tokens": even[n][system] for n in SIZES[-2:]}
        rows.append(common.ratio(TARGET, system, "memory", pair, *reversed(pair), "2 is linear, 4 quadratic"))
    return rows


def _taken(lengths: list[int], rounds: int) -> dict[str, common.Samples]:
    return common.alternate({system: _command(system, lengths) for system in ATTENTIONS}, rounds)


def _case(tokens: int) -> str:
    return f"{tokens:,} in {LENGTH:,}s"


def _command(system: str, lengths: list[int]) -> common.Command:
    return common.Command(["-m", "benchmarks.attention", system, *map(str, lengths)])


def main() -> int:
    """Measure, show and save."""
    return common.finish(TARGET, run())


if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]) if sys.argv[1:] else main())
