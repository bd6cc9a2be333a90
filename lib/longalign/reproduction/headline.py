"""The paper's first finding alone: `make headline` trains the first model with no, half and all long instructions.

The trainings and scores are those of 05_data_scale, under the same keys, so that `make reproduce` goes on from them.
Tables and the figure lie in a folder of their own, and the ledger's verdicts are those that these numbers decide.
"""

from __future__ import annotations

import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pandas as pd

from longalign.common import paths
from longalign.common.provenance import write_csv
from longalign.experiments import base_models, design, evaluations, training_data
from longalign.experiments.design import Arm
from longalign.experiments.profiles import Profile, load_profile
from longalign.report import claims, tables
from longalign.report.claim_schema import LAPTOP, load_ledger
from longalign.report.figures import style
from longalign.reproduction import outcomes, terminal
from longalign.train import workers

AMOUNTS = {"LongAlign-0k": "none", "LongAlign-5k": "half", "LongAlign-10k": "all"}
COLUMNS = {"LBC": "chat score, 1-10", "test long": "long prompts, % right", "test short": "short prompts, % right"}
BENCHMARKS = ("longbench_chat", "test")
CLAIM = "table-2-chat-10k-over-0k"


def headline(profile: Profile) -> Path:
    """Train, score and tell; returns the folder with the tables and the figure.

    Raises RuntimeError for a training that fails, naming its log.
    """
    folder = paths.run_dir(profile.name) / "headline"
    runs = _trained(profile)
    scored = design.evaluations(profile, runs, names=BENCHMARKS)
    terminal.say(f"scores: {len(scored)} evaluations")
    workers.execute_all(list(scored.values()), workers=profile.workers)
    rows = evaluations.tidy("data_scale", scored)
    write_csv(folder / "data_scale.csv", rows)
    evaluations.write_items(folder / "items" / "data_scale.csv", scored)
    style.plt.close(style.draw("data_scale", folder, folder))
    found = tables.scores_by_seed(rows)
    print("", _table(found).to_string(), _verdicts(profile, folder), _paragraph(profile, found), sep="\n\n")
    print(f"\nfigure     {paths.relative(folder / 'data_scale.png')}\ngo on      make reproduce: nothing of this is "
          "trained again")  # fmt: skip
    return folder


def _trained(profile: Profile) -> dict[Arm, design.Run]:
    """The finished trainings: every amount of long instructions, every seed of the profile."""
    model = profile.models[0]
    terminal.say(f"{model}, with its context extended: one training for each amount of long instructions and seed")
    workers.execute_all(design.long_bases(profile, model), workers=profile.workers)
    workers.prestart_workers(profile.workers)
    start = base_models.first(profile)
    runs = {Arm(suite, model, seed): design.fine_tuning(start, method="sorted", suite=suite, seed=seed)
            for seed in profile.seeds_for() for suite in AMOUNTS}  # fmt: skip
    questions = threading.Thread(target=training_data.benchmark_folder, args=(profile, BENCHMARKS), daemon=True)
    questions.start()  # they are there when the last training is
    longest_first = sorted(runs, key=lambda arm: [*AMOUNTS].index(arm.arm), reverse=True)
    workers.execute_all([runs[arm] for arm in longest_first], workers=profile.workers)
    questions.join()
    return runs


def _table(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of each column, a row for each amount of long instructions."""
    shown = {label: found[found.column == name].groupby("arm").value.apply(tables.mean_and_interval)
             for name, label in COLUMNS.items()}  # fmt: skip
    table = pd.DataFrame(shown).loc[list(AMOUNTS)].rename(AMOUNTS)
    return table.rename_axis("long instructions")


def _verdicts(profile: Profile, folder: Path) -> str:
    """The first claim with its verdict, and the others that these numbers decide; the ledger is about one profile."""
    if profile.name != LAPTOP:
        return f"VERDICT: none; the claims are about the profile {LAPTOP}, and this is {profile.name}"
    rows = [row for row in claims.measure_all(load_ledger(), folder) if row["seeds"]]
    first, *others = sorted(rows, key=lambda row: row["id"] != CLAIM)
    lines = [f"VERDICT: {first['verdict']}", first["statement"], f"{first['estimate']:+.2f} points{_interval(first)}"]
    lines += [first["note"]] * bool(first["note"])
    return "\n".join([*lines, *(f"also {row['verdict']}: {row['statement']}" for row in others)])


def _interval(row: dict[str, Any]) -> str:
    """The interval that decides a claim, beside that of the claim alone; nothing where there is none."""
    if pd.isna(row["low"]):
        return ""
    plain = f"95 % interval: {row['low']:.2f} to {row['high']:.2f}"
    if pd.isna(row["deciding_low"]):
        return f" ({plain})"
    deciding = f"{row['deciding_low']:.2f} to {row['deciding_high']:.2f}, with {row['confidence']:.1%} confidence"
    return f" (the interval that decides: {deciding}, because several claims are tested together; alone, {plain})"


def _paragraph(profile: Profile, found: pd.DataFrame) -> str:
    """What was done and what the means say, in plain words; the verdict is not repeated."""
    means = found.groupby(["column", "arm"]).value.mean()
    none, half, whole = (means["LBC"][arm] for arm in AMOUNTS)
    short = means["test short"]["LongAlign-10k"] - means["test short"]["LongAlign-0k"]
    paper = tables.printed("Table 2").droplevel("model").LBC
    share = f" The first half brings {(half - none) / (whole - none):.0%} of this." if whole > none else ""
    seeds = len(profile.seeds_for())
    told = (
        f"The model {profile.models[0]} can read long texts, but has not learned to follow instructions about them. We "
        f"trained it with no, half and all of {profile.corpus.long} long instructions, always together with the same "
        f"{profile.corpus.short:,} short ones. Then it answered {profile.evaluation.chat_questions} questions about "
        f"long texts, and a rule rated each answer from 1 to 10. Without long instructions the mean is {none:.2f}, "
        f"with half of them {half:.2f}, with all {whole:.2f}: {whole - none:+.2f} points.{share} On short prompts the "
        f"share of right answers changes by {short:+.1f} points of 100. The paper trained a model of 6 billion "
        f"parameters; its scores are {paper['LongAlign-0k']}, {paper['LongAlign-5k']} and {paper['LongAlign-10k']}. So "
        f"compare the direction, not the size. Each setting was trained {seeds} {'times' if seeds > 1 else 'time'}, "
        "with other training data and another order each time; the intervals (95 %) come from there."
    )
    return textwrap.fill(told, 110)


def main(arguments: list[str]) -> int:
    """Tell the headline of a profile; returns the exit status."""
    try:
        headline(load_profile(arguments[0] if arguments else LAPTOP))
    except KeyboardInterrupt:
        terminal.say("interrupted; make headline goes on from here")
        return outcomes.EXIT_STATUS[outcomes.INTERRUPTED]
    except (ValueError, OSError, RuntimeError) as error:
        print(f"longalign.reproduction.headline: {error}", file=sys.stderr)
        return outcomes.EXIT_STATUS[outcomes.REFUSED if isinstance(error, ValueError) else outcomes.FAILED]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
