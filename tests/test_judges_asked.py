"""A judge of `longalign eval` that cannot be asked is refused before the model answers; its system message is read."""

import copy
import json
import shutil

import pytest

from fault_server import serving
from longalign.clients.local_model import LocalModel
from longalign.clients.reply_store import Request
from longalign.evals.benchmarks import longbench_chat
from longalign.miniature import tokenizer
from test_evaluate_command import BASE, run

ASKED = [{"role": "system", "content": "You grade."}, {"role": "user", "content": "Rate this."}]
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
WRITES = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}?{% endif %}"
DROPS = WRITES.replace("{{ m['content'] }}", "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}")


def folder(tmp_path, template):
    """The miniature's base with a tokenizer whose template is this."""
    words = copy.deepcopy(tokenizer.load())  # which all tests share
    words.chat_template = template
    shutil.copytree(BASE, tmp_path / "model")
    (tmp_path / "model" / "record.json").unlink()
    words.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("template", [REFUSES + WRITES, DROPS])
def test_a_system_message_begins_the_users_where_the_template_has_no_place_for_it(template, tmp_path, capsys):
    model = LocalModel(folder(tmp_path, template))
    prompts = []
    model.loaded.register_forward_pre_hook(
        lambda _, args, kwargs: prompts.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    for _ in range(2):
        model.ask(Request(ASKED, 1))
    assert model.tokenizer.decode(prompts[0]) == "You grade.\n\nRate this.?"
    assert capsys.readouterr().err.count("takes no system message: its text begins the user's message") == 1


def test_a_template_that_writes_system_messages_gets_them(tmp_path, capsys):
    model = LocalModel(folder(tmp_path, WRITES))
    model.ask(Request(ASKED, 1))
    assert model.takes_system and "system" not in capsys.readouterr().err


def _without_shots(folder):
    (folder / longbench_chat.SHOTS).unlink()


def _other_template(folder):
    (folder / longbench_chat.TEMPLATE).write_text("Rate {} by {}.")


def _untouched(folder):
    pass


@pytest.mark.parametrize(
    ("judge", "change", "says"),
    [
        ("nowhere", _untouched, "--judge nowhere: no such file or folder"),
        ("http://127.0.0.1:9/v1", _untouched, "nothing answers at http://127.0.0.1:9/v1"),
        (BASE, _without_shots, "few_shots.json: cannot be read"),
        (BASE, _other_template, "the judge's template has 2 places {}, 9 are filled"),
        ("empty", _untouched, "cannot be loaded: "),
        ("replies.jsonl", _untouched, "replies.jsonl, line 1: no record of replies"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_before_the_model_answers(judge, change, says, tmp_path, capsys,
                                                                          monkeypatch):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "replies.jsonl").write_text("{}\n")
    shutil.copytree(longbench_chat.SHIPPED, tmp_path / "data")
    change(tmp_path / "data")
    with serving() as model:
        command = ("longbench-chat", "--model", model.url, "--data", tmp_path / "data", "--out", tmp_path / "out")
        assert run(*command, "--judge", judge) == 2
        assert says in capsys.readouterr().err
        assert not model.paid and not (tmp_path / "out").exists()


def test_scored_answers_that_are_missing_are_told_before_the_model_answers(tmp_path, capsys):
    shutil.copytree(longbench_chat.SHIPPED, tmp_path / "data")
    shots = json.loads((tmp_path / "data" / longbench_chat.SHOTS).read_text())
    (tmp_path / "data" / longbench_chat.SHOTS).write_text(json.dumps(shots[:-1]))
    command = ("longbench-chat", "--data", tmp_path / "data", "--out", tmp_path / "out", "--judge", BASE)
    assert run(*command, model=BASE) == 2
    assert f"has no scored answers to chat-{len(shots)}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
