"""What a server whose model thinks replies, and what is read of it."""

import json

from longalign.clients.client import Asker
from longalign.clients.reply_store import Replies, Request
from longalign.clients.server import Server

RATING = "<think>\nAt first sight [[3]], but the reference agrees.\n</think>\n\nRating: [[7]]"


def says(content, *, finish="stop", **message):
    """A server's body with this message, for `serving(says(...))`."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    usage = {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}
    told = {"id": "x", "object": "chat.completion", "created": 0, "model": "thinker", "choices": [choice],
            "usage": usage}  # fmt: skip
    return lambda *_: json.dumps(told).encode()


def asked(server, path, request=None, **options):
    with Replies(path) as file:
        asker = Asker(Server(server.url, model="thinker", key_variable="TEST_API_KEY"), file, **options)
        return asker.ask(request or Request([{"role": "user", "content": "2 + 2?"}], 64))
