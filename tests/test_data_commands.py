"""`longalign data tokenize` says what became of the data, `data show` what is learnt; what cannot be is refused."""

import json
import os

import pytest
from tokenizers import Regex, normalizers
from transformers import LlamaConfig

from chat_tokenizers import MARKED, PLAIN, assistant, byte_tokenizer, latin_tokenizer, user, word_tokenizer
from longalign.cli import show
from longalign.cli.main import main
from longalign.clients import local_model
from longalign.data import tokenizers
from longalign.data.jsonl import DataError
from longalign.data.store import TokenStore, write_store
from longalign.data.tokenize_files import tokenize_jsonl
from longalign.miniature import tokenizer as miniature

WORDS = miniature.load()
SAID = [user("Who leads?"), assistant("Barvik."), user("Sure?"), assistant("Yes.")]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]


def rows(path, *samples):
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2
    return told[-1]


@pytest.fixture
def store(tmp_path, capsys):
    masked = [SAID[0], {**SAID[1], "weight": 0}, SAID[2], SAID[3]]
    file = rows(tmp_path / "a.jsonl", {"messages": SAID}, {"messages": masked}, {"messages": masked[:2]})
    assert main(["data", "tokenize", str(file), "--out", str(tmp_path / "store"), "--max-length", "64"]) == 0
    return tmp_path / "store"


def test_text_that_the_tokenizer_cannot_write_is_counted(tmp_path, capsys):
    words = word_tokenizer()
    words.save_pretrained(tmp_path / "words")
    file = rows(tmp_path / "a.jsonl", {"messages": [user("w1 w2"), assistant("w3 😀 w4 😀")]})
    command = ["data", "tokenize", str(file), "--out", str(tmp_path / "s"), "--tokenizer", str(tmp_path / "words")]
    assert main(command) == 0 and "2 of 12 tokens are [UNK]" in capsys.readouterr().err


def test_text_that_the_tokenizer_leaves_out_is_counted(tmp_path, capsys):
    latin_tokenizer().save_pretrained(tmp_path / "words")
    file = rows(tmp_path / "a.jsonl", {"messages": [user("é w"), assistant("a 😀 b 😀")]})
    command = ["data", "tokenize", str(file), "--out", str(tmp_path / "s"), "--tokenizer", str(tmp_path / "words")]
    told = "3 characters are left out, for the tokenizer has no token for them: '😀' (2), 'é' (1)"
    assert main(command) == 0 and told in capsys.readouterr().err


@pytest.mark.parametrize(("normalizer", "told"), [
    (normalizers.Replace(Regex(r"\s+"), " "), "for a line end and a blank, for several blanks and one"),
    (normalizers.Lowercase(), "for capital and small letters"),
    (None, ""),
], ids=["a tokenizer of one blank", "of small letters", "of all bytes"])  # fmt: skip
def test_text_that_becomes_the_tokens_of_another_text_is_told(normalizer, told, tmp_path, capsys):
    words = byte_tokenizer()
    if normalizer:
        words.backend_tokenizer.normalizer = normalizer
    words.save_pretrained(tmp_path / "words")
    file = rows(tmp_path / "a.jsonl", {"messages": SAID})
    command = ["data", "tokenize", str(file), "--out", str(tmp_path / "s"), "--tokenizer", str(tmp_path / "words")]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert f"the tokenizer writes the same tokens {told}: the model cannot learn the difference\n" in said or not told
    assert ("cannot learn" in said) == bool(told)


def test_keys_that_nothing_reads_are_told(tmp_path, capsys):
    file = rows(tmp_path / "a.jsonl", {"messages": SAID, "length": 3, "context": "A document.", "note": None},
                {"messages": [{**SAID[0], "annotations": [1]}, SAID[1]], "context": "Another."})  # fmt: skip
    assert main(["data", "tokenize", str(file), "--out", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out.endswith("keys that nothing reads: 'context' (2), 'messages[].annotations' (1)\n")
    byte_tokenizer("{{ messages[0].name }}" + PLAIN).save_pretrained(tmp_path / "words")
    rows(tmp_path / "a.jsonl", {"messages": [{**SAID[0], "name": "Ann"}, SAID[1]]})
    command = ["data", "tokenize", str(file), "--out", str(tmp_path / "s"), "--tokenizer", str(tmp_path / "words")]
    assert main(command) == 0 and "keys that nothing reads" not in capsys.readouterr().out


def test_a_template_that_writes_the_day_is_told(tmp_path, capsys):
    words = byte_tokenizer("{{ strftime_now('%d %b %Y') }}" + PLAIN)
    words.save_pretrained(tmp_path / "words")
    file = rows(tmp_path / "a.jsonl", {"messages": SAID})
    command = ["data", "tokenize", str(file), "--out", str(tmp_path / "s"), "--tokenizer", str(tmp_path / "words")]
    for more, told in (([], 1), (["--chat-format", "llama"], 0)):
        assert main([*command, *more]) == 0 and capsys.readouterr().err.count("today's date") == told


def test_tokenizing_ends_with_what_the_store_holds_and_a_warning_where_nothing_is_learnt(store, capsys):
    told = capsys.readouterr()
    counts = TokenStore(store).manifest
    share = counts["targets"] / counts["tokens"]
    assert told.out.splitlines() == [
        f"{store}: 3 sequences, {counts['tokens']} tokens, {counts['targets']} of them targets ({share:.1%})",
        "cut to the maximum length: 0 samples, 0 tokens; answers masked by weight or train: 2; samples left out: 0",
    ]
    assert "the model learns nothing from samples without targets: 1 of 3 samples have none" in told.err
    assert counts["masked_answers"] == 2 and TokenStore(store).target_counts.tolist()[2] == 0


def test_a_store_of_which_nothing_is_a_target_is_warned_of(tmp_path, capsys):
    file = rows(tmp_path / "a.jsonl", {"messages": [SAID[0], {**SAID[1], "train": False}]})
    main(["data", "tokenize", str(file), "--out", str(tmp_path / "store")])
    assert "no sample has a target" in capsys.readouterr().err


def test_what_is_counted_of_answers_is_the_same_in_parts(tmp_path, monkeypatch):
    from longalign.data import tokenize_files

    masked = {"messages": [SAID[0], {**SAID[1], "weight": 0}, SAID[2], SAID[3]]}
    file = rows(tmp_path / "a.jsonl", *[masked] * 20, {"messages": SAID, "context": "..."})
    stores = []
    for size in (10**9, 500):
        monkeypatch.setattr(tokenize_files, "PART_BYTES", size)
        stores.append(tokenize_jsonl(file, WORDS, tmp_path / f"{size}", workers=1, progress=lambda *told: None))
    assert stores[0].manifest == stores[1].manifest and stores[0].manifest["masked_answers"] == 20
    assert stores[0].manifest["unread_keys"] == {"context": 1}


@pytest.mark.parametrize(
    ("sample", "field"),
    [
        ({"messages": [SAID[0], {**SAID[1], "reasoning_content": "hm"}]}, r"messages[1].reasoning_content"),
        ({"messages": [SAID[0], {**SAID[1], "tool_calls": CALL}], "tools": [CALL[0]]}, "messages[1].tool_calls"),
        ({"messages": SAID, "tools": [CALL[0]]}, "tools"),
        ({"messages": SAID, "tools": "weather"}, "tools"),
        ({"messages": [SAID[0], SAID[1], {"role": "tool", "content": "sunny"}, SAID[3]]}, "messages[2].role"),
        ({"messages": [SAID[0], {**SAID[1], "weight": 0.5}]}, "messages[1].weight"),
        ({"messages": SAID, "functions": [{"name": "weather"}]}, "functions"),
        ({"messages": SAID, "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ],
)
def test_what_the_miniatures_template_does_not_know_is_refused_by_line_and_field(tmp_path, capsys, sample, field):
    file = rows(tmp_path / "a.jsonl", {"messages": SAID}, sample)
    told = refused(capsys, "data", "tokenize", file, "--out", tmp_path / "store")
    assert f"a.jsonl, line 2, field {field}: " in told
    assert not (tmp_path / "store").exists()


# --- show -------------------------------------------------------------------------------------------------------------


def test_a_sample_is_shown_with_its_targets_marked(store, capsys):
    capsys.readouterr()
    main(["data", "show", str(store), "--sample", "1"])
    head, text = capsys.readouterr().out.strip().splitlines()
    assert head.startswith(f"{store}, sample 1 of 3, line 2 of a.jsonl: ")
    assert text == "<|user|> Who leads?<|assistant|> Barvik.<|end|><|user|> Sure?<|assistant|>⟦ Yes.<|end|>⟧"
    main(["data", "show", str(store)])
    assert "⟦ Barvik.<|end|>⟧<|user|>" in capsys.readouterr().out
    assert "holds 3 samples, 0 to 2: there is no 3" in refused(capsys, "data", "show", store, "--sample", 3)


def test_an_edited_store_is_not_shown(store, capsys):
    path = store / "tokens.bin"
    path.write_bytes(b"\x05" + path.read_bytes()[1:])
    assert "tokens.bin: damaged token store (its sha256 differs" in refused(capsys, "data", "show", store)


def test_colour_is_for_terminals_that_want_it(store, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert show._marks() == show.GREEN
    main(["data", "show", str(store), "--sample", "1"])
    assert capsys.readouterr().out.strip().endswith("<|assistant|>\x1b[32m Yes.<|end|>\x1b[0m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert show._marks() == show.MARKS
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert show._marks() == show.MARKS


def test_long_stretches_are_shown_by_their_ends_and_nothing_that_a_terminal_obeys(tmp_path, capsys):
    file = rows(tmp_path / "a.jsonl", {"messages": [user("go\x1b[2J " + "on " * 5000 + "now?"), SAID[1]]})
    main(["data", "tokenize", str(file), "--out", str(tmp_path / "store")])
    main(["data", "show", str(tmp_path / "store")])
    told = capsys.readouterr().out
    assert "\x1b" not in told and "go\\x1b[2J on on" in told and "on now?<|assistant|>⟦ Barvik.<|end|>⟧" in told
    assert " characters ...]" in told and len(told) < 2600


def test_the_tokenizer_is_the_one_that_the_store_was_made_with(tmp_path, store, capsys):
    folder, other = tmp_path / "own", tmp_path / "other"
    byte_tokenizer(MARKED).save_pretrained(folder)
    byte_tokenizer(MARKED, bos=True).save_pretrained(other)
    file, made = rows(tmp_path / "b.jsonl", {"messages": SAID}), tmp_path / "bytes"
    main(["data", "tokenize", str(file), "--out", str(made), "--tokenizer", str(folder)])
    main(["data", "show", str(made)])
    assert "assistant\n⟦Yes.<|im_end|>⟧" in capsys.readouterr().out
    for name in (other, "miniature"):
        told = refused(capsys, "data", "show", made, "--tokenizer", name)
        assert f"--tokenizer {name}: {made} was made with another tokenizer" in told
    folder.rename(tmp_path / "moved")
    assert "there is no such folder" in refused(capsys, "data", "show", made)
    assert main(["data", "show", str(made), "--tokenizer", str(tmp_path / "moved")]) == 0
    unnamed = write_store(tmp_path / "unnamed", [], meta={})
    assert unnamed.manifest["sequences"] == 0
    assert "holds 0 samples" in refused(capsys, "data", "show", tmp_path / "unnamed")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_tokenizer_is_refused_by_every_loader(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    file = rows(tmp_path / "a.jsonl", {"messages": SAID})
    sentence = f"longalign: {empty} holds no tokenizer: name one with --tokenizer"
    for command in (
        ["data", "tokenize", file, "--out", tmp_path / "store"],
        ["plan", file, "--capacity", 100],
        ["data", "build", "--documents", tmp_path, "--out", tmp_path / "long.jsonl"],
        ["eval", "needle", "--model", "http://127.0.0.1:9/v1", "--lengths", 100, "--out", tmp_path / "scores"],
    ):
        assert refused(capsys, *command, "--tokenizer", empty).startswith(sentence)
    assert not (tmp_path / "store").exists()
    for load in (tokenizers.load, local_model.load_tokenizer):
        with pytest.raises(ValueError, match="holds no tokenizer: name one"):
            load(str(empty))


def test_a_tokenizer_that_cannot_be_loaded_is_refused_in_a_sentence_whatever_stops_it(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^--tokenizer .*: cannot be loaded: "):
        tokenizers.load(str(tmp_path))


def test_the_miniatures_tokenizer_is_taken_by_its_name_or_said_to_be(tmp_path, capsys):
    assert tokenizers.load("miniature") is WORDS
    miniature = LlamaConfig(vocab_size=len(WORDS), eos_token_id=WORDS.eos_token_id)
    assert local_model.load_tokenizer(str(tmp_path), miniature) is WORDS
    another = LlamaConfig(vocab_size=len(WORDS), eos_token_id=WORDS.eos_token_id + 1)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        local_model.load_tokenizer(str(tmp_path), another)
    file = rows(tmp_path / "a.jsonl", {"messages": SAID})
    assert main(["data", "tokenize", str(file), "--out", str(tmp_path / "s"), "--tokenizer", "miniature"]) == 0
    assert "no --tokenizer given" not in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False], ids=["folder", "nothing-yet"])
def test_a_symbolic_link_in_the_place_of_a_store_stays_and_its_target_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "real", tmp_path / "link"
    if there:
        target.mkdir()
    link.symlink_to(target)
    file = rows(tmp_path / "a.jsonl", {"messages": SAID})
    for _ in range(2):
        tokenize_jsonl(file, WORDS, link, progress=lambda *told: None)
        assert link.is_symlink() and len(TokenStore(target)) == len(TokenStore(link)) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "disk", "link"] and os.listdir(tmp_path / "disk") == ["real"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="loop: cannot be written .it is a symbolic link to itself"):
        tokenize_jsonl(file, WORDS, tmp_path / "loop", progress=lambda *told: None)
