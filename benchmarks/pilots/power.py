"""How many seeds and chat questions show what loss weighting does: computed from the committed scores, before the run.

The difference of packing with and without loss weighting on the chat questions has three kinds of chance: of the seed,
of the question, and the rest, which is drawn anew for every seed and question. Their variances are estimated from the
committed seeds (a negative estimate counts as 0). S seeds and Q questions have the variance seed / S + rest / (S Q) of
seeds, with S - 1 degrees of freedom, and question / Q of questions. `detectable` is the effect that 80 % of such runs
would show: `alone`, in one test at 5 %, and `in_table`, in the strictest of the tests of Table 3 after Holm.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks import pilots
from longalign.common import paths, provenance
from longalign.evals import crossed
from longalign.evals.crossed import Mean, Part
from longalign.experiments.pages import read_items
from longalign.report.claim_schema import load_ledger

WEIGHTED, PLAIN = "packing + loss weighting", "packing"
SOURCE = "Table 3"
SEEDS, QUESTIONS = (8, 32), (50, 200)
ALPHA = 0.05


class Chance(NamedTuple):
    """Variances: of one seed, of one question, and of the rest of one answer."""

    seed: float
    question: float
    rest: float


def measure(jobs: int = 1) -> None:
    """Write results/pilots/power.csv: model, seeds, questions, variances of the mean, detectable effects (of 10)."""
    tests = sum(claim.source == SOURCE and bool(claim.results) and not claim.restates for claim in load_ledger())
    rows = []
    for model, (difference, strata) in differences().items():
        chance = components(difference, strata)
        for seeds in SEEDS:
            for questions in QUESTIONS:
                mean = planned(chance, len(set(strata)), seeds=seeds, questions=questions)
                told = {"alone": mean.detectable(ALPHA), "in_table": mean.detectable(ALPHA / tests)}
                numbers = {name: round(float(value), 4) for name, value in (chance._asdict() | told).items()}
                rows.append({"model": model, "seeds": seeds, "questions": questions, **numbers})
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


def components(values: np.ndarray, strata: np.ndarray) -> Chance:
    """The variances of a table [seeds, questions], each of one seed or one question; a negative estimate is 0.

    >>> components(np.array([[1.0, 3.0], [2.0, 6.0]]), np.array([0, 0]))
    Chance(seed=1.5, question=4.0, rest=1.0)
    """
    seeds, questions = values.shape
    of_seeds, of_questions = crossed.mean(values, strata).parts
    answers = crossed.of_answers(values, strata)
    seed = max(0.0, float(of_seeds.variance) * seeds - answers)
    return Chance(seed, float(of_questions.variance) * questions, answers * questions)


def planned(chance: Chance, strata: int, *, seeds: int, questions: int) -> Mean:
    """A mean of no effect, with the chance that so many seeds and questions (equally many in each stratum) leave."""
    of_seeds = Part(np.array((chance.seed + chance.rest / questions) / seeds), np.array(seeds - 1.0))
    of_questions = Part(np.array(chance.question / questions), np.array(float(questions - strata)))
    return Mean(np.array(0.0), (of_seeds, of_questions))
