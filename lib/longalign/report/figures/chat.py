"""Figures of LongBench-Chat in miniature (the paper's Figure 1)."""

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import COLOURS, TEXT_WIDTH, WHISKERS, figure, grouped_bars
from longalign.report.tables import CHAT, over_seeds, size

PAPER = {
    "GPT-4-1106": 8.40, "GLM-4-128k": 8.14, "Claude-2.1": 8.03, "LongAlign-13B-64k": 7.02, "InternLM2-20b-200k": 6.66,
    "ChatGLM3-6B-128k": 6.52, "LongAlign-7B-64k": 6.38, "InternLM2-7b-200k": 6.29, "LongAlign-6B-64k": 6.21,
    "Mistral-7B-Instruct-v0.2": 5.84, "ChatGLM3-6B-32k": 4.55, "Vicuna-7b-16k": 3.51, "Orion-14b-LongChat": 3.17,
    "LongChat-7b-32k": 3.06,
}  # fmt: skip
"""Figure 1 of arXiv 2401.18058: LongBench-Chat, 1 to 10 points by GPT-4."""


@figure("chat_ranking")
def chat_ranking(folder: Path) -> Figure:
    """All our models ranked by score, beside the paper's ranking of its own; the two scales cannot be compared."""
    table = whole_tables.read(folder, "chat")
    ranking = over_seeds(table[table.metric == "score"], ["model", "arm"]).sort_values("mean")
    ceiling = table[table.metric == "ceiling"].value.mean()
    drawn, (ours, paper) = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 0.19 * max(len(ranking), len(PAPER)) + 0.9))
    models = sorted(ranking.index.get_level_values("model").unique(), key=size)
    colours = [COLOURS[models.index(model)] for model, _ in ranking.index]
    names = [f"{model}  {arm}" for model, arm in ranking.index]
    ours.barh(names, ranking["mean"], color=colours, height=0.7)
    ours.errorbar(ranking["mean"], range(len(names)), xerr=ranking["half"], **WHISKERS)
    ours.axvline(ceiling, color="black", linestyle="--", linewidth=0.8)
    ours.set(title=f"here: points by rule (dashed: ceiling {ceiling:.1f})", xlabel="points; 1 is chance")
    ours.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[number]) for number in range(len(models))], models,
                loc="lower right", bbox_to_anchor=((ceiling - 1) / 9, 0))  # fmt: skip  left of the dashed line
    told = pd.Series(PAPER).sort_values()
    colours = [COLOURS[5] if name.startswith("LongAlign") else "0.7" for name in told.index]
    paper.barh(told.index, told, color=colours, height=0.7)
    paper.set(title="paper's Figure 1: points by GPT-4", xlabel="points")
    paper.legend([plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (COLOURS[5], "0.7")],
                 ["LongAlign", "others"], loc="lower right")  # fmt: skip
    for axes in (ours, paper):
        axes.set(xlim=(1, 10), xticks=range(1, 11))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", labelsize=6)
    drawn.tight_layout()
    return drawn


@figure("chat_categories")
def chat_categories(folder: Path) -> Figure:
    """Score by category, a bar a suite of the first model: which kinds of questions long instructions help."""
    table = whole_tables.read(folder, "chat")
    table = table[(table.metric == "score") & table.arm.str.startswith("Long")]
    drawn, axes = plt.subplots(figsize=(TEXT_WIDTH, 2.3))
    arms = sorted(table.arm.unique(), key=lambda arm: (arm.split("-")[0], len(arm), arm))
    found = over_seeds(table, ["task", "arm"]).unstack("arm").reindex(CHAT)
    found.index = [name.removeprefix("chat-") for name in CHAT]
    grouped_bars(axes, found["mean"][arms], found["half"], bottom=1)
    axes.set(ylim=(1, 10), ylabel="points; 1 is chance")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(arms))
    return drawn
