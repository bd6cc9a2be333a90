"""The first step of longalign eval: a benchmark's questions to a model, its answers to answers.jsonl."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longalign.commands import asking
from longalign.endpoints.asker import Asker
from longalign.endpoints.replies import Replies
from longalign.official import answering, needle
from longalign.official.catalogue import BENCHMARKS
from longalign.official.local_model import LocalModel, load_tokenizer
from longalign.official.questions import Answer, Question, write
from longalign.parsing import fail, is_address
from longalign.self_instruct import documents


def run(options: argparse.Namespace) -> int:
    """Answer, and say what came of it; returns how many questions have no answer."""
    server = is_address(options.model)
    with _model(options) as (asker, tokenizer, window):
        questions = _spread(_questions(options, tokenizer), options.limit)
        if server:
            first = answering.requests(questions, tokenizer=tokenizer, window=window)
            counted = [(request, asking.count_tokens(request.messages, tokenizer)) for request, _ in first]
            asking.tell("model", asking.estimate(asker, counted), options)
        if options.dry_run:
            return 0
        answers, missing = answering.answer_all(
            questions, asker, tokenizer=tokenizer, window=window, at_once=options.at_once if server else 1
        )
    if not answers:
        fail(f"no question was answered: {missing[0][1]}")
    _tell(write(options.out / "answers.jsonl", answers), answers, missing)
    return len(missing)


def _tell(path: Path, answers: Sequence[Answer], missing: Sequence[answering.Missing]) -> None:
    cut, unended = sum(a.truncated > 0 for a in answers), sum(a.finish == "length" for a in answers)
    print(f"{path}: {len(answers):,} answers; {cut:,} prompts lost their middle to fit the window, {unended:,} answers "
          "were cut off at the most tokens they may have", flush=True)  # fmt: skip
    for name, error in missing[:3]:
        print(f"longalign: {name} has no answer: {' '.join(str(error).split())}", file=sys.stderr)
    if missing:
        print(f"longalign: {len(missing):,} questions have none: give the same command again to ask these alone",
              file=sys.stderr)  # fmt: skip


@contextmanager
def _model(options: argparse.Namespace) -> Iterator[tuple[Asker, Any, int | None]]:
    """An asker of the model, its tokenizer and window, None where a server's are not given."""
    replies = options.out / "model.replies.jsonl"
    if is_address(options.model):
        tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
        if options.window and tokenizer is None:
            fail("--window of a server needs --tokenizer, which counts the tokens")
        with asking.open_asker(options, "model", replies) as asker:
            yield asker, tokenizer, options.window
    else:
        model = LocalModel(options.model, tokenizer=options.tokenizer, window=options.window)
        with Replies(replies) as file:
            yield Asker(model, file), model.tokenizer, model.window


def _spread(questions: list[Question], limit: int | None) -> list[Question]:
    """At most so many, evenly spaced: their order is by category."""
    count = min(limit or len(questions), len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]


def _questions(options: argparse.Namespace, tokenizer: Any) -> list[Question]:
    if options.benchmark == "needle":
        return _needles(options, tokenizer)
    benchmark = BENCHMARKS[options.benchmark]
    return benchmark.read(options.data or benchmark.shipped)


def _needles(options: argparse.Namespace, tokenizer: Any) -> list[Question]:
    if tokenizer is None:
        fail("the lengths of haystacks are tokens: name the server's tokenizer with --tokenizer")
    if not options.lengths:
        fail("name the lengths of the haystacks in tokens: --lengths 1000 2000 4000")
    size = {"lengths": options.lengths, "depths": options.depths}
    given = {name: getattr(options, name) for name in ("needle", "question", "answer") if getattr(options, name)}
    if options.haystack is not None:
        texts, refused = documents.read(options.haystack)
        if not texts:
            fail(f"{options.haystack[0]} holds no text: {refused[0] if refused else 'it is empty'}")
        return needle.in_texts([text.text for text in texts], tokenizer, **size, **given)
    if given:
        fail(f"--{next(iter(given))} needs --haystack: generated texts have needles of their own")
    return needle.generated(**size, tokenizer=tokenizer)
