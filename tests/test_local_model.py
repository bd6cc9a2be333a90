"""A model in this process: its identity, tokenizer and window, and what of it is refused."""

import copy
import json
import shutil

import pytest

from benchmark_answers import WORDS
from chat_tokenizers import byte_tokenizer
from longalign.clients.errors import Refused
from longalign.clients.local_model import LocalModel, load_tokenizer
from longalign.clients.reply_store import Request
from longalign.common import paths
from longalign.data.chat import encode_prompt
from longalign.evals.benchmarks import longbench_chat
from longalign.evals.chat_answers import ANSWER_ROOM as ROOM
from longalign.evals.decoding import greedy
from longalign.train.models import load_model

BASE = paths.bases() / "mini-7b"


@pytest.fixture(scope="module")
def local():
    return LocalModel(str(BASE))


def test_a_local_model_answers_as_the_miniatures_own_evaluation_does():
    prompts = [q.turns[0] for q in longbench_chat.questions() if len(q.turns[0]) < 1500][:4]
    assert prompts
    local = LocalModel(str(BASE), window=2048)  # they are longer than its own
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        said = local.ask(Request(messages, max_tokens=ROOM)).text
        import torch

        prompt = torch.from_numpy(encode_prompt(messages, WORDS)).long()
        own = WORDS.decode(greedy(load_model(BASE), [prompt], end=WORDS.eos_token_id, room=ROOM)[0])
        assert said == WORDS.decode(WORDS(own, add_special_tokens=False)["input_ids"], skip_special_tokens=True).strip()


def test_a_local_model_is_known_by_its_weights_and_has_its_window(local):
    assert local.model == LocalModel(str(BASE)).model != LocalModel(str(paths.bases() / "mini-6b")).model
    assert local.window == 128


def test_another_tokenizer_is_another_model(local, tmp_path):
    changed = copy.deepcopy(WORDS)
    changed.add_tokens(["<another>"])
    changed.save_pretrained(tmp_path)
    assert LocalModel(str(BASE), tokenizer=str(tmp_path)).model != local.model


def test_a_tokenizer_of_other_words_than_the_models_own_is_refused(tmp_path):
    shutil.copytree(BASE, tmp_path / "model")
    WORDS.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"--tokenizer .*other: token \d+ is '.+' there, and .* leave --tokenizer out"):
        LocalModel(str(tmp_path / "model"), tokenizer=str(tmp_path / "other"))


def test_a_prompt_that_the_model_cannot_read_is_refused_and_a_reply_ends_with_the_window(local, capsys):
    ask = [{"role": "user", "content": "Who guards? " * 8}]
    room = local.window - len(encode_prompt(ask, WORDS))
    assert 0 < local.ask(Request(ask, 10_000)).completion_tokens <= room
    with pytest.raises(Refused, match="a prompt of 153 tokens leaves no room for a reply: .* reads 128"):
        local.ask(Request([{"role": "user", "content": "Who guards? " * 50}], 8))
    short, strict = copy.copy(local), copy.deepcopy(WORDS)
    strict.chat_template, short.tokenizer = "{{ raise_exception('no system role') }}", strict
    with pytest.raises(Refused, match="mini-7b cannot be asked this: .*template refuses the messages .no system role"):
        short.ask(Request(ask, 8))
    changed = copy.deepcopy(WORDS)
    changed.add_tokens(["<another>"])
    short.tokenizer = changed
    with pytest.raises(Refused, match=r"is none of the [0-9,]+ that .* knows"):
        short.ask(Request([{"role": "user", "content": "<another>"}], 8))
    LocalModel(str(BASE), window=500)
    assert "--window 500: " in (told := capsys.readouterr().err) and "was made for 128 positions" in told


def test_remote_code_is_not_run_whoever_is_asked(tmp_path, monkeypatch):
    """Without a word transformers asks on the terminal, and a `y` that comes from anywhere runs the code."""
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        told = {"model_type": "evil", "auto_map": {key: "evil.Evil" if key == "AutoConfig" else ["evil.Evil", None]}}
        (tmp_path / name).write_text(json.dumps(told))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (lambda: LocalModel(str(tmp_path)), lambda: load_tokenizer(str(tmp_path))):
        with pytest.raises(ValueError, match="code of its own, which is not run here"):
            load()
    from longalign.experiments import evaluations

    with pytest.raises(Exception), evaluations.loaded(tmp_path):  # noqa: B017  whatever the library says of it
        pass
    assert not ran.exists()


def test_what_cannot_be_loaded_is_told_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--model ./nothing: there is no such folder"):
        LocalModel("./nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded"):
        LocalModel(str(tmp_path))
    with pytest.raises(ValueError, match="holds no tokenizer: name one"):
        load_tokenizer(str(tmp_path))
