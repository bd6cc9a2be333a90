"""Where the models of a profile start, and their tokenizers: the committed short bases, or what was fetched.

The miniatures share a tokenizer, which nothing has to be read for; a model from elsewhere brings its own, and texts are
written, measured and scored in it. The price: models of other tokenizers have token stores of their own.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from longalign.common import paths
from longalign.data import tokenizers
from longalign.data.chat_formats import format_of
from longalign.experiments.profiles import Profile
from longalign.fetch.source import Source
from longalign.miniature.pretraining import RECIPES, folder_name, shape_of
from longalign.train.models import MINIATURES


def base_of(model: str, seed: int) -> int:
    """The number of the base that an arm with this seed starts from: the seed modulo the number of a model's bases.

    So every seed is another draw of the data *and*, in turn, of the base, and no arm is trained more often for it. Of
    the variance of a mean over n seeds and B bases (B divides n) the bases' share is Var(base) / B, as if each base met
    every seed, and the seeds' is Var(seed) / n, where a crossed design of as many trainings has n / B seeds: the nested
    one is never worse. Three seeds are three independent draws; of more seeds, those of one base are a cluster, and a
    number of seeds that B divides weighs all bases alike.

    >>> [base_of("smollm2-135m", seed) for seed in range(4)]
    [0, 0, 0, 0]
    """
    return seed % len(numbers(model))


def numbers(model: str) -> range:
    """The numbers of a model's bases; a model from elsewhere is one."""
    return range(RECIPES[model].count if model in MINIATURES else 1)


def rate_of(profile: Profile, model: str, learning_rate: float) -> float:
    """A learning rate of the profile as a model has it, where the profile lets rates fall with the width.

    >>> rate_of(Profile(name="laptop", rate_width=96), "mini-13b", 4e-3)
    0.003
    """
    return learning_rate * profile.rate_width / shape_of(model).hidden_size if profile.rate_width else learning_rate


def short_base(profile: Profile, model: str, base: int = 0) -> Path:
    """The folder of a model as it is before its context is extended; a source is fetched where it is missing. A
    miniature may have several, `base` is the number of one (`base_of`).

    >>> from longalign.experiments.profiles import load_profile
    >>> short_base(load_profile("smoke"), "mini-6b").name
    'mini-6b'
    """
    if model in MINIATURES:
        return paths.bases() / folder_name(model, base)
    from longalign.fetch.fetching import fetch

    return fetch(_source(profile, model))


def data(profile: Profile, name: str) -> Path:
    """The folder of a data set that the profile names, fetched where it is missing. Raises ValueError for another."""
    from longalign.fetch.fetching import fetch

    found = [source for source in profile.sources if (source.name, source.kind) == (name, "data")]
    if not found:
        known = ", ".join(source.name for source in profile.sources if source.kind == "data")
        raise ValueError(f"profile {profile.name}: sources name {known or 'no data'}, and not {name}, which is needed")
    return fetch(found[0])


def about(profile: Profile, model: str) -> dict[str, Any]:
    """What is known of a short base: how it was trained (`stages`), or where it was fetched from."""
    name = "record.json" if model in MINIATURES else "source.json"
    return json.loads((short_base(profile, model) / name).read_text(encoding="utf-8"))


def tokenizer_of(profile: Profile, model: str) -> dict[str, str]:
    """Which tokenizer a model has, as `load_tokenizer` and evaluations take it; empty for the miniatures'."""
    if model in MINIATURES:
        return {}
    return {"tokenizer": str(short_base(profile, model)), "chat_format": _source(profile, model).chat_format}


def encode(profile: Profile, model: str) -> Any:
    """A model's tokenizer as the data construction and the evaluations take it; None is the miniatures'.

    Raises ValueError for one that cannot be loaded, or of which is not known how it writes conversations.
    """
    named = tokenizer_of(profile, model)
    return load_tokenizer(**named) if named else None


@cache
def load_tokenizer(tokenizer: str, chat_format: str = "") -> Any:
    """The tokenizer in a folder, which writes conversations in `chat_format`, or by default as it says itself."""
    from transformers import AutoTokenizer

    where = paths.relative(tokenizer)
    if Path(tokenizer).is_dir():
        tokenizers.check_folder(Path(tokenizer))
    try:
        loaded = AutoTokenizer.from_pretrained(
            tokenizer, trust_remote_code=False, **({"chat_format": chat_format} if chat_format else {})
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: its tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if format_of(loaded) == "template" and not loaded.chat_template:
        raise ValueError(f"{where}: its tokenizer has no chat template, which samples are written by: give its source "
                         "a chat_format")  # fmt: skip
    return loaded


def _source(profile: Profile, model: str) -> Source:
    return next(source for source in profile.sources if source.name == model)
