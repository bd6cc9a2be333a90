"""Fine-tuning data: two epochs over 240 + 2,100 samples against three over 160 + 1,400, at equal tokens.

The paper trains two epochs. Arms: all sizes by packing with loss weighting and by sorted batching, and mini-6b without
long instructions; seeds 100 and 101; rates fall with the width, as the bases' do.

**Data.** Two epochs are chosen if, in the mean over all arms and seeds,

- memorisation, the test loss minus the training loss, is smaller with them,
- the test loss is not higher, and
- no task of the tables is then within 10 % of an end of its range that is not there with three epochs.

**Width.** Rates fall with the width unless the test loss of mini-13b, with the chosen data and in the mean over both
methods and seeds, is lower at the rate that all sizes share.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import mean
from typing import Any

from benchmarks import pilots
from longalign.common import provenance
from longalign.evals.rubric import BEST, CHANCE
from longalign.experiments import design, evaluations
from longalign.experiments.base_models import Start
from longalign.experiments.design import Arm
from longalign.experiments.profiles import Profile, load_profile
from longalign.train.runs import Run
from longalign.train.workers import execute_all

MORE, FEWER, SHARED = "two epochs over more", "three epochs", "one rate for all sizes"
WIDTH = 96
EDGE = 0.1

Row = Mapping[str, Any]


def settings(profile: Profile) -> dict[str, Profile]:
    """The profile with both kinds of data, as many tokens in each; its own counts are those of three epochs."""
    corpus = replace(profile.corpus, long=profile.corpus.long * 3 // 2, short=profile.corpus.short * 3 // 2)
    scaled = replace(profile, rate_width=WIDTH, training=replace(profile.training, epochs=3))
    return {FEWER: scaled, MORE: replace(scaled, corpus=corpus, training=replace(profile.training, epochs=2))}


def arms(profile: Profile, models: Iterable[str]) -> dict[Arm, Run]:
    """The arms of a setting; their long bases must have been trained."""
    found = {
        Arm(method, model, seed): design.fine_tuning(Start(profile, model), method=method, seed=seed)
        for model in models for method in ("packing + loss weighting", "sorted") for seed in pilots.SEEDS
    }  # fmt: skip
    found |= {
        Arm("LongAlign-0k", model, seed): design.fine_tuning(
            Start(profile, model), method="sorted", suite="LongAlign-0k", seed=seed
        )
        for model in models if model == profile.models[0] for seed in pilots.SEEDS
    }  # fmt: skip
    return found


def measure(jobs: int = 1, profile: Profile | None = None) -> None:
    """Write results/pilots/data.csv: a row per setting, arm, model, seed, task, length and metric."""
    found, both = [], settings(profile or load_profile("laptop"))
    for name, setting in both.items():
        found += scored(name, setting, setting.models, jobs)
    chosen = both[choose(found)]
    found += scored(SHARED, replace(chosen, rate_width=0), chosen.models[-1:], jobs)
    provenance.write_csv(pilots.table("data"), found)
    print(f"data: {choose(found)}; rates fall with the width: {rates_fall(found)}")


def scored(name: str, profile: Profile, models: Iterable[str], jobs: int = 1) -> list[dict[str, Any]]:
    """Train and score the arms of a setting; `experiment` is its name."""
    execute_all(design.long_bases(profile, *models, seeds=pilots.SEEDS), workers=jobs)
    trained = arms(profile, models)
    execute_all(list(trained.values()), workers=jobs)
    evaluated = design.evaluations(profile, trained, names=[*design.IN_TABLES, evaluations.LOSS])
    execute_all(list(evaluated.values()), workers=jobs)
    return evaluations.tidy(name, evaluated)


def choose(rows: list[Row]) -> str:
    """The data that the rule chooses."""
    memorised = {name: _loss(rows, name, "test-loss") - _loss(rows, name, "train-loss") for name in (MORE, FEWER)}
    better = memorised[MORE] < memorised[FEWER] and _loss(rows, MORE, "test-loss") <= _loss(rows, FEWER, "test-loss")
    return MORE if better and not at_an_end(rows, MORE) - at_an_end(rows, FEWER) else FEWER


def rates_fall(rows: list[Row]) -> bool:
    """Whether rates fall with the width, by the rule."""
    shared = [row for row in rows if row["experiment"] == SHARED]
    (model,) = {row["model"] for row in shared}
    own = [row for row in rows if row["experiment"] == choose(rows) and row["model"] == model]
    return _loss(own, choose(rows), "test-loss") <= _loss(shared, SHARED, "test-loss")


def at_an_end(rows: list[Row], setting: str) -> set[str]:
    """The tasks of which the mean over all arms lies within a tenth of an end of its metric's range."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["experiment"] == setting and row["metric"] in ("exact_match", "accuracy", "score"):
            values.setdefault((row["task"], row["metric"]), []).append(row["value"])
    return {task for (task, metric), found in values.items()
            if not EDGE <= (mean(found) - CHANCE[metric]) / (BEST[metric] - CHANCE[metric]) <= 1 - EDGE}  # fmt: skip


def _loss(rows: list[Row], setting: str, task: str) -> float:
    return mean(row["value"] for row in rows if (row["experiment"], row["task"]) == (setting, task))
