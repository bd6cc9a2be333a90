"""Checks of a teacher's answer: nine faults that a reader would see at once, each found by a rule.

| fault, in this order | rule |
|---|---|
| empty | no visible text |
| cut off | the teacher stopped at its limit (`finish` is "length") |
| too short | fewer characters than SHORTEST has for the task |
| too long | more than twice the words asked for (Chinese: characters) |
| other language | Chinese characters among the letters: 0.3 or more for Chinese, less for English; none needed |
| refusal | it begins with an apology for what it cannot do, with "As an AI", "I cannot answer", or the like |
| prompt again | the question alone, a sentence of our prompts, or the document's first 200 characters at its start |
| repeats itself | a sentence of some length more than three times |
| not in the document | information extraction: a number, or more than a fifth of the words, is not in the document |

Rules by letters do not see a wrong answer, and refuse a true quotation that begins with an apology.
"""

import re
from collections import Counter
from functools import cache, lru_cache

from longalign.data.chinese import CHINESE_SHARE, HAN, chinese_share
from longalign.data.jsonl import VISIBLE
from longalign.self_instruct import prompts
from longalign.self_instruct.draw import Item

SHORTEST = {
    "en": {"general": 10, "summary": 40, "reasoning": 10, "information extraction": 1},
    "zh": {"general": 4, "summary": 15, "reasoning": 4, "information extraction": 1},
}
"""The fewest characters of an answer, without white space around it."""
TOO_MANY, MOST_REPEATS, COPIED, SHARE_IN_DOCUMENT, MOST_QUESTION = 2, 3, 200, 0.8, 400
_WORD = re.compile(f"[{HAN}]|[^\\W{HAN}]+")
_CONTENT = re.compile(f"[{HAN}]|[^\\W\\d_{HAN}]{{4,}}")
_LISTED = re.compile(r"^[ \t]*\d{1,2}[.)、:：][ \t]", re.MULTILINE)
_INABLE = (
    r"(?:can(?:not|['’]?t|\ not)|could(?:\ not|n['’]t)|am\ (?:unable|not\ able)|won['’]t|do(?:\ not|n['’]t)\ have)"
)
_REFUSALS = re.compile(
    rf"""\s*(?:
    (?:(?:i|we)(?:\ am|['’]m|\ are|['’]re)\ (?:\w+\ )?)?sorry\s*(?:[,.;:!—–-]|but\b|that\b|for\b|about\b)
        .{{0,80}}?\b(?:(?:i|we)\ {_INABLE}|(?:i|we)['’]m\ (?:unable|not\ able)|(?:the|this)\ \w+\ does(?:\ not|n['’]t))
    | (?:i|we|my|our)\ apolog(?:i[sz]e|ies)\b.{{0,80}}?\b(?:i|we)\ {_INABLE}
    | (?:unfortunately,?\ )?(?:i|we)(?:\ {_INABLE}|['’]m\ unable\ to|['’]m\ not\ able\ to)\ (?:to\ )?(?:\w+ly\ )?
        (?:answer\ (?:the|this|that|your|it|any|such)|help\ (?:you|with)|assist|provide|comply|fulfil|summari[sz]e
        |access|generate|process|(?:the\ )?(?:access|ability)\ to|enough\ information)\b
    | as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)(?:\ \w+){{0,3}},?\ (?:i|my)\b
    | (?:非常|很|十分)?(?:抱歉|对不起|對不起|不好意思)(?=[，,。！!：:\s我但这這文本该該])
        .{{0,40}}?(?:无法|無法|不能|没有办法|沒有辦法|没有提到|未提供)
    | [作做][为為](?:一个|一個|一名|一款)?(?:人工智能|人工智慧|AI|大?型?[语語]言模型|大模型).{{0,12}}?[，,]?\s*
        我(?![国國们們])
    | 我(?:无法|無法|不能|没有办法|沒有辦法|没法)(?:直接|为您|为你|給您|给您|给你|向您)?
        (?:回答|提供|完成|满足|滿足|协助|協助|帮助[你您]|处理|處理|访问|訪問|查看|生成|给出|給出)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def problem(answer: str, *, question: str, item: Item, finish: str | None = None, words: int) -> str | None:
    """The first fault of an answer to a question on an item, by the table above; None where there is none.

    `finish` is why the teacher stopped, where it says so; `words` is what its prompt allowed. With `item` of an English
    text "Calis leads. ...", of the task "general", and `words=50`:

        "", "Lead", "卡里斯领头。"                  "empty", "too short", "other language"
        "I'm sorry, but I cannot answer this."    "refusal"
        "Calis leads, the text says."             None
    """
    bare, spoken = answer.strip(), item.document.language
    if not VISIBLE.search(bare):
        return "empty"
    faults = (
        ("cut off", lambda: finish == "length"),
        ("too short", lambda: len(bare) < SHORTEST[spoken][item.task]),
        ("too long", lambda: length(bare, spoken) > TOO_MANY * words),
        ("other language", lambda: _foreign(bare, spoken)),
        ("refusal", lambda: _REFUSALS.match(bare) is not None),
        ("prompt again", lambda: _plain(bare) == _plain(question) or _echo(bare, item.text)),
        ("repeats itself", lambda: _most_repeats(bare, spoken) > MOST_REPEATS),
        ("not in the document", lambda: item.task == "information extraction" and not _stands_in(bare, item.text)),
    )
    return next((name for name, found in faults if found()), None)


def question_problem(question: str, item: Item) -> str | None:
    """The first fault of a question: "empty", "too long" (over 400 characters), "other language", "prompt again"."""
    if not VISIBLE.search(question):
        return "empty"
    if len(question) > MOST_QUESTION:
        return "too long"
    if _foreign(question, item.document.language):
        return "other language"
    return "prompt again" if _echo(question, item.text) else None


def length(text: str, language: str) -> int:
    """Words of an English text; in a Chinese one each Chinese character counts as one.

    >>> length("Calis leads 3 guards.", "en"), length("用 GPU 训练。", "zh")
    (4, 4)
    """
    return len(_WORD.findall(text)) if language == "zh" else len(text.split())


def _foreign(text: str, spoken: str) -> bool:
    share = chinese_share(text)
    return share is not None and (share >= CHINESE_SHARE) != (spoken == "zh")


def _plain(text: str) -> str:
    return re.sub(r"\W+", "", text).lower()


def _echo(text: str, document: str) -> bool:
    """Whether a text holds our instructions, or begins as the document does."""
    plain = _plain(text)
    beginning = _plain(document[:COPIED])
    # a short document may be quoted as a whole, and a row of dashes is no beginning
    copied = len(document) > COPIED and len(beginning) >= COPIED / 4 and plain.startswith(beginning)
    return copied or any(sentence in plain for sentence in _instructions())


@cache
def _instructions() -> list[str]:
    return [_plain(sentence) for sentence in prompts.sentences()]


def _most_repeats(text: str, spoken: str) -> int:
    least = 8 if spoken == "zh" else 20
    parts = (part.strip() for part in re.split(r"[.!?。！？\n]", text))
    return max(Counter(part for part in parts if len(part) >= least).values(), default=0)


def _stands_in(answer: str, document: str) -> bool:
    known_numbers, known_words = _vocabulary(document)
    numbers = set(re.findall(r"\d+", _LISTED.sub("", answer)))
    content = _CONTENT.findall(answer.lower())
    inside = sum(word in known_words for word in content)
    return numbers <= known_numbers and inside >= SHARE_IN_DOCUMENT * len(content)


@lru_cache(maxsize=4)
def _vocabulary(document: str) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(re.findall(r"\d+", document)), frozenset(_CONTENT.findall(document.lower()))
