"""Questions of a published benchmark, answers to them, and a model that echoes."""

from longalign.clients.errors import Refused
from longalign.clients.reply_store import Reply, Request
from longalign.evals.benchmarks.questions import Answer
from longalign.miniature import tokenizer as miniature

WORDS = miniature.load()


def answer(text, reference, task, *, language="en", ordered=False):
    name = f"{task}-1"
    return Answer(name, name, "m", "longbench", task, language, 0, "?", (reference,), ordered, text, "stop", 0)


class Says:
    """A model that answers with what it was asked last, in capitals."""

    model = "echo"

    def __init__(self, refuse=()):
        self.asked, self.refuse = [], refuse

    def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        if request.label in self.refuse:
            raise Refused("too long")
        return Reply(request.messages[-1]["content"].upper(), prompt_tokens=3)
