"""Profiles are data: frozen, typed when loaded, and a misspelt key or a wrong type never gets past the loader.

Every number a notebook may vary has a field here. One YAML file per profile in ``profiles/``; a key that is left out
has the default below (the miniature of 1:64, see each class), a key that is not known is refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longalign.common import paths
from longalign.common.config import ConfigError, nearest, read_yaml, typed
from longalign.fetch.source import Source
from longalign.miniature.settings import SHORTEST, Corpus, Evaluation, Extension
from longalign.recipe.packing import ALGORITHMS
from longalign.train.config import SCHEDULES, TrainingSettings
from longalign.train.parallelism import Parallelism

# What the values of the keys that hold names may be; a wrong one would be found out late, or never.
NAMES = {
    "models": ("mini-6b", "mini-7b", "mini-13b"),
    "evaluation.tasks": ("lookup", "table", "note", "translation", "chain", "calls", "summary"),
    "training.packing_algorithm": tuple(ALGORITHMS),
    "extension.rope_type": ("default", "yarn"),
    "training.schedule": SCHEDULES,
}
STEPS = ("epochs", "rows", "micro_batches_per_step", "packs_per_step", "snapshots", "lora_rank")
MOST_SEEDS, MOST_SEED = 1000, 2**32


@dataclass(frozen=True)
class Training(TrainingSettings):
    """Supervised fine-tuning; `rows` x `micro_batches_per_step` padded rows make a step, or `packs_per_step` packs.

    Sorted batching takes groups of `group_size` sequences of about one length; 0 is `rows`, and where devices have one
    row each, it is as many as compute at a time. `lora_rank` and `lora_learning_rate` are of the arm trained by LoRA.
    """

    epochs: int = 3
    rows: int = 4
    micro_batches_per_step: int = 6
    sequences_per_step: int = 24
    packs_per_step: int = 3
    group_size: int = 0
    snapshots: int = 12
    lora_rank: int = 8
    lora_learning_rate: float = 1e-2


@dataclass(frozen=True)
class Limits:
    """Seconds after which an execution is stopped, 0 for never; what was trained until then is kept."""

    cell: float = 3 * 3600
    notebook: float = 6 * 3600


@dataclass(frozen=True)
class Slurm:
    """What each notebook asks of Slurm (`profiles/slurm.sbatch`): machines, and of each GPUs, processors and memory.

    `minutes` is its time, `warning` the seconds before its end at which it saves what it has and is queued again, at
    most `requeues` times. `options` are further words for sbatch, such as --partition=long --account=mine.
    """

    nodes: int = 1
    gpus: int = 0
    cpus: int = 2
    memory_gb: int = 8
    minutes: int = 120
    warning: int = 180
    requeues: int = 10
    options: str = ""


@dataclass(frozen=True)
class Profile:
    """Everything that differs between a laptop and a cluster; notebooks read it and never ask for the machine.

    `notebooks` are the numbers of those that it executes, None for all. Learning rates are those of a miniature whose
    hidden size is `rate_width`, and those of others are inversely proportional to theirs; at 0 all have the same.
    """

    name: str
    seed: int = 0
    seeds: int = 3
    seeds_of_slow_arms: int = 1
    models: tuple[str, ...] = ("mini-6b", "mini-7b", "mini-13b")
    windows: tuple[int, ...] = (512, 1024, 2048)
    rate_width: int = 0
    corpus: Corpus = field(default_factory=Corpus)
    extension: Extension = field(default_factory=Extension)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    limits: Limits = field(default_factory=Limits)
    engine: Parallelism = field(default_factory=Parallelism)
    slurm: Slurm = field(default_factory=Slurm)
    notebooks: tuple[str, ...] | None = None
    sources: tuple[Source, ...] = ()
    workers: int = 2
    simulated_ranks: int = 8

    def seeds_for(self, requested: int = 0, *, slow: bool = False) -> range:
        """The seeds an arm is trained with: `requested` of them, or (at 0) as many as the profile has time for.

        >>> list(Profile(name="laptop").seeds_for()), list(Profile(name="laptop").seeds_for(5, slow=True))
        ([0, 1, 2], [0, 1, 2, 3, 4])
        """
        count = requested or (self.seeds_of_slow_arms if slow else self.seeds)
        return range(self.seed, self.seed + count)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested data, for records and hashes; tuples become lists.

        >>> Profile(name="smoke").as_dict()["evaluation"]["lengths"]
        [64, 128, 256, 512, 1024]
        """
        return json.loads(json.dumps(dataclasses.asdict(self)))


def load_profile(name_or_path: str | Path) -> Profile:
    """The profile called `name_or_path`, or the one in that YAML file (a path, or a name that ends in .yaml).

    Raises ConfigError for an unknown profile or key (with the nearest valid name), a wrong type, a duplicate key, a
    name that is not the file's, or numbers that contradict each other.

    >>> load_profile("smoke").name
    'smoke'
    """
    path = _find(name_or_path)
    where = paths.relative(path)
    profile = typed(read_yaml(path), Profile, where=where)
    _check_names(profile, where)
    if profile.name != path.stem:
        raise ConfigError(f"{where}: name is {profile.name!r}, but the file is called {path.stem!r}: make them equal")
    _check_numbers(profile, where)
    _check_notebooks(profile, path, where)
    return profile


def _check_names(profile: Profile, where: str) -> None:
    for key, valid in NAMES.items():
        values: Any = profile
        for part in key.split("."):
            values = getattr(values, part)
        if key == "models":
            valid += tuple(source.name for source in profile.sources if source.kind == "model")
        for value in (values,) if isinstance(values, str) else values:
            if value not in valid:
                raise ConfigError(f"{where}: {key} has the unknown value {value!r}: {nearest(value, valid)}")


def _check_numbers(profile: Profile, where: str) -> None:
    corpus, extension, training, evaluation = profile.corpus, profile.extension, profile.training, profile.evaluation
    slurm, engine = profile.slurm, profile.engine
    distinct = {"models": profile.models, "windows": profile.windows}
    sources = [source.name for source in profile.sources]
    distinct |= {f"evaluation.{name}": getattr(evaluation, name) for name in ("lengths", "tasks", "needle_lengths")}
    for holds, message in (
        (len(profile.models) == 3 or profile.notebooks is not None,
         "models must name three: the first two for the training methods, the largest last"),
        *((len(values) > 0, f"{key} must name at least one") for key, values in distinct.items()),
        *((len(set(values)) == len(values), f"{key} names one twice") for key, values in distinct.items()),
        (profile.rate_width >= 0 and (not profile.rate_width or {*profile.models} <= {*NAMES["models"]}),
         "rate_width must not be negative, and must be 0 where other models than miniatures are trained"),
        (len(set(sources)) == len(sources), "two sources have one name, which is to be their folder: rename one"),
        (not {*sources} & {*NAMES["models"]}, "a source has the name of a miniature: rename it"),
        (0 <= profile.seed < MOST_SEED and 0 <= corpus.seed < MOST_SEED, f"seeds must lie from 0 to {MOST_SEED - 1:,}"),
        (profile.seeds <= MOST_SEEDS, f"seeds must be at most {MOST_SEEDS}"),
        (extension.rope_factor >= 1, "extension.rope_factor must be at least 1; 1 leaves the RoPE base as it is"),
        (min(extension.learning_rate, training.learning_rate, training.lora_learning_rate) > 0,
         "learning rates must be above 0"),
        (0 <= training.beta1 < 1 and 0 <= training.beta2 < 1, "training.beta1 and beta2 must lie from 0 to below 1"),
        (training.weight_decay >= 0, "training.weight_decay must not be negative"),
        (max(training.rows, training.group_size) > 1 and training.group_size >= 0,
         "training.group_size must be 2 or more where rows is 1: otherwise sorted batching is naive batching"),
        (max((*evaluation.lengths, *evaluation.needle_lengths), default=0) <= corpus.max_length,
         "evaluation.lengths and needle_lengths must not exceed corpus.max_length"),
        (profile.notebooks == () or not evaluation.lengths
         or min(evaluation.lengths) <= 128 and max(evaluation.lengths) >= 256,
         "evaluation.lengths needs one of 128 tokens or less and one of 256 or more: the tables' short and long"),
        (profile.workers >= 1, "workers must be at least 1"),
        (min(profile.limits.cell, profile.limits.notebook) >= 0, "limits must not be negative; 0 is no limit"),
        (profile.simulated_ranks >= 1, "simulated_ranks must be at least 1"),
        (min(slurm.nodes, slurm.cpus, slurm.memory_gb, slurm.minutes) >= 1 and min(slurm.gpus, slurm.requeues) >= 0,
         "slurm.nodes, cpus, memory_gb and minutes must be at least 1, gpus and requeues not negative"),
        (60 <= slurm.warning < 60 * slurm.minutes, "slurm.warning must be 60 seconds or more, and less than minutes"),
        (1 <= profile.seeds_of_slow_arms <= profile.seeds,
         "seeds_of_slow_arms must be at least 1 and must not exceed seeds"),
        *((value >= 1, f"evaluation.{name} must be at least 1") for name, value in vars(evaluation).items()
          if isinstance(value, int)),
        (min(corpus.long, corpus.longalpaca_long, corpus.longalpaca_short) >= 0 and corpus.short >= 1,
         "corpus.long, longalpaca_long and longalpaca_short must not be negative, and corpus.short at least 1"),
        (min((corpus.min_long, corpus.max_short, *evaluation.lengths, *evaluation.needle_lengths)) >= SHORTEST,
         f"corpus.min_long, corpus.max_short, evaluation.lengths and needle_lengths must be {SHORTEST} tokens or more"),
        (extension.tokens >= 0 and extension.max_length >= 128,
         "extension.tokens must not be negative and extension.max_length at least 128, the bases' length"),
        (extension.tokens > 0 or max(profile.windows, default=0) <= extension.max_length,
         "windows must not exceed extension.max_length where extension.tokens is 0: nothing makes the models longer"),
        (0 <= extension.memory_share < 1, "extension.memory_share is a share of the documents, from 0 to below 1"),
        (0 <= training.exponent <= 1, "training.exponent must lie from 0 to 1"),
        (0 <= training.warmup_ratio < 1, "training.warmup_ratio is a share of the steps, from 0 to below 1"),
        (training.checkpoint_every >= 1, "training.checkpoint_every must be at least 1"),
        (corpus.min_long <= corpus.max_length, "corpus.min_long must not exceed corpus.max_length"),
        (corpus.max_short <= corpus.max_length, "corpus.max_short must not exceed corpus.max_length"),
        (min((corpus.max_length, *profile.windows)) >= corpus.min_long,
         "windows must not be shorter than corpus.min_long"),
        (corpus.max_length <= training.capacity, "corpus.max_length must not exceed training.capacity"),
        (min(getattr(training, name) for name in STEPS) >= 1, f"training.{', '.join(STEPS)} must be at least 1"),
        (training.micro_batches_per_step % engine.world_size == 0 == training.packs_per_step % engine.batches,
         f"training.micro_batches_per_step must be a multiple of the engine's {engine.world_size} ranks, and "
         f"packs_per_step of the {engine.batches} packs that they compute at a time"),
        (training.rows * training.micro_batches_per_step == training.sequences_per_step,
         "training.rows x micro_batches_per_step must be training.sequences_per_step, or the methods see other steps"),
    ):  # fmt: skip
        if not holds:
            raise ConfigError(f"{where}: {message}")


def _check_notebooks(profile: Profile, path: Path, where: str) -> None:
    if profile.notebooks is None:
        return
    on_one_line = re.search(r"^notebooks: *\[[^\]]*\]", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not on_one_line and path.resolve().parent == paths.profiles():
        raise ConfigError(f'{where}: write notebooks in brackets on one line, ["01", "04"], because make reads it')
    known = [paths.number(path.stem) for path in paths.notebook_files()]
    for number in profile.notebooks:
        if number not in known:
            raise ConfigError(f"{where}: notebooks has the unknown number {number!r}: {nearest(number, known)}")


def _find(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise ConfigError(f"there is no profile at {name}: give the path of a YAML file, or the name of a profile")
        return Path(name)
    known = {p.stem: p for p in paths.profiles().glob("*.yaml")}
    if name not in known:
        raise ConfigError(f"unknown profile {name!r}: {nearest(name, known)}")
    return known[name]
