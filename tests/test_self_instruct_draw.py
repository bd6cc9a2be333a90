"""Longer documents are drawn more often, exactly in proportion; an item depends on its own document alone."""

import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from math import ceil, floor
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_tokenizers import byte_tokenizer, metaspace_tokenizer
from longalign.miniature import tasks, tokenizer
from longalign.self_instruct.documents import Document
from longalign.self_instruct.draw import TASKS, copies, cut, draw

ROOT = Path(__file__).parents[1]
MINIATURE = tokenizer.load()
LICENSE = (ROOT / "LICENSE").read_text().strip()
CHINESE = "\n".join(f"第{number}章讲的是灯塔和海。守塔人点亮了灯！渔民们平安归来。" for number in range(40))


def document(text, *, language="en", source="books"):
    return Document(text, "a.txt", source, language, "MIT", sha256(text.encode()).hexdigest())


def digits(count, number=0):
    """A text of so many tokens of the miniature's tokenizer, another one for each number; a blank begins every text."""
    return f"{number:03d}".ljust(count - 1, "1")


def drawn(documents, *, count=None, min_length=1, max_length=1_000, room=0, **options):
    return draw(documents, count=count, tokenizer=MINIATURE, min_length=min_length, max_length=max_length, room=room,
                **options)  # fmt: skip


def lengths_and_start():
    sizes = st.lists(st.integers(1, 1_000), min_size=1, max_size=12)
    return sizes.flatmap(lambda lengths: st.tuples(st.just(lengths), st.integers(0, sum(lengths) - 1)))


@given(drawn=lengths_and_start(), count=st.integers(0, 200))
def test_copies_sum_to_the_count_and_are_the_expectation_rounded_down_or_up(drawn, count):
    lengths, start = drawn
    found = copies(lengths, count, start)
    assert sum(found) == count
    for length, times in zip(lengths, found, strict=True):
        expected = Fraction(count * length, sum(lengths))
        assert floor(expected) <= times <= ceil(expected)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), count=st.integers(0, 20))
def test_over_all_starts_the_mean_number_of_copies_is_the_expectation(lengths, count):
    total = sum(lengths)
    every = [copies(lengths, count, start) for start in range(total)]
    assert [Fraction(sum(column), total) for column in zip(*every, strict=True)] == [
        Fraction(count * length, total) for length in lengths
    ]


def test_nine_items_of_lengths_2_4_3_are_2_4_and_3_copies_by_uncut_lengths():
    documents = [document(digits(count)) for count in (200, 400, 300)]
    for seed in range(5):
        items, _ = drawn(documents, count=9, seed=seed, max_length=150)
        assert Counter(len(item.document.text) + 1 for item in items) == {200: 2, 400: 4, 300: 3}
        assert {item.tokens for item in items} <= set(range(1, 151))


def test_an_item_does_not_change_with_other_documents_their_order_or_the_count():
    documents = [document(LICENSE), document(CHINESE, language="zh"), *(document(digits(99, n)) for n in range(5))]
    everything = {item.id: item for item in drawn(documents, count=40, max_length=600)[0]}
    backwards = {item.id: item for item in drawn(documents[::-1], count=40, max_length=600)[0]}
    alone = {item.id: item for item in drawn(documents[:1], count=9, max_length=600)[0]}
    fewer = {item.id: item for item in drawn(documents, count=9, max_length=600)[0]}
    assert everything == backwards and list(everything) == list(backwards)
    assert len(alone) == 9 and all(everything.get(name, item) == item for name, item in (alone | fewer).items())
    assert everything.keys() & alone.keys() and everything.keys() & fewer.keys()


def test_another_seed_cuts_other_texts_and_gives_other_tasks():
    first, second = (drawn([document(LICENSE)], count=12, max_length=600, seed=seed)[0] for seed in (0, 1))
    assert [item.id for item in first] == [item.id for item in second]
    assert len({item.text for item in first} & {item.text for item in second}) < 4
    assert len({item.seed for item in first + second}) == 24
    assert any(a.task != b.task for a, b in zip(first, second, strict=True))


def test_the_copies_of_a_document_take_turns_in_the_tasks_and_all_are_as_frequent():
    assert set(TASKS) == {family.type for family in tasks.FAMILIES.values()} - {"coding"}
    items, _ = drawn([document(digits(50, number)) for number in range(400)])
    assert len(items) == 400 and all(80 <= times <= 120 for times in Counter(item.task for item in items).values())
    copied, _ = drawn([document(LICENSE)], count=8)
    assert [item.copy for item in copied] == list(range(8))
    assert sorted(item.task for item in copied) == sorted(TASKS * 2)


@pytest.mark.parametrize("limit", [100, 700, 3_000])
@pytest.mark.parametrize("make", [tokenizer.load, byte_tokenizer, metaspace_tokenizer])
@pytest.mark.parametrize("text", [LICENSE, CHINESE, (ROOT / "README.md").read_text().strip()])
def test_a_cut_text_is_a_slice_within_the_budget_and_uses_most_of_it(text, make, limit):
    reader = make()
    limit = min(limit, len(reader(text, add_special_tokens=False)["input_ids"]) - 1)
    for seed in range(8):
        piece = cut(text, limit, reader, Random(seed))
        tokens = len(reader(piece, add_special_tokens=False)["input_ids"])
        assert piece and piece in text and tokens <= limit
        behind = text[text.index(piece) + len(piece) :]
        space = behind[: len(behind) - len(behind.lstrip())]  # is taken off the piece, and may be a whole table's
        assert len(reader(piece + space, add_special_tokens=False)["input_ids"]) >= 0.8 * limit


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from("ab .。\n?灯\u0301😀\t"), min_size=1, max_size=120), limit=st.integers(1, 40),
       seed=st.integers(0, 9))  # fmt: skip
def test_any_text_is_cut_to_a_slice_within_the_budget(text, limit, seed):
    if len(MINIATURE(text, add_special_tokens=False)["input_ids"]) > limit:
        piece = cut(text, limit, MINIATURE, Random(seed))
        assert piece in text and len(MINIATURE(piece, add_special_tokens=False)["input_ids"]) <= limit


def edges(text, piece):
    """What stands before and after a piece that is found once."""
    begin = text.index(piece)
    assert text.count(piece) == 1
    return text[:begin], text[begin + len(piece) :]


def test_a_cut_stands_between_paragraphs_else_lines_else_sentences():
    sentence = "The keeper number {} climbs the stairs to light the lamp."
    for gap, number in (("\n\n", 40), ("\n", 40), (" ", 40)):
        text = gap.join(sentence.format(index) for index in range(100, 100 + number))
        for seed in range(10):
            before, after = edges(text, cut(text, 900, MINIATURE, Random(seed)))
            assert (not before or before.endswith(gap)) and (not after or after.startswith(gap))
            assert before or after


def test_a_place_near_the_texts_beginning_becomes_its_beginning():
    text = "".join(chr(0x4E00 + number) for number in range(100))
    places = [text.index(cut(text, 90, MINIATURE, Random(seed))) for seed in range(150)]
    assert places.count(0) > 3 and not {1, 2} & set(places) and {3, 4, 5} & set(places)


def test_starts_reach_from_the_texts_beginning_to_its_end():
    places = [LICENSE.index(cut(LICENSE, 1_000, MINIATURE, Random(seed))) / len(LICENSE) for seed in range(100)]
    assert min(places) < 0.05 and max(places) > 0.8 and len(set(places)) > 20


def test_short_texts_are_shown_whole_and_too_short_ones_left_out():
    documents = [document(digits(count)) for count in (100, 99, 200)]
    items, refusals = drawn(documents, min_length=100, max_length=150, room=20, count=60)
    assert [refusal.reason for refusal in refusals] == ["shorter than 100 tokens"]
    assert {item.text for item in items if item.document.text == digits(100)} == {digits(100)}
    assert {item.tokens for item in items if item.document.text == digits(100)} == {100}
    assert max(item.tokens for item in items) <= 130
    assert drawn([document("a")], min_length=100) == ([], [("a.txt", "shorter than 100 tokens")])


@pytest.mark.parametrize(("languages", "count", "share", "chinese"), [
    (("en", "zh"), 50, 0.1, 5), (("en", "zh"), 7, 0.1, 1), (("en", "zh"), 4, 0.0, 0), (("en", "zh"), 4, 1.0, 4),
    (("en",), 10, 0.9, 0), (("zh",), 10, 0.1, 10),
])  # fmt: skip
def test_the_share_of_chinese_holds_where_there_are_both_languages(languages, count, share, chinese):
    documents = [document(digits(60, n), language=languages[n % len(languages)]) for n in range(6)]
    items, _ = drawn(documents, count=count, chinese_share=share)
    assert len(items) == count and sum(item.document.language == "zh" for item in items) == chinese


def test_without_a_count_there_are_as_many_items_as_documents_that_are_long_enough():
    documents = [document(digits(60, number)) for number in range(6)] + [document("short")]
    assert len(drawn(documents, min_length=50)[0]) == 6


def test_ids_are_unique_and_of_plain_characters():
    sources = ["books", "My Books: 2nd!", "小说", "../x", "arxiv.org"]
    documents = [document(digits(60, number), source=source) for number, source in enumerate(sources)]
    items, _ = drawn(documents, count=30)
    names = [item.id for item in items]
    assert len(set(names)) == 30 and all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*-[0-9a-f]{12}-\d+", name) for name in names)
    assert {name.rsplit("-", 2)[0] for name in names} == {"books", "my-books-2nd", "text", "x", "arxiv.org"}


@pytest.mark.parametrize("options", [
    {"min_length": 0}, {"min_length": 101, "max_length": 150, "room": 50}, {"max_length": 10, "room": 10}, {"count": 0},
    {"chinese_share": 1.1}, {"chinese_share": -0.1},
])  # fmt: skip
def test_numbers_that_leave_nothing_to_draw_are_errors(options):
    with pytest.raises(ValueError, match="at least"):
        drawn([document(LICENSE)], **options)


def test_a_document_given_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        drawn([document(LICENSE), replace(document(LICENSE), name="b.txt")])


def test_a_document_of_which_no_token_fits_is_left_out():
    items, refusals = drawn([document("😀" * 50)], max_length=2, count=3)
    assert items == [] and refusals == [("a.txt", "cannot be cut to 2 tokens")]


def test_long_texts_give_no_warning_of_their_length(caplog, capsys):
    small = tokenizer.load.__wrapped__()
    small.model_max_length = 10
    draw([document(LICENSE)], count=2, tokenizer=small, min_length=1, max_length=300, room=0)
    assert not caplog.records and not "".join(capsys.readouterr())
