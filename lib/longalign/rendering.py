"""Guarantees which tokens of a conversation are answers, exactly; the price is a text rendered once for every prefix.

T = tokens of the conversation.  Every format goes the same way: render the text, find the answers in it by rendering
its prefixes, tokenize it, and map characters to tokens by offsets.  A tokenizer without offsets (a slow one) has its
text cut at the edges instead, so that a piece's tokens all start with the piece.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longalign.jsonl import DataError

CHAT_FORMATS = ("template", "llama", "chatglm")

Messages = Sequence[Mapping[str, str]]
Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Tokens:
    """A tokenized conversation: its tokens, which are answers (with end tokens), where in the text they start."""

    ids: np.ndarray  # int32 [T]
    targets: np.ndarray  # bool [T]
    starts: np.ndarray  # int64 [T], the character of the rendered text at which a token starts


def format_of(tokenizer: Any) -> str:
    """The format of conversations that a tokenizer's configuration names as `chat_format`; "template" if it names none.

    `AutoTokenizer.from_pretrained(folder, chat_format="llama")` names one, and `save_pretrained` keeps it.
    """
    return tokenizer.init_kwargs.get("chat_format", "template")


def tokenize(messages: Messages, tokenizer: Any, chat_format: str, *, cuts: Sequence[int] = ()) -> Tokens:
    """All tokens of a conversation; it ends where the assistant begins if its last message is the user's."""
    if chat_format not in CHAT_FORMATS:
        raise ValueError(f"unknown chat_format {chat_format!r}: one of {', '.join(CHAT_FORMATS)}.")
    if chat_format != "template":
        return _tokenize_longalign(messages, tokenizer, chat_format, cuts)
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template: give it one, or choose chat_format (--chat-format) llama or chatglm."
        )
    if _GENERATION.search(tokenizer.get_chat_template()):
        return _tokenize_marked(messages, tokenizer)
    return _tokenize_template(messages, tokenizer, cuts)


def render(messages: Messages, tokenizer: Any, chat_format: str) -> str:
    """The text of a conversation; after a question it goes on to where the answer begins."""
    if chat_format != "template":
        return _longalign_text(messages, chat_format)
    from jinja2.exceptions import TemplateError

    ask = messages[-1]["role"] == "user"
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        raise DataError("template refuses the messages", f"{error}", field="messages") from None


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


def _answer_spans(messages: Messages, tokenizer: Any, chat_format: str, text: str) -> list[Span]:
    """The characters of `text` that each answer occupies (in a template with its end), found by rendering prefixes."""
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        field = f"messages[{index}].content"
        before, after = (render(messages[:end], tokenizer, chat_format) for end in (index, index + 1))
        if not (after.startswith(before) and text.startswith(after)):
            detail = "not prefix-stable: a turn changes when more follow; mark the answers in it by {% generation %}"
            raise DataError("template unsuitable", detail, field=field)
        if not after[len(before) :].lstrip().startswith(message["content"].strip()):
            detail = "the answer does not follow its generation prompt; mark the answers in it by {% generation %}"
            raise DataError("template unsuitable", detail, field=field)
        spans.append((len(before), len(after)))
    return spans


def _tokenize_longalign(messages: Messages, tokenizer: Any, chat_format: str, cuts: Sequence[int]) -> Tokens:
    if tokenizer.eos_token_id is None:
        raise ValueError(f'the tokenizer has no end-of-sequence token, which chat_format "{chat_format}" needs.')
    text = _longalign_text(messages, chat_format)
    spans = _answer_spans(messages, tokenizer, chat_format, text)
    ids, starts = _tokens_of(text, tokenizer, cuts=[*itertools.chain(*spans), *cuts], split_special_tokens=True)
    ends = [end for _, end in spans]
    at = np.searchsorted(starts, ends)
    ids, starts = np.insert(ids, at, tokenizer.eos_token_id), np.insert(starts, at, ends)
    before = _tokens_before_text(tokenizer)
    ids = np.concatenate([np.array(before, dtype=np.int32), ids])
    starts = np.concatenate([np.full(len(before), -1), starts])
    runs = [(int(a), int(b) + 1) for a, b in (np.searchsorted(starts, span) for span in spans)]
    return Tokens(ids, _mask(runs, len(ids)), starts)


def _tokenize_template(messages: Messages, tokenizer: Any, cuts: Sequence[int]) -> Tokens:
    text = render(messages, tokenizer, "template")
    spans = _answer_spans(messages, tokenizer, "template", text)
    begins = [start for start, _ in spans] + [len(text)] * (messages[-1]["role"] == "user")
    if not has_offsets(tokenizer):
        ids, starts = _tokens_of(text, tokenizer, cuts=[*begins, *(end for _, end in spans), *cuts])
    else:
        ids, starts = _tokens_of(text, tokenizer)
        torn = [begin for begin in begins if not _tokens_end_at(begin, text, ids, starts, tokenizer)]
        if torn:
            ids, starts = _tokens_of(text, tokenizer, cuts=torn)
    runs = [tuple(int(edge) for edge in np.searchsorted(starts, span)) for span in spans]
    return Tokens(ids, _mask(_until_end_token(runs, ids, tokenizer), len(ids)), starts)


def _tokenize_marked(messages: Messages, tokenizer: Any) -> Tokens:
    """A template with {% generation %}: the tokenizer's own mask says which tokens are the assistant's."""
    if not has_offsets(tokenizer):
        raise ValueError("a chat template with {% generation %} needs a fast tokenizer (one with offsets).")
    if messages[-1]["role"] == "user":
        ids, starts = _tokens_of(render(messages, tokenizer, "template"), tokenizer)
        return Tokens(ids, np.zeros(len(ids), dtype=bool), starts)
    render(messages, tokenizer, "template")
    out = tokenizer.apply_chat_template(
        messages,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
    )
    ids = np.array(out["input_ids"], dtype=np.int32)
    edges = np.flatnonzero(np.diff(np.array([0, *out["assistant_masks"], 0], dtype=np.int8)))
    runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    answers = sum(message["role"] == "assistant" for message in messages)
    if len(runs) != answers:
        detail = f"its {{% generation %}} marks {len(runs)} runs of tokens for {answers} answers"
        raise DataError("template unsuitable", detail, field="messages")
    starts = np.array(out["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 0]
    return Tokens(ids, _mask(_until_end_token(runs, ids, tokenizer), len(ids)), starts)


def _until_end_token(runs: list[Span], ids: np.ndarray, tokenizer: Any) -> list[Span]:
    """Each answer up to and with its end token: the last special token in it, or else the one that follows it."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {tokenizer.eos_token_id, *tokenizer.all_special_ids}
    is_end, trimmed = np.isin(ids, [index for index in special if index is not None]), []
    for start, end in runs:
        inside = np.flatnonzero(is_end[start:end])
        if not len(inside) and not is_end[end : end + 1].any():
            detail = "it puts no end token behind the answer; add one to the template, or use another chat_format"
            raise DataError("template unsuitable", detail, field="messages")
        trimmed.append((start, start + int(inside[-1]) + 1 if len(inside) else end + 1))
    return trimmed


def _mask(runs: Sequence[Span], length: int) -> np.ndarray:
    targets = np.zeros(length, dtype=bool)
    for start, end in runs:
        if end - start < 2:
            raise DataError("empty answer", "the tokenizer has no token for its text", field="messages")
        targets[start:end] = True
    return targets


def has_offsets(tokenizer: Any) -> bool:
    """Whether a tokenizer can say which characters a token is made of."""
    return bool(getattr(tokenizer, "is_fast", False))


def _tokens_of(text: str, tokenizer: Any, *, cuts: Sequence[int] = (), **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [T] and first characters int64 [T] of a text that is tokenized in pieces."""
    ids, starts, offsets = [], [], has_offsets(tokenizer)
    edges = sorted({0, len(text), *cuts})
    for start, end in itertools.pairwise(edges):
        out = tokenizer(
            text[start:end],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            verbose=False,
            **options,
        )
        ids.append(np.array(out["input_ids"], dtype=np.int32))
        first = [offset for offset, _ in out["offset_mapping"]] if offsets else [0] * len(ids[-1])
        starts.append(np.array(first, dtype=np.int64) + start)
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty.astype(np.int32), *ids]), np.concatenate([empty, *starts])


def _tokens_end_at(position: int, text: str, ids: np.ndarray, starts: np.ndarray, tokenizer: Any) -> bool:
    """Whether the tokens before a position are those that its text gives alone.

    Not so where a token reaches across, or holds a blank of the prompt's end.  Only the last 64 tokens are tokenized
    again and only the last 8 compared: a long prompt is not worth a second pass, and the first of a piece may differ
    by where it begins.
    """
    count = int(np.searchsorted(starts, position))
    begin = int(starts[count - 64]) if count > 64 else 0
    alone, _ = _tokens_of(text[begin:position], tokenizer)
    compare = 8 if count > 64 else max(count, len(alone))
    return np.array_equal(alone[-compare:], ids[max(0, count - compare) : count])


def _tokens_before_text(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before any text (as <s>); what it puts behind is left out, the format has its own end."""
    alone, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    for start in range(len(whole) - len(alone) + 1):
        if alone and whole[start : start + len(alone)] == alone:
            return list(whole[:start])
    return []
