"""Tokenizers by name: a folder, a name on the Hub, or "miniature", this package's own; no code of theirs is run.

A folder without a tokenizer is refused: no other stands in for it.
"""

import threading
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

MINIATURE = "miniature"
BUILT_IN = {MINIATURE: "longalign.miniature.tokenizer:load"}
"""Tokenizers that are made and not loaded, by what makes them: named, not imported, since data knows no miniature."""
FILES = ("tokenizer*", "vocab.*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")
"""What a folder of a tokenizer has one of at least."""
ONE_AT_A_TIME = threading.Lock()
"""For threads that share a tokenizer: it keeps what was asked of it, such as that special tokens in a text stay text,
for whoever asks next."""


def load(name: str) -> Any:
    """The tokenizer that is named so.

    Raises ValueError where there is none, in one sentence that says what can be done.

    >>> load("miniature").tokenize("Marlow guards")
    [' Marlow', ' guards']
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    if name in BUILT_IN and not folder.is_dir():
        return resolve_name(BUILT_IN[name])()
    if folder.is_dir():
        check_folder(folder)
    elif folder.is_file():
        raise ValueError(f"--tokenizer {name}: it is a file; name the folder of the tokenizer")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"--tokenizer {name}: there is no such folder")
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # what is in a file may make any (that of Rust is an Exception)
        raise ValueError(f"--tokenizer {name}: cannot be loaded: {reason(error)}") from None


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder that holds no tokenizer."""
    if not holds_tokenizer(folder):
        raise ValueError(
            f"{folder} holds no tokenizer: name one with --tokenizer ({MINIATURE} is this package's own small one)"
        )


def holds_tokenizer(folder: Path) -> bool:
    """Whether a file in a folder may be of a tokenizer."""
    return any(path.is_file() for pattern in FILES for path in folder.glob(pattern))


def reason(error: Exception) -> str:
    """What a library says of something that it cannot load, in a sentence."""
    if "custom code" in str(error):
        return "it comes with code of its own, which is not run here: take one that transformers has a class for"
    return " ".join(str(error).split())[:300]
