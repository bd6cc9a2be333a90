"""Command line of the pilots (`make pilots`)."""

import argparse
import sys

from benchmarks import pilots
from benchmarks.pilots import data, learning, speed

RUN = {"speed": speed.measure, "shapes": learning.shapes, "rates": learning.rates, "bases": learning.bases,
       "data": data.measure}  # fmt: skip


def main() -> int:
    """Run the stages, each unless its table is whole."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pilots", description=pilots.__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=[*pilots.STAGES, []], help=f"default: {' '.join(pilots.STAGES)}")
    for stage in parser.parse_args().stages or pilots.STAGES:
        if stage != "speed" or not pilots.table("speed").is_file():
            RUN[stage]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
