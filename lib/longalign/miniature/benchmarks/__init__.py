"""The benchmarks in miniature: new documents, the same for every model and seed, no document shared with training.

| name | stands in for | what is asked |
|---|---|---|
| test, heldout | | every task at every length, question templates that training has, or never sees |
| needle | the paper's Figure 4 | one fact at a given depth of a document of a given length |
| longbench | LongBench | one document, two to four documents, summaries |
| longbench_chat | LongBench-Chat | 50 long questions in five categories, 40 English and 10 Chinese |
| short | MT-Bench; ARC, HellaSwag, TruthfulQA, MMLU | conversations; four multiple-choice sets |
| cells, conflicts | | claims of later papers: input x output length; a document against memory |

All questions are on a generated document that stands before them. Closed-book knowledge, which MMLU and ARC ask for,
does not exist in a generated world; what takes their place measures reading and reasoning within 128 tokens.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from longalign.miniature.benchmarks import contrasts, long, short
from longalign.miniature.settings import Evaluation
from longalign.miniature.training_sets import evaluation_set

BENCHMARKS = ("test", "heldout", "needle", "longbench", "longbench_chat", "short")
OF_LATER_PAPERS = ("cells", "conflicts")
"""Made where they are asked for alone."""


def items(name: str, evaluation: Evaluation, *, window: int) -> Iterator[dict[str, Any]]:
    """The items of a benchmark, always the same ones in the same order, `id` unique among them.

    An item is a sample (`id`, `messages`, `source`, `language`, `type`, `template`, `length` in tokens) whose `task` is
    the name of its set, with the task family it is drawn from as `family` and its class of length as `cell` (0 where
    length is no class). Needle items have `depth`, multiple choice `options`, `right` (an index) and `form`.
    `window`, in tokens, is what the models were trained for: needle lengths above it are left out, nothing else is.
    Raises KeyError for an unknown name, naming the benchmarks.

    >>> [item["id"] for item in items("needle", Evaluation(needle_lengths=(64,), needle_per_cell=1), window=64)][:2]
    ['needle-64-0-0', 'needle-64-1-0']
    """
    if name not in (known := (*BENCHMARKS, *OF_LATER_PAPERS)):
        raise KeyError(f"no benchmark is called {name!r}; there are {', '.join(known)}")
    if name == "needle":
        return long.needle(evaluation, window=window)
    build = {
        "test": lambda: _by_task(evaluation, "", heldout=False),
        "heldout": lambda: _by_task(
            replace(evaluation, per_cell=evaluation.heldout_per_cell), "heldout-", heldout=True
        ),
        "longbench": lambda: long.longbench(evaluation),
        "longbench_chat": lambda: long.longbench_chat(evaluation),
        "short": lambda: short.short(evaluation),
        "cells": lambda: contrasts.cells(evaluation), "conflicts": lambda: contrasts.conflicts(evaluation),
    }  # fmt: skip
    return build[name]()


def _by_task(evaluation: Evaluation, prefix: str, *, heldout: bool) -> Iterator[dict[str, Any]]:
    for sample in evaluation_set(evaluation, heldout=heldout):
        yield {**sample, "task": prefix + sample["task"], "family": sample["task"]}
