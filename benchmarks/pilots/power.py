"""How many seeds and chat questions show what loss weighting does: computed from the committed scores, before the run.

The difference of packing with and without loss weighting on the chat questions has three kinds of chance: of the seed,
of the question, and the rest, which is drawn anew for every seed and question. Their variances are estimated from the
committed seeds (a negative estimate counts as 0). S seeds and Q questions have the variance seed / S + rest / (S Q) of
seeds, with S - 1 degrees of freedom, and question / Q of questions. `detectable` is the effect that 80 % of such runs
would show: `alone`, in one test at 5 %, and `in_table`, in the strictest of the tests of Table 3 after Holm.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import pilots
from longalign.common import paths, provenance
from longalign.evals.crossed import Mean, Part
from longalign.experiments.pages import read_items
from longalign.report.claim_schema import load_ledger

WEIGHTED, PLAIN = "packing + loss weighting", "packing"
SOURCE = "Table 3"
SEEDS, QUESTIONS = (8, 32), (50, 200)
ALPHA = 0.05


def measure(jobs: int = 1) -> None:
    """Write results/pilots/power.csv: model, seeds, questions, variances, detectable effects in points of 10."""
    tests = sum(claim.source == SOURCE and bool(claim.results) and not claim.restates for claim in load_ledger())
    rows = []
    for model, (difference, strata) in differences().items():
        chance = components(difference, strata)
        for seeds in SEEDS:
            for questions in QUESTIONS:
                mean = planned(*chance, len(set(strata)), seeds=seeds, questions=questions)
                told = {"alone": mean.detectable(ALPHA), "in_table": mean.detectable(ALPHA / tests)}
                named = dict(zip(("seed", "question", "rest"), chance, strict=True))
                rows.append({"model": model, "seeds": seeds, "questions": questions}
                            | {name: round(float(value), 4) for name, value in (named | told).items()})  # fmt: skip
    provenance.write_csv(pilots.table("power"), rows)
    print(pd.DataFrame(rows).to_string(index=False))


def differences() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per model, and of the mean over both: the differences [seeds, questions], and the stratum of each question."""
    items = read_items(paths.results() / "items" / "methods.csv")
    items = items[(items.benchmark == "longbench_chat") & (items.metric == "score")]
    wide = items.pivot_table(index=["task", "item"], columns=["model", "arm", "seed"], values="value")
    strata = pd.factorize(wide.index.get_level_values("task"))[0]
    found = {model: (wide[model][WEIGHTED] - wide[model][PLAIN]).to_numpy().T
             for model in wide.columns.unique("model")}  # fmt: skip
    found["both"] = np.mean(list(found.values()), axis=0)
    return {model: (difference, strata) for model, difference in found.items()}


def components(values: np.ndarray, strata: np.ndarray) -> tuple[float, float, float]:
    """The variances of seed, question and rest of a table [seeds, questions]; those of questions are of one question,
    in the mean over strata.

    >>> table = np.array([[1.0, 3.0], [2.0, 6.0]])
    >>> components(table, np.array([0, 0]))
    (1.5, 4.0, 1.0)
    """
    seeds, questions = values.shape
    groups = list(_squares(values, strata))
    question = float(np.mean([max(0.0, between - rest) / seeds for between, rest in groups]))
    rest = float(np.mean([rest for _, rest in groups]))
    means = np.mean([values[:, strata == one].mean(axis=1) for one in np.unique(strata)], axis=0)
    return max(0.0, float(means.var(ddof=1)) - rest / questions), question, rest


def planned(seed: float, question: float, rest: float, strata: int, *, seeds: int, questions: int) -> Mean:
    """A mean of no effect, with the chance that so many seeds and questions (equally many in each stratum) leave."""
    of_seeds = Part(np.array((seed + rest / questions) / seeds), np.array(seeds - 1.0))
    return Mean(np.array(0.0), (of_seeds, Part(np.array(question / questions), np.array(float(questions - strata)))))


def _squares(values: np.ndarray, strata: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Mean squares of questions and of the rest, stratum by stratum."""
    seeds = len(values)
    for one in np.unique(strata):
        group = values[:, strata == one]
        rest = group - group.mean(axis=0) - group.mean(axis=1, keepdims=True) + group.mean()
        freedom = (seeds - 1) * (group.shape[1] - 1)
        yield seeds * group.mean(axis=0).var(ddof=1), (rest**2).sum() / freedom

