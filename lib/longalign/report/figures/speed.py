"""What `make bench` has measured, as one ratio a comparison: above 1 the library is ahead, below 1 the other is."""

import re
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from longalign.report.figures.style import TEXT_WIDTH, WHISKERS, figure, look

BOUNDS = {"value": "", "lowest": "", "highest": ""}
MORE_IS_BETTER = ("speed",)
"""Metrics of which more is better; of all others (time, memory) less is."""
METRICS = {"time (or tokens a second)": ("time", "speed", "cpu"), "memory": ("memory", "anonymous")}
"""What the figure tells apart, and the metrics of each."""
TARGETS = ("planning", "attention", "loss", "training", "preprocessing", "decoding")


def read_benchmarks(folder: Path | str) -> pd.DataFrame:
    """The rows of benchmarks.csv, small cases first; what could not be measured has no value, and its note says why."""
    rows = pd.read_csv(Path(folder) / "benchmarks.csv", keep_default_na=False, na_values=BOUNDS)
    order = sorted(rows.index, key=lambda i: [_by_size(rows[name][i]) for name in ("target", "case", "system")])
    return rows.loc[order].reset_index(drop=True)


def _by_size(text: str) -> list[tuple[bool, int, str]]:
    """What puts "2,048" before "16,384", "10k" before "1M" and both before words.

    >>> sorted(["1M", "16,384 tokens", "10k", "2,048 tokens", "long"], key=_by_size)
    ['2,048 tokens', '10k', '16,384 tokens', '1M', 'long']
    """
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    for letter, zeros in (("k", "000"), ("M", "000000")):
        text = re.sub(rf"(\d){letter}\b", rf"\g<1>{zeros}", text)
    parts = re.findall(r"\d+|\D+", text)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """Every comparison with another's code, one a row: target, case, metric, peer, ratio, lowest, highest, n, note.

    The ratio is turned so that above 1 the library is ahead, whichever way it was written.

    >>> row = {"target": "loss", "system": "ours / plain", "case": "16k", "metric": "time", "unit": "ratio",
    ...        "value": 0.5, "lowest": 0.4, "highest": 0.8, "n": 2, "note": ""}
    >>> headlines(pd.DataFrame([row]))[["peer", "ratio", "lowest", "highest"]].to_dict("records")
    [{'peer': 'plain', 'ratio': 2.0, 'lowest': 1.25, 'highest': 2.5}]
    """
    found = []
    for row in rows[(rows.unit == "ratio") & rows.value.notna()].to_dict("records"):
        over, _, under = row["system"].partition(" / ")
        if over.startswith("ours") == under.startswith("ours") or not under:
            continue  # one of ours over another of ours, or over itself at another size
        ahead = over.startswith("ours") == (row["metric"] in MORE_IS_BETTER)
        ends = (row["value"], row["lowest"], row["highest"])
        ratio, low, high = ends if ahead else (1 / ends[0], 1 / ends[2], 1 / ends[1])
        peer = under if over.startswith("ours") else over
        found.append({**{name: row[name] for name in ("target", "case", "metric", "n", "note")},
                      "peer": peer, "ratio": ratio, "lowest": low, "highest": high})  # fmt: skip
    order = {name: place for place, name in enumerate(TARGETS)}
    found.sort(key=lambda line: order.get(line["target"], len(order)))
    columns = ["target", "case", "metric", "peer", "ratio", "lowest", "highest", "n", "note"]
    return pd.DataFrame(found, columns=columns)


def notable(table: pd.DataFrame) -> pd.DataFrame:
    """Of `headlines` what is shown first: of planning the largest size, and the smaller ones where a peer is ahead."""
    return table[(table.target != "planning") | (table.case == "1M") | (table.ratio < 1)]


def drawn_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Of `headlines` what the figure has room for: of planning the largest size and the one where the peers are ahead
    most (in time, by the median), with the peers' plans that say which sequence is where; all else."""
    planning = table.target == "planning"
    times = table[planning & (table.metric == "time")].groupby("case").ratio.median()
    cases = {"1M", times.idxmin()} if len(times) else set()
    return table[~planning | table.case.isin(cases) & ~table.peer.str.contains("lengths alone")]


def not_compared(rows: pd.DataFrame) -> pd.DataFrame:
    """What has no value, a row for each system and case; its note says why.

    >>> rows = {"target": "loss", "system": ["ours", "liger", "liger"], "case": "2k", "value": [1.0, None, None]}
    >>> not_compared(pd.DataFrame(rows)).system.tolist()
    ['liger']
    """
    return rows[rows.value.isna()].drop_duplicates(["target", "case", "system"])


@figure("speed")
def speed(folder: Path) -> Figure:
    """Other code's time and memory against the library's: a row a comparison, a dot a metric, ends of all rounds."""
    table = drawn_rows(headlines(read_benchmarks(folder)))
    rows = list(dict.fromkeys(zip(table.target, table.case, table.peer, strict=True)))
    drawn, axes = plt.subplots(figsize=(TEXT_WIDTH, 0.19 * len(rows) + 1.1))
    styles = look(list(METRICS))
    for line in table.to_dict("records"):
        metric = next(name for name, known in METRICS.items() if line["metric"] in known)
        place = rows.index((line["target"], line["case"], line["peer"]))
        ends = [[line["ratio"] - line["lowest"]], [line["highest"] - line["ratio"]]]
        axes.errorbar(line["ratio"], place, xerr=ends, **WHISKERS)
        axes.plot(line["ratio"], place, **styles[metric] | {"linestyle": "none"})
    axes.axvline(1, color="black", linewidth=0.8, marker="")
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [f"{target}, {case}: {peer}" for target, case, peer in rows], fontsize=6)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="right of the line: longalign needs less by this factor")
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    handles = [plt.Line2D([], [], **style | {"linestyle": "none"}) for style in styles.values()]
    drawn.legend(handles, list(METRICS), loc="outside upper center", ncols=2)
    drawn.tight_layout(rect=(0, 0, 1, 0.96))
    return drawn
