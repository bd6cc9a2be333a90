"""How many tokens a text has, in the tokenizer that samples are made for: the miniature's, unless another is named.

The generator fills documents up to a number of tokens sentence by sentence, and asks here. What it draws depends on
what surrounds the call (`count_with`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from longalign.data import chat
from longalign.miniature import tokenizer

MOST_DRAWS = 20_000

_other: ContextVar[Any] = ContextVar("other", default=None)


@contextmanager
def count_with(other: Any) -> Iterator[None]:
    """Within, lengths are those of this tokenizer (with a chat template); None is the miniature's."""
    before = _other.set(other)
    try:
        yield
    finally:
        _other.reset(before)


def count_tokens(text: str) -> int:
    """Tokens of a text by itself.

    >>> count_tokens("Marlow guards a copper lantern.")
    6
    """
    other = _other.get()
    return tokenizer.count_tokens(text) if other is None else len(other(text, add_special_tokens=False)["input_ids"])


def count_chat(messages: Sequence[Mapping[str, str]]) -> int:
    """Tokens of a conversation in the chat form, with all that the template puts around its messages.

    >>> count_chat([{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A lantern."}])
    10
    """
    if (other := _other.get()) is not None:
        return len(chat.encode(messages, other).input_ids)
    answers = sum(message["role"] == "assistant" for message in messages)
    return sum(tokenizer.count_tokens(message["content"]) + 1 for message in messages) + answers


def draws(aim: int) -> Iterator[int]:
    """Numbers the draws of a text of at most `aim` tokens, until one fits.

    Raises ValueError after MOST_DRAWS: another tokenizer may need more tokens for the shortest text that there is.

    >>> next(draws(9))
    0
    """
    yield from range(MOST_DRAWS)
    raise ValueError(
        f"no text of at most {aim} tokens was found in {MOST_DRAWS:,} draws: in this tokenizer it must be longer; "
        "raise the lengths of the profile's corpus, extension or evaluation"
    )
