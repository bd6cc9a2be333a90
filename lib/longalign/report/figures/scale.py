"""Figures of the training data (the paper's Table 2, in miniature): scores against the amount and source of data."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import tables, whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure, grouped_bars, look

EQUAL_STEPS = ", equal steps"
PANELS = {"test long": "long questions", "LBC": "chat on long texts", "test short": "short questions"}
DOSE = "long instructions, in thousands (here 64 times fewer)"
KINDS = {"its kinds": "look-ups, notes", "other kinds": "other questions"}
"""LongAlpaca's kinds of questions, and all others."""


def _dose(arm: str) -> float:
    return float(arm.removesuffix(EQUAL_STEPS).removeprefix("LongAlign-").removesuffix("k"))


@figure("data_scale")
def data_scale(folder: Path) -> Figure:
    """Scores against the dose of long instructions, equal epochs and equal steps, the paper's scores apart.

    data_scale.csv: tidy rows; error bars are 95 % t intervals over seeds.
    """
    seeds = tables.scores_by_seed(whole_tables.read(folder, "data_scale"))
    found = tables.intervals(seeds, ["arm", "column"])
    found["dose"] = found.arm.map(_dose)
    drawn, panels = plt.subplots(1, 4, figsize=(TEXT_WIDTH, 2.3), layout="constrained")
    styles = look(["equal epochs", "equal steps"])
    for axes, (column, label) in zip(panels, PANELS.items(), strict=False):
        part = found[found.column == column].sort_values("dose")
        equal = part.arm.str.endswith(EQUAL_STEPS)
        percent = 1 if column == "LBC" else 100
        for name, rows in (("equal epochs", part[~equal]), ("equal steps", part[equal])):
            if rows.empty:  # `make headline` has no equal steps
                continue
            means, halves = rows["mean"] / percent, rows.half / percent
            axes.errorbar(rows.dose, means, yerr=halves, capsize=2, label=name, **styles[name])
        axes.set(title=label)
        if column == "LBC":
            axes.set(ylim=(0.8, 10.2), ylabel="points, 1 to 10")
        else:
            axes.set(ylim=(-0.03, 1.03), ylabel="exact match")
    paper = tables.printed("Table 2").LBC.droplevel("model").drop("LongAlpaca-12k")
    panels[3].plot([_dose(arm) for arm in paper.index], paper, color="black", marker="*")
    panels[3].set(title="paper: LongBench-Chat", ylim=(0.8, 10.2), ylabel="points, 1 to 10")
    drawn.supxlabel(DOSE, fontsize=8)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn


@figure("data_source")
def data_source(folder: Path) -> Figure:
    """Exact match in and out of LongAlpaca's domain, a bar per suite, error bars over seeds.

    data_source_domains.csv: arm, seed, domain, value (0 to 1).
    """
    found = tables.intervals(whole_tables.read(folder, "data_source_domains"), ["arm", "domain"])
    domains, arms = sorted(found.domain.unique()), found.arm.unique().tolist()
    drawn, axes = plt.subplots(figsize=(TEXT_WIDTH, 2.3), layout="constrained")
    table = found.set_index(["domain", "arm"])[["mean", "half"]].unstack("arm").loc[domains]
    grouped_bars(axes, table["mean"][arms], table["half"])
    named = [domain.split(", ") for domain in domains]
    axes.set_xticks(range(len(domains)), [f"{source}:\n{KINDS.get(kind, kind)}" for source, kind in named], fontsize=6)
    axes.set(ylabel="exact match", ylim=(0, 1.03))
    drawn.legend(loc="outside upper center", ncols=2)
    return drawn
