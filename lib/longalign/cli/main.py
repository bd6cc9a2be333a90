"""The console command `longalign`: every failure is one line on stderr and exit status 2, never a traceback.

    longalign plan DATA --capacity 65536 --ranks 8 --method packing --json
    longalign plan --profile paper
    longalign data tokenize DATA.jsonl --out STORE --tokenizer NAME_OR_FOLDER --chat-format llama --max-length 65536
    longalign data show STORE --sample 3
    longalign data build --documents FOLDER --teacher oracle --out long.jsonl
    longalign eval longbench-chat --model FOLDER --judge rubric --out FOLDER
    longalign train JOB.yaml --out FOLDER --dry-run
    longalign fetch --profile paper --only LongAlign-10k --list
    longalign figures | version

Each subcommand imports what it needs when it runs, so that `longalign --help` does not wait for torch.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import longalign
from longalign.cli import data_build, eval, fetch, propose, show, tokenize
from longalign.cli.parsing import CHAT_FORMATS as CHAT_FORMATS
from longalign.cli.parsing import Parser, add_tokenizer_options, fail, first_given, positive, readable, seed, share
from longalign.clients.errors import EndpointError
from longalign.common.provenance import LockedError
from longalign.data.file_parts import WorkerDied

METHODS = ("naive", "sorted", "packing")
ALGORITHMS = ("next_fit", "best_fit")
BALANCES = ("steps", "fill", "compose")
BARRIERS = ("step", "micro_step")
DISTRIBUTIONS = ("uniform", "log-uniform")


def parser() -> Parser:
    """The command line: options here, work in the functions below."""
    top = Parser(prog="longalign", description="LongAlign (arXiv 2401.18058), reproducible.")
    top.add_argument("--version", action="version", version=f"longalign {longalign.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    plan = top.add_child(commands, "plan", run_plan, help="plan the batches of an epoch and say what the plan costs")
    plan.add_argument(
        "data", metavar="DATA", type=readable, nargs="?",
        help="JSONL, token store, or text file of one length a line; - is standard input",
    )
    plan.add_argument("--method", choices=METHODS, default="packing", help="(default: packing)")
    plan.add_argument("--capacity", type=positive, help="tokens a pack can hold; packing needs it")
    plan.add_argument("--ranks", type=positive, default=1, help="devices (default: 1)")
    plan.add_argument("--accumulation", type=positive, default=1, help="micro-steps per optimizer step (default: 1)")
    plan.add_argument("--rows", type=positive, default=1, help="rows per device in a micro-batch (default: 1)")
    plan.add_argument("--seed", type=seed, default=0, help="seed of the random order (default: 0)")
    plan.add_argument("--group-size", type=positive, help="sorted batching: sequences a group (default: ranks x rows)")
    plan.add_argument("--algorithm", choices=ALGORITHMS, help="how packs are filled (default: next_fit, the paper's)")
    plan.add_argument(
        "--balance", choices=BALANCES,
        help="even out the cost of devices: keep each step's samples (steps), fill random steps to 98 %% (fill), or "
        "put packs of like cost into a step (compose)",
    )
    plan.add_argument(
        "--barrier", choices=BARRIERS, default="step",
        help="when devices wait for each other: once a step, or in every micro-step as from ZeRO-2 on (default: step)",
    )
    plan.add_argument("--share-above", type=seed, metavar="TOKENS", help="several devices share each longer sequence")
    plan.add_argument("--degree", type=positive, help="how many devices share them; a pack holds as many capacities")
    propose.add_options(plan)
    plan.add_argument("--truncate", action="store_true", help="cut what is longer than the capacity, and say how many")
    plan.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_tokenizer_options(plan)
    paper = "plan the paper's own trainings with the settings of this profile; without DATA it assumes lengths"
    plan.add_argument("--profile", metavar="NAME", help=paper)
    plan.add_argument("--long", choices=DISTRIBUTIONS, help="how assumed long lengths spread (default: uniform)")
    plan.add_argument(
        "--utilisation", type=share,
        help="share of its FLOP/s that a device reaches (default: fitted to one of the paper's training times)",
    )

    data = top.add_child(commands, "data", help="prepare data")
    actions = data.add_subparsers(metavar="ACTION", required=True)
    tokenize.add(actions, data)
    show.add(actions, data)
    data_build.add(actions, data)
    top.below += data.below

    eval.add(commands, top)

    train = top.add_child(commands, "train", run_train, help="train the job of a YAML file, on any number of devices")
    train.add_argument("job", metavar="JOB.yaml", type=Path, help="model, data, training, engine")
    train.add_argument("--out", type=Path, help="folder for what is trained (default: results/run)")
    train.add_argument("--dry-run", action="store_true", help="say what would be done, and what it would take")

    fetch.add(commands, top)
    top.add_child(commands, "figures", run_figures, help="redraw the figures from the committed results")
    top.add_child(commands, "version", run_version, help="print versions")
    return top


def run_plan(options: argparse.Namespace) -> None:
    """Lengths, plan, summary; JSON keys are those of `longalign.recipe.summary.summarize`."""
    from longalign.recipe.balance import balanced
    from longalign.recipe.batching import make_plan
    from longalign.recipe.summary import summarize

    if options.profile is not None:
        run_paper_plan(options)
        return
    if options.data is None:
        fail("DATA is missing: name a file or a folder, or give --profile")
    if options.propose is not None:
        propose.run(options, _measured)
        return
    for name, of in {"long": "profile", "utilisation": "profile", **dict.fromkeys(propose.OPTIONS, "propose")}.items():
        if getattr(options, name) is not None:
            fail(f"--{name} works only with --{of}: leave it out, or add --{of}")
    if options.truncate and options.capacity is None:
        fail("--truncate needs --capacity, the number of tokens to cut to")
    room = options.capacity and options.capacity * (options.degree or 1)
    lengths, targets = _measured(options, room, "raise --capacity, or cut them with --truncate")
    given = vars(options)
    same = ("capacity", "algorithm", "group_size", "share_above", "degree", "ranks", "accumulation", "rows", "seed")
    plan = make_plan(options.method, lengths, target_counts=targets, **{name: given[name] for name in same})
    if options.balance:
        plan = balanced(plan, options.balance, barrier=options.barrier)
    summary = summarize(plan, barrier=options.barrier)
    print(json.dumps(summary) if options.json else format_summary(summary))


def format_summary(summary: dict[str, Any]) -> str:
    """The summary as lines for a terminal.

    >>> from longalign import plan_packing, summarize
    >>> print(format_summary(summarize(plan_packing([2, 4, 3], capacity=7))))
    packs                         2   (provable minimum 2)
    fill                    64.29 %   of the computed positions hold a token
    idle                     0.00 %   of the ranks' time, by the cost model (these steps: at least 0.00 %)
    speed-up                   1.00   times naive batching, by the cost model
    optimizer steps               2
    sequences per step         1.50   (mean)
    """
    bound = "" if summary["bound"] is None else f"   (provable minimum {summary['bound']:,})"
    return f"""\
packs              {summary['packs']:12,}{bound}
fill               {100 * summary['fill']:10.2f} %   of the computed positions hold a token
idle               {100 * summary['idle']:10.2f} %   of the ranks' time, by the cost model \
(these steps: at least {100 * summary['idle_bound']:.2f} %)
speed-up           {summary['speedup']:12.2f}   times naive batching, by the cost model
optimizer steps    {summary['steps']:12,}
sequences per step {summary['sequences_per_step']:12.2f}   (mean)"""


def run_paper_plan(options: argparse.Namespace) -> None:
    """The paper's arms, each a row; JSON keys are those of `longalign.experiments.paper_plan_report.as_json`."""
    from longalign.experiments import paper_plan, paper_plan_report
    from longalign.experiments.profiles import load_profile

    of_the_profile = ("method", "capacity", "ranks", "accumulation", "rows", "group_size", "algorithm", "balance",
                      "barrier", "share_above", "degree", "propose", *propose.OPTIONS)  # fmt: skip
    if name := first_given(options, *of_the_profile):
        fail(f"{name} comes from the profile {options.profile}: leave it out")
    profile = load_profile(options.profile)
    if options.data is None:
        if name := first_given(options, "tokenizer", "chat_format", "truncate"):
            fail(f"{name} is for DATA, and lengths are assumed without it: leave it out")
        spread = options.long or DISTRIBUTIONS[0]
        lengths, targets = paper_plan.assumed_lengths(options.seed, spread)
        source = paper_plan.assumption(spread)
    elif options.long:
        fail("--long is for assumed lengths, and DATA gives the lengths: leave one of them out")
    else:
        advice = f"the capacity is that of profile {profile.name}; cut them with --truncate"
        lengths, targets = _measured(options, profile.training.capacity, advice)
        source = f"lengths of {options.data.name}: {lengths.size:,} sequences"
    found = paper_plan.report(
        profile, lengths, targets, seed=options.seed, utilisation=options.utilisation, source=source
    )
    print(json.dumps(paper_plan_report.as_json(found)) if options.json else paper_plan_report.as_text(found))


def _measured(options: argparse.Namespace, capacity: int | None, advice: str) -> tuple[Any, Any]:
    """Lengths and, where known, target counts of DATA; what is over the capacity is refused, or cut and told."""
    import numpy as np

    from longalign.cli.loading import load_tokenizer
    from longalign.data.lengths import fit_lengths, read_lengths

    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer is not None else None
    lengths, targets = read_lengths(
        options.data, tokenizer=tokenizer, chat_format=options.chat_format, load_tokenizer=partial(load_tokenizer, None)
    )
    if capacity and (over := np.flatnonzero(lengths > capacity)).size:
        where = f"{over.size:,} of {lengths.size:,} sequences are over the capacity of {capacity:,} tokens"
        if not options.truncate:
            fail(f"{options.data}: {where}, sequence {over[0]} first: {advice}")
        print(f"longalign: {where} and are cut to it", file=sys.stderr)
        lengths, _ = fit_lengths(lengths, capacity, overlong="truncate")
        targets = None if targets is None else np.minimum(targets, np.maximum(lengths - 1, 0))
    return lengths, targets


def run_train(options: argparse.Namespace) -> None:
    """Train, or say what it would take; leaves with the launcher's exit status."""
    from longalign.train import workers

    if options.out:
        os.environ["LONGALIGN_RUNS"] = str(options.out.resolve())
    if not options.dry_run:
        workers.prestart_workers()  # torch is loaded there and here at once
    from longalign.train import jobs

    out = ["--out", str(options.out)] if options.out else []
    sys.exit(jobs.main([str(options.job), *out, *(["--dry-run"] if options.dry_run else [])]))


def run_figures(options: argparse.Namespace) -> None:
    """Redraw the reference's figures."""
    from longalign.report.figures import style

    sys.exit(style.main())


def run_version(options: argparse.Namespace) -> None:
    """This package's version and those of what it runs on."""
    from longalign.common.provenance import versions

    for name, version in {"longalign": longalign.__version__, **versions()}.items():
        print(f"{name:12} {version}")


def _in_words(error: OSError, out: Path | None) -> str | OSError:
    """An error of the system with its place, or that of the output, and what can be done about it.

    >>> _in_words(OSError(28, "No space left on device"), Path("a.jsonl"))
    'a.jsonl: cannot be written (No space left on device): make room, then give the same command again'
    >>> _in_words(PermissionError(13, "Permission denied", "b"), Path("a.jsonl"))
    'b: Permission denied'
    """
    if error.strerror is None:
        return error
    place, reason = error.filename or out, error.strerror
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason = f"cannot be written ({reason}): make room, then give the same command again"
    return f"{place}: {reason}" if place else reason


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, or leaves with 2 (refused) or 130 (interrupted)."""
    options = parser().parse_args(arguments)
    try:
        options.run(options.into.of(options) if options.into else options)
    except ModuleNotFoundError as error:
        fail(f"this command needs the package {error.name}: run pip install -e '.[notebooks]' in the clone")
    except (ValueError, EndpointError, LockedError, WorkerDied) as error:
        fail(error)
    except OSError as error:
        fail(_in_words(error, getattr(options, "out", None)))
    except MemoryError:
        fail("the memory of this machine is too small for this: give fewer ranks, or less data")
    except KeyboardInterrupt:
        return 130
    return 0
