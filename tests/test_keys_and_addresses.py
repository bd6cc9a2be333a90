"""Keys get out nowhere, and addresses that cannot be used are refused."""

import pytest

from asking import ask_all
from fault_server import by_chance, serving
from longalign.clients.errors import Stopped
from longalign.clients.server import Server

KEY = "sk-" + "planted-0123456789abcdef"


def test_no_key_reaches_a_file_an_error_or_another_server(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TEST_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    with serving(by_chance(0.5, kinds=("500", "error body", "401")), answer=lambda q: f"I was told {KEY}") as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(40)])
        assert server.authorizations == {f"Bearer {KEY}"}
    said = [str(item) for item in found]
    assert any("401" in text for text in said) and any("[key]" in text for text in said)
    everything = "".join([*said, (tmp_path / "a.jsonl").read_text(), *capfd.readouterr()])
    assert KEY not in everything


@pytest.mark.parametrize("placeholder", ["test", "EMPTY", "ollama", "token-abc123"])
def test_a_placeholder_for_a_key_changes_no_word_of_a_reply(placeholder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", placeholder)
    said = f"The latest {placeholder} of the word EMPTY."
    with serving(answer=lambda _: said) as server:
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["a b"])
    assert found == [said]


def test_openais_own_key_is_sent_to_nobody_else(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert server.authorizations == {"Bearer none"}
    assert Server("https://api.openai.com/v1", model="m", key_variable="TEST_API_KEY").key_variable == "OPENAI_API_KEY"
    for url in ("http://api.openai.com/v1", "https://api.openai.com.example.org/v1", "https://api.openai.com:8443/v1",
                "HTTP://API.OPENAI.COM:443/v1"):  # fmt: skip
        server = Server(url, model="m", key_variable="TEST_API_KEY")
        assert server.key_variable == "TEST_API_KEY" and KEY not in (server._key, server._client.api_key)


def test_no_account_and_no_project_is_named_not_even_an_empty_one(tmp_path, monkeypatch):
    """OpenAI refuses a header that names no organization."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-of-mine")
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["a b"])
    assert "authorization" in server.headers and not {"openai-organization", "openai-project"} & server.headers


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://192.0.2.1/v1", True), ("http://api.openai.com/v1", True), ("https://192.0.2.1/v1", False),
     ("http://localhost:8000/v1", False), ("http://127.0.0.1:8000/v1", False), ("http://[::1]:8000/v1", False)],
)  # fmt: skip
def test_a_key_that_would_be_sent_without_tls_to_another_machine_is_told(url, told, monkeypatch, capsys):
    monkeypatch.setenv("TEST_API_KEY", KEY)
    Server(url, model="m", key_variable="TEST_API_KEY")
    error = capsys.readouterr().err
    assert ("is not encrypted: others can read TEST_API_KEY" in error) == told and KEY not in error
    monkeypatch.delenv("TEST_API_KEY")
    Server(url, model="m", key_variable="TEST_API_KEY")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "says"),
    [("localhost:8000", "begins with http"), ("http://me:secret@127.0.0.1/v1", "an address has no user, password"),
     ("http://127.0.0.1/v1?key=secret", "query")],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_its_secret(url, says):
    with pytest.raises(ValueError, match=says) as error:
        Server(url, model="m", key_variable="TEST_API_KEY")
    assert "secret" not in str(error.value)


def test_the_only_model_of_a_server_needs_no_name_and_several_are_listed():
    with serving() as server:
        assert Server(server.url, key_variable="TEST_API_KEY").model == "a-model"
        server.models = ["b", "a"]
        with pytest.raises(Stopped, match="has a, b: name one"):
            Server(server.url, key_variable="TEST_API_KEY")
    with pytest.raises(Stopped, match="nothing answers at .*start the server"):
        Server(server.url, key_variable="TEST_API_KEY")


@pytest.mark.parametrize("key", ["sk-SECRET 123456", "sk-SECRET\x07123456", "sk-SECRETé123456"])
def test_a_key_that_is_none_is_refused_without_being_told(key, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", key)
    with pytest.raises(ValueError, match="TEST_API_KEY is not a key") as error:
        Server("http://127.0.0.1:9/v1", model="m", key_variable="TEST_API_KEY")
    assert "SECRET" not in str(error.value)


def test_a_line_break_behind_a_key_is_no_part_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_API_KEY", KEY + "\n")
    with serving() as server:
        ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert server.authorizations == {f"Bearer {KEY}"}


def test_a_document_is_not_sent_on_to_another_address(tmp_path):
    with serving() as other, serving(lambda *_: "307") as server:
        server.location = other.url + "/chat/completions"
        found, _ = ask_all(server, tmp_path / "a.jsonl", ["a b"])
        assert isinstance(found[0], Stopped) and "not followed" in str(found[0]) and not other.attempts
