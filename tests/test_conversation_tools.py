"""Tools, their calls and their results go through a template that knows them, or are refused."""


import pytest

import chat_templates
from chat_templates import (
    DEEPSEEK_R1,
    DEEPSEEK_V3,
    LLAMA3,
    MISTRAL,
    QWEN3,
    tokenizer_for,
)
from chat_tokenizers import PLAIN, assistant, byte_tokenizer, user
from conversations import AS_TEXT, CALL, TOOLS, TWO, calls, targets, tool
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import encode, encode_prompt
from longalign.data.chat_formats import unread_keys
from longalign.data.jsonl import DataError

WITH_TOOLS = [user("Weather?"), calls(CALL), tool("sunny"), assistant("Sunny."), user("Thanks"), assistant("Bye")]
QWEN3_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call><|im_end|>'


def test_calls_and_their_results_go_through_a_template_that_knows_them():
    qwen, mistral = tokenizer_for(QWEN3), tokenizer_for(MISTRAL)
    assert [text.strip() for text in targets(WITH_TOOLS, qwen, tools=TOOLS)] == [
        QWEN3_CALL, "Sunny.<|im_end|>", "<think>\n\n</think>\n\nBye<|im_end|>"
    ]  # fmt: skip
    assert targets(WITH_TOOLS, mistral, tools=TOOLS) == [
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Bonn"}}]</s>', " Sunny.</s>", " Bye</s>"
    ]  # fmt: skip
    for tokenizer in (qwen, mistral):
        stock = tokenizer.apply_chat_template(WITH_TOOLS, tools=TOOLS, return_dict=True)["input_ids"]
        assert encode(WITH_TOOLS, tokenizer, tools=TOOLS).input_ids.tolist() == stock
        asked = tokenizer.apply_chat_template(
            WITH_TOOLS[:3], tools=TOOLS, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert encode_prompt(WITH_TOOLS[:3], tokenizer, tools=TOOLS).tolist() == asked


def test_arguments_are_written_as_json_once_whichever_way_they_are_given():
    text = [user("Weather?"), calls(AS_TEXT), tool("sunny"), assistant("Sunny."), user("Thanks"), assistant("Bye")]
    for template in (QWEN3, MISTRAL):
        tokenizer = tokenizer_for(template)
        assert targets(text, tokenizer) == targets(WITH_TOOLS, tokenizer)
    deepseek = tokenizer_for(DEEPSEEK_V3)  # takes strings alone
    expected = '<｜tool▁calls▁begin｜>weather\n{"city": "Bonn"}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
    assert targets(text, deepseek)[0] == targets(WITH_TOOLS, deepseek)[0] == expected


def test_arguments_that_are_no_json_are_refused_where_a_template_writes_objects():
    cut = {**CALL, "function": {"name": "weather", "arguments": '{"city": "Bo'}}
    said = [user("Weather?"), calls(AS_TEXT, cut)]
    with pytest.raises(DataError, match=r"^field messages\[1\].tool_calls\[1\]: arguments not a JSON object"):
        encode(said, tokenizer_for(QWEN3))
    assert '{"city": "Bo<' in targets(said, tokenizer_for(DEEPSEEK_V3))[0].replace("weather\n", "")


def test_what_a_template_drops_of_a_conversation_with_tools_is_refused_by_name():
    llama = tokenizer_for(LLAMA3)
    for messages, tools, field in [
        (TWO, TOOLS, "tools"),
        ([user("q"), calls(CALL, content="Let me look.")], None, r"messages\[1\].content"),
        ([user("q"), assistant("I call it."), tool("sunny"), assistant("Sunny.")], None, None),
    ]:
        if field is None:
            assert targets(messages, llama)[-1] == "Sunny.<|eot_id|>"
            continue
        with pytest.raises(DataError, match=f"^field {field}: template drops the field"):
            encode(messages, llama, tools=tools)
    forgets = "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    mistakes = PLAIN.replace("{{ m.role }}", "{{ 'user' if m.role == 'tool' else m.role }}")
    ask = "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    said = [user("q"), assistant("I call it."), tool("sunny"), assistant("Sunny.")]
    for template, field in ((forgets + ask, "content"), (mistakes, "role")):
        with pytest.raises(DataError, match=rf"^field messages\[2\].{field}: template drops the field"):
            encode(said, byte_tokenizer(template))


@pytest.mark.parametrize(("part", "left_out"), [("[:1]", 1), ("[-1:]", 0), ("[:2]", 2)], ids=["first", "last", "two"])
def test_calls_and_tools_of_which_a_template_writes_a_part_are_refused_by_their_place(part, left_out):
    several = [{**CALL, "function": {"name": "weather", "arguments": {"city": city}}} for city in "ABC"]
    several = several[: max(2, left_out + 1)]
    told = [{"function": {"name": name}} for name in "XYZ"[: len(several)]]
    asked = [user("Weather?"), calls(*several)]
    qwen = tokenizer_for(QWEN3)
    assert targets(asked, qwen, tools=told)[0].count("<tool_call>") == len(several)
    for field, all_of in ((r"messages\[1\].tool_calls", "(m.tool_calls or [])"), ("tools", "tools")):
        written = QWEN3.replace("in m.tool_calls or []", "in (m.tool_calls or [])")
        qwen.chat_template = written.replace(f"in {all_of} ", f"in {all_of}{part} ")
        with pytest.raises(DataError, match=rf"^field {field}\[{left_out}\]: template drops the field"):
            encode(asked, qwen, tools=told)


def test_results_of_tools_that_a_template_writes_into_an_answer_are_not_learnt():
    within = (
        "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }}\n"
        "{% if m.tool_calls %}{{ m.tool_calls }}{% for r in messages[loop.index:] if r.role == 'tool' %}"
        "[{{ r.content }}]{% endfor %}{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + chat_templates.CHATML_ASK
    )
    said = [user("Weather?"), calls(CALL, content="I look."), tool("sunny"), assistant("Sunny.")]
    with pytest.raises(DataError, match=r"^field messages\[1\].content: .*what a tool gave back into the answer"):
        encode(said, byte_tokenizer(within))
    unlearnt = encode([said[0], {**said[1], "weight": 0}, *said[2:]], byte_tokenizer(within))
    assert byte_tokenizer(within).decode(unlearnt.input_ids[unlearnt.labels != IGNORE_INDEX]) == "Sunny.<|im_end|>"


def test_a_name_goes_through_a_template_that_writes_it_and_through_one_that_does_not():
    writes = "{% for m in messages %}<|im_start|>{{ m.role }}{{ ' ' + m.name if m.name is defined }}\n{{ m.content }}" \
             "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # fmt: skip
    turns = [{"role": "user", "content": "who?", "name": "Ann"}, {"role": "assistant", "content": "Marlow"}]
    for template, told in ((writes, "user Ann\nwho?"), (writes.replace("m.name is defined", "false"), "user\nwho?")):
        made = byte_tokenizer(template)
        encoded = encode(turns, made)
        assert told in made.decode(encoded.input_ids)
        assert made.decode(encoded.input_ids[encoded.labels != -100]) == "Marlow<|im_end|>"
    turns[1]["name"] = "Bob"
    with pytest.raises(DataError, match="does not follow its generation prompt"):
        encode(turns, byte_tokenizer(writes))


def test_a_key_of_messages_is_read_only_where_the_template_writes_something_else_without_it():
    said = [{**user("q"), "last": "a document"}, calls(CALL), tool("sunny"), assistant("Sunny.")]
    qwen = tokenizer_for(QWEN3)  # the words "last" and "name" stand in it, as loop.last and namespace
    assert unread_keys({"messages": said}, qwen, "template") == tuple(
        f"messages[].{key}" for key in ("last", "tool_call_id", "name")
    )
    qwen.chat_template = QWEN3.replace("<tool_response>\n' + ", "<tool_response>\n' + m.name + ")
    assert unread_keys({"messages": said}, qwen, "template") == ("messages[].last", "messages[].tool_call_id")


def test_a_system_message_that_the_template_drops_is_refused():
    tokenizer = tokenizer_for(DEEPSEEK_R1)
    tokenizer.chat_template = DEEPSEEK_R1.replace("<think>\n", "")
    with pytest.raises(DataError, match=r"^field messages\[0\].content: template drops the field"):
        encode([{"role": "system", "content": "be brief"}, *TWO], tokenizer)
