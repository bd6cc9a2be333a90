"""Who answers or judges, by what it is called: a server's address, a model's folder, a file of replies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longalign.clients.client import Asker
from longalign.clients.local_model import LocalModel, check_loadable
from longalign.clients.reply_store import Replies
from longalign.clients.server import TIMEOUT, Server


@contextmanager
def open_asker(
    target: str, replies: Path, *, role: str, name: str = "", thinking_tokens: int = 0, per_minute: float | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[Asker]:  # fmt: skip
    """An asker of a server, or of a model in this process, whose replies are kept in `replies`, or of a file of them.

    `role` ("judge") names the environment variable of a server's key, JUDGE_API_KEY, and the option in errors; `name`
    says which model of a server or a file is meant, and how a local one's identity begins; `thinking_tokens` is as in
    `Asker`. Raises ValueError where there is nothing of this kind, and as `Server`, `LocalModel` and `Replies` do.
    """
    if target.startswith(("http://", "https://")):
        server = Server(target, model=name, key_variable=f"{role.upper()}_API_KEY", timeout=timeout)
        with Replies(replies) as file:
            yield Asker(server, file, thinking_tokens=thinking_tokens, per_minute=per_minute)
    elif Path(target).is_dir():
        model = LocalModel(target)
        with Replies(replies) as file:
            called = f"{name}, {model.model}" if name else ""  # other weights of this name are another model
            yield Asker(model, file, model=called, thinking_tokens=thinking_tokens)
    elif Path(target).is_file():
        with Replies(Path(target), recorded=True) as file:
            yield Asker(None, file, model=_only(file, name, role), thinking_tokens=thinking_tokens)
    else:
        raise _unknown(target, role)


def check(target: str, *, role: str, name: str = "") -> None:
    """Whether whatever `target` names can be asked, without a question and without a model's weights.

    Raises as `open_asker` does; a server that is named with its model is not called.
    """
    if target.startswith(("http://", "https://")):
        Server(target, model=name, key_variable=f"{role.upper()}_API_KEY")
    elif Path(target).is_dir():
        check_loadable(target)
    elif Path(target).is_file():
        with Replies(Path(target), recorded=True) as file:
            _only(file, name, role)
    else:
        raise _unknown(target, role)


def _unknown(target: str, role: str) -> ValueError:
    return ValueError(f"--{role} {target}: no such file or folder; it may be a server's address, too (http://...)")


def _only(file: Replies, name: str, role: str) -> str:
    if name or len(file.models) == 1:
        return name or next(iter(file.models))
    models = ", ".join(sorted(file.models)) or "nobody"
    raise ValueError(f"{file.path} holds replies of {models}: say which one with --{role}-name")
