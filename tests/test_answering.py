"""Asking a benchmark's questions: prompts that fit, what is refused and asked again, answers in their file."""

import time

import pytest

from benchmark_answers import WORDS, Says, answer
from chat_tokenizers import byte_tokenizer
from longalign.clients.client import Asker
from longalign.clients.reply_store import Replies, Reply
from longalign.data.chat import encode_prompt
from longalign.data.chinese import language_of
from longalign.data.jsonl import DataError
from longalign.evals.benchmarks import answering, longbench, longbench_chat, needle, window
from longalign.evals.benchmarks.questions import MISSING, Answer, Question, read_answers, write
from longalign.evals.judges import judges

LONG = "Marlow leads. " * 300


def question(number=1, *, turns=("Who leads?",), most_tokens=16, **more):
    fields = {"benchmark": "mt_bench", "task": "t", "language": "en", "query": "Who?", "references": ("Calis.",)}
    return Question(id=f"q-{number}", turns=turns, most_tokens=most_tokens, **(fields | more))


def test_one_thread_at_a_time_cuts_prompts(tmp_path, monkeypatch):
    """A tokenizer remembers how it was asked last: threads gave each other's text other tokens."""
    inside, most = [], []

    def fit(messages, *_, **__):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return messages, 0

    class Yes:
        model = "yes"

        def ask(self, _):
            return Reply("yes")

    monkeypatch.setattr(answering.windows, "fit", fit)
    with Replies(tmp_path / "r.jsonl") as file:
        answering.answer_all(longbench_chat.questions()[:8], Asker(Yes(), file), tokenizer=WORDS, window=512, at_once=4)
    assert len(most) == 8 and max(most) == 1


def test_what_was_not_answered_is_neither_scored_nor_judged():
    """Its text is the reason, which may even hold the answer."""
    told = "a prompt of 4 tokens leaves no room: eat a sandwich"
    for task, score in (("needle", needle.exact), ("qasper", longbench.metrics)):
        given = ("m", "any", task, "en", 64, "?", ("eat a sandwich",), False, told)
        there, missing = (Answer(name, name, *given, finish, 0) for name, finish in (("a", "stop"), ("b", MISSING)))
        assert [row["item"] for row in score([there, missing])] == ["a"]
        assert [case.answer.id for case in judges.cases_of([there, missing], lambda _: "qa")] == ["a"]


@pytest.mark.parametrize("room", [60, 200, 650, 900])
def test_a_prompt_loses_its_middle_and_keeps_both_ends_and_what_is_left_fits(room):
    text = f"FIRST {LONG}Barvik adores a lantern. {LONG}Who leads?"
    (message,), cut = window.fit([{"role": "user", "content": text}], WORDS, window=room + 16, reserve=16)
    kept = message["content"]
    assert len(encode_prompt([message], WORDS)) <= room and cut > 0
    assert len(encode_prompt([message], WORDS)) >= room - 2, "no more is cut than must be"
    half = len(kept) // 3
    assert text.startswith(kept[:half]) and text.endswith(kept[-half:]) and kept.endswith("Who leads?")


def test_a_prompt_that_fits_is_left_alone_and_one_that_cannot_is_refused():
    messages = [{"role": "user", "content": "Who leads?"}]
    assert window.fit(messages, WORDS, window=100, reserve=64) == (messages, 0)
    with pytest.raises(DataError, match="no room for its answer .*larger window"):
        window.fit([{"role": "user", "content": LONG}], WORDS, window=64, reserve=60)


def test_of_a_text_without_an_end_of_its_own_the_instruction_is_left_where_there_is_room_for_nothing_else():
    text = "Sum this up in ten short sentences, with all of its names.\n" + "x" * 900 * 6
    tokenizer = byte_tokenizer()
    frame = len(encode_prompt([{"role": "user", "content": ""}], tokenizer))
    (message,), cut = window.fit([{"role": "user", "content": text}], tokenizer, window=frame + 18, reserve=0)
    assert cut and text.startswith(message["content"]) and message["content"].startswith("Sum this up")


def test_an_answer_has_a_sixteenth_of_the_window_at_most():
    ((request, cut),) = answering.requests([question(most_tokens=512)], tokenizer=WORDS, window=1024)
    assert (request.max_tokens, cut) == (64, 0)
    ((request, _),) = answering.requests([question(most_tokens=512)])
    assert request.max_tokens == 512


def test_what_is_refused_is_missing_and_a_second_run_asks_for_it_alone(tmp_path):
    questions = [question(i, turns=(f"say {i}",)) for i in range(4)]
    with Replies(tmp_path / "r.jsonl") as file:
        answers, missing = answering.answer_all(questions, Asker(Says(refuse=("q-2",)), file))
    assert [(a.id, a.finish == MISSING) for a in answers] == [(f"q-{i}", i == 2) for i in range(4)]
    assert missing[0][0] == "q-2" and "too long" in answers[2].answer
    second = Says()
    with Replies(tmp_path / "r.jsonl") as file:
        answers, missing = answering.answer_all(questions, Asker(second, file))
    assert MISSING not in {a.finish for a in answers} and not missing and [r.label for r in second.asked] == ["q-2"]


def test_answers_are_read_as_they_were_written_and_another_file_is_refused(tmp_path):
    made = [answer("Calis, 王安。\nNew line", "Calis", name) for name in ("qasper", "hotpotqa")]
    assert list(read_answers(write(tmp_path / "a.jsonl", made))) == made
    write(tmp_path / "twice.jsonl", [made[0], made[0]])
    with pytest.raises(DataError, match="twice.jsonl, line 2, field id: id occurs twice"):
        list(read_answers(tmp_path / "twice.jsonl"))
    (tmp_path / "other.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(DataError, match="other.jsonl, line 1, field id: no answer"):
        list(read_answers(tmp_path / "other.jsonl"))


def test_the_language_of_a_question_is_by_its_letters():
    assert language_of("用 GPU 训练模型") == "zh" and language_of("Who is 王安, please?") == "en" == language_of("123")
