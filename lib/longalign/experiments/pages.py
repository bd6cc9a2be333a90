"""Where the numbers on a notebook's page come from: trained and scored in a run, or read from `results/` in a replay.

In both cases the page reads its tables from CSV files in the same order, so text, tables and figures are drawn by the
same cells from the same numbers. A replay trains nothing and writes nothing; of what was not kept it tells the command
that computes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown, display

from longalign.common import paths, provenance
from longalign.common.config import typed
from longalign.common.source_hash import source_hash
from longalign.experiments import design, evaluations, lesson
from longalign.experiments.design import IN_TABLES, Arm
from longalign.experiments.evaluations import Evaluation, Scored
from longalign.experiments.profiles import Profile, load_profile
from longalign.train import runs, workers
from longalign.train.runs import Run

ITEM_KEYS = ("arm", "model", "seed")


class Page:
    """The page of one notebook (`name` is its file's stem), of a run of `profile` or, with `replay`, of the reference.

    A replay has the settings and the seeds of the committed record, whatever `profile` and `seeds` say. Raises
    FileNotFoundError for a replay of what has no committed record, ConfigError for a record that this version cannot
    read.
    """

    def __init__(self, name: str, profile: str, *, seeds: int = 0, replay: bool = False) -> None:
        """Read the profile, or the committed record."""
        self.name, self.replay = name, replay
        self._asked, self._asked_seeds = profile, seeds
        self.settings = self._recorded_settings() if replay else load_profile(profile)
        self.seeds = 1 if replay else seeds
        """The number of seeds to define arms for: one is enough where nothing is trained, tables know the others."""
        self.folder = paths.results() if replay else paths.run_dir(self.settings.name)
        """Where the tables of this page lie."""
        self.figures = None if replay else paths.run_figures(self.settings.name)
        """Where figures are kept; those of the reference are drawn by `make figures`."""
        self._kept: dict[str, Any] = {"runs": {}, "texts": {}}
        self._seeds: set[int] = set()
        self._code = ""

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """The committed record of this notebook: results, commit, seeds, machine. Raises FileNotFoundError."""
        path = paths.results() / f"{self.name}.json"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {paths.relative(path)} to replay: {self._command} computes it")
        return json.loads(path.read_text(encoding="utf-8"))

    def banner(self) -> Markdown:
        """Whose numbers this page shows: commit, seeds, profile, machine and, of a replay, the date of the record."""
        if not self.replay:
            return lesson.banner(self.settings)
        return Markdown(f"> **Replay: nothing on this page was trained.** {origin(self.recorded)} "
                        f"`{self._command}` computes them anew.")  # fmt: skip

    def computing(self, train_here: bool) -> Page:
        """This page, or, if it is a replay and `train_here` is true, a run that trains and scores what it shows."""
        if not (self.replay and train_here):
            return self
        page = Page(self.name, self._asked, seeds=self._asked_seeds)
        display(page.banner())
        return page

    def train(self, arms: Mapping[Arm, Run], *, first: Iterable[Run] = ()) -> pd.DataFrame:
        """What the training of each arm took: index arm, model, seed, columns as `trainings` names them.

        A run trains those of the runs `first` from which an arm starts, and then the arms. A replay reads its record.
        """
        if self.replay:
            took = self.recorded["results"]["runs"]
        else:
            starts = {arm.start for arm in arms.values()}
            self.finish([run for run in first if str(run.model) in starts])
            self.finish(list(arms.values()))
            took = trainings(arms)
            self._kept["runs"] |= took
            self._seeds |= {arm.seed for arm in arms}
        rows = [dict(zip(ITEM_KEYS, _arm(name), strict=True)) | training for name, training in took.items()]
        chosen = [row for row in rows if (row["arm"], row["model"]) in {arm[:2] for arm in arms}]
        return in_order_of(arms, pd.DataFrame(chosen).sort_values("seed")).set_index(list(ITEM_KEYS))

    def finish(self, jobs: Sequence[workers.Job]) -> None:
        """Do jobs side by side, as many as the profile says; a replay does none."""
        if not self.replay:
            self._code = provenance.config_hash({
                "training": source_hash("train.runs._train", without=runs.WITHOUT),
                "scoring": source_hash("experiments.evaluations.Evaluation", without=evaluations.WITHOUT),
            })  # fmt: skip
            workers.execute_all(jobs, workers=self.settings.workers, log=lesson.log(self.settings.name, self.name))

    def scores(
        self,
        table: str,
        arms: Mapping[Arm, Run],
        *,
        benchmarks: Sequence[str] = IN_TABLES,
        evaluate: Callable[[], Mapping[Scored, Evaluation]] | None = None,
    ) -> pd.DataFrame:
        """The tidy rows of <table>.csv in the order of `arms`; a run scores the arms on `benchmarks` before.

        It keeps the score of every item, too (`items`). `evaluate` returns the evaluations where they are others.
        """
        def rows() -> list[dict[str, Any]]:
            scored = evaluate() if evaluate else design.evaluations(self.settings, arms, names=benchmarks)
            self.finish(list(scored.values()))
            evaluations.write_items(self.folder / "items" / f"{table}.csv", scored)
            return evaluations.tidy(table, scored)

        return in_order_of(arms, self.table(table, rows))

    def table(self, name: str, rows: Callable[[], Any]) -> pd.DataFrame:
        """The table <name>.csv; a run writes what `rows` returns (dicts, or a frame) before it is read."""
        if not self.replay:
            provenance.write_csv(self.folder / f"{name}.csv", rows())
        return self.read(name)

    def read(self, name: str) -> pd.DataFrame:
        """The table <name>.csv as it lies in the folder of this page."""
        return pd.read_csv(self.folder / f"{name}.csv")

    def items(self, name: str, arms: Mapping[Arm, Run]) -> pd.DataFrame:
        """The score of every item that `scores` kept, a row each, in the order of `arms`."""
        return in_order_of(arms, read_items(self.folder / "items" / f"{name}.csv"))

    def kept(self, make: Callable[[], Mapping[str, Any]], *names: str) -> list[Any]:
        """The values `names` that no table holds; a run computes them by `make`, whose whole result the record keeps.

        Raises KeyError where the committed record lacks one.
        """
        if not self.replay:
            self._kept |= make()
        found = self.recorded["results"] if self.replay else self._kept
        return [found[name] for name in names]

    def text(self, name: str, write: Callable[[], str]) -> str:
        """A text that stands in no table, such as a decoded answer: what `write` returns, which the record keeps.

        A replay takes it from the committed record, or says in its place which command computes it.
        """
        if self.replay:
            missing = f"not kept with the committed tables: {self._command} computes it"
            return self.recorded["results"].get("texts", {}).get(name, missing)
        return self._kept["texts"].setdefault(name, write())

    def record(self, *, results: Mapping[str, Any], data_hash: str | None = None, **more: Any) -> Path:
        """Write the record of a run, with its trainings (`runs`), their seeds and its `texts`; returns its path.

        Where something was trained or scored, `code` is the hash of the code that does so: parts of a reference are
        held to it (`longalign.reproduction.reference`). A replay writes nothing.
        """
        path = self.folder / f"{self.name}.json"
        if self.replay:
            return path
        kept = {name: found for name, found in self._kept.items() if found}
        return provenance.write_record(
            path, config=self.settings, results=kept | dict(results), data_hash=data_hash,
            **{"seeds": self._seeds, **({"code": self._code} if self._code else {}), **more},
        )  # fmt: skip

    @property
    def _command(self) -> str:
        return f"make notebook NB={paths.number(self.name)}"

    def _recorded_settings(self) -> Profile:
        return typed(self.recorded["config"], Profile, where=f"{paths.relative(paths.results())}/{self.name}.json")


def origin(recorded: Mapping[str, Any]) -> str:
    """Where the numbers of a record come from, in a sentence.

    >>> told = origin({
    ...     "git": {"commit": "475a5828471e", "dirty": True}, "config": {"name": "laptop"}, "seeds": [2, 3, 4],
    ...     "hardware": {"processor": "Xeon", "cores": 2, "memory_gib": 23.5}, "date": "2026-11-25T09:00:00Z"})
    >>> print(told.replace(", computed", ",\\ncomputed"))
    Its numbers are those of commit 475a582 with changes, profile laptop, seeds 2 to 4,
    computed on 2026-11-25 by Xeon, 2 cores, 23.5 GiB.
    """
    git, machine, seeds = recorded["git"], recorded["hardware"], recorded["seeds"]
    commit = f"commit {git['commit'][:7]}{' with changes' if git['dirty'] else ''}" if git["commit"] else "no commit"
    whole = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    told = f"seeds {seeds[0]} to {seeds[-1]}" if whole else f"seed {', '.join(map(str, seeds))}" if seeds else "no seed"
    place = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    return (f"Its numbers are those of {commit}, profile {recorded['config']['name']}, {told}, "
            f"computed on {recorded['date'][:10]} by {place}.")  # fmt: skip


def in_order_of(arms: Iterable[Arm], table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table in the order of `arms` (arm and model count), each arm's rows as they stand; others last.

    >>> table = pd.DataFrame({"arm": ["naive", "packing"], "model": "mini-6b", "value": [2.0, 4.0]})
    >>> in_order_of([Arm("packing", "mini-6b", 0), Arm("naive", "mini-6b", 0)], table).value.tolist()
    [4.0, 2.0]
    """
    place = {name: number for number, name in enumerate(dict.fromkeys((arm[0], arm[1]) for arm in arms))}
    numbers = [place.get(name, len(place)) for name in zip(table.arm, table.model, strict=True)]
    return table.assign(place=numbers).sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def read_items(path: Path | str) -> pd.DataFrame:
    """What `evaluations.write_items` wrote, long again: a row per trained model (arm, model, seed), item and metric."""
    wide = pd.read_csv(path)
    keys = [column for column in wide if "|" not in column]
    long = wide.melt(keys, var_name="run").dropna(subset="value").reset_index(drop=True)
    named = pd.DataFrame(long.pop("run").str.split("|").tolist(), columns=["model", "arm", "seed"])
    return named.astype({"seed": int}).join(long)


def trainings(arms: Mapping[Arm, Run]) -> dict[str, dict[str, Any]]:
    """What the training of each arm was and took, for a record: key, steps, tokens read, seconds, megabytes.

    `seconds` are wall time with whatever ran beside it, `cpu_seconds` processor time of one thread; `peak_memory_mb` is
    that of the process. Raises FileNotFoundError for a run that has not been trained.
    """
    names = ("key", "steps", "tokens", "seconds", "cpu_seconds", "peak_memory_mb")
    records = {" ".join(map(str, arm)): run.record() for arm, run in arms.items()}
    return {arm: {name: found[name] for name in names} for arm, found in records.items()}


def _arm(name: str) -> tuple[str, str, int]:
    """The arm of an entry of `trainings`."""
    arm, model, seed = name.rsplit(" ", 2)
    return arm, model, int(seed)
