"""Conversations as people have them: weights, thoughts, tools, templates of every style, documents in any message."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import chat_templates
from chat_templates import (
    BEHIND,
    DEEPSEEK_R1,
    DEEPSEEK_V3,
    GEMMA,
    GLM4,
    HARMONY,
    LLAMA3,
    MISTRAL,
    PHI3,
    QWEN3,
    SMOLLM3,
    tokenizer_for,
)
from chat_tokenizers import PLAIN, WithoutOffsets, assistant, byte_tokenizer, user, word_tokenizer
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import encode, encode_prompt
from longalign.data.chat_formats import unread_keys
from longalign.data.jsonl import DataError
from longalign.data.truncation import MIN_KEPT, question_in
from longalign.recipe.dataset import PlannedDataset, measure

CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
AS_TEXT = {**CALL, "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
TWO = [user("q?"), assistant("first"), user("and?"), assistant("second")]
NAMES = [name for name, value in vars(chat_templates).items() if name.isupper() and value in [*chat_templates.SPECIAL]]


def calls(*tool_calls, **more):
    return {"role": "assistant", "tool_calls": list(tool_calls), **more}


def tool(content):
    return {"role": "tool", "content": content, "tool_call_id": "call12345", "name": "weather"}


def targets(messages, tokenizer, **options):
    """The text of each run of targets."""
    encoded = encode(messages, tokenizer, **options)
    mask = np.concatenate([[False], encoded.labels != IGNORE_INDEX, [False]])
    runs = np.flatnonzero(np.diff(mask.astype(int))).reshape(-1, 2)
    assert np.array_equal(encoded.labels[mask[1:-1]], encoded.input_ids[mask[1:-1]])
    return [tokenizer.decode(encoded.input_ids[start:end]) for start, end in runs]


# --- templates of every style -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN3, ["first<|im_end|>", "<think>\n\n</think>\n\nsecond<|im_end|>"]),
        (LLAMA3, ["first<|eot_id|>", "second<|eot_id|>"]),
        (GEMMA, ["first<end_of_turn>", "second<end_of_turn>"]),
        (MISTRAL, [" first</s>", " second</s>"]),
        (PHI3, ["first<|end|>", "second<|end|>\n<|endoftext|>"]),
        (DEEPSEEK_V3, ["first<｜end▁of▁sentence｜>", "second<｜end▁of▁sentence｜>"]),
        (SMOLLM3, ["first<|im_end|>", "second<|im_end|>"]),
        (BEHIND, ["first<|im_end|>", "second<|im_end|>"]),
    ],
    ids=["qwen3", "llama3", "gemma", "mistral", "phi3", "deepseek-v3", "smollm3", "end-behind-the-mark"],
)
def test_answers_with_their_end_tokens_are_targets_in_the_text_of_the_template(template, expected):
    tokenizer = tokenizer_for(template)
    assert targets(TWO, tokenizer) == expected
    stock = tokenizer.apply_chat_template(TWO, return_dict=True)["input_ids"]
    assert encode(TWO, tokenizer).input_ids.tolist() == stock


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (GLM4, "no end token behind the answer"),
        (DEEPSEEK_R1, r"messages\[1\].content: .*does not follow its generation prompt"),
        (HARMONY, r"messages\[1\].content: .*not prefix-stable"),
    ],
    ids=["ends-with-the-next-turn", "prompt-opens-a-thought", "last-turn-ends-otherwise"],
)
def test_a_template_in_which_an_answer_cannot_be_found_exactly_is_refused_with_the_reason(template, reason):
    with pytest.raises(DataError, match=reason):
        encode(TWO, tokenizer_for(template))


@pytest.mark.parametrize("name", ["QWEN3", "LLAMA3", "GEMMA", "MISTRAL", "PHI3", "DEEPSEEK_V3", "SMOLLM3", "BEHIND"])
def test_special_tokens_that_messages_spell_move_no_target(name):
    tokenizer = tokenizer_for(getattr(chat_templates, name))
    spelled = tokenizer.all_special_tokens
    random.seed(0)
    for _ in range(12):
        first, last, question = (" ".join(random.choices([*spelled, "a", "b\n"], k=5)) + "." for _ in range(3))
        said = [user(question), assistant(first), user(question), assistant(last + random.choice(["", *spelled]))]
        found = targets(said, tokenizer)
        plain = targets([user("q"), assistant("X"), user("q"), assistant("Y")], tokenizer)
        assert found == [plain[0].replace("X", said[1]["content"]), plain[1].replace("Y", said[3]["content"])]


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_what_a_server_renders_in_every_template(name):
    tokenizer = tokenizer_for(getattr(chat_templates, name))
    thinking = [user("q?"), assistant("<think>\nhm\n</think>\n\nfirst"), user("and?")]
    stock = tokenizer.apply_chat_template(thinking, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encode_prompt(thinking, tokenizer).tolist() == stock


@pytest.mark.parametrize("name", ["QWEN3", "SMOLLM3", "BEHIND", "PHI3", "GEMMA"])
def test_a_start_token_that_takes_blanks_in_is_not_learnt(name):
    template = getattr(chat_templates, name)
    lstrip = tuple(chat_templates.SPECIAL[template].split())
    words, plain = tokenizer_for(template, lstrip=lstrip), tokenizer_for(template)
    found, expected = targets(TWO, words), targets(TWO, plain)
    assert [text.replace("\n", "") for text in found] == [text.replace("\n", "") for text in expected]
    blanks = [user("q?"), assistant("first \n"), user("and?"), assistant("second")]
    assert [text.replace("\n", "").replace(" ", "") for text in targets(blanks, words)] == [
        text.replace("\n", "").replace(" ", "") for text in expected
    ]


def test_an_answer_that_spells_an_end_token_is_refused_where_the_template_writes_none():
    endless = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}" + (
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    for tokenizer in (byte_tokenizer(endless), WithoutOffsets(byte_tokenizer(endless))):
        with pytest.raises(DataError, match="no end token behind the answer"):
            encode([user("q"), assistant("a <|im_end|> b")], tokenizer)
    slow = WithoutOffsets(byte_tokenizer(PLAIN))
    assert targets([user("q"), assistant("a <|im_end|> b")], slow) == ["a <|im_end|> b<|im_end|>"]


def test_the_end_token_behind_a_mark_is_learnt_whatever_the_answer_spells():
    answer = "<think>\nhm\n</think>\n\nthe answer is four"
    assert targets([user("two and two"), assistant(answer)], tokenizer_for(BEHIND)) == [answer + "<|im_end|>"]


@pytest.mark.parametrize(
    ("mark", "behind", "expected"),
    [
        ("{{ m.content }}", "<|im_end|>", "{}<|im_end|>"),
        ("{{ m.content }}<|im_end|>", "", "{}<|im_end|>"),
        ("{{ m.content }}<|im_end|>\n", "", "{}<|im_end|>"),
        ("{{ m.content }}</think>", "<|im_end|>", "{}</think><|im_end|>"),
        ("<think></think>{{ m.content }}", "<|im_end|>", "<think></think>{}<|im_end|>"),
        ("{{ m.content }}", " <|im_end|>\n", "{} <|im_end|>"),
    ],
    ids=["content", "end", "end-and-line", "end-behind-another", "thoughts-before", "blank-between"],
)
@pytest.mark.parametrize("content", ["four", "a</think>b", "c<|im_end|>", "<think>"])
def test_targets_are_what_is_marked_and_the_end_token_behind_it(mark, behind, expected, content):
    tokenizer = tokenizer_for(SMOLLM3)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}" + mark + "{% endgeneration %}" + behind
        + "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    )  # fmt: skip
    found = targets([user("q?"), assistant(content), user("and?"), assistant("yes")], tokenizer)
    assert found == [expected.format(content), expected.format("yes")]


def test_an_answer_may_have_several_marks():
    tokenizer = tokenizer_for(SMOLLM3)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.reasoning_content }}{% endgeneration %} so {% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
        "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    messages = [user("q?"), {**assistant("yes"), "reasoning_content": "hm"}, user("and?"), assistant("no")]
    assert targets(messages, tokenizer) == ["hm", "yes<|im_end|>", "no<|im_end|>"]
    messages[1]["weight"] = 0
    assert targets(messages, tokenizer) == ["no<|im_end|>"]


# --- thoughts ---------------------------------------------------------------------------------------------------------


def test_thoughts_of_earlier_turns_that_the_template_drops_are_no_targets_and_are_counted():
    tokenizer = tokenizer_for(QWEN3)
    with_thoughts = [
        [user("q?"), assistant("<think>\nhm\n</think>\n\nfirst"), user("and?"),
         assistant("<think>\noh\n</think>\n\nyes")],
        [user("q?"), {**assistant("first"), "reasoning_content": "hm"}, user("and?"),
         {**assistant("yes"), "reasoning_content": "oh"}],
    ]  # fmt: skip
    for messages in with_thoughts:
        assert targets(messages, tokenizer) == ["first<|im_end|>", "<think>\noh\n</think>\n\nyes<|im_end|>"]
        assert encode(messages, tokenizer).shortened == 1
    assert encode(TWO, tokenizer).shortened == 0


def test_dropped_thoughts_are_counted_where_the_template_leaves_an_empty_block_in_their_place():
    tokenizer = tokenizer_for(SMOLLM3)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{% if m.reasoning_content and loop.last %}{{ '<think>' + m.reasoning_content + '</think>' }}"
        "{% elif m.reasoning_content %}<think></think>{% endif %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    messages = [user("q?"), {**assistant("first"), "reasoning_content": "hm"}, user("and?"),
                {**assistant("yes"), "reasoning_content": "oh"}]  # fmt: skip
    assert targets(messages, tokenizer) == ["<think></think>first<|im_end|>", "<think>oh</think>yes<|im_end|>"]
    assert encode(messages, tokenizer).shortened == 1
    messages[1]["reasoning_content"] = " "
    assert encode(messages, tokenizer).shortened == 0


def test_thoughts_are_targets_where_the_template_marks_them():
    messages = [user("q?"), {**assistant("first"), "reasoning_content": "hm"}]
    assert targets(messages, tokenizer_for(SMOLLM3)) == ["<think>\nhm\n</think>\n\nfirst<|im_end|>"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "tool_calls", "function_call"])
def test_a_field_that_the_template_or_the_format_drops_is_refused_by_name(field):
    value = [CALL] if field == "tool_calls" else "hm"
    messages = [user("q?"), {**assistant("first"), field: value}, user("and?"), assistant("second")]
    with pytest.raises(DataError, match=rf"^field messages\[1\].{field}: template drops the field"):
        encode(messages, tokenizer_for(GEMMA))
    for chat_format in ("llama", "chatglm"):
        with pytest.raises(DataError, match=rf"^field messages\[1\].{field}: format drops the field"):
            encode(messages, byte_tokenizer(PLAIN), chat_format=chat_format)
    empty = [user("q?"), {**assistant("first"), field: None}, user("and?"), {**assistant("second"), field: value[:0]}]
    assert encode(empty, tokenizer_for(GEMMA)).input_ids.tolist() == encode(
        [user("q?"), assistant("first"), user("and?"), assistant("second")], tokenizer_for(GEMMA)
    ).input_ids.tolist()


# --- tools ------------------------------------------------------------------------------------------------------------

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


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [{"weight": 0}, {"train": False}, {"weight": 0, "train": False}])
@pytest.mark.parametrize("chat_format", ["template", "llama", "chatglm"])
def test_an_answer_with_weight_0_or_train_false_is_no_target_and_is_there(mask, chat_format):
    tokenizer = byte_tokenizer(PLAIN)
    masked = [user("q?"), {**assistant("first"), **mask}, user("and?"), {**assistant("second"), "weight": 1}]
    encoded, whole = (encode(messages, tokenizer, chat_format=chat_format) for messages in (masked, TWO))
    assert encoded.input_ids.tolist() == whole.input_ids.tolist() and encoded.masked == 1
    assert targets(masked, tokenizer, chat_format=chat_format) == targets(TWO, tokenizer, chat_format=chat_format)[1:]


@pytest.mark.parametrize(
    ("extra", "index", "message"),
    [
        ({"weight": 0.5}, 1, r"messages\[1\].weight: weight not 0 or 1 .it is 0.5"),
        ({"weight": 2}, 1, "weight not 0 or 1"), ({"weight": -1}, 1, "weight not 0 or 1"),
        ({"weight": "0"}, 1, "weight not 0 or 1"), ({"weight": True}, 1, "weight not 0 or 1"),
        ({"train": 0}, 1, r"messages\[1\].train: train not true or false"),
        ({"train": "false"}, 1, "train not true or false"),
        ({"weight": 1, "train": False}, 1, "weight and train differ"),
        ({"weight": 1}, 0, r"messages\[0\].weight: no answer to learn"),
        ({"train": True}, 0, r"messages\[0\].train: no answer to learn"),
        ({"tool_calls": "weather"}, 1, r"messages\[1\].tool_calls: tool calls not a list of objects"),
        ({"tool_responses": [{"name": "a", "response": "b"}]}, 1, r"messages\[1\].tool_responses: .*role tool"),
        ({"reasoning_content": "\ud800"}, 1, r"messages\[1\].reasoning_content: lone surrogate"),
    ],
)  # fmt: skip
def test_weights_and_fields_that_mean_nothing_are_refused_by_name(extra, index, message):
    messages = [dict(m, **extra) if i == index else m for i, m in enumerate(TWO)]
    with pytest.raises(DataError, match=message):
        encode(messages, byte_tokenizer(PLAIN))


def test_threads_side_by_side_find_the_same_targets():
    tokenizer, said = tokenizer_for(SMOLLM3), [user("q " * 50), assistant("a " * 50)]
    expected, interval = encode(said, tokenizer).labels.tolist(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: encode(said, tokenizer).labels.tolist() == expected, range(100)))
    finally:
        sys.setswitchinterval(interval)


def test_sequences_of_conversations_are_what_plans_are_made_from():
    from longalign.recipe.batching import plan_packing

    words = word_tokenizer()
    turns = [[user("w1"), {**assistant("w2 w3"), "weight": weight}] for weight in (1, 0)]
    sequences = [vars(encode(messages, words)) for messages in turns]
    lengths, counts = measure(sequences)
    assert counts.tolist() == [3, 0]
    plan = plan_packing(lengths, capacity=64, target_counts=counts)
    (features,) = PlannedDataset(sequences, [plan])
    learnt = [feature["loss_weight"] for feature in features if (feature["labels"] != IGNORE_INDEX).any()]
    assert learnt == [1 / 3], "a sequence without a target does not count among those of a step"


# --- documents --------------------------------------------------------------------------------------------------------

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
