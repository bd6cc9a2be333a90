"""Keys of two words: facts keep their share of a document at any length; without them the corpus is what it was."""

import hashlib
import json
import re
from random import Random
from statistics import mean

import pytest

from longalign.miniature import samples, tokenizer
from longalign.miniature.documents import write_document
from longalign.miniature.pools import PairedKeys, RepeatedWords
from longalign.miniature.styles import STYLES
from longalign.miniature.world import FactSource

BEFORE_PAIRS = "3d1412dceb74f5e1a989ad401fa7000219c671be862779f9871edf04861fcdbe"
"""sha256 of the samples below, as they were drawn before keys could be pairs."""


def document(tokens, source="arxiv", seed=1):
    return write_document(Random(seed), source, tokens, pairs=True)


def all_facts(world):
    return [fact for facts in world.facts.values() for fact in facts]


def fact_share(written):
    return sum(tokenizer.count_tokens(f.text) for f in all_facts(written.world)) / tokenizer.count_tokens(written.text)


def test_the_laptop_corpus_is_byte_for_byte_what_it_was_before_keys_could_be_pairs():
    rows = [samples.instruction("long", 0, i, min_length=128, max_length=1024) for i in range(12)]
    rows += [samples.instruction("wide", 0, 0, min_length=8000, max_length=8192)]
    rows += [samples.dialogue("short", 0, i, max_length=128) for i in range(12)]
    rows += [samples.base_document("base", 0, i, length=128 + 64 * i) for i in range(6)]
    rows += [samples.recall_document("base", 0, i, length=128 + 64 * i) for i in range(6)]
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == BEFORE_PAIRS


@pytest.mark.parametrize("source", ["arxiv", "wudao"])
def test_facts_keep_their_share_of_a_document_from_1024_to_65536_tokens(source):
    drawn = {1024: 16, 16_384: 2, 65_536: 1}
    first, *others = (mean(fact_share(document(n, source, seed)) for seed in range(k)) for n, k in drawn.items())
    assert 0.55 < first < 0.75
    assert all(abs(share - first) < 0.05 for share in others)


def test_without_pairs_facts_run_out_so_that_the_share_falls_below_one_in_a_hundred():
    assert fact_share(write_document(Random(1), "arxiv", 65_536)) < 0.01


@pytest.mark.parametrize("source", sorted(STYLES))
def test_every_key_of_a_long_document_is_unique_and_a_pair_of_words(source):
    facts = [fact for fact in all_facts(document(16_384, source).world) if fact.kind != "decision"]
    keys = [fact.key for fact in facts]
    assert len(set(keys)) == len(keys) > 800
    chinese = STYLES[source].language == "zh"
    assert all(len(key if chinese else key.split()) == (3 if chinese else 2) for key in keys)


@pytest.mark.parametrize("family", ["lookup", "table", "note", "translation", "chain", "calls"])
def test_the_answer_at_16384_tokens_is_what_the_document_alone_says_of_the_keys(family):
    options = {"min_length": 16_000, "max_length": 16_384, "families": (family,), "pairs": True}
    sample = samples.instruction("oracle", 0, 0, **options)
    question, answer = (message["content"] for message in sample["messages"])
    text = question.rpartition("\n\n")[0]
    assert 15_900 <= sample["length"] <= 16_384
    for stated in re.findall(r"[^.。]+[.。]", answer):
        key = stated[:3] if sample["language"] == "zh" else " ".join(stated.split()[:2])
        # A key opens one sentence of the document; a link or a call may name it in another.
        end = "" if sample["language"] == "zh" else r"(?!\w)"
        assert re.findall(rf"(?:^|[.。?？\n] ?)({key}{end}[^.。]*[.。])", text) == [stated.strip()]


@pytest.mark.parametrize("tokens", [128, 1024, 65_536])
def test_about_a_third_of_the_pairs_of_names_is_used_at_any_length(tokens):
    used = []
    for seed in range(max(1, 4096 // tokens)):
        facts = FactSource(Random(seed), STYLES["arxiv"], pairs_for=tokens)
        pairs = len(facts.names)
        write_document(Random(seed), "arxiv", tokens, facts=facts)
        used.append(1 - len(facts.names) / pairs)
    assert 0.2 < mean(used) < 0.45


def test_every_pair_is_drawn_once_and_then_none_without_an_endless_search():
    keys = PairedKeys(Random(0), ["Marlow", "Kelton"], ["Torvik", "Fenwen"], tokens=24)
    assert len({keys.pop() for _ in range(4)}) == 4 and not keys
    with pytest.raises(IndexError, match="every pair was drawn"):
        keys.pop()


def test_words_of_values_come_again_only_when_all_others_have_come():
    words = RepeatedWords(Random(0), [f"word{number}" for number in range(40)], tokens=128)
    drawn = [words.pop() for _ in range(24)]
    assert len(words) == 8 and all(len(set(drawn[start : start + 8])) == 8 for start in (0, 8, 16))


def test_a_document_of_pairs_is_lossless_in_the_tokens_that_the_committed_bases_know():
    encode = tokenizer.load()
    for source in ("github", "cluecorpus"):
        text = document(4096, source).text
        ids = encode(text)["input_ids"]
        assert encode.decode(ids) == text and len(ids) == tokenizer.count_tokens(text)
        assert all(not token.startswith("<0x") for token in encode.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("write", [samples.base_document, samples.recall_document])
def test_long_pre_training_documents_reach_their_length_with_questions_to_the_end(write):
    drawn = write("base", 0, 0, length=16_384, pairs=True)
    assert 15_500 <= tokenizer.count_tokens(drawn["text"]) <= 16_384
    assert drawn["answers"][-1][1] == len(drawn["text"])
