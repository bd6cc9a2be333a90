"""Before `make referee`: whether a base learns the known facts, and two learning rates.

**Memory.** Claims on what a model knows and what it reads need a model that knows. A base reads as many tokens as the
profile says; a share `SHARE` of the documents teaches known facts. Then it is fine-tuned without and with all long
instructions, for equal steps (seed 100). Without them, the share of right choices in "memory alone" must be above 60 %
(a guess: 25 %). It was not with a share of 0.2, and not with twice as much, the share below. `recall` shows why: the
base knows the facts, and fine-tuning loses them. So the ledger says of these claims that they cannot be shown here.

**Preference.** DPO after packing with loss weighting, at each of four learning rates (seeds 100 and 101). Chosen for
`later.DPO` is the rate with the most exact matches in the whole test set, the lower one of two that are equal.

**Constant.** Loss weighting and the token mean, each at four constant learning rates, shares of the highest one of the
other arms (seeds 100 and 101). Chosen for `later.STAGES_RATE` is the share with the most facts right in the mean over
both and over the four cells of short and long inputs and outputs, the lower one of two that are equal.
"""

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

from benchmarks import pilots
from longalign.common import provenance
from longalign.evals.teacher_forced import token_recall
from longalign.experiments import base_models, design, evaluations, later
from longalign.experiments.design import Arm
from longalign.experiments.long_base import continual_training
from longalign.experiments.profiles import Profile, load_profile
from longalign.miniature.pretraining import MAX_LENGTH
from longalign.miniature.samples import memory_document
from longalign.miniature.training_sets import encode_document
from longalign.train.models import load_model
from longalign.train.workers import execute_all

SEED = pilots.SEEDS[0]
KNOWN = 0.6
SHARE = 0.4
BASE, BASELINE, TASK = "1M", "1M, none", "memory alone"
FACTS, PROBES = "known facts", 20
"""The task whose recall is measured, on so many documents that state known facts as continual training did."""
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
OF_THE_RATE = (0.125, 0.25, 0.5, 1.0)
MEANS = ("sequence mean", "token mean")

Row = Mapping[str, Any]


def memory(jobs: int = 1, profile: Profile | None = None) -> None:
    """Write results/pilots/memory.csv: the base after continual training, and the two that are fine-tuned from it."""
    profile = profile or load_profile("referee")
    start = base_models.first(profile)
    base = continual_training(start.of(SEED), tokens=profile.extension.tokens, memory_share=SHARE)
    execute_all([base], workers=jobs)
    arms = {Arm(BASE, start.model, SEED): base} | {
        Arm(f"{BASE}, {share}", start.model, SEED): design.equal_steps(start, later.SHARES[share], SEED, base)
        for share in ("none", "all")
    }
    rows = [*_scored("memory", profile, arms, "conflicts", jobs), *(_recall(arm, run) for arm, run in arms.items())]
    provenance.write_csv(pilots.table("memory"), rows)
    for row in rows:
        print(f"{row['arm']:10} {row['task']:25} {row['metric']:8} {row['value']:.3f}")
    print(f"memory: {'learnt' if learnt(rows) else 'not learnt'}")


def _recall(arm: Arm, run: Any) -> dict[str, Any]:
    """The share of the tokens of known facts that a model foresees, asked for them as in continual training."""
    documents = (memory_document("probe", 0, index, length=MAX_LENGTH) for index in range(PROBES))
    encoded = (encode_document(document, None) for document in documents)
    probe = [{"input_ids": one.input_ids, "labels": one.labels} for one in encoded]
    found = token_recall(load_model(run.model), probe)
    return {"experiment": "memory", **arm._asdict(), "task": FACTS, "length": 0, "metric": "recall", "value": found}


def learnt(rows: Iterable[Row]) -> bool:
    """Whether a base learns the known facts, by the rule."""
    return value(rows, BASELINE, TASK) > KNOWN


def value(rows: Iterable[Row], arm: str, task: str) -> float:
    """The one value of an arm and a task in the table of the pilot `memory`."""
    (found,) = (float(row["value"]) for row in rows if (row["arm"], row["task"]) == (arm, task))
    return found


def preference(jobs: int = 1, profile: Profile | None = None) -> None:
    """Write results/pilots/preference.csv: the test set's scores before DPO ("SFT") and after it at each rate."""
    profile = profile or load_profile("referee")
    start = base_models.first(profile)
    execute_all(design.long_bases(profile, start.model, seeds=pilots.SEEDS), workers=jobs)
    trained = {seed: design.fine_tuning(start, method="packing + loss weighting", seed=seed) for seed in pilots.SEEDS}
    execute_all(list(trained.values()), workers=jobs)
    arms: dict[Arm, Any] = {Arm("SFT", start.model, seed): run for seed, run in trained.items()}
    for rate in RATES:
        arms |= {Arm(f"{rate:g}", start.model, seed): later.preference(start, run, seed, rate=rate)
                 for seed, run in trained.items()}  # fmt: skip
    rows = _scored("preference", profile, arms, "test", jobs)
    provenance.write_csv(pilots.table("preference"), rows)
    for arm in ("SFT", *(f"{rate:g}" for rate in RATES)):
        print(f"{arm:6} exact match {_exact(rows, arm):.4f}")
    print(f"preference: the learning rate {chosen(rows):g}")


def chosen(rows: Iterable[Row]) -> float:
    """The learning rate that the rule chooses."""
    rows = list(rows)
    return max(RATES, key=lambda rate: (_exact(rows, f"{rate:g}"), -rate))


def constant(jobs: int = 1, profile: Profile | None = None) -> None:
    """Write results/pilots/constant.csv: the scores of the cells at each constant rate."""
    profile = profile or load_profile("referee")
    start = base_models.first(profile)
    execute_all(design.long_bases(profile, start.model, seeds=pilots.SEEDS), workers=jobs)
    arms = {
        Arm(f"{share:g}, {name}", start.model, seed): later.at_constant_rate(start, name, seed, share)
        for share in OF_THE_RATE for name in MEANS for seed in pilots.SEEDS
    }  # fmt: skip
    rows = _scored("constant", profile, arms, "cells", jobs)
    provenance.write_csv(pilots.table("constant"), rows)
    for share in OF_THE_RATE:
        print(f"{share:5g} of the rate: facts {_facts(rows, share):.4f}")
    print(f"constant: {chosen_share(rows):g} of the rate")


def chosen_share(rows: Iterable[Row]) -> float:
    """The share of the learning rate that the rule chooses."""
    rows = list(rows)
    return max(OF_THE_RATE, key=lambda share: (_facts(rows, share), -share))


def _facts(rows: Iterable[Row], share: float) -> float:
    arms = [f"{share:g}, {name}" for name in MEANS]
    return mean(float(row["value"]) for row in rows if row["arm"] in arms and row["metric"] == "fact_match")


def _exact(rows: Iterable[Row], arm: str) -> float:
    return mean(float(row["value"]) for row in rows if (row["arm"], row["metric"]) == (arm, "exact_match"))


def _scored(name: str, profile: Profile, arms: Mapping[Arm, Any], benchmark: str, jobs: int) -> list[dict[str, Any]]:
    """Train what is not trained yet, and score all on a benchmark; returns the rows for the pilot's table."""
    execute_all(list(arms.values()), workers=jobs)
    evaluated = design.evaluations(profile, arms, names=[benchmark])
    execute_all(list(evaluated.values()), workers=jobs)
    return evaluations.tidy(name, evaluated)
