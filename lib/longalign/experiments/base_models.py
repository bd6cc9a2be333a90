"""Where the models of a profile start: the committed short bases, or what was fetched, each with its tokenizer.

The miniatures share a tokenizer, which nothing has to be read for; a model from elsewhere brings its own, and texts are
written, measured and scored in it.
"""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from longalign.common import paths
from longalign.data import tokenizers
from longalign.data.chat_formats import format_of
from longalign.experiments.profiles import Profile
from longalign.fetch.source import Source


@dataclass(frozen=True)
class Start:
    """A model of a profile as it is before its context is extended: its folder and its tokenizer, read when asked for.

    Made once for each model of an experiment, and passed on; `longalign.experiments.training_data` has its data.

    >>> from longalign.experiments.profiles import load_profile
    >>> Start(load_profile("smoke"), "mini-6b").folder.name
    'mini-6b'
    """

    profile: Profile
    model: str

    @property
    def source(self) -> Source | None:
        """Where it comes from; None for a miniature, whose short base is committed."""
        return next((source for source in self.profile.sources if source.name == self.model), None)

    @cached_property
    def folder(self) -> Path:
        """Where the model lies; a source is fetched where it is missing."""
        if self.source is None:
            return paths.bases() / self.model
        from longalign.fetch.fetching import fetch

        return fetch(self.source)

    @property
    def tokenizer(self) -> dict[str, str]:
        """Which tokenizer it has, as `load_tokenizer` and evaluations take it; empty for the miniatures'."""
        return {"tokenizer": str(self.folder), "chat_format": self.source.chat_format} if self.source else {}

    @cached_property
    def encode(self) -> Any:
        """Its tokenizer as the data construction and the evaluations take it; None is the miniatures'.

        Raises ValueError for one that cannot be loaded, or of which is not known how it writes conversations.
        """
        return load_tokenizer(**self.tokenizer) if self.tokenizer else None

    def about(self) -> dict[str, Any]:
        """What is known of it: how it was trained (`stages`), or where it was fetched from."""
        name = "source.json" if self.source else "record.json"
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def starts(profile: Profile) -> list[Start]:
    """All of the profile's models, in its order."""
    return [Start(profile, model) for model in profile.models]


def first(profile: Profile) -> Start:
    """The profile's first model, which most experiments are done with."""
    return Start(profile, profile.models[0])


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
