"""The oracle's questions are on different parts of any text, and its answers are exact and without a fault."""

import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.self_instruct import checks
from longalign.self_instruct.documents import Document
from longalign.self_instruct.draw import TASKS, Item
from longalign.self_instruct.oracle import Oracle, sentences

ROOT = Path(__file__).parents[1]
ORACLE = Oracle()
CHINESE = """海边的小镇叫青石镇。镇上有一座老灯塔，建于1923年。守塔人姓林，今年六十七岁。
每天傍晚，林师傅都会爬上一百二十级台阶，点亮灯塔的灯。他说：“灯亮了，船就能回家！”孩子们常常跟着他上去看海。
去年冬天，一场暴风雪切断了镇上的电线。林师傅用旧煤油灯代替电灯，守了整整三夜。渔民们平安归来，送给他一条红围巾。
镇长决定把灯塔改成博物馆。博物馆收藏了煤油灯、航海图和红围巾。每逢周末，外地游客排队参观。
春天到了，林师傅在塔下种了一排柳树。柳树长得很快，鸟儿也来筑巢。渔民们说，远远看见柳树就知道快到家了。
秋天的灯会最热闹。孩子们提着灯笼绕塔三圈，老人们唱起渔歌。镇长站在台阶上宣布新的航海图已经画好。"""
TEXTS = {
    "license": ((ROOT / "LICENSE").read_text(), "en", "law"),
    "readme": ((ROOT / "README.md").read_text(), "en", "web"),
    "source": ((ROOT / "lib/longalign/data/jsonl.py").read_text(), "en", "code"),
    "chinese": (CHINESE, "zh", "books"),
}
CASES = [(name, task) for name in TEXTS for task in TASKS]


def item(text, language="en", source="books", task="general", seed=0):
    text = text.strip()
    document = Document(text, "a.txt", source, language, "MIT", sha256(text.encode()).hexdigest())
    return Item("a-0", document, text, 1, task, 0, seed)


def of(name, task, seed=0):
    text, language, source = TEXTS[name]
    return item(text, language, source, task, seed)


def parts(case):
    chinese = case.document.language == "zh"
    return sentences(case.text, code=case.document.source == "code", chinese=chinese)


def flat(case):
    return [sentence for block in parts(case) for sentence in block]


def line(text):
    return " ".join(text.split())


def having(case, word):
    """The sentences of an item that have a word, found anew: whole words in English, anywhere in Chinese."""
    bounds = ("", "") if case.document.language == "zh" else (r"(?<!\w)", r"(?!\w)")
    return [s for s in flat(case) if re.search(re.escape(word).join(bounds), s, re.IGNORECASE)]


def asked(form, case):
    """The questions of an item that fit a form, with their quotations and the answer."""
    for question in ORACLE.propose(case):
        if match := re.fullmatch(form, question, re.DOTALL):
            yield match, ORACLE.answer(case, question)


FORMS = {
    "find": r"Quote the one (?:sentence|line) of the text that contains the word “(.*)”\.|原文中只有一句包含“(.*)”，.*",
    "next": r"Quote the (?:sentence|line) that comes right after this one: “(.*)”"
    r"|请引用紧接在下面这一句之后的一句：“(.*)”",
    "hop": r"Go to the one .* that contains the word “(.*)”\. It shares the word “(.*)” with .*"
    r"|请找到原文中唯一包含“(.*)”的那一句。它与另外唯一的一句都包含“(.*)”，.*",
    "count": r"How many (?:sentences|lines) of the text contain the word “(.*)”\?|原文中有多少句包含“(.*)”？",
    "summary": r"Sum up .* begins with “(.*)” to the one that begins with “(.*)”: give the (first|last) .*"
    r"|请概括.*从以“(.*)”开头的段到以“(.*)”开头的段的内容，依次给出每段的(第一|最后一)句。",
}


def groups(match):
    return [group for group in match.groups() if group is not None]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_five_questions_are_asked_and_no_answer_has_a_fault(name, task):
    for seed in range(4):
        case = of(name, task, seed)
        questions = ORACLE.propose(case)
        assert len(set(questions)) == len(questions) == 5
        for question in questions:
            assert checks.question_problem(question, case) is None
            answer = ORACLE.answer(case, question)
            assert checks.problem(answer, question=question, item=case, words=ORACLE.words) is None
            assert checks.length(answer, case.document.language) <= checks.TOO_MANY * ORACLE.words


@pytest.mark.parametrize("name", TEXTS)
def test_a_found_sentence_is_the_only_one_with_the_word(name):
    for seed in range(4):
        case = of(name, "information extraction", seed)
        found = list(asked(FORMS["find"], case))
        assert len(found) == 5
        for match, answer in found:
            assert having(case, *groups(match)) == [answer] and answer in case.text


@pytest.mark.parametrize("name", TEXTS)
def test_the_next_sentence_follows_the_one_that_is_quoted(name):
    case = of(name, "general")
    lines = [line(sentence) for sentence in flat(case)]
    found = list(asked(FORMS["next"], case))
    assert len(found) == 5
    for match, answer in found:
        (quoted,) = groups(match)
        assert lines.count(quoted) == 1 and lines[lines.index(quoted) + 1] == line(answer) and answer in case.text


@pytest.mark.parametrize("name", TEXTS)
def test_two_hops_lead_from_the_one_sentence_to_the_one_other(name):
    case = of(name, "reasoning")
    found = list(asked(FORMS["hop"], case))
    assert found
    for match, answer in found:
        word, shared = groups(match)
        (first,) = having(case, word)
        both = having(case, shared)
        assert len(both) == 2 and first in both and answer in both and answer != first and answer in case.text


def test_a_sentence_or_paragraph_that_stands_twice_is_no_starting_point():
    again = "The keeper climbs the stairs again."
    text = "\n\n".join(f"{again} Storm number{n} breaks over the village{n}. Lamps are lit{n}." for n in range(9))
    for seed in range(9):
        for match, _ in asked(FORMS["next"], item(text, seed=seed)):
            assert groups(match) != [again]
        case = item(text + "\n\nThe museum opens.\n\nVisitors are queueing there.", task="summary", seed=seed)
        names = [name for match, _ in asked(FORMS["summary"], case) for name in groups(match)[:2]]
        assert all(case.text.count(name) == 1 for name in names)


def test_words_are_counted_where_no_two_hops_are_possible():
    case = item("The lamp burns. The lamp shines! The lamp, the lamp is bright? Lamps fade.", task="reasoning")
    answers = {}
    for match, answer in asked(FORMS["count"], case):
        (word,) = groups(match)
        assert answer == f"The word “{word}” stands in {len(having(case, word))} of the text's sentences."
        answers[word.lower()] = answer
    assert "3 of" in answers["lamp"] and "1 of" in answers["fade"] and not list(asked(FORMS["hop"], case))


@pytest.mark.parametrize("name", ["license", "readme", "chinese"])
def test_a_summary_is_the_first_or_last_sentences_of_the_paragraphs_named(name):
    case = of(name, "summary")
    blocks = parts(case)
    found = list(asked(FORMS["summary"], case))
    assert len(found) >= 4
    for match, answer in found:
        begin, end, which = groups(match)
        first, last = ([i for i, block in enumerate(blocks) if line(block[0]).startswith(s)] for s in (begin, end))
        chosen = blocks[first[0] : last[0] + 1]
        assert len(first) == len(last) == 1 and len(chosen) >= 2
        assert answer == "\n".join(block[0 if which in ("first", "第一") else -1] for block in chosen)
        assert all(block[0] in case.text and block[-1] in case.text for block in chosen)


def test_a_text_of_few_paragraphs_is_summed_up_by_its_sentences():
    text = " ".join(f"Keeper number {n} climbs the stairs of lighthouse {n} every evening." for n in range(30))
    case = item(text, task="summary")
    assert len(ORACLE.propose(case)) == 5
    for question in ORACLE.propose(case):
        assert question.startswith("Give the part of the text")
        assert ORACLE.answer(case, question).replace("\n", " ") in case.text


@pytest.mark.parametrize("seed", range(5))
def test_each_question_is_on_another_fifth_of_the_text(seed):
    text = "\n\n".join(f"Here the word{n} stands with number{n} alone." for n in range(100, 200))
    case = item(text, task="information extraction", seed=seed)
    places = [case.text.index(ORACLE.answer(case, question)) / len(case.text) for question in ORACLE.propose(case)]
    assert sorted(int(5 * place) for place in places) == [0, 1, 2, 3, 4]


def test_another_seed_asks_other_questions_and_the_same_seed_the_same():
    assert ORACLE.propose(of("license", "general")) == Oracle().propose(of("license", "general"))
    assert ORACLE.propose(of("license", "general")) != ORACLE.propose(of("license", "general", 1))


def test_answers_keep_to_the_oracles_words():
    for name, task in CASES:
        case, brief = of(name, task), Oracle(words=25)
        answers = [brief.answer(case, question) for question in brief.propose(case)]
        most = 25 if task == "summary" else 50
        assert answers and all(checks.length(answer, case.document.language) <= most for answer in answers)


def test_a_question_that_the_oracle_did_not_ask_is_an_error():
    with pytest.raises(KeyError):
        ORACLE.answer(of("license", "general"), "Why?")


def test_a_text_that_is_too_small_gives_fewer_questions():
    assert ORACLE.propose(item("Hello.", task="general")) == []
    found = ORACLE.propose(item("The lamp burns brightly. Every keeper climbs.", task="general"))
    assert 1 <= len(found) < 5


@pytest.mark.parametrize(("text", "options", "expected"), [
    ("One is here. Two? Three! four", {}, [["One is here.", "Two?", "Three! four"]]),
    ("See e.g. this, v1.2 and 3.5 m.", {}, [["See e.g. this, v1.2 and 3.5 m."]]),
    ('He said "Go!" Then he went.', {}, [['He said "Go!"', "Then he went."]]),
    ("# Title\n\nText goes\non. End\n \nNew", {}, [["# Title"], ["Text goes\non.", "End"], ["New"]]),
    ("- one\n- two\n2. three\n| a |\n| b |", {}, [["- one", "- two", "2. three", "| a |", "| b |"]]),
    ("1. Grant. Rights", {}, [["1. Grant.", "Rights"]]),
    ("灯亮了。回家！“来吧！”他说。\n二", {"chinese": True}, [["灯亮了。", "回家！", "“来吧！”", "他说。"], ["二"]]),
    ("a = 1. B\n  b = 2\n\nc", {"code": True}, [["a = 1. B", "b = 2"], ["c"]]),
    ("  \n\n ", {}, []),
])  # fmt: skip
def test_sentences_end_where_the_rules_say(text, options, expected):
    assert sentences(text, **options) == expected


@given(text=st.text(st.sampled_from("aB1 .!?\n-#\"”。！灯塔")), code=st.booleans(), chinese=st.booleans())
def test_sentences_are_all_of_the_text_but_white_space_and_stand_in_it(text, code, chinese):
    found = [sentence for block in sentences(text, code=code, chinese=chinese) for sentence in block]
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence in text and sentence == sentence.strip() and sentence for sentence in found)


WORDS = ["lamp", "keeper", "stairs", "storm", "village", "museum", "scarf", "灯塔", "渔民", "回家", "12", "x", "sorry"]


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(st.sampled_from([*WORDS, ". ", "。", "\n", "\n\n", ", ", "? ", "I cannot answer this "])),
       language=st.sampled_from(["en", "zh"]), source=st.sampled_from(["books", "code"]), task=st.sampled_from(TASKS),
       seed=st.integers(0, 3))  # fmt: skip
def test_on_any_text_every_answer_is_without_fault_and_quotes_it(pieces, language, source, task, seed):
    case = item(" ".join(pieces), language, source, task, seed)
    questions = ORACLE.propose(case)
    assert len(set(questions)) == len(questions) <= 5
    for question in questions:
        answer = ORACLE.answer(case, question)
        assert checks.problem(answer, question=question, item=case, words=ORACLE.words) is None
        assert checks.question_problem(question, case) is None
        if task != "reasoning":
            assert set(answer.split("\n")) <= {part for s in flat(case) for part in s.split("\n")}


def test_long_lines_of_marks_or_blanks_take_no_time():
    for text in ("." * 300_000, "! " * 100_000, " \n" * 100_000 + "a", "。" * 100_000, "a" * 300_000, '"' * 200_000):
        for task in ("information extraction", "summary"):
            ORACLE.propose(item("Calis leads. " + text + " Bardan leads.", task=task))
