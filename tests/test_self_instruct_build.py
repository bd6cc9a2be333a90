"""Samples from one item: which question is drawn, how often an answer is tried, and what is no sample."""

import time

from fact_documents import FACTS, WORDS
from longalign.clients.reply_store import Reply
from longalign.miniature import tokenizer as miniature
from longalign.self_instruct import build
from longalign.self_instruct.documents import Document
from longalign.self_instruct.draw import TASKS, Item, draw


def item(task="general", seed=0):
    document = Document(" ".join(FACTS), "d.txt", "docs", "en", "MIT", "0" * 64)
    return Item("docs-0-0", document, document.text, 80, task, 0, seed)


class Scripted:
    """A teacher whose answers are given by question; what it was asked is kept."""

    name = "scripted"

    def __init__(self, answers, *, finish="stop"):
        self.answers, self.asked, self.finish = answers, [], finish

    def propose(self, _):
        return list(self.answers)

    def answer(self, _, question):
        self.asked.append(question)
        return Reply(self.answers[question], self.finish)


BOUNDS = build.Bounds(WORDS, max_length=400, words=20)
GOOD = {f"What is told of {name}?": FACTS[0] for name in ("one", "two", "three", "four", "five")}


def test_one_of_five_questions_is_drawn_by_the_items_seed_alone():
    drawn = {build.make(item(seed=seed), Scripted(GOOD), BOUNDS).sample["messages"][0]["content"].rsplit("\n\n")[-1]
             for seed in range(40)}  # fmt: skip
    assert drawn == set(GOOD)
    first = [build.make(item(seed=3), Scripted(GOOD), BOUNDS).sample for _ in range(2)]
    assert first[0] == first[1]


def test_a_document_that_is_taken_often_gives_no_sample_twice():
    """Five questions to each of four tasks make twenty samples; a teacher proposes the same ones every time."""
    document = item().document
    size = {"tokenizer": WORDS, "min_length": 1, "max_length": 400, "room": 100}
    items, _ = draw([document], count=24, **size)
    outcomes = build.build(items, Scripted(GOOD), BOUNDS)
    asked = [(o.item.task, o.sample["messages"][0]["content"]) for o in outcomes if o.sample]
    assert len(set(asked)) == len(asked)
    alone = {task: [o for o in outcomes if o.item.task == task] for task in TASKS}
    firsts = {task: [build.asked_in_turn(o.item, o.questions)[0] for o in some] for task, some in alone.items()}
    assert all(len(set(some[:5])) == 5 and some[5:] == some[:1] for some in firsts.values())


def test_of_samples_that_are_the_same_the_first_stays_and_the_others_are_told():
    made = build.build([item(seed=seed) for seed in range(12)], Scripted(GOOD), BOUNDS)
    kept = [outcome.sample["messages"][0]["content"] for outcome in made if outcome.sample]
    assert len(kept) == len(set(kept)) <= 5 and build.faults(made) == {"sample: the same as another": 12 - len(kept)}


def test_three_answers_are_tried_and_the_faults_of_all_are_kept():
    teacher = Scripted(dict.fromkeys(GOOD, ""))
    outcome = build.make(item(), teacher, BOUNDS)
    assert outcome.sample is None and outcome.faults == ("answer: empty",) * 3 and len(teacher.asked) == 3
    assert build.make(item(), Scripted({}), BOUNDS).faults == ("question: none in the reply",)
    assert build.make(item(), Scripted({"为什么？": "x"}), BOUNDS).faults == ("question: other language",)
    assert build.make(item(), Scripted(GOOD, finish="length"), BOUNDS).faults[0] == "answer: cut off"


def test_a_sample_over_the_maximum_length_is_not_made():
    small = build.Bounds(WORDS, max_length=60, words=20)
    assert set(build.make(item(), Scripted(GOOD), small).faults) == {"answer: over the maximum length"}


def test_one_thread_at_a_time_counts_tokens(monkeypatch):
    """A tokenizer remembers how it was asked last: threads gave each other's text other tokens."""
    inside, most = [], []

    def encode(*_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return encode_as_ever(item_messages, WORDS)

    encode_as_ever, item_messages = build.chat.encode, [{"role": "user", "content": "?"},
                                                        {"role": "assistant", "content": "!"}]  # fmt: skip
    monkeypatch.setattr(build.chat, "encode", encode)
    build.build([item(seed=seed) for seed in range(8)], Scripted(GOOD), BOUNDS, at_once=4)
    assert len(most) == 8 and max(most) == 1


def test_a_sample_that_cannot_become_tokens_names_its_own_fault():
    deaf = miniature.load.__wrapped__()
    deaf.chat_template = "{{ raise_exception('none of this') }}"
    deaf_bounds = build.Bounds(deaf, max_length=400, words=20)
    assert set(build.make(item(), Scripted(GOOD), deaf_bounds).faults) == {"answer: template refuses the messages"}
