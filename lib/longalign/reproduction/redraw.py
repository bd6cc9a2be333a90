"""Every committed page anew from the committed tables, without training: executed notebooks, figures, report, README.

    python -m longalign.reproduction.redraw [05 ...]      (make pages)

A notebook with the parameter `replay` takes its numbers from results/; one without it computes what is cheap. Both run
with the profile of their committed record, in a folder of their own, so that no run is touched. The pages are written
when all notebooks have run to their end; tables of measured numbers are read and never written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from longalign.common import paths
from longalign.report import claims, later, noise, readme
from longalign.report.figures import style
from longalign.reproduction.parameters import REPLAY, declared_parameters
from longalign.reproduction.reference import chosen, keep_pages


def pages(stems: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Which of the notebooks `stems` have a committed record to be drawn from, and a reason for each other one."""
    left = {stem: f"it has no committed record: `make notebook NB={paths.number(stem)}` and `make reference` make one"
            for stem in stems if not (paths.results() / f"{stem}.json").is_file()}  # fmt: skip
    return [stem for stem in stems if stem not in left], left


def command(name: str) -> list[str]:
    """The execution of one notebook, with the profile of its committed record.

    >>> command("05_data_scale")[-6:]
    ['notebooks/05_data_scale.ipynb', '--profile', 'laptop', '--with-parent', '-p', 'replay=true']
    """
    source = paths.notebooks() / f"{name}.ipynb"
    record = json.loads((paths.results() / f"{name}.json").read_text(encoding="utf-8"))
    replay = REPLAY in declared_parameters(nbformat.read(source, as_version=4))
    execute = [sys.executable, "-m", "longalign.reproduction.execute"]
    return [*execute, paths.relative(source), "--profile", record["config"]["name"],
            "--with-parent", *(["-p", f"{REPLAY}=true"] if replay else [])]  # fmt: skip


def run(names: Sequence[str], folder: Path, jobs: int) -> dict[str, nbformat.NotebookNode]:
    """The executed copies of these notebooks, run in `folder`, `jobs` at a time.

    Raises ValueError when one did not run to its end.
    """
    environment = {**os.environ, "LONGALIGN_RUNS": str(folder)}
    commands = [command(name) for name in names]
    with ThreadPoolExecutor(jobs) as pool:
        states = list(pool.map(lambda one: subprocess.run(one, env=environment, cwd=paths.root()).returncode, commands))
    if failed := [name for name, state in zip(names, states, strict=True) if state]:
        raise ValueError(f"no page was written, because these did not run to their end: {', '.join(failed)}")
    profiles = [one[one.index("--profile") + 1] for one in commands]
    copies = {}
    for name, profile in zip(names, profiles, strict=True):
        text = (folder / profile / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        # a page names the files of a run, and not the place where it happened to be drawn
        text = text.replace(f"{paths.relative(folder)}/", f"{paths.relative(paths.runs())}/")
        copies[f"{name}.ipynb"] = nbformat.reads(text, as_version=4)
    return copies


def redraw(numbers: Sequence[str] = (), *, jobs: int = 1) -> int:
    """Draw the pages of the notebooks with these numbers (none: all), then report, figures and README.

    Returns the exit status; raises ValueError when a number is unknown or a notebook did not run to its end.
    """
    names, left = pages(chosen(numbers))
    noise.write(paths.results())
    claims.write(paths.results())  # what is said of the claims may have changed, their numbers cannot
    later.write(paths.results())
    keep_pages(run(names, paths.runs() / "pages", jobs), paths.results())
    for name, reason in left.items():
        print(f"left as it is: {name}: {reason}")
    print(f"drawn in {paths.relative(paths.results() / 'notebooks')}: {', '.join(names)}")
    status = style.main()
    readme.main()
    return status


def main(arguments: Sequence[str]) -> int:
    """Draw from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m longalign.reproduction.redraw", description=__doc__.splitlines()[0]
    )
    parser.add_argument("numbers", nargs="*", help="of notebooks, such as 05 (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks to run side by side")
    options = parser.parse_args(arguments)
    try:
        return redraw(options.numbers, jobs=options.jobs)
    except (ValueError, OSError) as error:
        print(f"longalign.reproduction.redraw: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
