"""Prompts for a teacher, in which a document stands letter by letter.

A document may hold orders to its reader. The teacher reads these, too; only its reply is checked
(longalign.self_instruct.checks).

The form is the paper's (arXiv 2401.18058): the document first, then what to do; five questions in one reply, of which
one is drawn. The words are this project's. Chinese documents get Chinese prompts.
"""

import re

MOST_QUESTIONS = 5

_FIVE = {
    "en": "Read the text above and write five different questions about it, from its beginning to its end.",
    "zh": "请阅读以上文本，就其内容提出五个不同的问题，从开头到结尾都要涉及。",
}
_KIND = {
    "en": {
        "general": "Ask what, why and how, as an attentive reader would.",
        "summary": "Each question asks for a summary of the text, of one part of it, or of what it says on one matter.",
        "reasoning": "Each question needs facts from two or more places in the text.",
        "information extraction": "Each question asks for a name, a number, a date, a place or a term in the text.",
    },
    "zh": {
        "general": "问题可以是认真的读者想了解的任何内容，例如是什么、为什么、怎么做。",
        "summary": "每个问题都要求进行概括，可以概括全文、某一部分，或者文中关于某件事的全部内容。",
        "reasoning": "每个问题都需要把文中两处或更多地方的事实结合起来才能回答。",
        "information extraction": "每个问题都询问文中明确写出的人名、数字、日期、地点或术语。",
    },
}
_FORM = {
    "en": "The text alone must be enough to answer them. Write the questions only, one a line, numbered 1 to 5.",
    "zh": "仅凭这段文本就应当能够回答。只写问题，每行一个，并标上序号1到5。",
}
_ANSWER = {
    "en": "Answer the following question from the text above alone, in at most {words} words.",
    "zh": "请仅根据以上文本回答下面的问题，最多写{words}个字。",
}
_QUOTE = {"en": "Quote the words of the text that hold the answer.", "zh": "请引用文中含有答案的原话。"}
_NUMBERED = re.compile(
    r"[ >*#-]*(?:(?:question|q|问题|第) ?)?[(（]?(\d{1,2}|[一二三四五])(?: ?题)?"
    r"(?:[ *]*[.:)、．：）]+(?!\d)[ *]*(.*)|[ *]*)",
    re.IGNORECASE,
)
_LABEL = r"[ >*#_(\[（-]*(?:answers?|a ?\d*|explanation|rationale|hint|答案?|回答|解析|解释|提示) ?\d*[ *_]*[:：]"
_SAID = re.compile(_LABEL, re.IGNORECASE)
_SAID_BEHIND = re.compile(f"(?<=[?？]){_LABEL}.*", re.IGNORECASE)
"""What teachers write under their questions or behind them, unasked: their answers."""
_ORDINALS = {character: number for number, character in enumerate("一二三四五", 1)}


def propose(text: str, task: str, language: str) -> str:
    """The prompt for five questions of a task on a document; raises KeyError for another task or language.

    >>> print(propose("{question} 100%s", "summary", "zh"))
    {question} 100%s
    <BLANKLINE>
    请阅读以上文本，就其内容提出五个不同的问题，从开头到结尾都要涉及。每个问题都要求进行概括，可以概括全文、某一部分，或者文中关于某件事的全部内容。仅凭这段文本就应当能够回答。只写问题，每行一个，并标上序号1到5。
    """
    return f"{text}\n\n{_gap(language).join((_FIVE[language], _KIND[language][task], _FORM[language]))}"


def answer(text: str, question: str, language: str, *, words: int, task: str = "general") -> str:
    """The prompt for the answer to a question, of at most so many words (Chinese: characters).

    For information extraction it asks for quotations. Raises KeyError for another language.

    >>> print(answer("王安领头。", "谁领头？", "zh", words=50))
    王安领头。
    <BLANKLINE>
    请仅根据以上文本回答下面的问题，最多写50个字。
    <BLANKLINE>
    谁领头？
    """
    asked = [_ANSWER[language].format(words=words), *[_QUOTE[language]] * (task == "information extraction")]
    return f"{text}\n\n{_gap(language).join(asked)}\n\n{question}"


def sentences() -> list[str]:
    """The sentences of our instructions, in both languages: none of them belongs into a question or an answer."""
    return [
        sentence
        for language in ("en", "zh")
        for sentence in (_FIVE[language], *_KIND[language].values(), _FORM[language],
                         _ANSWER[language].partition(",")[0].partition("，")[0], _QUOTE[language])
    ]  # fmt: skip


def questions(reply: str, language: str) -> list[str]:
    """The distinct questions of a teacher's reply, at most five.

    A question starts at a line with its number, 1 to 5 in turn, in one of the usual forms; the lines that follow belong
    to it, up to a question mark at a line's end, an empty line, or one that begins with "Answer:" or the like. Without
    numbers, lines that end with a question mark are taken.

    >>> questions("Sure!\\n1. Who leads?\\n**2:** Who\\nguards?\\n\\nGood luck!", "en")
    ['Who leads?', 'Who guards?']
    >>> questions("1、谁领头？\\n2、谁领头？\\n", "zh"), questions("Here are two:\\n- Who leads?\\n- When?", "en")
    (['谁领头？'], ['Who leads?', 'When?'])
    """
    lines = [" ".join(line.split()) for line in re.sub(r"(?<=[?？])[ \t](?=\d[.:)、．：）])", "\n", reply).split("\n")]
    found = _numbered(lines) or [[_unnumbered(line)] for line in lines if line.rstrip(" *").endswith(("?", "？"))]
    distinct: dict[str, str] = {}
    for parts in found:
        text = _SAID_BEHIND.sub("", _gap(language).join(filter(None, map(_bare, parts))))
        distinct.setdefault(re.sub(r"\W", "", text.lower()), text)
    return [text for text in distinct.values() if text][:MOST_QUESTIONS]


def _numbered(lines: list[str]) -> list[list[str]]:
    """The lines of each numbered question, without their numbers."""
    found: list[list[str]] = []
    inside = False
    for line in lines:
        match = _NUMBERED.fullmatch(line)
        if match and (_ORDINALS.get(match[1]) or int(match[1])) == len(found) + 1:
            found.append([match[2] or ""])
            inside = True
        elif inside and (_ends(found[-1]) or _SAID.match(line)):
            inside = False
        elif inside and line:
            found[-1].append(line)
        elif inside and any(found[-1]):
            inside = False
    return found


def _ends(parts: list[str]) -> bool:
    """Whether a question has ended: what follows is the teacher's answer, or an end of its reply."""
    return _bare(parts[-1]).endswith(("?", "？"))


def _unnumbered(line: str) -> str:
    """A line without a number at its beginning.

    >>> _unnumbered("**2.** Who leads?"), _unnumbered("2. 1.5 what?"), _unnumbered("3.5 of what?")
    ('Who leads?', '1.5 what?', '3.5 of what?')
    """
    match = _NUMBERED.fullmatch(line)
    return match[2] if match and match[2] else line


def _bare(line: str) -> str:
    """A line without the marks of lists and emphasis.

    >>> _bare("- General**: Who **leads**?"), _bare("What is 2**3?")
    ('General: Who leads?', 'What is 2**3?')
    """
    line = re.sub(r"(?<!\S)\*\*(\w[^*]*)\*\*(?=\W|$)", r"\1", line)
    return re.sub(r"^[ >*#-]+|[ *]+$|(?<=[\w:])\*\*(?=[:.,;?! ])", "", line)


def _gap(language: str) -> str:
    return "" if language == "zh" else " "
