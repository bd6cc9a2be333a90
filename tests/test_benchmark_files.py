"""`longalign fetch --benchmark` brings the official files whole, or not at all."""

import socket
from contextlib import suppress
from threading import Thread

import pytest

from longalign.cli import main
from longalign.fetch import benchmark_files


def test_a_list_fetches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path))
    monkeypatch.setattr(benchmark_files, "_bring", lambda *_: pytest.fail("nothing is to be fetched"))
    assert main.main(["fetch", "--benchmark", "longbench-chat", "--list"]) == 0
    assert capsys.readouterr().out == "longbench-chat: not fetched\n"
    for option, said in (("--only", "--only names sources of a profile, and --benchmark is fetched as a whole"),
                         ("--profile", "--profile names models and data, and --benchmark is fetched without them")):
        with pytest.raises(SystemExit):
            main.main(["fetch", "--benchmark", "longbench-chat", option, "LongAlign-10k", "--list"])
        assert said in capsys.readouterr().err


def test_the_official_files_are_fetched_whole_from_one_place_or_not_at_all(tmp_path, monkeypatch):
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    source = benchmark_files.BENCHMARKS["longbench-chat"]
    assert "/7fc4c6d9a93ae88b3994228503a652877a993dec/" in source.base, "pinned to a commit"
    there = tmp_path / "there"
    there.mkdir()
    for name in source.files[:2]:
        (there / name).write_text(f'[{{"of": "{name}"}}]')
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: SimpleHTTPRequestHandler(*a, directory=str(there)))
    Thread(target=server.serve_forever, daemon=True).start()
    base, folder = f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "here"
    with pytest.raises(OSError, match="prompt_fs.txt could not be downloaded .*what has arrived is kept"):
        benchmark_files.fetch("longbench-chat", folder, base=base)
    (there / source.files[2]).write_text("<html>Log in.</html>")
    with pytest.raises(ValueError, match="prompt_fs.txt: it is not the published file, but perhaps the page of a prox"):
        benchmark_files.fetch("longbench-chat", folder, base=base)
    (folder / source.files[2]).unlink()
    (there / source.files[2]).write_text("Rate " + "{}" * 9)
    (there / source.files[0]).unlink()  # it has arrived and is not asked for again
    assert benchmark_files.fetch("longbench-chat", folder, base=base) == folder
    server.shutdown()
    assert (folder / source.files[0]).read_text() == f'[{{"of": "{source.files[0]}"}}]'
    assert benchmark_files.fetch("longbench-chat", folder, base="http://127.0.0.1:1") == folder, "whole: no network"
    (folder / source.files[1]).write_text('[["changed"]]')
    with pytest.raises(ValueError, match="few_shots.json has changed since the first fetch"):
        benchmark_files.fetch("longbench-chat", folder)
    with pytest.raises(ValueError, match="longbench-chat"):
        benchmark_files.fetch("longbench", tmp_path)


WHOLE = {"test_cases.json": b'[{"idx": 1}]', "few_shots.json": b"[[{}]]", "prompt_fs.txt": b"{}" * 9}


def _with_length(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    ("wrong", "answer", "says"),
    [
        ("test_cases.json", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n[{", "IncompleteRead"),
        ("test_cases.json", b"SSH-2.0-OpenSSH_9.2\r\n", "could not be downloaded .SSH-2.0-OpenSSH_9.2"),
        ("test_cases.json", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, "could not be downloaded"),
        ("few_shots.json", _with_length(b"[]"), "few_shots.json: it is not the published file"),
        ("few_shots.json", _with_length(b'["rate limit"]'), "few_shots.json: it is not the published file"),
        ("prompt_fs.txt", _with_length(b"<html><script>window.x={};</script>"), "prompt_fs.txt: it is not the pub"),
    ],
)
def test_whatever_answers_for_the_host_is_refused_in_a_sentence(wrong, answer, says, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for name in WHOLE:
                client, _ = server.accept()
                with client, suppress(OSError):  # who was sent nonsense may hang up
                    client.recv(65_536)
                    client.sendall(answer if name == wrong else _with_length(WHOLE[name]))

        Thread(target=serve, daemon=True).start()
        with pytest.raises((OSError, ValueError), match=says):
            benchmark_files.fetch("longbench-chat", tmp_path / "here",
                                  base=f"http://127.0.0.1:{server.getsockname()[1]}")  # fmt: skip
    assert not (tmp_path / "here" / "sha256.json").exists()
