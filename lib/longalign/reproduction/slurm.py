"""The same notebooks, the same order, as jobs of Slurm: one for each that is out of date, after those it needs.

    python -m longalign.reproduction.slurm cluster --stamps .make/cluster --notebooks notebooks/*.ipynb
                                                          (make reproduce PROFILE=cluster EXECUTOR=slurm)

make says what is out of date and what needs what; `profiles/slurm.sbatch` is what is submitted. The command returns at
once: given again it says how far the jobs are, and when they have ended it submits what is left. It needs one folder
that all nodes see, with file locks that hold between them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from graphlib import TopologicalSorter
from pathlib import Path

from longalign.common import paths, provenance
from longalign.common.config import ConfigError
from longalign.common.provenance import LockedError
from longalign.experiments.profiles import Profile, load_profile
from longalign.reproduction import outcomes
from longalign.reproduction.reproduce import Make, execute_damaged_again, summary, written

SHARES = {"06": ("05",), "09": ("07",), "10": ("07",), "11": ("05", "06"), "12": ("05", "06", "07", "09"),
          "13": ("07",), "14": ("05",), "15": ("07",), "16": ("07",)}  # fmt: skip
"""Notebooks (numbers) that ask for trainings which others do: their jobs begin when those have ended, well or not, and
hold no devices while another job trains for them."""
TEMPLATE = "slurm.sbatch"
ALONE = "--exclusive"


class SlurmError(RuntimeError):
    """Slurm refused, or is not there; the message is one line."""


def needs(database: str, stamps: str) -> dict[str, list[str]]:
    """Which notebooks (stems) each notebook needs, by make's own database (`make --print-data-base`).

    >>> needs("s/04: notebooks/04.ipynb s/01 | .venv\\n\\ns/01: notebooks/01.ipynb\\n", "s")
    {'04': ['01'], '01': []}
    """
    rules = re.findall(rf"^{re.escape(stamps)}/(\w+): ?(.*)$", database, flags=re.MULTILINE)
    found = {}
    for name, prerequisites in rules:
        wanted = [word.removeprefix(f"{stamps}/") for word in prerequisites.split() if word.startswith(f"{stamps}/")]
        found[name] = sorted(set(wanted))
    return found


def after(graph: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """What each notebook's job waits for, and how, as sbatch says it: for what it needs, and for who trains for it.

    >>> after({"05_a": ["04_t"], "06_b": ["04_t"], "04_t": []})
    {'05_a': {'04_t': 'afterok'}, '06_b': {'04_t': 'afterok', '05_a': 'afterany'}, '04_t': {}}
    """
    shares = {name: SHARES.get(paths.number(name), ()) for name in graph}
    kinds = {name: {other: "afterany" for other in graph if paths.number(other) in shares[name]} for name in graph}
    return {name: dict(sorted({**kinds[name], **dict.fromkeys(graph[name], "afterok")}.items())) for name in graph}


def fill(template: str, values: Mapping[str, object]) -> str:
    """The template with its double braces filled; a line of options that are empty is left out.

    Raises ConfigError for braces that nothing is known of.

    >>> fill("#SBATCH --time={{minutes}}\\n#SBATCH {{options}}\\n", {"minutes": 5, "options": ""})
    '#SBATCH --time=5\\n'
    """

    def value(match: re.Match) -> str:
        if match[1] not in values:
            raise ConfigError(f"profiles/{TEMPLATE}: {match[0]} is not known; there are {', '.join(values)}")
        return str(values[match[1]])

    lines = re.sub(r"\{\{(\w+)\}\}", value, template).splitlines()
    return "".join(line.rstrip() + "\n" for line in lines if line.strip() != "#SBATCH")


def script(profile: Profile, notebook: str, *, command: str, alone: bool = False) -> str:
    """What is submitted for one notebook; `alone` asks for the machines undivided, where times are measured."""
    settings = asdict(profile.slurm)
    settings["gpus"] = f"--gpus-per-node={settings['gpus']}" if settings["gpus"] else ""
    settings["options"] = " ".join(filter(None, [settings["options"], ALONE if alone else ""]))
    places = {"root": paths.root(), "folder": folder(profile.name), "log": folder(profile.name) / f"{notebook}.log"}
    template = (paths.profiles() / TEMPLATE).read_text(encoding="utf-8")
    return fill(template, {**settings, **places, "profile": profile.name, "notebook": notebook, "command": command})


def folder(profile: str) -> Path:
    """Scripts, logs and numbers of the jobs of a profile."""
    return paths.run_dir(profile) / "slurm"


def submit(profile: Profile, graph: Mapping[str, Sequence[str]], scripts: Mapping[str, str]) -> dict[str, str]:
    """Submit the scripts, each after those that its notebook needs or shares trainings with; returns the jobs' numbers.

    A job whose needs fail is cancelled. When Slurm refuses one, those before it are taken back. Raises SlurmError.
    """
    jobs: dict[str, str] = {}
    order = after(graph)
    for name in TopologicalSorter(order).static_order():
        if name not in scripts:
            continue
        wanted = {other: kind for other, kind in order[name].items() if other in jobs}
        told = ",".join(f"{kind}:{jobs[other]}" for other, kind in wanted.items())
        depends = [f"--dependency={told}", "--kill-on-invalid-dep=yes"] if told else []
        file = provenance.write_text(folder(profile.name) / f"{name}.sh", scripts[name])
        try:
            jobs[name] = _slurm("sbatch", "--parsable", *depends, str(file)).split(";")[0].strip()
            provenance.write_json(folder(profile.name) / "jobs.json", jobs)
        except BaseException:
            if jobs:
                with suppress(SlurmError):
                    _slurm("scancel", *jobs.values())
            raise
        wait = f", after {', '.join(wanted)}" if wanted else ""
        print(f"{name:28} job {jobs[name]}{wait}")
    return jobs


def live(profile: str) -> dict[str, str]:
    """The state of those jobs of the last submission that have not ended, by notebook; as squeue calls it."""
    try:
        jobs = json.loads((folder(profile) / "jobs.json").read_text())
    except FileNotFoundError:
        return {}
    lines = _slurm("squeue", "--me", "--noheader", "--format=%i %T").splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    return {name: f"{told[number].lower()}, job {number}" for name, number in jobs.items() if number in told}


def reproduce(
    profile: Profile, notebooks: Sequence[str], *, stamps: str, alone: Sequence[str], overrides: Sequence[str],
    dry_run: bool,
) -> int:  # fmt: skip
    """Submit what is out of date, or say how far the jobs are that were submitted before; returns 0."""
    running = {} if dry_run else live(profile.name)
    if running:
        for name in notebooks:
            print(f"{name:28} {running.get(name) or _outcome(profile.name, name)}")
        numbers = " ".join(state.split()[-1] for state in running.values())
        print(f"{len(running)} jobs have not ended; to end them: scancel {numbers}")
        return 0
    if not dry_run:
        for line in execute_damaged_again(profile.name, notebooks):
            print(line)
    make = Make(None)
    waiting = make.would_execute("one-by-one")
    graph = needs(make.database("one-by-one"), stamps)
    words = [make.command, "--no-print-directory", *overrides]
    scripts = {
        name: script(profile, name, command=shlex.join([*words, f"{stamps}/{name}"]), alone=name in alone)
        for name in notebooks if name in waiting
    }  # fmt: skip
    if dry_run:
        for name, text in scripts.items():
            print(f"==> {name}, after {', '.join(after(graph)[name]) or 'nothing'}\n{text}")
        return 0
    failed = [name for name in waiting if (one := outcomes.read(profile.name, name)) and one.exit_status]
    for name in failed:
        print(f"{name:28} {_outcome(profile.name, name)}")
    if not scripts:
        for line in (*summary([], [], len(notebooks), 0.0), *written(profile.name)):
            print(line)
        return 0
    submit(profile, graph, scripts)
    print(f"{len(scripts)} jobs submitted; the same command says how far they are")
    return 0


def _outcome(profile: str, notebook: str) -> str:
    found = outcomes.read(profile, notebook)
    if found is None:
        return "not executed yet"
    first = next(iter(found.error.splitlines()), "")
    return f"{found.state}{': ' if first else ''}{first}"


def _slurm(*command: str) -> str:
    # jobs are not children of this make: its job slots and flags mean nothing to theirs
    environment = {name: v for name, v in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise SlurmError(f"there is no {command[0]} here: EXECUTOR=slurm is for a login node of a cluster") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Submit a profile's notebooks from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m longalign.reproduction.slurm", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--stamps", required=True, help="folder of the stamps that make keeps")
    parser.add_argument("--notebooks", nargs="+", required=True, type=Path, help="all notebooks, in their order")
    parser.add_argument("--alone", nargs="*", default=[], type=Path, help="stamps of notebooks that measure times")
    parser.add_argument("--make", nargs="*", default=[], metavar="NAME=VALUE", help="variables for make in the jobs")
    parser.add_argument("--lock", type=Path, default=Path(".make/lock"), help="file that keeps a second run out")
    parser.add_argument("--dry-run", action="store_true", help="show every script, submit nothing")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        with nullcontext() if options.dry_run else provenance.alone(options.lock, wait=False):
            return reproduce(
                profile, [path.stem for path in options.notebooks], stamps=options.stamps,
                alone=[path.name for path in options.alone], overrides=options.make, dry_run=options.dry_run,
            )  # fmt: skip
    except (ConfigError, SlurmError, LockedError, OSError) as error:
        print(f"longalign.reproduction.slurm: {error}", file=sys.stderr)
        return outcomes.EXIT_STATUS[outcomes.REFUSED]
    except KeyboardInterrupt:
        return outcomes.EXIT_STATUS[outcomes.INTERRUPTED]


if __name__ == "__main__":
    sys.exit(main())
