"""What a reasoning model thinks before it answers, told apart from the answer, in the forms that are widely used.

    <think>...</think>     DeepSeek-R1, Qwen3 and most others; also <thinking>, <thought>, <reasoning>, <reflection>,
                           <scratchpad>, with a prefix (<seed:think>, <longcat_think>), [THINK] (Mistral), ◁think▷
                           (Kimi), <|begin_of_thought|>, <|START_THINKING|> (Cohere), <|inner_prefix|> (Apertus),
                           <unused94>thought (MedGemma)
    in words               "Here is my thought process:" to "Here is my response:" (Granite), "Here are my reasoning
                           steps:" to "[BEGIN FINAL RESPONSE]" (Apriel)
    <|channel|>analysis    GPT-OSS (Harmony): the answer follows <|channel|>final<|message|>; <|channel>thought (Gemma)

A template may end in the opening mark, so that a reply holds the closing one alone: all before it is thoughts. A mark
in quotes or backticks is text: a reply may write about `<think>`. What cannot be seen in one reply: thoughts that a
template opened and that were cut off before they closed look like an answer that was cut off.
"""

import re
from typing import NamedTuple

_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "inner_monologue")
_PREFIX = "(?:[a-z]{2,12}[:_])?"
_HEAD = r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*"
_MESSAGE = r"\b[^\n]{0,80}?<\|message\|>"
_MARKS = (
    *((f"(?i:<{_PREFIX}{tag}(?: [^<>]{{0,80}})?>)", f"(?i:</{_PREFIX}{tag}>)") for tag in _TAGS),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("◁think▷", "◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    (r"<unused94>thought\b", "<unused95>"),
    (r"<\|channel>thought\b", r"<channel\|>"),
    (f"{_HEAD}(?:analysis|commentary){_MESSAGE}", f"{_HEAD}final{_MESSAGE}"),
    (r"\A\s*Here are my reasoning steps:", r"\[BEGIN FINAL RESPONSE\]"),
    (r"\A\s*Here(?:'s| is) my thought process:", r"Here(?:'s| is) my response:"),
    (r"\A\s*analysis(?=[A-Z])", "(?<!^)assistantfinal"),  # Harmony without its special tokens
)
"""What opens thoughts and what closes them."""
_IN_WORDS = len(_MARKS) - 2
"""From here on what closes is plain text, unless it was opened."""
LONGEST_MARK = 200
"""Characters of a prompt's end that hold a mark which opens thoughts."""
_QUOTED = r"(?<=[\"'`“‘]){}(?=[\"'`”’])"
_ANY = re.compile("|".join(
    f"(?P<text{i}>{_QUOTED.format(f'(?:{opens}|{closes})')})|(?P<open{i}>{opens})|(?P<close{i}>{closes})"
    for i, (opens, closes) in enumerate(_MARKS)
))  # fmt: skip
_SIGN = re.compile(
    r"(?i:</?[a-z:_]{0,13}(?:think|thought|reasoning|reflection|scratchpad|monologue))|\[/?THINK\]|◁|"
    r"<\|?(?:channel|begin_of_th|end_of_th|START_TH|END_TH|inner_|unused9)|\A\s*(?:analysis[A-Z]|Here)|\[BEGIN FINAL"
)
"""What stands in every text with a mark: of all others one look is enough."""
_OPEN_AT_THE_END = re.compile(f"(?:{'|'.join(opens for opens, _ in _MARKS[: _IN_WORDS - 1])})\\s*\\Z")
_SPECIAL = re.compile(
    r"\[/?THINK\]|<\|(?:begin|end)_of_(?:thought|solution)\|>|<\|(?:START|END)_(?:THINKING|RESPONSE)\|>|"
    r"<\|?channel\|?>|<\|(?:start|message|end|return|inner_prefix|inner_suffix)\|>|<unused9[45]>|◁/?think▷|"
    f"(?i:</?{_PREFIX}(?:{'|'.join(_TAGS)})>)"
)
_BEFORE = re.compile(r"(?:<\|begin_of_solution\|>|<\|START_RESPONSE\|>|<answer>|<response>)\s*")
_BEHIND = re.compile(
    r"(?:<\|end_of_solution\|>|<\|END_RESPONSE\|>|</answer>|</response>|\[END FINAL RESPONSE\]|<\|(?:end|return)\|>)\Z"
)
"""Marks that models put around the answer behind their thoughts."""


class Parts(NamedTuple):
    """What a model wrote: its `thoughts` with their marks, "" without any, and its `answer`; `closed` tells whether the
    thoughts came to an end."""

    thoughts: str
    answer: str
    closed: bool = True


def split(text: str) -> Parts:
    """The parts of what a model wrote; a text without thoughts is the answer as it stands.

    >>> split("<think>At first [[3]].</think> Rating: [[7]]")
    Parts(thoughts='<think>At first [[3]].</think>', answer='Rating: [[7]]', closed=True)
    >>> split("At first [[3]].</think>[[7]]").answer, split("<think>At first [[3]]")
    ('[[7]]', Parts(thoughts='<think>At first [[3]]', answer='', closed=False))
    >>> split("It thinks within `<think>`.").answer
    'It thinks within `<think>`.'
    """
    if not _SIGN.search(text):
        return Parts("", text)
    thoughts, answer, opened, start = [], [], None, 0  # slices of the text, the mark that is open, where a part began
    for mark in _ANY.finditer(text):
        kind, number = mark.lastgroup.rstrip("0123456789"), int(re.sub(r"\D", "", mark.lastgroup))
        if kind == "open" and opened is None:
            answer.append(slice(start, mark.start()))
            opened, start = number, mark.start()
        elif kind == "close" and opened == number:
            thoughts.append(slice(start, mark.end()))
            opened, start = None, mark.end()
        elif kind == "close" and opened is None and number < _IN_WORDS:  # opened by the template
            thoughts, answer, start = [slice(0, mark.end())], [], mark.end()
    if not thoughts and opened is None:
        return Parts("", text)
    if opened is not None:
        return Parts(text, "", closed=False)
    told = filter(None, (text[part].strip() for part in [*answer, slice(start, None)]))
    return Parts("\n".join(text[part] for part in thoughts), _unwrapped("\n".join(told)))


def _unwrapped(answer: str) -> str:
    """An answer without the marks around it."""
    if mark := _BEFORE.match(answer):
        answer = answer[mark.end() :]
    while mark := _BEHIND.search(answer):
        answer = answer[: mark.start()].rstrip()
    return answer


def opened_elsewhere(thoughts: str) -> bool:
    """Whether thoughts are closed but not opened in what the model wrote: its template opens those of every reply.

    >>> opened_elsewhere("At first.</think>"), opened_elsewhere("<think>At first.</think>"), opened_elsewhere("")
    (True, False, False)
    """
    mark = next((found for found in _ANY.finditer(thoughts) if not found.lastgroup.startswith("text")), None)
    return mark is not None and mark.lastgroup.startswith("close")


def opened_by(prompt: str) -> str:
    """The mark that a prompt ends with, where its template opens the thoughts; else "".

    >>> opened_by("<|assistant|><think>\\n"), opened_by("<|assistant|><think></think>")
    ('<think>', '')
    """
    found = _OPEN_AT_THE_END.search(prompt)
    return found[0].strip() if found else ""


def is_mark(token: str) -> bool:
    """Whether a special token belongs to such a mark, so that it must not be left out of a decoded text."""
    return _SPECIAL.fullmatch(token) is not None
