"""The process that runs stages: started by benchmarks/gpu/__main__.py, and again when the card was lost.

    python -m benchmarks.gpu.worker --out FOLDER --stages a,c --minutes 2.5 --commit HASH [--tiny]
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.gpu import CARD_LOST, RUNNING, machine, stages
from benchmarks.gpu.rows import Context

NO_CARD = (
    "no CUDA device is found by torch here; --tiny takes every stage through the same code on a CPU in about two "
    "minutes, and shows that all of it runs, not how fast a GPU is"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the stages; returns 0, 1 with a failed row, 2 without a card, or `CARD_LOST`."""
    given = parse(arguments)
    if not given.tiny and not torch.cuda.is_available():
        print(f"benchmarks.gpu: {NO_CARD}", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # tiny sizes gain nothing from more, and on a busy machine they wait for each other
    context = Context(device, given.tiny, given.out, given.commit or machine.commit())
    print(f"{machine.card(device)}, torch {torch.__version__}, commit {context.commit}", flush=True)
    taken = list(stages.perform(given.stages.split(","), context, given.minutes))
    bad = sum(row.status == "failed" for row in taken)
    print(f"{sum(row.status != 'absent' for row in taken)} rows, {bad} of them failed: {given.out}", flush=True)
    return CARD_LOST if (given.out / RUNNING).exists() else int(bad > 0)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments, which benchmarks/gpu/__main__.py has looked at."""
    parser = argparse.ArgumentParser("benchmarks.gpu.worker", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--commit", default="")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
