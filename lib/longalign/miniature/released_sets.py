"""The released data sets as conversations, and the paper's suites of them: nested, as a seed draws them.

    LongAlign-10k    JSONL, {"messages": [{"role", "content"}, ...]}
    ShareGPT         a JSON list, {"conversations": [{"from": "human" or "gpt", "value"}, ...]}
    LongAlpaca-12k   a JSON list, {"instruction", "output"}

arXiv 2401.18058: LongAlign-0k, -5k and -10k share ShareGPT's short samples, of which empty answers are removed; those
over `max_short` tokens are left out here.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from longalign.common import checksums
from longalign.data.jsonl import VISIBLE, DataError, read_lines
from longalign.miniature.settings import Corpus
from longalign.miniature.token_length import count_chat
from longalign.miniature.training_sets import DOSES, SUITES

Messages = list[dict[str, str]]
LONG, SHORT, ALPACA = "LongAlign-10k", "ShareGPT", "LongAlpaca-12k"
BESIDE = ("source.json", checksums.SEAL)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}


def suite(name: str, corpus: Corpus, folder_of: Callable[[str], Path]) -> Iterator[dict[str, Any]]:
    """The samples of a suite, long ones first, then the short ones that every suite has.

    `folder_of` gives the folder of a data set by its name (LONG, SHORT, ALPACA). Fewer samples than the profile's
    corpus counts are taken where there are no more. Raises KeyError for an unknown suite, naming them, and DataError
    for a file that cannot be read.
    """
    if name not in SUITES:
        raise KeyError(f"no suite is called {name!r}; there are {', '.join(SUITES)}")
    if name == ALPACA:
        rows = _list(folder_of(ALPACA))
        for index in drawn(len(rows), corpus.longalpaca_long + corpus.longalpaca_short, f"{ALPACA}:{corpus.seed}"):
            yield {"id": f"alpaca-{index}", "messages": _question(rows[index])}
    elif DOSES[name]:
        yield from _long(folder_of(LONG), DOSES[name], corpus)
    yield from _short(folder_of(SHORT), corpus)


def drawn(available: int, wanted: int, seed: str) -> list[int]:
    """Which of so many samples are taken, in their order; of one seed, fewer are among more.

    >>> drawn(5, 2, "a") == [i for i in drawn(5, 4, "a") if i in drawn(5, 2, "a")], len(drawn(5, 9, "a"))
    (True, 5)
    """
    return sorted(_shuffled(available, seed)[:wanted])


def turns(conversation: Sequence[Mapping[str, str]]) -> Messages:
    """A ShareGPT conversation from its first question on, exchanges with an empty answer or question left out.

    It ends where two turns of the same side follow each other, or somebody else speaks.

    >>> talk = [("gpt", "Hi"), ("human", "Why?"), ("gpt", " "), ("human", "How?"), ("gpt", "So."), ("human", "And?")]
    >>> turns([{"from": who, "value": text} for who, text in talk])
    [{'role': 'user', 'content': 'How?'}, {'role': 'assistant', 'content': 'So.'}]
    """
    told = [(ROLES.get(turn.get("from", ""), ""), turn.get("value") or "") for turn in conversation]
    while told and told[0][0] != "user":
        told.pop(0)
    messages: Messages = []
    for question, answer in zip(told[::2], told[1::2], strict=False):
        if (question[0], answer[0]) != ("user", "assistant"):
            break
        if VISIBLE.search(question[1]) and VISIBLE.search(answer[1]):
            messages += [{"role": role, "content": text} for role, text in (question, answer)]
    return messages


def _long(folder: Path, share: float, corpus: Corpus) -> Iterator[dict[str, Any]]:
    file = _file(folder, "*.jsonl")
    available = sum(1 for _ in read_lines(file))
    wanted = round(min(available, corpus.long) * share)
    kept = set(drawn(available, wanted, f"{LONG}:{corpus.seed}"))
    for index, line in enumerate(read_lines(file)):
        if index in kept:
            try:
                yield {"id": f"long-{index}", "messages": line.row().get("messages")}
            except DataError as error:
                raise error.at(file, line.number) from None


def _short(folder: Path, corpus: Corpus) -> Iterator[dict[str, Any]]:
    rows, left = _list(folder), corpus.short
    for index in _shuffled(len(rows), f"{SHORT}:{corpus.seed}"):
        if not left:
            return
        messages = turns(rows[index].get("conversations") or ())
        if messages and _tokens(messages) <= corpus.max_short:
            left -= 1
            yield {"id": f"short-{index}", "messages": messages}


def _tokens(messages: Messages) -> float:
    try:
        return count_chat(messages)
    except DataError:  # an answer for which the tokenizer has no token
        return math.inf


def _shuffled(count: int, seed: str) -> list[int]:
    order = list(range(count))
    Random(seed).shuffle(order)
    return order


def _question(row: Mapping[str, str]) -> Messages:
    return [{"role": "user", "content": row.get("instruction", "")},
            {"role": "assistant", "content": row.get("output", "")}]  # fmt: skip


def _list(folder: Path) -> list[dict[str, Any]]:
    """The rows of the folder's one JSON file."""
    file = _file(folder, "*.json")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("not JSON", str(error)).at(file) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("not a list of objects", "the released file is one list of conversations").at(file)
    return rows


def _file(folder: Path, pattern: str) -> Path:
    """The folder's one file of a kind, beside those that tell where it is from."""
    found = [path for path in sorted(folder.glob(pattern)) if path.name not in BESIDE]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError("not one file", f"{pattern} finds {names}: name it in the source's files").at(folder)
    return found[0]
