"""The README's results are written from the committed tables, never typed: the block between two marks is replaced.

The price: prose around the block must stay true whatever the numbers are.
"""

import json
from pathlib import Path

import pandas as pd

from longalign import paths
from longalign.figures.methods import METHODS
from longalign.record import write_text

BEGIN, END = "<!-- results:begin (written by `make reference`) -->", "<!-- results:end -->"


def block(results: Path) -> str:
    """Markdown of the headline: exact match by length, processor time, and where the numbers come from.

    Raises FileNotFoundError when a table is missing.
    """
    scores, speed = pd.read_csv(results / "methods.csv"), pd.read_csv(results / "method_speed.csv")
    entry = json.loads((results / "05_training_methods.json").read_text(encoding="utf-8"))
    questions = entry["config"]["evaluation"]["per_cell"] * scores.task.nunique()
    records = (json.loads(path.read_text(encoding="utf-8")) for path in results.glob("[0-9][0-9]_*.json"))
    minutes = sum(record["wall_seconds"] for record in records) / 60
    table = scores.pivot_table(index=["model", "arm"], columns="length", values="value", sort=False)
    naive = speed[speed.method == "naive"].set_index("model").cpu_seconds
    times = speed.set_index(["model", "method"]).cpu_seconds
    lines = ["| model | training method | " + " | ".join(f"{n}" for n in table.columns) + " | speed against naive |"]
    lines.append("|---|---|" + "---|" * (len(table.columns) + 1))
    for model, arm in ((model, arm) for model in scores.model.unique() for arm in METHODS):
        row = table.loc[model, arm]
        cells = " | ".join(f"{value:.2f}" for value in row)
        lines.append(f"| {model} | {arm} | {cells} | {naive[model] / times[model, arm]:.2f} x |")
    return "\n\n".join([
        "![exact match by length for the four training methods](figures/method_scores.png)",
        "Exact match of greedy answers by length of the sample in tokens (at most; 1,024 stands for 64k), mean over "
        f"{scores.task.nunique()} tasks, and speed in tokens per second of processor time of one process, which leaves "
        "out that devices wait for each other:",
        "\n".join(lines),
        f"{questions} questions a cell; all notebooks took {minutes:.0f} minutes (training included, installing not). "
        f"Profile `{entry['config']['name']}`, seed {', '.join(map(str, entry['seeds']))}, "
        f"{entry['hardware']['cores']} cores ({entry['hardware']['processor']}), torch {entry['versions']['torch']}.",
    ])  # fmt: skip


def update(readme: Path, results: Path) -> None:
    """Replace the block of `readme`. Raises ValueError when its marks are not there, once each and in order."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{readme.name} must hold the lines {BEGIN!r} and {END!r}, once each and in this order")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    write_text(readme, f"{head}{BEGIN}\n\n{block(results)}\n\n{END}{tail}")


def main() -> None:
    """Write the committed results into the README."""
    update(paths.root() / "README.md", paths.results())


if __name__ == "__main__":
    main()
