"""What the options of whoever asks a model come to: an asker of a server or of a file of replies, an estimate.

Keys come from the environment: TEACHER_API_KEY, MODEL_API_KEY, JUDGE_API_KEY, or OPENAI_API_KEY for api.openai.com.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longalign.cli.parsing import ServerOptions
from longalign.clients import connect
from longalign.clients.client import Asker
from longalign.clients.local_model import LocalModel
from longalign.clients.price import Estimate
from longalign.clients.reply_store import Request


@contextmanager
def open_asker(options: ServerOptions, role: str, replies: Path) -> Iterator[Asker]:
    """The asker that the option of this role names; its replies are kept in a file."""
    opened = connect.open_asker(
        getattr(options, role), replies, role=role, name=getattr(options, f"{role}_name"),
        thinking_tokens=getattr(options, f"{role}_thinking_tokens"), per_minute=options.per_minute,
        timeout=options.timeout,
    )  # fmt: skip
    with opened as asker:
        yield asker


def estimate(asker: Asker, requests: Iterable[tuple[Request, int]]) -> Estimate:
    """What is still to be asked of these requests, each with the tokens of its prompt; one at a time is in memory."""
    left = known = prompts = replies = 0
    for request, tokens in requests:
        if asker.known(request) is None:
            left, prompts = left + 1, prompts + tokens
            replies += request.max_tokens + asker.thinking_tokens
        else:
            known += 1
    return Estimate(left, known, prompts, replies)


def tell(role: str, found: Estimate, options: ServerOptions) -> None:
    """The estimate on stderr, before anything is sent."""
    text = found.text(price=options.price, at_once=options.at_once, per_minute=options.per_minute)
    print(f"longalign: the {role} will get {text}", file=sys.stderr, flush=True)


def advise_on_thoughts(role: str) -> None:
    """What can be done about replies that held thoughts alone, on stderr."""
    print(f"longalign: a {role} that reasons needs tokens for its thoughts: --{role}-thinking-tokens 4096 adds "
          "4,096 tokens to each reply", file=sys.stderr, flush=True)  # fmt: skip


def tell_borrowed(model: Any) -> None:
    """One line on stderr, where a model in this process is read with the miniature's tokenizer for want of its own."""
    if isinstance(model, LocalModel) and model.borrowed:
        print(f"longalign: {model.name} holds no tokenizer; its vocabulary and end token are the miniature's, so the "
              "miniature's tokenizer is used", file=sys.stderr, flush=True)  # fmt: skip


def count_tokens(messages: Sequence[Any], tokenizer: Any = None) -> int:
    """Tokens of messages; without a tokenizer a quarter of their bytes, which is what English text has about."""
    texts = [message["content"] for message in messages]
    if tokenizer is None:
        return sum(len(text.encode()) for text in texts) // 4
    return sum(len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts)
