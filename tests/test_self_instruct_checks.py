"""Answers with a fault are refused for it, honest ones stay; prompts hold any document, replies give questions."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longalign.self_instruct import prompts
from longalign.self_instruct.checks import problem, question_problem
from longalign.self_instruct.documents import Document
from longalign.self_instruct.draw import TASKS, Item

ROOT = Path(__file__).parents[1]
ENGLISH = """The lighthouse of Greenrock was built in 1923. Its keeper, Mr Lin, is 67 years old and climbs 120 steps.

Last winter a storm cut the wires of the village. Lin kept an oil lamp burning for three nights, and the fishermen came
home safely. "I cannot leave the lamp," he had told the mayor, "I am sorry, but I cannot help you with the boats."

The mayor wants to make a museum of the lighthouse. It will show the lamp, the charts and a red scarf. """
CHINESE = """青石镇上有一座老灯塔，建于1923年。守塔人姓林，今年67岁，每天傍晚都会爬上120级台阶，点亮灯塔的灯。

去年冬天，一场暴风雪切断了镇上的电线。林师傅用旧煤油灯代替电灯，守了整整三夜。渔民们平安归来，送给他一条红围巾。

镇长决定把灯塔改成博物馆，收藏煤油灯、航海图和红围巾。每逢周末，外地游客都会排队参观，孩子们常常跟着他上去看海。
青石镇的人都说，有了这座灯塔，船就能找到回家的路。每年秋天，镇上还会举行一次灯会，大家一起纪念那三个夜晚。"""
QUESTION = {"en": "When was the lighthouse of Greenrock built?", "zh": "青石镇的灯塔是哪一年建成的？"}


def item(task="general", language="en", text=None):
    text = text or {"en": ENGLISH, "zh": CHINESE}[language]
    document = Document(text, "a.txt", "books", language, "MIT", sha256(text.encode()).hexdigest())
    return Item("a-0", document, text, 200, task, 0, 0)


def fault(answer, task="general", language="en", *, finish="stop", words=40, question=None):
    question = question or QUESTION[language]
    return problem(answer, question=question, item=item(task, language), finish=finish, words=words)


HONEST = [
    ("general", "en", "It was built in 1923, the text says."),
    ("general", "en", "Lin told the mayor that he was sorry, but could not help him."),
    ("general", "en", 'He said: "I cannot leave the lamp. I am sorry, but I cannot help you with the boats."'),
    ("general", "en", "Sorry was the word that he could not say to the mayor, it seems."),
    ("general", "en", "As an AI startup would put it, the village scaled up its lamp."),
    ("general", "en", "I cannot leave the lamp, said the keeper."),
    ("general", "en", "No, and I can answer this from the second paragraph."),
    ("general", "en", "1923 - 67 = 1856"),
    ("summary", "en", "Greenrock's lighthouse, whose keeper saved the fishermen, will be a museum."),
    ("reasoning", "en", "He was 67. The storm was last winter, so that he was 66 or 67 then."),
    ("information extraction", "en", "1923"),
    ("information extraction", "en", "1. the lamp\n2. the charts\n3. a red scarf"),
    ("information extraction", "en", "The museum will show the lamp, the charts and a red scarf."),
    ("general", "zh", "灯塔建于1923年。"),
    ("general", "zh", "他对镇长说：“抱歉，我不能离开灯塔。”"),
    ("general", "zh", "作为人工智能领域的先驱，我国的灯塔也会改变。"),
    ("general", "zh", "我不能离开灯塔，林师傅说。"),
    ("summary", "zh", "青石镇的老灯塔将改成博物馆，收藏守塔人的煤油灯。"),
    ("reasoning", "zh", "答案是1923年，因为灯塔是那时建的。"),
    ("information extraction", "zh", "煤油灯、航海图和红围巾"),
    ("information extraction", "zh", "1923"),
]


@pytest.mark.parametrize(("task", "language", "answer"), HONEST)
def test_honest_answers_stay(task, language, answer):
    assert fault(answer, task, language) is None


FAULTY = [
    ("empty", "general", "en", " \n\u200b"),
    ("too short", "general", "en", "In 1923."),
    ("too short", "summary", "en", "A museum is made of a lighthouse."),
    ("too short", "summary", "zh", "灯塔改成博物馆。"),
    ("too short", "general", "zh", "灯。"),
    ("too long", "general", "en", "word " * 81),
    ("too long", "general", "zh", "灯塔很老。" * 20 + "而且"),
    ("other language", "general", "en", "灯塔建于1923年。"),
    ("other language", "general", "zh", "It was built in 1923."),
    ("other language", "general", "en", "It was built 一九二三年建成的老灯塔，守塔人姓林。"),
    *(("refusal", "general", "en", answer) for answer in (
        "I'm sorry, but I can't help with that.", "I am very sorry. I cannot answer the question.",
        "Sorry, I am unable to find this.", "I’m sorry, but the document does not say when it was built.",
        "I apologize, but I do not have the document.", "My apologies, but I am not able to read it.",
        "As an AI language model, I have no opinion.", "As an artificial intelligence, I cannot feel storms.",
        "I cannot answer this question from the text.", "Unfortunately, I am unable to provide a summary.",
        "I do not have access to the document.", "  I'm not able to assist with this request.",
    )),
    *(("refusal", "general", "zh", answer) for answer in (
        "抱歉，我无法回答这个问题。", "对不起，文中没有提到这一点。", "非常抱歉，但我不能提供这些信息。",
        "作为一个人工智能，我没有个人看法。", "作为AI语言模型，我不能回答。", "我无法回答这个问题。",
        "很抱歉，這個問題我無法回答。",
    )),
    ("prompt again", "general", "en", QUESTION["en"] + "\n"),
    ("prompt again", "general", "zh", "**" + QUESTION["zh"] + "**"),
    ("prompt again", "general", "en", ENGLISH[:210].replace("\n", " ")),
    ("prompt again", "general", "zh", CHINESE),
    ("prompt again", "general", "en", "Quote the words of the text that hold the answer. So: 1923."),
    ("prompt again", "general", "zh", "请仅根据以上文本回答下面的问题，最多写50个字。好的。"),
    ("repeats itself", "general", "en", "The keeper climbs the stairs. " * 4),
    ("repeats itself", "general", "zh", "守塔人点亮了灯塔的灯。" * 4),
    ("not in the document", "information extraction", "en", "It was built in 1924."),
    ("not in the document", "information extraction", "en", "The lighthouse was built in 192."),
    ("not in the document", "information extraction", "en", "Presumably somebody remembered constructing something."),
    ("not in the document", "information extraction", "zh", "灯塔建于1924年。"),
    ("not in the document", "information extraction", "zh", "北京大学计算机系教授认为应当这样。"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "task", "language", "answer"), FAULTY)
def test_faulty_answers_are_refused_for_their_fault(reason, task, language, answer):
    assert fault(answer, task, language, words=200 if answer == CHINESE else 40) == reason


def test_an_answer_that_stopped_at_its_limit_is_cut_off_whatever_it_says():
    assert fault("It was built in 1923, and the", finish="length") == "cut off"
    assert fault("", finish="length") == "empty"
    assert fault("It was built in 1923.", finish=None) is None


def test_bounds_are_twice_the_words_that_were_asked_for_and_three_repetitions():
    words = " ".join(f"word{number}" for number in range(80))
    assert fault(words, words=40) is None and fault(words + " more", words=40) == "too long"
    assert fault("The keeper climbs the stairs. " * 3) is None
    characters = "".join(chr(0x4E00 + number) for number in range(80))
    assert fault(characters, language="zh", words=40) is None
    assert fault(characters + " GPU", language="zh", words=40) == "too long"


def test_a_fifth_of_an_extracted_answers_words_may_be_its_own():
    assert fault("keeper storm village museum certainly", "information extraction") is None
    assert fault("keeper storm museum certainly", "information extraction") == "not in the document"
    assert fault("keeper storm museum certainly", "reasoning") is None


def test_a_document_that_begins_with_marks_or_is_short_may_be_quoted():
    answer = "Calis leads the guards of the long and winding road to the village of Greenrock."
    for text in ("=" * 180 + "\n" + answer * 3, answer):
        assert problem(answer, question="Who leads?", item=item(text=text), words=40) is None


@pytest.mark.parametrize(("reason", "question", "language"), [
    (None, QUESTION["en"], "en"), (None, QUESTION["zh"], "zh"), ("empty", " ", "en"), ("too long", "why " * 101, "en"),
    ("other language", QUESTION["zh"], "en"), ("other language", QUESTION["en"], "zh"),
    ("prompt again", "Write five. The text alone must be enough to answer them. Write the questions only, one a line, "
     "numbered 1 to 5.", "en"),
    ("prompt again", CHINESE[:220], "zh"), (None, ENGLISH[50:250], "en"),
])  # fmt: skip
def test_questions_are_refused_for_their_faults(reason, question, language):
    assert question_problem(question, item(language=language)) == reason


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_sentence_of_a_prompt_passes_as_question_or_answer(task, language):
    text = item(language=language).text
    asked = prompts.propose(text, task, language)
    told = prompts.answer(text, QUESTION[language], language, words=77, task=task)
    for prompt in (asked, told):
        assert prompt.startswith(text + "\n\n")
        echoed = prompt.removeprefix(text).removesuffix(QUESTION[language])
        assert problem(echoed, question="?", item=item("general", language), words=500) == "prompt again"
    assert question_problem(asked.removeprefix(text)[:400], item(language=language)) == "prompt again"


@given(text=st.text(), task=st.sampled_from(TASKS), language=st.sampled_from(["en", "zh"]))
def test_a_document_stands_in_its_prompts_letter_by_letter(text, task, language):
    for held in (text, text + "{question} {0} %s {words} $text"):
        assert prompts.propose(held, task, language).startswith(held + "\n\n")
        told = prompts.answer(held, "{x} %d?", language, words=7, task=task)
        assert told.startswith(held + "\n\n") and told.endswith("\n\n{x} %d?") and "7" in told[len(held) :]


def test_only_information_extraction_asks_for_quotations_and_prompts_differ_by_task():
    for language, mark in (("en", "Quote"), ("zh", "引用")):
        quoting = [mark in prompts.answer("", "", language, words=9, task=task) for task in TASKS]
        assert quoting == [task == "information extraction" for task in TASKS]
        assert len({prompts.propose("", task, language) for task in TASKS}) == 4
    with pytest.raises(KeyError):
        prompts.propose("", "coding", "en")


FIVE = [f"What is thing {name}?" for name in ("one", "two", "three", "four", "five")]


@pytest.mark.parametrize("form", [
    "{n}. {q}", "{n}: {q}", "{n}) {q}", "{n}、{q}", "**{n}.** {q}", "**{n}. {q}**", "Question {n}: {q}", "({n}) {q}",
    "**Question {n}:** {q}", "- {n}. {q}", "Q{n}. {q}", "### Question {n}\n{q}", "  {n}．{q}", "问题{n}：{q}",
    "{n}.{q}", "第{n}题：{q}", "> {n}: {q}\n",
])  # fmt: skip
def test_numbered_questions_are_found_in_the_usual_forms(form):
    reply = "\n".join(form.format(n=number, q=question) for number, question in enumerate(FIVE, 1))
    for text in (reply, "Here are the questions:\n\n" + reply + "\n\nI hope these help!", reply.replace("\n", "\r\n")):
        assert prompts.questions(text, "en") == FIVE


@pytest.mark.parametrize(("reply", "language", "expected"), [
    ("1. 谁点灯？\n2. 塔在哪\n里？\n三、为什么？", "zh", ["谁点灯？", "塔在哪里？", "为什么？"]),
    ("一、谁点灯？\n二、在哪？", "zh", ["谁点灯？", "在哪？"]),
    ("1: Who\n   climbs?\n2: who climbs\n3: Why?", "en", ["Who climbs?", "Why?"]),
    ("1. What is\n2.5 million?\n2. Why?", "en", ["What is 2.5 million?", "Why?"]),
    ("1. Who? 2. Why? 3. How?", "en", ["Who?", "Why?", "How?"]),
    ("- Who climbs?\n- Why?\nThank you.", "en", ["Who climbs?", "Why?"]),
    ("谁点灯？\n为什么？", "zh", ["谁点灯？", "为什么？"]),
    ("Here: 1. Who?\n2. Why is it so?\n**3.** How?", "en", ["Here: 1. Who?", "Why is it so?", "How?"]),
    ("Describe the storm.", "en", []), ("", "en", []), ("1.\n2.\n", "en", []), ("\n\n", "zh", []),
    ("1. Summarize the storm.\n2. Describe the lamp.", "en", ["Summarize the storm.", "Describe the lamp."]),
    ("1. What does **kwargs hold?\n", "en", ["What does **kwargs hold?"]),
    ("1. **Cast**: Who **leads**?\n2. **Time:** When?\n```", "en", ["Cast: Who leads?", "Time: When?"]),
    ("Q1: Who leads?\nA1: Calis.\nQ2: When?\nA2: In 1809.", "en", ["Who leads?", "When?"]),
    ("1. Who leads? (Answer: Calis)\n2. When? **A:** In 1809.", "en", ["Who leads?", "When?"]),
    ("1. Sum up the storm.\n**Answer:** It was long.\n2. When?\nThese cover all.", "en",
     ["Sum up the storm.", "When?"]),
    ("问题1：谁点灯？\n答案：王安\n问题2：为什么？（提示：看结尾）", "zh", ["谁点灯？", "为什么？"]),
    ("\n".join(f"{number}. Why {number}?" for number in range(1, 9)), "en", [f"Why {n}?" for n in range(1, 6)]),
])  # fmt: skip
def test_replies_give_their_distinct_questions_five_at_most(reply, language, expected):
    assert prompts.questions(reply, language) == expected


@given(reply=st.text(st.sampled_from("12345.:)、 *#?？\naQq问题{}%"), max_size=60))
def test_any_reply_gives_at_most_five_distinct_questions(reply):
    found = prompts.questions(reply, "en")
    assert len(found) <= 5 and len(set(found)) == len(found) and all(question.strip() for question in found)


@given(answer=st.text(max_size=60), task=st.sampled_from(TASKS), language=st.sampled_from(["en", "zh"]))
def test_any_answer_stays_or_has_one_of_the_named_faults(answer, task, language):
    assert fault(answer, task, language) in {
        None, "empty", "too short", "too long", "other language", "refusal", "prompt again", "repeats itself",
        "not in the document",
    }  # fmt: skip
