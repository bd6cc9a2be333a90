"""Needles in haystacks: where they are hidden, how long their texts are, and when an answer holds one."""

import unicodedata

import pytest

from chat_tokenizers import WithoutOffsets, byte_tokenizer, latin_tokenizer
from longalign.evals.benchmarks import needle
from longalign.evals.benchmarks.questions import Answer
from longalign.miniature import tokenizer as miniature

WORDS = miniature.load()


def test_a_needle_stands_at_each_depth_of_each_length_between_sentences():
    texts = ["One sentence here. Another one there. " * 20, "A third text. It ends."]
    found = needle.in_texts(texts, WORDS, lengths=[200, 400], depths=5)
    assert len(found) == 10 and len({q.id for q in found}) == 10
    for q in found:
        stack = q.turns[0].removesuffix(f"\n\n{needle.QUESTION}").split(needle.NEEDLE)
        assert len(stack) == 2 and all(part.strip() == "" or part.strip().endswith(".") for part in stack)
        before, after = (len(WORDS(part, add_special_tokens=False)["input_ids"]) for part in stack)
        whole = len(WORDS(q.turns[0].removesuffix(f"\n\n{needle.QUESTION}"), add_special_tokens=False)["input_ids"])
        depth = int(q.id.split("-")[2]) / 4
        assert q.length - 14 < whole <= q.length + 1 and abs(before / (before + after) - depth) < 0.1


@pytest.mark.parametrize("tokenizer", [WithoutOffsets(byte_tokenizer()), latin_tokenizer()],
                         ids=["without offsets", "drops characters"])  # fmt: skip
def test_a_haystack_has_its_length_by_a_tokenizer_that_cannot_tell_where_tokens_begin(tokenizer):
    texts = ["One Sentence Here. Another One there. " * 20]
    for q in needle.in_texts(texts, tokenizer, lengths=[200, 400], depths=3):
        haystack = q.turns[0].removesuffix(f"\n\n{needle.QUESTION}")
        assert q.length - 30 < len(tokenizer(haystack, add_special_tokens=False)["input_ids"]) <= q.length + 1


def test_depth_is_in_tokens_however_long_the_sentences_are():
    texts = ["One very long sentence that goes " + "on and on " * 60 + "to its end.", "Short one here. " * 60]
    found = needle.in_texts(texts, WORDS, lengths=[600], depths=5)
    depths = []
    for q in found:
        before, _ = q.turns[0].split(needle.NEEDLE)
        depths.append(len(WORDS(before, add_special_tokens=False)["input_ids"]) / 500)
    assert depths[0] == 0 and depths[2] in (depths[1], depths[3]) or abs(depths[3] - 0.75) < 0.1
    with pytest.raises(ValueError, match="take longer --lengths"):
        needle.in_texts(texts, WORDS, lengths=[70], depths=1)


def test_a_haystack_that_is_too_short_begins_again_and_a_chinese_needle_needs_no_blanks():
    hidden = {"needle": "密码是蓝色。", "question": "密码是什么？", "answer": "蓝色"}
    (found,) = needle.in_texts(["王安领头。李明读书。"], WORDS, lengths=[100], depths=1, **hidden)
    assert found.turns[0].startswith("密码是蓝色。王安领头。李明读书。王安领头。") and found.language == "zh"


@pytest.mark.parametrize(("texts", "more", "says"), [
    ([""], {}, "no sentence"), (["A b."], {"answer": "no"}, "answer"), (["A b."], {"answer": " "}, "answer"),
    (["A b."], {"question": f"Is it to {needle.ANSWER}?"}, "the question holds the answer"),
    (["A b.", f"We {needle.ANSWER}."], {}, "a text of the haystack holds the answer"),
    (["A b."], {"needle": "The code is 42.", "answer": "42"}, "the question for your own needle is missing"),
])  # fmt: skip
def test_a_needle_that_cannot_be_hidden_is_refused(texts, more, says):
    with pytest.raises(ValueError, match=says):
        needle.in_texts(texts, WORDS, lengths=[50], depths=1, **more)


def test_generated_needles_are_those_of_the_miniatures_benchmark():
    found = needle.generated(lengths=[64, 128], depths=3)
    assert len(found) == 18 and {q.length for q in found} == {64, 128} and found[0].id == "needle-64-0-0"
    assert all(q.references[0] in q.turns[0] for q in found)


def test_a_needle_is_found_whatever_case_and_white_space_and_only_whole():
    texts = {"n-0": "You EAT\na sandwich there.", "n-1": "eat a pizza", "n-2": ""}
    made = [Answer(name, name, "m", "needle", "needle", "en", 64, "?", ("eat a  sandwich",), False, text, "stop", 0)
            for name, text in texts.items()]  # fmt: skip
    assert [row["value"] for row in needle.exact(made)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "found"),
    [("The code is 42.", True), ("编号是42号。", True), ("$42", True), ("142", False), ("1.42", False),
     ("42,000", False), ("42.5", False), ("427", False),
     ("1'042", False), ("42’000", False), ("the '42'", True), ("-42", False), ("is −42", False), ("room A-42", True),
     ("(-42)", False), ("**-42**", False), ("x=-42", False), ("is –42", False), ("40–42", True), ("2026-11-42", True),
     ("3．42", False), ("编号是42，2026年", True)],
)  # fmt: skip
def test_a_number_that_is_part_of_a_longer_one_is_no_needle(text, found):
    assert needle.holds(text, "42") is found


def test_an_arabic_number_is_no_part_of_one_with_a_decimal_point():
    assert needle.holds("الرمز هو ٣.", "٣") and needle.holds("٣٫٥", "٣٫٥")
    assert not any(needle.holds("الرمز هو ٣٫٥", part) for part in "٣٥")


@pytest.mark.parametrize(("mark", "gap"), [("؟", " "), ("۔", " "), ("।", " "), ("॥", ""), ("။", ""), ("។", " ")])
def test_sentences_end_in_other_scripts_too(mark, gap):
    texts = [gap.join(["अ" * 9 + " " + "ا" * 9 + mark] * 50)]
    found = needle.in_texts(texts, byte_tokenizer(), lengths=[600, 900], depths=5)
    for length in (600, 900):
        asked = [q.turns[0].removesuffix(f"\n\n{needle.QUESTION}") for q in found if q.length == length]
        assert len(set(asked)) == 5
        assert all(length - 60 < len(byte_tokenizer()(text)["input_ids"]) <= length + 1 for text in asked)
        assert all(part.strip() == "" or part.strip().endswith(mark) for text in asked
                   for part in text.split(needle.NEEDLE))  # fmt: skip


def test_in_thai_a_blank_ends_a_sentence_and_in_english_it_does_not():
    texts = [" ".join(["ปลาว่ายน้ำ", "นกบินสูง"] * 60)]
    found = needle.in_texts(texts, byte_tokenizer(), lengths=[900], depths=5)
    assert len({q.turns for q in found}) == 5
    with pytest.raises(ValueError, match="take longer --lengths"):
        needle.in_texts([" ".join(["fish swim", "birds fly"] * 600)], byte_tokenizer(), lengths=[900], depths=5)


@pytest.mark.parametrize("gap", ["\u00a0", "\u2009", "\u202f"])
def test_a_space_that_groups_the_digits_of_a_number_does_not_part_it(gap):
    number = f"1{gap}042{gap}000"
    assert not any(needle.holds(f"Some {number}.", part) for part in ("1", "042", "000", "1 042", "042 000"))
    assert needle.holds(f"Some {number}.", "1 042 000") and needle.holds("Some 1 042 000.", number)
    assert needle.holds(f"42{gap}km, 42{gap}5 and{gap}7{gap}!", "42") and needle.holds(f"and{gap}7{gap}!", "7")


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [("Ask Ada.", "Ada", True), ("爱Ada说", "ada", True), ("In Canada.", "Ada", False), ("Adam", "Ada", False),
     ("À l'Étoile", "étoile", True), ("Étoiles", "étoile", False), ("在北京吃饭", "北京", True),
     ("у Анны", "анна", False), ("Анна,", "анна", True), ("Ada's", "Ada", True), ("Hoạt động", "ho", False),
     ("Nguyễn đến", "đến", True), ("x\u0304y", "x", False), ("ὁδοιπόρος", "ὁδοιπόρο", False), ("ἅ ὁδός", "ὁδός", True)],
)  # fmt: skip
def test_a_word_that_is_part_of_a_longer_one_is_no_needle(text, answer, found):
    assert needle.holds(text, answer) is found


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_letter_and_its_accent_apart_are_the_same_letter(forms):
    text, answer = (unicodedata.normalize(form, "Café Đà") for form in forms)
    assert needle.holds(f"In the {text}.", answer) and not needle.holds(f"In the {text}.", "cafe")
