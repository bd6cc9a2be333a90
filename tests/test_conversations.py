"""Conversations as people have them: templates of every style, thoughts, weights."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

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
from conversations import CALL, TWO, targets
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import encode, encode_prompt
from longalign.data.jsonl import DataError
from longalign.recipe.dataset import PlannedDataset, measure

NAMES = [name for name, value in vars(chat_templates).items() if name.isupper() and value in [*chat_templates.SPECIAL]]


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
