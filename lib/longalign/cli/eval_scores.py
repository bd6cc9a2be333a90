"""The second step of longalign eval: answers.jsonl to a judge, its judgments and all scores to files and a table."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longalign.cli import asking
from longalign.cli.eval import EvalOptions
from longalign.cli.eval_answers import DERIVED, check_benchmark
from longalign.cli.parsing import fail
from longalign.clients import connect
from longalign.clients.errors import THOUGHTS_ALONE
from longalign.common import provenance
from longalign.data.jsonl import DataError
from longalign.evals.benchmarks import longbench, longbench_chat
from longalign.evals.benchmarks.catalogue import BENCHMARKS, Benchmark
from longalign.evals.benchmarks.questions import MISSING, Answer, evenly, read_answers, write
from longalign.evals.judges import judges, scoring
from longalign.evals.judges.prompts import SCALES, check_template
from longalign.experiments.evaluations import COLUMNS

Rows = list[dict[str, Any]]
KEPT = "short.json"
"""The items of the short tasks that are done, and a hash of what they were made with: a task is not computed twice."""


def run(options: EvalOptions) -> int:
    """Judge and score what is in the folder; returns how many judgments hold no rating."""
    answers, benchmark = list(read_answers(options.out / "answers.jsonl")), BENCHMARKS[options.benchmark]
    for answer in answers:
        check_benchmark(answer, options)
    if len(models := sorted({answer.model for answer in answers})) > 1:
        fail(f"{options.out / 'answers.jsonl'} holds answers of several models ({', '.join(models)}): give each a "
             "folder of its own")  # fmt: skip
    there = [answer for answer in answers if answer.finish != MISSING]
    if not there:
        fail(f"no question in {options.out / 'answers.jsonl'} has an answer: there is nothing to score")
    tables = _by_metric(_exact(options, benchmark, answers))
    judgments = _judgments(options, there, benchmark) if options.judge else []
    if judgments is None:
        return 0
    if judgments:
        tables[benchmark.metric] = _rated(there, judgments, benchmark)
    if not tables:
        print("the answers are not judged yet: give --judge")
        return 0
    _write(options, answers, tables, judgments)
    return len(answers) - len(there) + sum(judgment.rating is None for judgment in judgments)


def _exact(options: EvalOptions, benchmark: Benchmark, answers: list[Answer]) -> Rows:
    try:
        return benchmark.exact(answers)
    except DataError as error:
        raise error.at(options.out / "answers.jsonl") from None


def short(options: EvalOptions) -> None:
    """ARC, HellaSwag, TruthfulQA and MMLU by lm-evaluation-harness: scores of all items, means on the screen."""
    if (options.out / "answers.jsonl").is_file():
        fail(f"{options.out} holds answers of another benchmark: name another folder")
    with provenance.alone(options.out / ".short.lock", wait=False):
        _short(options)


def _short(options: EvalOptions) -> None:
    from longalign.clients.local_model import LocalModel
    from longalign.evals.benchmarks import harness

    model = LocalModel(options.model, tokenizer=options.tokenizer, window=options.window)
    asking.tell_borrowed(model)
    place = options.out / KEPT
    rows: Rows = []
    made_with = provenance.config_hash({
        "model": model.model, "window": model.window, "limit": options.limit, "data": _hash_of(options.data),
        "versions": provenance.versions(("longalign", "lm_eval", "torch", "transformers")),
    })  # fmt: skip
    kept = _kept(place, made_with)
    if kept:
        print(f"longalign: {', '.join(kept)}: scored already, and not computed again ({place})", file=sys.stderr)
    for task in harness.SHORT_TASKS:  # each is on the disk when it is done
        scored = kept[task] if task in kept else _one_short(options, model, task)
        if not rows:
            _remove_derived(options.out)
        rows += scored
        if task not in kept:
            kept[task] = scored
            provenance.write_json(place, {"made_with": made_with, "tasks": kept})
        means = harness.means(rows)
        print(f"{task:12} {means[task]:6.1f} %", flush=True)
        provenance.write_csv(options.out / "items.csv", rows, columns=COLUMNS)
    config = options.record() | {"model": model.model}
    provenance.write_record(options.out / "summary.json", config=config, results={"percent": means})


def _kept(place: Path, made_with: str) -> dict[str, Rows]:
    """The rows of the tasks that an earlier command, the same one, has finished."""
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        tasks = told["tasks"] if told["made_with"] == made_with else {}
        return {task: [row | {"value": float("nan" if row["value"] is None else row["value"])} for row in rows]
                for task, rows in tasks.items()}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _hash_of(data: Path | None) -> str:
    """Of the names and contents of a folder's files; "" of none."""
    files = sorted(path for path in data.rglob("*") if path.is_file()) if data else []
    return provenance.config_hash({str(path.relative_to(data)): provenance.file_sha256(path) for path in files})


def _remove_derived(out: Path) -> None:
    """Those there are of another model; they stay until this one has scores."""
    for name in DERIVED:
        (out / name).unlink(missing_ok=True)


def _one_short(options: EvalOptions, model: Any, task: str) -> Rows:
    from longalign.evals.benchmarks import harness

    try:
        return harness.evaluate(
            model.loaded, model.tokenizer, tasks=(task,), data=options.data, limit=options.limit,
            max_length=model.window,
        )  # fmt: skip
    except OSError as error:
        fail(f"{task}: {' '.join(str(error).split())[:200]}: check the connection, or name files with --data")


def check_judge(options: EvalOptions) -> None:
    """Leaves where the judge that is named cannot be asked, or has not what it is shown."""
    connect.check(options.judge, role="judge", name=options.judge_name)
    if options.benchmark == "longbench-chat" and not options.zero_shot:
        folder = options.data or longbench_chat.SHIPPED
        asked = longbench_chat.questions(folder)
        _shots(folder, [question.id for question in evenly(asked, options.limit or len(asked))])
        if template := _template(options):
            check_template(template)


def _judgments(
    options: EvalOptions, answers: Sequence[Answer], benchmark: Benchmark
) -> list[judges.Judgment] | None:
    """The judgments, written; None where nothing was to be asked (--dry-run)."""
    cases = judges.cases_of(answers, benchmark.scale, _examples(options, answers))
    if options.judge == "rubric":
        found = judges.judge_all(cases, judges.Rubric(), runs=1)
    else:
        with asking.open_asker(options, "judge", options.out / "judge.replies.jsonl") as asker:
            judge = judges.ModelJudge(
                asker, seed=options.seed, few_shot=not options.zero_shot, template=_template(options)
            )
            wanted = [judge.request(case, run) for run in range(options.runs) for case in cases]
            counted = [(request, asking.count_tokens(request.messages)) for request in wanted]
            asking.tell("judge", asking.estimate(asker, counted), options)
            asking.tell_borrowed(asker.server)
            if options.dry_run:
                return None
            found = judges.judge_all(cases, judge, runs=options.runs, asker=asker, at_once=options.at_once)
        if any(judgment.problem == THOUGHTS_ALONE for judgment in found):
            asking.advise_on_thoughts("judge")
    place, unheard = options.out / "judgments.jsonl", [one.problem.startswith(judges.UNHEARD) for one in found]
    if place.is_file() and unheard and all(unheard):
        fail(f"the judge rated no answer ({found[0].problem}): judgments and scores that are in {options.out} stay")
    write(place, found)
    return found


def _examples(options: EvalOptions, answers: Sequence[Answer]) -> dict[str, Any] | None:
    """LongBench-Chat's scored answers, by the answers' ids; None where no judge sees them."""
    if options.benchmark != "longbench-chat" or options.zero_shot or options.judge == "rubric":
        return None
    folder = options.data or longbench_chat.SHIPPED
    found = _shots(folder, [answer.id for answer in answers])
    asked = {question.id: (question.query, question.references) for question in longbench_chat.questions(folder)}
    if other := [answer.id for answer in answers if asked.get(answer.id) != (answer.query, answer.references)]:
        fail(f"{folder / longbench_chat.CASES} asks something else in {other[0]} than was answered in {options.out}: "
             "name the folder with --data that was named for the answers")  # fmt: skip
    return found


def _shots(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    found = longbench_chat.examples(folder)
    if without := [name for name in names if name not in found]:
        fail(f"{folder / longbench_chat.SHOTS} has no scored answers to {without[0]}: name its own folder with --data")
    return found


def _template(options: EvalOptions) -> str:
    return longbench_chat.template(options.data) if options.benchmark == "longbench-chat" and options.data else ""


def _rated(answers: Sequence[Answer], judgments: Sequence[judges.Judgment], benchmark: Benchmark) -> Rows:
    rows = scoring.item_rows(answers, judgments, metric=benchmark.metric)
    if not benchmark.percent:
        return rows
    scales = {answer.id: SCALES[benchmark.scale(answer)] for answer in answers}
    return [row | {"value": longbench.scaled(row["value"], scales[row["item"]].lowest, scales[row["item"]].highest)}
            for row in rows]  # fmt: skip


def _by_metric(rows: Rows) -> dict[str, Rows]:
    tables: dict[str, Rows] = {}
    for row in rows:
        tables.setdefault(row["metric"], []).append(row)
    return tables


def _write(
    options: EvalOptions, answers: Sequence[Answer], tables: dict[str, Rows], judgments: Sequence[judges.Judgment]
) -> None:
    problems = scoring.problems(judgments)
    results: dict[str, Any] = {"without a rating": problems}
    benchmark = BENCHMARKS[options.benchmark]
    for metric, rows in tables.items():
        # a string metric is of some datasets only; what has no answer counts as missing in each of its metrics
        mine = [answer for answer in answers if metric in (benchmark.metric, benchmark.exact_metric(answer))]
        means = scoring.by_group(mine, rows, benchmark.group)
        results[metric] = [dataclasses.asdict(mean) for mean in means]
        print(f"\n{options.benchmark}, {metric}\n{scoring.table(means)}")
    if problems:
        print("judgments without a rating: " + ", ".join(f"{count} ({why})" for why, count in sorted(problems.items())))
    if unheard := [judgment.problem for judgment in judgments if judgment.problem.startswith(judges.UNHEARD)]:
        print(f"longalign: {' '.join(unheard[0].split())}", file=sys.stderr)
    provenance.write_csv(options.out / "items.csv", [row for rows in tables.values() for row in rows], columns=COLUMNS)
    named = {"answered by": answers[0].model, "judged by": judgments[0].judge if judgments else None}
    provenance.write_record(
        options.out / "summary.json", config=options.record(), results=results, seeds=[options.seed], **named,
        data_hash=provenance.hash_files(options.out / "answers.jsonl"),
    )  # fmt: skip
