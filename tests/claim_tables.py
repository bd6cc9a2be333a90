"""Claims of two arms, and tables of made-up scores to judge them by."""

import pandas as pd

from longalign.report.claim_schema import Claim, Number
from longalign.report.claims import measure_all

ARMS = (Number("new", 1.0), Number("old", -1.0))


def claim(name="c", **changes):
    fields = {
        "id": name, "source": "Table 2", "statement": "New is better.", "notebook": "05_data_scale",
        "results": "scores", "model": "mini-6b", "metric": "accuracy", "arms": ARMS, "direction": "greater",
        "margin": 0.05,
    }  # fmt: skip
    return Claim(**(fields | changes))


def equal(name="c", **changes):
    return claim(name, direction="equal", **changes)


def not_less(name="c", **changes):
    return claim(name, direction="not_less", **changes)


def table(folder, new, old, *, name="scores", extra=(), task="reading"):
    """A tidy CSV of two arms, a value per seed, and its item file, where every score is that of two equal questions."""
    rows = [
        {"experiment": name, "arm": arm, "model": "mini-6b", "seed": seed, "task": task, "length": 0,
         "metric": "accuracy", "value": value}
        for arm, values in (("new", new), ("old", old)) for seed, value in enumerate(values)
    ]  # fmt: skip
    frame = pd.DataFrame([*rows, *extra])
    frame.to_csv(folder / f"{name}.csv", index=False)
    two_equal_questions(folder, frame, name)


def two_equal_questions(folder, frame, name="scores"):
    runs = frame.assign(run=frame.model + "|" + frame.arm + "|" + frame.seed.map(str))
    wide = runs.pivot_table(index=["task", "length", "metric"], columns="run", values="value", aggfunc="first")
    (folder / "items").mkdir(exist_ok=True)
    both = pd.concat([wide.reset_index().assign(item=item) for item in ("i0", "i1")])
    both.to_csv(folder / "items" / f"{name}.csv", index=False)


def items(folder, columns, *, name="scores", task="reading"):
    """An item file whose columns are runs of mini-6b: {"new|0": values}."""
    (folder / "items").mkdir(exist_ok=True)
    count = len(next(iter(columns.values())))
    keys = {"benchmark": "short", "task": task, "length": 0, "item": [f"i{n}" for n in range(count)],
            "metric": "accuracy"}  # fmt: skip
    frame = pd.DataFrame(keys | {f"mini-6b|{run}": values for run, values in columns.items()})
    frame.to_csv(folder / "items" / f"{name}.csv", index=False)


def one(folder, stated):
    (row,) = measure_all([stated], folder)
    return row


FAR = [0.80, 0.82, 0.81, 0.79, 0.83]
BASE = [0.50, 0.50, 0.50, 0.50, 0.50]
