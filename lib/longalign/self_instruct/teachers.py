"""Teachers behind one small protocol: five questions on a document, the answer to one of them.

The oracle is the offline default and exact; a model behind a server writes what people would, and may be wrong. The
price of a server: two requests a sample at least, each with the whole document.
"""

from dataclasses import replace
from typing import Protocol

from longalign.clients.client import Asker
from longalign.clients.errors import CUT_OFF, NoReply
from longalign.clients.reply_store import Reply, Request
from longalign.self_instruct import prompts
from longalign.self_instruct.draw import Item
from longalign.self_instruct.oracle import Oracle

PROPOSAL_TOKENS = 256
"""Of the reply that holds five questions."""


class Teacher(Protocol):
    """What proposes questions on an item and answers them. May raise `longalign.clients.errors.EndpointError`."""

    name: str

    def propose(self, item: Item) -> list[str]:
        """At most five distinct questions on different parts of the item's text."""

    def answer(self, item: Item, question: str) -> Reply:
        """The answer, as it came."""


class OracleTeacher:
    """The oracle of `longalign.self_instruct.oracle`, its answers of at most `words` words: nobody is asked."""

    name = "oracle"

    def __init__(self, *, words: int) -> None:
        self._oracle = Oracle(words=words)

    def propose(self, item: Item) -> list[str]:
        """Five questions, fewer where the text is too small."""
        return self._oracle.propose(item)

    def answer(self, item: Item, question: str) -> Reply:
        """Sentences of the text."""
        return Reply(self._oracle.answer(item, question))


class ModelTeacher:
    """A chat model that `asker` asks, greedily, so that a run can be repeated; an answer has `words` at most."""

    def __init__(self, asker: Asker, *, words: int, answer_tokens: int) -> None:
        self.asker, self.name = asker, asker.model
        self.words, self.answer_tokens = words, answer_tokens

    def propose(self, item: Item) -> list[str]:
        """The questions in the reply. Raises `NoReply` where it was cut off."""
        return self.proposed(item, self.asker.ask(self.proposal(item)))

    def proposed(self, item: Item, reply: Reply) -> list[str]:
        """The questions in a reply, as `longalign.self_instruct.prompts.questions` reads it.

        Raises `NoReply` where it was cut off: what looks like questions may be drafts of thoughts that have no end.
        """
        if reply.finish == "length":
            raise NoReply(CUT_OFF)
        return prompts.questions(reply.text, item.document.language)

    def answer(self, item: Item, question: str) -> Reply:
        """The reply, without white space around it."""
        reply = self.asker.ask(self.request(item, question))
        return replace(reply, text=reply.text.strip())

    def proposal(self, item: Item) -> Request:
        """What is asked for five questions."""
        text = prompts.propose(item.text, item.task, item.document.language)
        return Request(_user(text), PROPOSAL_TOKENS, label=f"{item.id}, questions")

    def request(self, item: Item, question: str) -> Request:
        """What is asked for an answer."""
        text = prompts.answer(item.text, question, item.document.language, words=self.words, task=item.task)
        return Request(_user(text), self.answer_tokens, label=f"{item.id}, answer")


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
