"""Bad data are named by file, line, field and reason in one sentence; nothing passes silently."""

import gzip
import hashlib
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import longalign.data.jsonl
from chat_tokenizers import assistant, user
from longalign.data.jsonl import DataError, Line, check_messages, read_lines

GOOD = [user("why?"), assistant("because")]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "field messages: missing messages"),
        ("text", "field messages: messages not a list .it is a string"),
        ([], "field messages: empty messages"),
        (["text"], r"field messages\[0\]: message not an object .it is a string"),
        ([*GOOD, {"content": "a"}], r"field messages\[2\].role: missing role"),
        (
            [{"role": "human\ud800\x1b[2J", "content": "a"}],
            r"messages\[0\].role: unknown role .'human\\ud800\\x1b\[2J'",
        ),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\].role: unknown role"),
        ([user("a"), {"role": "assistant"}], r"messages\[1\].content: content not a string .it is missing"),
        ([user(None), assistant("a")], r"messages\[0\].content: content not a string .it is null"),
        ([user(3), assistant("a")], r"messages\[0\].content: content not a string .it is a number"),
        ([user("a"), assistant([{"type": "text"}])], r"messages\[1\].content: content not a string .it is a list"),
        ([user("ab\ud800"), assistant("a")], r"messages\[0\].content: lone surrogate .'\\ud800' at character 3"),
        ([user("a")], "field messages: no assistant turn"),
        ([user("a"), assistant("")], r"messages\[1\].content: empty answer"),
        ([user("a"), assistant("\u00ad\u2800\u3164\u200e")], r"messages\[1\].content: empty answer"),
        ([user("a"), assistant(" \n\u200b\ufeff"), user("b"), assistant("c")], r"messages\[1\].content: empty answer"),
        ([*GOOD, user("more?")], r"messages\[2\].role: last turn not of the assistant .it is of the user"),
        ([assistant("a"), *GOOD], r"messages\[0\].role: wrong order of roles .expected user, found assistant"),
        ([user("a"), *GOOD], r"messages\[1\].role: wrong order of roles .expected assistant, found user"),
        ([*GOOD, {"role": "system", "content": "a"}], r"messages\[2\].role: wrong order of roles"),
    ],
)
def test_messages_that_are_no_conversation_are_refused_with_their_field(messages, message):
    with pytest.raises(DataError, match=message) as error:
        check_messages(messages)
    str(error.value).encode("ascii")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["training", "loss", "mask", "trainable", "Weight", "TRAIN"])
def test_other_words_for_train_are_refused_by_name(key):
    messages = [user("why?"), dict(assistant("because"), **{key: False})]
    with pytest.raises(DataError, match=rf"messages\[1\].{key}: field is not read .*(train|weight)"):
        check_messages(messages)
    assert check_messages([dict(GOOD[0], images=[], loss=None), GOOD[1]]) == GOOD


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"system": "Be brief."}, "system"), ({"documents": [{"text": "a"}]}, "documents"),
        ({"images": ["a.png"]}, "images"), ({"train": False}, "train"), ({"weight": 0}, "weight"),
        ({"weight": 0.5}, "weight"), ({"weight": "0"}, "weight"), ({"train": 0}, "train"),
        ({"train": "false"}, "train"),
        ({"loss_mask": [0, 1]}, "loss_mask"), ({"weights": [0, 1]}, "weights"), ({"training": False}, "training"),
        ({"system_prompt": "Be brief."}, "system_prompt"), ({"chat_template": "x"}, "chat_template"),
        ({"loss": 0.7, "weight": None}, None), ({"weight": 1, "train": True, "images": [], "system": " "}, None),
        ({"system": "Be brief.", "messages": [{"role": "system", "content": "Be brief."}, *GOOD]}, None),
        ({"split": "train", "length": 7, "id": "a"}, None),
    ],
)  # fmt: skip
def test_what_a_sample_says_beside_its_messages_is_refused_or_means_nothing(extra, field):
    row = {"messages": GOOD, **extra}
    line = Line(1, 0, json.dumps(row).encode())
    if field is None:
        assert line.conversation() == row
        return
    with pytest.raises(DataError, match=f"field {field}: field is not read"):
        line.conversation()


def test_a_conversation_passes_with_role_and_content_alone():
    system = {"role": "system", "content": "be brief"}
    assert check_messages([system, *GOOD, dict(user(""), weight=None), assistant("b")]) == [
        system, *GOOD, user(""), assistant("b"),
    ]  # fmt: skip
    assert check_messages(GOOD[:1], last="user") == GOOD[:1]
    with pytest.raises(DataError, match="last turn not of the user"):
        check_messages(GOOD, last="user")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"messages": [', "line 2: malformed JSON .Expecting value at column 15"),
        (b"\xff\xfe{}", "line 2: not UTF-8 .byte 1 of the line"),
        ("{'a': 'ä'}".encode("latin-1"), "line 2: not UTF-8 .byte 8"),
        (b"[1]", "line 2: not an object .each line must be a JSON object, this one is a list"),
        (b"null", "line 2: not an object .* is null"),
        (b"[" * 200_000, "line 2: malformed JSON .nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 2: malformed JSON .a number has thousands of digits"),
        (b'{"a": "' + b"x" * 2000 + b'"}', "line 2: line too long"),
        (b'{"a": [{"b": 1, "b": 2}]}', "line 2: malformed JSON .the key 'b' occurs twice in an object"),
    ],
    ids=["cut", "utf-16", "latin-1", "list", "null", "deep", "huge-number", "too-long", "twice"],
)
def test_a_bad_line_is_refused_and_the_lines_around_it_are_read(tmp_path, monkeypatch, raw, message):
    if "too long" in message:
        monkeypatch.setattr(longalign.data.jsonl, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n' + raw + b'\n{"a": 3}\n')
    first, bad, last = read_lines(path)
    assert (first.row(), last.row()) == ({"a": 1}, {"a": 3})
    assert (bad.number, last.number, last.offset) == (2, 3, 9 + len(raw) + 1)
    with pytest.raises(DataError) as error:
        bad.row()
    error.value.at(path, bad.number)
    assert error.match(f"^{path}, {message}")


PARTS = [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
         'missing messages .ShareGPT.s "conversations": .* "from" as "role" .human: user, gpt: assistant., "value" as'),
        ({"conversations": GOOD}, 'rename the key "conversations" to "messages"'),
        ({"instruction": "a", "input": "b", "output": "c"},
         'write "instruction" and "input" as a message of the role user, "output" as one of the role assistant'),
        ({"prompt": "a", "completion": "b"}, 'write "prompt" as a message of the role user, "completion" as one'),
        ({"prompt": GOOD[:1], "completion": GOOD[1:]}, 'write the lists "prompt" and "completion" one behind'),
        ({"messages": None, "text": "a"}, "a sample needs a list under .messages.; it has 'messages', 'text'"),
        ({"messages": [{"role": "developer", "content": "a"}, *GOOD]}, r"unknown role .'developer' .*; write system\)"),
        ({"messages": [{"role": "human", "content": "a"}]}, r"unknown role .'human' is none of .*; write user\)"),
        ({"messages": [user(PARTS), assistant("b")]}, "it is a list; join the texts of its parts to one string"),
    ],
    ids=["ShareGPT", "conversations", "Alpaca", "prompt", "prompt-lists", "text", "developer", "human", "parts"],
)  # fmt: skip
def test_a_sample_in_another_tools_form_is_refused_with_what_to_write(row, message):
    with pytest.raises(DataError, match=message):
        check_messages(Line(1, 0, json.dumps(row).encode()).conversation()["messages"])


LINE = json.dumps({"messages": GOOD}).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (gzip.compress(LINE), "not UTF-8 .it is compressed with gzip: unpack it"),
        (b"PAR1\x15\x04\x15\n", "it is Parquet: write lines with"),
        (LINE.decode().encode("utf-16"), "not UTF-8 .it is UTF-16: write it in UTF-8"),
        (b"[" + LINE + b"," + LINE + b"]\n", "not an object .the file is one list: write an object a line"),
        (b"[\n  " + LINE + b"\n]\n", "malformed JSON .the file is one list: write an object a line"),
        (json.dumps({"messages": GOOD}, indent=2).encode(), "malformed JSON .an object stands on several lines"),
    ],
    ids=["gzip", "Parquet", "UTF-16", "list", "list-in-lines", "indented"],
)
def test_a_file_that_holds_no_lines_of_json_is_refused_with_what_it_is(tmp_path, raw, message):
    path = tmp_path / "data.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        next(read_lines(path)).row()


def test_the_error_of_a_line_is_one_sentence_with_file_line_and_field():
    error = DataError("empty answer", "an answer needs visible text", field="messages[1].content").at("a.jsonl", 7)
    sentence = "a.jsonl, line 7, field messages[1].content: empty answer (an answer needs visible text)"
    assert str(error) == sentence == str(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize(
    "content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf"], ids=["nothing", "blank lines", "byte order mark"]
)
def test_a_file_without_a_sample_is_an_error(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="data.jsonl: empty file"):
        list(read_lines(path))


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match="nowhere.jsonl: cannot be read .no such file"):
        list(read_lines(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match="cannot be read .is a directory"):
        list(read_lines(tmp_path))


@given(rows=st.lists(st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=2), max_size=8))
def test_every_row_comes_with_its_line_number_and_its_place(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "data.jsonl"
    # line separators that are not line feeds stay inside a row
    path.write_bytes(
        b"".join(
            b"\r\n" if r is None else json.dumps(r, ensure_ascii=i % 2 == 0).encode() + b"\n"
            for i, r in enumerate(rows)
        )
        + b'{"z": 0}'
    )
    digest = hashlib.sha256()
    lines = list(read_lines(path, digest=digest))
    content = path.read_bytes()
    assert [line.number for line in lines] == [i + 1 for i, row in enumerate([*rows, {}]) if row is not None]
    assert [line.row() for line in lines] == [row for row in rows if row is not None] + [{"z": 0}]
    assert all(content[line.offset :].startswith(line.raw) for line in lines)
    assert digest.digest() == hashlib.sha256(content).digest()


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"b": 2}')
    assert [(line.row(), line.offset) for line in read_lines(path)] == [({"a": 1}, 3), ({"b": 2}, 12)]
