"""The published benchmarks: files read or refused by place, prompts that fit, answers, metrics, the miniature."""

import copy
import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from chat_tokenizers import byte_tokenizer
from longalign.clients.client import Asker
from longalign.clients.errors import Refused
from longalign.clients.local_model import LocalModel, load_tokenizer
from longalign.clients.reply_store import Replies, Reply, Request
from longalign.common import paths
from longalign.data.chat import encode_prompt
from longalign.data.chinese import language_of
from longalign.data.jsonl import DataError
from longalign.evals import rubric
from longalign.evals.benchmarks import answering, longbench, longbench_chat, mt_bench, needle, shipped, window
from longalign.evals.benchmarks.catalogue import BENCHMARKS
from longalign.evals.benchmarks.questions import MISSING, Answer, Question, read_answers, write
from longalign.evals.chat_answers import ANSWER_ROOM as ROOM
from longalign.evals.decoding import greedy
from longalign.evals.judges import judges
from longalign.evals.judges.prompts import SCALES
from longalign.experiments.evaluations import COLUMNS
from longalign.miniature import tokenizer as miniature
from longalign.train.models import load_model

BASE = paths.bases() / "mini-7b"
WORDS = miniature.load()
LONG = "Marlow leads. " * 300


def question(number=1, *, turns=("Who leads?",), most_tokens=16, **more):
    fields = {"benchmark": "mt_bench", "task": "t", "language": "en", "query": "Who?", "references": ("Calis.",)}
    return Question(id=f"q-{number}", turns=turns, most_tokens=most_tokens, **(fields | more))


def answer(text, reference, task, *, language="en", ordered=False):
    name = f"{task}-1"
    return Answer(name, name, "m", "longbench", task, language, 0, "?", (reference,), ordered, text, "stop", 0)


class Says:
    """A model that answers with what it was asked last, in capitals."""

    model = "echo"

    def __init__(self, refuse=()):
        self.asked, self.refuse = [], refuse

    def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        if request.label in self.refuse:
            raise Refused("too long")
        return Reply(request.messages[-1]["content"].upper(), prompt_tokens=3)


# ---- the shipped miniature, in the published formats -----------------------------------------------------------------


def test_the_shipped_files_are_those_that_the_generator_writes_now():
    folder = Path(shipped.__file__).parent / "data"
    for name, text in shipped.files().items():
        told = f"{name}: python -m longalign.evals.benchmarks.shipped"
        assert (folder / name).read_text(encoding="utf-8") == text, told


def test_the_miniature_of_longbench_chat_has_fifty_questions_ten_of_them_chinese_with_three_scored_answers():
    questions, examples = longbench_chat.questions(), longbench_chat.examples()
    assert len(questions) == 50 == len(examples) and sum(q.language == "zh" for q in questions) == 10
    for q in questions:
        shots = examples[q.id]
        assert len(shots) == 3 and all(1 <= score <= 10 for _, score in shots)
        assert q.turns[0].endswith(f"\n\n{q.query}")
        for text, score in shots:
            assert rubric.points(text, q.references[0], ordered=q.ordered) == score, "known by construction"
    assert len({score for shots in examples.values() for _, score in shots}) >= 6


def test_the_miniature_has_no_more_than_the_official_fields_and_two():
    rows = json.loads((longbench_chat.SHIPPED / "test_cases.json").read_text())
    assert all(set(row) == {"idx", "prompt", "query", "answer", "category", "ordered"} for row in rows)
    assert [row["idx"] for row in rows] == list(range(1, 51))


# ---- LongBench-Chat --------------------------------------------------------------------------------------------------


def official(folder, cases, shots=None):
    folder.mkdir(exist_ok=True)
    (folder / "test_cases.json").write_text(cases if isinstance(cases, str) else json.dumps(cases))
    if shots is not None:
        (folder / "few_shots.json").write_text(json.dumps(shots))
    return folder


CASE = {"idx": 1, "prompt": "Text.\n\nWho leads?", "query": "Who leads?", "answer": "Calis."}


def test_official_files_are_read_as_they_are(tmp_path):
    shots = [[{"answer": "a", "score": 10}, {"answer": "b", "score": "3"}, {"answer": "c", "score": 1.0}]]
    folder = official(tmp_path / "o", [CASE, {**CASE, "idx": 2, "query": "谁领头？"}], shots)
    first, second = longbench_chat.questions(folder)
    assert (first.id, first.language, first.task) == ("chat-1", "en", "longbench_chat") and second.language == "zh"
    assert longbench_chat.examples(folder) == {"chat-1": (("a", 10), ("b", 3), ("c", 1))}
    assert longbench_chat.template(folder) == ""
    (folder / "prompt_fs.txt").write_text("Rate {}")
    assert longbench_chat.template(folder) == "Rate {}"


@pytest.mark.parametrize(
    ("cases", "says"),
    [("[", "test_cases.json: not JSON"), ("{}", "not a list"), ([], "not a list"), (["x"], r"field \[0\].idx"),
     ([{**CASE, "answer": None}], r"field \[0\].answer: no question"),
     ([CASE, CASE], "test_cases.json: id occurs twice")],
)  # fmt: skip
def test_a_wrong_file_of_questions_is_refused_by_place(tmp_path, cases, says):
    with pytest.raises(DataError, match=says):
        longbench_chat.questions(official(tmp_path / "o", cases))


@pytest.mark.parametrize(
    ("shots", "says"),
    [([[{"answer": "a", "score": 3}]], "not three answers"),
     ([[{"answer": "a", "score": s} for s in (1, 2, 11)]], r"\[0\]\[2\]: no scored answer .*from 1 to 10"),
     ([[{"answer": "a", "score": s} for s in (1, 2.5, 3)]], r"\[0\]\[1\]: no scored answer")],
)  # fmt: skip
def test_wrong_scored_answers_are_refused_by_place(tmp_path, shots, says):
    with pytest.raises(DataError, match=says):
        longbench_chat.examples(official(tmp_path / "o", [CASE], shots))


def test_missing_official_files_are_told_with_the_command_that_brings_them(tmp_path):
    with pytest.raises(DataError, match="longalign fetch --benchmark longbench-chat"):
        longbench_chat.questions(tmp_path)


# ---- LongBench -------------------------------------------------------------------------------------------------------


def test_the_miniature_of_longbench_has_the_three_groups_and_both_languages():
    questions = longbench.questions()
    groups = {longbench.GROUP_OF[q.task.removeprefix(longbench.MINIATURE)] for q in questions}
    assert groups == set(longbench.GROUPS) and {q.language for q in questions} == {"en", "zh"}
    assert len({q.id for q in questions}) == len(questions) == 30


ROW = {"input": "Who leads?", "context": "Calis leads. {{input}} {{question}}", "answers": ["Calis"], "length": 3,
       "dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": "7"}  # fmt: skip


def rows_file(tmp_path, *rows):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_an_official_row_gets_the_official_prompt_and_a_document_is_no_template(tmp_path):
    (found,) = longbench.questions(rows_file(tmp_path, ROW))
    assert (found.id, found.most_tokens, found.references) == ("hotpotqa-7", 32, ("Calis",))
    prompt = found.turns[0]
    assert prompt.startswith("Answer the question based on the given passages.") and prompt.endswith("Answer:")
    assert prompt.count("Calis leads. {{input}} {{question}}") == 1 and prompt.count("Who leads?") == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [({**ROW, "dataset": "trec"}, "line 1, field dataset: unknown dataset .*narrativeqa"),
     ({**ROW, "answers": []}, "field answers: no reference"), ({**ROW, "context": 3}, "field context")],
)  # fmt: skip
def test_a_wrong_row_of_longbench_is_refused_by_line_and_field(tmp_path, row, says):
    with pytest.raises(DataError, match=says):
        longbench.questions(rows_file(tmp_path, row))


def test_datasets_of_other_groups_are_passed_over(tmp_path):
    for name in ("trec", "passage_retrieval_en", "repobench-p", "qasper_e"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    assert len(longbench.questions(rows_file(tmp_path, ROW))) == 1


def test_a_folder_without_rows_is_told_what_belongs_there(tmp_path):
    with pytest.raises(DataError, match="data.zip"):
        longbench.questions(tmp_path)


@pytest.mark.parametrize(
    ("task", "text", "reference", "metric", "value"),
    [("hotpotqa", "The Calis, he!", "calis he", "qa_f1_score", 100.0),  # articles, case and marks do not count
     ("hotpotqa", "Calis leads here", "Calis guards", "qa_f1_score", 40.0),  # 1 of 3 and 1 of 2 words: F1 = 0.4
     ("gov_report", "a b c d", "a b x d", "rouge_score", 75.0),  # longest common subsequence 3 of 4 and 4
     ("multifieldqa_zh", "王安领头", "王安领头", "qa_f1_zh_score", 100.0), ("qasper", "", "Calis", "qa_f1_score", 0.0)],
)  # fmt: skip
def test_the_official_metrics_give_what_is_reckoned_by_hand(task, text, reference, metric, value):
    (row,) = longbench.metrics([answer(text, reference, task)])
    assert row["metric"] == metric and row["value"] == pytest.approx(value, abs=0.01) and set(row) == set(COLUMNS)


def test_the_best_of_several_references_counts():
    several = Answer(**(vars(answer("Calis", "No", "qasper")) | {"references": ("No", "Calis")}))
    assert longbench.metrics([several])[0]["value"] == 100


def test_each_of_the_twelve_datasets_has_prompt_bound_metric_group_and_scale():
    for name, group in longbench.GROUP_OF.items():
        settings = longbench._settings(name)
        assert "{{context}}" in settings["prompt"] and settings["most_tokens"] >= 32
        made = answer("x", "x", name)
        assert longbench.group_of(made) == group and longbench.scale_of(made) in SCALES


# ---- MT-Bench --------------------------------------------------------------------------------------------------------


def test_the_second_turn_of_mt_bench_is_asked_with_the_first_answer(tmp_path):
    model = Says()
    with Replies(tmp_path / "r.jsonl") as file:
        answers, missing = answering.answer_all(mt_bench.questions()[:2], Asker(model, file))
    assert not missing and [a.id for a in answers] == ["mt-1-1", "mt-1-2", "mt-2-1", "mt-2-2"]
    second = model.asked[1].messages
    assert [m["role"] for m in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == answers[0].answer == second[0]["content"].upper()
    assert answers[1].query.startswith("User: ") and f"\n\nAssistant: {answers[0].answer}\n\nUser: " in answers[1].query
    assert answers[0].references == (mt_bench.questions()[0].references[0],)


@pytest.mark.parametrize(
    ("row", "says"),
    [({"question_id": "1", "turns": ["a"]}, "field question_id"), ({"question_id": 1, "turns": []}, "field turns"),
     ({"question_id": 1, "turns": "a"}, "field turns"),
     ({"question_id": 1, "turns": ["a"], "reference": 2}, "field reference")],
)  # fmt: skip
def test_a_wrong_row_of_mt_bench_is_refused(tmp_path, row, says):
    with pytest.raises(DataError, match=says):
        mt_bench.questions(rows_file(tmp_path, row) / "x.jsonl")


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


def rouge_of(answer, reference):
    said = Answer("n", "n", "m", "longbench", "gov_report", "en", 0, "?", (reference,), False, answer, "stop", 0)
    return longbench.metrics([said])[0]["value"]


def test_rouge_of_long_texts_without_a_full_stop_is_their_rouge_and_not_0():
    answer, reference = ("start " + " ".join(f"{letter}{i}" for i in range(500)) for letter in "ab")
    assert rouge_of(answer, reference) == pytest.approx(100 / 501, rel=1e-3)


def test_an_interrupt_within_rouge_is_no_answer_worth_0_points(monkeypatch):
    def interrupted(*texts, **options):
        raise KeyboardInterrupt

    assert rouge_of("...", "a word") == 0
    monkeypatch.setattr(longbench._functions().rouge._rouge, "get_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rouge_of("a word", "a word")


# ---- prompts that fit, answers in their file -------------------------------------------------------------------------


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


# ---- a model in this process -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local():
    return LocalModel(str(BASE))


def test_a_local_model_answers_as_the_miniatures_own_evaluation_does():
    prompts = [q.turns[0] for q in longbench_chat.questions() if len(q.turns[0]) < 1500][:4]
    assert prompts
    local = LocalModel(str(BASE), window=2048)  # they are longer than its own
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        said = local.ask(Request(messages, max_tokens=ROOM)).text
        import torch

        prompt = torch.from_numpy(encode_prompt(messages, WORDS)).long()
        own = WORDS.decode(greedy(load_model(BASE), [prompt], end=WORDS.eos_token_id, room=ROOM)[0])
        assert said == WORDS.decode(WORDS(own, add_special_tokens=False)["input_ids"], skip_special_tokens=True).strip()


def test_a_local_model_is_known_by_its_weights_and_has_its_window(local):
    assert local.model == LocalModel(str(BASE)).model != LocalModel(str(paths.bases() / "mini-6b")).model
    assert local.window == 128


def test_another_tokenizer_is_another_model(local, tmp_path):
    changed = copy.deepcopy(WORDS)
    changed.add_tokens(["<another>"])
    changed.save_pretrained(tmp_path)
    assert LocalModel(str(BASE), tokenizer=str(tmp_path)).model != local.model


def test_a_tokenizer_of_other_words_than_the_models_own_is_refused(tmp_path):
    shutil.copytree(BASE, tmp_path / "model")
    WORDS.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"--tokenizer .*other: token \d+ is '.+' there, and .* leave --tokenizer out"):
        LocalModel(str(tmp_path / "model"), tokenizer=str(tmp_path / "other"))


def test_a_prompt_that_the_model_cannot_read_is_refused_and_a_reply_ends_with_the_window(local, capsys):
    ask = [{"role": "user", "content": "Who guards? " * 8}]
    room = local.window - len(encode_prompt(ask, WORDS))
    assert 0 < local.ask(Request(ask, 10_000)).completion_tokens <= room
    with pytest.raises(Refused, match="a prompt of 153 tokens leaves no room for a reply: .* reads 128"):
        local.ask(Request([{"role": "user", "content": "Who guards? " * 50}], 8))
    short, strict = copy.copy(local), copy.deepcopy(WORDS)
    strict.chat_template, short.tokenizer = "{{ raise_exception('no system role') }}", strict
    with pytest.raises(Refused, match="mini-7b cannot be asked this: .*template refuses the messages .no system role"):
        short.ask(Request(ask, 8))
    changed = copy.deepcopy(WORDS)
    changed.add_tokens(["<another>"])
    short.tokenizer = changed
    with pytest.raises(Refused, match=r"is none of the [0-9,]+ that .* knows"):
        short.ask(Request([{"role": "user", "content": "<another>"}], 8))
    LocalModel(str(BASE), window=500)
    assert "--window 500: " in (told := capsys.readouterr().err) and "was made for 128 positions" in told


def test_remote_code_is_not_run_whoever_is_asked(tmp_path, monkeypatch):
    """Without a word transformers asks on the terminal, and a `y` that comes from anywhere runs the code."""
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        told = {"model_type": "evil", "auto_map": {key: "evil.Evil" if key == "AutoConfig" else ["evil.Evil", None]}}
        (tmp_path / name).write_text(json.dumps(told))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (lambda: LocalModel(str(tmp_path)), lambda: load_tokenizer(str(tmp_path))):
        with pytest.raises(ValueError, match="code of its own, which is not run here"):
            load()
    from longalign.experiments import evaluations

    with pytest.raises(Exception), evaluations.loaded(tmp_path):  # noqa: B017  whatever the library says of it
        pass
    assert not ran.exists()


def test_what_cannot_be_loaded_is_told_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--model ./nothing: there is no such folder"):
        LocalModel("./nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded"):
        LocalModel(str(tmp_path))
    with pytest.raises(ValueError, match="holds no tokenizer: name one"):
        load_tokenizer(str(tmp_path))


def test_every_benchmark_of_the_catalogue_reads_its_miniature_without_a_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("no network is needed"))
    for benchmark in BENCHMARKS.values():
        if benchmark.read:
            assert benchmark.read(benchmark.shipped)
