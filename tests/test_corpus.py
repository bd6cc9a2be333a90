"""The generated corpus: exact answers, nested suites, lossless tokens, and the shares that the paper's data has."""

import dataclasses
import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.data.store import TokenStore
from longalign.miniature import lexicon, samples, tasks, tokenizer, training_sets
from longalign.miniature.documents import write_document
from longalign.miniature.settings import Corpus, Evaluation
from longalign.miniature.styles import STYLES

SMALL = Corpus(long=10, short=20, longalpaca_long=9, longalpaca_short=3, min_long=128, max_length=512, max_short=128)


def long_sample(index, **options):
    return samples.instruction("long", 0, index, min_length=128, max_length=1024, **options)


def sentences(text):
    return [part for part in re.split(r"(?<=[.。?？:])\s*|\n", text) if part]


def test_there_are_nine_sources_and_the_four_types_of_the_paper():
    assert len(STYLES) == 9
    assert {"general", "summary", "reasoning", "information extraction"} < {f.type for f in tasks.FAMILIES.values()}


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_every_sentence_of_an_answer_stands_in_the_document(family):
    for index in range(10):
        question, answer = (message["content"] for message in long_sample(index, families=(family,))["messages"])
        document = question.rpartition("\n\n")[0]
        assert all(sentence in document for sentence in sentences(answer))


def test_a_key_of_the_question_names_one_fact_only():
    for index in range(20):
        sample = long_sample(index, families=("lookup",))
        question, answer = (message["content"] for message in sample["messages"])
        key = answer[:2] if sample["language"] == "zh" else answer.split()[0]
        document = question.rpartition("\n\n")[0]
        assert len(re.findall(rf"(?:^|[.。?？\n] ?){key}", document)) == 1


@given(seed=st.integers(0, 10_000), source=st.sampled_from(sorted(STYLES)), tokens=st.integers(64, 1024))
@settings(max_examples=25, deadline=None)
def test_no_fact_word_stands_in_two_facts_of_a_document(seed, source, tokens):
    world = write_document(Random(seed), source, tokens).world
    plain = [fact for kind in ("deed", "gloss", "note", "decision") for fact in world.of(kind)]
    words = [word for fact in plain for word in (fact.value.split() if fact.language == "en" else fact.value)]
    assert max(Counter(words).values(), default=1) == 1


@given(seed=st.integers(0, 10_000), source=st.sampled_from(sorted(STYLES)), tokens=st.integers(64, 1024))
@settings(max_examples=25, deadline=None)
def test_a_document_is_lossless_in_tokens_and_keeps_to_its_length(seed, source, tokens):
    document = write_document(Random(seed), source, tokens)
    ids = tokenizer.load()(document.text)["input_ids"]
    assert tokenizer.load().decode(ids) == document.text
    paragraphs = document.text.count("\n")  # none is charged for more than its heading too little
    assert len(ids) == tokenizer.count_tokens(document.text) <= tokens + 6 * paragraphs
    assert all(not token.startswith("<0x") for token in tokenizer.load().convert_ids_to_tokens(ids))


def test_nearly_all_documents_are_as_short_as_was_asked_and_none_is_much_longer():
    over = []
    for seed in range(300):
        tokens = 64 + 3 * seed
        text = write_document(Random(seed), sorted(STYLES)[seed % len(STYLES)], tokens).text
        over.append(tokenizer.count_tokens(text) - tokens)
    assert sum(number > 0 for number in over) <= 0.06 * len(over) and max(over) <= 24


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_tokenizer_loses_nothing_of_any_text(text):
    encode = tokenizer.load()
    assert encode.decode(encode(text)["input_ids"]) == text


def test_the_vocabulary_is_small_fixed_and_without_doubles():
    vocabulary = tokenizer.vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) <= 2000
    assert all(f" {name}" in vocabulary for name in lexicon.NAMES)


def test_the_length_of_a_sample_is_that_of_its_chat_form():
    encode = tokenizer.load()
    mixed = [long_sample(i) for i in range(10)] + [samples.dialogue("short", 0, i, max_length=128) for i in range(20)]
    for sample in mixed:
        ids = encode.apply_chat_template(sample["messages"], return_dict=True)["input_ids"]
        assert len(ids) == sample["length"]


def test_long_lengths_are_even_and_about_a_tenth_is_chinese():
    drawn = [long_sample(index) for index in range(300)]
    thirds = Counter((sample["length"] - 1) * 3 // 1024 for sample in drawn)
    assert min(thirds[1], thirds[2]) > 80
    assert 0.05 < sum(sample["language"] == "zh" for sample in drawn) / 300 < 0.16


def test_short_instructions_have_one_to_three_turns_and_answers_of_many_lengths():
    drawn = [samples.dialogue("short", 0, index, max_length=128) for index in range(200)]
    assert {len(sample["messages"]) // 2 for sample in drawn} == {1, 2, 3}
    assert all(sample["length"] <= 128 for sample in drawn)
    targets = [sum(tokenizer.count_tokens(m["content"]) + 1 for m in s["messages"][1::2]) for s in drawn]
    assert min(targets) <= 4 and max(targets) >= 40


def test_suites_are_nested():
    ids = {name: [row["id"] for row in training_sets.suite(name, SMALL)] for name in training_sets.SUITES}
    zero, five, ten = (ids[f"LongAlign-{size}k"] for size in (0, 5, 10))
    assert set(zero) < set(five) < set(ten)
    assert (len(zero), len(five), len(ten)) == (20, 25, 30)


def test_the_longalpaca_analogue_has_plain_questions_on_papers_and_books_and_the_short_samples_of_every_suite():
    rows = list(training_sets.suite("LongAlpaca-12k", SMALL))
    own, shared = rows[:12], rows[12:]
    assert {row["source"] for row in own} <= {"arxiv", "books3"}
    assert {row["task"] for row in own} <= {"lookup", "note"}
    assert shared == list(training_sets.suite("LongAlign-0k", SMALL))


def test_longalpaca_with_all_kinds_differs_from_longalpaca_in_the_kinds_of_questions_alone():
    corpus = dataclasses.replace(SMALL, longalpaca_long=40)
    rows, plain = (list(training_sets.suite(name, corpus)) for name in (training_sets.ALL_KINDS, "LongAlpaca-12k"))
    own = rows[: len(plain) - SMALL.short]
    assert len(rows) == len(plain) and rows[len(own) :] == plain[len(own) :]
    assert {row["source"] for row in own} == {"arxiv", "books3"}
    assert {row["task"] for row in own} == set(tasks.FAMILIES)


def test_the_doses_are_nested_and_a_seed_draws_other_samples():
    doses = {name: [row["id"] for row in training_sets.suite(name, SMALL)] for name in training_sets.DOSES}
    long = {name: [i for i in ids if i.startswith("long-")] for name, ids in doses.items()}
    assert [len(ids) for ids in long.values()] == [0, 2, 5, 8, 10]
    assert all(ids == long["LongAlign-10k"][: len(ids)] for ids in long.values())
    other = next(training_sets.suite("LongAlign-10k", dataclasses.replace(SMALL, seed=1)))
    assert other["messages"] != next(training_sets.suite("LongAlign-10k", SMALL))["messages"]


def test_a_store_that_was_damaged_is_built_again(tmp_path, capsys):
    def build(kind):
        if kind == "suite":
            return training_sets.suite_store("LongAlign-0k", SMALL, tmp_path)
        return training_sets.documents_store("base", tmp_path / "base", tokens=300, lengths=(64, 96), recall_share=0.5)

    for kind in ("suite", "documents"):
        whole = build(kind)
        zeros = b"\0" * whole.manifest["files"]["tokens.bin"]["bytes"]
        for name, damage in (("tokens.bin", zeros), ("manifest.json", b"{")):
            (whole.folder / name).write_bytes(damage)
            training_sets._verified.clear()  # as another process sees it
            assert build(kind).sha256 == whole.sha256 and "it is built again" in capsys.readouterr().out
            assert TokenStore(whole.folder, verify=True).sha256 == whole.sha256
    jsonl = tmp_path / "LongAlign-0k.jsonl"
    text = jsonl.read_text()
    jsonl.write_text(text[:99])
    build("suite")
    assert jsonl.read_text() == text


def test_an_unknown_suite_is_refused_by_name():
    with pytest.raises(KeyError, match="LongAlign-7k.*LongAlign-5k"):
        list(training_sets.suite("LongAlign-7k", SMALL))


def test_no_test_document_and_no_held_out_template_is_trained_on():
    evaluation = Evaluation(lengths=(128, 256), tasks=tuple(tasks.FAMILIES), per_cell=2)
    trained = list(training_sets.suite("LongAlign-10k", SMALL))
    documents = {row["messages"][0]["content"] for row in trained}
    templates = {row["template"] for row in trained}
    assert not documents & {row["messages"][0]["content"] for row in training_sets.evaluation_set(evaluation)}
    assert not templates & {row["template"] for row in training_sets.evaluation_set(evaluation, heldout=True)}
    assert {row["template"] for row in training_sets.evaluation_set(evaluation)} <= {
        template for family in tasks.FAMILIES.values() for texts in family.trained.values() for template in texts
    }


def test_a_sample_depends_on_seed_and_index_alone():
    assert long_sample(5) == long_sample(5) != long_sample(6)
    other = samples.instruction("long", 1, 5, min_length=128, max_length=1024)
    assert other["messages"] != long_sample(5)["messages"]


@pytest.mark.parametrize("write", [samples.base_document, samples.recall_document])
def test_pre_training_documents_keep_to_their_length_and_mark_their_answers(write):
    for index in range(40):
        document = write("base", 0, index, length=96)
        assert tokenizer.count_tokens(document["text"]) <= 96
        for start, end in document["answers"]:
            answer = document["text"][start:end]
            assert answer[-1] in ".。" and answer in document["text"] and not answer.startswith(" ")


def test_a_documents_store_has_answers_and_a_tenth_of_the_rest_as_targets(tmp_path):
    store = training_sets.documents_store("base", tmp_path / "s", tokens=20_000, lengths=(96, 96), recall_share=0.0)
    probe = training_sets.recall_probe(96, 100)
    answers = sum((row["labels"] != -100).sum() for row in probe) / sum(len(row["labels"]) for row in probe)
    share = store.target_counts.sum() / store.lengths.sum()
    assert share == pytest.approx(answers + 0.1 * (1 - answers), abs=0.03)
