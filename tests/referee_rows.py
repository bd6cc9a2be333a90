"""Constructed tables of the referee's run: what `longalign.experiments.later` writes, with scores that are made up."""

from dataclasses import replace

import numpy as np

from longalign.common.provenance import write_csv, write_json
from longalign.experiments import later
from longalign.report.later import load_later

SEEDS, QUESTIONS = 3, 4
ARMS = {
    "normalisers": (*later.NORMALISERS, "padding"),
    "continual": tuple(f"{name}, {share}" for name in later.CONTINUAL for share in later.SHARES),
    "preferences": ("SFT", "SFT, then DPO"),
    "stages": tuple(later.STAGES),
}


def ledger():
    """The ledger, planned with so few seeds and questions that its tables are small."""
    found = []
    for claim in load_later():
        cells = len(claim.tasks or ()) * len(claim.lengths or (0,))
        found.append(replace(claim, seeds=SEEDS, questions=cells * QUESTIONS) if claim.like else claim)
    return tuple(found)


def write_run(folder, score, *, arms=ARMS, seeds=SEEDS):
    """All cells that claims read; `score(arm, task)` is the chance that an answer is right."""
    rng = np.random.default_rng(0)
    for name, own in arms.items():
        cells = {(claim.metric, task, length) for claim in load_later() if claim.results == name
                 for task in claim.tasks for length in claim.lengths or (128,)}  # fmt: skip
        rows, items = [], []
        for metric, task, length in sorted(cells):
            cell = {"task": task, "length": length, "metric": metric}
            right = {(arm, seed): (rng.random(QUESTIONS) < score(arm, task)).astype(float)
                     for arm in own for seed in range(seeds)}  # fmt: skip
            rows += [{"experiment": name, "arm": arm, "model": "mini-6b", "seed": seed, **cell, "value": values.mean()}
                     for (arm, seed), values in right.items()]  # fmt: skip
            items += [{"benchmark": "test", "item": f"{task}-{length}-{number}", **cell,
                       **{f"mini-6b|{arm}|{seed}": values[number] for (arm, seed), values in right.items()}}
                      for number in range(QUESTIONS)]  # fmt: skip
        write_csv(folder / f"{name}.csv", rows)
        write_csv(folder / "items" / f"{name}.csv", items)
        write_json(folder / f"{later.record_of(name)}.json", {"seeds": list(range(seeds))})
    return folder
