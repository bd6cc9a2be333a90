"""A profile's real model taken through two optimizer steps and one question, at lengths that a CPU can bear.

    python -m longalign.smoke gpu                                                       (make smoke PROFILE=gpu)

It shows that the model loads, trains under this engine and answers; it shows nothing of what training brings. The
price: the model is fetched, and trained as a run of its own (some minutes without a GPU). A model of the Hub that was
not fetched is replaced by a small random one of its architecture, and the page says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from longalign import crew, experiments, paths, starts
from longalign.execution import outcomes
from longalign.profiles import Profile, load_profile
from longalign.runs import Run

QUESTION = "What is the capital of France?"
LENGTH = 256
"""Tokens of a pack and of the longest sample."""
STEPS = 2


def short(profile: Profile) -> Profile:
    """The profile with a few short samples."""
    corpus = replace(profile.corpus, long=4, short=16, min_long=128, max_length=LENGTH, max_short=LENGTH // 2)
    return replace(profile, corpus=corpus)


def training(profile: Profile, model: str, folder: Path) -> Run:
    """Two steps of packing with loss weighting from a model's folder, its context extended as the profile says."""
    store = experiments.suite_store(short(profile), "LongAlign-10k", model=model)
    settings = profile.training
    config = {
        "method": "packing", "capacity": LENGTH, "accumulation": 2, "steps": STEPS, "epochs": 1,
        "learning_rate": settings.learning_rate, "schedule": settings.schedule, "beta1": settings.beta1,
        "beta2": settings.beta2, "weight_decay": settings.weight_decay,
    }  # fmt: skip
    return Run(
        f"{model}, two steps", str(store.folder), config, start=str(folder), rope_factor=profile.extension.rope_factor,
        max_length=profile.extension.max_length,
    )  # fmt: skip


def answer(folder: Path, encode: Any, question: str) -> str:
    """What a model answers to a question by greedy decoding."""
    import torch

    from longalign.chat import encode_prompt
    from longalign.evals.conversation import greedy
    from longalign.models import load_model

    model = load_model(folder).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    prompt = encode_prompt([{"role": "user", "content": question}], encode)
    return greedy(model, torch.from_numpy(prompt).long(), encode=encode)


def smoke(profile: Profile) -> None:
    """Fetch, train, ask; prints what it does and found."""
    began, model = time.monotonic(), profile.models[0]
    folder = starts.short_base(profile, model)
    print(f"{model}: {paths.relative(folder)}")
    run = training(profile, model, folder)
    crew.execute_all([run])
    encode = starts.encode(profile, model)
    if encode is None:
        from longalign.corpus import tokenizer

        encode = tokenizer.load()
    print(f"question: {QUESTION}")
    for name, where in (("before", folder), ("after two steps", run.model)):
        print(f"{name}: {answer(where, encode, QUESTION)}")
    print(f"done in {outcomes.duration(time.monotonic() - began)}")


def main(arguments: list[str] | None = None) -> int:
    """Smoke-test a profile from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m longalign.smoke", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    try:
        smoke(load_profile(parser.parse_args(arguments).profile))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"longalign.smoke: {error}", file=sys.stderr)
        return outcomes.EXIT_STATUS[outcomes.REFUSED]
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
