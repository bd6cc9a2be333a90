"""Scores of a model on a benchmark: one forward pass gives what a slow loop gives, points follow the written rule."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from chat_tokenizers import WithoutOffsets, assistant, byte_tokenizer, metaspace_tokenizer, user
from longalign.data import chat
from longalign.evals import chat_answers
from longalign.evals.chat_answers import answers
from longalign.evals.rubric import BEST, CHANCE, ceiling, points, sentences
from longalign.evals.scores import fact_ends, mean_loss, option_sequences, score
from longalign.evals.teacher_forced import fact_match, preferred, sequence_nll
from longalign.miniature import tokenizer
from longalign.miniature.benchmarks import BENCHMARKS, items
from longalign.miniature.settings import Evaluation
from longalign.train.models import new_model

SMALL = Evaluation(
    lengths=(64, 128), per_cell=1, heldout_per_cell=1, needle_lengths=(64,), needle_depths=2, needle_per_cell=1,
    longbench_per_task=2, chat_questions=5, short_per_task=2,
)  # fmt: skip
FACTS = ["Bardan leads.", "Calis leads.", "Dorvik leads.", "Fenton leads.", "Garlow leads."]
ordered, unordered = partial(points, ordered=True), partial(points, ordered=False)


@pytest.fixture(scope="module")
def model():
    return new_model("mini-7b", vocab_size=len(tokenizer.load()), max_length=512, seed=0).eval()


@pytest.fixture(scope="module")
def chat_items():
    return list(items("longbench_chat", Evaluation(lengths=(512,)), window=512))


def told(*places):
    return " ".join(FACTS[place] for place in places)


# the rubric


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_points_are_those_of_the_table_in_the_rubric(length):
    reference = told(*range(length))
    table = {
        "exact": (reference, (10, 10, 10, 10)),
        "one more": (f"{reference} {FACTS[4]}", (7, 8, 9, 9)),
        "one missing": (told(*range(length - 1)), (1, 7, 8, 9)),
        "one wrong": (told(*range(length - 1), 4), (1, 6, 7, 8)),
        "empty": ("", (1, 1, 1, 1)),
        "nothing right": (told(4), (1, 1, 1, 1)),
    }
    for answer, wanted in table.values():
        assert ordered(answer, reference) == unordered(answer, reference) == wanted[length - 1]


def test_another_order_costs_points_only_where_the_order_is_the_answer():
    assert unordered(told(2, 1, 0), told(0, 1, 2)) == 10
    assert ordered(told(2, 1, 0), told(0, 1, 2)) == 4  # 1 + 9 / 3
    assert ordered(told(1, 0, 2), told(0, 1, 2)) == 7


def test_a_sentence_said_twice_counts_once_and_costs_as_an_extra_one():
    assert unordered(told(0, 0), told(0)) == unordered(told(0, 1), told(0)) == 7


@pytest.mark.parametrize("answer", ["Bardan leads", "Bardan lead", "bardan leads.", "Bardan leads. <|user|>"])
def test_a_sentence_cut_off_or_spelt_otherwise_or_followed_by_anything_is_not_exact(answer):
    assert unordered(answer, told(0)) < 10


def test_chinese_sentences_need_no_space():
    assert sentences("王安领头。李冰买桥。") == ["王安领头。", "李冰买桥。"]
    assert unordered("李冰买桥。王安领头。", "王安领头。李冰买桥。") == 10


@given(answer=st.lists(st.integers(0, 4), max_size=8), reference=st.permutations(range(5)), size=st.integers(1, 5))
def test_ten_points_are_for_the_exact_answer_alone_and_order_never_helps(answer, reference, size):
    wanted = reference[:size]
    strict, free = ordered(told(*answer), told(*wanted)), unordered(told(*answer), told(*wanted))
    assert 1 <= strict <= free <= 10
    assert (strict == 10) == (answer == wanted)
    assert (free == 10) == (sorted(answer) == sorted(wanted))


def test_the_ceiling_is_the_score_of_the_facts_that_can_still_be_read():
    assert ceiling(f"News\n{told(1, 0, 3)}", told(0, 1), ordered=True) == 10
    assert ceiling(told(1, 3), told(0, 1), ordered=True) == ordered(told(1), told(0, 1)) == 7
    assert ceiling("", told(0, 1), ordered=True) == 1
    assert ceiling("prescan zero.", "rescan zero.", ordered=True) == 1


# likelihoods


def sequences(*, seed=0, vocab=200):
    rng = np.random.default_rng(seed)
    drawn = []
    for length, targets in ((2, 1), (4, 2), (3, 0), (40, 11), (9, 8)):
        ids = rng.integers(0, vocab, length)
        drawn.append({"input_ids": ids, "labels": np.where(np.arange(length) >= length - targets, ids, -100)})
    return drawn


def slow_nll(model, sequence):
    """Sum and count of the targets' NLL, one sequence and one token at a time."""
    ids = torch.tensor(np.asarray(sequence["input_ids"], dtype=np.int64))[None]
    with torch.no_grad():
        logs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    places = [t for t in range(1, ids.shape[1]) if sequence["labels"][t] != -100]
    return -sum(logs[t - 1, ids[0, t]].item() for t in places), len(places)


def test_the_likelihood_of_a_sequence_is_that_of_a_loop_over_its_tokens(model):
    sums, counts = sequence_nll(model, sequences(), capacity=16)
    for sequence, total, count in zip(sequences(), sums, counts, strict=True):
        slow, number = slow_nll(model, sequence)
        assert count == number
        assert total == pytest.approx(slow, abs=1e-4)


def test_the_mean_loss_weighs_sequences_alike_and_leaves_out_those_without_targets(model):
    slow = [total / count for total, count in (slow_nll(model, one) for one in sequences()) if count]
    assert len(slow) == 4
    assert mean_loss(model, sequences()) == pytest.approx(np.mean(slow), abs=1e-5)


def test_a_loss_without_any_target_is_refused(model):
    with pytest.raises(ValueError, match="none of the 1 sequences has a target"):
        mean_loss(model, sequences()[2:3])


def test_the_preferred_option_has_the_highest_mean_log_likelihood_per_token(model):
    drawn = [item for item in items("short", SMALL, window=512) if "options" in item]
    choices = [option_sequences(item, window=512) for item in drawn]
    slow = [[total / count for total, count in (slow_nll(model, one) for one in options)] for options in choices]
    assert preferred(model, choices).tolist() == [int(np.argmin(means)) for means in slow]


def test_an_options_targets_are_its_own_tokens_and_the_end_of_a_chat():
    encode = tokenizer.load()
    drawn = [item for item in items("short", Evaluation(short_per_task=20), window=512) if "options" in item]
    for item in drawn:
        for option, sequence in zip(item["options"], option_sequences(item, window=512), strict=True):
            targets = encode.decode(sequence["labels"][sequence["labels"] != -100]).strip()
            assert targets == (option if item["form"] == "text" else option + encode.eos_token)


# long prompts


def test_the_longest_prompts_are_cut_in_the_middle_and_facts_lost_there_lower_the_ceiling(monkeypatch, chat_items):
    shown = []
    monkeypatch.setattr(chat_answers, "greedy", lambda model, asked, **_: shown.extend(asked) or [[] for _ in asked])
    rows = answers(torch.nn.Linear(1, 1), chat_items, window=512)
    assert [row["item"] for row in rows] == [item["id"] for item in chat_items]
    for row, item, prompt in zip(rows, chat_items, shown, strict=True):
        whole = item["length"] - tokenizer.count_tokens(row["reference"]) - 1
        text = tokenizer.load().decode(prompt)
        assert row["truncated"] == max(0, whole - (512 - chat_answers.ANSWER_ROOM)) == whole - len(prompt)
        assert row["question"] in text and text.startswith(f"<|user|> {item['messages'][0]['content'][:8]}")
        lost = [fact for fact in sentences(row["reference"]) if fact not in text]
        assert (row["ceiling"] < 10) == bool(lost)
        assert row["score"] == 1 and (row["truncated"] or not lost)
    assert 10 < sum(row["truncated"] > 0 for row in rows) < 40
    assert any(row["ceiling"] < 10 for row in rows)


def test_the_longest_reference_and_more_fits_into_the_room_for_an_answer(chat_items):
    longest = max(tokenizer.count_tokens(item["messages"][-1]["content"]) for item in chat_items)
    assert longest + 16 <= chat_answers.ANSWER_ROOM, longest


# rows


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_item_gives_one_row_a_metric_within_its_bounds(model, name):
    drawn = list(items(name, SMALL, window=128))
    rows, told = score(model, name, drawn, window=128)
    assert {row["item"] for row in rows} == {item["id"] for item in drawn}
    assert len({(row["item"], row["metric"]) for row in rows}) == len(rows)
    cells = {item["id"]: (item["task"], item["cell"]) for item in drawn}
    for row in rows:
        assert list(row) == ["benchmark", "task", "length", "item", "metric", "value"]
        assert (row["task"], row["length"]) == cells[row["item"]] and row["benchmark"] == name
        assert 0 <= row["value"] <= BEST[row["metric"]]
    metrics = {row["metric"] for row in rows}
    assert metrics == {
        "longbench_chat": {"score"}, "short": {"exact_match", "fact_match", "accuracy"},
    }.get(name, {"exact_match", "fact_match"})  # fmt: skip
    assert metrics <= set(CHANCE)
    assert len(told) == (len(drawn) if name == "longbench_chat" else 0)


def test_a_model_that_answers_right_scores_ten_and_one_that_is_silent_scores_one(monkeypatch, model, chat_items):
    asked = chat_items[:5]
    replies = [tokenizer.load()(item["messages"][-1]["content"])["input_ids"] for item in asked]
    monkeypatch.setattr(chat_answers, "greedy", lambda *_, **__: replies)
    assert [row["value"] for row in score(model, "longbench_chat", asked, window=2048)[0]] == [10.0] * 5
    monkeypatch.setattr(chat_answers, "greedy", lambda *_, **__: [[]] * 5)
    rows, told = score(model, "longbench_chat", asked, window=2048)
    assert [row["value"] for row in rows] == [CHANCE["score"]] * 5
    assert list(told[0]) == ["item", "question", "reference", "answer", "score", "truncated", "ceiling"]


def test_a_model_that_learned_one_conversation_by_heart_scores_full_on_it_and_nothing_on_another():
    learner = new_model("mini-7b", vocab_size=len(tokenizer.load()), max_length=128, seed=0)
    drawn = items("short", Evaluation(short_per_task=2), window=128)
    known, other = (item for item in drawn if item["task"] == "multi-turn")
    encoded = chat.encode(known["messages"], tokenizer.load())
    ids, labels = (torch.from_numpy(x).long()[None] for x in (encoded.input_ids, encoded.labels))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        learner(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
    rows, _ = score(learner, "short", [known, other], window=128)
    values = {(row["item"], row["metric"]): row["value"] for row in rows}
    assert values[known["id"], "exact_match"] == values[known["id"], "fact_match"] == 1.0
    assert values[other["id"], "exact_match"] == 0.0
    assert learner.training


# tokenizers of other models


@pytest.mark.parametrize(
    "encode", [byte_tokenizer(), metaspace_tokenizer(), tokenizer.load()], ids=["byte", "metaspace", "own"]
)
@pytest.mark.parametrize("answer", ["it says no. it says words. follow.", "答案是这个。问题是什么。答案。"])
def test_a_fact_ends_where_its_mark_is_written_whatever_token_holds_the_mark(encode, answer):
    labels = chat.encode([user("what?"), assistant(answer)], encode).labels
    hits = np.ones(np.count_nonzero(labels[1:] != -100), dtype=bool)
    hits[0] = False
    assert fact_match(hits, labels, ends=fact_ends(labels, encode)) == pytest.approx(2 / 3)


def ended():
    """A tokenizer that puts its end token behind a text."""
    encode = byte_tokenizer()
    end = [("</s>", encode.eos_token_id)]
    encode.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    return encode


@pytest.mark.parametrize(("encode", "prompt", "language", "scored"), [
    (byte_tokenizer(), "the document", "en", [" says", " no"]),
    (byte_tokenizer(bos=True), "the document", "en", [" says", " no"]),
    (ended(), "the document", "en", [" says", " no"]),
    (metaspace_tokenizer(), "the document says", "en", ["s words", "s no"]),  # a token holds the prompt's end, too
    (WithoutOffsets(metaspace_tokenizer()), "the document says", "en", ["words", "no"]),
    (byte_tokenizer(), "问题是什么？答案是", "zh", ["答案是这个", "问题"]),
], ids=["byte", "start", "end", "▁", "slow", "zh"])  # fmt: skip
def test_all_of_an_option_and_nothing_behind_it_is_scored(encode, prompt, language, scored):
    options = {"en": ["says", "no"] if prompt == "the document" else ["words", "no"], "zh": ["这个", "问题"]}[language]
    item = {"form": "text", "language": language, "options": options,
            "messages": [{"content": prompt}, {"content": options[0]}]}  # fmt: skip
    found = [one["labels"][one["labels"] != -100] for one in option_sequences(item, window=512, encode=encode)]
    assert [encode.decode(ids).strip() for ids in found] == [text.strip() for text in scored]
