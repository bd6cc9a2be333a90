"""The cost model held against measured steps that it was not fitted to, and against the paper's Figure 5.

A miniature is trained by packing, naive and sorted batching in one process of one thread, in two runs each that take
turns: processor seconds of every step but a run's first. The two runs of a method differ in micro-batches a step or in
their size, or else the times of a micro-batch and of a step could not be told apart. A pace is fitted to seven tenths
of the steps, drawn beforehand, and asked for the rest; one fitted to packing alone is asked for all the others' steps.

Figure 5 (arXiv 2401.18058): `longalign.experiments.paper_plan` lays out two epochs on 8 x A800 and counts FLOPs; one of
the nine hours fits the FLOP/s, the other eight are predicted; then a second hour fits what a micro-step moves of each
weight. None of it is measured, and the lengths are assumed.

    python -m benchmarks.cost
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import common
from longalign.common.array_types import Float
from longalign.data.chat import Encoded
from longalign.data.store import TokenStore, write_store
from longalign.experiments import paper_plan, timing
from longalign.experiments.operations import Pace, fit_pace, hold_out, prediction_error, step_work
from longalign.experiments.profiles import Profile, load_profile
from longalign.train.runs import Run
from longalign.train.trainer import TrainingConfig, make_plans

TARGET = "cost"
STEPS, VOCABULARY, CAPACITY = 21, 1238, 1024
METHODS = {
    "packing": [{"capacity": CAPACITY, "micro_batches_per_step": packs} for packs in (3, 6)],
    "naive": [{"rows": rows, "micro_batches_per_step": 6} for rows in (4, 2)],
    "sorted": [{"rows": rows, "micro_batches_per_step": 6} for rows in (4, 2)],
}  # the first of each as the laptop trains: about 24 sequences a step
ASSUMPTIONS = [
    *map(paper_plan.assumption, paper_plan.DISTRIBUTIONS),
    "two epochs, 8 devices; packing: 8 packs of 64k a step; naive and sorted: 12 rows a device, ChatGLM3 at 56k",
    "devices wait for the slowest in every micro-step (ZeRO-3); the forward pass is done twice (checkpointing)",
    "all models and methods reach the same FLOP/s; communication, offloading and loading take no time; with traffic: "
    "the same time for each weight in every micro-step",
]
Key = tuple[str, str]
Measured = tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " n"]]


def synthetic(folder: Path, sequences: int = 1600) -> TokenStore:
    """Random tokens with the lengths of the laptop's mixture: a tenth uniform over 128 to 1,024, the rest around 64."""
    random = np.random.default_rng(0)
    long = random.integers(128, CAPACITY + 1, sequences // 10)
    short = random.lognormal(np.log(64), 0.4, sequences - len(long)).clip(16, 128).astype(np.int64)

    def sequence(length: int) -> Encoded:
        tokens = random.integers(2, VOCABULARY, length).astype(np.int32)
        labels = np.where(np.arange(length) >= length - 15, tokens, -100).astype(np.int32)
        return Encoded(input_ids=tokens, labels=labels, truncated=0)

    return write_store(folder, (sequence(n) for n in random.permutation([*long, *short])), meta={})


def measured_steps(folder: Path, *, steps: int = STEPS) -> dict[str, Measured]:
    """Work (see `operations.step_work`) and processor seconds of the steps of each method, two runs by turns."""
    store = synthetic(folder / "store")
    new = {"name": "mini-6b", "vocab_size": VOCABULARY, "max_length": CAPACITY, "seed": 0}
    runs = [
        Run(method, str(store.folder), {"method": method, "seed": seed, **METHODS[method][seed]}, new_model=new)
        for seed in range(2) for method in METHODS
    ]  # fmt: skip
    runs = [timing.on_devices(run, ranks=1, steps=steps) for run in runs]
    found: dict[str, list[Measured]] = {method: [] for method in METHODS}
    for run, measured in zip(runs, timing.measure(runs, folder / "times"), strict=True):
        (plan,) = make_plans(store, TrainingConfig(**run.training))
        found[run.label].append((step_work(plan)[1:steps, 0], np.array(measured["cpu_seconds"][0][1:])))
    return {name: tuple(map(np.concatenate, zip(*parts, strict=True))) for name, parts in found.items()}


def error_rows(measured: dict[str, Measured]) -> list[common.Row]:
    """Errors on held-out steps of a pace fitted to all methods and to each alone, and of packing's on the others."""
    split = {method: hold_out(len(seconds)) for method, (_, seconds) in measured.items()}
    fitted, held = (
        {method: tuple(part[split[method][side]] for part in both) for method, both in measured.items()}
        for side in (0, 1)
    )
    together = fit_pace(*map(np.concatenate, zip(*fitted.values(), strict=True)))
    alone = {method: fit_pace(*steps) for method, steps in fitted.items()}
    rows = []
    for method in measured:
        rows += _errors(f"pace of all on {method}", together, held[method], "held-out steps")
        rows += _errors(f"pace of {method} on {method}", alone[method], held[method], "held-out steps")
    for method in [method for method in measured if method != "packing"]:
        rows += _errors(f"pace of packing on {method}", alone["packing"], measured[method], "steps, none seen before")
    return rows


def _errors(case: str, pace: Pace, steps: Measured, what: str) -> list[common.Row]:
    error = prediction_error(pace, *steps)
    values = {"median error": error.median, "90th percentile": error.ninetieth, "error of the total": error.total}
    return [common.row(TARGET, common.OURS, case, metric, "%", 100 * value, f"{error.steps} {what}")
            for metric, value in values.items()]  # fmt: skip


def figure_5_rows(profile: Profile) -> list[common.Row]:
    """Hours of the paper's nine trainings under both assumptions of lengths, and how far they are from the paper's."""
    rows = []
    for long in paper_plan.DISTRIBUTIONS:
        found = paper_plan.report(profile, *paper_plan.assumed_lengths(0, long), source=paper_plan.assumption(long))
        nine = {(line.model, line.method): line for line in found.rows if line.paper_hours is not None}
        plain = {key: line.hours for key, line in nine.items()}
        rows += _hours(f"{long} lengths", nine, plain, [paper_plan.FITTED], f"{found.tflops:.0f} TFLOP/s a device")
        rows += _hours(f"{long} lengths, with traffic", nine, *_with_traffic(nine, profile, found.tflops))
    return rows


def _with_traffic(nine: dict[Key, paper_plan.Row], profile: Profile, tflops: float) -> tuple[dict[Key, float], ...]:
    """Hours where each weight is moved in each micro-step (ZeRO-3, offload), at a rate that a second hour fits."""
    micro_steps = {(arm.method, arm.capacity): arm.accumulation for arm in paper_plan.arms(profile)}
    billions = {model.name: model.cost.per_token / 6e9 for model in paper_plan.MODELS}
    parts = {key: np.array([line.hours, line.steps * micro_steps[line.method, line.longest] * billions[line.model]])
             for key, line in nine.items()}  # fmt: skip
    known = [paper_plan.FITTED, ("Llama-2-7B", "sorted")]
    found = np.linalg.solve([parts[key] for key in known], [nine[key].paper_hours for key in known])
    rates = f"{tflops / found[0]:.0f} TFLOP/s, {3600 * found[1]:.2f} s a billion weights"
    return {key: float(part @ found) for key, part in parts.items()}, known, rates


def _hours(
    what: str, nine: dict[Key, paper_plan.Row], hours: dict[Key, float], fitted: list[Key], rates: str
) -> list[common.Row]:
    """Hours and errors, one of each for a training, and the errors of those that were not fitted together."""
    rows, errors = [], {key: 100 * (hours[key] / line.paper_hours - 1) for key, line in nine.items()}
    for key, line in nine.items():
        note = f"paper {line.paper_hours} h{f'; fitted: {rates}' if key in fitted else ''}"
        rows.append(common.row(TARGET, common.OURS, ", ".join(key), f"hours, {what}", "h", hours[key], note))
        rows.append(common.row(TARGET, common.OURS, ", ".join(key), f"error, {what}", "%", errors[key], note))
    predicted = [abs(error) for key, error in errors.items() if key not in fitted]
    note = f"of the {len(predicted)} hours that were not fitted"
    return [*rows, common.row(TARGET, common.OURS, "Figure 5", f"|error|, {what}", "%", predicted, note)]


def run() -> list[common.Row]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="longalign-cost-") as folder:
        return [*error_rows(measured_steps(Path(folder))), *figure_5_rows(load_profile("paper"))]


def main() -> int:
    """Measure, show and save."""
    return common.finish(TARGET, run(), assumptions=ASSUMPTIONS)


if __name__ == "__main__":
    sys.exit(main())
