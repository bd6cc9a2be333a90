"""The loss over a large vocabulary: ours by chunks against the plain path, which has all T x V logits in fp32 at once.

Forward and backward pass of sum(weight_t x cross entropy_t) over a linear layer, all tokens being targets, hidden size
576 and vocabulary 49,152 (SmolLM2-135M's). Time is processor seconds, the system's included, for page faults are a part
of what logits cost; memory is the resident peak over what was resident before, gradients included. A child takes one
measurement; ours and the plain path take turns. The full size, 16,384 tokens, is taken once, and its values and
gradients are compared: largest difference over the largest entry, in fp32, as the loss computes. TRL is taken once, at
the small size, and its value compared. What is not the same loss gives no time.

Liger's kernel (0.8.5) is a row without a value: it is Triton's, which has no driver for a CPU ("0 active drivers");
TRITON_INTERPRET=1 alone runs it there, element by element in Python.

    python -m benchmarks.loss
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import common, peers

TARGET = "loss"
HIDDEN, VOCABULARY = 576, 49_152
FULL, SMALL = 16_384, 2_048
UNITS = {"time": "CPU s", "memory": "MB"}
SAME = 1e-5
"""Relative difference up to which two fp32 losses are the same."""
LIGER = "liger-kernel 0.8.5"


def ours(hidden, weight, targets, weights):  # noqa: ANN001, ANN201
    """`longalign.recipe.loss`, whose labels begin with the token that nothing predicts."""
    import torch

    from longalign.recipe.loss import weighted_cross_entropy

    labels, scales = (torch.nn.functional.pad(row, (1, 0))[None] for row in (targets, weights))
    return weighted_cross_entropy(hidden[None], weight, labels, scales)


def plain(hidden, weight, targets, weights):  # noqa: ANN001, ANN201
    """Linear layer, cross entropy of every token, weighted sum."""
    from torch.nn import functional

    logits = functional.linear(hidden, weight)
    return (weights * functional.cross_entropy(logits, targets, reduction="none")).sum()


def trl(hidden, weight, targets, weights):  # noqa: ANN001, ANN201
    """TRL's chunked log-probabilities, as its SFT trainer calls them."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    chunk = _CHUNKED_LOGPROB_CHUNK_SIZE
    return -(weights * ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, chunk, None, 1.0, ())[0]).sum()


LOSSES = {loss.__name__: loss for loss in (ours, plain, trl)}


def inputs(tokens: int, hidden_size: int = HIDDEN, vocabulary: int = VOCABULARY) -> tuple:
    """Hidden states, matrix, targets and weights whose sum is about 1, the same for every system."""
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(tokens, hidden_size).requires_grad_()
    weight = (torch.randn(vocabulary, hidden_size) * hidden_size**-0.5).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,)), 2 * torch.rand(tokens) / tokens


def child(system: str, tokens: int, file: str = "") -> None:
    """One forward and backward pass; loss and gradients go to `file`, when one is named."""
    import torch

    torch.set_num_threads(1)
    loss: Callable = LOSSES[system]
    loss(*inputs(8, 4, 16)).backward()  # imports, and what is made once
    given = inputs(tokens)
    resident, began = _resident_mb(), time.process_time()
    value = loss(*given)
    value.backward()
    seconds, memory = time.process_time() - began, common.peak_mb() - resident
    if file:
        torch.save([value.detach(), given[0].grad, given[1].grad], file)
    common.report(time=seconds, memory=memory, value=float(value))


def compare(first: str, second: str) -> None:
    """Report how far two files of `child` are apart. Raises RuntimeError where they are not the same loss."""
    import torch

    names = ("value", "gradient of the hidden states", "gradient of the matrix")
    pairs = zip(torch.load(first), torch.load(second), strict=True)
    found = {name: apart(a, b) for name, (a, b) in zip(names, pairs, strict=True)}
    if max(found.values()) > SAME:
        raise RuntimeError(f"{first} and {second} are not the same loss: {found}")
    common.report(**found)


def apart(ours, theirs) -> float:  # noqa: ANN001
    """Largest difference over the largest entry of the second."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def run(rounds: int = 3) -> list[common.Row]:
    """Small sizes by turns, the full size once, values and gradients, and the peers."""
    small, full = f"{SMALL:,} tokens", f"{FULL:,} tokens"
    taken = common.alternate({name: _command(name, SMALL) for name in (common.OURS, "plain")}, rounds)
    rows = common.rows_of(TARGET, small, taken, UNITS)
    rows += [common.ratio(TARGET, small, metric, taken, common.OURS, "plain") for metric in UNITS]
    with tempfile.TemporaryDirectory(prefix="longalign-loss-") as folder:
        files = {name: str(Path(folder) / name) for name in (common.OURS, "plain")}
        once = common.alternate({name: _command(name, FULL, file) for name, file in files.items()}, rounds=1)
        rows += common.rows_of(TARGET, full, once, UNITS)
        rows += [common.ratio(TARGET, full, metric, once, common.OURS, "plain") for metric in UNITS]
        apart = common.Command(["-m", "benchmarks.loss", "compare", *files.values()])
        rows += _difference_rows(full, common.alternate({common.OURS: apart}, rounds=1)[common.OURS])
    return rows + _peer_rows(small, taken["plain"].of("value"))


def _difference_rows(case: str, found: common.Samples) -> list[common.Row]:
    parts = found.rounds[0] if found.rounds else ["value and gradients"]
    note = found.failure or "fp32, against the plain path"
    return [common.row(TARGET, common.OURS, case, f"difference of the {part}", "relative", found.of(part), note)
            for part in parts]  # fmt: skip


def _peer_rows(case: str, expected: list[float]) -> list[common.Row]:
    """Of peers, once; a loss that is not the plain one has no row of its time."""
    known = peers.state("trl")
    note = known.reason or "its tiles are Triton's on a GPU, here torch's"
    taken = common.Samples(failure=known.reason)
    if not known.reason:
        command = peers.command("trl", "-m", "benchmarks.loss", "trl", str(SMALL))
        taken = common.alternate({known.system: command}, rounds=1)[known.system]
        for found, right in zip(taken.of("value"), expected, strict=False):
            if abs(found / right - 1) > SAME:
                taken = common.Samples(failure=f"its loss is {found:g}, the plain one {right:g}")
    rows = common.rows_of(TARGET, case, {known.system: taken}, UNITS, {known.system: note})
    why = "Triton has no driver for a CPU: 0 active drivers"
    return rows + [common.row(TARGET, LIGER, case, metric, unit, [], why) for metric, unit in UNITS.items()]


def _command(name: str, tokens: int, *file: str) -> common.Command:
    return common.Command(["-m", "benchmarks.loss", name, str(tokens), *file])


def main() -> int:
    """Measure, show and save."""
    return common.finish(TARGET, run(), peers=peers.versions())


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        sys.exit(compare(*sys.argv[2:]))
    sys.exit(child(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]) if sys.argv[1:] else main())
