"""A model in this process that is asked as a server is: greedy answers, the same every time.

The price: one request at a time, a forward pass for every token of the answer.
"""

import os
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from longalign import record, saved
from longalign.chat import encode_prompt, tokenizer_hash
from longalign.corpus import tokenizer as miniature
from longalign.endpoints.replies import Reply, Request
from longalign.models import device


class LocalModel:
    """The model and tokenizer of a folder or Hub name, with transformers' own attention; no remote code is run.

    `model` is its identity, by weights and tokenizer; `window` the tokens that it may read and write. A
    folder without a tokenizer takes the miniature's, if the vocabulary is as large. Raises ValueError for what cannot
    be loaded.
    """

    def __init__(self, name: str, *, tokenizer: str = "", window: int | None = None, dtype: str = "auto") -> None:
        self.name, self._alone = name, threading.Lock()
        _check_folder("--model", name)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            loaded, told = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False, output_loading_info=True
            )
            saved.told_whole(told, name)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"--model {name}: cannot be loaded: {_reason(error)}") from None
        self.loaded = loaded.to(device()).eval()
        self.tokenizer = load_tokenizer(tokenizer or name, loaded.config.vocab_size)
        self.window = window or loaded.config.max_position_embeddings
        self.model = self._identity()

    @torch.no_grad()
    def ask(self, request: Request) -> Reply:
        """The most probable tokens after the messages, up to the end token or `max_tokens` of them."""
        with self._alone:
            return self._ask(request)

    def _ask(self, request: Request) -> Reply:
        prompt = torch.from_numpy(encode_prompt(request.messages, self.tokenizer)).long()[None].to(self.loaded.device)
        ends = self._ends()
        written = self.loaded.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=request.max_tokens, do_sample=False,
            use_cache=True, eos_token_id=sorted(ends), pad_token_id=self.tokenizer.pad_token_id or min(ends),
        )[0, prompt.shape[1] :].tolist()  # fmt: skip
        ended = bool(written) and written[-1] in ends
        text = self.tokenizer.decode(written[:-1] if ended else written, skip_special_tokens=True)
        return Reply(text.strip(), "stop" if ended else "length", prompt.shape[1], len(written))

    def _identity(self) -> str:
        """What its answers depend on: weights, tokenizer, the tokens that end an answer."""
        name = self.name
        weights = record.hash_model(name) if Path(name).is_dir() else f"{name}@{self.loaded.config._commit_hash}"
        how = {"tokenizer": tokenizer_hash(self.tokenizer), "ends": sorted(self._ends())}
        return record.config_hash({"weights": weights, **how})

    def _ends(self) -> set[int]:
        told = self.loaded.generation_config.eos_token_id
        return {*([told] if isinstance(told, int) else told or []), self.tokenizer.eos_token_id} - {None}


def load_tokenizer(name: str, vocabulary: int | None = None) -> Any:
    """The tokenizer of a folder or Hub name; the miniature's, where a folder of its vocabulary has none.

    Raises ValueError where there is none, naming what can be done.
    """
    if Path(name).is_dir() and not any(file.startswith("tokenizer") for file in os.listdir(name)):
        own = miniature.load()
        if vocabulary in (None, len(own)):
            return own
        raise ValueError(f"{name} holds no tokenizer: name one with --tokenizer")
    _check_folder("--tokenizer", name)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tokenizer {name}: cannot be loaded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if "custom code" in str(error):
        return "it comes with code of its own, which is not run here: take one that transformers has a class for"
    return " ".join(str(error).split())[:300]


def _check_folder(option: str, name: str) -> None:
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"{option} {name}: there is no such folder")
