"""The arguments of tool calls as a chat template takes them: an object, or a string of JSON.

Servers write a string, most templates take an object and write it as JSON themselves; given the other kind, they write
JSON within JSON, write Python, or fail.  Both hold the same, so the kind that the template writes as JSON is taken.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from longalign.data.chat_formats import Chat
from longalign.data.jsonl import DataError


def readable(chat: Chat) -> Chat:
    """The conversation with the arguments of its tool calls as its template takes them.

    As given where they are written as JSON; else as objects where strings are given, and as strings where objects are.
    Raises DataError for a string that is no object in a template that writes objects.
    """
    calls = [call for message in chat.messages for call in message.get("tool_calls", ())]
    arguments = [value for call in calls if (value := _arguments(call)) is not None]
    for kind, change in ((str, _as_object), (dict, _as_string)):
        given = [value for value in arguments if isinstance(value, kind)]
        if given and chat.chat_format == "template" and not _written(chat, given):
            changed = replace(chat, messages=[_changed(message, change) for message in chat.messages])
            if _written(changed, [change(value) for value in given]):
                return changed
            _check_objects(chat)
    return chat


def _check_objects(chat: Chat) -> None:
    """Raises DataError for a string that is no object and that the template writes as JSON within JSON."""
    text = chat.text()
    for index, message in enumerate(chat.messages):
        for place, call in enumerate(message.get("tool_calls", ())):
            value = _arguments(call)
            unread = isinstance(value, str) and value.strip() and _as_object(value) is value
            if unread and json.dumps(value, ensure_ascii=False) in text:
                detail = f"{value!a:.40}; the template writes them as an object"
                raise DataError("arguments not a JSON object", detail, field=f"messages[{index}].tool_calls[{place}]")


def _written(chat: Chat, arguments: list[Any]) -> bool:
    """Whether the template writes these arguments, and neither as JSON within JSON nor as Python."""
    try:
        text = chat.text()
    except DataError:
        return False
    told = [value for value in arguments if value not in ("", {})]
    wrong = (json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value) for value in told)
    return not any(form in text for form in wrong)


def _arguments(call: Mapping[str, Any]) -> Any:
    function = call.get("function", call)
    return function.get("arguments") if isinstance(function, Mapping) else None


def _changed(message: Mapping[str, Any], change: Callable[[Any], Any]) -> Mapping[str, Any]:
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_changed_call(call, change) for call in message["tool_calls"]]}


def _changed_call(call: Mapping[str, Any], change: Callable[[Any], Any]) -> Mapping[str, Any]:
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _changed_call(call["function"], change)}
    return {**call, "arguments": change(call["arguments"])} if "arguments" in call else call


def _as_object(value: Any) -> Any:
    """Of a string that is a JSON object, the object; anything else as it is.

    >>> _as_object('{"city": "Bonn"}'), _as_object("Bonn")
    ({'city': 'Bonn'}, 'Bonn')
    """
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return found if isinstance(found, dict) else value


def _as_string(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
