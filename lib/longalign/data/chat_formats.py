"""A conversation as text, in a chat template or one of LongAlign's formats, and what a template leaves out of it.

T = tokens of the conversation.  What a template drops is found by rendering the conversation once more, changed: a
field that changes nothing is not known to the template, and is refused rather than lost.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from longalign.data.jsonl import CARRIED, DataError, is_target

CHAT_FORMATS = ("template", "llama", "chatglm")
STAND_IN = "\ue000stand-in\ue001"
"""Stands in a message's place, to see what a template writes around it; its ends are characters that no text has."""
SHORT = 16  # characters: a shorter message may stand in a text by chance

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]
_ONE_AT_A_TIME = threading.Lock()
"""Transformers keeps what a template marks in one place for all threads, where also a text without marks writes."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def format_of(tokenizer: Any) -> str:
    """The format of conversations that a tokenizer's configuration names as `chat_format`; "template" if it names none.

    `AutoTokenizer.from_pretrained(folder, chat_format="llama")` names one, and `save_pretrained` keeps it.
    """
    return tokenizer.init_kwargs.get("chat_format", "template")


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
        """Raises ValueError for a format that there is not, and for a tokenizer without a chat template."""
        if self.chat_format not in CHAT_FORMATS:
            raise ValueError(f"unknown chat_format {self.chat_format!r}: one of {', '.join(CHAT_FORMATS)}.")
        if self.chat_format == "template" and not self.tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template: give it one, or choose chat_format (--chat-format) llama or "
                "chatglm."
            )

    def text(self, *, ask: bool | None = None) -> str:
        """The text of the conversation; after a question it goes on to where the answer begins, unless `ask` is False.

        Raises DataError where the template refuses the messages.
        """
        if self.chat_format != "template":
            return _longalign_text(self.messages, self.chat_format)
        ask = self.asks if ask is None else ask
        return self._rendered(lambda messages: self.tokenizer.apply_chat_template(
            messages, tools=self.tools, tokenize=False, add_generation_prompt=ask
        ))  # fmt: skip

    def marked_text(self) -> tuple[str, list[Span]]:
        """The text of a conversation in a template with {% generation %}, and the characters that it marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tools: Any = self.tools  # transformers asks for a list of dicts, and takes what is like one
        texts, marks = self._rendered(lambda messages: render_jinja_template(
            [messages], tools=tools, chat_template=self._template(), return_assistant_tokens_mask=True,
            add_generation_prompt=False, **self.tokenizer.special_tokens_map,
        ))  # fmt: skip
        joined: list[Span] = []
        for start, end in marks[0]:
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            if start < end:
                joined.append((start, end))
        return texts[0], joined

    def _template(self) -> str:
        return self.tokenizer.get_chat_template(tools=self.tools)

    def _rendered(self, render: Any) -> Any:
        from jinja2.exceptions import TemplateError

        own = ("weight", "train")  # they are this package's, and no template's
        messages = [{key: value for key, value in message.items() if key not in own} for message in self.messages]
        try:
            with _ONE_AT_A_TIME:
                return render(messages)
        except (TemplateError, TypeError) as error:
            raise DataError("template refuses the messages", f"{error}", field="messages") from None


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
        if message["role"] == "tool":
            _check_place(here, here.having(index, {**message, "role": "user"}), f"{field}.role")
            if _is_dropped(here, index):
                raise DataError("template drops the field", "it writes no results of tools", field=f"{field}.content")
    if chat.tools:
        _check_place(chat, replace(chat, tools=None), "tools")


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
        if content and not (alone and content in text) and _is_dropped(chat, index):
            detail = "the conversation reads the same without it"
            raise DataError("template drops the field", detail, field=f"messages[{index}].content")


def _is_dropped(chat: Chat, index: int) -> bool:
    changed = chat.having(index, {**chat.messages[index], "content": STAND_IN})
    try:
        return changed.text(ask=False) == chat.text(ask=False)
    except DataError:  # the template looks into the content, and so does not drop it
        return False


def shortened(chat: Chat, text: str) -> int:
    """Answers that are targets and of which the template writes only a part, as where it drops earlier thoughts."""
    if chat.chat_format != "template":
        return 0
    return sum(is_target(message) and _is_shortened(chat, index, text) for index, message in enumerate(chat.messages))


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
            except DataError:  # the template needs it
                continue
    return False


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
