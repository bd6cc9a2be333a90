"""Forms of data that other tools read, and in one sentence how each becomes lines of {"messages": [...]}.

Nothing is converted here: which key is the question, and whether an answer is to be learnt, its owner knows.
"""

from collections.abc import Mapping
from typing import Any

_MEDIA = dict.fromkeys(("images", "image", "audios", "audio", "videos", "video"), "text alone is learnt; leave it out")
UNREAD = {
    "functions": "name them under the key tools",
    "chat_template_kwargs": "a chat template is given messages and tools alone; leave it out",
    "chat_template": "it is the tokenizer's; leave it out",
    "documents": "write them into the message that asks about them",
    **_MEDIA,
}
"""Keys of a sample that would change what it says, and what to do instead."""
MASKS = ("training", "trainable", "loss", "loss_mask", "mask", "masked", "training_detail", "train_detail")
UNREAD_OF_MESSAGE = {"tool_responses": "make each a message of the role tool", **_MEDIA,
                      **dict.fromkeys(MASKS, "what is learnt is said by train, true or false")}  # fmt: skip
OTHER_ROLES = {
    "developer": "system", "human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant",
    "bot": "assistant", "chatgpt": "assistant", "ai": "assistant", "function": "tool", "ipython": "tool",
    "observation": "tool",
}  # fmt: skip
"""Words of other formats for a role, and this package's word."""
_CONTAINERS = {
    b"\x1f\x8b": "it is compressed with gzip: unpack it (gunzip -k FILE)",
    b"BZh": "it is compressed with bzip2: unpack it (bunzip2 -k FILE)",
    b"\xfd7zXZ": "it is compressed with xz: unpack it (unxz -k FILE)",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd: unpack it (unzstd FILE)",
    b"PK\x03\x04": "it is a zip archive: unpack it (unzip FILE)",
    b"PAR1": "it is Parquet: write lines with datasets.Dataset.from_parquet(FILE).to_json(OUT)",
    b"ARROW1": "it is Arrow: write lines with datasets.Dataset.from_file(FILE).to_json(OUT)",
    b"\xff\xff\xff\xff": "it is Arrow: write lines with datasets.Dataset.from_file(FILE).to_json(OUT)",
    b"\xff\xfe": "it is UTF-16: write it in UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > OUT)",
    b"\xfe\xff": "it is UTF-16: write it in UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > OUT)",
}
_PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"),
    ("prompt", "chosen"), ("question", "answer"), ("question", "response"), ("query", "response"), ("input", "output"),
)  # fmt: skip
"""A question and its answer, as Alpaca and others name them."""


def of_file(beginning: bytes) -> str:
    """What a file is that begins so, where it holds no lines of JSON, and what to do; "" where nothing is known.

    >>> of_file(b"PAR1...")[:14], of_file(b'{"messages": ')
    ('it is Parquet:', '')
    """
    found = next((told for magic, told in _CONTAINERS.items() if beginning.startswith(magic)), "")
    text = beginning.strip()
    if text == b"[" or text.startswith((b"[{", b"[ {")):
        return "the file is one list: write an object a line (jq -c '.[]' FILE > OUT)"
    if text == b"{":
        return "an object stands on several lines: write it on one (jq -c . FILE > OUT)"
    return found


def of_row(row: Mapping[str, Any]) -> str:
    """What to do with a sample without messages.

    >>> of_row({"conversations": [{"from": "human", "value": "Why?"}]})
    'ShareGPT\\'s "conversations": write them under "messages", "from" as "role" (human: user, gpt: assistant), \
"value" as "content"'
    """
    for key in ("conversations", "conversation", "dialog", "dialogue", "chat", "turns"):
        said = row.get(key)
        first = said[0] if isinstance(said, list) and said else None
        if isinstance(first, Mapping) and {"from", "value"} <= first.keys():
            return (f'ShareGPT\'s "{key}": write them under "messages", "from" as "role" (human: user, gpt: '
                    'assistant), "value" as "content"')  # fmt: skip
        if isinstance(first, Mapping) and "role" in first:
            return f'rename the key "{key}" to "messages"'
    for asked, answered in _PAIRS:
        if asked in row and answered in row:
            also = ' and "input"' if row.get("input") and asked == "instruction" else ""
            if isinstance(row[asked], list):
                return f'write the lists "{asked}" and "{answered}" one behind the other under "messages"'
            return f'write "{asked}"{also} as a message of the role user, "{answered}" as one of the role assistant'
    keys = ", ".join(ascii(key)[:30] for key in list(row)[:5])
    return 'a sample needs a list under "messages"' + f"; it has {keys}" * bool(keys)


def of_content(content: Any) -> str:
    """What to do with a content that is no string: join its parts, where all are texts; "" where nothing is known."""
    parts = content if isinstance(content, list) and content else [None]
    if all(isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") == "text") for part in parts):
        return "; join the texts of its parts to one string"
    return ""


def kind(value: Any) -> str:
    """What a value of JSON is, in words.

    >>> kind([]), kind(None), kind(3.5)
    ('a list', 'null', 'a number')
    """
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
