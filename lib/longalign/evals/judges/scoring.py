"""Scores from judgments: means over questions with intervals, what is missing, what is too small to be seen.

The runs of a question are averaged first, so that questions are what chance draws (Miller 2024, arXiv 2411.00640:
standard errors clustered by question). What chance the judge itself adds is inside the interval, not apart.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as distributions

from longalign.common.array_types import Float
from longalign.evals import intervals
from longalign.evals.benchmarks.questions import Answer
from longalign.evals.judges.judges import Judgment

POWER = 0.8


@dataclass(frozen=True)
class Mean:
    """A group's mean over `questions`, 95 % interval, and how many items have no rating.

    `smallest` is the difference between two models, each asked these questions once, that a test at 5 % finds in
    POWER of all cases.
    """

    group: str
    questions: int
    missing: int
    mean: float
    low: float
    high: float
    smallest: float


def item_rows(
    answers: Sequence[Answer], judgments: Iterable[Judgment], *, metric: str
) -> list[dict[str, Any]]:
    """Tidy rows (COLUMNS of `longalign.experiments.evaluations`), one for each rated answer: the mean over its runs."""
    ratings = mean_ratings(judgments)
    return [row(answer, metric, ratings[answer.id]) for answer in answers if answer.id in ratings]


def mean_ratings(judgments: Iterable[Judgment]) -> dict[str, float]:
    """The mean rating of each answer that has one, by its id.

    >>> mean_ratings([Judgment("a", 0, 2), Judgment("a", 1, 3), Judgment("b", 0, None)])
    {'a': 2.5}
    """
    found: dict[str, list[int]] = {}
    for judgment in judgments:
        if judgment.rating is not None:
            found.setdefault(judgment.id, []).append(judgment.rating)
    return {name: float(np.mean(values)) for name, values in found.items()}


def row(answer: Answer, metric: str, value: float) -> dict[str, Any]:
    """The tidy row of an answer."""
    return {"benchmark": answer.benchmark, "task": answer.task, "length": answer.length, "item": answer.id,
            "metric": metric, "value": value}  # fmt: skip


def mean_of(group: str, values: Sequence[float], *, missing: int = 0) -> Mean:
    """The mean of a group's items, one value a question.

    >>> found = mean_of("all", [2.0, 4.0, 3.0])
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (3.0, 0.52, 5.48)
    """
    array = np.asarray(values, dtype=float)
    interval = intervals.t_interval(array)
    mean = float(array.mean()) if array.size else float("nan")
    return Mean(group, array.size, missing, mean, *interval, smallest_difference(array))


def smallest_difference(values: Float[np.ndarray, "questions"], *, power: float = POWER) -> float:
    """The true difference of two means that a two-sided test at 5 % finds with probability `power`; NaN without spread.

    (z(0.975) + z(power)) s sqrt(2 / n): two models, independent answers to n questions of spread s. A paired test on
    the same questions sees a smaller one, by sqrt(1 - r) where the models' scores correlate by r.

    >>> round(smallest_difference(np.array([2.0, 4.0, 3.0] * 12)), 2)  # s = 0.828, n = 36
    0.55
    """
    if not intervals.has_spread(values):
        return float("nan")
    z = distributions.norm.ppf([0.975, power]).sum()
    return float(z * np.std(values, ddof=1) * np.sqrt(2 / np.asarray(values).size))


def problems(judgments: Iterable[Judgment]) -> dict[str, int]:
    """How many judgments have no rating, by reason."""
    return dict(Counter(j.problem.partition(":")[0] for j in judgments if j.rating is None))


def table(means: Sequence[Mean]) -> str:
    """The means as lines of text.

    >>> print(table([mean_of("all", [2.0, 4.0, 3.0])]))
    group  questions  missing   mean       95 % interval   smallest difference
    all            3        0   3.00      0.52 to   5.48                  2.29
    """
    width = max(5, *(len(mean.group) for mean in means))
    lines = [f"{'group':{width}}  questions  missing   mean       95 % interval   smallest difference"]
    for m in means:
        interval = f"{m.low:8.2f} to {m.high:6.2f}" if np.isfinite(m.low) else f"{'none':>18}"
        smallest = f"{m.smallest:20.2f}" if np.isfinite(m.smallest) else f"{'none':>20}"
        lines.append(f"{m.group:{width}}  {m.questions:9}  {m.missing:7}  {m.mean:5.2f}  {interval}  {smallest}")
    return "\n".join(lines)


def by_group(answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]], group_of: Any) -> list[Mean]:
    """Means by group, and over all questions first; every answer without a row is missing.

    Several answers to one question, as in MT-Bench, are averaged first.
    """
    values = {row["item"]: row["value"] for row in rows}
    groups: dict[str, list[Answer]] = {"all": list(answers)}
    for answer in answers:
        groups.setdefault(group_of(answer), []).append(answer)
    return [
        mean_of(name, _by_question(members, values), missing=sum(a.id not in values for a in members))
        for name, members in groups.items()
    ]  # fmt: skip


def _by_question(answers: Sequence[Answer], values: Mapping[str, float]) -> list[float]:
    found: dict[str, list[float]] = {}
    for answer in answers:
        if answer.id in values:
            found.setdefault(answer.question, []).append(values[answer.id])
    return [float(np.mean(of_one)) for of_one in found.values()]
