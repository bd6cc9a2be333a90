"""Blocks of the site's pages: figures with their captions, and what the paper's trainings would cost."""

from __future__ import annotations

from pathlib import Path

import yaml

from longalign.experiments.paper_costs import CAREFUL, DEVICES, SPARE, costs
from longalign.experiments.paper_plan import FITTED, LONG, SHORT
from longalign.experiments.profiles import load_profile
from longalign.report.page_blocks import table


def figures(results: Path) -> str:
    """Every figure with its caption and notebook, in the order of `docs/results/figures.yaml`."""
    root = results.parent
    captions = yaml.safe_load((root / "docs" / "results" / "figures.yaml").read_text(encoding="utf-8"))
    return "\n\n".join(
        f"## {of['title']}\n\n![{of['title']}](../../figures/{name}.png)\n\n{of['caption']} "
        f"[`{of['notebook']}`](../../results/notebooks/{of['notebook']}.ipynb) shows where the numbers come from."
        for name, of in captions.items()
    )


def paper_costs(results: Path) -> str:
    """What a packed training of the paper would take on each kind of GPU."""
    profile = load_profile(results.parent / "profiles" / "paper.yaml")
    share, found = costs(profile)
    number, rows = profile.engine.world_size, []
    for cost in found:
        fits = f"yes, {cost.memory:.0f} GB of each" if cost.shared else f"no, {cost.memory:.0f} GB of each are needed"
        if (cost.shared or 1) > 1:
            fits += f", if {cost.shared} of them share each pack"
        first, last = cost.hours
        hours = [f"{times * first:.0f} to {times * last:.0f}" if cost.shared else "" for times in (1, number)]
        rows.append([cost.device.name, f"{cost.device.tflops:.0f}", cost.model, fits, *hours])
    sheets = ", ".join(f"[{device.name}]({device.source})" for device in DEVICES)
    nodes = sorted({cost.node for cost in found})
    return "\n\n".join([
        f"**Predicted, not measured on a GPU.** One training is {profile.training.epochs} epochs of {LONG:,} long and "
        f"{SHORT:,} short instructions, in packs of {profile.training.capacity:,} tokens.",
        table(["GPU", "peak, TFLOP/s in bf16", "model", f"fits on {number}?", f"hours on {number}", "GPU hours"], rows),
        f"The hours are a range. Its lower end takes {share:.0%} of the peak: at this share, one training of the paper "
        f"({' by '.join(FITTED)}, on A800) comes out at the paper's hours. Its upper end takes {CAREFUL:.0%} of the "
        f"peak. \"Fits\" leaves {1 - SPARE:.0%} of the memory for buffers. The machine also needs {nodes[0]:.0f} to "
        f"{nodes[-1]:.0f} GB of its own memory, because the profile moves weights and optimizer there. Peak and memory "
        f"are those of NVIDIA's data sheets: {sheets}.",
    ])  # fmt: skip
