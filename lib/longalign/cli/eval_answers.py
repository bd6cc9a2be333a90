"""The first step of longalign eval: a benchmark's questions to a model, its answers to answers.jsonl."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from longalign.cli import asking
from longalign.cli.eval import EvalOptions
from longalign.cli.parsing import fail, is_address
from longalign.clients.client import Asker
from longalign.clients.errors import EndpointError, NoReply
from longalign.clients.local_model import LocalModel, check_template
from longalign.clients.reply_store import Replies
from longalign.data import tokenizers
from longalign.data.jsonl import DataError
from longalign.evals.benchmarks import answering, needle
from longalign.evals.benchmarks.catalogue import BENCHMARKS
from longalign.evals.benchmarks.questions import MISSING, Answer, Question, evenly, read_answers, write
from longalign.self_instruct import documents

DERIVED = ("judgments.jsonl", "items.csv", "summary.json")
SHORTEST = 0.9
"""The share of its length that a haystack has at least without a word on it."""


def run(options: EvalOptions) -> int:
    """Answer, and say what came of it; returns how many questions have no answer."""
    server = is_address(options.model)
    if options.dry_run and not server:
        fail("--dry-run shows the requests to a server, and --model is no server: leave --dry-run out")
    if _of_short(options.out / "summary.json"):
        fail(f"{options.out} holds the scores of short: name another folder")
    _check_answers(options.out / "answers.jsonl", options)
    with _model(options) as (asker, tokenizer, window):
        found = _questions(options, tokenizer)
        questions = evenly(found, options.limit or len(found))
        if server:
            wanted = answering.expected(questions, asker, tokenizer=tokenizer, window=window)
            counted = ((request, asking.count_tokens(request.messages, tokenizer) + ahead) for request, ahead in wanted)
            asking.tell("model", asking.estimate(asker, counted), options)
        if options.dry_run:
            return 0
        if options.benchmark == "needle":
            _check_room(questions, tokenizer, window, asker.thinking_tokens)
        asking.tell_borrowed(asker.server)
        answers, missing = answering.answer_all(
            questions, asker, tokenizer=tokenizer, window=window, at_once=options.at_once if server else 1
        )
    if all(answer.finish == MISSING for answer in answers):
        _advise(missing)
        fail(f"no question was answered: {missing[0][1]}")
    _tell(_written(options.out / "answers.jsonl", answers), answers, missing)
    return len(missing)


def _check_answers(path: Path, options: EvalOptions) -> None:
    """Leaves where a file in the place of the answers is somebody's own, or holds those of another benchmark."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        check_benchmark(next(read_answers(path)), options)
    except DataError as error:
        fail(f"{error}: this command did not write the file: name another folder with --out")


def check_benchmark(answer: Answer, options: EvalOptions) -> None:
    """Leaves where the folder holds answers to other questions than those of the benchmark."""
    if (found := answer.benchmark.replace("_", "-")) != options.benchmark:
        fail(f"{options.out} holds answers of {found}: name another folder")


def _of_short(summary: Path) -> bool:
    """Whether the scores in a folder are of the short tasks, which leave no answers."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads(summary.read_text(encoding="utf-8"))["config"]["benchmark"] == "short"
    return False


def _written(path: Path, answers: Sequence[Answer]) -> Path:
    """The answers in their file; what was made of other answers goes away."""
    before = path.read_bytes() if path.is_file() else b""
    write(path, answers)
    if before != path.read_bytes():
        for name in DERIVED:
            (path.parent / name).unlink(missing_ok=True)
    return path


def _tell(path: Path, answers: Sequence[Answer], missing: Sequence[answering.Missing]) -> None:
    cut, unended = sum(a.truncated > 0 for a in answers), sum(a.finish == "length" for a in answers)
    there = sum(a.finish != MISSING for a in answers)
    print(f"{path}: {there:,} answers; {cut:,} prompts lost their middle to fit the window, {unended:,} answers "
          "were cut off at the most tokens they may have", flush=True)  # fmt: skip
    if empty := sum(not a.answer.strip() for a in answers):
        print(f"longalign: {empty:,} answers are empty", file=sys.stderr)
    for name, error in missing[:3]:
        print(f"longalign: {name} has no answer: {' '.join(str(error).split())}", file=sys.stderr)
    if unheard := sum(isinstance(error, EndpointError) and not isinstance(error, NoReply) for _, error in missing):
        print(f"longalign: {unheard:,} questions have no answer: run the same command again; it asks only these",
              file=sys.stderr)  # fmt: skip
    _advise(missing)


def _advise(missing: Sequence[answering.Missing]) -> None:
    if any(isinstance(error, NoReply) for _, error in missing):
        asking.advise_on_thoughts("model")


@contextmanager
def _model(options: EvalOptions) -> Iterator[tuple[Asker, Any, int | None]]:
    """An asker of the model, its tokenizer and window, None where a server's are not given."""
    replies = options.out / "model.replies.jsonl"
    if is_address(options.model):
        tokenizer = tokenizers.load(options.tokenizer) if options.tokenizer else None
        if options.window and tokenizer is None:
            fail("--window of a server needs --tokenizer, which counts the tokens")
        if tokenizer is not None:
            check_template(tokenizer, options.tokenizer)
        with asking.open_asker(options, "model", replies) as asker:
            yield asker, tokenizer, options.window
    else:
        model = LocalModel(options.model, tokenizer=options.tokenizer, window=options.window)
        check_template(model.tokenizer, options.tokenizer or model.name)
        with Replies(replies) as file:
            yield Asker(model, file, thinking_tokens=options.model_thinking_tokens), model.tokenizer, model.window


def _questions(options: EvalOptions, tokenizer: Any) -> list[Question]:
    if options.benchmark == "needle":
        return _needles(options, tokenizer)
    benchmark = BENCHMARKS[options.benchmark]
    return benchmark.read(options.data or benchmark.shipped)


def _check_room(questions: Sequence[Question], tokenizer: Any, window: int | None, thinking_tokens: int) -> None:
    """A haystack that loses its middle may lose the needle, and a reply that is too short cannot hold the answer."""
    requests = answering.requests(questions, tokenizer=tokenizer, window=window, thinking_tokens=thinking_tokens)
    for question, (request, cut) in zip(questions, requests, strict=True):
        if cut:
            fail(f"a haystack of {question.length:,} tokens, with its question and answer, is {cut:,} tokens too long "
                 f"for the window of {window:,}: give shorter --lengths")  # fmt: skip
        answer = asking.count_tokens([{"content": question.references[0]}], tokenizer)
        if answer > request.max_tokens:
            most = f"{request.max_tokens:,} at most" + (f" in a window of {window:,}" if window else "")
            fail(f"the answer {question.references[0]!a:.60} takes {answer:,} tokens, and a reply has {most}: give a "
                 "shorter --answer")  # fmt: skip


def _needles(options: EvalOptions, tokenizer: Any) -> list[Question]:
    if tokenizer is None:
        fail("--lengths are counted in tokens: name the server's tokenizer with --tokenizer")
    if not options.lengths:
        fail("give the lengths of the haystacks in tokens, such as --lengths 1000 2000 4000")
    size = {"lengths": list(dict.fromkeys(options.lengths)), "depths": options.depths}
    given = {name: getattr(options, name) for name in ("needle", "question", "answer") if getattr(options, name)}
    if options.haystack is not None:
        texts, refused = documents.read(options.haystack, spoken=())
        if not texts:
            fail(f"{options.haystack[0]} holds no text: {': '.join(refused[0]) if refused else 'it is empty'}")
        for refusal in refused[:5]:
            print(f"longalign: left out: {refusal.name}: {refusal.reason}", file=sys.stderr)
        if refused:
            print(f"longalign: the haystack is made of {len(texts):,} texts ({len(refused):,} left out)",
                  file=sys.stderr)  # fmt: skip
        found = needle.in_texts([text.text for text in texts], tokenizer, **size, **given)
        _tell_coarse(found, tokenizer)
        return found
    if given:
        fail(f"--{next(iter(given))} needs --haystack: generated texts have needles of their own")
    return needle.generated(**size, tokenizer=tokenizer)


def _tell_coarse(questions: Sequence[Question], tokenizer: Any) -> None:
    """A needle stands between sentences: where these are long, depths fall together and haystacks are too short."""
    for length in dict.fromkeys(question.length for question in questions):
        asked = [question for question in questions if question.length == length]
        tokens = asking.count_tokens([{"content": asked[0].turns[0].removesuffix(asked[0].query)}], tokenizer)
        places = len({question.turns for question in asked})
        if places < len(asked) or tokens < SHORTEST * length:
            print(f"longalign: the haystacks of {length:,} tokens have {tokens:,}, and {places:,} places for "
                  f"{len(asked):,} depths, for a needle stands between sentences: give longer --lengths, fewer "
                  "--depths, or texts of shorter sentences", file=sys.stderr)  # fmt: skip
