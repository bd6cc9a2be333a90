"""longalign data show: a sample of a token store as text, with its targets marked.

On a terminal targets are green; elsewhere, and where NO_COLOR is set, they stand between the marks of MARKS.  Long
stretches of text that are no targets are shown by their ends.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from longalign.cli.parsing import Parser, fail, seed

MARKS = ("⟦", "⟧")
GREEN = ("\x1b[32m", "\x1b[0m")
LONGEST = 2000  # characters of a stretch without targets that are shown, half of them at each end
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add(children: Any, top: Parser) -> None:
    """The subcommand and its options."""
    command = top.add_child(children, "show", run, help="a sample of a store as text, its targets marked")
    command.add_argument("store", metavar="STORE", type=Path, help="a token store")
    command.add_argument("--sample", type=seed, default=0, metavar="N", help="which, from 0 (default: 0)")
    command.add_argument("--tokenizer", help="folder or Hub name (default: the one that the store names)")


def run(options: argparse.Namespace) -> None:
    """Print the sample."""
    from longalign.data.store import TokenStore

    store = TokenStore(options.store, verify=True)
    if options.sample >= len(store):
        fail(f"{options.store} holds {len(store):,} samples, 0 to {len(store) - 1:,}: there is no {options.sample:,}")
    tokenizer, sample = _tokenizer(options, store.manifest), store[options.sample]
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    targets, length = int(store.target_counts[options.sample]), int(store.lengths[options.sample])
    number = int(store.lines[options.sample][0])
    source = (store.manifest.get("source") or {}).get("name", "its file")
    where = f", line {number:,} of {source}" if number else ""
    place = f"{options.store}, sample {options.sample:,} of {len(store):,}{where}"
    print(f"{place}: {length:,} tokens, {targets:,} targets")
    print("".join(marked(sample["input_ids"], sample["labels"], tokenizer, marks=_marks())))


def marked(input_ids: Any, labels: Any, tokenizer: Any, *, marks: tuple[str, str] = MARKS) -> Iterator[str]:
    """The text of a sequence (int32 [T] both) in pieces; targets stand between the two marks.

    >>> from longalign.data.chat import encode
    >>> from longalign.miniature import tokenizer
    >>> words = tokenizer.load()
    >>> e = encode([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marlow."}], words)
    >>> "".join(marked(e.input_ids, e.labels, words))
    '<|user|> Who?<|assistant|>⟦ Marlow.<|end|>⟧'
    """
    from longalign.common.array_types import IGNORE_INDEX

    learnt = [bool(label != IGNORE_INDEX) for label in labels]
    edges = [0, *(i for i in range(1, len(learnt)) if learnt[i] != learnt[i - 1]), len(learnt)]
    before = ""
    for start, end in zip(edges, edges[1:], strict=False):
        whole = _decoded(input_ids[:end], tokenizer)
        text = whole[len(before) :] if whole.startswith(before) else _decoded(input_ids[start:end], tokenizer)
        before = whole
        yield f"{marks[0]}{_plain(text)}{marks[1]}" if learnt[start] else _plain(_ends(text))


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _ends(text: str) -> str:
    left_out = len(text) - LONGEST
    if left_out <= LONGEST // 10:
        return text
    return f"{text[: LONGEST // 2]}\n[... {left_out:,} characters ...]\n{text[-LONGEST // 2 :]}"


def _plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _marks() -> tuple[str, str]:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return MARKS if plain else GREEN


def _tokenizer(options: argparse.Namespace, manifest: dict[str, Any]) -> Any:
    """The tokenizer that a store was made with: named by the option or the manifest, or the miniature's own."""
    from transformers.utils import logging

    from longalign.cli.loading import quiet_hub
    from longalign.data import tokenizers
    from longalign.data.chat import tokenizer_hash

    logging.set_verbosity_error()
    quiet_hub()
    made_with = manifest.get("tokenizer_sha256")
    if made_with is None and not options.tokenizer:
        fail(f"{options.store} does not say which tokenizer it was made with: name it with --tokenizer")
    name = options.tokenizer or manifest.get("tokenizer", tokenizers.MINIATURE)
    try:
        tokenizer = tokenizers.load(name)
    except ValueError as error:
        fail(f"{error}; {options.store} was made with the tokenizer {manifest.get('tokenizer', 'of the miniature')}")
    if made_with is not None and tokenizer_hash(tokenizer) != made_with:
        fail(f"--tokenizer {name}: {options.store} was made with another tokenizer (its hash begins with "
             f"{made_with[:12]}): name that one")  # fmt: skip
    return tokenizer
