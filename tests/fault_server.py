"""An OpenAI-compatible server on loopback that fails as it is told to: for tests of what a client does then.

It answers every question with the question's own last word, and notes what it delivered in full (`paid`).
"""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

FAULTS = ("429", "500", "timeout", "cut", "no choices", "invalid json", "error body")


class FaultServer(ThreadingHTTPServer):
    """`fault(question, attempt)` names one of FAULTS, a status, "quota", a body (bytes), or None; attempts from 0.

    A request with a key of `unsupported` is refused in the words that stand there, as OpenAI's newer models do.
    """

    daemon_threads, request_queue_size = True, 64

    def __init__(self, fault=lambda question, attempt: None, *, answer=lambda words: words.split()[-1], delay=0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault, self.answer, self.delay = fault, answer, delay
        self.attempts, self.paid, self.given = Counter(), Counter(), Counter()
        self.authorizations, self.headers, self.times, self.lock = set(), set(), [], threading.Lock()
        self.retry_after, self.location = "0.02", ""
        self.models, self.unsupported = ["a-model"], {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that have given up are the subject


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        with self.server.lock:
            attempt = self.server.attempts[question]
            self.server.attempts[question] += 1
            self.server.authorizations.add(self.headers.get("Authorization"))
            self.server.headers |= {name.lower() for name in self.headers}
            self.server.times.append(time.monotonic())
        for name in body.keys() & self.server.unsupported.keys():
            error = {"message": self.server.unsupported[name], "code": "unsupported_parameter", "param": name}
            return self._send(400, {"error": error})
        fault = self.server.fault(question, attempt)
        if fault:
            with self.server.lock:
                self.server.given[fault] += 1
            return self._fail(fault)
        time.sleep(self.server.delay)
        self._send(200, self._completion(self.server.answer(question)))
        with self.server.lock:
            self.server.paid[question] += 1

    def _fail(self, fault):
        told = {"error": {"message": f"told {fault} to {self.headers.get('Authorization')}", "type": "x", "code": None}}
        if fault == "timeout":
            time.sleep(2.5)
            self._send(504, told)
        elif fault == "cut":
            self._send(200, self._completion("never whole"), cut=True)
        elif fault == "no choices":
            self._send(200, {**self._completion(""), "choices": []})
        elif fault == "invalid json":
            self._send(200, b'{"id": "x", "choices": [')
        elif fault == "error body":
            self._send(200, told)
        elif isinstance(fault, bytes):
            self._send(200, fault)
        elif fault == "307":
            self._send(307, told, Location=self.server.location)
        elif fault == "quota":
            self._send(429, {"error": {**told["error"], "code": "insufficient_quota"}})
        else:
            more = {"Retry-After": self.server.retry_after} if fault == "429" else {}
            self._send(int(fault), told, **more)

    @staticmethod
    def _completion(text):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return {"id": "c", "object": "chat.completion", "created": 0, "model": "a-model", "choices": [choice],
                "usage": usage}  # fmt: skip

    def _send(self, status, body, *, cut=False, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()
        if cut:
            self.close_connection = True


@contextmanager
def serving(*arguments, **options):
    """A running FaultServer."""
    server = FaultServer(*arguments, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def by_chance(share, seed=0, kinds=FAULTS):
    """Each request fails with this probability, in one of the kinds, whatever the order of the requests."""

    def fault(question, attempt):
        rng = Random(f"{seed}:{question}:{attempt}")
        return rng.choice(kinds) if rng.random() < share else None

    return fault
