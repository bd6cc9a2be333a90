"""Made-up files of the GPU program: gpu.csv and gpu.jsonl, as `python -m benchmarks.gpu` adds to them by stage."""

import json

import pandas as pd

from longalign.gpu_results import COLUMNS, COST_MODEL, FIGURE_5, PAPER, RATIO, RECORDS, TABLE

CARD = "NVIDIA H100 80GB HBM3"


def row(stage, case, system, metric, value=None, unit="", *, status="ok", backend="varlen_attn", note=""):
    return dict(zip(COLUMNS, (stage, case, system, metric, value, unit, backend, status, note), strict=True))


def add(folder, stage, rows, *, tiny=False, card=CARD, clock="2026-11-28T10:00:00Z", note_rows=None):
    """A stage that was run: its rows and its record are added to the files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / TABLE
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(table, mode="a", header=not table.exists(), index=False)
    record = {
        "stage": stage, "tiny": tiny, "card": card, "driver": {}, "versions": {"torch": "2.11.0+cu130"},
        "commit": "0123abcd", "clock": clock, "seconds_budgeted": 40.0, "seconds_taken": 31.5,
        "rows": len(rows) if note_rows is None else note_rows, "absent": {"liger-kernel": "not installed"},
    }  # fmt: skip
    with (folder / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return folder


def exact(folder, distances, *, controls=(40.0,), **options):
    """Stage a: ratios of distances from the oracle, of packs and of packs that are wrong on purpose."""
    case = "heads of 64, 12,351 tokens"
    rows = [row("exact", f"{case}: {name}", "packed, varlen_attn", f"{metric}: distance, packed / separate", value,
                "ratio", status=status, note=note)
            for name, metric, value, status, note in [
                *((str(n), "logits", v, "ok" if v <= 2 else "failed", "" if v <= 2 else "over 2")
                  for n, v in enumerate(distances)),
                *((f"no boundaries, {n}", "control, logits", v, "ok", "") for n, v in enumerate(controls))]]  # fmt: skip
    return add(folder, "exact", rows, **options)


def figure_5(folder, speeds, *, predicted=2.4, **options):
    """Stage d: how many times as fast as naive batching each system is, the cost model's number and the paper's."""
    rows = []
    for system, value in speeds.items():
        given = ("figure5", FIGURE_5, system)
        rows += [row(*given, RATIO, value, "ratio", backend="fit_pace"),
                 row(*given, RATIO, predicted, "ratio", backend=COST_MODEL),
                 row(*given, "error of the ratio", predicted / value - 1, "share", backend=COST_MODEL)]  # fmt: skip
    paper = {"packing": 67.2 / 23.4, "sorted": 67.2 / 23.3}
    rows += [row("figure5", PAPER, name, RATIO, value, "ratio", backend="8 x A800") for name, value in paper.items()]
    return add(folder, "figure5", rows, **options)


def ratios(folder, seeds, *, naive=10.0, packing=4.0, sorted_=3.5, **options):
    """Stage d with so many seeds; the ratios differ a little from seed to seed."""
    rows = []
    for seed in range(seeds):
        bend = 1 + 0.01 * seed
        for system, value in (("naive", naive), ("packing", packing * bend), ("sorted", sorted_ * bend)):
            rows.append(row("figure5", f"8 ranks, seed {seed}", system, "seconds", value, "s"))
    return add(folder, "figure5", rows, **options)
