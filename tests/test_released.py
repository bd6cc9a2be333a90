"""The paper's suites from files in the released data sets' form."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from chat_tokenizers import latin_tokenizer
from longalign.data.jsonl import DataError
from longalign.miniature import released_sets, training_sets
from longalign.miniature.settings import Corpus
from longalign.miniature.token_length import count_chat, count_with

CORPUS = Corpus(long=8, short=6, longalpaca_long=3, longalpaca_short=2, max_short=64)


def talk(*texts, first="human"):
    sides = ("human", "gpt") if first == "human" else ("gpt", "human")
    return {"id": "x", "conversations": [{"from": sides[i % 2], "value": text} for i, text in enumerate(texts)]}


def write(folder):
    """The three data sets, small, with what real ones hold: empty answers, beginnings by the other side, long ones."""
    for name in (released_sets.LONG, released_sets.SHORT, released_sets.ALPACA):
        (folder / name).mkdir()
        (folder / name / "source.json").write_text("{}")
    rows = [{"messages": [{"role": "user", "content": f"Long {i}?"}, {"role": "assistant", "content": "Yes."}],
             "length": 9} for i in range(10)]  # fmt: skip
    (folder / released_sets.LONG / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conversations = [talk(f"Question {i}?", f"Answer {i}.") for i in range(9)]
    conversations += [talk("Why?", ""), talk("Greeting.", "Why?", "So.", first="gpt"), talk("Long?", "word " * 200),
                      talk(), talk("Why?"), talk("Why?", "\u200b"), {"id": "none"}]  # fmt: skip
    (folder / released_sets.SHORT / "sg.json").write_text(json.dumps(conversations))
    alpaca = [{"instruction": f"Book {i}?", "output": "Good.", "input": ""} for i in range(7)]
    (folder / released_sets.ALPACA / "alpaca.json").write_text(json.dumps(alpaca))
    return folder


@pytest.fixture
def folders(tmp_path):
    return write(tmp_path)


def samples(folders, name, corpus=CORPUS):
    return list(released_sets.suite(name, corpus, folders.joinpath))


def kinds(rows):
    return Counter(row["id"].split("-")[0] for row in rows)


def test_doses_are_nested_and_share_the_short_samples(folders):
    doses = {name: samples(folders, name) for name in ("LongAlign-0k", "LongAlign-5k", "LongAlign-10k")}
    assert [kinds(rows) for rows in doses.values()] == [
        {"short": 6}, {"long": 4, "short": 6}, {"long": 8, "short": 6},
    ]  # fmt: skip
    ids = [{row["id"] for row in rows} for rows in doses.values()]
    assert ids[0] < ids[1] < ids[2]
    assert all(row["messages"][0]["content"] == f"Long {row['id'][5:]}?" for row in doses["LongAlign-10k"][:8])


def test_another_seed_draws_others_and_no_more_are_taken_than_there_are(folders):
    first, second = ({r["id"] for r in samples(folders, "LongAlign-5k", replace(CORPUS, seed=s))} for s in (0, 1))
    assert first != second and len(first) == len(second)
    assert kinds(samples(folders, "LongAlign-10k", Corpus(max_short=64))) == {"long": 10, "short": 10}


def test_short_samples_have_answers_fit_and_begin_with_a_question(folders):
    rows = samples(folders, "LongAlign-0k", Corpus(max_short=64))
    assert len(rows) == 10 and {row["id"] for row in rows} >= {f"short-{i}" for i in range(9)}
    assert all(count_chat(row["messages"]) <= 64 and row["messages"][0]["role"] == "user" for row in rows)
    begun_by_the_other = next(row for row in rows if row["id"] == "short-10")["messages"]
    assert [message["content"] for message in begun_by_the_other] == ["Why?", "So."]


def test_an_answer_for_which_a_tokenizer_has_no_token_is_left_out(folders):
    with count_with(latin_tokenizer()):
        (folders / released_sets.SHORT / "sg.json").write_text(json.dumps([talk("w", "问"), talk("w", "a")]))
        assert [row["id"] for row in samples(folders, "LongAlign-0k")] == ["short-1"]


def test_half_of_a_surrogate_pair_is_written_as_it_was_escaped_and_its_sample_left_out(folders, capsys):
    path = folders / released_sets.LONG / "long.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "\\ud835"}, {"role": "assistant", "content": "a"}]}\n')
    rows = partial(released_sets.suite, "LongAlign-10k", CORPUS, folders.joinpath)
    store = training_sets.rows_store(folders / "suite", rows, max_length=64, skip_invalid=True)
    assert len(store) == 6 and sum(store.manifest["dropped"].values()) == 1
    assert "1 samples skipped" in capsys.readouterr().err


def test_longalpaca_stands_in_the_place_of_the_long_ones(folders):
    rows = samples(folders, "LongAlpaca-12k")
    assert kinds(rows) == {"alpaca": 5, "short": 6}
    assert rows[0]["messages"][1] == {"role": "assistant", "content": "Good."}


def test_conversations_end_where_the_sides_do_not_take_turns():
    told = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "gpt", "value": "c"},
            {"from": "human", "value": "d"}]  # fmt: skip
    assert [message["content"] for message in released_sets.turns(told)] == ["a", "b"]
    assert released_sets.turns([{"from": "system", "value": "s"}, *told])[0]["content"] == "a"


@pytest.mark.parametrize(("name", "content", "said"), [
    ("LongAlign-10k/long.jsonl", b'{"messages": []}\n{"mess', "long.jsonl, line 2: malformed JSON"),
    ("ShareGPT/sg.json", b"[{", "sg.json: not JSON"),
    ("ShareGPT/sg.json", b'{"a": 1}', "not a list of objects"),
    ("ShareGPT/more.json", b"[]", r"ShareGPT: not one file \(\*.json finds more.json, sg.json"),
])  # fmt: skip
def test_files_that_are_not_what_was_released_are_named(folders, name, content, said):
    (folders / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        samples(folders, "LongAlign-10k")


def test_an_unknown_suite_is_refused_with_those_there_are(folders):
    with pytest.raises(KeyError, match="LongAlign-0k.*LongAlpaca-12k"):
        samples(folders, "LongAlign-1k")
