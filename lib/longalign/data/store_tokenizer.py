"""The tokenizer that a token store was made with: the model must share its vocabulary, and what is trained keeps it.

A store names its tokenizer and holds the hash of it, not the tokenizer itself: where that is gone or was changed since,
a line says that nothing could be compared, and the trained model gets the tokenizer of the model that it started as.
"""

import contextlib
import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from longalign.common import provenance
from longalign.data import tokenizers
from longalign.data.chat import end_of_answers, tokenizer_hash

BESIDE = ("special_tokens_map.json", "added_tokens.json", "chat_template*")
"""Files of a tokenizer beside those of `longalign.data.tokenizers.FILES`."""
SETTINGS = "generation_config.json"


def load(manifest: Mapping[str, Any], model: Path | str = "") -> Any:
    """The tokenizer of the store with this manifest, where the manifest says that it lies, or else in the folder
    `model`; None where the manifest names none, and where it is in neither as it was."""
    if manifest.get("tokenizer_sha256") is None:
        return None
    own = [str(model)] if model and tokenizers.holds_tokenizer(Path(model)) else []
    for name in (manifest.get("tokenizer", tokenizers.MINIATURE), *own):
        with contextlib.suppress(ValueError):
            if (found := _as_it_was(tokenizers.load(name), manifest)) is not None:
                return found
    return None


def _as_it_was(found: Any, manifest: Mapping[str, Any]) -> Any:
    """The tokenizer, writing conversations as the store has them; None where it is not that of the store."""
    made_with, chat_format = manifest["tokenizer_sha256"], manifest.get("chat_format", "template")
    same = tokenizer_hash(found) == made_with
    if chat_format != "template":
        found = copy.deepcopy(found)  # the miniature's is everybody's
        found.init_kwargs["chat_format"] = chat_format  # what is saved writes conversations as the store did
    return found if same or tokenizer_hash(found) == made_with else None


def compare(manifest: Mapping[str, Any], model: Path | str) -> list[str]:
    """What ought to be known of a store's ids and the tokenizer in a model's folder; nothing where they agree.

    Raises ValueError where an id is one word in the store and another in the model, and where the tokenizer is gone
    with which the trained model would be asked in the store's own chat format. Tokens that were added to a vocabulary
    may differ: they are put to uses of one's own.
    """
    if not tokenizers.holds_tokenizer(Path(model)):
        return []
    try:
        own = tokenizers.load(str(model))
    except ValueError as error:
        return [f"whether the store's ids are those of the tokenizer in {model} could not be seen: {error}"]
    if tokenizer_hash(own) == manifest.get("tokenizer_sha256"):
        return []
    if (used := load(manifest, model)) is None:
        name = f" ({manifest['tokenizer']})" if "tokenizer" in manifest else ""
        told = f"the tokenizer that made the store{name} is not there, or not as it was"
        if (chat_format := manifest.get("chat_format", "template")) != "template":
            raise ValueError(f"{told}, and the store has the chat format {chat_format}, in which the trained model "
                             f"could not be asked without it: put it back, or tokenize with --tokenizer {model}")
        return [f"whether the store's ids are those of the tokenizer in {model} could not be seen: {told}; what is "
                "trained gets the model's own tokenizer and chat template"]  # fmt: skip
    if found := another_word(used, own):
        number, word, there = found
        raise ValueError(
            f"the store was made with the tokenizer {manifest.get('tokenizer', tokenizers.MINIATURE)}, in which token "
            f"{number} is {word!r}; in the model's own, in {model}, it is {there!r}: tokenize with --tokenizer {model}"
        )
    return []


def check_kept(manifest: Mapping[str, Any], start: str, config: Any) -> None:
    """Raises ValueError where the folder of a model with this configuration, trained from the folder `start`, could not
    keep the store's tokenizer: beside some configurations, such as Qwen2's, transformers reads any tokenizer as one of
    a class that cuts words in its own way."""
    if (used := load(manifest, start)) is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        used.save_pretrained(folder)
        kept = tokenizers.load(folder)
    if _way_of(kept) != _way_of(used):
        raise ValueError(
            f"the store was made with the tokenizer {manifest.get('tokenizer', tokenizers.MINIATURE)}, which the "
            f"trained model could not be asked with: beside a config.json of the type {config.model_type} transformers "
            f"makes it a {type(kept).__name__} that writes other tokens; put its files into {start}, and tokenize with "
            f"--tokenizer {start}"
        )


def _way_of(tokenizer: Any) -> Any:
    """What decides which tokens a tokenizer writes for a text, and which text for tokens."""
    if not getattr(tokenizer, "is_fast", False):
        return tokenizer.get_vocab()
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    added = sorted(told["added_tokens"], key=lambda token: token["id"])
    return [told[part] for part in ("normalizer", "pre_tokenizer", "model", "decoder")] + [added]


def another_word(used: Any, own: Any) -> tuple[int, str, str] | None:
    """The first id that is one word in a tokenizer and another in a model's own, with both words; None without any."""
    added = {*own.get_added_vocab(), *used.get_added_vocab()}
    words = {number: word for word, number in own.get_vocab().items()}
    for word, number in sorted(used.get_vocab().items(), key=lambda item: item[1]):
        there = words.get(number, word)
        if there != word and not {there, word} & added:
            return number, word, there
    return None


def write(manifest: Mapping[str, Any], start: str, folder: Path) -> None:
    """Put the store's tokenizer into the folder of a model that was trained on it, or else that of the folder `start`;
    nothing where neither is there.

    With the store's tokenizer, the folder's generation_config.json, where it has one, names the token behind the
    store's answers, too: a base model names the end of a text alone, and whoever generates with transformers or a
    server would never see an end.
    """
    if (used := load(manifest, start)) is not None:
        used.save_pretrained(folder)
        _name_end(used, folder / SETTINGS)
    elif start and tokenizers.holds_tokenizer(Path(start)):
        for file in (file for pattern in (*tokenizers.FILES, *BESIDE) for file in Path(start).glob(pattern)):
            shutil.copy(file, folder)


def is_in(used: Any, folder: Path) -> bool:
    """Whether the tokenizer in the folder of a trained model is the one that its store was made with (`load`)."""
    return tokenizer_hash(used) == tokenizer_hash(tokenizers.load(str(folder)))


def is_its_file(name: str) -> bool:
    """Whether `write` may write a file of this name into a model's folder."""
    return any(fnmatch(Path(name).name, pattern) for pattern in (*tokenizers.FILES, *BESIDE, SETTINGS))


def _name_end(tokenizer: Any, settings: Path) -> None:
    end = end_of_answers(tokenizer)
    if end is None or not settings.is_file():
        return
    told = json.loads(settings.read_text(encoding="utf-8"))
    named = told.get("eos_token_id")
    several = named if isinstance(named, list) else [token for token in (named,) if token is not None]
    if end not in several:
        told["eos_token_id"] = [*several, end] if several else end
        provenance.write_json(settings, told)
