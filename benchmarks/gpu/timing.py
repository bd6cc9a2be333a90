"""Time and peak memory of a call: CUDA events (a clock on a CPU), warm-up, inputs that rotate, medians.

Inputs rotate so that a call does not find its inputs in the card's cache because the call before has read them.
"""

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Times:
    """Seconds of one call, round by round; the largest memory in bytes while the rounds ran, and what was held before.

    On a CPU `peak` is the process's largest size so far, and `held` is 0.
    """

    rounds: tuple[float, ...]
    peak: int
    held: int = 0

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.rounds)

    @property
    def note(self) -> str:
        """Ends and number of the rounds, for a row's note."""
        return f"{min(self.rounds):.4g} to {max(self.rounds):.4g} s in {len(self.rounds)} rounds"


def measure(
    call: Callable[..., Any], inputs: Sequence[tuple], device: torch.device, *, rounds: int = 5, warm_up: int = 2
) -> Times:
    """Call `call(*inputs[i])`, i in rotation: `warm_up` times unmeasured, then `rounds` times measured."""
    for number in range(warm_up):
        call(*inputs[number % len(inputs)])
    reset_peak(device)
    before = held(device)
    marks = [_mark(device)]
    for number in range(rounds):
        call(*inputs[(warm_up + number) % len(inputs)])
        marks.append(_mark(device))
    wait(device)
    return Times(tuple(_between(a, b) for a, b in zip(marks, marks[1:], strict=False)), peak(device), before)


def clock(device: torch.device) -> float:
    """Seconds of a clock, after all that was asked of the device is done."""
    wait(device)
    return time.perf_counter()


def wait(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Forget the largest memory so far. A CPU's process cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """Bytes: the largest sum of tensors on the card since `reset_peak`; on a CPU the process's largest size so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held(device: torch.device) -> int:
    """Bytes that tensors on the card take now; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def memory_note(device: torch.device) -> str:
    """What to say of `peak` where it is not the tensors' alone."""
    return "" if device.type == "cuda" else "memory: the process's largest size"


def free(device: torch.device) -> None:
    """Give memory that nothing uses any more back to the card."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def halving(
    size: int, attempt: Callable[[int], Result], device: torch.device, *, smallest: int = 1
) -> tuple[Result, int, str]:
    """`attempt(size)`, with half the size as long as memory is short: (result, the size that fitted, a note for rows).

    Raises torch.OutOfMemoryError when not even `smallest` fits.

    >>> def attempt(size):
    ...     if size > 300:
    ...         raise torch.OutOfMemoryError("too large")
    ...     return size * 2
    >>> halving(1000, attempt, torch.device("cpu"))
    (500, 250, 'halved from 1,000 to 250: memory is short')
    """
    asked = size
    while True:
        try:
            return attempt(size), size, "" if size == asked else f"halved from {asked:,} to {size:,}: memory is short"
        except torch.OutOfMemoryError:
            if size // 2 < smallest:
                raise
        # here the exception and the tensors of its frames are gone
        size //= 2
        free(device)


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between(before: Any, after: Any) -> float:
    return after - before if isinstance(before, float) else before.elapsed_time(after) / 1000
