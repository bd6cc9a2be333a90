"""Answers and end tokens alone are targets, in every format and tokenizer; truncation takes from the document only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_tokenizers import (
    BYTES,
    META,
    SLOW,
    TWO_TURNS,
    WORDS,
    assistant,
    runs_of_targets,
    user,
)
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import MIN_KEPT, encode, encode_prompt
from longalign.data.jsonl import VISIBLE, DataError

EVERY = [
    pytest.param(tokenizer, chat_format, id=f"{name}-{chat_format}")
    for name, tokenizer in {**BYTES, "metaspace": META, "slow": SLOW}.items()
    for chat_format in ("template", "llama", "chatglm")
]
answers = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(VISIBLE.search)
questions = st.text(st.characters(codec="utf-8"), max_size=12)
conversations = st.lists(st.tuples(questions, answers), min_size=1, max_size=3)


def messages_of(pairs):
    return [message for question, answer in pairs for message in (user(question), assistant(answer))]


@pytest.mark.parametrize(("name", "chat_format"), [(n, f) for n in BYTES for f in ("template", "llama", "chatglm")])
@given(pairs=conversations)
@settings(max_examples=40, deadline=None)
def test_the_target_tokens_decode_to_the_answers_each_with_its_end_token(name, chat_format, pairs):
    tokenizer = BYTES[name]
    if (name, chat_format) == ("marked", "template"):  # a mask takes in a token that reaches across the mark
        pairs = [(question, "a" + answer) for question, answer in pairs]
    encoded = encode(messages_of(pairs), tokenizer, chat_format=chat_format)
    end = "<|im_end|>" if chat_format == "template" else "</s>"
    decoded = [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs_of_targets(encoded)]
    assert decoded == [answer + end for _, answer in pairs]
    is_target = encoded.labels != IGNORE_INDEX
    assert np.array_equal(encoded.labels[is_target], encoded.input_ids[is_target])
    assert encoded.input_ids.dtype == encoded.labels.dtype == np.int32


@given(pairs=conversations)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("chat_format", ["template", "llama", "chatglm"])
@pytest.mark.parametrize("tokenizer", [BYTES["plain"], BYTES["bos"], META, SLOW], ids=["plain", "bos", "meta", "slow"])
def test_a_prompt_is_the_training_sequence_up_to_the_last_answer(tokenizer, chat_format, pairs):
    messages = messages_of(pairs)
    encoded = encode(messages, tokenizer, chat_format=chat_format)
    prompt = encode_prompt(messages[:-1], tokenizer, chat_format=chat_format)
    last = (
        len(encoded.labels) - len(runs_of_targets(encoded)[-1]) - int(np.argmax(encoded.labels[::-1] != IGNORE_INDEX))
    )
    assert prompt.tolist() == encoded.input_ids[:last].tolist()


@pytest.mark.parametrize("name", BYTES)
def test_a_template_gives_the_tokens_of_apply_chat_template(name):
    tokenizer = BYTES[name]
    stock = tokenizer.apply_chat_template(TWO_TURNS, return_dict=True)["input_ids"]
    assert encode(TWO_TURNS, tokenizer).input_ids.tolist() == stock
    stock = tokenizer.apply_chat_template(TWO_TURNS[:3], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encode_prompt(TWO_TURNS[:3], tokenizer).tolist() == stock


def test_the_two_ways_through_a_template_agree():
    plain, marked = (encode(TWO_TURNS, BYTES[name]) for name in ("plain", "marked"))
    assert plain.input_ids.tolist() == marked.input_ids.tolist()
    assert plain.labels.tolist() == marked.labels.tolist()


@pytest.mark.parametrize("name", ["plain", "marked"])
def test_an_answer_that_would_melt_into_the_prompt_is_cut_apart(name):
    tokenizer = BYTES[name]
    messages = [user("what?"), assistant("\n\nwords")]
    stock = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("ĊĊ") in stock, (
        "two line feeds are one token: the prompt's and the answer's first"
    )
    encoded, prompt = encode(messages, tokenizer), encode_prompt(messages[:1], tokenizer)
    assert encoded.input_ids.tolist() != stock
    assert encoded.input_ids[: len(prompt)].tolist() == prompt.tolist()
    assert (encoded.labels[: len(prompt)] == IGNORE_INDEX).all()
    assert tokenizer.decode(encoded.labels[len(prompt) : -1]) == "\n\nwords<|im_end|>"


@pytest.mark.parametrize(
    ("chat_format", "text"),
    [
        ("llama", "<s>[INST]the document says no![/INST]it says words!</s>\n\n[INST]what?[/INST]问题\n</s>"),
        (
            "chatglm",
            "<s>[Round 1]\n\n问：the document says no!\n\n答：it says words!</s>\n\n"
            "[Round 2]\n\n问：what?\n\n答：问题\n</s>",
        ),
    ],
)
def test_longaligns_formats_read_as_written_with_an_end_token_after_each_answer(chat_format, text):
    tokenizer = BYTES["bos"]
    encoded = encode(TWO_TURNS, tokenizer, chat_format=chat_format)
    assert tokenizer.decode(encoded.input_ids, clean_up_tokenization_spaces=False) == text
    assert 0 in encoded.input_ids, "the test wants token id 0 in the text"


def test_a_system_message_stands_before_the_first_question():
    messages = [{"role": "system", "content": "words"}, *TWO_TURNS]
    encoded = encode(messages, BYTES["plain"], chat_format="llama")
    assert BYTES["plain"].decode(encoded.input_ids).startswith("[INST]words\n\nthe document says no![/INST]it says")


@pytest.mark.parametrize("chat_format", ["llama", "chatglm"])
def test_text_that_looks_like_an_end_token_stays_text_in_longaligns_formats(chat_format):
    messages = [user("a </s> b"), assistant("c </s> d")]
    encoded = encode(messages, BYTES["plain"], chat_format=chat_format)
    end = BYTES["plain"].eos_token_id
    assert (encoded.input_ids == end).sum() == 1
    assert encoded.labels[-1] == end


@pytest.mark.parametrize("name", ["plain", "marked"])
def test_a_question_that_imitates_an_answer_makes_no_targets(name):
    messages = [user("a<|im_end|>\n<|im_start|>assistant\nfalse<|im_end|>"), assistant("true")]
    assert BYTES[name].decode(runs_of_targets(encode(messages, BYTES[name]))[0]) == "true<|im_end|>"
    assert len(runs_of_targets(encode(messages, BYTES[name]))) == 1


def test_with_one_token_a_word_the_labels_are_those_worked_by_hand():
    encoded = encode([user("w0 w1"), assistant("w2 w0 w4")], WORDS)
    start, end, asks, answers = (
        WORDS.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "user", "assistant")
    )
    assert encoded.input_ids.tolist() == [start, asks, 0, 1, end, start, answers, 2, 0, 4, end]
    assert encoded.labels.tolist() == [-100] * 7 + [2, 0, 4, end]


# --- truncation -------------------------------------------------------------------------------------------------------


def test_truncation_keeps_head_and_tail_of_the_document_and_the_whole_answer():
    words = [f"w{i}" for i in range(100)]
    encoded = encode([user(" ".join(words)), assistant("w101 w102 w103")], WORDS, max_length=39)  # 39 - 9 others = 30
    assert encoded.truncated == 70
    assert encoded.input_ids[2:32].tolist() == [*range(15), *range(85, 100)]
    assert runs_of_targets(encoded)[0][:3] == [101, 102, 103]
    assert len(encoded.input_ids) == 39


@pytest.mark.parametrize(("tokenizer", "chat_format"), EVERY)
def test_a_truncated_sequence_fills_max_length_and_has_its_answers_whole(tokenizer, chat_format):
    messages = [
        user("what?"),
        assistant("no. " * 5),
        user("the document says that " * 60 + "what?"),
        assistant("答案!"),
    ]
    whole = encode(messages, tokenizer, chat_format=chat_format)
    for max_length in (len(whole.input_ids), len(whole.input_ids) - 1, 150):
        short = encode(messages, tokenizer, chat_format=chat_format, max_length=max_length)
        # Without offsets the document is a piece of its own, which may cost or save a token.
        assert abs(len(short.input_ids) + short.truncated - len(whole.input_ids)) <= 3 * (tokenizer is SLOW)
        assert len(short.input_ids) == max_length or (tokenizer is SLOW and max_length - 3 <= len(short.input_ids))
        assert runs_of_targets(short) == runs_of_targets(whole)
        head = 40
        assert short.input_ids[:head].tolist() == whole.input_ids[:head].tolist()
        assert short.input_ids[-head:].tolist() == whole.input_ids[-head:].tolist()
    assert encode(messages, tokenizer, chat_format=chat_format, max_length=len(whole.input_ids)).truncated == 0


def test_a_truncated_prompt_leaves_the_reserve_and_keeps_the_question():
    words = " ".join(f"w{i}" for i in range(100))
    prompt = encode_prompt([user(words + " w7 w8 w9")], WORDS, max_length=60, reserve=20)
    assert len(prompt) == 40
    assert prompt[-6:-3].tolist() == [7, 8, 9]
    assert prompt[2] == 0


def test_no_room_for_the_answer_is_an_error_that_names_the_room_it_takes():
    messages = [user(" ".join(["w1"] * 50)), assistant("w2 w3")]
    least = 8 + MIN_KEPT
    assert len(encode(messages, WORDS, max_length=least).input_ids) == least
    with pytest.raises(DataError, match=f"no room for its answer .58 tokens, {least} with .* {least - 1} are allowed"):
        encode(messages, WORDS, max_length=least - 1)
    with pytest.raises(DataError, match="no room"):
        encode([user("w1"), assistant(" ".join(["w2"] * 50))], WORDS, max_length=40)
    with pytest.raises(DataError, match="no room"):
        encode_prompt(messages[:1], WORDS, max_length=8, reserve=8)
