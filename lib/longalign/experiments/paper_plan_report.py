"""Shows `longalign.experiments.paper_plan`'s report beside the paper's figures; what is simulated or assumed always
says so.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from longalign.experiments.paper_plan import FITTED, MODELS, PER_PACK, STEPS, Report, Row
from longalign.recipe.cost import A800

NAME = " ".join(FITTED)
COLUMNS = f"{'model':<13}{'method':<9}{'longest':>7}{'steps':>8}{'seq/step':>10}{'seq/pack':>10}{'fill':>9}{'idle':>9}"


def as_json(found: Report) -> dict[str, Any]:
    """The report as JSON values: rows, what they rest on, and the paper's own figures."""
    paper = {"sequences_per_pack": PER_PACK, "steps": list(STEPS), "hours": {m.name: m.hours for m in MODELS}}
    rest = {"simulated": True, "fitted": NAME if found.fitted else None, "utilisation": found.tflops / A800}
    return asdict(found) | rest | {"paper": paper}


def as_text(found: Report) -> str:
    """The report for a terminal of 100 columns."""
    wait = "in every micro-step (ZeRO-3)" if found.barrier == "micro_step" else "at the end of every step"
    again = "; forward pass twice" if found.checkpointing else ""
    how = f"fitted to {NAME} (*), the rest predicted" if found.fitted else "given by --utilisation"
    return "\n".join([
        "Simulated from lengths by a cost model, not measured.",
        found.lengths,
        f"{found.epochs} epochs, {found.ranks} ranks that wait for the slowest {wait}{again}",
        f"{found.tflops:.0f} TFLOP/s a device ({found.tflops / A800:.0%} of {A800:g}), {how}",
        "",
        f"{COLUMNS}{'hours':>8}{'paper':>8}{'ratio':>7}",
        *(_line(row, found.fitted) for row in found.rows),
        "",
        *_notes(found),
    ])  # fmt: skip


def size(tokens: int) -> str:
    """A length in words.

    >>> size(65_536), size(57_344), size(9)
    ('64k', '56k', '9')
    """
    return f"{tokens // 1024}k" if tokens and tokens % 1024 == 0 else str(tokens)


def _line(row: Row, fitted: bool) -> str:
    packed = "-" if row.sequences_per_pack is None else f"{row.sequences_per_pack:.1f}"
    paper, ratio = ("-", "-") if row.ratio is None else (f"{row.paper_hours:.1f}", f"{row.ratio:.2f}")
    return (
        f"{row.model:<13}{row.method:<9}{size(row.longest):>7}{row.steps:>8,}{row.sequences_per_step:>10.1f}{packed:>10}"
        f"{row.fill:>9.1%}{row.idle:>9.1%}{row.hours:>8.1f}{paper:>8}{ratio:>7}"
        f"{' *' if fitted and (row.model, row.method) == FITTED else ''}"
    )


def _notes(found: Report) -> list[str]:
    """The paper's own figures, what does not fit them, and what was cut."""
    packed = found.rows[0]
    here = [row for row in found.rows if (row.model, row.longest) == (packed.model, packed.longest)]
    wrong = [f"{row.method} {row.steps:,} steps" for row in here if not STEPS[0] <= row.steps <= STEPS[1]]
    if round(packed.sequences_per_pack) != PER_PACK:
        wrong.append(f"{packed.sequences_per_pack:.1f} sequences a pack")
    notes = [
        f"paper: about {PER_PACK} sequences a pack, {STEPS[0]:,} to {STEPS[1]:,} steps, hours on 8 x A800 (Figure 5)",
        f"here outside of that: {', '.join(wrong) or 'nothing'}",
        "ratio: hours here over the paper's; without one: the paper did not train so (ChatGLM3 unpacked: 56k)",
    ]
    cut = next((row for row in found.rows if row.cut), None)
    if cut:
        lost = "their answers are not known"
        if cut.without_targets is not None:
            lost = f"{cut.without_targets:,} lose their whole answer"
        notes.append(f"{size(cut.longest)}: {cut.cut:,} sequences an epoch are cut on the right, {lost}")
    return notes
