"""A model in this process that is asked as a server is: greedy answers (argmax), the same every time.

What else the model's generation_config.json asks for is ignored and told (`longalign.clients.generation`). A system
message of which its chat template makes nothing, or an error, begins the user's message.
"""

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from longalign.clients.errors import Refused
from longalign.clients.generation import end_tokens, forget_foreign_windows, tell_ignored
from longalign.clients.reply_store import Reply, Request
from longalign.clients.thoughts import LONGEST_MARK, is_mark, opened_by, split
from longalign.common import provenance, weight_files
from longalign.data import tokenizers
from longalign.data.chat import encode_prompt, tokenizer_hash
from longalign.data.chat_formats import format_of, takes_system
from longalign.data.jsonl import DataError
from longalign.data.store_tokenizer import another_word
from longalign.recipe.architectures import unrun_code, why_not_causal
from longalign.train import saved, store_check
from longalign.train.models import NO_LANGUAGE_MODEL, UNREADABLE, device, reason


class LocalModel:
    """The model and tokenizer of a folder or Hub name, with transformers' own attention; no remote code is run.

    `model` is its identity, by weights, tokenizer and settings of generation; `window` the tokens that it may read and
    write. A folder without a tokenizer is refused, unless it is a miniature's: as large a vocabulary with the same end
    token; `borrowed` says so, but of the committed bases. Raises ValueError for what cannot be loaded, for a window
    over the model's table of positions, and, whenever it computes, for outputs that are no numbers.
    """

    def __init__(self, name: str, *, tokenizer: str = "", window: int | None = None) -> None:
        self.name, self._alone, self._told = name, threading.Lock(), False
        _check_folder(name)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            weight_files.check(name)
            loaded, told = AutoModelForCausalLM.from_pretrained(
                name, dtype="auto", trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
            )  # fmt: skip
            saved.told_whole(told, name, loaded)
        except (*UNREADABLE, RuntimeError) as error:
            what = "cannot be loaded" if Path(name).is_dir() else "no such folder, and no model of the Hub came"
            raise ValueError(f"--model {name}: {what}: {_reason(error)}") from None
        if told := why_not_causal(loaded):
            raise ValueError(f"--model {name}: {told}")
        self.loaded = loaded.to(device()).eval()
        self.tokenizer = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(name, loaded.config)
        if tokenizer:
            _check_words(name, tokenizer, self.tokenizer)
        is_base = (Path(name) / "record.json").is_file()  # of the committed ones, which are known to be miniatures
        self.borrowed = not tokenizer and not is_base and _without_tokenizer(name)
        made = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
        self.window = window or made
        if self.window is None:
            raise ValueError(f"--model {name}: its configuration names no number of tokens: give --window")
        if (table := store_check.positions(loaded)) is not None and self.window > table:
            raise ValueError(f"--model {name}: it has a table of {table:,} positions, and the window is "
                             f"{self.window:,}: give --window {table} at most")  # fmt: skip
        if made and self.window > made:
            print(f"longalign: --window {self.window}: {name} was made for {made:,} positions and may not have learnt "
                  "what to do beyond them", file=sys.stderr, flush=True)  # fmt: skip
        if told := unrun_code(loaded):
            print(f"longalign: {told}", file=sys.stderr, flush=True)
        self.ends = end_tokens(loaded, self.tokenizer)
        self.takes_system = takes_system(self.tokenizer)
        tell_ignored(loaded)
        self.model = self._identity()
        forget_foreign_windows(loaded)
        loaded.generation_config = GenerationConfig()  # `generate` follows whatever stands there
        loaded.register_forward_hook(self._check_numbers)

    @torch.no_grad()
    def ask(self, request: Request) -> Reply:
        """The most probable tokens after the messages, up to the end token, `max_tokens` of them or the window's end.

        Raises `Refused` for messages that fill the window, and for those that its chat template refuses.
        """
        try:
            with self._alone:
                return self._ask(request)
        except DataError as error:
            raise Refused(f"{self.name} cannot be asked this: {error}") from None

    def _ask(self, request: Request) -> Reply:
        check_template(self.tokenizer, self.name)
        ids = encode_prompt(self._messages(request), self.tokenizer)
        prompt = torch.from_numpy(ids).long()[None].to(self.loaded.device)
        room = min(request.max_tokens, self.window - prompt.shape[1])
        if int(prompt.max()) >= (known := self.loaded.get_input_embeddings().num_embeddings):
            raise Refused(f"token {int(prompt.max())} of its tokenizer is none of the {known:,} that {self.name} knows")
        if room < 1:
            raise Refused(f"a prompt of {prompt.shape[1]:,} tokens leaves no room for a reply: {self.name} reads "
                          f"{self.window:,}")  # fmt: skip
        written = self.loaded.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=room, do_sample=False,
            use_cache=True, eos_token_id=self.ends, pad_token_id=self.tokenizer.pad_token_id or self.ends[0],
        )[0, prompt.shape[1] :].tolist()  # fmt: skip
        ended = bool(written) and written[-1] in self.ends
        opened = opened_by(self.tokenizer.decode(prompt[0, -LONGEST_MARK:]))
        text = opened + self._decoded(written[:-1] if ended else written).strip()
        return Reply(text, "stop" if ended else "length", prompt.shape[1], len(written))

    def _messages(self, request: Request) -> Sequence[Mapping[str, str]]:
        """The messages; a system message begins the user's where the chat template has no place for one, told once."""
        first, *others = request.messages
        if first["role"] != "system" or self.takes_system or not others:
            return request.messages
        if not self._told:
            self._told = True
            print(f"longalign: the chat template of {self.name} takes no system message: its text begins the user's "
                  "message", file=sys.stderr, flush=True)  # fmt: skip
        return [{**others[0], "content": f"{first['content']}\n\n{others[0]['content']}"}, *others[1:]]

    def _check_numbers(self, model: Any, inputs: Any, outputs: Any) -> None:
        """Of NaN and infinity the first token would be the most likely one, and no score would show it; minus infinity
        leaves a token out, as some models do."""
        if not (outputs.logits < float("inf")).all():
            raise ValueError(
                f"{self.name}: its outputs are no numbers (NaN or infinite), computed in {outputs.logits.dtype}: check "
                "its weights; where they are right, save it in float32, which does not overflow"
            )

    def _decoded(self, ids: list[int]) -> str:
        """The text without special tokens; marks of thoughts stay, which are special tokens in some models."""
        added = {token: str(word) for token, word in self.tokenizer.added_tokens_decoder.items() if word.special}
        special = added | dict(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True))
        if any(is_mark(special.get(token, "")) for token in ids):
            told = self.tokenizer.decode([token for token in ids if token not in special or is_mark(special[token])])
            if split(told).thoughts:
                return told
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _identity(self) -> str:
        """What its answers depend on: weights, settings of generation, tokenizer, the tokens that end an answer."""
        name = self.name
        weights = provenance.hash_model(name) if Path(name).is_dir() else f"{name}@{self.loaded.config._commit_hash}"
        how = {"tokenizer": tokenizer_hash(self.tokenizer), "ends": self.ends}
        how |= {} if self.takes_system else {"system message": "in the user's"}
        return provenance.config_hash({"weights": weights, **how})


def check_loadable(name: str) -> None:
    """Raises ValueError for a folder that no `LocalModel` can be made of, as far as its small files tell."""
    _check_folder(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (*UNREADABLE, RuntimeError) as error:
        raise ValueError(f"--model {name}: cannot be loaded: {_reason(error)}") from None
    check_template(load_tokenizer(name, config), name)


def load_tokenizer(name: str, config: Any = None) -> Any:
    """The tokenizer of a folder or Hub name; the miniature's, where a folder has none and holds a miniature.

    `config` is the configuration of the model in the folder: a miniature's has that vocabulary and that end token.
    Raises ValueError where there is none, naming what can be done (`longalign.data.tokenizers.load`).
    """
    if _without_tokenizer(name) and config is not None:
        own, config = tokenizers.load(tokenizers.MINIATURE), config.get_text_config()
        if (config.vocab_size, config.eos_token_id) == (len(own), own.eos_token_id):
            return own
    return tokenizers.load(name)


def check_template(tokenizer: Any, name: str) -> None:
    """Raises ValueError for a tokenizer that cannot write a question; `name` is where it lies."""
    if format_of(tokenizer) == "template" and not tokenizer.chat_template:  # LongAlign's own formats need none
        raise ValueError(f"{name}: its tokenizer has no chat template, in which a model is asked: save the template of "
                         "its training there (chat_template.jinja)")  # fmt: skip


def _without_tokenizer(name: str) -> bool:
    return Path(name).is_dir() and not tokenizers.holds_tokenizer(Path(name))


def _check_words(name: str, tokenizer: str, used: Any) -> None:
    """Raises ValueError for a tokenizer in which an id is another word than in the model's own."""
    if Path(name).is_dir() and tokenizers.holds_tokenizer(Path(name)):
        if found := another_word(used, tokenizers.load(name)):
            number, word, there = found
            raise ValueError(f"--tokenizer {tokenizer}: token {number} is {word!r} there, and {there!r} in the model's "
                             f"own, in {name}: leave --tokenizer out")  # fmt: skip


def _reason(error: Exception) -> str:
    if str(error).startswith("Unrecognized configuration class"):
        return NO_LANGUAGE_MODEL
    return reason(error)


def _check_folder(name: str) -> None:
    if Path(name).is_file():
        raise ValueError(f"--model {name}: it is a file; name the folder of the model")
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"--model {name}: there is no such folder")
    if (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"--model {name}: it holds an adapter alone; name the folder of a model with the adapter "
                         "merged into it (of a training by longalign, the folder above)")  # fmt: skip
    settings = Path(name) / "generation_config.json"  # transformers passes over one that it cannot read, end tokens too
    try:
        if settings.is_file() and not isinstance(json.loads(settings.read_bytes()), dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ValueError(f"{settings}: it is not valid JSON ({error}): correct it, or remove it") from None
