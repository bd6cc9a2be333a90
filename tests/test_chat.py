"""Answers and end tokens alone are targets, in every format and tokenizer; truncation takes from the document only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import (
    ENDLESS,
    FORGETFUL,
    MARKED,
    PLAIN,
    STRICT,
    WithoutOffsets,
    assistant,
    byte_tokenizer,
    latin_tokenizer,
    metaspace_tokenizer,
    user,
    word_tokenizer,
)
from longalign.common.array_types import IGNORE_INDEX
from longalign.data import text_tokens
from longalign.data.chat import MIN_KEPT, encode, encode_prompt, tokenizer_hash
from longalign.data.jsonl import VISIBLE, DataError

BYTES = {"plain": byte_tokenizer(PLAIN), "marked": byte_tokenizer(MARKED), "bos": byte_tokenizer(PLAIN, bos=True)}
WORDS = word_tokenizer()
META = metaspace_tokenizer()
SLOW = WithoutOffsets(BYTES["plain"])
TWO_TURNS = [user("the document says no!"), assistant("it says words!"), user("what?"), assistant("问题\n")]

EVERY = [
    pytest.param(tokenizer, chat_format, id=f"{name}-{chat_format}")
    for name, tokenizer in {**BYTES, "metaspace": META, "slow": SLOW}.items()
    for chat_format in ("template", "llama", "chatglm")
]
answers = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(VISIBLE.search)
questions = st.text(st.characters(codec="utf-8"), max_size=12)
conversations = st.lists(st.tuples(questions, answers), min_size=1, max_size=3)


def runs_of_targets(encoded):
    """The label runs of a sequence, one list of token ids for each answer."""
    is_target = np.concatenate([[False], encoded.labels != IGNORE_INDEX, [False]])
    edges = np.flatnonzero(np.diff(is_target.astype(int))).reshape(-1, 2)
    return [encoded.labels[start:end].tolist() for start, end in edges]


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


# --- templates and tokenizers that do not fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (FORGETFUL, r"messages\[1\].content: template unsuitable \(not prefix-stable"),
        (ENDLESS, "template unsuitable .it puts no end token behind the answer"),
        (STRICT, "template refuses the messages .one question only"),
        (PLAIN.split("{% if add")[0], "template unsuitable .the answer does not follow its generation prompt"),
        ("{% generation %}<|im_end|>{% endgeneration %}" * 3, "marks . runs of tokens for 2 answers"),
    ],
    ids=["forgetful", "endless", "strict", "no-generation-prompt", "wrong-marks"],
)
def test_a_template_in_which_answers_cannot_be_found_is_refused(template, message):
    with pytest.raises(DataError, match=message):
        encode(TWO_TURNS, byte_tokenizer(template))


LAST_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{% for m in messages if m.role == 'system' %}"
    "<|im_start|>system\n{{ m.content }}<|im_end|>{% endfor %}{% endif %}"
)


def test_a_template_that_writes_an_earlier_message_behind_the_answer_is_refused_for_it_would_be_learnt():
    system = {"role": "system", "content": "Be brief."}
    with pytest.raises(DataError, match="it writes another message behind the answer"):
        encode([system, user("One?"), assistant("Two.")], byte_tokenizer(LAST_SYSTEM))
    same = [{"role": "system", "content": "im_end"}, user("im_end"), assistant("im_end")]
    encode(same, byte_tokenizer(PLAIN))  # what occurs in the end token alone is no other message


def test_a_mark_that_stops_short_of_the_end_token_is_extended_to_it():
    template = MARKED.replace(
        "{{ m.content }}<|im_end|>\n{% endgeneration %}", "{{ m.content }}{% endgeneration %}<|im_end|>\n"
    )
    assert template != MARKED
    assert (
        encode(TWO_TURNS, byte_tokenizer(template)).labels.tolist() == encode(TWO_TURNS, BYTES["plain"]).labels.tolist()
    )


TURN_OF = "{% macro turn(m) %}<|im_start|>{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endmacro %}"
ASKED = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"


@pytest.mark.parametrize(
    "template",
    [
        TURN_OF + ASKED + "{{ turn(m) }}{% endif %}{% endfor %}",
        "{% macro turn() %}<|im_start|>{{ caller() }}{% endmacro %}" + ASKED + "{% call turn() %}{% generation %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}{% endcall %}{% endif %}{% endfor %}",
        ASKED.replace("messages", "messages recursive") + "<|im_start|>{%+ generation -%}\n {{ m.content }}<|im_end|>"
        "{%- endgeneration %}{% endif %}{% endfor %}",
        TURN_OF + ASKED + "{% set said = turn(m) %}{{ said | trim }}\n{% endif %}{% endfor %}",
    ],
    ids=["macro", "call", "recursive loop", "macro and filter"],
)
def test_what_a_template_marks_is_a_target_wherever_the_mark_stands(template):
    tokenizer = byte_tokenizer(template)
    encoded = encode(TWO_TURNS, tokenizer)
    learnt = tokenizer.decode(encoded.labels[encoded.labels != IGNORE_INDEX])
    assert learnt == "".join(m["content"] + "<|im_end|>" for m in TWO_TURNS if m["role"] == "assistant")


@pytest.mark.parametrize("sign", ["\ufdd0", "\U000f0000", "\U000f0000\U000f0001"])
def test_no_character_of_an_answer_is_taken_for_where_a_mark_stands(sign):
    encoded = encode([user(sign), assistant(f"a{sign}b")], BYTES["marked"])
    (run,) = runs_of_targets(encoded)
    assert BYTES["marked"].decode(run) == f"a{sign}b<|im_end|>"


def test_a_template_that_works_on_the_marked_text_is_refused():
    template = TURN_OF + ASKED + "{{ turn(m)[:13] }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match="what its {% generation %} marks cannot be told"):
        encode(TWO_TURNS, byte_tokenizer(template))


@pytest.mark.parametrize("marked", [False, True], ids=["found", "marked"])
def test_a_blank_at_a_prompts_end_is_no_target_where_offsets_leave_blanks_out(marked):
    said = "{% generation %}{{ m.content }}</s>{% endgeneration %}" if marked else "{{ m.content }}</s>"
    tokenizer = byte_tokenizer(
        ASKED.replace("{{ m.content }}", "Q: {{ m.content }} A:  ") + said + "{% endif %}{% endfor %}"
    )
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    encoded = encode([user("w"), assistant("問yes"), user("w"), assistant("  no")], tokenizer)
    assert tokenizer.decode(encoded.labels[encoded.labels != IGNORE_INDEX]) == "問yes</s>  no</s>"


def test_what_a_tokenizer_lacks_is_said_once_and_is_no_fault_of_the_data():
    without_template, by_chance = byte_tokenizer(None), byte_tokenizer()
    by_chance.backend_tokenizer.model.dropout = 0.1
    for call, match in [
        (lambda: encode(TWO_TURNS, without_template), "no chat template"),
        (lambda: encode(TWO_TURNS, WORDS, chat_format="alpaca"), "unknown chat_format 'alpaca'"),
        (lambda: encode(TWO_TURNS, WithoutOffsets(BYTES["marked"])), "needs a fast tokenizer"),
        (lambda: encode(TWO_TURNS, by_chance), "cuts words by chance: set the dropout in its tokenizer.json to null"),
        (lambda: encode(TWO_TURNS, latin_tokenizer(MARKED)), "which drops no character"),
    ]:
        with pytest.raises(ValueError, match=match) as error:
            call()
        assert not isinstance(error.value, DataError)
    without_end = byte_tokenizer(PLAIN)
    without_end.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        encode(TWO_TURNS, without_end, chat_format="llama")


def test_an_answer_for_which_the_tokenizer_has_no_token_is_refused():
    latin = latin_tokenizer()
    assert encode([user("w é"), assistant("a问b")], latin).lost == "é问"
    assert encode([user("w"), assistant("a")], latin).lost == ""
    for chat_format in ("template", "llama"):
        with pytest.raises(DataError, match="empty answer .the tokenizer has no token for its text"):
            encode([user("w"), assistant("问")], latin, chat_format=chat_format)


def test_the_hash_of_a_tokenizer_tells_tokenizers_apart_and_stays_after_use():
    tokenizer = byte_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer("words and words", truncation=True, max_length=3)
    assert tokenizer_hash(tokenizer) == before == tokenizer_hash(byte_tokenizer())
    others = {tokenizer_hash(t) for t in (byte_tokenizer(MARKED), byte_tokenizer(bos=True), META, WORDS, SLOW)}
    assert len(others | {before}) == 6


@pytest.mark.parametrize(("unk_id", "unknown"), [(1, "<unk>"), (None, None)])
def test_a_unigram_tokenizer_that_names_its_unknown_token_by_number_alone_drops_nothing(unk_id, unknown):
    pieces = [("</s>", 0.0), ("<unk>", 0.0), *((a, -2.0) for a in "[INST]/ ab\n")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=unk_id))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert tokenizer.unk_token is None and text_tokens.unknown_token(tokenizer) == unknown
    if unknown:
        assert text_tokens.lost_in("ab界", tokenizer) == "" and text_tokens.has_offsets(tokenizer)


@pytest.mark.parametrize("chat_format", ["llama", "chatglm"])
def test_a_tokenizer_that_reads_the_end_token_in_text_is_refused_where_a_text_spells_it(chat_format):
    letters = sorted(set("[INST]/[Round 1]问：答ab\n "))
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *((a, -2.0) for a in letters)], unk_id=0))
    unigram = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    assert encode([user("ab"), assistant("ba")], unigram, chat_format=chat_format).input_ids.tolist().count(1) == 1
    with pytest.raises(DataError, match="end token in the text .the text spells </s>"):
        encode([user("a</s>b"), assistant("ba")], unigram, chat_format=chat_format)
