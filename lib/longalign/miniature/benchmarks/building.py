"""What every benchmark item is built from: random numbers, a document that can be asked, an item of an aimed length.

An item depends on its kind and index alone, as samples do; kinds are names that no training data has.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from longalign.miniature import tasks
from longalign.miniature.documents import Document, write_document
from longalign.miniature.samples import ANSWER_RESERVE, CHINESE_SHARE
from longalign.miniature.styles import CHINESE, ENGLISH
from longalign.miniature.token_length import count_chat, draws
from longalign.miniature.world import World

SOURCES = {"en": ENGLISH, "zh": CHINESE}
SHORTEST_DOCUMENT = 32
SLACK = 24  # tokens that may be missing from an aim; sentences have up to 15

Turn = tuple[str, str]


def random_numbers(kind: str, index: int) -> Random:
    """The random numbers of item `index` of a kind."""
    return Random(f"{kind}:0:{index}")


def draw_language(rng: Random) -> str:
    """Chinese as often as in the training data."""
    return "zh" if rng.random() < CHINESE_SHARE else "en"


def draw_document(rng: Random, language: str, tokens: int, suits: Callable[[World], Any], **options: Any) -> Document:
    """Documents of at most `tokens` tokens are drawn until one `suits`; `options` are those of `write_document`."""
    for _ in draws(tokens):
        document = write_document(rng, rng.choice(SOURCES[language]), tokens, **options)
        if suits(document.world):
            return document


def can_ask(family: str, language: str) -> Callable[[World], bool]:
    """Whether a question of the family can be asked of a world."""
    return lambda world: family in tasks.possible(world, language)


def evenly(first: float, last: float, count: int) -> list[int]:
    """`count` whole numbers from `first` to `last`, evenly spaced.

    >>> evenly(128, 1024, 3), evenly(128, 1024, 1)
    ([128, 576, 1024], [128])
    """
    return [round(first + (last - first) * place / max(1, count - 1)) for place in range(count)]


def make_item(
    kind: str, index: int, document: Document, turns: list[Turn], *, task: str, asked: tasks.Item | None = None,
    cell: int = 0, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The item of a document and its turns (question, answer); the document's text stands before the first question.

    `asked` tells family, type and template; without it the family is called as the task.
    """
    messages = []
    for turn, (question, answer) in enumerate(turns):
        content = question if turn else f"{document.text}\n\n{question}" if document.text else question
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    family, type_, template = (asked.family, asked.type, asked.template) if asked else (task, task, "")
    return {
        "id": f"{kind}-{index}", "messages": messages, "source": document.source, "language": document.language,
        "task": task, "family": family, "type": type_, "template": template, "cell": cell,
        "length": count_chat(messages), **more,
    }  # fmt: skip


def fit(aim: int, make: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """The first item that `make(tokens of the document)` gives with a `length` of at most `aim`, less by under SLACK.

    What the answer and the document really take is known only afterwards, so documents are drawn until the aim is met.
    """
    tokens = aim - min(ANSWER_RESERVE, aim // 2)
    for _ in draws(aim):
        item = make(max(SHORTEST_DOCUMENT, tokens))
        missing = aim - item["length"]
        if 0 <= missing < SLACK:
            return item
        tokens += missing - SLACK // 2
