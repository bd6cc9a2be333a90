"""Where the models of a profile start, and their tokenizers: the committed short bases, or what was fetched.

The miniatures share a tokenizer, which nothing has to be read for; a model from elsewhere brings its own, and texts are
written, measured and scored in it. The price: models of other tokenizers have token stores of their own.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from longalign import paths
from longalign.models import MINIATURES
from longalign.profiles import Profile


def short_base(profile: Profile, model: str) -> Path:
    """The folder of a model as it is before its context is extended; a source is fetched where it is missing.

    >>> from longalign.profiles import load_profile
    >>> short_base(load_profile("smoke"), "mini-6b").name
    'mini-6b'
    """
    if model in MINIATURES:
        return paths.bases() / model
    from longalign.fetching.sources import fetch

    return fetch(next(source for source in profile.sources if source.name == model))


def about(profile: Profile, model: str) -> dict[str, Any]:
    """What is known of a short base: how it was trained (`stages`), or where it was fetched from."""
    name = "record.json" if model in MINIATURES else "source.json"
    return json.loads((short_base(profile, model) / name).read_text(encoding="utf-8"))


def tokenizer_folder(profile: Profile, model: str) -> str:
    """The folder of a model's tokenizer; "" for the miniatures'."""
    return "" if model in MINIATURES else str(short_base(profile, model))


def encode(profile: Profile, model: str) -> Any:
    """A model's tokenizer as the data construction and the evaluations take it; None is the miniatures'.

    Raises ValueError for one that cannot be loaded or has no chat template.
    """
    folder = tokenizer_folder(profile, model)
    return _load(folder) if folder else None


@cache
def _load(folder: str) -> Any:
    from transformers import AutoTokenizer

    where = paths.relative(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise ValueError(f"{where}: its tokenizer has no chat template, which samples are written by")
    return tokenizer
