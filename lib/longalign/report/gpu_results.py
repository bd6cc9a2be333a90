"""What `python -m benchmarks.gpu` measured on GPUs, read from the committed folders results/gpu/<card>/.

A folder holds `gpu.csv` (a row for each number) and `gpu.jsonl` (a record for each stage that was run, in the same
order). Both are only ever added to, so a stage that was run again stands there twice. What counts: rows of full sizes,
each number as the last run gave it, and the failures of each stage's last run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from longalign.train.prediction import Pace

TABLE, RECORDS = "gpu.csv", "gpu.jsonl"
COLUMNS = ("stage", "case", "system", "metric", "value", "unit", "backend", "status", "note")
NUMBER = ["stage", "case", "system", "metric"]
"""The columns that say which number a row holds; one run may give it by several backends."""
NEEDED = {"stage", "rows", "failed"}
"""What every record has; that of a stage whose process died has no card, clock, versions and seconds."""
REHEARSAL = "rehearsal"
ALLOWED = 2.0
"""A packed computation in bf16 may be so many times as far from the fp32 oracle as separate sequences in bf16 are."""
CONTROL = "control, "
"""How the metric of a computation begins that is wrong on purpose: it must be over `ALLOWED`."""
RATIO, PREDICTED, PAPER = "naive / this", "naive / this, predicted", "the paper, 8 ranks, ZeRO-3"
"""Metrics of stage d, by the card's kernels and by the cost model, and the case of the paper's own numbers."""
EXACT_MATCH, NEEDLE = "exact match", "needle"
FIGURE_5 = "10,000 sequences, 8 ranks, barrier at each micro-step (ZeRO-3)"
"""The case of stage d that is nearest to the paper's Figure 5."""


@dataclass(frozen=True)
class Card:
    """What was measured on one card: the rows that count, by `COLUMNS`, and the records of the stages they are from.

    `name`, `date` and `torch` are those of the last record that has them; `repeated` counts failures of runs that were
    done again.
    """

    folder: Path
    rows: pd.DataFrame
    records: tuple[dict[str, Any], ...]
    repeated: int = 0

    @property
    def name(self) -> str:
        """The card as its driver calls it; the folder's name where every stage died."""
        return self._last("card", self.folder.name)

    @property
    def date(self) -> str:
        """The day, in UTC."""
        return self._last("clock", "no date").partition("T")[0]

    @property
    def torch(self) -> str:
        """torch's version."""
        return self._last("versions", {"torch": "unknown"})["torch"]

    def _last(self, key: str, default: Any) -> Any:
        return next((record[key] for record in reversed(self.records) if key in record), default)

    def of(self, stage: str, **chosen: str) -> pd.DataFrame:
        """The good rows of a stage, those with the given metric, unit, case or system where one is given."""
        part = self.rows[(self.rows.stage == stage) & (self.rows.status == "ok")]
        for column, value in chosen.items():
            part = part[part[column] == value]
        return part

    @property
    def failed(self) -> pd.DataFrame:
        """The rows that failed; their notes say why."""
        return self.rows[self.rows.status == "failed"]


def read_cards(folder: Path | str) -> list[Card]:
    """Every card below `folder` (results/gpu), in the order of the folders' names; none where there is none.

    Folders that hold nothing but tiny sizes are left out. Raises ValueError, naming the file, for a table or records
    that cannot be read or that do not belong together.
    """
    found = (read_card(path.parent) for path in sorted(Path(folder).glob(f"*/{TABLE}")))
    return [card for card in found if card.records]


def stages(card: Card) -> pd.DataFrame:
    """A row for each stage that was run: when, seconds taken and budgeted, rows, failures, what was absent."""
    columns = {"clock": "clock", "seconds_taken": "seconds", "seconds_budgeted": "budget", "rows": "rows",
               "failed": "failed", "commit": "commit"}  # fmt: skip
    return pd.DataFrame([
        {"stage": record["stage"], **{name: record.get(key, "") for key, name in columns.items()},
         "absent": ", ".join(record.get("absent", [])), "stopped": record.get("stopped", "")}
        for record in card.records
    ])  # fmt: skip


def wide(card: Card, stage: str, without: tuple[str, ...] = ()) -> pd.DataFrame:
    """The good numbers of a stage: a row for each case, system and backend, a column for each metric with its unit.

    Metrics that begin as one in `without` are left out.
    """
    rows = card.of(stage)
    rows = rows[~rows.metric.str.startswith(without)] if without else rows
    units = (rows.metric + ", " + rows.unit).str.removesuffix(", ")
    table = rows.assign(metric=units, value=rows.value.map("{:,.4g}".format))
    return table.pivot_table(
        index=["case", "system", "backend"], columns="metric", values="value", aggfunc="last", sort=False
    ).fillna("")  # fmt: skip


def exactness(card: Card) -> pd.DataFrame:
    """Every comparison of stage a that came to a number: case, system, metric, share of the allowed, control, status.

    A share of at most 1 is as exact as separate sequences are; one of a control must be above 1.
    """
    rows = card.rows[(card.rows.stage == "exact") & (card.rows.unit == "ratio") & card.rows.value.notna()]
    control = rows.metric.str.startswith(CONTROL)
    metric = rows.metric.str.removeprefix(CONTROL).str.split(":").str[0]
    return rows[["case", "system", "status"]].assign(metric=metric, control=control, share=rows.value / ALLOWED)


def figure_5(card: Card) -> pd.DataFrame:
    """How many times as fast as naive batching: by the card's kernels, by the cost model, its error, the paper.

    A row for each case and system of stage d. The paper has numbers for one of the cases.
    """
    index = ["case", "system"]
    ratios, predicted = (card.of("figure5", metric=metric).set_index(index).value for metric in (RATIO, PREDICTED))
    is_paper = ratios.index.get_level_values("case") == PAPER
    paper = ratios[is_paper].droplevel("case")
    table = ratios[~is_paper].to_frame("kernels").assign(**{"cost model": predicted})
    table["error"] = table["cost model"] / table["kernels"] - 1
    places = zip(table.index.get_level_values("case"), table.index.get_level_values("system"), strict=True)
    table["paper"] = [paper.get(system) if case == FIGURE_5 else None for case, system in places]
    return table.astype(float)


def learning(card: Card, question: str = EXACT_MATCH) -> pd.DataFrame:
    """Scores of stage f: case (size and arm), length in tokens, value; `question` is how their metrics begin.

    A needle has a score for each depth, so a length stands there several times.
    """
    rows = card.of("learning")
    rows = rows[rows.metric.str.startswith(f"{question} at ")]
    lengths = [_first_number(metric) for metric in rows.metric]
    return pd.DataFrame({"case": rows.case, "length": lengths, "value": rows.value})


def pace_of(card: Card) -> Pace | None:
    """What stage g measured, as the constants of `longalign.train.prediction`; None where one is missing.

    What ranks send is not among them, since a single card sends nothing.
    """
    rates = {row.system: row.value * 1e12 for row in card.of("sharing", unit="TFLOP/s").itertuples()}
    shared = {_first_number(name): rate for name, rate in rates.items() if name.startswith("shared by ")}
    if not shared or not {"layers", "local"} <= rates.keys():
        return None
    told = f"{card.name}, {card.date}"
    return Pace(flops=rates["layers"], attention=rates["local"], shared_attention=shared, card=told)


def newest_pace(cards: Iterable[Card]) -> Pace | None:
    """That of the card which was measured last; None where stage g ran on none."""
    found = [pace for card in sorted(cards, key=lambda card: card.date) if (pace := pace_of(card))]
    return found[-1] if found else None


def _first_number(text: str) -> int:
    """The first whole number of a text, commas between its digits.

    >>> _first_number("needle at 65,536, depth 0.50")
    65536
    """
    return int(re.search(r"\d+(,\d{3})*", text)[0].replace(",", ""))


def read_card(folder: Path) -> Card:
    """One folder that `python -m benchmarks.gpu` wrote. Raises ValueError as `read_cards`."""
    rows, records = _table(folder / TABLE), _records(folder / RECORDS)
    kept, run, first = [], [], 0
    for number, record in enumerate(records):
        part = rows.iloc[first : first + record["rows"]]
        if len(part) < record["rows"] or set(part.stage) - {record["stage"]}:
            raise ValueError(
                f"{folder.name}/{TABLE}: rows {first + 1} to {first + record['rows']} must be those of stage "
                f"{record['stage']}, as record {number + 1} of {RECORDS} says: commit both files of one folder together"
            )
        first += record["rows"]
        if not record.get("tiny") and record["stage"] != REHEARSAL:
            kept.append(part.assign(run=len(run)))
            run.append(record)
    if not run:
        return Card(folder, rows.iloc[:0], ())
    every = pd.concat(kept)
    again = (every.status == "failed") & (every.run < every.groupby("stage").run.transform("max"))
    every, repeated = every[~again], int(again.sum())
    counted = every[every.run == every.groupby(NUMBER).run.transform("max")]
    return Card(folder, counted.drop(columns="run").reset_index(drop=True), tuple(run), repeated)


def _table(path: Path) -> pd.DataFrame:
    try:
        words = dict.fromkeys((name for name in COLUMNS if name != "value"), str)
        rows = pd.read_csv(path, keep_default_na=False, na_values={"value": ""}, dtype=words)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read: {' '.join(str(error).split())}") from None
    if tuple(rows) != COLUMNS or not pd.api.types.is_numeric_dtype(rows.value):
        raise ValueError(f"{path.parent.name}/{path.name} must have the columns {', '.join(COLUMNS)}, numbers in value")
    return rows


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read: {' '.join(str(error).split())}") from None
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or NEEDED - record.keys():
            raise ValueError(f"{path.parent.name}/{path.name}, line {number}: a record has {', '.join(sorted(NEEDED))}")
    return records
