"""What tests of conversations share: calls of tools, a conversation of two turns, and the text of its targets."""


import numpy as np

from chat_tokenizers import assistant, user
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import encode

CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
AS_TEXT = {**CALL, "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
TWO = [user("q?"), assistant("first"), user("and?"), assistant("second")]


def calls(*tool_calls, **more):
    return {"role": "assistant", "tool_calls": list(tool_calls), **more}


def tool(content):
    return {"role": "tool", "content": content, "tool_call_id": "call12345", "name": "weather"}


def targets(messages, tokenizer, **options):
    """The text of each run of targets."""
    encoded = encode(messages, tokenizer, **options)
    mask = np.concatenate([[False], encoded.labels != IGNORE_INDEX, [False]])
    runs = np.flatnonzero(np.diff(mask.astype(int))).reshape(-1, 2)
    assert np.array_equal(encoded.labels[mask[1:-1]], encoded.input_ids[mask[1:-1]])
    return [tokenizer.decode(encoded.input_ids[start:end]) for start, end in runs]
