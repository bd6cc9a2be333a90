"""A profile's models taken through two optimizer steps and one question each, at lengths that a CPU can bear.

    python -m longalign.reproduction.smoke gpu                                        (make smoke PROFILE=gpu)

It shows that a model loads, trains and answers, and nothing of what training brings. A model out of a wheel is fetched.
One of the Hub that was not fetched is replaced by a small random one of its architecture, which is said.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longalign.common import paths, provenance
from longalign.data.chat import tokenizer_hash
from longalign.experiments.base_models import Start
from longalign.experiments.evaluations import loaded
from longalign.experiments.profiles import Profile, load_profile
from longalign.fetch import fetching
from longalign.fetch.source import Source
from longalign.miniature import tokenizer, training_sets
from longalign.reproduction import outcomes
from longalign.train import workers
from longalign.train.parallelism import Parallelism
from longalign.train.runs import Run, extension_of

QUESTION = "What is the capital of France?"
LENGTH = 256
"""Tokens of a pack and of the longest sample."""
STEPS = 2


def training(profile: Profile, model: str, folder: Path, encode: Any, *, whole: bool = True) -> Run:
    """Two steps of packing with loss weighting from a model's folder, its context extended as the profile says.

    By the profile's engine where this machine has its devices, else in one process; there a model that is not trained
    `whole` is trained by LoRA, whose states are small.
    """
    import torch

    there = torch.cuda.device_count() >= profile.engine.ranks and profile.engine.nodes == 1
    engine = profile.engine if there else Parallelism()
    corpus = replace(profile.corpus, long=4, short=16, min_long=128, max_length=LENGTH, max_short=LENGTH // 2)
    known = tokenizer_hash(encode or tokenizer.load())[:16]
    place = paths.run_dir(profile.name) / "smoke" / f"{model}-{known}-{provenance.config_hash(asdict(corpus))}"
    store = training_sets.suite_store("LongAlign-10k", corpus, place, encode=encode)
    settings = profile.training
    config = settings.shared() | {
        "method": "packing", "capacity": LENGTH, "rows": 1, "micro_batches_per_step": 2 * engine.batches,
        "steps": STEPS, "epochs": 1,
        **({} if whole or there else {"lora_rank": settings.lora_rank}),
    }  # fmt: skip
    longer = extension_of(profile.extension) if profile.extension.tokens else {}
    settings = engine.run_settings()
    return Run(f"{model}, two steps", str(store.folder), config, start=str(folder), engine=settings, **longer)


def stand_in(source: Source, folder: Path) -> Path:
    """A small random model of a source's architecture, for the miniature's tokenizer, written to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, GlmConfig, LlamaConfig

    kind = GlmConfig if source.convert == "chatglm" else LlamaConfig
    config = kind(
        vocab_size=len(tokenizer.load()), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, pad_token_id=0, eos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def answer(folder: Path, encode: Any, question: str) -> str:
    """What a model answers to a question by greedy decoding."""
    import torch

    from longalign.clients.generation import end_tokens
    from longalign.data.chat import encode_prompt
    from longalign.evals.chat_answers import ANSWER_ROOM
    from longalign.evals.decoding import greedy

    prompt = torch.from_numpy(encode_prompt([{"role": "user", "content": question}], encode)).long()
    with loaded(folder) as model:
        return encode.decode(greedy(model, [prompt], end=end_tokens(model, encode), room=ANSWER_ROOM)[0])


def prove(model: str, run: Run) -> None:
    """Print that the start of a run is trained exactly, packed and padded. Raises ValueError where it is not."""
    from longalign.train import models, preflight

    start = models.load_model(run.start, **extension_of(run))
    for method in ("packing", "naive"):
        preflight.preflight(start, method=method)
    print(f"{model}: packed and padded, outputs, loss and gradients are those of each sequence alone")


def smoke(profile: Profile) -> None:
    """Fetch, train, ask, for each of the profile's models; prints what it does and found."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    began = time.monotonic()
    named = {source.name: source for source in profile.sources}
    for model in profile.models:
        if model in named and named[model].hub and not fetching.fetched(named[model]):
            print(f"{model} was not fetched: a small random model of its architecture takes its place")
            folder, encode = stand_in(named[model], paths.run_dir(profile.name) / "smoke" / f"{model}-stand-in"), None
        else:
            start = Start(profile, model)
            folder, encode = start.folder, start.encode
        of_the_hub = model in named and named[model].hub and encode is not None
        run = training(profile, model, folder, encode, whole=not of_the_hub)
        prove(model, run)
        workers.execute_all([run])
        print(f"question: {QUESTION}")
        for name, where in (("before", folder), (f"after {STEPS} steps", run.model)):
            print(f"{name}: {answer(where, encode or tokenizer.load(), QUESTION)}")
    print(f"done in {outcomes.duration(time.monotonic() - began)}")


def main(arguments: list[str] | None = None) -> int:
    """Smoke-test a profile from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m longalign.reproduction.smoke", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    try:
        smoke(load_profile(parser.parse_args(arguments).profile))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"longalign.reproduction.smoke: {error}", file=sys.stderr)
        return outcomes.EXIT_STATUS[outcomes.REFUSED]
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
