"""Whether the last run's numbers are those of the committed reference: same seeds against same seeds.

    python -m longalign.reproduction.verify laptop      (make verify; the end of make reproduce shows the same counts)

On the same kind of processor, with the same versions, the same seeds give the same digits. Elsewhere rounding is nearly
another seed: then the means of arms are compared (`longalign.reproduction.verify_tables`), and what claims are made of,
their contrasts, signs and verdicts (`longalign.reproduction.verify_contrasts`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from longalign.common import paths
from longalign.experiments.profiles import load_profile
from longalign.report.claim_schema import load_ledger
from longalign.report.claims import measure_all
from longalign.reproduction import verify_contrasts
from longalign.reproduction.verify_contrasts import shared
from longalign.reproduction.verify_gaps import broken_ledger, not_compared
from longalign.reproduction.verify_tables import CLAIMS, NOT_OF_A_RUN, TIMES, Finding, compare

MACHINE = ("slurm", "notebooks", "sources", "workers", "limits", "seeds", "seeds_of_slow_arms")
"""Keys of a profile that change no number of a given seed."""


@dataclass(frozen=True)
class Report:
    """All that was found: by table, what the claims say, and every failure as a sentence by its kind."""

    findings: list[Finding]
    lines: list[str]
    other_words: list[str]
    failures: dict[str, list[str]]


def judge(run: Path | str, reference: Path | str) -> Report:
    """A run against the reference, by the rules of docs/project/verdicts.md, "Another processor"."""
    run, reference = Path(run), Path(reference)
    same = same_kind(run, reference)
    findings, ledger = compare(run, reference, same=same), load_ledger()
    ours, theirs = shared(run, reference), shared(reference, run)
    rows, cut = measure_all(ledger, run), {row["id"]: row for row in measure_all(ledger, theirs)}
    words, other, wrong = verify_contrasts.verdicts(rows, pd.read_csv(reference / f"{CLAIMS}.csv"), cut)
    found, gaps = verify_contrasts.contrasts(ours, theirs, ledger, cut, reference)
    failures = {
        "out of bounds": [sentence for finding in findings for sentence in finding.wrong],
        "another contrast": [] if same else [sentence for one in found for sentence in one.wrong()],
        "not compared": [*gaps, *not_compared(run, reference, left_out={*TIMES, CLAIMS, *NOT_OF_A_RUN})],
        "not computed from the tables": broken_ledger(run, rows),
        "verdicts": wrong,
    }
    kind = "the same kind of processor and versions: the same digits" if same else "another kind of processor"
    lines = [
        f"{kind}; {len(found)} contrasts compared, {sum(one.sign != 0 for one in found)} with a sign that is sure: "
        f"{len(failures['another contrast'])} out of bounds",
        words,
    ]
    return Report(findings, lines, other, failures)


def same_kind(run: Path, reference: Path) -> bool:
    """Whether all that was trained was trained on the reference's kind of processor, with its versions and threads.

    A record that does not say its kind is no proof.
    """
    pairs = [(_made_by(run / path.name), _made_by(path)) for path in paths.record_files(reference)
             if (run / path.name).is_file()]  # fmt: skip
    trained = [(ours, theirs) for ours, theirs in pairs if theirs["trained"]]
    return bool(trained) and all(ours == theirs and theirs["kind"] for ours, theirs in trained)


def _made_by(path: Path) -> dict[str, Any]:
    record = _record(path)
    hardware = record.get("hardware", {})
    named = {name: hardware.get(name) for name in ("processor", "kind", "threads")}
    return named | {"versions": record.get("versions"), "trained": bool(record.get("results", {}).get("runs"))}


def other_settings(run: Path | str, reference: Path | str) -> list[str]:
    """A phrase for each setting of the profile that the run had and the reference had not: then nothing compares."""
    found = {}
    for theirs in paths.record_files(Path(reference)):
        ours = Path(run) / theirs.name
        if ours.is_file():
            found |= differing(_record(ours)["config"], _record(theirs)["config"])
    return list(found.values())


def differing(ours: dict, theirs: dict) -> dict[str, str]:
    """A phrase for each setting that two configurations have not in common, but for those that change no number."""
    a, b = _flat(ours), _flat(theirs)
    differ = [key for key in {**a, **b} if a.get(key) != b.get(key) and key.split(".")[0] not in MACHINE]
    return {key: f"{key} is {a.get(key)}, in the reference {b.get(key)}" for key in differ}


def table(findings: Sequence[Finding]) -> str:
    """What was found, a line per table that is not the reference's to the last digit, and the sum."""
    compared, identical = (sum(getattr(f, name) for f in findings) for name in ("compared", "identical"))
    within = sum(f.within for f in findings)
    wrong = sum(len(f.wrong) for f in findings)
    lines = [
        f"  {f.table:22} {f.compared:7,} numbers {f.identical:7,} identical {len(f.wrong):5,} out of bounds"
        for f in findings if f.wrong or f.identical < f.compared
    ]  # fmt: skip
    total = f"{compared:,} numbers of {sum(f.compared > 0 for f in findings)} tables compared with the reference: "
    return "\n".join([*lines, f"{total}{identical:,} identical, {within:,} other digits, {wrong:,} out of bounds"])


def main(arguments: Sequence[str]) -> int:
    """Compare the run of the profile named first with the reference; returns 0, 1 on a mismatch, 2 if none can be
    made."""
    try:
        profile = load_profile(arguments[0] if arguments else "laptop")
        run, reference = paths.run_dir(profile.name), paths.results()
        if not run.is_dir():
            raise FileNotFoundError(f"there is no run in {paths.relative(run)}: `make reproduce` makes one")
        if settings := other_settings(run, reference):
            raise ValueError(f"this run cannot be compared with the reference: {'; '.join(settings[:5])}")
        report = judge(run, reference)
    except (ValueError, FileNotFoundError) as error:
        print(f"longalign.reproduction.verify: {error}", file=sys.stderr)
        return 2
    print(table(report.findings), *report.lines, sep="\n")
    for kind, sentences in {"another verdict": report.other_words, **report.failures}.items():
        for sentence in sentences:
            print(f"{kind}: {sentence}")
    return 1 if any(report.failures.values()) else 0


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {**record, "config": dict(record["config"])}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{paths.relative(path)} is not a whole record of a run; write it again") from None


def _flat(data: dict, prefix: str = "") -> dict[str, object]:
    pairs = {}
    for key, value in data.items():
        pairs |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return pairs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
