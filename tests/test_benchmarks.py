"""The benchmarks: the same new documents for every model, each item what its name says."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from longalign.miniature import lexicon, tasks, tokenizer, training_sets
from longalign.miniature.benchmarks import BENCHMARKS, items
from longalign.miniature.settings import Corpus, Evaluation
from longalign.miniature.styles import STYLES

SMALL = Evaluation(
    lengths=(64, 128, 256), per_cell=2, heldout_per_cell=1, needle_lengths=(64, 256), needle_depths=3,
    needle_per_cell=2, longbench_per_task=6, chat_questions=5, short_per_task=3,
)  # fmt: skip
each_benchmark = pytest.mark.parametrize("name", BENCHMARKS)


def built(name, evaluation=SMALL, *, window=1024):
    return list(items(name, evaluation, window=window))


@pytest.fixture(scope="module")
def short():
    return built("short", Evaluation(short_per_task=40))


@pytest.fixture(scope="module")
def chat():
    return built("longbench_chat", Evaluation())


@pytest.fixture(scope="module")
def longbench():
    return built("longbench", Evaluation(longbench_per_task=15))


def choices(short, *tasks):
    return [item for item in short if "options" in item and (not tasks or item["task"] in tasks)]


def split(item):
    """The document and the question of an item's first turn."""
    document, _, question = item["messages"][0]["content"].rpartition("\n\n")
    return document, question


def sentences(document):
    """The sentences of a document, without its title and its headings."""
    headings = {heading for style in STYLES.values() for heading in style.headings}
    lines = [line for line in document.split("\n")[1:] if line not in headings]
    return [sentence.strip() for line in lines for sentence in re.findall(r"[^.?。]+[.?。]", line)]


def facts(answer):
    return [fact.strip() for fact in re.findall(r"[^.。]+[.。]", answer)]


@each_benchmark
def test_items_are_the_same_at_every_call_and_their_ids_are_unique(name):
    first = built(name)
    assert first == built(name)
    assert len({item["id"] for item in first}) == len(first) > 0


@pytest.mark.parametrize("name", ["test", "heldout", "needle", "short"])  # the others spread lengths over their items
def test_an_item_does_not_change_when_more_are_asked_for(name):
    more = replace(SMALL, per_cell=3, heldout_per_cell=2, needle_per_cell=3, short_per_task=5)
    by_id = {item["id"]: item for item in built(name, more)}
    assert all(by_id[item["id"]] == item for item in built(name))


@each_benchmark
def test_no_document_of_a_benchmark_is_trained_on(name):
    corpus = Corpus(long=20, short=60, longalpaca_long=20, longalpaca_short=20)
    trained = {
        row["messages"][0]["content"].rpartition("\n\n")[0]
        for suite in ("LongAlign-10k", "LongAlpaca-12k")
        for row in training_sets.suite(suite, corpus)
    }
    assert not trained & {split(item)[0] for item in built(name)}


@each_benchmark
def test_an_items_length_is_that_of_its_chat_form_and_all_its_words_are_known(name):
    encode = tokenizer.load()
    for item in built(name):
        ids = encode.apply_chat_template(item["messages"], return_dict=True)["input_ids"]
        assert len(ids) == item["length"]
        assert not any(token.startswith("<0x") for token in encode.convert_ids_to_tokens(ids))


@each_benchmark
def test_only_held_out_templates_are_new_to_training(name):
    trained = {text for family in tasks.FAMILIES.values() for texts in family.trained.values() for text in texts}
    heldout = [item["template"] for item in built(name) if name == "heldout" or item["task"] == "knowledge"]
    others = [item["template"] for item in built(name) if name != "heldout" and item["task"] != "knowledge"]
    assert trained.isdisjoint(heldout) and trained >= set(others)


def test_an_unknown_benchmark_is_refused_by_name():
    with pytest.raises(KeyError, match="neddle.*needle"):
        items("neddle", SMALL, window=64)


def test_test_and_heldout_are_the_evaluation_set_under_their_own_task_names():
    assert [item["id"] for item in built("test")] == [row["id"] for row in training_sets.evaluation_set(SMALL)]
    assert {item["task"] for item in built("heldout")} == {f"heldout-{task}" for task in SMALL.tasks}
    assert Counter(item["task"] for item in built("heldout")) == dict.fromkeys(
        (f"heldout-{task}" for task in SMALL.tasks), 3
    )


def test_the_needle_lies_at_its_depth_among_the_other_sentences():
    for item in built("needle", Evaluation(needle_per_cell=1)):
        document, _ = split(item)
        told = sentences(document)
        place, others = told.index(item["messages"][1]["content"]), len(told) - 1
        assert told.count(told[place]) == 1
        assert place == round(item["depth"] * others)
        length, depth, _ = (int(number) for number in item["id"].split("-")[1:])
        assert item["cell"] == length and item["depth"] == depth / 9
        assert length - 24 < item["length"] <= length


def test_a_needle_longer_than_the_window_is_left_out():
    assert {item["cell"] for item in built("needle", window=128)} == {64}


def test_longbench_has_even_lengths_and_facts_of_its_documents(longbench):
    assert Counter(item["task"] for item in longbench) == {
        "single-document-qa": 15, "multi-document-qa": 15, "summarization": 15,
    }  # fmt: skip
    for index, item in enumerate(longbench):
        aim = 128 + round(896 * (index % 15) / 14)
        assert aim - 24 < item["length"] <= aim
        assert all(fact in split(item)[0] for fact in facts(item["messages"][-1]["content"]))
    assert {item["family"] for item in longbench if item["task"] == "single-document-qa"} == {"lookup", "table", "note"}


def test_a_question_on_several_documents_asks_for_facts_of_different_ones(longbench):
    asked = [item for item in longbench if item["task"] == "multi-document-qa"]
    assert {item["documents"] for item in asked} == {2, 3, 4}
    for item in asked:
        documents = split(item)[0].split("\n\n")
        assert len(documents) == item["documents"]
        answer = facts(item["messages"][-1]["content"])
        homes = [[i for i, document in enumerate(documents) if fact in document] for fact in answer]
        assert all(len(home) == 1 for home in homes)
        assert len({home[0] for home in homes}) == len(answer) >= 2


def test_no_word_of_a_fact_stands_in_two_documents_of_a_question(longbench):
    words = {*lexicon.NAMES, *lexicon.VERBS, *lexicon.ADJECTIVES, *lexicon.NOUNS, *lexicon.MADE_UP_WORDS}
    words -= set(re.findall(r"\w+", " ".join(text for style in STYLES.values() for text in style.fillers)))
    for item in longbench:
        if item["task"] == "multi-document-qa" and item["language"] == "en":
            used = [words & set(re.findall(r"\w+", document)) for document in split(item)[0].split("\n\n")]
            assert all(used)
            assert max(Counter(word for found in used for word in found).values()) == 1


def test_longbench_chat_has_fifty_questions_in_five_categories_and_two_languages(chat):
    assert Counter(item["task"] for item in chat) == dict.fromkeys(
        ("chat-reasoning", "chat-coding", "chat-summarization", "chat-translation", "chat-document-qa"), 10
    )
    assert Counter(item["language"] for item in chat) == {"en": 40, "zh": 10}
    assert {item["task"] for item in chat if item["language"] == "zh"} == {
        "chat-reasoning", "chat-summarization", "chat-document-qa",
    }  # fmt: skip
    assert {item["family"] for item in chat if item["task"] == "chat-document-qa"} == {"lookup", "table", "note"}


def test_longbench_chats_prompts_are_even_from_160_to_1600_tokens_in_every_category(chat):
    lengths = sorted(item["length"] for item in chat)
    aims = [160 + round(1440 * place / 49) for place in range(50)]
    assert all(aim - 24 < length <= aim for aim, length in zip(aims, lengths, strict=True))
    for task in {item["task"] for item in chat}:
        own = [item["length"] for item in chat if item["task"] == task]
        assert min(own) < 320 and max(own) > 1440


def test_a_smaller_longbench_chat_keeps_its_categories_and_scales_its_lengths():
    small = built("longbench_chat")
    assert len({item["task"] for item in small}) == 5 and Counter(item["language"] for item in small)["zh"] == 1
    assert 376 < max(item["length"] for item in small) <= 400


def test_conversations_have_two_or_three_turns_of_different_answers(short):
    turns = [item["messages"] for item in short if item["task"] == "multi-turn"]
    assert {len(messages) // 2 for messages in turns} == {2, 3} and len(turns) == 40
    for messages in turns:
        answers = [message["content"] for message in messages[1::2]]
        assert len(set(answers)) == len(answers) and max(len(facts(answer)) for answer in answers) >= 3


def test_short_items_have_at_most_128_tokens_whatever_the_option(short):
    for item in short:
        longest = max(tokenizer.count_tokens(text) for text in item.get("options", [item["messages"][-1]["content"]]))
        answer = tokenizer.count_tokens(item["messages"][-1]["content"])
        assert item["length"] - answer + longest <= 128


def test_four_options_differ_and_the_right_one_alone_is_the_answer(short):
    assert Counter(item["task"] for item in choices(short)) == dict.fromkeys(
        ("reasoning", "continuation", "truthfulness", "knowledge"), 40
    )
    for item in choices(short):
        assert len(set(item["options"])) == len(item["options"]) == 4
        assert item["options"][item["right"]] == item["messages"][-1]["content"]
        assert len({len(facts(option)) for option in item["options"]}) == 1


def test_the_right_option_stands_in_every_place(short):
    places = Counter(item["right"] for item in choices(short))
    assert set(places) == {0, 1, 2, 3} and min(places.values()) > 20


def test_reasoning_asks_for_the_end_of_the_chain_alone(short):
    assert {item["family"] for item in choices(short, "reasoning") if item["language"] == "en"} == {"chain", "calls"}
    for item in choices(short, "reasoning"):
        document, question = split(item)
        ends = {"chain": ("leads.", "领头。"), "calls": ("zero.",)}[item["family"]]
        assert item["options"][item["right"]] in document
        assert all(option.endswith(ends) and len(facts(option)) == 1 for option in item["options"])
        # no option is the person asked about, and all are in the document
        names = [option.split()[0] if item["language"] == "en" else option[:-3] for option in item["options"]]
        assert not any(name in re.findall(r"\w+", question) for name in names)
        assert len({tokenizer.count_tokens(option) for option in item["options"]}) == 1
        assert all(name in document for name in names)


def test_the_right_option_of_reasoning_is_reached_link_by_link(short):
    for item in choices(short, "reasoning"):
        if item["language"] == "en":
            document, question = split(item)
            told = {fact.split()[0]: fact.strip(".").split()[-1] for fact in sentences(document)}
            reached = next(word for word in re.findall(r"\w+", question) if word in told)
            while told.get(reached) not in ("leads", "zero"):
                reached = told[reached]
            assert item["options"][item["right"]].split()[0] == reached


def test_a_continuation_goes_on_with_the_list_that_the_question_asks_for(short):
    for item in choices(short, "continuation"):
        document, question = item["messages"][0]["content"].split("\nQ: ")
        asked, begun = question.split("\nA: ")
        for place, option in enumerate(item["options"]):
            answer = facts(begun) + facts(option)
            assert all(fact in document for fact in answer) and len(set(answer)) == len(answer) >= 2
            names = [fact.split()[0] if item["language"] == "en" else fact[:2] for fact in answer]
            assert all(name in asked for name in names) == (place == item["right"])


def test_truthfulness_differs_from_the_answer_by_one_fact_about_somebody_else(short):
    for item in choices(short, "truthfulness"):
        document, question = split(item)
        right = facts(item["messages"][-1]["content"])
        for place, option in enumerate(item["options"]):
            strange = [fact for fact in facts(option) if fact not in right]
            assert len(right) >= 4 and len(strange) == (place != item["right"])
            assert all(fact in document for fact in facts(option))
            names = [fact.split()[0] if item["language"] == "en" else fact[:2] for fact in strange]
            assert not any(name in question for name in names)


def test_knowledge_replaces_one_of_several_facts_and_asks_in_words_that_training_never_uses(short):
    families = {item["family"] for item in choices(short, "knowledge")}
    assert families == {"table", "translation"}, "chains have fewer than four facts"
    for item in choices(short, "knowledge"):
        assert item["template"] in tasks.FAMILIES[item["family"]].heldout[item["language"]]
        right, document = facts(item["messages"][-1]["content"]), split(item)[0]
        assert len(right) >= 4
        moved = [sum(a != b for a, b in zip(facts(option), right, strict=True)) for option in item["options"]]
        assert sorted(moved) == [0, 1, 1, 1]
        assert all(fact in document for option in item["options"] for fact in facts(option))
        assert all(option.startswith(right[0]) for option in item["options"])
