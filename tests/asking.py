"""Requests to a server that fails, one or many at once."""

from longalign.clients import concurrency
from longalign.clients.client import Asker
from longalign.clients.reply_store import Replies, Request
from longalign.clients.server import Server


def request(question, **more):
    return Request([{"role": "user", "content": question}], max_tokens=8, **more)


def asker(server, file, **more):
    more = {"backoff": 0.01} | more
    return Asker(Server(server.url, model="a-model", key_variable="TEST_API_KEY", timeout=2.0), file, **more)


def ask_all(server, path, questions, *, at_once=8, slow=0, **more):
    with Replies(path) as file:
        ask = asker(server, file, **more)
        ask.server.timeout = ask.server._client.timeout = 60.0 if slow else 2.0
        found = concurrency.each(lambda q: ask.ask(request(q)).text, questions, asker=ask, at_once=at_once)
    return found, ask
