"""A conversation as text, in a chat template or one of LongAlign's formats, and what a template leaves out of it.

T = tokens of the conversation.  What a template drops is found by rendering the conversation once more, changed: a
field that changes nothing is not known to the template, and is refused rather than lost.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from longalign.data.jsonl import CARRIED, DataError, check_messages, is_target

CHAT_FORMATS = ("template", "llama", "chatglm")
STAND_IN = "\ue000stand-in\ue001"
"""Stands in a message's place, to see what a template writes around it; no text holds it by chance."""
READ = ("messages", "tools", "length", "weight", "train")
SHORT = 16  # characters: a shorter message may stand in a text by chance

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]
_GENERATION = re.compile(r"\{%([-+]?)\s*generation\s*([-+]?)%\}")
_ENDGENERATION = re.compile(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}")
_SIGNS = range(0xF0000, 0xFFFFE)
"""Characters without a meaning. Two that a text lacks are written where a template's marks begin and end."""


def format_of(tokenizer: Any) -> str:
    """The format of conversations that a tokenizer's configuration names as `chat_format`; "template" if it names none.

    `AutoTokenizer.from_pretrained(folder, chat_format="llama")` names one, and `save_pretrained` keeps it.
    """
    return tokenizer.init_kwargs.get("chat_format", "template")


def takes_system(tokenizer: Any) -> bool:
    """Whether the tokenizer's format writes a system message, which some chat templates drop and others refuse."""
    asked = [{"role": "system", "content": STAND_IN}, {"role": "user", "content": "-"}]
    if format_of(tokenizer) == "template" and not tokenizer.chat_template:
        return True
    try:
        return STAND_IN in Chat(asked, tokenizer, format_of(tokenizer)).text()
    except DataError:
        return False


@dataclass(frozen=True)
class Chat:
    """A conversation, the tools it may call, and the tokenizer and format that write it."""

    messages: Messages
    tokenizer: Any
    chat_format: str
    tools: Sequence[Mapping[str, Any]] | None = None

    def until(self, end: int) -> "Chat":
        """The same with the first `end` messages alone."""
        return replace(self, messages=self.messages[:end])

    def having(self, index: int, message: Mapping[str, Any]) -> "Chat":
        """The same with another message in the place of one."""
        return replace(self, messages=[*self.messages[:index], message, *self.messages[index + 1 :]])

    def stand_in(self, index: int) -> "Chat":
        """The same with STAND_IN as all that a message says."""
        kept = {key: value for key, value in self.messages[index].items() if key not in CARRIED}
        return self.having(index, {**kept, "content": STAND_IN})

    @property
    def asks(self) -> bool:
        """Whether the assistant is to speak now."""
        return self.messages[-1]["role"] != "assistant"

    @property
    def is_marked(self) -> bool:
        """Whether the template marks the answers itself."""
        return self.chat_format == "template" and bool(_GENERATION.search(self._template()))

    def check_format(self) -> None:
        """Raises ValueError for a format that there is not, and for a tokenizer by chance or without a template."""
        if self.chat_format not in CHAT_FORMATS:
            raise ValueError(f"unknown chat_format {self.chat_format!r}: one of {', '.join(CHAT_FORMATS)}.")
        if self.chat_format == "template" and not self.tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template: give it one, or choose chat_format (--chat-format) llama or "
                "chatglm."
            )

        if getattr(getattr(getattr(self.tokenizer, "backend_tokenizer", None), "model", None), "dropout", None):
            raise ValueError("the tokenizer cuts words by chance: set the dropout in its tokenizer.json to null.")

    def text(self, *, ask: bool | None = None, template: str | None = None) -> str:
        """The text of the conversation; after a question it goes on to where the answer begins, unless `ask` is False.

        `template` stands in for the tokenizer's own.  Raises DataError where the template refuses the messages.
        """
        if self.chat_format != "template":
            return _longalign_text(self.messages, self.chat_format)
        from jinja2.exceptions import TemplateError

        own = ("weight", "train")  # they are this package's, and no template's
        messages = [{key: value for key, value in message.items() if key not in own} for message in self.messages]
        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=self.tools, chat_template=template, tokenize=False,
                add_generation_prompt=self.asks if ask is None else ask,
            )  # fmt: skip
        except (TemplateError, TypeError) as error:
            raise DataError("template refuses the messages", f"{error}", field="messages") from None

    def marked_text(self) -> tuple[str, list[Span]]:
        """The text of a conversation in a template with {% generation %}, and the characters that it marks.

        The template writes where its marks are: what transformers counts is wrong in a macro and in a loop that is
        recursive. Raises DataError where the template then writes another text.
        """
        plain, text, start = self.text(), "", 0
        opens, closes = islice((chr(sign) for sign in _SIGNS if chr(sign) not in plain), 2)
        joined: list[Span] = []
        for piece in re.split(f"([{opens}{closes}])", self.text(template=_with_marks(self._template(), opens, closes))):
            if piece == opens:
                start = joined.pop()[0] if joined and joined[-1][1] == len(text) else len(text)
            elif piece != closes:
                text += piece
            elif start < len(text):
                joined.append((start, len(text)))
        if text != plain:
            detail = "what its {% generation %} marks cannot be told: it works on the marked text; mark what it writes"
            raise DataError("template unsuitable", detail, field="messages")
        return text, joined

    def _template(self) -> str:
        return self.tokenizer.get_chat_template(tools=self.tools)


def check_fields(chat: Chat) -> None:
    """Raises DataError for a field of a message, for tools or for a tool's turn that the format has no place for.

    In a template it has one if the conversation up to its message reads otherwise without it.
    """
    for index, message in enumerate(chat.messages):
        field, message = f"messages[{index}]", {"content": "", **message}
        here = chat.until(index + 1).having(index, message)
        for key in CARRIED:
            if key in message:
                rest = {name: value for name, value in message.items() if name != key}
                _check_place(here, here.having(index, rest), f"{field}.{key}")
                for place, fewer in _without_an_end(message[key]):
                    _check_place(here, here.having(index, {**rest, key: fewer}), f"{field}.{key}[{place}]")
        if message["role"] == "tool":
            _check_place(here, here.having(index, {**message, "role": "user"}), f"{field}.role")
            if _is_dropped(here, index):
                raise DataError("template drops the field", "it writes no results of tools", field=f"{field}.content")
    if chat.tools:
        _check_place(chat, replace(chat, tools=None), "tools")
    for place, fewer in _without_an_end(chat.tools):
        _check_place(chat, replace(chat, tools=fewer), f"tools[{place}]")


def _without_an_end(value: Any) -> list[tuple[int, list[Any]]]:
    """A list of several without its last and without its first: templates are known that write one of several calls.

    >>> _without_an_end(["a", "b", "c"]), _without_an_end(["a"]), _without_an_end("text")
    ([(2, ['a', 'b']), (0, ['b', 'c'])], [], [])
    """
    if not isinstance(value, list) or len(value) < 2:
        return []
    return [(len(value) - 1, value[:-1]), (0, value[1:])]


def _check_place(chat: Chat, without: Chat, field: str) -> None:
    if chat.chat_format != "template":
        detail = f"chat_format {chat.chat_format} has no place for it; a chat template that knows it has"
        raise DataError("format drops the field", detail, field=field)
    text = chat.text()
    try:
        known = text != without.text()
    except DataError:  # the template needs it
        known = True
    if not known:
        detail = "the conversation reads the same without it; take a template that knows it, or leave it out"
        raise DataError("template drops the field", detail, field=field)


def check_contents(chat: Chat, text: str) -> None:
    """Raises DataError for a message whose content leaves the text as it is: the template drops it."""
    for index, message in enumerate(chat.messages):
        content = message.get("content", "").strip()
        alone = len(content) > SHORT and not any(key in message for key in CARRIED)
        often = sum(other.get("content", "").count(content) for other in chat.messages) if alone else 0
        if content and not (alone and text.count(content) >= often) and _is_dropped(chat, index):
            detail = "the conversation reads the same without it"
            raise DataError("template drops the field", detail, field=f"messages[{index}].content")


def _is_dropped(chat: Chat, index: int) -> bool:
    changed = chat.having(index, {**chat.messages[index], "content": STAND_IN})
    try:
        return changed.text(ask=False) == chat.text(ask=False)
    except DataError:  # the template looks into the content, and so does not drop it
        return False


def shortened(chat: Chat, text: str) -> int:
    """Messages of which the template writes only a part, as where it drops earlier thoughts; results of tools, which it
    may write as JSON, and answers that are no targets do not count."""
    if chat.chat_format != "template":
        return 0
    looked_at = [index for index, message in enumerate(chat.messages)
                 if message["role"] in ("system", "user") or is_target(message)]  # fmt: skip
    return sum(_is_shortened(chat, index, text) for index in looked_at)


def _is_shortened(chat: Chat, index: int, text: str) -> bool:
    message = chat.messages[index]
    if message.get("content", "").strip() not in text:
        return True
    for key in CARRIED:
        if key in message:
            rest = {"content": "", **{name: value for name, value in message.items() if name != key}}
            try:
                if chat.having(index, rest).text() == text:
                    return True
                # in the place of thoughts that it drops, a template may write an empty block
                if isinstance(message[key], str) and message[key].strip():
                    if STAND_IN not in chat.having(index, {**rest, key: STAND_IN}).text():
                        return True
            except DataError:  # the template needs it
                continue
    return False


def unread_keys(row: Mapping[str, Any], tokenizer: Any, chat_format: str) -> tuple[str, ...]:
    """Keys of a sample and of its messages that say something and that neither this package nor the template reads.

    >>> said = [{"role": "user", "content": "Why?", "id": 7}, {"role": "assistant", "content": "So."}]
    >>> unread_keys({"messages": said, "context": "..."}, None, "llama")
    ('context', 'messages[].id')
    """
    chat = Chat(check_messages(row["messages"]), tokenizer, chat_format, row.get("tools") or None)
    own = {key: None for message in chat.messages for key in message if key not in (*READ, *CARRIED, "role", "content")}
    of_row = [key for key, value in row.items() if key not in READ and value not in (None, [], {}, "")]
    return (*of_row, *(f"messages[].{key}" for key in own if not _is_read(chat, key)))


def _is_read(chat: Chat, key: str) -> bool:
    """Whether a template writes something else without a key of the messages."""
    if chat.chat_format != "template" or key not in str(chat.tokenizer.chat_template):
        return False
    without = [{name: value for name, value in message.items() if name != key} for message in chat.messages]
    try:
        return replace(chat, messages=without).text() != chat.text()
    except DataError:  # the template needs it
        return True


def _longalign_text(messages: Messages, chat_format: str) -> str:
    r"""A conversation in LongAlign's formats, without the end tokens.

    >>> _longalign_text([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2, "llama")
    '[INST]a[/INST]b\n\n[INST]a[/INST]b'
    """
    text, lead, turn = "", "", 0
    for message in messages:
        if message["role"] == "system":
            lead = message["content"] + "\n\n"
        elif message["role"] == "assistant":
            text += message["content"]
        else:
            turn += 1
            question = lead + message["content"]
            form = f"[INST]{question}[/INST]"
            if chat_format == "chatglm":
                form = f"[Round {turn}]\n\n问：{question}\n\n答："
            text, lead = text + "\n\n" * (turn > 1) + form, ""
    return text


@lru_cache
def _with_marks(template: str, opens: str, closes: str) -> str:
    """A template that also writes where its marks begin and end; each tag takes the blanks around it as before."""
    opened = _GENERATION.sub(rf"{{%\1 if true %}}{{{{ '{opens}' }}}}{{% endif %}}{{% generation \2%}}", template)
    return _ENDGENERATION.sub(rf"{{%\1 endgeneration %}}{{% if true %}}{{{{ '{closes}' }}}}{{% endif \2%}}", opened)
