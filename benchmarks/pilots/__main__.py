"""Command line of the pilots (`make pilots`)."""

import argparse
import sys

from benchmarks import pilots
from benchmarks.pilots import data, learning, power, questions, referee, speed

RUN = {"speed": speed.measure, "shapes": learning.shapes, "rates": learning.rates, "bases": learning.bases,
       "data": data.measure, "power": power.measure, "questions": questions.measure, "memory": referee.memory,
       "preference": referee.preference, "constant": referee.constant}  # fmt: skip


def main() -> int:
    """Run the stages, each unless its table is whole."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pilots", description=pilots.__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=[*RUN, []], help=f"default: {' '.join(pilots.STAGES)}")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, one thread each (default: 1)")
    arguments = parser.parse_args()
    for stage in arguments.stages or pilots.STAGES:
        if stage in ("shapes", "rates", "bases") or not pilots.table(stage).is_file():
            RUN[stage](jobs=arguments.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
