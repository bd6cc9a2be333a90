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
    g  sharing     layers and attention in the shapes of sequence parallelism, for `longalign plan --propose`

Each stage has a budget in seconds that follows from counted FLOPs and bytes (in its module), printed beside what it
took. A stage whose budget ends more than half a minute after --minutes is not started, and a row says so; what still
runs 45 s after them is ended. After every stage its rows are added to FOLDER/gpu.csv and a record (card, driver,
versions, commit, clock) to FOLDER/gpu.jsonl: whoever is stopped loses one stage. What fails is a row with its reason
and not an end: stages run in a process of their own, and where it dies another one goes on with the next stage. Where
memory is short sizes halve, and the row says so. No setting of the card is touched. Exit status: 0, or 1 with a failed
row, 2 for bad input, 130 when interrupted.

Where the checkout has no .git, --commit HASH tells which one it is. Stage f makes its data first, in minutes, unless
`python -m benchmarks.gpu.learning --prepare` has made it beforehand, on any machine. Send both files.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import CARD_LOST, GRACE, NAMES, REHEARSAL, ROOT, RUNNING

MINUTES = 6.0
END = GRACE + 15.0
"""Seconds after --minutes at which a stage that is still running is ended."""
WORKER = (sys.executable, "-m", "benchmarks.gpu.worker")


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that were asked for; returns the exit status."""
    given = parse(arguments)
    reason = why_not(given)
    if reason:
        print(f"benchmarks.gpu: {reason}", file=sys.stderr)
        return 2
    options = ["--out", str(given.out.resolve()), "--commit", given.commit, *(["--tiny"] if given.tiny else [])]
    try:
        return supervise(chosen(given.stages, given.tiny), given.minutes, given.out, [*WORKER, *options], given.tiny)
    except KeyboardInterrupt:
        print(f"benchmarks.gpu: interrupted; what was finished is in {given.out}", file=sys.stderr)
        return 130


def supervise(letters: str, minutes: float, out: Path, command: Sequence[str], tiny: bool = False) -> int:
    """A process runs the stages; when it dies another one goes on with the next. Returns the exit status."""
    ends, bad = time.monotonic() + minutes * 60, 0
    running = out / RUNNING
    running.unlink(missing_ok=True)
    while letters:
        left = ends - time.monotonic()
        asked = [*command, "--stages", ",".join(letters), "--minutes", str(left / 60)]
        status = waited_for(asked, None if tiny else left + END)
        if not running.exists():
            return status if status else bad
        stopped, bad = running.read_text(), 1
        running.unlink()
        if status != CARD_LOST:
            record_death(out, stopped, f"ended {END:.0f} s after --minutes" if status is None else
                         f"its process ended by itself, with status {status}")  # fmt: skip
        letters = letters.partition(stopped)[2] if status is not None else ""
    return bad


def waited_for(command: Sequence[str], seconds: float | None) -> int | None:
    """Run a command in the checkout's root and return its exit status; None when it took too long and was ended."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # a session of its own, so that what it has started itself ends with it
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def record_death(out: Path, letter: str, reason: str) -> None:
    """A failed row for the stage that was running, whose own rows are lost."""
    from benchmarks.gpu import rows

    row = rows.failed(NAMES[letter], "", "", "", f"{reason}; the rows of this stage are lost")
    rows.append(out, [row], {"stage": NAMES[letter], "rows": 1, "failed": 1, "stopped": reason})
    print(f"{NAMES[letter]}: {row.note}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments as they were given."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__, formatter_class=form)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all stages together ({MINUTES:g})")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.csv and gpu.jsonl, made if need be")
    parser.add_argument("--stages", default="", help="letters or names with commas between them; all when left out")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the card or on a CPU")
    parser.add_argument("--commit", default="", help="of this checkout, where it has no .git")
    return parser.parse_args(arguments)


def chosen(stages: str, tiny: bool) -> str:
    """Letters of the stages in the program's order; all when none is named, and at tiny sizes no rehearsal of them."""
    asked = _named(stages) or [letter for letter in NAMES if not (tiny and letter == REHEARSAL)]
    return "".join(letter for letter, name in NAMES.items() if letter in asked or name in asked)


def why_not(given: argparse.Namespace) -> str:
    """Why the program cannot start; empty when it can."""
    unknown = [name for name in _named(given.stages) if name not in NAMES and name not in NAMES.values()]
    if unknown:
        there = ", ".join(f"{letter} ({name})" for letter, name in NAMES.items())
        return f"there is no stage {unknown[0]!r}; there are: {there}"
    if not given.minutes >= 1:
        return f"--minutes is {given.minutes:g}; it is 1 or more"
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        probe = given.out / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"--out is {given.out}, which cannot be written ({error.strerror}); name another folder"
    return ""


def _named(stages: str) -> list[str]:
    return [name.strip() for name in stages.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
