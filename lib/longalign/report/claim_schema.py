"""claims.yaml, typed: each claim of the paper as a statement that numbers can decide, fixed before they are known.

An unknown key, a wrong type, an unknown group of tasks or a margin where none belongs is refused with file and claim
named. A claim can only be a weighted sum over arms of mean scores (or of their logarithms).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from longalign.common import paths
from longalign.common.config import ConfigError, nearest, read_yaml, typed
from longalign.evals.intervals import contrast

LAPTOP = "laptop"
"""The scale of a claim that a run of the notebooks can test."""
GPU = "gpu"
"""The scale of a claim that `make gpu` can test: its numbers are those of results/gpu/<card>/."""
MEASURABLE = (LAPTOP, GPU)
"""Any other scale is the reason why a claim cannot be tested here."""
HEADROOM, SIZES, WAITING = "headroom", "sizes", "waiting"
"""What a claim may need of the instrument (`longalign.report.gates`)."""
WITHIN_MARGIN = ("not_less", "equal")
"""The directions that say "no harm" (not less by the margin) and "no difference" (within the margin)."""


@dataclass(frozen=True)
class Number:
    """A number of an arm: its weight in a contrast, or its score in the paper. "model|arm" is an arm of that model."""

    arm: str
    value: float


@dataclass(frozen=True)
class Claim:
    """One testable statement of the paper; claims.yaml explains the fields. Tasks or lengths of None mean all."""

    id: str
    source: str
    statement: str
    notebook: str
    scale: str = LAPTOP
    withdrawn: bool = False
    paper: tuple[Number, ...] = ()
    unit: str = ""
    other_scale: str = ""
    restates: str = ""
    needs: tuple[str, ...] = ()
    results: str = ""
    model: str = ""
    metric: str = ""
    tasks: tuple[str, ...] | None = None
    lengths: tuple[int, ...] | None = None
    arms: tuple[Number, ...] = ()
    statistic: str = "difference"
    threshold: float | None = None
    direction: str = ""
    margin: float | None = None
    caveat: str = ""

    @property
    def family(self) -> str:
        """The scale at which it counts as a test: one that was to be measured, and cannot be, still does."""
        return LAPTOP if self.withdrawn else self.scale

    @property
    def log(self) -> bool:
        """Whether the statistic is a ratio, tested on the log scale."""
        return self.statistic == "log_ratio"

    @property
    def null(self) -> float:
        """What the contrast is compared with, on the scale of the test: 0, or the (logarithm of the) threshold."""
        if self.log:
            return float(np.log(1.0 if self.threshold is None else self.threshold))
        return self.threshold or 0.0

    @property
    def weights(self) -> list[float]:
        """The weights of the arms, in their order."""
        return [arm.value for arm in self.arms]

    @property
    def sign(self) -> int:
        """1 where more is as the claim says, -1 where less is."""
        return -1 if self.direction == "less" else 1

    @property
    def paper_effect(self) -> float | None:
        """The paper's own contrast, on the scale of the test; None where it prints none, or one on another scale.

        Its numbers name the claim's arms, or stand in their order.
        """
        printed = {number.arm: number.value for number in self.paper}
        if self.other_scale or len(printed) != len(self.arms):
            return None
        named = set(printed) == {arm.arm for arm in self.arms}
        values = [printed[arm.arm] for arm in self.arms] if named else list(printed.values())
        percent = 0.01 if self.unit.endswith("0-100") and not self.log else 1.0
        return float(contrast(np.array(values) * percent, self.weights, log=self.log))

    @property
    def excluded(self) -> float | None:
        """The effect whose exclusion means that there is no such effect: the paper's own, else the margin.

        None for a margin's own directions, and where the paper's numbers do not bear the claim out themselves.
        """
        if self.direction in WITHIN_MARGIN:
            return None
        effect = self.null + self.sign * (self.margin or 0) if self.paper_effect is None else self.paper_effect
        return effect if self.sign * (effect - self.null) > 0 else None

    def run(self, arm: Number) -> tuple[str, str]:
        """Model and name of an arm."""
        model, _, name = arm.arm.rpartition("|")
        return model or self.model, name


AnyClaim = TypeVar("AnyClaim", bound=Claim)


def load_ledger(path: Path | None = None, kind: type[AnyClaim] = Claim) -> tuple[AnyClaim, ...]:
    """The claims of a ledger, in its order. Raises ConfigError that names the file, the claim and the key."""
    path = path or paths.root() / "claims.yaml"
    where = paths.relative(path)
    data = read_yaml(path)
    parts = ("tasks", "lengths", "claims")
    if not isinstance(data, dict) or set(data) != set(parts) or not isinstance(data["claims"], list):
        raise ConfigError(f"{where}: it must hold the keys {', '.join(parts)}, the last one a list of claims")
    ledger = tuple(_claim(entry, data, f"{where}, claim {n}", kind) for n, entry in enumerate(data["claims"]))
    ids = [claim.id for claim in ledger]
    for repeated in sorted({name for name in ids if ids.count(name) > 1}):
        raise ConfigError(f"{where}: two claims have the id {repeated}: give each its own")
    for claim in (claim for claim in ledger if claim.restates and claim.restates not in ids):
        message = f"no claim {claim.restates!r} to restate: {nearest(claim.restates, ids)}"
        raise ConfigError(f"{where}, claim {claim.id}: {message}")
    return ledger


def _claim(entry: Any, groups: dict[str, Any], where: str, kind: type[AnyClaim]) -> AnyClaim:
    """One entry with its groups filled in and {arm: number} as numbers, typed and checked."""
    if isinstance(entry, dict):
        where = f"{where.rpartition(' ')[0]} {entry['id']}" if "id" in entry else where
        entry = dict(entry)
        for key in ("arms", "paper", "at_worst"):
            _list_numbers(entry, key)
        if isinstance(entry.get("like"), dict):
            entry["like"] = dict(entry["like"])
            _list_numbers(entry["like"], "arms")
        for key in ("tasks", "lengths"):
            name = entry.get(key)
            if isinstance(name, str):
                if name not in groups[key]:
                    raise ConfigError(f"{where}: no group {name!r} of {key}: {nearest(name, groups[key])}")
                entry[key] = groups[key][name]
    claim = typed(entry, kind, where=where)
    for holds, message in _demands(claim):
        if not holds:
            raise ConfigError(f"{where}: {message}")
    return claim


def _list_numbers(entry: dict[str, Any], key: str) -> None:
    """{arm: number} as a list of numbers with their arms."""
    if isinstance(entry.get(key), dict):
        entry[key] = [{"arm": arm, "value": value} for arm, value in entry[key].items()]


def _demands(claim: Claim) -> Iterable[tuple[bool, str]]:
    yield bool(re.fullmatch(r"[0-9]{2}_\w+", claim.notebook)), f"no numbered notebook: {claim.notebook!r}"
    if claim.scale not in MEASURABLE:
        scales = " or ".join(MEASURABLE)
        yield not claim.arms, f"it cannot be shown here, so it has no arms to compare; or scale: {scales}"
        return
    yield not claim.withdrawn, "withdrawn is said of a claim that cannot be shown: its scale says why"
    if claim.scale == GPU:
        bare = claim.tasks is None and claim.lengths is None
        yield bare, "rows of a GPU have no tasks and no lengths: model is their case, arms are their systems"
    for key in ("results", "metric", "arms"):
        yield bool(getattr(claim, key)), f"the key {key} is missing"
    yield all(claim.run(arm)[0] for arm in claim.arms), "the key model is missing (or write the arms as model|arm)"
    yield any(claim.weights), "all weights are 0"
    directions = ("greater", "less", *WITHIN_MARGIN)
    for key, valid in (("statistic", ("difference", "log_ratio")), ("direction", directions)):
        yield getattr(claim, key) in valid, f"{key} is {getattr(claim, key)!r}: {nearest(getattr(claim, key), valid)}"
    for need in claim.needs:
        valid = (HEADROOM, SIZES, WAITING)
        yield need in valid, f"needs {need!r}: {nearest(need, valid)}"
    yield bool(claim.paper) or not claim.other_scale, "other_scale is said of the paper's numbers, and there are none"
    within = claim.direction in WITHIN_MARGIN
    margin = within or claim.paper_effect is None
    yield margin == (claim.margin is not None), (
        "a margin is needed for equal and not_less, and where the paper has no number on the same scale; nowhere else")
    yield claim.margin is None or claim.margin > 0, "margin must be above 0"
    yield not (within and claim.log), f"direction {claim.direction} needs statistic difference"
    yield not claim.log or claim.threshold is None or claim.threshold > 0, "the threshold of a ratio must be above 0"
