"""ChatGLM3's tokenizer without its code: held to sentencepiece itself on models that the tests train."""

import random

import pytest
import sentencepiece
from transformers import AutoTokenizer

import tiny_spm
from longalign.data.chat import encode
from longalign.data.chat_formats import format_of
from longalign.fetch import chatglm_tokenizer

TALK = [{"role": "user", "content": "谁 keeps  the key?"}, {"role": "assistant", "content": "Marlow.\n"}] * 2


def converted(path):
    chatglm_tokenizer.convert(path, path.parent / "native")
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), AutoTokenizer.from_pretrained(
        path.parent / "native"
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The original and ours."""
    return converted(tiny_spm.train(tmp_path_factory.mktemp("spm") / "tokenizer.model"))


def texts():
    """Sentences of the corpus and others, cut and mixed at random, with blanks, line feeds and what no piece holds."""
    rng, lines = random.Random(0), list(tiny_spm.corpus())
    odd = ["", " ", "\n\n", "  a", "é😀\u3000", "[Round 1]\n\n问：", "\n\n答：", "sop [gMASK] <|user|>", "\tﬁ"]
    for _ in range(400):
        parts = rng.choices(odd, k=rng.randint(0, 3)) + rng.choices(lines, k=rng.randint(0, 2))
        rng.shuffle(parts)
        text = rng.choice(["", " ", "  "]).join(parts)
        yield text[rng.randint(0, 3) : len(text) - rng.randint(0, 3)]


def test_it_gives_sentencepieces_tokens_and_text(both):
    original, ours = both
    seen = set()
    for text in texts():
        ids = original.encode(text)
        assert ours(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids, text
        assert ours.decode(ids) == original.decode(ids), text
        seen.update(ids)
    assert len(seen) > 500 and any(original.is_byte(number) for number in seen)


@pytest.mark.parametrize("options", [
    {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}, {"add_dummy_prefix": False},
], ids=["normalized", "no blank before"])  # fmt: skip
def test_it_normalizes_as_the_file_says(options, tmp_path):
    original, ours = converted(tiny_spm.train(tmp_path / "tokenizer.model", **options))
    for text in texts():
        assert ours(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == original.encode(text)


def test_special_tokens_have_chatglm3s_numbers_and_are_read_out_of_no_text(both):
    original, ours = both
    count = original.get_piece_size()
    numbers = {"[MASK]": 0, "[gMASK]": 1, "[sMASK]": 2, "sop": 3, "eop": 4, "<|user|>": 6}
    assert {name: ours.convert_tokens_to_ids(name) - count for name in numbers} == numbers
    assert ours("a")["input_ids"] == [count + 1, count + 3, *original.encode("a")]
    assert max(ours("sop [gMASK] <|user|>", add_special_tokens=False)["input_ids"]) < count
    assert (ours.eos_token_id, ours.pad_token_id) == (2, 0)


def test_a_conversation_is_in_longaligns_format_by_itself(both):
    original, ours = both
    assert format_of(ours) == "chatglm"
    encoded, count = encode(TALK, ours), original.get_piece_size()
    assert encoded.input_ids.tolist() == [
        count + 1, count + 3,
        *original.encode("[Round 1]\n\n问：谁 keeps  the key?\n\n答："), *original.encode("Marlow.\n"), 2,
        *original.encode("\n\n[Round 2]\n\n问：谁 keeps  the key?\n\n答："), *original.encode("Marlow.\n"), 2,
    ]  # fmt: skip
    assert [n for n in encoded.labels.tolist() if n >= 0] == [*original.encode("Marlow.\n"), 2] * 2


def test_other_files_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="tokenizer.model is not a sentencepiece model: fetch it again"):
        chatglm_tokenizer.convert(tmp_path / "tokenizer.model", tmp_path / "native")
    for options in ({"model_type": "unigram"}, {"byte_fallback": False}):
        with pytest.raises(ValueError, match="merged in pairs and fall back to bytes, these are not"):
            chatglm_tokenizer.convert(tiny_spm.train(tmp_path / "other.model", **options), tmp_path / "native")
    assert not (tmp_path / "native").exists()
