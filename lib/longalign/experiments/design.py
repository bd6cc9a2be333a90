"""What the notebooks train, from a profile: every arm of every experiment, for each seed, as runs with keys.

Notebooks that ask for the same model get the same run, so nothing is trained twice. A seed varies the draw of the
training data, its order and (where a model has several) the base, which is a draw of its own weights, documents and
context extension (`base_models.Start.of`). Benchmarks are the same for all seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from longalign.data.store import TokenStore
from longalign.experiments import base_models, training_data
from longalign.experiments.base_models import Start
from longalign.experiments.evaluations import LOSS, Evaluation, Scored
from longalign.experiments.long_base import LongBase, continual_training, extension
from longalign.experiments.profiles import Profile
from longalign.experiments.repetitions import ENOUGH, WEIGHTING_SEEDS, WINDOW_SEEDS, slow
from longalign.miniature import training_sets
from longalign.miniature.pretraining import MAX_LENGTH
from longalign.train.runs import Run

# Table 3's methods: how sequences are batched, and how their losses are weighted (see longalign.recipe.dataset).
METHODS = {
    "naive": ("naive", "sequence"),
    "sorted": ("sorted", "sequence"),
    "packing": ("packing", "eq3"),
    "packing + loss weighting": ("packing", "sequence"),
}
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
IN_TABLES = ("test", "longbench", "longbench_chat", "short")
"""The benchmarks of every table (`longalign.report.tables`); held-out templates and needles are asked for by name."""


class Arm(NamedTuple):
    """One trained model of an experiment: what was done, to which model, with which seed."""

    arm: str
    model: str
    seed: int


def fine_tuning(
    start: Start,
    *,
    method: str,
    suite: str = "LongAlign-10k",
    seed: int = 0,
    base: Run | LongBase | None = None,
    **changes: Any,
) -> Run:
    """Supervised fine-tuning by one of `METHODS` from the seed's long base, or from what the run `base` trained.

    That must have been trained: the run's key holds the hash of its weights. `changes` are fields of
    `TrainingConfig` beside the profile's.
    """
    profile, model, start = start.profile, start.model, start.of(seed)
    settings = profile.training
    batching, weighting = METHODS[method]
    packed = batching == "packing"
    training = settings.shared() | {"method": batching, "weighting": weighting, "seed": seed}
    training["learning_rate"] = start.rate(settings.learning_rate)
    if packed:
        training |= {"rows": 1, "micro_batches_per_step": settings.packs_per_step}
    if batching == "sorted" and settings.group_size:
        training["group_size"] = settings.group_size
    if weighting != "sequence":
        training["exponent"] = 0.0
    if (model, method, suite) == (profile.models[0], "packing + loss weighting", "LongAlign-10k") and not changes:
        training["snapshots"] = settings.snapshots  # the learning curves' arm
    store = training_data.suite_store(start, suite, seed=seed)
    if base is None and profile.extension.tokens:
        base = extension(start)
    begin = str(base.model if base else start.folder)
    label = f"{model} {suite} {method} seed {seed}"
    # ranks share packs alone
    engine = profile.engine if packed else replace(profile.engine, sequence_parallel=1)
    return Run(label, str(store.folder), training | changes, start=begin, engine=engine.run_settings())


def long_bases(profile: Profile, *models: str, seeds: Iterable[int] | None = None) -> list[Run | LongBase]:
    """The long bases of `models` (all of the profile's, the largest first), of the bases that `seeds` start from or of
    all; to be finished before arms, which start there. None where the profile extends nothing: its models are
    long as they come."""
    starts = [Start(profile, model) for model in models or profile.models[::-1]] if profile.extension.tokens else []
    drawn = None if seeds is None else list(seeds)
    return [
        extension(one)
        for start in starts for one in dict.fromkeys(map(start.of, range(start.count) if drawn is None else drawn))
    ]  # fmt: skip


def data_scale(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Table 2: the first model on five nested doses of long instructions; 0k and 5k with as many steps as 10k, too.

    Sorted batching, so that a step holds the same number of sequences at every dose: with packs, a dose of short ones
    alone would have twice as many, and dose and batch size could not be told apart (the paper's 0k was not packed).
    """
    start = base_models.first(profile)
    arms = {
        Arm(suite, start.model, seed): fine_tuning(start, method="sorted", suite=suite, seed=seed)
        for suite in training_sets.DOSES for seed in profile.seeds_for(seeds, slow=slow("data_scale", suite, True))
    }  # fmt: skip
    for suite in ("LongAlign-0k", "LongAlign-5k"):
        for seed in profile.seeds_for(seeds, slow=True):
            arms[Arm(f"{suite}, equal steps", start.model, seed)] = equal_steps(start, suite, seed)
    return arms


def equal_steps(start: Start, suite: str, seed: int, base: Run | LongBase | None = None) -> Run:
    """Sorted batching on a suite, for as many steps as LongAlign-10k takes."""
    long, short = (fine_tuning(start, method="sorted", suite=name, seed=seed, base=base)
                   for name in ("LongAlign-10k", suite))  # fmt: skip
    if suite == "LongAlign-10k":
        return long
    steps = _steps(long)
    epochs = -(-steps * start.profile.training.epochs // _steps(short))
    return fine_tuning(start, method="sorted", suite=suite, seed=seed, base=base, steps=steps, epochs=epochs)


def data_source(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Table 2: diverse long instructions against ones of two kinds on papers and books only (LongAlpaca's analogue).

    Generated data have a third arm, all kinds of questions on papers and books, as many samples as the second: from it
    the arm differs in the kinds of questions, from the first in the sources (and in 12k samples for 10k).
    """
    start = base_models.first(profile)
    made = () if training_data.released(profile) else (training_sets.ALL_KINDS,)
    return {
        Arm(suite, start.model, seed): fine_tuning(start, method="sorted", suite=suite, seed=seed)
        for suite in ("LongAlign-10k", "LongAlpaca-12k", *made)
        for seed in profile.seeds_for(seeds, slow=slow("data_source", suite, True))
    }


def methods(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Table 3: four training methods on the first two models; what is packed on the first has all seeds."""
    return {
        Arm(method, start.model, seed): fine_tuning(start, method=method, seed=seed)
        for start in base_models.starts(profile)[:2]
        for method in METHODS
        for seed in profile.seeds_for(seeds, slow=slow("methods", method, start.model == profile.models[0]))
    }


def weighting(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Table 3's packed arms, with and without loss weighting, with 32 seeds where all arms have eight; else none."""
    return {
        Arm(method, start.model, seed): fine_tuning(start, method=method, seed=seed)
        for start in base_models.starts(profile)[:2] for method in METHODS if method.startswith("packing")
        for seed in profile.seeds_for(max(seeds, WEIGHTING_SEEDS)) if seeds >= ENOUGH
    }  # fmt: skip


def model_scale(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Table 4: the largest model, packed with loss weighting and sorted, beside the same of the other two."""
    return {
        Arm(method, start.model, seed): fine_tuning(start, method=method, seed=seed)
        for start in base_models.starts(profile)
        for method in ("packing + loss weighting", "sorted")
        for seed in profile.seeds_for(seeds, slow=slow("model_scale", method, start.model == profile.models[0]))
    }


def windowed(profile: Profile, window: int) -> Profile:
    """The profile with another context window: extension, long instructions and capacity all end there."""
    return replace(
        profile,
        corpus=replace(profile.corpus, max_length=window),
        extension=replace(profile.extension, max_length=window),
        training=replace(profile.training, capacity=window),
    )


def windows(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """The second model extended to, and trained on instructions of, each of the profile's windows, with few seeds."""
    starts = {window: Start(windowed(profile, window), profile.models[1]) for window in profile.windows}
    return {
        Arm(f"window {window}", start.model, seed): fine_tuning(start, method="sorted", seed=seed)
        for window, start in starts.items()
        for seed in profile.seeds_for(min(seeds, WINDOW_SEEDS), slow=True)
    }


def exponents(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Weights w_i ~ N_i^a: from a = 0, the mean over sequences (LongAlign), to a = 1, the mean over tokens."""
    start, method = base_models.first(profile), "packing + loss weighting"
    changes = {a: {} if a == profile.training.exponent else {"exponent": a} for a in EXPONENTS}
    return {
        Arm(f"a = {a:g}", start.model, seed): fine_tuning(start, method=method, seed=seed, **changes[a])
        for a in EXPONENTS
        for seed in profile.seeds_for(seeds, slow=True)
    }


def lora(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """All weights trained, or LoRA's update of them alone: the same samples, packs and steps."""
    start, method, settings = base_models.first(profile), "packing + loss weighting", profile.training
    update = {"lora_rank": settings.lora_rank, "learning_rate": start.rate(settings.lora_learning_rate)}
    return {
        Arm(name, start.model, seed): fine_tuning(start, method=method, seed=seed, **changes)
        for name, changes in {"all weights": {}, "LoRA": update}.items()
        for seed in profile.seeds_for(seeds, slow=True)
    }


def composition(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Packs in random order, and plans balanced by cost (`longalign.recipe.balance`), with other samples in a step."""
    start, method = base_models.first(profile), "packing + loss weighting"
    ways = {"random packs": {}, "98 % full": {"balance": "fill"}, "like costs": {"balance": "compose"}}
    return {
        Arm(name, start.model, seed): fine_tuning(start, method=method, seed=seed, **changes)
        for name, changes in ways.items()
        for seed in profile.seeds_for(seeds, slow=True)
    }


def short_continual_training(profile: Profile, base: int = 0) -> Run:
    """The extension's RoPE base and number of tokens, but documents no longer than the short base has read."""
    return continual_training(base_models.first(profile).of(base), max_length=MAX_LENGTH)


def grid(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Long or short continual training, then fine-tuning with or without long instructions (arXiv 2410.02660)."""
    start = base_models.first(profile)
    bases = {"long": lambda seed: extension(start.of(seed)), "short": partial(short_continual_training, profile)}
    return {
        Arm(f"{name} continual training, {suite}", start.model, seed): fine_tuning(
            start, method="sorted", suite=suite, seed=seed, base=base(seed)
        )
        for name, base in bases.items()
        for suite in ("LongAlign-0k", "LongAlign-10k")
        for seed in profile.seeds_for(seeds, slow=True)
    }


def released_code(profile: Profile, seeds: int = 0) -> dict[Arm, Run]:
    """Trainings with faults of the released code (`longalign.train.released_faults`), beside the same without them."""
    start, packing = base_models.first(profile), "packing + loss weighting"
    faults = {
        "packing + loss weighting": (packing, {}),
        "first packs cut": (packing, {"defect": "first packs"}),
        "last pack lost": (packing, {"defect": "last pack"}),
        "K of one machine": (packing, {"weighting": "released", "exponent": 0.0}),
        "mean over tokens": (packing, {"exponent": 1.0}),
        "sorted": ("sorted", {}),
        "sorted, longest dropped": ("sorted", {"defect": "longest dropped"}),
    }
    return {
        Arm(name, start.model, seed): fine_tuning(start, method=method, seed=seed, **changes)
        for name, (method, changes) in faults.items()
        for seed in profile.seeds_for(seeds, slow=True)
    }


def _steps(run: Run) -> int:
    from longalign.train.trainer import TrainingConfig, make_plans

    return sum(len(plan.steps) for plan in make_plans(TokenStore(Path(run.store)), TrainingConfig(**run.training)))


def evaluations(
    profile: Profile, arms: Mapping[Arm, Run], *, names: Sequence[str] = IN_TABLES
) -> dict[Scored, Evaluation]:
    """The evaluation of every trained arm on each of the benchmarks `names`; `evaluations.LOSS` may be among them."""
    folder = str(training_data.benchmark_folder(profile, names))
    tokenizers = {model: Start(profile, model).tokenizer for model in {arm.model for arm in arms}}
    return {
        Scored(*arm, name): Evaluation(
            " ".join(map(str, (*arm, name))), str(run.model), folder, name, profile.corpus.max_length,
            train=run.store if name == LOSS else "", **tokenizers[arm.model],
            **({"dtype": "bfloat16"} if profile.engine.bf16 else {}),
        )
        for arm, run in arms.items() for name in names
    }  # fmt: skip
