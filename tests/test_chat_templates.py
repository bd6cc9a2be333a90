"""Templates and tokenizers that do not fit: answers that cannot be found, marks, and text that no token writes."""

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import (
    BYTES,
    ENDLESS,
    FORGETFUL,
    MARKED,
    META,
    PLAIN,
    SLOW,
    STRICT,
    TWO_TURNS,
    WORDS,
    WithoutOffsets,
    assistant,
    byte_tokenizer,
    latin_tokenizer,
    runs_of_targets,
    user,
)
from longalign.common.array_types import IGNORE_INDEX
from longalign.data import text_tokens
from longalign.data.chat import encode, tokenizer_hash
from longalign.data.jsonl import DataError


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
