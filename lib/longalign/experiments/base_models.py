"""Where the models of a profile start: the committed short bases, or what was fetched, each with its tokenizer.

The miniatures share a tokenizer, which nothing has to be read for; a model from elsewhere brings its own, and texts are
written, measured and scored in it.
"""

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from longalign.common import paths
from longalign.data import tokenizers
from longalign.data.chat_formats import format_of
from longalign.experiments.profiles import Profile
from longalign.fetch.source import Source
from longalign.miniature.settings import folder_name


@dataclass(frozen=True)
class Start:
    """A model of a profile as it is before its context is extended: its folder and its tokenizer, read when asked for.

    Made once for each model of an experiment, and passed on; `longalign.experiments.training_data` has its data. A
    miniature may have several bases, of which this is number `base`; each read documents of its own.

    >>> from longalign.experiments.profiles import load_profile
    >>> Start(load_profile("smoke"), "mini-6b").folder.name
    'mini-6b'
    """

    profile: Profile
    model: str
    base: int = 0

    @property
    def count(self) -> int:
        """How many bases the model has; a model from elsewhere is one."""
        from longalign.miniature.pretraining import RECIPES  # with torch, which few who ask for a start need

        return 1 if self.source else len(RECIPES[self.model].seeds)

    def of(self, seed: int) -> "Start":
        """The base that an arm with this seed starts from: number seed modulo `count`.

        So every seed is another draw of the data *and*, in turn, of the base, and no arm is trained more often for it.
        Of the variance of a mean over n seeds and B bases (B divides n) the bases' share is Var(base) / B, as if each
        base met every seed, and the seeds' is Var(seed) / n, where a crossed design of as many trainings has n / B
        seeds: the nested one is never worse. Three seeds are three independent draws; of more seeds, those of one base
        are a cluster, and a number of seeds that B divides weighs all bases alike.
        """
        return replace(self, base=seed % self.count)

    def rate(self, learning_rate: float) -> float:
        """A learning rate of the profile as this model has it, where the profile lets rates fall with the width.

        >>> Start(Profile(name="laptop", rate_width=96), "mini-13b").rate(4e-3)
        0.003
        """
        if not self.profile.rate_width:
            return learning_rate
        from longalign.miniature.pretraining import shape_of

        return learning_rate * self.profile.rate_width / shape_of(self.model).hidden_size

    @property
    def source(self) -> Source | None:
        """Where it comes from; None for a miniature, whose short base is committed."""
        return next((source for source in self.profile.sources if source.name == self.model), None)

    @cached_property
    def folder(self) -> Path:
        """Where the model lies; a source is fetched where it is missing."""
        if self.source is None:
            return paths.bases() / folder_name(self.model, self.base)
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
