"""lm-evaluation-harness asks with the leaderboard's examples and scores as we do by hand, offline on local files."""

import copy
import json
import random
import shutil
import socket
from types import SimpleNamespace

import datasets
import pytest
import torch
from lm_eval import evaluator
from lm_eval.models import huggingface
from tokenizers import processors

from conftest import tiny_llama
from longalign.data.jsonl import DataError
from longalign.evals.benchmarks import harness
from longalign.evals.benchmarks.harness import SHIPPED, SHORT_TASKS, evaluate, means
from longalign.experiments.evaluations import COLUMNS
from longalign.miniature import tokenizer

ITEMS = {"arc": 10, "hellaswag": 10, "truthfulqa": 10, "mmlu-astronomy": 8, "mmlu-global_facts": 8}
LEADERBOARD = {"arc": 25, "hellaswag": 10, "truthfulqa": 0, "mmlu-astronomy": 5, "mmlu-global_facts": 5}


@pytest.fixture(scope="module")
def model():
    return tiny_llama(attention="sdpa", dtype=torch.float32, vocab_size=len(tokenizer.load()), initializer_range=0.15)


@pytest.fixture
def data(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "data")


def watch(patch):
    """What the harness returns, and what its model is made with; whoever opens a connection fails."""
    seen = SimpleNamespace(results=[], made=[])
    ask, make = evaluator.evaluate, huggingface.HFLM.__init__

    def asked(*args, **kwargs):
        seen.results.append(ask(*args, **kwargs))
        return seen.results[-1]

    def made(self, *args, **kwargs):
        seen.made.append(kwargs)
        make(self, *args, **kwargs)

    def refused(*args, **kwargs):
        raise AssertionError(f"tried to reach the network: {args}")

    patch.setattr(evaluator, "evaluate", asked)
    patch.setattr(huggingface.HFLM, "__init__", made)
    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "create_connection"):
        patch.setattr(socket, name, refused)
    return seen


@pytest.fixture(scope="module")
def run(model):
    """All short tasks on the shipped files, without a network."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        rows = evaluate(model, tokenizer.load(), data=SHIPPED)
    (results,), (made,) = seen.results, seen.made
    return SimpleNamespace(rows=rows, samples=results["samples"], results=results, made=made)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def log_likelihood(model, context, answer):
    """In nats, of the answer's tokens after the context's, from the logits of one sequence in fp64."""
    encode = tokenizer.load()
    before, ids = len(encode(context)["input_ids"]), encode(context + answer)["input_ids"]
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return sum(scores[place - 1, ids[place]].item() for place in range(before, len(ids)))


def best(values):
    return max(range(len(values)), key=values.__getitem__)


def test_every_item_gets_one_row_with_the_columns_of_all_evaluations(run):
    assert all(tuple(row) == COLUMNS for row in run.rows)
    names = [(row["task"], row["item"]) for row in run.rows]
    assert names == [(task, f"{task}-{place}") for task, count in ITEMS.items() for place in range(count)]
    assert {(row["benchmark"], row["length"]) for row in run.rows} == {("short_tasks", 0)}
    metrics = {row["task"].split("-")[0]: row["metric"] for row in run.rows}
    assert metrics == {"arc": "acc_norm", "hellaswag": "acc_norm", "truthfulqa": "mc2", "mmlu": "acc"}
    assert all(row["value"] in (0, 1) for row in run.rows if row["metric"] != "mc2")
    shares = [row["value"] for row in run.rows if row["metric"] == "mc2"]
    assert all(0 <= share <= 1 for share in shares) and any(0.001 < share < 0.999 for share in shares)


def test_the_numbers_of_examples_are_the_leaderboards(run):
    assert run.results["n-shot"] == LEADERBOARD
    assert {name: config["num_fewshot"] for name, config in run.results["configs"].items()} == LEADERBOARD


@pytest.mark.parametrize("task", ITEMS)
def test_the_prompt_holds_that_many_examples_before_the_item(run, task):
    start, own = {"arc": ("Question: ", 0), "hellaswag": ("", 0), "truthfulqa": ("Q: ", 6)}.get(task, ("", 1))
    for sample in run.samples[task]:
        for prompt, _ in sample["arguments"]:
            parts = prompt.split("\n\n")
            assert len(parts) == own + LEADERBOARD[task] + 1
            assert all(part.startswith(start) for part in parts)


def test_arcs_prompts_and_scores_are_those_that_the_harness_documents(run, model):
    train, test = read(SHIPPED / "arc/train.jsonl"), read(SHIPPED / "arc/test.jsonl")
    drawn, values, by_sum = random.Random(1234), [], []
    for item, sample in zip(test, run.samples["arc"], strict=True):
        shown = [(row, row["choices"]["text"]["ABCD".index(row["answerKey"])]) for row in drawn.sample(train, 25)]
        prompt = "".join(f"Question: {row['question']}\nAnswer: {answer}\n\n" for row, answer in shown)
        prompt += f"Question: {item['question']}\nAnswer:"
        choices, right = item["choices"]["text"], "ABCD".index(item["answerKey"])
        assert [tuple(pair) for pair in sample["arguments"]] == [(prompt, " " + choice) for choice in choices]
        sums = [log_likelihood(model, prompt, " " + choice) for choice in choices]
        assert [pair[0] for pair in sample["filtered_resps"]] == pytest.approx(sums, abs=1e-3)
        values.append(float(best([total / len(choice) for total, choice in zip(sums, choices, strict=True)]) == right))
        by_sum.append(float(best(sums) == right))
    assert [row["value"] for row in run.rows if row["task"] == "arc"] == values
    assert set(values) == {0.0, 1.0} and values != by_sum


def test_the_other_tasks_scores_follow_from_the_likelihoods_of_their_answers(run, model):
    for task in ("truthfulqa", "mmlu-astronomy"):
        told = [row["value"] for row in run.rows if row["task"] == task]
        for value, sample in zip(told, run.samples[task], strict=True):
            sums = torch.tensor([log_likelihood(model, *pair) for pair in sample["arguments"]], dtype=torch.float64)
            if task == "truthfulqa":
                true = torch.tensor(sample["doc"]["mc2_targets"]["labels"]) == 1
                assert value == pytest.approx(sums.softmax(0)[true].sum().item(), abs=1e-3)
            else:
                assert value == float(best(sums.tolist()) == sample["doc"]["answer"])


def test_items_that_are_read_together_score_as_each_alone(run, model):
    rows = evaluate(model, tokenizer.load(), data=SHIPPED, tasks=["mmlu", "hellaswag", "truthfulqa"], batch_size=4)
    alone = {row["item"]: row["value"] for row in run.rows if row["task"] != "arc"}
    assert {row["item"]: row["value"] for row in rows} == pytest.approx(alone, abs=1e-4)


def test_no_code_of_others_is_run(run):
    assert run.made["trust_remote_code"] is False
    assert not any("trust_remote_code" in str(config) for config in run.results["configs"].values())


def test_nothing_is_written_printed_or_left_changed(model, capfd):
    cache = datasets.config.HF_DATASETS_CACHE
    before, state = sorted(cache.rglob("*")), (random.getstate(), torch.get_rng_state().tolist())
    model.train()
    evaluate(model, tokenizer.load(), data=SHIPPED, limit=1)
    assert model.training and (random.getstate(), torch.get_rng_state().tolist()) == state
    assert sorted(cache.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_a_limit_takes_the_first_items_and_leaves_their_scores(run, model):
    rows = evaluate(model, tokenizer.load(), data=str(SHIPPED), tasks=("arc", "mmlu", "arc"), limit=2)
    first = [row for row in run.rows if row["item"].endswith(("-0", "-1"))]
    assert rows == [row for row in first if row["task"] not in ("hellaswag", "truthfulqa")]


def test_a_prompt_that_is_cut_is_told(model):
    with pytest.warns(UserWarning, match="^prompts of 2 items are longer than the model may read: their start was cut"):
        evaluate(model, tokenizer.load(), data=SHIPPED, tasks=["arc"], limit=2, max_length=500)


def test_a_prompt_is_cut_by_its_tokens_whichever_of_its_answers_has_most_letters(model, data):
    """The longer answer is of known words, the other of more tokens."""
    encode = tokenizer.load()
    row = read(data / "truthfulqa/validation.jsonl")[0]
    row["mc2_targets"] = {"choices": ["Marlow guards Marlow", "q x z q x z"], "labels": [1, 0]}
    (data / "truthfulqa/validation.jsonl").write_text(json.dumps(row) + "\n")
    known = evaluate_samples(model, encode, data)
    lengths = [len(encode("".join(pair))["input_ids"]) for pair in known]
    assert lengths[0] < lengths[1] and len(known[0][1]) > len(known[1][1])
    with pytest.warns(UserWarning, match="^prompts of 1 items"):
        evaluate(model, encode, data=data, tasks=["truthfulqa"], max_length=lengths[1] - 2)


def evaluate_samples(model, encode, data):
    """The pairs of prompt and answer of the first item of TruthfulQA."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        evaluate(model, encode, data=data, tasks=["truthfulqa"], limit=1)
    return [tuple(pair) for pair in seen.results[0]["samples"]["truthfulqa"][0]["arguments"]]


def test_an_answer_that_does_not_fit_in_the_window_is_refused(model):
    with pytest.raises(DataError, match=r"^no room for an answer \('.*' takes \d+ tokens, and the model reads 4; take"):
        evaluate(model, tokenizer.load(), data=SHIPPED, tasks=["truthfulqa"], max_length=4)


def test_what_a_tokenizer_puts_behind_every_text_is_no_answer(run, model):
    ending = copy.deepcopy(tokenizer.load())
    end = ("<|end|>", ending.convert_tokens_to_ids("<|end|>"))
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[end])
    assert ending("a")["input_ids"][-1] == end[1]
    rows = evaluate(model, ending, data=SHIPPED, tasks=["mmlu", "truthfulqa"])
    alone = {row["item"]: row["value"] for row in run.rows if row["metric"] in ("acc", "mc2")}
    assert {row["item"]: row["value"] for row in rows} == pytest.approx(alone, abs=1e-6)


def test_means_are_in_percent_and_count_every_subject_once(run):
    def mean(task):
        values = [row["value"] for row in run.rows if row["task"] == task]
        return 100 * sum(values) / len(values)

    scores = means([*run.rows, {**run.rows[0], "benchmark": "another"}])
    assert list(scores) == list(SHORT_TASKS)
    assert scores == pytest.approx({
        **{task: mean(task) for task in ("arc", "hellaswag", "truthfulqa")},
        "mmlu": (mean("mmlu-astronomy") + mean("mmlu-global_facts")) / 2,
    })  # fmt: skip


def test_without_a_folder_the_harness_loads_the_published_sets_with_the_same_settings(run, model, monkeypatch):
    asked = []

    def load(path, name=None, **more):
        asked.append((path, name, more))
        task = {"ai2_arc": "arc", "hellaswag": "hellaswag", "truthful_qa": "truthfulqa"}.get(path.split("/")[1], "mmlu")
        return harness._splits(task=task, folder=str(SHIPPED / {"mmlu": "mmlu/astronomy"}.get(task, task)))

    seen = watch(monkeypatch)
    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = evaluate(model, tokenizer.load(), limit=1)
    published = {
        "allenai/ai2_arc": "ARC-Challenge",
        "Rowan/hellaswag": None,
        "truthfulqa/truthful_qa": "multiple_choice",
    }
    assert dict(one[:2] for one in asked[:3]) == published and not any(more for _, _, more in asked)
    assert {one[0] for one in asked[3:]} == {"cais/mmlu"} and len({one[1] for one in asked[3:]}) == 57
    assert len([row for row in rows if row["task"].startswith("mmlu-")]) == 57
    configs = seen.results[0]["configs"]
    for task, config in run.results["configs"].items():
        assert config.keys() - configs[task].keys() == {"custom_dataset", "dataset_kwargs"}
        assert {name: config[name] for name in configs[task]} == configs[task]


def refused(model, **asked):
    with pytest.raises(ValueError) as error:
        evaluate(model, tokenizer.load(), **asked)
    return str(error.value)


def test_an_unknown_task_and_a_limit_of_none_are_refused(model):
    told = "unknown short task 'gsm8k': there are arc, hellaswag, truthfulqa, mmlu"
    assert refused(model, data=SHIPPED, tasks=["arc", "gsm8k"]) == told
    assert refused(model, data=SHIPPED, limit=0) == "limit is 0: give a number of items from 1, or None for all"


@pytest.mark.parametrize(
    ("file", "keep", "told"),
    [
        ("arc/train", 24, "it holds 24 rows; the leaderboard's 25 examples need 25"),
        ("hellaswag/train", 10, "it holds 10 rows; the leaderboard's 10 examples need 11"),
        ("mmlu/global_facts/dev", 4, "it holds 4 rows; the leaderboard's 5 examples need 5"),
    ],
)
def test_too_few_examples_are_told_with_their_file(model, data, file, keep, told):
    path = data / f"{file}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    assert refused(model, data=data) == f"{path}: too few examples ({told})"


def test_a_missing_file_or_folder_is_told(model, data):
    advice = "put the split there as JSON lines, or give no data to load the Hub's"
    assert refused(model, data=data / "x", tasks=["arc"]) == f"{data}/x/arc/train.jsonl: no such file ({advice})"
    (data / "mmlu/astronomy/test.jsonl").unlink()
    assert refused(model, data=data) == f"{data}/mmlu/astronomy/test.jsonl: no such file ({advice})"
    (data / "mmlu/alchemy").mkdir()
    assert refused(model, data=data) == f"{data}/mmlu/alchemy: unknown subject (it is none of MMLU's 57)"
    shutil.rmtree(data / "mmlu")
    told = "no subjects (make folders named as astronomy with dev.jsonl and test.jsonl)"
    assert refused(model, data=data) == f"{data}/mmlu: {told}"


PAIRS = {"text": ["a", "b"], "label": ["A", "B"]}
WRONG = [
    ("arc/test", "question", "\ud800", "a text"),
    ("arc/test", "choices", {**PAIRS, "label": ["A"]}, '{"text": [...], "label": [...]}'),
    ("arc/test", "choices", ["a", "b"], '{"text": [...], "label": [...]}'),
    ("arc/train", "answerKey", "E", "one of the labels"),
    ("hellaswag/train", "ctx_b", None, 'a text or ""'),
    ("hellaswag/validation", "endings", ["one", " "], "a list of texts"),
    ("hellaswag/validation", "label", 3, 'a string, "0" for the first'),
    ("truthfulqa/validation", "mc2_targets", {"choices": ["a", "b"], "labels": ["1", "0"]},
     '{"choices": [...], "labels": [...]}, 1 for each true text and 0 for each other'),
    ("mmlu/astronomy/dev", "choices", ["a", "b", "c"], "a list of four texts"),
    ("mmlu/astronomy/test", "answer", True, "0, 1, 2 or 3"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "field", "value", "form"), WRONG)
def test_a_wrong_or_missing_field_is_told_with_its_line(model, data, file, field, value, form):
    path = data / f"{file}.jsonl"
    first, second, *rest = read(path)
    place = f"{path}, line 2, field {field}"
    for changed, reason in (({**second, field: value}, "wrong"), ({**second}, "missing")):
        if reason == "missing":
            changed.pop(field)
        path.write_text("".join(json.dumps(row) + "\n" for row in (first, changed, *rest)))
        task = file.split("/")[0]
        assert refused(model, data=data, tasks=[task]) == f"{place}: {reason} field (it must be {form})"


def test_a_line_that_is_no_json_is_told(model, data):
    with open(data / "truthfulqa/validation.jsonl", "a") as file:
        file.write("{'question'\n")
    with pytest.raises(DataError, match="validation.jsonl, line 11: malformed JSON"):
        evaluate(model, tokenizer.load(), data=data)
