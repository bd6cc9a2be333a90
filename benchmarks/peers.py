"""The systems that others wrote, each as PyPI has it, in an environment of its own: `.peers/NAME`, made once.

Nothing of their code is here: scripts run in a peer's environment and import it. The versions are those of
benchmarks/peers/NAME.txt; an environment is made again when that file changes. A peer that cannot be installed leaves
one line and rows without values; the others are measured. They take some GB of disk, until
`make distclean`.

    python -m benchmarks.peers
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from longalign.common import paths, provenance

TARGET = "peers"
SHOWN = ("torch", "transformers", "accelerate", "datasets", "peft", "trl", "numba", "numpy")


@dataclass(frozen=True)
class Peer:
    """`module` must load once it is installed. `bare` is a requirement installed without its own requirements; of
    `spared`, which texts do without, goes what does not load: on PyPI these are built for torch with CUDA only."""

    name: str
    module: str
    bare: str = ""
    spared: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return paths.root() / ".peers" / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def requirements(self) -> Path:
        return paths.root() / "benchmarks" / "peers" / f"{self.name}.txt"

    @property
    def stamp(self) -> Path:
        """Written last: what the environment was made from, its versions, or why it could not be made."""
        return self.folder.with_suffix(".json")


PEERS = {
    peer.name: peer
    for peer in (
        Peer("trl", "trl"),
        Peer("llamafactory", "llamafactory", spared=("torchvision", "torchaudio")),
        Peer("axolotl", "axolotl.utils.samplers.multipack", bare="axolotl==0.19.0"),
    )
}


@dataclass(frozen=True)
class State:
    """How a peer is called in rows, its versions, and why it cannot be measured ("" where it can)."""

    system: str
    versions: dict[str, str]
    reason: str = ""


def state(name: str) -> State:
    """What `install` has left; nothing is installed here."""
    peer = PEERS[name]
    known = _read_stamp(peer)
    if known.get("made_from") != _made_from(peer):
        return State(name, {}, "not installed: python -m benchmarks.peers")
    versions = known["versions"]
    return State(f"{name} {versions.get(name, '')}".strip(), versions, known["reason"])


def install(name: str) -> State:
    """Make a peer's environment unless it is there already; a failure is kept as the reason, and tried again."""
    peer = PEERS[name]
    if (known := state(name)).versions and not known.reason and peer.python.exists():
        return known
    shutil.rmtree(peer.folder, ignore_errors=True)
    reason = ""
    try:
        _make(peer)
    except subprocess.CalledProcessError as error:
        reason = f"not installed: {_gist(error.stderr)}"
    except OSError as error:
        reason = f"not installed: {error.strerror}"
    versions = {} if reason else _versions(peer)
    provenance.write_json(peer.stamp, {"made_from": _made_from(peer), "versions": versions, "reason": reason})
    return state(name)


def command(name: str, *arguments: str, timeout: float = 600.0) -> common.Command:
    """What runs in a peer's environment."""
    return common.Command(arguments, python=PEERS[name].python, timeout=timeout)


def versions() -> dict[str, dict[str, str]]:
    """The versions of every peer that is installed, for the record of a script."""
    return {name: found.versions for name in PEERS if (found := state(name)).versions}


def _make(peer: Peer) -> None:
    peer.folder.parent.mkdir(exist_ok=True)
    _call(sys.executable, "-m", "venv", str(peer.folder))
    _install(peer, "-r", str(peer.requirements))
    if peer.bare:
        _install(peer, "--no-deps", peer.bare)
    for package in peer.spared:
        if not _loads(peer, package):
            _call(str(peer.python), "-m", "pip", "uninstall", "--quiet", "--yes", package)
    _call(str(peer.python), "-c", _LOAD.format(module=peer.module))


# Where a package of `spared` is gone, an empty module stands in for it: it is named at the head of files that read
# images and sound, and used nowhere else. A child that imports the peer does the same (`stand_in`).
_LOAD = "from benchmarks.peers import stand_in; stand_in(); import {module}"


def stand_in() -> None:
    """In a peer's environment: let torchaudio be imported where it was left out because it does not load."""
    import importlib.machinery
    import importlib.util
    import types

    if importlib.util.find_spec("torchaudio") is None:
        module = types.ModuleType("torchaudio")
        module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = module


def _install(peer: Peer, *what: str) -> None:
    """By uv, or by pip where uv is missing or does not find its way."""
    quiet = ("--quiet", *what)
    try:
        _call(sys.executable, "-m", "uv", "pip", "install", "--python", str(peer.python), *quiet)
    except subprocess.CalledProcessError:
        _call(str(peer.python), "-m", "pip", "install", *quiet)


def _loads(peer: Peer, module: str) -> bool:
    try:
        _call(str(peer.python), "-c", f"import {module}")
    except subprocess.CalledProcessError:
        return False
    return True


def _call(*arguments: str) -> str:
    settings = common.environment()
    # uv reads none of pip's settings
    for ours, pips in (("UV_FIND_LINKS", "PIP_FIND_LINKS"), ("UV_DEFAULT_INDEX", "PIP_INDEX_URL")):
        if os.environ.get(pips):
            settings.setdefault(ours, os.environ[pips])
    done = subprocess.run(
        arguments, cwd=paths.root(), env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout


def _versions(peer: Peer) -> dict[str, str]:
    code = f"import json; from benchmarks import peers; print(json.dumps(peers.found({peer.name!r})))"
    return json.loads(_call(str(peer.python), "-c", code).splitlines()[-1])


def found(name: str) -> dict[str, str]:
    """In a peer's environment: Python's version, the peer's own and those that matter to it; and how many there are."""
    installed = len(list(importlib.metadata.distributions()))
    return {**provenance.versions((name, *SHOWN)), "installed": str(installed)}


def _made_from(peer: Peer) -> str:
    what = (peer.requirements.read_text(), peer.bare, peer.spared, sys.version_info[:2])
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _read_stamp(peer: Peer) -> dict:
    try:
        return json.loads(peer.stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _gist(text: str) -> str:
    """The line of an installer's output that says what is wrong, without this machine's paths."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["the installer says nothing"]
    telling = [line for line in lines if "error" in line.lower()] or lines
    return telling[-1].replace(str(paths.root()), ".")[:200]


def run() -> list[common.Row]:
    """Install what is missing; a row for each peer: how many packages it brings, and the versions that matter."""
    rows = []
    for name in PEERS:
        known = install(name)
        shown = ", ".join(f"{package} {known.versions[package]}" for package in SHOWN if package in known.versions)
        if known.reason:
            print(f"{name}: {known.reason}", file=sys.stderr, flush=True)
        counts = [] if known.reason else [int(known.versions["installed"])]
        rows.append(common.row(TARGET, known.system, "environment", "installed packages", "packages", counts,
                               known.reason or shown))  # fmt: skip
    return rows


def main() -> int:
    """Install the peers and record their versions; a peer that is missing is no failure of ours."""
    return common.finish(TARGET, run(), peers=versions())


if __name__ == "__main__":
    sys.exit(main())
