"""Made-up files of the GPU program: gpu.csv and gpu.jsonl, as `python -m benchmarks.gpu` adds to them by stage."""

import csv
import json

from longalign.report.gpu_results import COLUMNS, FIGURE_5, PAPER, PREDICTED, RATIO, RECORDS, TABLE

CARD = "NVIDIA H100 80GB HBM3"


def row(stage, case, system, metric, value=None, unit="", *, status="ok", backend="varlen_attn", note=""):
    return dict(zip(COLUMNS, (stage, case, system, metric, value, unit, backend, status, note), strict=True))


def add(folder, stage, rows, *, tiny=False, card=CARD, clock="2026-11-28T10:00:00Z", note_rows=None):
    """A stage that was run: its rows and its record are added to the files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / TABLE).exists()
    with (folder / TABLE).open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writerows([dict(zip(COLUMNS, COLUMNS, strict=True))] * is_new + rows)
    record = {
        "stage": stage, "tiny": tiny, "card": card, "driver": {}, "versions": {"torch": "2.11.0+cu130"},
        "commit": "0123abcd", "clock": clock, "seconds_budgeted": 40.0, "seconds_taken": 31.5,
        "rows": len(rows) if note_rows is None else note_rows, "failed": sum(r["status"] == "failed" for r in rows),
        "absent": {"liger-kernel": "not installed"},
    }  # fmt: skip
    with (folder / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return folder


def exact(folder, distances, *, controls=(40.0,), **options):
    """Stage a: ratios of distances from the oracle, of packs and of packs that are wrong on purpose."""
    rows = []
    for kind, metric, values in (("", "logits", distances), (": no boundaries", "control, logits", controls)):
        for number, value in enumerate(values):
            good = kind or value <= 2
            given = ("exact", f"heads of {64 + number}{kind}", "packed, varlen")
            metric = f"{metric.partition(':')[0]}: distance, packed / separate"
            told = {"status": "ok"} if good else {"status": "failed", "note": "over 2"}
            rows.append(row(*given, metric, value, "ratio", **told))
    return add(folder, "exact", rows, **options)


def figure_5(folder, speeds, *, predicted=2.4, **options):
    """Stage d: how many times as fast as naive batching each system is, the cost model's number and the paper's."""
    rows = []
    for system, value in speeds.items():
        given = ("figure5", FIGURE_5, system)
        rows += [row(*given, RATIO, value, "ratio", backend="fit_pace"),
                 row(*given, PREDICTED, predicted, "ratio", backend="longalign.recipe.cost")]  # fmt: skip
    paper = {"packing": 67.2 / 23.4, "sorted": 67.2 / 23.3}
    rows += [row("figure5", PAPER, name, RATIO, value, "ratio", backend="8 x A800") for name, value in paper.items()]
    return add(folder, "figure5", rows, **options)


def whole(folder, **options):
    """A card on which every stage was run once."""
    add(folder, "ceilings", [row("ceilings", "8192 x 8192 x 8192", "bf16 product", "rate", 760.0, "TFLOP/s"),
                             row("ceilings", "4,096 MiB", "copy", "rate", 3.0, "TB/s")], **options)  # fmt: skip
    exact(folder, [0.4, 1.1, 1.9], **options)
    kernels, both = [], "forward + backward"
    for n, tokens in enumerate((8192, 32_768, 65_536)):
        for m, system in enumerate(("packed, varlen", "packed, flash_attn", "FlexAttention")):
            given = ("kernels", f"attention, {tokens:,} tokens", system)
            kernels += [row(*given, f"time, {both}", 0.002 * 4**n * (m + 1), "s"),
                        row(*given, f"memory, {both}", 0.5 * (n + 1), "GiB"),
                        row(*given, f"share of the product's rate, {both}", 0.5 / (m + 1), "share")]  # fmt: skip
    kernels.append(row("kernels", "attention, 65,536 tokens", "dense mask", f"time, {both}", status="failed",
                       note="OutOfMemoryError: tried to allocate 64 GiB"))  # fmt: skip
    add(folder, "kernels", kernels, **options)
    figure_5(folder, {"sorted": 2.84, "packing": 2.61, "packing, balance steps": 2.9}, **options)
    systems = {"longalign": 21_000.0, "padded": 6000.0, "flattened": 14_000.0}
    add(folder, "training", [row("training", "packs of 32,768 tokens", name, "speed", value, "tokens/s")
                             for name, value in systems.items()], **options)  # fmt: skip
    rows = []
    for arm, value in (("none", 0.2), ("all", 0.7)):
        given = ("learning", f"1:1, {arm}", "mini-7b")
        for n, length in enumerate((4096, 16_384, 32_768, 65_536)):
            rows.append(row(*given, f"exact match at {length:,}", value / (n + 1), "share"))
            rows += [row(*given, f"needle at {length:,}, depth {depth:.2f}", value, "share") for depth in (0.0, 0.5)]
        rows.append(row(*given, "speed", 90_000.0, "tokens/s"))
    add(folder, "learning", rows, **options)
    return folder


def ratios(folder, seeds, *, naive=10.0, packing=4.0, sorted_=3.5, **options):
    """Stage d with so many seeds; the ratios differ a little from seed to seed."""
    rows = []
    for seed in range(seeds):
        bend = 1 + 0.01 * seed
        for system, value in (("naive", naive), ("packing", packing * bend), ("sorted", sorted_ * bend)):
            rows.append(row("figure5", f"8 ranks, seed {seed}", system, "seconds", value, "s"))
    return add(folder, "figure5", rows, **options)
