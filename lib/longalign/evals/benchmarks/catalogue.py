"""The benchmarks whose answers are texts, each in one row: its questions, how answers are grouped, judged and scored.

What is read by log-likelihood (ARC and the others, `longalign.evals.benchmarks.harness`) is no row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.data.chinese import is_other
from longalign.evals.benchmarks import longbench, longbench_chat, mt_bench, needle
from longalign.evals.benchmarks.questions import Answer, Question

Rows = list[dict[str, Any]]
OTHER = "other languages"


@dataclass(frozen=True)
class Benchmark:
    """`read` gives the questions of files (`shipped` are the miniature's); `scale` names the judge's scale of an answer
    (`longalign.evals.judges.prompts`), `group` the line of the table that it counts in; `exact` are rows that need no
    judge, of the answers that are there, `exact_metric` what they measure of an answer.

    With `percent`, ratings are scaled to 0 to 100, as the paper does with LongBench's.
    """

    read: Callable[[Any], list[Question]] | None
    shipped: Path | None
    scale: Callable[[Answer], str]
    group: Callable[[Answer], str]
    exact: Callable[[list[Answer]], Rows] = lambda answers: []
    exact_metric: Callable[[Answer], str] = lambda answer: ""
    percent: bool = False

    @property
    def metric(self) -> str:
        """What a judge's ratings are called in the rows."""
        return "rating" if self.percent else "score"


def _language(answer: Answer) -> str:
    """The official files are English and Chinese and say neither; other people's may be of another language."""
    if answer.language in ("en", "zh") and is_other(answer.query):
        return OTHER
    return {"en": "English", "zh": "Chinese"}.get(answer.language, answer.language)


BENCHMARKS = {
    "longbench-chat": Benchmark(
        longbench_chat.questions, longbench_chat.SHIPPED, scale=lambda _: "chat",
        group=_language,
    ),
    "longbench": Benchmark(
        longbench.questions, longbench.SHIPPED, scale=longbench.scale_of, group=longbench.group_of,
        exact=longbench.metrics, exact_metric=longbench.metric_of, percent=True,
    ),
    "needle": Benchmark(
        None, None, scale=lambda _: "qa", group=lambda answer: f"{answer.length:,} tokens", exact=needle.exact,
        exact_metric=lambda _: needle.METRIC, percent=True,
    ),
    "mt-bench": Benchmark(
        mt_bench.questions, mt_bench.SHIPPED, scale=lambda _: "turns",
        group=lambda answer: f"turn {answer.id.removeprefix(answer.question).lstrip('-') or 1}",
    ),
}  # fmt: skip
