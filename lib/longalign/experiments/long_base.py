"""The context extension, and the long bases that come with the project: the first of each size, as `laptop` extends it.

    python -m longalign.experiments.long_base          (a part of `make bases`) trains them anew

The paper's authors have released theirs, too. They are committed because every result waits for them, for minutes on
one core, and so that fine-tuning begins with the same weights on every processor. Their weights are not rounded: who
trains them on the same kind of processor gets the same bits. Other bases, and other settings, are extended in the run.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from longalign.common import paths, provenance
from longalign.experiments import training_data
from longalign.experiments.base_models import Start
from longalign.experiments.profiles import load_profile
from longalign.miniature.pretraining import TOKENS_PER_STEP
from longalign.miniature.settings import Extension
from longalign.train.runs import Run, Trained, extension_of
from longalign.train.workers import execute_all

PROFILE = "laptop"


@dataclass(frozen=True)
class LongBase(Trained):
    """A committed long base: in its `place` are the `model`, `events.jsonl` of its training, and `record.json`."""

    label: str
    place: Path

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.place

    @property
    def key(self) -> str:
        """The key of the run that trained it."""
        return self.record()["key"]


def extension(start: Start, **changes: Any) -> Run | LongBase:
    """The long base of a start: the committed one, or the run of `continual_training` that makes it where there is none
    by these settings. `changes` are fields of the profile's extension."""
    return find(start, replace(start.profile.extension, **changes)) or continual_training(start, **changes)


def continual_training(start: Start, **changes: Any) -> Run:
    """Continual training on long documents at RoPE base x `rope_factor`: the short base becomes the long base.

    arXiv 2401.18058. Full-length packs, every token of an answer and some of the others are targets. `changes` are
    fields of the profile's extension.
    """
    profile = start.profile
    settings = replace(profile.extension, **changes)
    parts = {"base": start.base} if start.base else {}
    name = "-".join(["extension", *(f"{field}-{value}" for field, value in sorted((parts | changes).items()))])
    store = training_data.extension_store(start, name, settings)
    training = {
        "method": "packing", "exponent": 1.0, "epochs": 1, "capacity": max(TOKENS_PER_STEP, settings.max_length),
        "learning_rate": start.rate(settings.learning_rate), "seed": profile.seed + start.base,
        **({"micro_batches_per_step": ranks} if (ranks := profile.engine.batches) > 1 else {}),  # a pack for each
    }  # fmt: skip
    return Run(
        f"{start.folder.name if parts else start.model} context extension", str(store.folder), training,
        start=str(start.folder), engine=profile.engine.run_settings(),
        **extension_of(settings) | {"max_length": max(settings.max_length, profile.corpus.max_length)},
    )  # fmt: skip


def find(start: Start, settings: Extension) -> LongBase | None:
    """The committed long base that this start's extension by these settings would give; None where there is none.

    Raises ValueError for one whose files are not those that its record names.

    >>> start = Start(load_profile("laptop"), "mini-6b")
    >>> find(start, start.profile.extension).label, find(start, Extension(tokens=2000))
    ('mini-6b context extension', None)
    """
    found = LongBase(f"{start.model} context extension", paths.long_bases() / start.model)
    if start.source or not (found.folder / "record.json").is_file():
        return None
    if found.record()["settings"] != determining(start, settings):
        return None
    if not found.finished:
        where = paths.relative(found.folder)
        raise ValueError(f"{where} is not what its record says: `git checkout {where}` brings it back")
    return found


def determining(start: Start, settings: Extension) -> dict[str, Any]:
    """What determines a long base beside the code: its short base, the settings of its training, the seeds."""
    profile = start.profile
    return {
        "start": start.about()["sha256"], **asdict(settings), "learning_rate": start.rate(settings.learning_rate),
        "window": max(settings.max_length, profile.corpus.max_length), "seed": profile.seed + start.base,
        "documents": profile.corpus.seed + start.base, "engine": profile.engine.run_settings(),
    }  # fmt: skip


def build(models: Sequence[str], target: Path, *, workers: int = 1) -> None:
    """Extend the first base of some models as the profile says, and put each into a folder of its name below `target`:
    model, events of the training, record."""
    profile = load_profile(PROFILE)
    starts = [Start(profile, model) for model in models]
    runs = [continual_training(start) for start in starts]
    execute_all(runs, workers=workers)
    for start, run in zip(starts, runs, strict=True):
        folder = target / start.model
        shutil.rmtree(folder, ignore_errors=True)
        for name in run.record()["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.folder / name, folder / name)
        record = run.record() | {"settings": determining(start, profile.extension)}
        del record["run"]  # which names folders of one machine
        provenance.write_json(folder / "record.json", record)


def main(arguments: list[str]) -> None:
    """Command line of this part of `make bases`."""
    models = load_profile(PROFILE).models
    parser = argparse.ArgumentParser(prog="python -m longalign.experiments.long_base", description=main.__doc__)
    parser.add_argument("--models", nargs="+", default=list(models), choices=list(models))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    build(options.models, paths.long_bases(), workers=options.workers)


if __name__ == "__main__":
    main(sys.argv[1:])
