"""The paper's tables from tidy rows: each column a mean over seeds with a 95 % t interval, or the mean of one seed.

A seed's value of a column is the mean over its tasks and lengths, each counted once. These intervals leave out the
chance of the items (see `longalign.evals.intervals` for both).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from longalign.evals import intervals as stats


class Column(NamedTuple):
    """What a column of the paper's tables averages: a metric of some tasks, at lengths from `low` to `high` tokens."""

    metric: str
    tasks: tuple[str, ...]
    scale: float = 100
    low: int = 0
    high: int = 2**31


METHODS = ("naive", "sorted", "packing", "packing + loss weighting")
"""The training methods of Table 3, in the order in which they are drawn."""
CHAT = ("chat-reasoning", "chat-coding", "chat-summarization", "chat-translation", "chat-document-qa")
TEST = ("lookup", "table", "note", "translation", "chain", "calls", "summary")
HELD_OUT = tuple(f"heldout-{task}" for task in TEST)
"""The same tasks asked in words that no training sample used."""
COLUMNS = {
    "LBC": Column("score", CHAT, scale=1),
    "S-Doc": Column("fact_match", ("single-document-qa",)),
    "M-Doc": Column("fact_match", ("multi-document-qa",)),
    "Summ": Column("fact_match", ("summarization",)),
    "multi-turn": Column("exact_match", ("multi-turn",)),
    "reasoning": Column("accuracy", ("reasoning",)),
    "continuation": Column("accuracy", ("continuation",)),
    "truthfulness": Column("accuracy", ("truthfulness",)),
    "knowledge": Column("accuracy", ("knowledge",)),
    "test long": Column("exact_match", TEST, low=256),
    "test short": Column("exact_match", TEST, high=128),
    "held-out long": Column("exact_match", HELD_OUT, low=256),
    "held-out short": Column("exact_match", HELD_OUT, high=128),
}
"""The columns of Tables 2 to 4, ours in place of LongBench-Chat, LongBench, MT-Bench, ARC, HellaSwag, TruthfulQA, MMLU,
then our primary test set, and apart from it the templates held out; LBC from 1 to 10, all others in percent."""

PAPER_COLUMNS = {
    "LBC": "LBC", "S-Doc": "S-Doc", "M-Doc": "M-Doc", "Summ": "Summ", "multi-turn": "MT-Bench", "reasoning": "ARC",
    "continuation": "HellaSwag", "truthfulness": "TruthfulQA", "knowledge": "MMLU",
}  # fmt: skip
"""What our columns are called in the paper."""

PAPER = {
    "Table 2": {
        ("ChatGLM3-6B", "LongAlign-0k"): (3.73, 58.7, 41.1, 38.4, 5.34, 50.3, 74.7, 51.6, 45.5),
        ("ChatGLM3-6B", "LongAlign-5k"): (5.97, 61.8, 42.1, 42.0, 5.51, 50.3, 75.1, 52.5, 46.6),
        ("ChatGLM3-6B", "LongAlign-10k"): (6.21, 64.0, 44.4, 44.2, 5.50, 50.5, 74.9, 52.5, 45.5),
        ("ChatGLM3-6B", "LongAlpaca-12k"): (4.46, 65.8, 45.6, 44.1, 4.93, 51.5, 75.4, 53.2, 47.1),
    },
    "Table 3": {
        ("ChatGLM3-6B", "naive"): (5.87, 65.4, 45.0, 44.8, 5.61, 50.7, 74.7, 52.8, 46.0),
        ("ChatGLM3-6B", "sorted"): (5.40, 66.2, 46.3, 43.7, 5.76, 51.3, 74.8, 51.9, 46.3),
        ("ChatGLM3-6B", "packing"): (5.76, 65.0, 45.1, 42.8, 5.64, 50.9, 74.8, 50.5, 47.2),
        ("ChatGLM3-6B", "packing + loss weighting"): (6.21, 64.0, 44.4, 44.2, 5.50, 50.5, 74.9, 52.5, 45.5),
        ("Llama-2-7B", "naive"): (5.95, 62.8, 42.7, 41.6, 5.52, 48.9, 74.8, 45.3, 43.6),
        ("Llama-2-7B", "sorted"): (6.38, 63.4, 42.2, 41.3, 5.51, 49.5, 74.8, 48.0, 44.3),
        ("Llama-2-7B", "packing"): (5.89, 61.7, 40.4, 42.0, 5.58, 48.1, 74.9, 46.1, 43.9),
        ("Llama-2-7B", "packing + loss weighting"): (6.10, 60.8, 41.3, 43.1, 5.60, 48.4, 74.5, 47.4, 43.3),
    },
    "Table 4": {
        ("Llama-2-13B", "packing + loss weighting"): (6.79, 68.0, 40.3, 43.6, 6.12),
        ("Llama-2-13B", "sorted"): (7.02, 66.1, 43.9, 45.3, 6.02),
    },
}
"""The printed numbers of arXiv 2401.18058, by model and arm, in the order of PAPER_COLUMNS."""


def printed(table: str) -> pd.DataFrame:
    """The paper's own numbers of "Table 2", "Table 3" or "Table 4", with its column names.

    Raises KeyError for another table.

    >>> float(printed("Table 2").loc[("ChatGLM3-6B", "LongAlign-10k"), "LBC"])
    6.21
    """
    rows = PAPER[table]
    names = list(PAPER_COLUMNS.values())[: len(next(iter(rows.values())))]
    index = pd.MultiIndex.from_tuples(rows, names=["model", "arm"])
    return pd.DataFrame(list(rows.values()), index=index, columns=names)


def scores_by_seed(frame: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Tidy rows -> arm, model, seed, column, value: what lies behind `paper_table`, in the order of the rows.

    A column that the rows know nothing of is left out.

    >>> row = {"arm": "sorted", "model": "mini-6b", "seed": 0, "task": "lookup", "metric": "exact_match"}
    >>> rows = [{**row, "length": 64 * 2**n, "value": n / 4} for n in (2, 4, 3)]
    >>> scores_by_seed(rows)[["column", "value"]].values.tolist()
    [['test long', 75.0]]
    """
    frame = pd.DataFrame(frame)
    parts = []
    for name, column in COLUMNS.items():
        inside = frame.task.isin(column.tasks) & frame.length.between(column.low, column.high)
        part = frame[inside & (frame.metric == column.metric)]
        means = part.groupby(["arm", "model", "seed"], sort=False).value.mean() * column.scale
        parts.append(means.reset_index().assign(column=name))
    return pd.concat(parts)[["arm", "model", "seed", "column", "value"]].reset_index(drop=True)


def intervals(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and half-width of the 95 % t interval over the rows (seeds) of each group: columns `by`, mean, half, seeds.

    The half-width is NaN where there is no interval: one seed, or seeds that do not differ.

    >>> seeds = pd.DataFrame({"arm": "sorted", "seed": [0, 1, 2], "value": [2.0, 4.0, 3.0]})
    >>> intervals(seeds, ["arm"]).round(4).values.tolist()  # 3 +- 4.302653 / sqrt(3)
    [['sorted', 3.0, 2.4841, 3]]
    """
    found = frame.groupby(list(by), sort=False).value.agg(mean="mean", half=_half_width, seeds="size")
    return found.reset_index()


def over_seeds(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`intervals` of tidy rows, indexed by the columns `by`; a seed's value is the mean over all its rows.

    >>> rows = pd.DataFrame({"arm": "sorted", "seed": [0, 0, 1, 2], "value": [1.0, 3.0, 4.0, 3.0]})
    >>> over_seeds(rows, ["arm"]).round(4).loc["sorted"].tolist()  # 2, 4 and 3
    [3.0, 2.4841, 3.0]
    """
    seeds = table.groupby([*by, "seed"], sort=False).value.mean().reset_index()
    return intervals(seeds, by).set_index(list(by))


def primary(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The tidy rows behind one number: `score` of LongBench-Chat, or `exact_match` of the test set's long prompts.

    Long are the prompts of the column "test long", or the longest where none is that long.
    """
    if metric == "score":
        return table[(table.metric == metric) & table.task.isin(CHAT)]
    asked = table[(table.metric == metric) & table.task.isin(TEST)]
    return asked[asked.length >= min(COLUMNS["test long"].low, asked.length.max())]


def contrasts(table: pd.DataFrame, weights: dict[str, float]) -> pd.DataFrame:
    """The weighted sum of arms for every seed that all of them have: columns `seed` and `value`.

    >>> rows = pd.DataFrame({"arm": ["a", "a", "b"], "seed": [0, 1, 0], "value": [2.0, 4.0, 3.0]})
    >>> contrasts(rows, {"b": 1, "a": -1}).values.tolist()
    [[0.0, 1.0]]
    """
    wide = table.groupby(["seed", "arm"]).value.mean().unstack("arm")[list(weights)].dropna()
    return (wide * pd.Series(weights)).sum(axis=1).rename("value").reset_index()


def size(name: str) -> int:
    """The size in the name of a model or an arm: its last number, to order by.

    >>> size("ChatGLM3-6B"), size("Llama-2-13B"), size("mini-7b"), size("window 512")
    (6, 13, 7, 512)
    """
    return int(re.findall(r"\d+", name)[-1])


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows (model, arm) of a `paper_table` by size of the model, then methods as in `METHODS`, then suites by dose.

    What is done otherwise ("LongAlign-0k, equal steps") stands behind its like, and what is no model's (chance) last.

    >>> arms = ["sorted", "naive", "LongAlign-10k", "LongAlign-2.5k, equal steps", "LongAlign-2.5k"]
    >>> table = pd.DataFrame({"LBC": range(5)}, pd.MultiIndex.from_product([["mini-6b"], arms], names=["model", "arm"]))
    >>> in_order(table).LBC.tolist()
    [1, 0, 4, 2, 3]
    """

    def place(row: tuple[str, str]) -> tuple[float, bool, float]:
        model, arm = row
        doses = re.findall(r"[0-9.]+", arm)
        rank = METHODS.index(arm) - len(METHODS) if arm in METHODS else float(doses[0]) if doses else np.inf
        return size(model) if model else np.inf, "," in arm, rank

    return table.loc[sorted(table.index, key=place)]


def mean_and_interval(values: Sequence[float], *, digits: int = 2) -> str:
    """ "mean ± half-width", or the mean alone where there is no interval.

    >>> mean_and_interval([2, 4, 3]), mean_and_interval([3], digits=1)
    ('3.00 ± 2.48', '3.0')
    """
    half = _half_width(values)
    mean = f"{np.round(np.mean(values), digits) + 0.0:.{digits}f}"  # zero has no sign
    return mean if np.isnan(half) else f"{mean} ± {half:.{digits}f}"


def paper_table(
    frame: pd.DataFrame | Iterable[Mapping[str, Any]],
    *,
    numbers: bool = False,
    limits: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Tidy rows as a table of the paper: index (model, arm), `COLUMNS`, cells "mean ± half-width" over seeds.

    `numbers` gives means as floats instead. `limits` are rows to stand below, as value by metric:
    {"chance": rubric.CHANCE, "best": rubric.BEST}.

    >>> row = {"model": "mini-6b", "arm": "sorted", "task": "chat-coding", "length": 0, "metric": "score"}
    >>> rows = [{**row, "seed": seed, "value": value} for seed, value in enumerate([2, 4, 3])]
    >>> paper_table(rows, limits={"chance": {"score": 1.0}}).LBC.tolist()
    ['3.00 ± 2.48', '1.00']
    """
    seeds = scores_by_seed(frame)
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for (model, arm, name), part in seeds.groupby(["model", "arm", "column"], sort=False):
        cells.setdefault((model, arm), {})[name] = _cell(part.value.tolist(), name, numbers)
    names = [name for name in COLUMNS if name in set(seeds.column)]
    for label, values in (limits or {}).items():
        cells["", label] = {
            name: _cell([values[COLUMNS[name].metric] * COLUMNS[name].scale], name, numbers) for name in names
        }
    index = pd.MultiIndex.from_tuples(cells, names=["model", "arm"])
    return pd.DataFrame(list(cells.values()), index=index, columns=names)


def beside(here: pd.DataFrame, paper: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """A `paper_table` beside a `printed` one: columns (ours, "paper" or "here"), empty where there is no number.

    `models` says which of our models stands for which of the paper's.

    >>> here = paper_table([{"model": "mini-6b", "arm": "sorted", "seed": 0, "task": "chat-coding", "length": 0,
    ...                      "metric": "score", "value": 3.0}])
    >>> beside(here, printed("Table 3"), {"ChatGLM3-6B": "mini-6b"}).LBC.values.tolist()
    [['5.40', '3.00']]
    """
    named = paper.rename(columns={theirs: ours for ours, theirs in PAPER_COLUMNS.items()}).rename(models, level="model")
    texts = pd.DataFrame({name: [_as_printed(value, name) for value in named[name]] for name in named}, named.index)
    both = pd.concat({"paper": texts, "here": here}, axis=1).swaplevel(axis=1).reindex(here.index).fillna("")
    return both[[(name, who) for name in here for who in ("paper", "here") if (name, who) in both]]


def _as_printed(value: float, name: str) -> str:
    """The paper gives its scores from 1 to 10 two digits, percents one."""
    return "" if np.isnan(value) else f"{value:.{2 if name in ('LBC', 'multi-turn') else 1}f}"


def _cell(values: list[float], name: str, numbers: bool) -> float | str:
    if numbers:
        return float(np.mean(values))
    return mean_and_interval(values, digits=2 if COLUMNS[name].scale == 1 else 1)


def _half_width(values: Sequence[float]) -> float:
    low, high = stats.t_interval(np.asarray(values, dtype=float))
    return (high - low) / 2
