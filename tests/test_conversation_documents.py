"""Documents in a conversation are cut where they are too long, in any message; questions and answers stay whole."""


import pytest

from chat_templates import (
    HARMONY,
    SMOLLM3,
    tokenizer_for,
)
from chat_tokenizers import PLAIN, WithoutOffsets, assistant, byte_tokenizer, user
from conversations import TWO, targets
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import encode
from longalign.data.jsonl import DataError
from longalign.data.truncation import MIN_KEPT, question_in

DOCUMENT = " ".join(f"Fact {i} stands here." for i in range(80))
QUESTION = "Which of the facts, of all that stand here, is the one that was asked for in the very beginning?"


@pytest.mark.parametrize("slow", [False, True], ids=["offsets", "slow"])
@pytest.mark.parametrize("chat_format", ["template", "llama", "chatglm"])
def test_the_question_stays_whole_at_every_length_that_has_room_for_it(chat_format, slow):
    fast = byte_tokenizer(PLAIN)
    tokenizer = WithoutOffsets(fast) if slow else fast
    messages = [user(f"{DOCUMENT}\n\n{QUESTION}"), assistant("no.")]
    least = len(encode([user(QUESTION), assistant("no.")], fast, chat_format=chat_format).input_ids)
    for max_length in (least + 12, least + 40, least + 200):
        encoded = encode(messages, tokenizer, chat_format=chat_format, max_length=max_length)
        assert QUESTION in fast.decode(encoded.input_ids) and len(encoded.input_ids) <= max_length
        assert "Fact 0" in fast.decode(encoded.input_ids) and encoded.truncated
    with pytest.raises(DataError, match="no room for its answer"):
        encode(messages, tokenizer, chat_format=chat_format, max_length=least)


@pytest.mark.parametrize("slow", [False, True], ids=["offsets", "slow"])
@pytest.mark.parametrize("behind", ["\n\n", "\n"], ids=["paragraph", "line"])
def test_an_instruction_before_a_document_is_cut_last(behind, slow):
    fast, instruction = byte_tokenizer(PLAIN), QUESTION[:-1] + ", and the next one " * 20 + "in English?"
    tokenizer = WithoutOffsets(fast) if slow else fast
    rest = len(encode([user(instruction + behind + QUESTION), assistant("no.")], fast).input_ids)
    said = f"{instruction}{behind}{DOCUMENT.replace('. ', behind)}{behind}{QUESTION}"
    for room in (-40, 24, 99):
        text = fast.decode(encode([user(said), assistant("no.")], tokenizer, max_length=rest + room).input_ids)
        assert QUESTION in text and instruction[: len(instruction) - 80] in text
        assert (instruction in text) == (room > 0)


def test_a_cut_that_may_be_of_an_instruction_is_counted():
    tokenizer = byte_tokenizer(PLAIN)
    long, short = f"Sum this up.\n\n{DOCUMENT}\n\n{QUESTION}", "and the next one " * 40
    for said, doubtful in ((long, 0), ("so " * 999, 1), (short, 1), (QUESTION * 9 + "\n\n" + DOCUMENT * 9, 0)):
        whole = encode([user(said), assistant("no.")], tokenizer)
        cut = encode([user(said), assistant("no.")], tokenizer, max_length=len(whole.input_ids) - 50)
        assert (whole.doubtful, cut.truncated, cut.doubtful) == (0, 50, doubtful), said[:20]


@pytest.mark.parametrize("chat_format", ["template", "llama"])
def test_documents_in_the_system_message_and_in_several_turns_are_cut(chat_format):
    tokenizer = byte_tokenizer(PLAIN)
    system = {"role": "system", "content": f"Documents:\n{DOCUMENT}"}
    first, second = user(f"{DOCUMENT}\n\n{QUESTION}"), user(f"{DOCUMENT[:1200]}\n\nAnd here?")
    turns = [first, assistant("no."), second, assistant("yes.")]
    for messages in ([system, user(QUESTION), assistant("no.")], [system, *turns], turns):
        whole = encode(messages, tokenizer, chat_format=chat_format)
        for max_length in (len(whole.input_ids) - 1, 600, 300):
            encoded = encode(messages, tokenizer, chat_format=chat_format, max_length=max_length)
            text = tokenizer.decode(encoded.input_ids)
            assert len(encoded.input_ids) == max_length
            assert encoded.truncated == len(whole.input_ids) - max_length
            assert all(m["content"].split("\n\n")[-1] in text for m in messages if m["role"] != "system")
            assert (encoded.labels != IGNORE_INDEX).sum() == (whole.labels != IGNORE_INDEX).sum()


def test_a_short_question_is_never_cut_for_a_document_elsewhere():
    tokenizer = byte_tokenizer(PLAIN)
    messages = [{"role": "system", "content": DOCUMENT}, user(QUESTION * 5), assistant("no.")]
    rest = len(encode([user(QUESTION * 5), assistant("no.")], tokenizer).input_ids)
    assert QUESTION * 5 in tokenizer.decode(encode(messages, tokenizer, max_length=rest + 60).input_ids)
    with pytest.raises(DataError, match="no room for its answer"):
        encode(messages, tokenizer, max_length=rest + MIN_KEPT // 2)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("doc doc.\n\nWhat?", ("", "\n\nWhat?")),
        ("doc doc.\n\nA long one?\nWith two lines?", ("", "\n\nA long one?\nWith two lines?")),
        ("Sum it up:\n\n" + "d " * 900, ("Sum it up:\n\n", "")),
        ("d " * 900 + "\nWhat?", ("", "\nWhat?")),
        ("d " * 900 + "end. What is it?", ("", " What is it?")),
        ("文" * 1200 + "。问题是什么？", ("", "问题是什么？")),
        ("one two three", ("", "")),
        ("", ("", "")),
    ],
)
def test_the_question_of_a_message_is_its_last_paragraph_line_or_sentence(content, kept):
    lead, rest = question_in(content)
    assert (content[:lead], content[rest:]) == kept


def test_a_message_that_another_one_quotes_is_not_taken_for_written():
    drops = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    rule = "Answer as briefly as you can."
    with pytest.raises(DataError, match=r"messages\[0\].content: template drops the field"):
        encode([{"role": "system", "content": rule}, user(f"Why {rule}"), assistant("So.")], byte_tokenizer(drops))


def test_questions_that_a_template_shortens_are_counted():
    first_lines = byte_tokenizer(PLAIN.replace("{{ m.content }}", "{{ m.content.split('\n')[0] }}"))
    assert encode([user("a document\nand a question"), assistant("yes")], first_lines).shortened == 1
    assert encode([user(" a document "), assistant("yes")], first_lines).shortened == 0


def test_marked_answers_may_end_otherwise_where_more_turns_follow():
    tokenizer, last = tokenizer_for(HARMONY), "{%- else %}{{- '<|start|>' + m"
    answers = HARMONY.replace("{%- if m.role == 'assistant' %}", "{%- if m.role == 'assistant' %}{% generation %}")
    tokenizer.chat_template = answers.replace(last, "{% endgeneration %}" + last)
    head = "<|start|>assistant<|channel|>final<|message|>"
    assert targets(TWO, tokenizer) == [f"{head}first<|end|>", f"{head}second<|return|>"]
    thought = [{**message, "thinking": "hm"} if message["role"] == "assistant" else message for message in TWO]
    thoughts = "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>"
    assert targets(thought, tokenizer) == [f"{head}first<|end|>", f"{thoughts}{head}second<|return|>"]


def test_a_template_that_rewrites_contents_drops_none_of_them():
    tokenizer = tokenizer_for(SMOLLM3)
    tokenizer.chat_template = SMOLLM3.replace("{{ m.content + ", "{{ m.content[::-1] + ").replace("{{ '\n' }}", "")
    assert targets(TWO, tokenizer) == ["tsrif<|im_end|>", "dnoces<|im_end|>"]
