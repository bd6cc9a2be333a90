"""How many seeds and chat questions show what loss weighting does: computed from the committed scores, before the run.

The difference of packing with and without loss weighting on the chat questions has three kinds of chance
(`longalign.evals.power`), which are estimated from the committed seeds. `detectable` is the effect that 80 % of such
runs would show: `alone`, in one test at 5 %, and `in_table`, in the strictest of the tests of Table 3 after Holm.
"""

import numpy as np
import pandas as pd

from benchmarks import pilots
from longalign.common import paths, provenance
from longalign.evals.power import components, planned
from longalign.experiments.pages import read_items
from longalign.report.claim_schema import load_ledger

WEIGHTED, PLAIN = "packing + loss weighting", "packing"
SOURCE = "Table 3"
SEEDS, QUESTIONS = (8, 32), (50, 200)
ALPHA = 0.05


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
