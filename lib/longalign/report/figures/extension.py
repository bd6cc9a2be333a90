"""Figures of the context extension."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import TEXT_WIDTH, figure, legend_above, length_axis, look
from longalign.report.tables import size


@figure("extension_loss")
def extension_loss(folder: Path) -> Figure:
    """Loss of the continual training on long documents, one line a model, smoothed over about ten steps."""
    table = whole_tables.read(folder, "extension_loss")
    drawn, axes = plt.subplots()
    models = sorted(table.model.unique(), key=size)
    styles = look(models)
    for model in models:
        part = table[table.model == model]
        axes.plot(part.tokens / 1e6, part.loss.ewm(span=10).mean(), label=model, **styles[model], markevery=0.2)
    axes.set(xlabel="million tokens of long documents", ylabel="loss (mean over targets)")
    axes.legend()
    return drawn


@figure("extension_recall")
def extension_recall(folder: Path) -> Figure:
    """Recall against length for the short base, the untrained change of RoPE and the long base, one panel a model."""
    table = whole_tables.read(folder, "extension_recall")
    (changed,) = (stage for stage in table.stage.unique() if stage.endswith("untrained"))
    stages = ["short base", changed, "long base"]
    models = sorted(table.model.unique(), key=size)
    drawn, panels = plt.subplots(1, len(models), figsize=(TEXT_WIDTH, 2.2), sharey=True, squeeze=False)
    styles = look(stages)
    for axes, model in zip(panels[0], models, strict=True):
        for stage in stages:
            part = table[(table.model == model) & (table.stage == stage)].sort_values("length")
            axes.plot(part.length, part.recall, label=stage, **styles[stage])
        short = table[table.model == model].short_length.iloc[0]  # what the short base has read
        axes.axvline(short, color="black", linestyle=":", linewidth=1.2, marker="")
        length_axis(axes, table.length, title=model, xlabel="tokens of the document, at most")
    panels[0][0].set_ylabel("recall of answer tokens")
    legend_above(drawn, panels[0][0], ncols=3)
    return drawn
