"""Greedy decoding side by side with all keys and values kept, against one prompt at a time and transformers' batches.

A random mini-6b, fp32, one thread; no end token, so that every answer has all of its tokens. Time is processor seconds
without loading, and the rounds are in one process. Before anything is timed, all ways must have written the same
answers. "Short" (16 to 128 tokens) and "long" prompts (128 to 960) say where side by side pays: reading a prompt takes
the same time in any company, so long prompts with short answers, which is what LongBench-Chat asks for, gain least over
one by one.

    python -m benchmarks.decoding
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import common

TARGET = "decoding"
CASES = {"short": (16, 128, 48, 48), "long": (128, 960, 32, 32), "long, short answers": (128, 960, 32, 9)}
"""Shortest and longest prompt in tokens, prompts, tokens of an answer; the last as in LongBench-Chat in miniature."""
ONE, GENERATE, PADDED = "ours, one by one", "transformers, one by one", "transformers, padded batches of 16"


def prompts(case: str) -> list:
    """Token ids, lengths evenly spread and in a random order."""
    import torch

    shortest, longest, count, _ = CASES[case]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(shortest, longest, count).long()[torch.randperm(count, generator=generator)]
    return [torch.randint(3, 1200, (int(length),), generator=generator) for length in lengths]


def ours(model, asked: list, room: int, **options: int) -> list[list[int]]:  # noqa: ANN001
    """Batches of about one length."""
    from longalign.evals.decoding import greedy

    return greedy(model, asked, end=-1, room=room, **options)


def one_by_one(model, asked: list, room: int) -> list[list[int]]:  # noqa: ANN001
    """The same code, a batch being one prompt."""
    return ours(model, asked, room, tokens=1)


def generated(model, asked: list, room: int) -> list[list[int]]:  # noqa: ANN001
    """transformers' generate, a prompt at a time."""
    return [_generate(model, [prompt], room)[0] for prompt in asked]


def generated_together(model, asked: list, room: int) -> list[list[int]]:  # noqa: ANN001
    """transformers' generate, sorted by length, padded on the left."""
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    batches = [order[start : start + 16] for start in range(0, len(order), 16)]
    written = {i: ids for batch in batches
               for i, ids in zip(batch, _generate(model, [asked[i] for i in batch], room), strict=True)}  # fmt: skip
    return [written[i] for i in range(len(asked))]


SYSTEMS: dict[str, Callable] = {common.OURS: ours, ONE: one_by_one, GENERATE: generated, PADDED: generated_together}


def child(case: str, rounds: str) -> None:
    """What each way takes for a case, by turns, in one process. Raises RuntimeError where answers differ."""
    import torch

    from longalign.train.models import new_model

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = new_model("mini-6b", vocab_size=1238, max_length=1024, seed=0).eval()
    model.generation_config.eos_token_id = None
    asked, room = prompts(case), CASES[case][3]
    written = {name: way(model, asked, room) for name, way in SYSTEMS.items()}
    others = sum(len({tuple(answer) for answer in answers}) > 1 for answers in zip(*written.values(), strict=True))
    if others:
        raise RuntimeError(f"{case}: {others} of {len(asked)} answers are not the same in all ways")
    taken = [{name: _seconds(way, model, asked, room) for name, way in SYSTEMS.items()} for _ in range(int(rounds))]
    common.report(seconds=taken)


def run(rounds: int = 3) -> list[common.Row]:
    """Times by turns, and how many times faster side by side is."""
    rows = []
    for case in CASES:
        told = common.run(common.Command(["-m", "benchmarks.decoding", case, str(rounds)]))
        taken = {name: common.Samples([{"time": seconds[name]} for seconds in told["seconds"]]) for name in SYSTEMS}
        rows += common.rows_of(TARGET, case, taken, {"time": "CPU s"})
        rows += [common.ratio(TARGET, case, "time", taken, other, common.OURS) for other in (ONE, GENERATE, PADDED)]
    return rows


def _seconds(way: Callable, *arguments: Any) -> float:
    began = time.process_time()
    way(*arguments)
    return time.process_time() - began


def _generate(model, asked: list, room: int) -> list[list[int]]:  # noqa: ANN001
    import torch
    import torch.nn.functional as F

    longest = max(map(len, asked))
    ids = torch.stack([F.pad(prompt, (longest - len(prompt), 0)) for prompt in asked])
    mask = torch.stack([F.pad(torch.ones_like(prompt), (longest - len(prompt), 0)) for prompt in asked])
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=room, do_sample=False, use_cache=True, pad_token_id=0,
    )[:, longest:].tolist()  # fmt: skip


def main() -> int:
    """Measure, show and save."""
    return common.finish(TARGET, run())


if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]) if sys.argv[1:] else main())
