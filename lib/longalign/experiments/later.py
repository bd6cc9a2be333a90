"""The arms that the claims of later papers ask for (later_claims.yaml), trained and scored by one command.

    python -m longalign.experiments.later referee [--seeds 8]      (make referee)

They are no part of `make reproduce`. What is finished is reused, and what was stopped goes on from its last checkpoint.
The tables of `BENCHMARKS`, with the scores of all questions, lie in the folder of the run, each with a record that is
written after it. `make reference PROFILE=referee` makes those that are finished the committed ones.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from longalign.common.config import ConfigError
from longalign.experiments import base_models
from longalign.experiments.base_models import Start
from longalign.experiments.design import Arm, equal_steps, fine_tuning, long_bases
from longalign.experiments.long_base import LongBase, extension
from longalign.experiments.pages import Page
from longalign.experiments.preferences import Preference, check_installed, pairs_file
from longalign.experiments.profiles import Profile
from longalign.experiments.repetitions import ENOUGH
from longalign.train.runs import Run

SWITCH = 0.8
"""The share of the steps after which the second of two stages begins."""
TOKEN_MEAN: dict[str, Any] = {"exponent": 1.0}
CONSTANT: dict[str, Any] = {"schedule": "constant_with_warmup"}
"""As in NVIDIA's recipe: a rate that falls to zero would leave the second stage about 1 % of the sum of all rates."""
IN_TURN: dict[str, dict[str, Any]] = {
    "token mean, then sequence mean": {"weighting": ((0.0, "token"), (SWITCH, "sequence"))},
    "sequence mean, then token mean": {"weighting": ((0.0, "sequence"), (SWITCH, "token"))},
}
NORMALISERS: dict[str, dict[str, Any]] = {
    "sequence mean": {},
    "square root": {"exponent": 0.5},
    "token mean": TOKEN_MEAN,
    "pack mean": {"weighting": "eq3"},
    "token mean, constant rate": TOKEN_MEAN | CONSTANT,
    **{name: changes | CONSTANT for name, changes in IN_TURN.items()},
}
"""What each arm changes of packing with loss weighting; all have the same packs in the same order."""
STAGES: dict[str, dict[str, Any]] = {"sequence mean": {}, "token mean": TOKEN_MEAN, **IN_TURN}
"""The arms at a lower constant rate: with the other arms' highest rate, which never falls, they learn far less."""
STAGES_RATE = 0.25
"""Their rate, as a share of the other arms' highest, by the pilot `constant` (results/pilots/constant.csv)."""
STAGES_SEEDS = 36
"""More than the profile's: a rate that does not fall leaves more chance between seeds."""
CONTINUAL = {"0.25M": 0.25, "1M": 1, "4M": 4, "10M": 10}
"""Tokens of continual training, as multiples of the profile's."""
SHARES = {"none": "LongAlign-0k", "half": "LongAlign-5k", "all": "LongAlign-10k"}
"""The share of the long instructions, and the suite that has it."""
DPO = {"rate": 3e-5, "beta": 0.1, "pairs_per_step": 8}
"""Preference training after loss weighting, by as many pairs as there are long instructions, each seen once. The pilot
`preference` has chosen the rate, the lowest of four (results/pilots/preference.csv)."""
BENCHMARKS = {
    "normalisers": ("test", "longbench", "short", "cells"), "continual": ("test", "longbench", "short"),
    "preferences": ("test", "longbench", "short", "cells"), "stages": ("cells",),
}  # fmt: skip
"""The tables, in the order in which they are made, and what their models are scored on."""


def normalisers(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Packing with each normalisation of the loss; and padding (naive batching) with the token mean."""
    start = base_models.first(profile)
    packing, padding = {"method": "packing + loss weighting"}, {"method": "naive"}
    ways: dict[str, dict[str, Any]] = {name: packing | changes for name, changes in NORMALISERS.items()}
    ways["padding"] = padding | TOKEN_MEAN
    return {
        Arm(name, start.model, seed): fine_tuning(start, seed=seed, **settings)
        for name, settings in ways.items() for seed in profile.seeds_for(seeds)
    }  # fmt: skip


def stages(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Packing with one normalisation and with two in turn, all at the same constant rate; with more seeds."""
    start = base_models.first(profile)
    drawn = profile.seeds_for(seeds or (STAGES_SEEDS if profile.seeds >= ENOUGH else 0))
    return {
        Arm(name, start.model, seed): at_constant_rate(start, name, seed, STAGES_RATE)
        for name in STAGES for seed in drawn
    }  # fmt: skip


def at_constant_rate(start: Start, name: str, seed: int, share: float) -> Run:
    """An arm of `STAGES` at a share of the highest learning rate of the other arms, which does not fall."""
    rate = share * start.rate(start.profile.training.learning_rate)
    return fine_tuning(start, method="packing + loss weighting", seed=seed, learning_rate=rate, **CONSTANT,
                       **STAGES[name])  # fmt: skip


def continual_trainings(profile: Profile) -> dict[str, list[Run | LongBase]]:
    """The context extension with each number of tokens, of every base of the first model."""
    start, tokens = base_models.first(profile), profile.extension.tokens
    return {
        name: [
            extension(replace(start, base=base), tokens=round(share * tokens)) for base in range(start.count)
        ]
        for name, share in CONTINUAL.items()
    }  # fmt: skip


def continual(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Long continual training of each length, then no, half or all long instructions, for equal steps.

    Its bases must have been trained: the runs' keys hold their hashes. What no claim compares has fewer seeds.
    """
    start, bases = base_models.first(profile), continual_trainings(profile)
    return {
        Arm(f"{name}, {share}", start.model, seed): equal_steps(start, suite, seed, bases[name][seed % start.count])
        for name in CONTINUAL for share, suite in SHARES.items()
        for seed in profile.seeds_for(seeds, slow=name == "4M" or share == "half")
    }  # fmt: skip


def preferences(profile: Profile, seeds: int = 0) -> dict[Arm, Run | Preference]:
    """Packing with loss weighting on the long instructions, and DPO after it; the former must have been trained."""
    start = base_models.first(profile)
    arms: dict[Arm, Run | Preference] = {}
    for seed, trained in before_preferences(profile, seeds).items():
        arms[Arm("SFT", start.model, seed)] = trained
        arms[Arm("SFT, then DPO", start.model, seed)] = preference(start, trained, seed)
    return arms


def before_preferences(profile: Profile, seeds: int = 0) -> dict[int, Run]:
    """Packing with loss weighting on the long instructions, by seed (the sequence mean of `normalisers`)."""
    start = base_models.first(profile)
    return {
        seed: fine_tuning(start, method="packing + loss weighting", seed=seed) for seed in profile.seeds_for(seeds)
    }


def preference(start: Start, trained: Run, seed: int, **changes: Any) -> Preference:
    """DPO of what a run has trained, on the pairs of its seed; `changes` are fields of `Preference` beside `DPO`."""
    settings = {**DPO, **changes}
    label = f"{start.model} DPO seed {seed}"
    return Preference(label, str(trained.model), str(pairs_file(start, seed)), seed=seed, **settings)


ARMS = {"normalisers": normalisers, "continual": continual, "preferences": preferences, "stages": stages}


def starts(table: str, profile: Profile, seeds: int = 0) -> list[Run | LongBase]:
    """What the arms of a table begin with: trained before them, because their keys hold its hash."""
    if table == "continual":
        return [base for bases in continual_trainings(profile).values() for base in bases]
    return list(before_preferences(profile, seeds).values()) if table == "preferences" else []


def record_of(table: str) -> str:
    """The name of the record that says of a table that it is finished, and how it was made.

    >>> record_of("normalisers")
    'later_normalisers'
    """
    return f"later_{table}"


def run(profile: str, seeds: int = 0) -> None:
    """Train and score all arms, and write their tables, each with its record.

    Raises ImportError, before anything is trained, where TRL is not installed.
    """
    check_installed()
    for table, benchmarks in BENCHMARKS.items():
        page = Page(record_of(table), profile, seeds=seeds)
        page.finish(long_bases(page.settings, page.settings.models[0]))
        page.finish(starts(table, page.settings, seeds))
        trained = ARMS[table](page.settings, seeds)
        page.train(trained)
        rows = page.scores(table, trained, benchmarks=benchmarks)
        page.record(results={})
        print(f"{table}: {len(trained)} models, {len(rows):,} rows")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it for the profile that is named."""
    parser = argparse.ArgumentParser(prog="python -m longalign.experiments.later", description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="?", default="referee")
    parser.add_argument("--seeds", type=int, default=0, help="for every arm (default: as the profile says)")
    given = parser.parse_args(arguments)
    try:
        run(given.profile, given.seeds)
    except (ImportError, ConfigError, RuntimeError, OSError) as error:
        raise SystemExit(f"longalign.experiments.later: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
