"""Documents come in clean, once, with their language, source and license; what does not is named with its reason."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.data.chinese import chinese_share
from longalign.data.jsonl import DataError
from longalign.self_instruct.documents import MOST_BYTES, Refusal, language, read

ROOT = Path(__file__).parents[1]
ENGLISH = "The lighthouse of the village was built in 1923. Its keeper climbs the stairs every evening."
SIMPLIFIED = "海边的小镇叫青石镇，镇上有一座老灯塔，建于1923年。守塔人每天傍晚都会爬上一百二十级台阶，点亮灯塔的灯。"
TRADITIONAL = "海邊的小鎮叫青石鎮，鎮上有一座老燈塔，建於1923年。守塔人每天傍晚都會爬上一百二十級臺階，點亮燈塔的燈。"
CANTONESE = "佢哋今日去咗海邊嘅燈塔，嗰度有個阿伯點燈，佢話唔使驚。"
GERMAN = "Der Leuchtturm des Dorfes wurde im Jahr 1923 gebaut. Jeden Abend steigt der Wärter die Treppe hinauf."
CODE_HEAVY = "# Usage\n\n```python\nimport os\nfor x in range(10):\n    print(os.sep.join(a))\n```\n\nRun it twice.\n"


def write(folder, **files):
    """Files with their contents, `a__b_txt` for a/b.txt."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def rows(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def test_a_folder_is_walked_in_order_with_names_relative_to_it(tmp_path):
    folder = write(tmp_path / "books", b_txt=ENGLISH, a__z_md=ENGLISH + " One.", a__c_py="x = 1\n",
                   d_jsonl=rows({"text": SIMPLIFIED}, {"text": ENGLISH + " Two.", "source": "wiki"}))  # fmt: skip
    documents, refusals = read([folder])
    assert [(document.name, document.source, document.language) for document in documents] == [
        ("b.txt", "books", "en"), ("d.jsonl#1", "books", "zh"), ("d.jsonl#2", "wiki", "en"),
        ("a/c.py", "code", "en"), ("a/z.md", "books", "en"),
    ]  # fmt: skip
    assert refusals == [] and {document.license for document in documents} == {"unknown"}
    assert all(document.sha256 == hashlib.sha256(document.text.encode()).hexdigest() for document in documents)


def test_hidden_files_and_symbolic_links_are_passed_over_and_other_kinds_counted(tmp_path):
    outside = write(tmp_path / "outside", secret_txt=ENGLISH + " Outside.")
    folder = write(tmp_path / "in", a_txt=ENGLISH, b_pdf="x", c_pdf="x", LICENSE="x", _hidden_txt="x", _git__d_txt="x")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe.txt")
    documents, refusals = read([folder])
    assert [document.name for document in documents] == ["a.txt"]
    assert refusals == [Refusal("* without a suffix", "another kind of file (1 of them)"),
                        Refusal("*.pdf", "another kind of file (2 of them)")]  # fmt: skip


def test_files_are_read_by_name_and_take_their_folders_name_as_source(tmp_path):
    write(tmp_path / "code", note_txt=ENGLISH, main_C="int main;")
    documents, _ = read([tmp_path / "code" / "note.txt", tmp_path / "code" / "main.C", ROOT / "README.md"])
    assert [(document.name, document.source) for document in documents] == [
        # "code" alone would make lines of its sentences
        ("note.txt", "documents"), ("main.C", "code"), ("README.md", ROOT.name),
    ]  # fmt: skip


BAD = {
    "empty": (b" \n\xe2\x80\x8b\n", "empty (it holds no visible text)"),
    "nothing": (b"", "empty (it holds no visible text)"),
    "nul": (b"abc\0def", "binary (byte 4 is NUL)"),
    "control": (b"text\x01\x02 and more", "binary (it holds NUL, or more than one control character in a hundred)"),
    "latin": ("Stra\u00dfe".encode("latin-1"), "not UTF-8 (byte 5 of the file; save it as UTF-8)"),
    "utf16": (ENGLISH.encode("utf-16"), "not UTF-8 (it begins with the byte order mark of UTF-16; save the file as "
                                        "UTF-8)"),
    "utf32": (ENGLISH.encode("utf-32"), "not UTF-8 (it begins with the byte order mark of UTF-32; save the file as "
                                        "UTF-8)"),
    "line": (b"a" * 1_000_001, "line too long (1,000,001 characters, at most 1,000,000)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_of_a_folder_is_refused_and_one_given_by_name_is_an_error(name, tmp_path):
    content, reason = BAD[name]
    folder = write(tmp_path, bad_txt=content, good_txt=ENGLISH)
    documents, refusals = read([folder])
    assert [document.name for document in documents] == ["good.txt"] and refusals == [Refusal("bad.txt", reason)]
    with pytest.raises(DataError) as error:
        read([folder / "good.txt", folder / "bad.txt"])
    assert str(error.value).removeprefix(f"{folder / 'bad.txt'}: ").removeprefix("field text: ") == reason


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "large.txt").touch()
    os.truncate(tmp_path / "large.txt", MOST_BYTES + 1)
    assert read([tmp_path])[1] == [Refusal("large.txt", "file too large (a file may hold at most 64 MiB)")]


@pytest.mark.parametrize("name", ["absent.txt", "absent", "a.pdf", "pipe.txt"])
def test_a_path_that_is_no_document_is_an_error_with_its_name(name, tmp_path):
    write(tmp_path, a_pdf="x")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=f"{name}: (another kind of file|cannot be read)"):
        read([tmp_path / name])


BAD_ROWS = [
    ({"messages": []}, "no text"), ({"text": 3}, "no text"), ({"text": "  "}, "empty"), ([1], "not an object"),
    ({"text": "a\ud800"}, "lone surrogate (at character 2)"), ({"text": ENGLISH, "source": 3}, "bad source"),
    ({"text": ENGLISH, "license": "a\nb"}, "bad license"), ({"text": ENGLISH, "source": "x" * 101}, "bad source"),
    ({"text": ENGLISH, "source": "\x1b[2J"}, "bad source"), ({"text": "a\0b"}, "binary"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_is_refused_by_its_line_and_in_a_file_given_by_name_an_error(row, reason, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" + rows({"text": ENGLISH}, row, {"text": SIMPLIFIED}))
    documents, refusals = read([tmp_path])
    assert [document.name for document in documents] == ["a.jsonl#2", "a.jsonl#4"]
    assert [refusal.name for refusal in refusals] == ["a.jsonl#3"] and refusals[0].reason.startswith(reason)
    with pytest.raises(DataError, match=r"a\.jsonl, line 3") as error:
        read([tmp_path / "a.jsonl"])
    assert reason.startswith(error.value.reason)


def test_malformed_and_empty_rows_files_do_not_stop_a_folder(tmp_path):
    folder = write(tmp_path, a_jsonl="{", b_jsonl="\n\n", c_jsonl=b'{"text": "\xff"}\n', d_txt=ENGLISH)
    documents, refusals = read([folder])
    assert [document.name for document in documents] == ["d.txt"]
    assert [(name, reason.split(" (")[0]) for name, reason in refusals] == [
        ("a.jsonl#1", "malformed JSON"), ("b.jsonl", "empty file"), ("c.jsonl#1", "not UTF-8"),
    ]  # fmt: skip


def test_other_keys_of_a_row_reach_no_field(tmp_path):
    row = {"text": ENGLISH, "messages": [{"role": "user"}], "id": "evil", "language": "zh", "type": "x", "name": "n",
           "sha256": "0", "source": "wiki", "license": "CC0-1.0"}  # fmt: skip
    (tmp_path / "a.jsonl").write_text(rows(row))
    (document,), _ = read([tmp_path], license="MIT")
    sha = hashlib.sha256(ENGLISH.encode()).hexdigest()
    assert vars(document) == {"text": ENGLISH, "name": "a.jsonl#1", "source": "wiki", "language": "en",
                              "license": "CC0-1.0", "sha256": sha}  # fmt: skip


def test_a_text_that_was_there_before_is_a_duplicate_whatever_white_space_surrounds_it(tmp_path):
    folder = write(tmp_path, a_txt=ENGLISH, b_md=b"\xef\xbb\xbf\r\n" + ENGLISH.encode() + b"\r\n\r\n",
                   c_jsonl=rows({"text": " " + ENGLISH}, {"text": ENGLISH + "!"}))  # fmt: skip
    documents, refusals = read([folder, folder / "a.txt"])
    assert [document.name for document in documents] == ["a.txt", "c.jsonl#2"]
    assert refusals == [Refusal(name, "duplicate of a.txt") for name in ("b.md", "c.jsonl#1", "a.txt")]


def test_line_ends_become_line_feeds(tmp_path):
    write(tmp_path, a_txt=ENGLISH + "\r\n\r\nOne\rtwo")
    assert read([tmp_path])[0][0].text == ENGLISH + "\n\nOne\ntwo"


def test_the_license_is_the_rows_else_the_headers_else_the_arguments(tmp_path):
    mark = "SPDX-License-Identifier:"
    folder = write(
        tmp_path, a_py=f"#!/usr/bin/python\n# {mark} Apache-2.0 WITH LLVM-exception\n", b_c=f"/* {mark} MIT */ int a;",
        c_sh="\n" + "#\n" * 19 + f"# {mark} MIT\n", d_sh="#!\n" + "#\n" * 19 + f"# {mark} MIT\n",
        e_jsonl=rows({"text": f"{ENGLISH}\n{mark} MIT", "license": "CC0-1.0"}, {"text": ENGLISH, "license": None}),
    )  # fmt: skip
    found = {document.name: document.license for document in read([folder], license="BSD-2-Clause")[0]}
    assert found == {"a.py": "Apache-2.0 WITH LLVM-exception", "b.c": "MIT", "c.sh": "MIT", "d.sh": "BSD-2-Clause",
                     "e.jsonl#1": "CC0-1.0", "e.jsonl#2": "BSD-2-Clause"}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    (ENGLISH, "en"), ((ROOT / "LICENSE").read_text(), "en"), ((ROOT / "README.md").read_text(), "en"),
    (CODE_HEAVY, "en"), ("def f(x): return x + 1\n" * 30, "en"), ("Hello", "en"),
    (SIMPLIFIED, "zh"), (TRADITIONAL, "zh"), (CANTONESE, "zh"), ("你好，世界。", "zh"), ("北京", "zh"),
    ("使用 pip install torch 安装 PyTorch，然后运行 python train.py 开始训练。", "zh"), (SIMPLIFIED * 100, "zh"),
    (GERMAN, "de"), ("La maison de la colline est grande et très belle.", "fr"), ("これは日本語の文章です。", "ja"),
    ("東京都は日本の首都である。人口が多い。", "ja"), ("한국어 문장입니다.", "ko"), ("Это простой текст.", "ru"),
    ("Lorem ipsum dolor sit amet, consectetur adipiscing elit", "la"), ("1 2 3 4 5", "zxx"), ("| | |\n|-|-|\n", "zxx"),
])  # fmt: skip
def test_languages_are_told_apart(text, expected):
    assert language(text) == expected


def test_a_long_texts_language_is_that_of_its_parts_together():
    assert language(ENGLISH * 20 + "0" * 10_000 + ENGLISH * 20) == "en"
    assert language(GERMAN * 30 + " " + ENGLISH + GERMAN * 30) == "de"
    assert [language("0" * 5_000 + text * 20 + "0" * 5_000) for text in (GERMAN, ENGLISH)] == ["de", "en"]


def test_prose_in_other_languages_is_refused_also_in_a_file_given_by_name(tmp_path):
    write(tmp_path, a_txt=GERMAN)
    assert read([tmp_path / "a.txt"]) == ([], [Refusal("a.txt", "language de: prompts are English and Chinese")])
    ((document,), refusals) = read([tmp_path / "a.txt"], spoken=())
    assert document.language == "de" and not refusals


def test_source_code_is_chinese_by_its_share_of_characters_alone(tmp_path):
    folder = write(tmp_path, a_py="# " + SIMPLIFIED + "\nprint(1)\n", b_py="# Straße und Gasse\nprint('灯塔')\n")
    assert [document.language for document in read([folder])[0]] == ["zh", "en"]
    assert chinese_share("灯塔 ab, 12") == 0.5 and chinese_share("12, _") is None


def test_names_hold_nothing_that_a_terminal_would_obey(tmp_path):
    (tmp_path / "a\n\x1b[2J.txt").write_text(ENGLISH)
    (tmp_path / os.fsdecode(b"b\xff.txt")).write_text("")
    documents, refusals = read([tmp_path])
    assert [document.name for document in documents] == ["a??[2J.txt"]
    assert refusals[0].name.startswith("b") and refusals[0].name.isprintable()


@settings(max_examples=60, deadline=None)
@given(content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)),
       suffix=st.sampled_from([".txt", ".py", ".jsonl"]))  # fmt: skip
def test_any_bytes_are_a_document_or_a_refusal_and_never_a_crash(content, suffix, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    (folder / f"a{suffix}").write_bytes(content)
    documents, refusals = read([folder])
    assert len(documents) + len(refusals) >= 1
    for document in documents:
        assert document.text == document.text.strip() and document.language in ("en", "zh")
        assert document.text in content.decode().replace("\r\n", "\n").replace("\r", "\n")
