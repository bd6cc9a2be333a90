"""Whether every seed should answer questions of its own: how much shorter intervals would be, from committed scores.

Today all seeds answer the same questions: the chance of the questions is in every seed alike, and more seeds do not
make it smaller. Were they drawn anew for each seed, their variance would be divided by the number of seeds, and would
count with the few degrees of freedom of seeds. For each claim with scores of single questions, `ratio_3` and `ratio_8`
are the width of the interval with new questions divided by the width today, for 3 and for 8 seeds.

With 8 seeds the intervals would be 5 % shorter in the median over the claims, with 3 seeds no shorter. For this little,
the seeds keep the same questions, as LongBench-Chat's are the same for all models.
"""

from statistics import median

import numpy as np

from benchmarks import pilots
from longalign.common import paths, provenance
from longalign.evals import crossed
from longalign.evals.crossed import Mean, Part
from longalign.report.claim_schema import LAPTOP, load_ledger
from longalign.report.claim_scores import Folder, Missing
from longalign.report.claims import FEWEST_SEEDS

COUNTS = (3, 8)


def measure(jobs: int = 1) -> None:
    """Write results/pilots/questions.csv: claim, seeds, ratio_3, ratio_8."""
    folder, rows = Folder(paths.results()), []
    for claim in (claim for claim in load_ledger() if claim.scale == LAPTOP and claim.results):
        try:
            found = folder.items(claim, folder.scores(claim))
        except Missing:
            continue
        if found and len(found[0]) >= FEWEST_SEEDS:
            values, strata = found
            ratios = {f"ratio_{count}": round(ratio(values, strata, count), 4) for count in COUNTS}
            rows.append({"claim": claim.id, "seeds": len(values), **ratios})
    provenance.write_csv(pilots.table("questions"), rows)
    medians = {count: median(row[f"ratio_{count}"] for row in rows) for count in COUNTS}
    print(f"questions: {len(rows)} claims; width with new questions, by today's, median: {medians}")


def ratio(values: np.ndarray, strata: np.ndarray, count: int) -> float:
    """The width with new questions for each of `count` seeds, by today's, from a contrast [seeds, questions].

    >>> values = np.array([[2.0, 2.0, 8.0], [4.0, 4.0, 10.0], [3.0, 3.0, 9.0]])  # questions differ more than seeds
    >>> [round(ratio(values, np.zeros(3, dtype=int), count), 2) for count in (3, 30)]
    [0.62, 0.1]
    """
    mean = crossed.mean(values, strata)
    of_seeds, *of_questions = mean.parts
    seed = of_seeds.variance * len(values) / count
    question = sum(part.variance for part in of_questions) / count
    anew = Mean(mean.estimate, (Part(seed + question, np.array(count - 1.0)),))
    today = Mean(mean.estimate, (Part(seed, np.array(count - 1.0)), *of_questions))
    return float(anew.half() / today.half())

