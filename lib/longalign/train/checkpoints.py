"""Checkpoints that a training can go on from: whole ones only, on as many ranks as it now has.

DeepSpeed deals the optimizer's states to the ranks and writes them as they lie; who goes on with other ranks or at
another stage has them put together first ("universal" form). The step after that is the same only to rounding, since
other ranks add in another order.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from longalign.common import checksums, paths, provenance
from longalign.train.parallelism import Parallelism

WRITER = "engine.json"
STATE = "trainer_state.json"
"""What every whole checkpoint of the Trainer holds."""
UNIVERSAL = "latest_universal"


def newest(work: Path) -> Path | None:
    """The checkpoint with the highest step in a run's folder `work`, whole or not; None without any."""
    from transformers.trainer_utils import get_last_checkpoint

    found = get_last_checkpoint(str(work)) if work.is_dir() else None
    return Path(found) if found else None


def finish(checkpoint: Path, *, world_size: int, zero: int | None) -> None:
    """Note who has written a checkpoint, and seal it: from now on it is one to go on from."""
    if not (checkpoint / STATE).is_file():
        raise RuntimeError(f"{paths.relative(checkpoint)} was removed as soon as it was written: is the clock right?")
    provenance.write_json(checkpoint / WRITER, {"world_size": world_size, "zero": zero})
    checksums.seal(checkpoint)


def drop_damaged(work: Path) -> None:
    """Remove what was cut short or has changed since: the engine would go on from the highest number, whole or not.

    The engine keeps those that were written last, so what stays gets the oldest times, in the order of its steps: a
    clock that was set back would make it remove the new ones.
    """
    for checkpoint in work.glob("checkpoint-*"):
        step = checkpoint.name.rpartition("-")[2]
        if not checksums.is_sealed(checkpoint) or not (checkpoint / STATE).is_file():
            print(f"{checkpoint.name} is damaged or was cut short; training goes on from the one before")
            shutil.rmtree(checkpoint)
        elif step.isdecimal():  # else it is somebody's copy, which the engine does not see
            os.utime(checkpoint, (int(step), int(step)))


def prepare_resume(work: Path, engine: Parallelism) -> None:
    """Before a training starts or goes on in `work`: its newest checkpoint is whole, and fits the engine.

    Raises ValueError where it cannot: plain torch, stage 0, stages 1 and 2, and stage 3 do not read each other's.
    RuntimeError, with the last line of what it said, when DeepSpeed cannot put it together.
    """
    drop_damaged(work)
    if (checkpoint := newest(work)) is None:
        return
    writer = json.loads((checkpoint / WRITER).read_text())
    if _kind(writer["zero"]) != _kind(engine.zero):
        raise ValueError(
            f"{paths.relative(checkpoint)} was written {_by(writer['zero'])}, and cannot be read {_by(engine.zero)}: "
            f"continue with the settings of its start, or remove {paths.relative(work)} to begin again"
        )
    if not engine.zero:
        return  # every rank has everything
    same = (writer["zero"], writer["world_size"]) == (engine.zero, engine.world_size)
    if not same and not is_universal(checkpoint):
        print(f"{checkpoint.name} was written by {writer['world_size']} ranks, and is put together for others")
        _put_together(checkpoint)
    if same:
        (checkpoint / UNIVERSAL).unlink(missing_ok=True)


def is_universal(checkpoint: Path | None) -> bool:
    """Whether a checkpoint has been put together for other ranks."""
    return checkpoint is not None and (checkpoint / UNIVERSAL).is_file()


def _put_together(checkpoint: Path) -> None:
    tag = (checkpoint / "latest").read_text().strip()
    whole = checkpoint / f"{tag}_universal"
    shutil.rmtree(whole, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", tag, "--output_folder",
               whole.name, "--inject_missing_state"]  # fmt: skip
    environment = {**os.environ, "DS_BUILD_OPS": "0"}
    # from within: it takes the path for a pattern, in which brackets and the like mean something
    told = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=checkpoint)
    if told.returncode:
        last = (told.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"{paths.relative(checkpoint)} could not be put together for other ranks: {last}")
    provenance.write_text(checkpoint / UNIVERSAL, whole.name)


def separate_steps(optimizer: Any, weight_decay: float) -> None:
    """Undo what DeepSpeed's loading does at stage 3 to a checkpoint that was put together, in place.

    It gives all of torch's AdamW states one and the same step counter, which then counts every update as many times as
    there are states, and all parameter groups the first one's weight decay; the Trainer's second has none.
    """
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()
    for group, decay in zip(optimizer.param_groups, (weight_decay, 0.0), strict=False):
        group["weight_decay"] = decay


def _kind(zero: int | None) -> int | None:
    return 1 if zero == 2 else zero


def _by(zero: int | None) -> str:
    return "without DeepSpeed" if zero is None else f"at stage {zero} of ZeRO"
