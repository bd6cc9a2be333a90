"""Rows of JSONL files, good and bad, for the tests of what reads them."""

import json

from chat_tokenizers import assistant, user

GOOD = {"messages": [user("w0 w1"), assistant("w2 w0 w4")], "length": 11, "task": "lookup"}
BAD = {
    b'{"messages": [': "malformed JSON",
    b"[]": "not an object",
    b'{"message": 1}': "missing messages",
    json.dumps({"messages": [{"role": "human", "content": "w1"}]}).encode(): "unknown role",
    json.dumps({"messages": [user("w1")]}).encode(): "no assistant turn",
    json.dumps({"messages": [user("w1"), assistant("")]}).encode(): "empty answer",
    json.dumps({"messages": [user("w1 \ud800"), assistant("w1")]}).encode(): "lone surrogate",
    json.dumps({"messages": [user("w1"), assistant(" ".join(["w1"] * 99))]}).encode(): "no room for its answer",
    '{"messages": "grün"}'.encode("latin-1"): "not UTF-8",
}
"""Lines that are no sample in at most 40 words of `chat_tokenizers.word_tokenizer`, and the reasons."""


def write_rows(path, rows):
    """JSON rows as lines; bytes as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path
