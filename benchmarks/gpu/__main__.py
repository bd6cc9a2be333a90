"""One program for a borrowed GPU: all that this repository says about kernels, memory and speed, measured in one go.

    python -m benchmarks.gpu --minutes 6 --out FOLDER       from a checkout; it needs torch, transformers and numpy
    python -m benchmarks.gpu --tiny --out FOLDER            the same code at tiny sizes, on a CPU too, in two minutes
    make gpu MINUTES=6 OUT=FOLDER                           the same from make

Stages, in this order; --stages a,c runs only these:
    0  rehearsal   all stages below at tiny sizes on the card: what fails is known before the time is spent
    a  exact       packed against separate sequences, Equation 4 against Equation 2, against an fp32 oracle
    b  ceilings    a bf16 product and a copy; later figures are also given as shares of these
    c  kernels     attention over packs, and the loss with its linear layer: time and memory
    d  figure5     the paper's Figure 5 with real kernels
    e  training    tokens/s of this trainer and of others
    f  learning    the paper's first finding at the paper's own lengths

Each stage has a budget in seconds that follows from counted FLOPs and bytes (in its module), printed beside what it
took. A stage whose budget does not fit into what is left of --minutes is not started, and a row says so. After every
stage its rows are added to FOLDER/gpu.csv and a record (card, driver, versions, commit, clock) to FOLDER/gpu.jsonl:
whoever is stopped loses one stage. What fails is a row with its reason and not an end; where memory is short sizes
halve, and the row says so. No setting of the card is touched. Exit status: 0, or 1 with a failed row, 2 for bad input.
Send both files with what you say of your card.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.gpu import machine, stages
from benchmarks.gpu.rows import Context

MINUTES = 6.0


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that were asked for; returns the exit status."""
    given = parse(arguments)
    reason = why_not(given)
    if reason:
        print(f"benchmarks.gpu: {reason}", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = Context(device, given.tiny, given.out.resolve(), given.commit or machine.commit())
    print(f"{machine.card(device)}, torch {torch.__version__}, commit {context.commit}", flush=True)
    taken = list(stages.perform(given.stages, context, given.minutes))
    bad = sum(row.status == "failed" for row in taken)
    print(f"{len(taken)} rows, {bad} failed: {context.out}")
    return int(bad > 0)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments; `stages` become letters in the program's order."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__, formatter_class=form)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all stages together ({MINUTES:g})")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.csv and gpu.jsonl, made if need be")
    parser.add_argument("--stages", default="", help="letters or names with commas between them; all when left out")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the card or on a CPU")
    parser.add_argument("--commit", default="", help="of this checkout, where it has no .git")
    return parser.parse_args(arguments)


def why_not(given: argparse.Namespace) -> str:
    """Why the program cannot start; empty when it can. Puts the letters of the stages in place of their names."""
    known = stages.names()
    asked = [name.strip() for name in given.stages.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known and name not in known.values()]
    if unknown:
        there = ", ".join(f"{letter} ({name})" for letter, name in known.items())
        return f"there is no stage {unknown[0]!r}; there are: {there}"
    # at tiny sizes the rehearsal would do everything twice
    asked = asked or [letter for letter in known if not (given.tiny and letter == stages.REHEARSAL)]
    given.stages = [letter for letter, name in known.items() if letter in asked or name in asked]
    if not given.minutes >= 1:
        return f"--minutes is {given.minutes:g}; it is 1 or more"
    if not given.tiny and not torch.cuda.is_available():
        return ("no CUDA device is found by torch here; --tiny takes every stage through the same code on a CPU in "
                "about two minutes, and shows that all of it runs, not how fast a GPU is")  # fmt: skip
    return _why_not_written(given.out)


def _why_not_written(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"--out is {folder}, which cannot be written ({error.strerror}); name another folder"
    return ""


if __name__ == "__main__":
    sys.exit(main())
