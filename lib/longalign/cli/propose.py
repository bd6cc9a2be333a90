"""`longalign plan DATA --propose MODEL`: what to train with, by lengths, a model's shape and the devices there are."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longalign.cli.parsing import amount, fail, first_given
from longalign.common import paths
from longalign.common.provenance import write_text

EXCLUDED = ("method", "capacity", "accumulation", "rows", "group_size", "algorithm", "balance", "barrier",
            "share_above", "degree", "truncate", "seed")  # fmt: skip
"""Options of `longalign plan` that a proposal finds itself, or has no use for."""
OPTIONS = ("memory", "card", "out")
"""Those that it alone has."""


def add_options(plan: Any) -> None:
    """The options of a proposal."""
    plan.add_argument(
        "--propose", metavar="MODEL", type=Path,
        help="propose capacity, sharing and engine for this model's folder on --ranks devices of one node",
    )
    plan.add_argument("--memory", type=amount, metavar="GB", help="of a device, with --propose (default: 80)")
    plan.add_argument(
        "--card", type=Path, metavar="FOLDER",
        help="with --propose: what `python -m benchmarks.gpu --stages g` measured on your card (default: the newest in "
        "results/gpu, or none)",
    )
    plan.add_argument("--out", type=Path, metavar="JOB.yaml", help="with --propose: write the first proposal as a job")


def run(options: argparse.Namespace, measured: Callable[..., tuple[Any, Any]]) -> None:
    """A table of proposals, or JSON (fields of `longalign.train.proposal.Offer`), and the job if one is asked for."""
    from longalign.recipe import architectures
    from longalign.train import models, needs, proposal

    if name := first_given(options, *EXCLUDED):
        fail(f"{name} is what --propose looks for: leave it out")
    if not options.propose.is_dir():
        fail(f"--propose is {options.propose}, where there is no folder of a model")
    if options.out and options.out.exists():
        fail(f"--out {options.out} exists already: name another file, or delete it")
    if options.out and not options.data.is_dir():
        fail(f"--out writes a job, which trains on a token store, and {options.data} is none: make one with longalign "
             "data tokenize, or leave --out out")  # fmt: skip
    lengths, targets = measured(options, None, "")
    model, longest = models.outline(options.propose), int(lengths.max())
    if reason := architectures.why_not_trained(model, "packing", longest):
        fail(reason)
    if reason := proposal.why_not_as_long(model, longest):
        if options.out:
            fail(reason)
        print(f"longalign: {reason}", file=sys.stderr)
    for note in needs.windows_in_full(model.config, longest):
        print(f"longalign: {note}", file=sys.stderr)
    pace = _pace(options)
    devices = {"ranks": options.ranks, "memory": options.memory or 80.0}
    found = proposal.offers(lengths, targets, needs.model_shape(options.propose), pace=pace, **devices)
    told = [asdict(offer) for offer in proposal.notable(found)]
    print(json.dumps(told) if options.json else proposal.as_text(found, pace, lengths))
    if options.out:
        job = proposal.job_of(found[0], model=options.propose, data=options.data, longest=longest)
        write_text(options.out, job)
        if not options.json:
            print(f"written: {options.out} (longalign train {options.out} --dry-run checks it)")


def _pace(options: argparse.Namespace) -> Any:
    """By `--utilisation` of an A800, by what was measured on `--card`, or on a card whose rows are committed."""
    from longalign.recipe.cost import A800
    from longalign.train.prediction import Pace

    if options.utilisation is not None:
        if options.card:
            fail("--utilisation and --card both say how fast a device is: leave one out")
        return Pace(flops=options.utilisation * A800 * 1e12)
    try:
        folder = options.card or paths.results() / "gpu"
    except FileNotFoundError:  # installed, and not in a clone
        return Pace()
    if not options.card and not folder.is_dir():
        return Pace()
    from longalign.report import gpu_results

    try:
        cards = [gpu_results.read_card(folder)] if options.card else gpu_results.read_cards(folder)
    except ValueError as error:
        fail(error)
    found = gpu_results.newest_pace(cards)
    if options.card and not found:
        fail(f"--card {folder} has no numbers of stage g: run `python -m benchmarks.gpu --stages g --out {folder}`")
    return found or Pace()
