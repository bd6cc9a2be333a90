"""One request to an OpenAI-compatible server: a reply, or an error that says whether asking again can help.

Retries are the caller's (`longalign.clients.client`), since the client's own know neither an error that comes with
status 200 nor a reply that was cut short. Keys come from the environment alone and are taken out of every text that
comes back, whatever a server writes into it (one that is only a word, such as EMPTY, stays in a model's replies).
"""

import email.utils
import ipaddress
import json
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import openai

from longalign.clients.errors import EndpointError, Passing, Refused, Stopped
from longalign.clients.reply_store import Reply, Request

LONGEST_WAIT = 300.0
"""Seconds of Retry-After that are waited for; who asks for more is asked again by another run."""
TIMEOUT = 600.0
HIDDEN = "[key]"
SHORTEST_KEY = 4
SHORTEST_IN_REPLIES = 16
"""Shorter keys are placeholders that servers of one's own take (EMPTY, ollama, test), and words that models write:
taken out of replies, they would change answers and training data."""
LIMIT, LIMIT_OF_NEW = "max_tokens", "max_completion_tokens"
"""Names of the limit of a reply: the one that every server knows, and the one that OpenAI's newer models want."""
UNSUPPORTED = ("unsupported_parameter", "unsupported_value")
"""Codes of errors that every request of this model would meet, as where it takes no temperature but its own."""
THOUGHTS = ("reasoning_content", "reasoning")
"""Fields of a message in which servers tell what a reasoning model thought (vLLM, DeepSeek; OpenRouter)."""
ENDED = ("", "stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "function_call")
"""Reasons for which a reply ended by itself, in letters of any case; any other (a filter, a failure, a full context)
cut it off."""


class Server:
    """A server at `url` (its base, ending in /v1 as a rule) and the model that is asked there.

    The key is the environment variable `key_variable`, or OPENAI_API_KEY for https://api.openai.com alone: no other
    server is sent that one, and it never goes out in the clear. A key of one's own that does is told. Without a `model`
    the server must have exactly one. Raises ValueError for an address that cannot be used, `Stopped` where nothing
    answers there.
    """

    def __init__(self, url: str, *, model: str = "", key_variable: str, timeout: float = TIMEOUT) -> None:
        self.url, self.key_variable, self.timeout = _checked(url), key_variable, timeout
        if not os.environ.get(key_variable) and _is_openai(url):
            self.key_variable = "OPENAI_API_KEY"
        self._key = _key(self.key_variable)
        if self._key and not _is_private(url):
            print(f"longalign: {self.url} is not encrypted: others can read {self.key_variable} and all questions on "
                  "the way; use https:// if the server has it", file=sys.stderr, flush=True)  # fmt: skip
        # the client takes what it is not given from the environment; account and project belong to OpenAI's own key,
        # and OpenAI refuses a header that names none
        self._client = openai.OpenAI(
            base_url=self.url, api_key=self._key or "none", timeout=timeout, max_retries=0, organization="", project="",
            default_headers=dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit()),
            http_client=openai.DefaultHttpxClient(follow_redirects=False),  # documents go to nobody else
        )  # fmt: skip
        self.model = model or self._only_model()
        self._known_as = {self.model}
        self._limit = LIMIT

    def ask(self, request: Request) -> Reply:
        """Ask once. Raises `Passing`, `Refused` or `Stopped`."""
        limit = self._limit
        try:
            said = self._client.chat.completions.create(
                model=self.model, messages=list(request.messages), temperature=request.temperature,
                **{limit: request.max_tokens},
            )  # fmt: skip
        except openai.OpenAIError as error:
            if limit == LIMIT and isinstance(error, openai.BadRequestError) and LIMIT_OF_NEW in _message(error):
                self._limit = LIMIT_OF_NEW
                return self.ask(request)
            raise self._sorted(error) from None
        except (ValueError, RecursionError):
            raise Passing(f"{self.url} sent an answer that is not JSON") from None
        return self._reply(said)

    def clean(self, text: str) -> str:
        """A text without the key, on one line."""
        return " ".join(self._hidden(text, SHORTEST_KEY).split())[:300]

    def _hidden(self, text: str, shortest: int = SHORTEST_IN_REPLIES) -> str:
        """A text without the key, where it has so many characters, in UTF-8."""
        if len(self._key) >= shortest:
            for form in {self._key, repr(self._key)[1:-1], json.dumps(self._key)[1:-1]}:
                text = text.replace(form, HIDDEN)
        return text.encode("utf-8", "replace").decode("utf-8")

    def _reply(self, said: Any) -> Reply:
        choices, usage = getattr(said, "choices", None), getattr(said, "usage", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message, told = getattr(choice, "message", None), getattr(said, "error", None) or getattr(choice, "error", None)
        if told or message is None:
            what = f"an error: {self.clean(str(told))}" if told else "a reply without choices that hold a message"
            raise Passing(f"{self.url} answered with {what}")
        self._tell_another(getattr(said, "model", None))
        text, thoughts = _parts(getattr(message, "content", None) or getattr(message, "refusal", None) or "")
        thoughts = thoughts or next(filter(None, (getattr(message, name, None) for name in THOUGHTS)), "")
        finish = getattr(choice, "finish_reason", None)
        if not isinstance(text, str):
            raise Passing(f"{self.url} sent a reply that is not text")
        tokens = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        counts = (count if type(count) is int else None for count in tokens)
        thoughts = self._hidden(thoughts) if isinstance(thoughts, str) else ""
        return Reply(self._hidden(text), "stop" if str(finish or "").lower() in ENDED else "length", *counts, thoughts)

    def _tell_another(self, name: Any) -> None:
        """One line on stderr where the server says that another model answered than the one that was asked."""
        if isinstance(name, str) and name and name not in self._known_as:
            self._known_as.add(name)
            print(f"longalign: {self.url} was asked for {self.model} and says that {self.clean(name)} answered; "
                  "replies are kept under the name that was asked", file=sys.stderr, flush=True)  # fmt: skip

    def _only_model(self) -> str:
        try:
            names = [model.id for model in self._client.models.list()]
        except openai.APIConnectionError as error:
            raise Stopped(f"nothing answers at {self.url} ({self._cause(error)}): start the server there, or correct "
                          "the address") from None  # fmt: skip
        except openai.APIStatusError as error:
            if isinstance(found := self._sorted(error), Stopped) and error.status_code != 404:
                raise found from None
            raise Stopped(f"{self.url} does not list its models ({found}): name one") from None
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise Stopped(f"{self.url} does not list its models ({self.clean(str(error))}): name one") from None
        if len(names) != 1:
            raise Stopped(f"{self.url} has {', '.join(sorted(names)[:5]) or 'no model'}: name one")
        return names[0]

    def _sorted(self, error: openai.OpenAIError) -> EndpointError:
        """The error as one of ours."""
        if isinstance(error, openai.APITimeoutError):
            return Passing(f"{self.url} gave no answer within {self.timeout:.0f} s")
        if isinstance(error, openai.APIConnectionError):
            return Passing(f"{self.url} cannot be reached, or broke off ({self._cause(error)})")
        if not isinstance(error, openai.APIStatusError):
            return Passing(f"{self.url} answered with something else than a reply ({self.clean(str(error))})")
        status, told = error.status_code, self.clean(_message(error))
        said = f"{self.url} answered {status} ({told})"
        if 300 <= status < 400:
            return Stopped(f"{self.url} sends on to another address ({status}), which is not followed: name that one")
        if status in (401, 403):
            return Stopped(f"{said}: set {self.key_variable} to a valid key")
        if status == 404:
            return Stopped(f"{said}: correct the address or the model's name, {self.model}")
        if status == 429 and "insufficient_quota" in f"{error.code} {error.type} {told}":
            return Stopped(f"{said}: the account's quota is used up; raise it, then give the same command again")
        if error.code in UNSUPPORTED:
            return Stopped(f"{said}: name another model")
        if status < 500 and status not in (408, 409, 425, 429):
            return Refused(said)
        wait = retry_after(dict(error.response.headers), now=time.time())
        if wait is not None and wait > LONGEST_WAIT:
            return Stopped(f"{said} and asks for {wait / 60:.0f} minutes: give the same command again then")
        return Passing(said, wait)

    def _cause(self, error: Exception) -> str:
        return self.clean(str(error.__cause__ or error)) or type(error.__cause__ or error).__name__


def retry_after(headers: dict[str, str], *, now: float) -> float | None:
    """Seconds that a server asks to wait (Retry-After: seconds or a date; retry-after-ms), None if it asks for none.

    >>> retry_after({"retry-after": "2.5"}, now=0), retry_after({"retry-after-ms": "40"}, now=0), retry_after({}, now=0)
    (2.5, 0.04, None)
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:09 GMT"}, now=2.0)
    7.0
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        seconds = _seconds(headers.get(name, ""), unit, now)
        if seconds is not None and seconds > 0:
            return seconds
    return None


def _seconds(text: str, unit: int, now: float) -> float | None:
    try:
        return float(text) / unit
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _parts(content: Any) -> tuple[Any, str]:
    """Text and thoughts of a message's content, which some servers send in parts."""
    if not isinstance(content, list):
        return content, ""
    found: dict[bool, list[str]] = {True: [], False: []}
    for part in ({"text": part} if isinstance(part, str) else part for part in content):
        if not isinstance(part, dict):
            return None, ""
        kind = part.get("type") in ("thinking", "reasoning")
        told = part.get("text") or part.get("refusal") or (
            part.get("thinking") or part.get("reasoning") if kind else "") or ""  # fmt: skip
        found[kind].append(_parts(told)[0] if isinstance(told, list) else str(told))
    return "".join(found[False]), "".join(found[True])


def _message(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    told = body.get("error", body)
    message = told.get("message") if isinstance(told, dict) else told
    return str(message or error.message)


def _key(variable: str) -> str:
    """The key in an environment variable, without white space around it. Raises ValueError that does not tell it."""
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"{variable} is not a key: it has a blank, a line break or other letters; set it again")
    return key


def _is_openai(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.hostname == "api.openai.com" and parts.port in (None, 443)


def _is_private(url: str) -> bool:
    """Whether nobody can read along: TLS, or a server on this machine."""
    parts = urlsplit(url)
    try:
        here = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        here = parts.hostname == "localhost" or parts.hostname.endswith(".localhost")
    return parts.scheme == "https" or here


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!a:.80} is not the address of a server: an address begins with http:// or https://")
    if parts.username or parts.password or parts.query:
        raise ValueError(f"{parts.hostname}: an address has no user, password or query; put keys into the environment")
    return url.rstrip("/")
