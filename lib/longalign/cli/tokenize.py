"""longalign data tokenize: JSONL in LongAlign-10k's schema to a token store, and what became of it."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longalign.cli.parsing import Parser, add_tokenizer_options, positive


def add(children: Any, top: Parser) -> None:
    """The subcommand and its options."""
    command = top.add_child(children, "tokenize", run, help="JSONL in LongAlign-10k's schema to a store")
    command.add_argument("data", metavar="DATA", type=Path, help='lines of {"messages": [{"role", "content"}, ...]}')
    command.add_argument("--out", type=Path, required=True, help="folder of the token store")
    command.add_argument("--max-length", type=positive, help="longer documents lose their middle")
    command.add_argument("--skip-invalid", action="store_true", help="leave bad samples out, count and list them")
    command.add_argument("--workers", type=positive, help="processes for a large file (default: cores it may use)")
    add_tokenizer_options(command)


def run(options: argparse.Namespace) -> None:
    """Make the store; say what it holds, and warn of samples that teach nothing and of text that became nothing."""
    from longalign.cli.loading import load_tokenizer
    from longalign.data.text_tokens import not_told_apart
    from longalign.data.tokenize_files import tokenize_jsonl

    tokenizer = load_tokenizer(options.tokenizer)
    store = tokenize_jsonl(
        options.data, tokenizer, options.out, chat_format=options.chat_format,
        max_length=options.max_length, skip_invalid=options.skip_invalid, workers=options.workers,
    )  # fmt: skip
    print("\n".join(summary(str(options.out), store)))
    if empty := int((store.target_counts == 0).sum()):
        which = "no sample has a target" if empty == len(store) else f"{empty:,} of {len(store):,} samples have none"
        print(f"longalign: the model learns nothing from samples without targets: {which} (longalign data show "
              f"{options.out})", file=sys.stderr)  # fmt: skip
    if writes_the_day(store, tokenizer):
        print("longalign: the chat template may write today's date into samples: another day gives another store",
              file=sys.stderr)  # fmt: skip
    word, lost = unknown(store, tokenizer)
    if lost:
        print(f"longalign: {lost:,} of {store.manifest['tokens']:,} tokens are {word}: the tokenizer has no token for "
              "their text, so the model cannot learn this text", file=sys.stderr)  # fmt: skip
    if lost_characters := store.manifest.get("lost_characters"):
        print(f"longalign: {sum(lost_characters.values()):,} characters are left out, for the tokenizer has no token "
              f"for them: {_most(lost_characters)}", file=sys.stderr)  # fmt: skip
    if same := not_told_apart(tokenizer):
        print(f"longalign: the tokenizer writes the same tokens for {', for '.join(same)}: the model cannot learn the "
              "difference", file=sys.stderr)  # fmt: skip


def writes_the_day(store: Any, tokenizer: Any) -> bool:
    """Whether the chat template that a store was written by asks for the date, as some do in their system message."""
    return store.manifest["chat_format"] == "template" and "strftime_now" in str(tokenizer.chat_template)


def unknown(store: Any, tokenizer: Any) -> tuple[str | None, int]:
    """The tokenizer's token for text that it cannot write, and how often it stands in a store; None and 0 where that
    token has another task, such as the end."""
    from longalign.data.text_tokens import unknown_token

    word = unknown_token(tokenizer)
    if word is None or word in (tokenizer.eos_token, tokenizer.bos_token):
        return None, 0
    return word, store.count(tokenizer.convert_tokens_to_ids(word))


def summary(name: str, store: Any) -> Iterator[str]:
    """What a store holds: samples, tokens, the share that are targets; what was cut, masked and left out."""
    told, tokens = store.manifest, max(1, store.manifest["tokens"])
    yield (f"{name}: {len(store):,} sequences, {told['tokens']:,} tokens, "
           f"{told['targets']:,} of them targets ({told['targets'] / tokens:.1%})")  # fmt: skip
    yield (f"cut to the maximum length: {told['truncated_sequences']:,} samples, {told['truncated_tokens']:,} tokens; "
           f"answers masked by weight or train: {told.get('masked_answers', 0):,}; "
           f"samples left out: {sum(told['dropped'].values()):,}")  # fmt: skip
    if doubtful := told.get("doubtful_cuts", 0):
        yield (f"words of an instruction may have been cut in {doubtful:,} samples: no room was left for the "
               "beginning of the message, or nothing in it tells an instruction from a document")  # fmt: skip
    if shortened := told.get("shortened_messages", 0):
        yield f"of {shortened:,} messages the chat template writes only a part, such as no thoughts of earlier turns"
    if unread := told.get("unread_keys"):
        yield f"keys that nothing reads: {ascii(_most(unread))[1:-1]}"


def _most(counts: dict[str, int]) -> str:
    """The ten that stand most often, each with its number."""
    first = sorted(counts.items(), key=lambda item: -item[1])[:10]
    more = f" and {len(counts) - 10:,} others" * (len(counts) > 10)
    return ", ".join(f"{word!r} ({count:,})" for word, count in first) + more
