"""Where the answers of a conversation stand in its text, each with the end token that the format writes behind it.

Where a template marks the answers by {% generation %}, its marks say where they are.  Else they are found by rendering:
an answer is what is written between its prompt and the end of its turn.  A turn may read otherwise once more turns
follow (a template that drops earlier thoughts); then it is found where it stands in the whole, by a stand-in for its
message, and what cannot be found exactly is refused.  The end token is the last special token that the format writes
behind what the answer says; one that the answer spells is none.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from longalign.data.chat_formats import STAND_IN, Chat, Span
from longalign.data.jsonl import CARRIED, DataError, is_target
from longalign.data.text_tokens import Specials

_UNSTABLE = "not prefix-stable: a turn changes when more follow; mark the answers in it by {% generation %}"
_REWRITTEN = "it writes an answer otherwise than it was said; let it end what {% generation %} marks by the end token"
_HOLDS_A_RESULT = "it writes what a tool gave back into the answer; mark the answers in it by {% generation %}"
_HOLDS_ANOTHER = "it writes another message behind the answer; mark the answers in it by {% generation %}"
_UNASKED = "the answer does not follow its generation prompt; mark the answers in it by {% generation %}"


@dataclass(frozen=True)
class Answer:
    """The characters of an answer's turn: its `start`, where its end token ends (`stop`), and its turn (`end`)."""

    start: int
    stop: int
    end: int


def learns(chat: Chat, index: int) -> bool:
    """Whether a message is a target: in a prompt none is."""
    return not chat.asks and is_target(chat.messages[index])


def find(chat: Chat, text: str, special: Specials | None) -> dict[int, Answer]:
    """The answers in a conversation's text, by their messages; one that is no target and cannot be found is left out.

    `special` finds the end tokens, None where the text has none (LongAlign's formats).  Raises DataError for a target
    that cannot be found.
    """
    found = {}
    for index, message in enumerate(chat.messages):
        if message["role"] == "assistant":
            try:
                found[index] = _answer(chat, index, text, special)
            except DataError:
                if learns(chat, index):
                    raise
    return found


def find_marked(chat: Chat, text: str, marks: list[Span], special: Specials) -> Iterator[list[Span]]:
    """What a template with {% generation %} marks of each target, one span or several, the last with the end token.

    An end token stands in its mark, where what is behind it is cut, or right behind, with nothing but blanks between.
    """
    for index, marked in _marks_of_answers(chat, marks).items():
        if learns(chat, index):
            yield [*marked[:-1], (marked[-1][0], _marked_end(chat, index, text, marked[-1], special))]


def _answer(chat: Chat, index: int, text: str, special: Specials | None) -> Answer:
    message = chat.messages[index]
    before, after = chat.until(index).text(), chat.until(index + 1).text()
    content = message.get("content", "").strip()
    if after.startswith(before) and text.startswith(after) and content and not any(key in message for key in CARRIED):
        start, end = len(before), len(after)
        said = start + len(after[start:]) - len(after[start:].lstrip()) + len(content)
        if after.startswith(content, said - len(content)):
            stop = _stop(special.last(text, said, said, end)) if special else end
            _check_others_behind(chat, index, after[said:stop], len(after) - said)
            return Answer(start, stop, end)
    if special is None:
        raise _unsuitable(_UNASKED, index)
    start = _start(chat, index, text, before)
    stop = special.last(text, start, *_tail(chat, index, text))
    if stop < 0 and not text.startswith(after):
        raise _unsuitable(_UNSTABLE, index)
    if not text.startswith(after):
        _check_results_behind(chat, index, text, stop)
    return Answer(start, _stop(stop), len(after) if text.startswith(after) else stop)


def _check_others_behind(chat: Chat, index: int, behind: str, length: int) -> None:
    """Raises DataError where an earlier message is written behind an answer: in `behind`, up to the answer's end, or in
    the last `length` characters of its turn."""
    for other, message in enumerate(chat.messages[:index]):
        said = message.get("content")
        if isinstance(said, str) and said.strip() and said.strip() in behind:
            turn = chat.until(index + 1)
            if _shared_end(turn.text(), _with_stand_in(turn, other)) < length:
                raise _unsuitable(_HOLDS_ANOTHER, index)


def _check_results_behind(chat: Chat, index: int, text: str, stop: int) -> None:
    """Raises DataError where a tool's result, a message behind an answer, stands before the answer's end."""
    for result, message in enumerate(chat.messages[index + 1 :], index + 1):
        if message["role"] != "tool":
            return
        if _shared(text, _with_stand_in(chat, result)) < stop:
            raise _unsuitable(_HOLDS_A_RESULT, index)


def _start(chat: Chat, index: int, text: str, before: str) -> int:
    """Where an answer begins in a text in which something else than its content follows the prompt `before`."""
    bare, alone = chat.until(index).text(ask=False), chat.until(index + 1).stand_in(index).text()
    asked = _shared(bare, before)
    prompt, (opening, found, _) = before[asked:], alone[asked:].partition(STAND_IN)
    follows = found and alone.startswith(before[:asked]) and opening.startswith(prompt)
    if not follows or (opening.strip() and not prompt.strip()):
        raise _unsuitable(_UNASKED, index)
    shared = _shared(text, _with_stand_in(chat, index))
    start = text.rfind(prompt, 0, shared) + len(prompt)
    if not prompt.strip():
        start = shared - len(opening) * text.endswith(opening, 0, shared)
    if start - len(prompt) < _end_of_message(chat, index - 1, text, index):
        raise _unsuitable(_UNSTABLE, index)
    return start


def _with_stand_in(chat: Chat, index: int) -> str:
    """The text with a stand-in for a message; of the conversation up to it, where what follows needs the message."""
    try:
        return chat.stand_in(index).text()
    except DataError:
        return chat.until(index + 1).stand_in(index).text()


def _end_of_message(chat: Chat, index: int, text: str, answer: int) -> int:
    """Where a message ends in a text; raises DataError, on the answer behind it, if the text does not depend on it."""
    changed = chat.stand_in(index).text()
    if STAND_IN not in changed:
        raise _unsuitable(_UNSTABLE, answer)
    return len(text) - _shared_end(text, changed)


def _tail(chat: Chat, index: int, text: str) -> Span:
    """From where on the text of an answer's turn is the format's alone, and where that ends at the latest."""
    here = chat.until(index + 1)
    whole, alone = here.text(), here.stand_in(index).text()
    _, found, tail = alone.partition(STAND_IN)
    if not found:
        raise _unsuitable(_REWRITTEN, index)
    if text.startswith(whole):
        return len(whole) - _shared_end(whole[-len(tail) :] if tail else "", tail), len(whole)
    behind = chat.stand_in(index).text().partition(STAND_IN)[2]
    if not text.endswith(behind):
        raise _unsuitable(_UNSTABLE, index)
    said = len(text) - len(behind)
    return said, said + _shared(behind, tail)


def _marks_of_answers(chat: Chat, marks: list[Span]) -> dict[int, list[Span]]:
    """The marks of each answer, by its message: one each, or as many more as the answer brings when it is said."""
    answers = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if len(marks) == len(answers):
        return {index: [mark] for index, mark in zip(answers, marks, strict=True)}
    so_far = [0, *(len(chat.until(index + 1).marked_text()[1]) for index in answers)]
    counts = [after - before for before, after in itertools.pairwise(so_far)]
    if sum(counts) != len(marks) or any(count < 1 for count in counts):
        detail = f"its {{% generation %}} marks {len(marks)} runs of tokens for {len(answers)} answers"
        raise DataError("template unsuitable", detail, field="messages")
    left = iter(marks)
    return {index: list(itertools.islice(left, count)) for index, count in zip(answers, counts, strict=True)}


def _marked_end(chat: Chat, index: int, text: str, mark: Span, special: Specials) -> int:
    """Where the end token of a marked answer ends: the last in the mark, and what is right behind it."""
    start, end = mark
    message, behind = chat.messages[index], special.pattern.match(text, end)
    contents = [value for key, value in message.items() if key in ("content", *CARRIED)]
    plain = all(isinstance(value, str) and not special.pattern.search(value) for value in contents)
    ends = plain and special.last(text, start, end - 1, end) == end
    if ends and not behind:
        return end
    try:
        said, last = _tail(chat, index, text)
    except DataError:
        if ends:
            return end
        raise
    own = [match for match in special.pattern.finditer(text, start, last) if match.end() > said]
    inside = [match.end() for match in own if match.end() <= end]
    if inside:
        return behind.end() if behind and behind.end() in (match.end() for match in own) else inside[-1]
    if ends:  # the last answer has another end token
        return end
    if not own or text[end : own[0].start()].strip():
        raise endless()
    return own[0].end()


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike.

    >>> _shared("abcd", "abd"), _shared("ab", "abc"), _shared("", "a")
    (2, 2, 0)
    """
    least, most = 0, min(len(one), len(other))
    while least < most:
        half = (least + most + 1) // 2
        least, most = (half, most) if one[least:half] == other[least:half] else (least, half - 1)
    return least


def _shared_end(one: str, other: str) -> int:
    return _shared(one[::-1], other[::-1])


def _stop(found: int) -> int:
    if found < 0:
        raise endless()
    return found


def endless() -> DataError:
    """The error of a template whose answers have no end token."""
    detail = "it puts no end token behind the answer; add one to the template, or use another chat_format"
    return DataError("template unsuitable", detail, field="messages")


def _unsuitable(detail: str, index: int) -> DataError:
    return DataError("template unsuitable", detail, field=f"messages[{index}].content")
