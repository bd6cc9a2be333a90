"""A model that many threads ask: what is known first, then the server, patiently; no question twice at a time.

A server that pauses everybody (429 with Retry-After) pauses every thread. What cannot be avoided: a request that the
server worked on, but whose answer never arrived, is asked, and may be paid, again.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import tenacity

from longalign.clients.errors import THOUGHTS_ALONE, EndpointError, NoReply, Passing, Refused, Stopped
from longalign.clients.reply_store import Replies, Reply, Request

ATTEMPTS = 8
LONGEST_BACKOFF = 30.0
MOST_FAILURES = 10


class Pace:
    """At most `per_minute` requests a minute over all threads, and none while the server wants to be left alone."""

    def __init__(self, per_minute: float | None = None) -> None:
        self.gap = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def turn(self) -> float:
        """Seconds until the caller's turn, which is then taken."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + self.gap
            return self._next - self.gap - now

    def pause(self, seconds: float) -> None:
        """Nobody's turn comes within these seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Answering(Protocol):
    """What can be asked: a server, or a model in this process."""

    model: str

    def ask(self, request: Request) -> Reply:
        """One reply. Raises `longalign.clients.errors.EndpointError`."""


class Asker:
    """Asks `server`, or only looks replies up where it is None; safe to use from many threads.

    `replies` must be open. `model` is the name that replies are kept under. `thinking_tokens` are those that a
    reasoning model may think before its reply: every request gets so many more. `backoff` is the first wait in seconds
    after an error, doubled each time up to LONGEST_BACKOFF, with chance in it; a Retry-After is waited for in its
    place. After MOST_FAILURES requests in a row that were given up, all others are.
    """

    def __init__(
        self, server: Answering | None, replies: Replies, *, model: str = "", thinking_tokens: int = 0,
        per_minute: float | None = None, backoff: float = 1.0,
    ) -> None:  # fmt: skip
        self.server, self.replies = server, replies
        self.model, self.thinking_tokens = model or (server.model if server else ""), thinking_tokens
        self.pace, self.stop = Pace(per_minute), threading.Event()
        self.retries = self._failures = 0
        self._waits = tenacity.wait_random_exponential(multiplier=backoff, max=LONGEST_BACKOFF)
        self._under_way: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def known(self, request: Request) -> Reply | None:
        """The reply if it is there already."""
        return self.replies.get(self._with_thoughts(request).key(self.model))

    def ask(self, request: Request) -> Reply:
        """The reply, from the file or the server.

        Raises `Refused`, `Stopped`, `NoReply` where it holds thoughts alone, and `Passing` after ATTEMPTS errors.
        """
        request = self._with_thoughts(request)
        reply = self._ask(request)
        if reply.thoughts_alone:
            detail = f"they took all {request.max_tokens:,} tokens" if reply.finish == "length" else ""
            raise NoReply(THOUGHTS_ALONE, detail, thoughts=reply.thoughts)
        return reply

    def _with_thoughts(self, request: Request) -> Request:
        return replace(request, max_tokens=request.max_tokens + self.thinking_tokens)

    def _ask(self, request: Request) -> Reply:
        key = request.key(self.model)
        with self._alone(key):
            if (known := self.replies.get(key)) is not None:
                return known
            if self.server is None:
                raise Refused(f"{self.replies.path} holds no reply to {request.label or 'this request'}")
            reply = self._patiently(request)
            self.replies.add(key, reply, model=self.model, label=request.label)
            return reply

    def _patiently(self, request: Request) -> Reply:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing), stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._wait, sleep=self._sleep, before_sleep=self._count, reraise=True,
        )  # fmt: skip
        try:
            reply = retrying(self._once, request)
        except Passing as error:
            raise self._given_up(error) from None
        self._failures = 0
        return reply

    def _given_up(self, error: Passing) -> EndpointError:
        with self._lock:
            self._failures += 1
        if self._failures < MOST_FAILURES:
            return error
        return Stopped(f"{error}; {self._failures} requests in a row ended so: give the same command again later")

    def _once(self, request: Request) -> Reply:
        self._sleep(self.pace.turn())
        try:
            return self.server.ask(request)
        except Passing as error:
            if error.wait:
                self.pace.pause(error.wait)
            raise

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception()
        # the pace holds everybody back for as long as the server asked
        return 0.0 if error.wait else self._waits(state)

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped("interrupted")

    def _count(self, _: tenacity.RetryCallState) -> None:
        with self._lock:
            self.retries += 1

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        with self._lock:
            lock = self._under_way.setdefault(key, threading.Lock())
        with lock:
            yield
