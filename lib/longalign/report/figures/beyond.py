"""Figures of what goes beyond the paper: the weights' exponent, continual training, the released code, LoRA."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import COLOURS, TEXT_WIDTH, WHISKERS, figure, legend_above, length_axis, look
from longalign.report.tables import TEST, contrasts, over_seeds, primary

ANSWERS = {"1-8": (1, 8), "9-16": (9, 16), "over 16": (17, 10**9)}
"""Classes of answers by their target tokens, the end token included."""
CONTINUAL = ("short", "long")
SCORES = {"exact_match": "exact match, long prompts", "score": "LongBench-Chat, 1-10"}


@figure("exponent_answers")
def exponent_answers(folder: Path) -> Figure:
    """Fact match against the exponent of the weights, a line a class of answer lengths."""
    table = whole_tables.read(folder, "exponents")
    table = table[(table.metric == "fact_match") & table.task.str.startswith("answers of ")]
    drawn, axes = plt.subplots(figsize=(3.3, 2.4))
    for name, style in look(list(ANSWERS)).items():
        inside = table[table.task == f"answers of {name}"]
        if inside.empty:
            continue
        part = over_seeds(inside, ["arm"])
        exponents = part.index.str.removeprefix("a = ").astype(float)
        part = part.iloc[order := np.argsort(exponents)]
        axes.errorbar(exponents[order], part["mean"], yerr=part["half"], label=name, elinewidth=0.7, **style)
    axes.set(xlabel="exponent a: a sequence's share of the loss ~ $N^a$", ylabel="fact match", ylim=(-0.03, 1.03))
    place = {"loc": "lower center", "bbox_to_anchor": (0.45, 1), "ncols": 4, "handlelength": 1.4}
    axes.legend(title="tokens of the answer", title_fontsize=7, **place)
    return drawn


@figure("lora")
def lora(folder: Path) -> Figure:
    """Exact match on the test set against length, averaged over tasks: all weights trained, or LoRA."""
    table = whole_tables.read(folder, "lora")
    table = table[(table.metric == "exact_match") & table.task.isin(TEST)]
    found = over_seeds(table, ["arm", "length"]).reset_index()
    drawn, axes = plt.subplots()
    for number, (arm, style) in enumerate(look(list(table.arm.unique())).items()):
        part = found[found.arm == arm].sort_values("length")
        beside = part.length * 2 ** (0.08 * (number - 0.5))  # or the bars of one length would hide each other
        axes.errorbar(beside, part["mean"], yerr=part.half, label=arm, capsize=2, **style)
    length_axis(axes, found.length, ylabel="exact match")
    axes.legend()
    return drawn


@figure("grid")
def grid(folder: Path) -> Figure:
    """Without and with long instructions, a line a kind of continual training: parallel lines, no interaction."""
    table = whole_tables.read(folder, "grid")
    drawn, panels = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.3))
    for axes, (metric, label) in zip(panels, SCORES.items(), strict=True):
        means = over_seeds(primary(table, metric), ["arm"])
        for shift, (kind, style) in enumerate(look(CONTINUAL).items()):
            arms = [f"{kind} continual training, {suite}" for suite in ("LongAlign-0k", "LongAlign-10k")]
            places = np.arange(2) + 0.03 * shift
            part = means.loc[arms]
            name = f"{kind} continual training"
            axes.errorbar(places, part["mean"], yerr=part["half"], label=name, elinewidth=0.7, capsize=2, **style)
        axes.set_xticks((0, 1), ("no long instructions", "long instructions"))
        axes.set(xlim=(-0.3, 1.3), ylabel=label)
    legend_above(drawn, panels[0], ncols=2)
    return drawn


@figure("defects")
def defects(folder: Path) -> Figure:
    """What each fault of the released code changes in the scores, against the same training without it."""
    table = whole_tables.read(folder, "defects")
    faults = [arm for arm in table.arm.unique() if arm not in ("packing + loss weighting", "sorted")]
    drawn, panels = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 0.3 * len(faults) + 0.9), sharey=True)
    for axes, (metric, label) in zip(panels, SCORES.items(), strict=True):
        for place, fault in enumerate(faults):
            sound = "sorted" if fault.startswith("sorted") else "packing + loss weighting"
            found = contrasts(primary(table, metric), {fault: 1, sound: -1}).assign(arm=fault)
            row = over_seeds(found, ["arm"]).iloc[0]
            axes.plot(row["mean"], place, "o", color=COLOURS[0])
            axes.errorbar(row["mean"], place, xerr=row["half"], **WHISKERS)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel=f"{label}:\nwith the fault, less without it (left: worse)")
        axes.margins(x=0.15)
    panels[0].set_yticks(range(len(faults)), faults)
    panels[0].set(ylim=(len(faults) - 0.5, -0.5))
    drawn.tight_layout()
    return drawn
