"""A Hugging Face Hub of a few repositories on this machine: the endpoints that a download needs, and their faults."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_someone_without_access"
LARGE = (".safetensors", ".bin")  # with LFS, by their sha256; the others are git's own, by its sha1


@dataclass
class Repository:
    """Commits are files by name; `gated` asks for a token, and then finds it has no access."""

    commits: dict[str, dict[str, bytes]]
    main: str
    gated: bool = False


@dataclass
class Hub:
    """What is served, what was asked for, and how it goes wrong: it `stalls` after half of a file, or `damages` it."""

    repositories: dict[str, Repository] = field(default_factory=dict)  # "owner/name", "datasets/owner/name"
    asked: list[tuple[str, str]] = field(default_factory=list)
    stalls: str = ""
    damages: str = ""
    answers: int = 0  # this status to everything
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def add(self, name, files, *, commit="a" * 40, gated=False):
        """A repository with one commit, its main."""
        self.repositories[name] = Repository({commit: files}, commit, gated)
        return self.repositories[name]

    def fetched(self):
        """The files that were sent, in their order, as often as they were."""
        return [path.split("/")[-1] for method, path in self.asked if method == "GET" and "/resolve/" in path]


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(name, content):
    return hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else git_hash(content)


def lfs(name, content):
    if name.endswith(LARGE):
        return {"lfs": {"sha256": etag(name, content), "oid": etag(name, content), "size": len(content),
                        "pointerSize": 134}}  # fmt: skip
    return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        if self.hub.answers:
            return self.refuse(self.hub.answers, "", "")
        api = re.fullmatch(r"/api/(?:models|(datasets))/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?/?", path)
        file = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        kind, name = (api or file)[1], (api or file)[2]
        repository = self.hub.repositories.get(f"{kind}/{name}" if kind else name)
        if repository is None:
            # without a token the public Hub does not tell what is private from what is not there
            known = self.headers.get("Authorization")
            return self.refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        if repository.gated and file:
            known = self.headers.get("Authorization")
            return self.refuse(403 if known else 401, "GatedRepo", f"Access to {name} is restricted")
        revision = (api[4] if api else file[3]) or "main"
        commit = repository.main if revision == "main" else revision
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if file:
            return self.file(file[4], files[file[4]], commit)
        if api[3] == "tree":
            return self.json([
                {"type": "file", "path": n, "size": len(c), "oid": git_hash(c), **lfs(n, c)} for n, c in files.items()
            ])  # fmt: skip
        siblings = [{"rfilename": n, "size": len(c), "blobId": git_hash(c), **lfs(n, c)} for n, c in files.items()]
        self.json({"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings})

    def file(self, name, content, commit):
        self.send_response(200)
        self.send_header("ETag", f'"{etag(name, content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name == self.hub.stalls:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.ended.wait(60)
            self.close_connection = True
            return
        self.wfile.write(bytes([content[0] ^ 1]) + content[1:] if name == self.hub.damages else content)

    def json(self, data):
        self.body(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code, message):
        self.body(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def body(self, status, content, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving():
    """A Hub that answers at its `url` until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
