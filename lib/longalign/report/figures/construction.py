"""Figures of the construction of long instructions from documents."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report import whole_tables
from longalign.report.figures.style import figure, look

LANGUAGES = {"en": "English", "zh": "Chinese"}


@figure("self_instruct")
def self_instruct(folder: Path) -> Figure:
    """Samples against the tokens of their document, a point a document; lines: in proportion to length, a language."""
    table = whole_tables.read(folder, "self_instruct")
    drawn, axes = plt.subplots()
    styles = look(list(LANGUAGES.values()))
    for language, name in LANGUAGES.items():
        part = table[table.language == language]
        if part.empty:
            continue
        style = styles[name]
        axes.plot(part.tokens, part.samples, label=name, linestyle="none", **style)
        ends = np.array([0, part.tokens.max()])
        axes.plot(ends, ends * part.copies.sum() / part.tokens.sum(), color=style["color"], linewidth=0.8, marker="")
    axes.set(xlabel="tokens of the document", ylabel="samples", xlim=(0, None), ylim=(0, None))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left")
    return drawn
