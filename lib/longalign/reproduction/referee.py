"""The run of PROFILE=referee becomes a part of the committed reference, and all pages that show its numbers follow.

    python -m longalign.reproduction.reference referee      (make reference PROFILE=referee)

Its tables are those of `longalign.experiments.later`; what they say of the claims of later papers is computed from them
(`longalign.report.later`), and the notebooks that show it are drawn again. A table is taken whole or not at all; those
that are not finished yet can follow.
"""

from __future__ import annotations

from pathlib import Path

from longalign.common import paths
from longalign.common.provenance import write_text
from longalign.experiments.later import BENCHMARKS, record_of
from longalign.report import later
from longalign.report.claim_scores import Folder, Missing

NAME = "referee"
NOTEBOOKS = ("13", "14", "90")
"""The notebooks that show its tables or its verdicts, by number."""


def promote(run: Path, results: Path) -> list[str]:
    """Copy the tables that the folder `run` has finished into `results`, each with the scores of all questions and its
    record; returns the tables.

    Raises ValueError in a sentence, and copies nothing, where none is finished, or a claim of the ledger would have
    fewer seeds or questions than it was planned with.
    """
    finished = [table for table in BENCHMARKS if (run / f"{record_of(table)}.json").is_file()]
    if not finished:
        raise ValueError(f"{paths.relative(run)} holds no finished table: `make referee` trains and scores them")
    folder = Folder(run)
    for claim in (claim for claim in later.load_later() if claim.results in finished):
        _check_planned(claim, folder)
    for table in finished:
        for name in (f"{table}.csv", f"items/{table}.csv", f"{record_of(table)}.json"):
            write_text(results / name, (run / name).read_text(encoding="utf-8"))
    return finished


def _check_planned(claim: later.LaterClaim, folder: Folder) -> None:
    try:
        scores = folder.scores(claim)
        items = folder.items(claim, scores)
    except Missing as missing:
        raise ValueError(f"claim {claim.id}: {missing}; `make referee` writes it") from None
    seeds = len({seed for _, seed in scores})
    if items is None or seeds < claim.seeds or items[1].size < claim.questions:
        questions = 0 if items is None else items[1].size
        raise ValueError(f"claim {claim.id} was planned with {claim.seeds} seeds and {claim.questions} questions, and "
                         f"the run has {seeds} and {questions}: `make referee` without SEEDS has as many")  # fmt: skip


def main() -> int:
    """Promote what is finished, then write the verdicts and draw the pages; returns the exit status."""
    from longalign.reproduction import redraw

    finished = promote(paths.run_dir(NAME), paths.results())
    print(f"now part of the reference in results/: {', '.join(finished)}")
    if left := [table for table in BENCHMARKS if table not in finished]:
        print(f"not finished: {', '.join(left)} (`make referee` goes on with them)")
    return redraw.redraw(NOTEBOOKS)
