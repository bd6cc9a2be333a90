"""longalign fetch: models, data and benchmarks are brought from where they lie, at a commit that is pinned."""

import argparse
import sys
from typing import Any

from longalign.cli.parsing import Parser, fail, first_given


def add(children: Any, top: Parser) -> None:
    """The subcommand and its options."""
    command = top.add_child(children, "fetch", run, help="bring the models and data that a profile names")
    command.add_argument("--profile", default="paper", help="name or YAML file (default: paper)")
    command.add_argument("--benchmark", metavar="NAME", help="a benchmark's official files alone: longbench-chat")
    command.add_argument("--only", metavar="NAME", nargs="+", default=[], help="fetch these sources alone")
    command.add_argument("--list", action="store_true", help="say what is there, and fetch nothing")


def run(options: argparse.Namespace) -> None:
    """A line for each source: where it lies, at which commit. What fails is told, and the others are fetched still."""
    from longalign.cli.loading import quiet_hub
    from longalign.common.config import nearest
    from longalign.experiments.profiles import load_profile
    from longalign.fetch import benchmark_files, fetching

    if options.benchmark is not None:
        if options.only:
            fail("--only names sources of a profile, and --benchmark is fetched as a whole: leave one of them out")
        if first_given(options, "profile"):
            fail("--profile names models and data, and --benchmark is fetched without them: leave one of them out")
        place = benchmark_files.state(options.benchmark) if options.list else benchmark_files.fetch(options.benchmark)
        print(f"{options.benchmark}: {place}")
        return
    quiet_hub()
    profile = load_profile(options.profile)
    known = {source.name: source for source in profile.sources}
    if unknown := [name for name in options.only if name not in known]:
        fail(f"profile {profile.name} has no source {unknown[0]!r}: {nearest(unknown[0], known)}")
    if not known:
        print(f"profile {profile.name} has no sources: there is nothing to fetch")
    failed = 0
    for source in [known[name] for name in options.only or known]:
        try:
            if not options.list:
                fetching.fetch(source)
            print(f"{source.name}: {fetching.state(source)}: {fetching.folder_of(source)}", flush=True)
        except (ValueError, OSError) as error:
            print(f"longalign: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            failed += 1
    if failed:
        sys.exit(2)
