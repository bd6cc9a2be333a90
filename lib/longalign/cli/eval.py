"""longalign eval BENCHMARK: a model's answers, their judgments, their scores; each step is a file, made once.

    answers.jsonl              an answer a question (a turn, in MT-Bench)
    judgments.jsonl            a judgment an answer and run, with the judge's own words
    items.csv, summary.json    the score of each item; means, intervals, what is missing, and what they were made with
    *.replies.jsonl            every reply that was paid for, so that nothing is asked twice
    short.json                 of the short tasks: the items of each that is done, so that none is computed twice

Answers and judgments are separate steps: without --judge there are answers alone, without --model those of --out are
judged.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.cli.parsing import (
    Parser,
    ServerOptions,
    add_server_options,
    fail,
    first_given,
    is_address,
    positive,
    seed,
)

BENCHMARKS = ("longbench-chat", "longbench", "needle", "mt-bench", "short")


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ServerOptions):
    """The options of `longalign eval`; `add` says what each is."""

    benchmark: str
    model: str | None
    model_name: str
    model_thinking_tokens: int
    judge: str | None
    judge_name: str
    judge_thinking_tokens: int
    out: Path
    data: Path | None
    tokenizer: str
    window: int | None
    runs: int
    zero_shot: bool
    seed: int
    limit: int | None
    lengths: list[int] | None
    depths: int
    haystack: list[Path] | None
    needle: str | None
    question: str | None
    answer: str | None

    @classmethod
    def of(cls, given: argparse.Namespace) -> "EvalOptions":
        """What was given on the command line; leaves where an option would change nothing."""
        options = super().of(given)
        for names, used, told in USED:
            if (name := first_given(given, *names)) and not used(options):
                fail(f"{name} {told}: leave it out")
        return options


USED: tuple[tuple[tuple[str, ...], Callable[[EvalOptions], bool], str], ...] = (
    (("lengths", "depths", "haystack", "needle", "question", "answer"),
     lambda options: options.benchmark == "needle", "is for the needle test"),
    (("zero_shot", "seed"), lambda options: options.benchmark == "longbench-chat",
     "is for longbench-chat, whose judge may see scored answers"),
    (("limit", "tokenizer", "window", "model_thinking_tokens", "lengths", "depths", "haystack", "needle", "question",
      "answer"), lambda options: options.model is not None,
     "is for the answers of a --model, and there is none"),
    (("data",), lambda options: options.model is not None
     or options.benchmark == "longbench-chat" and options.judge not in (None, "rubric"),
     "holds the questions of a --model, and there is none (the answers in --out hold what was asked)"),
    (("model_name",), lambda options: is_address(options.model or ""), "is for a --model behind a server"),
    (("zero_shot", "seed", "runs", "judge_name", "judge_thinking_tokens"),
     lambda options: options.judge not in (None, "rubric"), "is for a --judge that is a model, and there is none"),
    (("at_once", "per_minute", "price", "timeout"),
     lambda options: is_address(options.model or "") or options.judge not in (None, "rubric"),
     "is for a server, and neither --model nor --judge is one"),
)  # fmt: skip
"""Options, when they change anything, and what is said where they do not."""


def add(children: Any, top: Parser) -> None:
    """The subcommand and its options."""
    told = "a model's scores on a published benchmark, or its miniature"
    command = top.add_child(children, "eval", run, EvalOptions, help=told)
    command.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    command.add_argument(
        "--model",
        help="folder, Hub name, or a server's address (http://...); without it the answers in --out are judged",
    )
    judges = "rubric (exact, for the miniature), a server's address, a model's folder, or a file of replies"
    command.add_argument("--judge", help=judges)
    command.add_argument("--out", type=Path, required=True, help="folder of answers, judgments and scores")
    command.add_argument("--data", type=Path, help="the official files (default: the miniature's)")
    command.add_argument("--tokenizer", default="", help="folder or Hub name (default: the model's)")
    command.add_argument("--window", type=positive, help="tokens the model reads and writes (default: its own)")
    command.add_argument(
        "--runs", type=positive, default=2, help="how often the judge rates each answer, averaged (default: 2)"
    )
    command.add_argument("--zero-shot", action="store_true", help="longbench-chat: show the judge no scored answers")
    command.add_argument("--seed", type=seed, default=0, help="of the order of the scored answers (default: 0)")
    command.add_argument("--limit", type=positive, metavar="N",
                         help="of the questions, N evenly spaced; of short, the first N of each task")  # fmt: skip
    command.add_argument("--lengths", type=positive, nargs="+", help="needle: tokens of the haystacks")
    command.add_argument("--depths", type=positive, default=10, help="needle: how many (default: 10)")
    command.add_argument("--haystack", type=Path, nargs="+", help="needle: folders or files (default: generated texts)")
    command.add_argument("--needle", help="needle: the sentence that is hidden in --haystack")
    command.add_argument("--question", help="needle: what is asked")
    command.add_argument("--answer", help="needle: what must be found")
    add_server_options(command, "model", "judge")


def run(options: EvalOptions) -> None:
    """Answer, judge, score; leaves with status 1 where something is missing."""
    from longalign.cli import eval_answers, eval_scores

    _check(options)
    if options.benchmark == "short":
        eval_scores.short(options)
        return
    if options.model is not None and options.judge not in (None, "rubric"):
        eval_scores.check_judge(options)  # now, and not when all is answered
    missing = eval_answers.run(options) if options.model is not None else 0
    if options.model is None or not options.dry_run:
        missing += eval_scores.run(options)
    if missing:
        sys.exit(1)


def _check(options: EvalOptions) -> None:
    if options.out.is_file():
        fail(f"--out {options.out} is a file: name a folder")
    if options.data and options.out.resolve() == options.data.resolve():
        fail(f"--out {options.out} is the folder of --data, whose files are read as questions: name another folder")
    if options.benchmark == "needle" and options.data:
        fail("--data is for the other benchmarks: name the texts that hide the needle with --haystack")
    if options.benchmark == "short":
        if options.model is None or is_address(options.model):
            fail("short needs log-likelihoods, and servers give none: name a folder or a Hub name with --model")
        if options.judge or options.dry_run:
            fail("short needs no judge and no server: leave --judge and --dry-run out")
    elif options.model is None and options.judge is None and options.benchmark not in ("needle", "longbench"):
        fail("name a model (--model), or a judge for the answers in --out (--judge), or both")
