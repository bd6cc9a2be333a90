"""The run of PROFILE=referee becomes a part of the committed reference, and all pages that show its numbers follow.

    python -m longalign.reproduction.reference referee      (make reference PROFILE=referee)

Its tables are those of `longalign.experiments.later`; what they say of the claims of later papers is computed from them
(`longalign.report.later`), and the notebooks that show it are drawn again. A run is taken whole or not at all.
"""

from __future__ import annotations

from pathlib import Path

from longalign.common import paths
from longalign.common.provenance import write_text
from longalign.experiments.later import BENCHMARKS, PAGE
from longalign.report import later
from longalign.report.claim_scores import Folder, Missing

NAME = "referee"
NOTEBOOKS = ("13", "14", "90")
"""The notebooks that show its tables or its verdicts, by number."""


def promote(run: Path, results: Path) -> list[Path]:
    """Copy the tables, the scores of all questions and the record of the folder `run` into `results`; returns the
    copies.

    Raises ValueError in a sentence, and copies nothing, where the run has not come to its end, or a claim of the ledger
    would have fewer seeds or questions than it was planned with.
    """
    record = run / f"{PAGE}.json"
    if not record.is_file():
        raise ValueError(f"{paths.relative(run)} holds no {record.name}, which `make referee` writes at its end")
    folder = Folder(run)
    for claim in (claim for claim in later.load_later() if claim.results in BENCHMARKS):
        _check_planned(claim, folder)
    names = [record.name, *(f"{part}{name}.csv" for name in BENCHMARKS for part in ("", "items/"))]
    return [write_text(results / name, (run / name).read_text(encoding="utf-8")) for name in names]


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
    """Promote the run, then write the verdicts and draw the pages; returns the exit status."""
    from longalign.reproduction import redraw

    written = promote(paths.run_dir(NAME), paths.results())
    print(f"{len(written)} files of the run of {NAME} are now part of the reference in results/")
    return redraw.redraw(NOTEBOOKS)
