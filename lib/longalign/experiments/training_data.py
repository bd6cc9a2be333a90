"""The data of a profile, on the disk: training suites, documents of the context extension, benchmarks' items.

Suites are generated, or drawn from the released data sets where the profile names them as sources. All is built where
it is missing, in the tokens of the model that reads it (`longalign.experiments.base_models.Start`). Every setting,
tokenizer and code has a copy of its own.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from longalign.common import paths, provenance
from longalign.common.source_hash import source_hash
from longalign.data.chat import tokenizer_hash
from longalign.data.store import TokenStore
from longalign.data.tokenize_files import WITHOUT
from longalign.experiments import base_models
from longalign.experiments.base_models import Start
from longalign.experiments.profiles import Profile
from longalign.fetch.source import Source
from longalign.miniature import benchmarks, released_sets, training_sets
from longalign.miniature.pretraining import MAX_LENGTH
from longalign.miniature.settings import Extension
from longalign.miniature.token_length import count_with

CODE = ("miniature.training_sets.suite_store", "miniature.training_sets.documents_store")
RECALL_SHARE = 0.25  # of the documents of the context extension


def data_folder(start: Start) -> Path:
    """Where JSONL files and token stores for a model lie: a folder of its own for every corpus, setting, tokenizer and
    code."""
    profile, code = start.profile, CODE
    settings = {name: profile.as_dict()[name] for name in ("corpus", "extension")}
    if named := released(profile):
        settings["sources"] = [_identity(source) for source in named.values()]
        code += ("miniature.released_sets.suite",)
    settings |= {"code": source_hash(*code, without=WITHOUT), "shortest": MAX_LENGTH, "recall_share": RECALL_SHARE}
    folder = paths.run_dir(profile.name) / "data" / provenance.config_hash(settings)
    return folder if start.encode is None else folder / f"{start.model}-{tokenizer_hash(start.encode)[:16]}"


def suite_store(start: Start, name: str, *, seed: int = 0) -> TokenStore:
    """A training suite as token store, as `seed` draws it, in the tokens of a model, built where it is missing.

    Raises ValueError when the profile names data sets, but none that the suite needs.
    """
    profile = start.profile
    corpus, place = replace(profile.corpus, seed=profile.corpus.seed + seed), data_folder(start) / f"seed-{seed}"
    if not released(profile):
        return training_sets.suite_store(name, corpus, place, encode=start.encode)
    return training_sets.rows_store(
        place / name, lambda: released_sets.suite(name, corpus, partial(_fetched, profile)),
        max_length=corpus.max_length, encode=start.encode, skip_invalid=True,
    )  # fmt: skip


def extension_store(start: Start, name: str, settings: Extension) -> TokenStore:
    """The documents of a context extension by these settings, in the tokens of a model, built where missing: others for
    each of its bases."""
    return training_sets.documents_store(
        "extension", data_folder(start) / name, tokens=settings.tokens, encode=start.encode,
        lengths=(min(MAX_LENGTH, settings.max_length), settings.max_length), recall_share=RECALL_SHARE,
        seed=start.profile.corpus.seed + start.base, memory_share=settings.memory_share,
    )  # fmt: skip


def benchmark_folder(profile: Profile, names: Iterable[str] = ()) -> Path:
    """The items of every benchmark as JSONL, in tokens of the profile's first model, built where they are missing.

    `names` may ask for benchmarks that later papers' claims need.
    """
    settings = {"evaluation": profile.as_dict()["evaluation"], "window": profile.corpus.max_length}
    if (encode := base_models.first(profile).encode) is not None:
        settings["tokenizer"] = tokenizer_hash(encode)
    code = source_hash("miniature.benchmarks.items", "miniature.training_sets.write_jsonl", without=WITHOUT)
    key = provenance.config_hash({**settings, "code": code})
    folder = paths.run_dir(profile.name) / "benchmarks" / key
    for name in (*benchmarks.BENCHMARKS, *(name for name in benchmarks.OF_LATER_PAPERS if name in names)):
        if not (folder / f"{name}.jsonl").is_file():
            items = benchmarks.items(name, profile.evaluation, window=profile.corpus.max_length)
            # a short item is short in words: 128 tokens of another tokenizer may not hold a question with its options
            with count_with(None if name == "short" else encode):
                training_sets.write_jsonl(folder / f"{name}.jsonl", items)
    return folder


def released(profile: Profile) -> dict[str, Source]:
    """The data sets that the profile names as sources, to be trained on in place of generated ones."""
    return {source.name: source for source in profile.sources if source.kind == "data"}


def _fetched(profile: Profile, name: str) -> Path:
    """The folder of a data set that the profile names, fetched where it is missing. Raises ValueError for another."""
    from longalign.fetch.fetching import fetch

    named = released(profile)
    if name not in named:
        known = ", ".join(named)
        raise ValueError(f"profile {profile.name}: sources name {known}, and not {name}, which is needed")
    return fetch(named[name])


def _identity(source: Source) -> dict[str, Any]:
    """A data set as it is known: the profile's commit of it, or the one that was fetched."""
    from longalign.fetch.fetching import fetch
    from longalign.fetch.hub import commit_of

    return asdict(source) | {"revision": source.revision or commit_of(fetch(source))}
