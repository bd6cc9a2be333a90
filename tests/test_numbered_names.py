"""Numbered names: facts keep their share of a document at any length, and without them the corpus is what it was."""

import hashlib
import json
import re
from random import Random

import pytest

from longalign.corpus import samples, tokenizer
from longalign.corpus.documents import write_document
from longalign.corpus.styles import STYLES
from longalign.corpus.world import FactSource, NumberedKeys

BEFORE_NUMBERS = "3d1412dceb74f5e1a989ad401fa7000219c671be862779f9871edf04861fcdbe"
"""sha256 of the samples below, as they were drawn before keys could be numbered."""


def document(tokens, source="arxiv", seed=1):
    return write_document(Random(seed), source, tokens, key_digits=2)


def all_facts(world):
    return [fact for facts in world.facts.values() for fact in facts]


def fact_share(written):
    return sum(tokenizer.count_tokens(f.text) for f in all_facts(written.world)) / tokenizer.count_tokens(written.text)


def test_the_laptop_corpus_is_byte_for_byte_what_it_was_before_keys_could_be_numbered():
    rows = [samples.instruction("long", 0, i, min_length=128, max_length=1024) for i in range(12)]
    rows += [samples.instruction("wide", 0, 0, min_length=8000, max_length=8192)]
    rows += [samples.dialogue("short", 0, i, max_length=128) for i in range(12)]
    rows += [samples.base_document("base", 0, i, length=128 + 64 * i) for i in range(6)]
    rows += [samples.recall_document("base", 0, i, length=128 + 64 * i) for i in range(6)]
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == BEFORE_NUMBERS


@pytest.mark.parametrize("source", ["arxiv", "wudao"])
def test_facts_keep_their_share_of_a_document_from_1024_to_65536_tokens(source):
    first, *others = (fact_share(document(tokens, source)) for tokens in (1024, 16_384, 65_536))
    assert 0.55 < first < 0.75
    assert all(abs(share - first) < 0.05 for share in others)


def test_without_numbers_facts_run_out_so_that_the_share_falls_below_one_in_a_hundred():
    assert fact_share(write_document(Random(1), "arxiv", 65_536)) < 0.01


@pytest.mark.parametrize("source", sorted(STYLES))
def test_every_key_of_a_long_document_is_unique_and_ends_in_a_number_of_two_digits(source):
    facts = [fact for fact in all_facts(document(16_384, source).world) if fact.kind != "decision"]
    keys = [fact.key for fact in facts]
    assert len(set(keys)) == len(keys) > 800
    assert all(re.fullmatch(r"\D+\d\d", key) for key in keys)


@pytest.mark.parametrize("family", ["lookup", "table", "note", "translation", "chain", "calls"])
def test_the_answer_at_16384_tokens_is_what_the_document_alone_says_of_the_keys(family):
    options = {"min_length": 16_000, "max_length": 16_384, "families": (family,), "key_digits": 2}
    sample = samples.instruction("oracle", 0, 0, **options)
    question, answer = (message["content"] for message in sample["messages"])
    text = question.rpartition("\n\n")[0]
    assert 15_900 <= sample["length"] <= 16_384
    for stated in re.findall(r"[^.。]+[.。]", answer):
        key = re.match(r"\s*(\D+\d\d)", stated).group(1)
        # A key opens one sentence of the document; a link or a call may name it in another.
        opens = re.findall(rf"(?:^|[.。?？\n] ?)({key}(?!\d)[^.。]*[.。])", text)
        assert opens == [stated.strip()]


def test_two_digits_give_a_hundred_keys_a_word_and_then_none_without_an_endless_search():
    keys = NumberedKeys(Random(0), ["Marlow"], 2)
    assert {keys.pop() for _ in range(100)} == {f"Marlow{number:02d}" for number in range(100)}
    with pytest.raises(IndexError, match="every key was drawn"):
        keys.pop()
    assert "call" in FactSource(Random(0), STYLES["github"], key_digits=2).available()


def test_a_numbered_document_is_lossless_in_the_tokens_that_the_committed_bases_know():
    encode = tokenizer.load()
    for source in ("github", "cluecorpus"):
        text = document(4096, source).text
        ids = encode(text)["input_ids"]
        assert encode.decode(ids) == text and len(ids) == tokenizer.count_tokens(text)
        assert all(not token.startswith("<0x") for token in encode.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("write", [samples.base_document, samples.recall_document])
def test_long_pre_training_documents_reach_their_length_with_questions_on_numbered_keys(write):
    drawn = write("base", 0, 0, length=16_384, key_digits=2)
    assert 15_500 <= tokenizer.count_tokens(drawn["text"]) <= 16_384
    start, end = drawn["answers"][-1]
    assert re.search(r"\d\d", drawn["text"][start:end])
