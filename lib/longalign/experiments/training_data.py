"""The data of a profile, on the disk: training suites, documents of the context extension, benchmarks' items.

Suites are generated, or drawn from the released data sets where the profile names them as sources. All is built where
it is missing, in the tokens of the model that reads it. The price: every setting, tokenizer and code has its own copy.
"""

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
from longalign.experiments.profiles import Profile
from longalign.fetch.source import Source
from longalign.miniature import benchmarks, released_sets, training_sets
from longalign.miniature.pretraining import MAX_LENGTH
from longalign.miniature.settings import Extension
from longalign.miniature.token_length import count_with

CODE = ("miniature.training_sets.suite_store", "miniature.training_sets.documents_store")
RECALL_SHARE = 0.25  # of the documents of the context extension


def data_folder(profile: Profile) -> Path:
    """Where a profile's JSONL files and token stores lie: a folder of its own for every corpus, setting and code."""
    settings = {name: profile.as_dict()[name] for name in ("corpus", "extension")}
    code = CODE
    if uses_released_data(profile):
        settings["sources"] = [_identity(profile, source) for source in profile.sources if source.kind == "data"]
        code += ("miniature.released_sets.suite",)
    settings |= {"code": source_hash(*code, without=WITHOUT), "shortest": MAX_LENGTH, "recall_share": RECALL_SHARE}
    key = provenance.config_hash(settings)
    return paths.run_dir(profile.name) / "data" / key


def _identity(profile: Profile, source: Source) -> dict[str, Any]:
    """A data set as it is known: the profile's commit of it, or the one that was fetched."""
    from longalign.fetch.hub import commit_of

    return asdict(source) | {"revision": source.revision or commit_of(base_models.data(profile, source.name))}


def uses_released_data(profile: Profile) -> bool:
    """Whether the profile trains on data sets that it names as sources, and not on generated ones."""
    return any(source.kind == "data" for source in profile.sources)


def suite_store(profile: Profile, name: str, *, seed: int = 0, model: str = "") -> TokenStore:
    """A training suite as token store, as `seed` draws it, for a model (the profile's first), built where missing.

    Raises ValueError when the profile names data sets, but none that the suite needs.
    """
    corpus, model = replace(profile.corpus, seed=profile.corpus.seed + seed), model or profile.models[0]
    place, encode = _data_of(profile, model) / f"seed-{seed}", base_models.encode(profile, model)
    if not uses_released_data(profile):
        return training_sets.suite_store(name, corpus, place, encode=encode)
    return training_sets.rows_store(
        place / name, lambda: released_sets.suite(name, corpus, partial(base_models.data, profile)),
        max_length=corpus.max_length, encode=encode, skip_invalid=True,
    )  # fmt: skip


def extension_store(profile: Profile, model: str, name: str, settings: Extension, *, base: int = 0) -> TokenStore:
    """The documents of a context extension by these settings, in the tokens of a model, built where missing: others for
    every number of a base."""
    return training_sets.documents_store(
        "extension", _data_of(profile, model) / name, tokens=settings.tokens, encode=base_models.encode(profile, model),
        lengths=(min(MAX_LENGTH, settings.max_length), settings.max_length), recall_share=RECALL_SHARE,
        seed=profile.corpus.seed + base,
    )  # fmt: skip


def benchmark_folder(profile: Profile) -> Path:
    """The items of every benchmark as JSONL, in tokens of the profile's first model, built where they are missing."""
    settings = {"evaluation": profile.as_dict()["evaluation"], "window": profile.corpus.max_length}
    if (encode := base_models.encode(profile, profile.models[0])) is not None:
        settings["tokenizer"] = tokenizer_hash(encode)
    code = source_hash("miniature.benchmarks.items", "miniature.training_sets.write_jsonl", without=WITHOUT)
    key = provenance.config_hash({**settings, "code": code})
    folder = paths.run_dir(profile.name) / "benchmarks" / key
    for name in benchmarks.BENCHMARKS:
        if not (folder / f"{name}.jsonl").is_file():
            items = benchmarks.items(name, profile.evaluation, window=profile.corpus.max_length)
            # a short item is short in words: 128 tokens of another tokenizer may not hold a question with its options
            with count_with(None if name == "short" else encode):
                training_sets.write_jsonl(folder / f"{name}.jsonl", items)
    return folder


def _data_of(profile: Profile, model: str) -> Path:
    encode = base_models.encode(profile, model)
    return data_folder(profile) / ("" if encode is None else f"{model}-{tokenizer_hash(encode)[:16]}")
