"""How small an effect so many seeds and questions would show, from the chance in scores that were committed before.

The mean of a contrast has three kinds of chance: of the seed, of the question, and the rest, which is drawn anew for
every seed and question. S seeds and Q questions have the variance seed / S + rest / (S Q) of seeds, with S - 1 degrees
of freedom, and question / Q of questions (see `longalign.evals.crossed`).
"""

from typing import NamedTuple

import numpy as np

from longalign.common.array_types import Float, Int
from longalign.evals import crossed
from longalign.evals.crossed import Mean, Part


class Chance(NamedTuple):
    """Variances: of one seed, of one question, and of the rest of one answer."""

    seed: float
    question: float
    rest: float


def components(values: Float[np.ndarray, "seeds questions"], strata: Int[np.ndarray, "questions"]) -> Chance:
    """The variances of a table, each of one seed or one question; a negative estimate is 0.

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
