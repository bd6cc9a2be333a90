"""longalign data build: long instructions from a user's own documents, in LongAlign-10k's schema.

    long.jsonl            the samples
    long.replies.jsonl    every reply of the teacher: a run that was stopped goes on, and nothing is paid twice
    long.report.json      what was left out and why, by document; faults of answers; what it was made with
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longalign.cli.parsing import Parser, ServerOptions, add_server_options, fail, first_given, positive, seed, share
from longalign.clients.errors import THOUGHTS_ALONE, NoReply

MAX_LENGTH, MIN_SHARE = 65_536, 8
ANSWER_TOKENS = 1024
QUESTION_TOKENS = 128
UNKNOWN = {"en": "What?", "zh": "什么？"}
"""Stands for a question that has not been proposed yet, where requests are counted."""
OF_A_MODEL = ("teacher_name", "teacher_thinking_tokens", "at_once", "per_minute", "price", "timeout")
"""Options that mean nothing where the oracle teaches."""
TRIAL = [{"role": "user", "content": "A text.\n\nWhat is it?"}, {"role": "assistant", "content": "A text."}]
"""A sample in which a tokenizer shows whether it can write one."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions(ServerOptions):
    """The options of `longalign data build`; `add` says what each is."""

    documents: list[Path]
    teacher: str
    teacher_name: str
    teacher_thinking_tokens: int
    out: Path
    count: int | None
    tokenizer: str | None
    max_length: int
    min_length: int | None
    answer_tokens: int | None
    chinese_share: float
    license: str | None
    seed: int

    @classmethod
    def of(cls, given: argparse.Namespace) -> "BuildOptions":
        """What was given on the command line; leaves where the oracle would teach in the place of a model."""
        options = super().of(given)
        if options.teacher == "oracle" and (name := first_given(given, *OF_A_MODEL)):
            fail(f"{name} is for a model as teacher, and --teacher names none: name its server or folder, or leave it "
                 "out")  # fmt: skip
        return options


def add(children: Any, top: Parser) -> None:
    """The subcommand and its options."""
    told = "long instructions from documents, by Self-Instruct"
    command = top.add_child(children, "build", run, BuildOptions, help=told)
    command.add_argument("--documents", type=Path, nargs="+", required=True, metavar="PATH", help="folders or files")
    command.add_argument("--teacher", default="oracle", help="oracle (offline), a server's address, a model's folder")
    command.add_argument("--out", type=Path, required=True, help="the JSONL file")
    command.add_argument("--count", type=positive, metavar="N", help="samples (default: one a document)")
    command.add_argument("--tokenizer", help="folder or Hub name (default: the miniature's own)")
    command.add_argument("--max-length", type=positive, default=MAX_LENGTH, help="tokens of a sample (default: 65536)")
    command.add_argument("--min-length", type=positive, help="of a document (default: an eighth of the maximum)")
    command.add_argument("--answer-tokens", type=positive, help="most of an answer (default: 1024, or a quarter)")
    command.add_argument("--chinese-share", type=share, default=0.1, help="where both languages are (default: 0.1)")
    command.add_argument("--license", help="of documents that do not name theirs")
    command.add_argument("--seed", type=seed, default=0, help="of what is drawn (default: 0)")
    add_server_options(command, "teacher")


def run(options: BuildOptions) -> None:
    """Read, draw, ask, check, write; leaves with status 1 where the teacher did not answer for some."""
    from longalign.cli import asking
    from longalign.cli.loading import load_tokenizer
    from longalign.self_instruct import build

    _check_out(options)
    tokenizer = load_tokenizer(options.tokenizer)
    _check_tokenizer(options, tokenizer)
    answer_tokens = options.answer_tokens or min(ANSWER_TOKENS, options.max_length // 4)
    items, refusals = _items(options, tokenizer, answer_tokens)
    bounds = build.Bounds(tokenizer, options.max_length, words=max(8, answer_tokens // 2))
    with _teacher(options, items, bounds.words, answer_tokens) as (teacher, asker):
        if options.dry_run:
            return
        outcomes = build.build(items, teacher, bounds, asker=asker, at_once=options.at_once if asker else 1)
    failed = [outcome for outcome in outcomes if outcome.error]
    built = any(outcome.sample for outcome in outcomes)
    if built or not options.out.exists():  # else the report there is of the samples there
        _report(options, outcomes, refusals)
    if any(fault.endswith(THOUGHTS_ALONE) for fault in build.faults(outcomes)):
        asking.advise_on_thoughts("teacher")
    if not built:
        why = failed[0].error if failed else next(iter(build.faults(outcomes)), "no item was drawn")
        fail(f"no sample was built: {why}" + f"; {options.out} and its report stay as they were" * options.out.exists())
    _tell(options, outcomes, build.write(options.out, outcomes))
    if failed:
        print(f"longalign: the teacher gave no answer to {len(failed):,} items ({failed[0].error}): run the same "
              "command again; it asks only for these", file=sys.stderr)  # fmt: skip
        sys.exit(1)


def _check_out(options: BuildOptions) -> None:
    if options.out.is_dir():
        fail(f"--out {options.out} is a folder: name a file, such as {options.out / 'long.jsonl'}")
    if options.out.exists() and not _beside(options, "report.json").exists():
        fail(f"--out {options.out} exists already, and this command did not write it: name another file")


def _check_tokenizer(options: BuildOptions, tokenizer: Any) -> None:
    """Leaves where no sample could become tokens: its answers would be paid for, and then all be refused."""
    from longalign.data import chat
    from longalign.data.chat_formats import format_of

    if format_of(tokenizer) == "template" and not tokenizer.chat_template:
        fail(f"--tokenizer {options.tokenizer}: it has no chat template, in which the tokens of a sample are counted: "
             "save one there (chat_template.jinja), or name the tokenizer of a model that has one")  # fmt: skip
    try:
        chat.encode(TRIAL, tokenizer)
    except ValueError as error:
        fail(f"--tokenizer {options.tokenizer}: no sample could become its tokens: {error}")


def _beside(options: BuildOptions, kind: str) -> Path:
    return options.out.with_name(f"{options.out.stem}.{kind}")


def _items(options: BuildOptions, tokenizer: Any, answer_tokens: int) -> tuple[Sequence[Any], list[Any]]:
    from longalign.self_instruct import documents, draw

    own = [options.out, *(_beside(options, kind) for kind in ("replies.jsonl", "report.json"))]
    found, refused = documents.read(options.documents, license=options.license, leave_out=own)
    for refusal in refused[:5]:
        print(f"longalign: left out: {refusal.name}: {refusal.reason}", file=sys.stderr)
    if not found:
        fail(f"no document in {', '.join(map(str, options.documents))}: .txt, .md, .jsonl and source files are read")
    least = options.min_length or max(1, options.max_length // MIN_SHARE)
    room = answer_tokens + min(QUESTION_TOKENS, options.max_length // 8)
    items, short = draw.draw(
        found, count=options.count, tokenizer=tokenizer, min_length=least, max_length=options.max_length, room=room,
        chinese_share=options.chinese_share, seed=options.seed,
    )  # fmt: skip
    if not items:
        fail(f"none of {len(found):,} documents has {least:,} tokens or more: lower --min-length")
    spoken = Counter(item.document.language for item in items)
    print(f"longalign: {len(found):,} documents ({len(refused):,} left out, {len(short):,} too short), {len(items):,} "
          f"items: {spoken['en']:,} English, {spoken['zh']:,} Chinese, {min(i.tokens for i in items):,} to "
          f"{max(i.tokens for i in items):,} tokens of text", file=sys.stderr, flush=True)  # fmt: skip
    return items, [*refused, *short]


@contextmanager
def _teacher(
    options: BuildOptions, items: Sequence[Any], words: int, answer_tokens: int
) -> Iterator[tuple[Any, Any]]:
    """The teacher, and what it asks with, None for the oracle; the estimate is told before."""
    from longalign.cli import asking
    from longalign.self_instruct.teachers import ModelTeacher, OracleTeacher

    if options.teacher == "oracle":
        yield OracleTeacher(words=words), None
        return
    with asking.open_asker(options, "teacher", _beside(options, "replies.jsonl")) as asker:
        teacher = ModelTeacher(asker, words=words, answer_tokens=answer_tokens)
        asking.tell("teacher", asking.estimate(asker, _requests(teacher, items)), options)
        asking.tell_borrowed(asker.server)
        yield teacher, asker


def _requests(teacher: Any, items: Sequence[Any]) -> Iterator[tuple[Any, int]]:
    """What will be asked at least: questions and one answer an item, with about their tokens."""
    from longalign.self_instruct import build

    for item in items:
        tokens, proposal = item.tokens + QUESTION_TOKENS, teacher.proposal(item)
        yield proposal, tokens
        for question in build.asked_in_turn(item, _questions(teacher, item, teacher.asker.known(proposal)))[:1]:
            yield teacher.request(item, question), tokens


def _questions(teacher: Any, item: Any, known: Any) -> list[str]:
    """Those of a reply that is known, none where it will be refused; without a reply one that stands for them."""
    if known is None:
        return [UNKNOWN[item.document.language]]
    try:
        return teacher.proposed(item, known)
    except NoReply:
        return []


def _tell(options: BuildOptions, outcomes: Sequence[Any], written: int) -> None:
    from longalign.self_instruct import build

    found = build.faults(outcomes)
    counts = Counter(outcome.sample["type"] for outcome in outcomes if outcome.sample)
    print(f"{options.out}: {written:,} samples ({', '.join(f'{n} {task}' for task, n in sorted(counts.items()))})")
    if found:
        print("answers and questions that were not good enough: "
              + ", ".join(f"{count} {fault}" for fault, count in found.items()))  # fmt: skip


def _report(options: BuildOptions, outcomes: Sequence[Any], refusals: Sequence[Any]) -> None:
    """Written first: what stands beside a report is this command's own."""
    from longalign.common import provenance
    from longalign.self_instruct import build

    counts = Counter(outcome.sample["type"] for outcome in outcomes if outcome.sample)
    dropped = {o.item.id: list(o.faults) for o in outcomes if o.sample is None and not o.error}
    provenance.write_record(
        _beside(options, "report.json"), seeds=[options.seed], config=options.record(),
        results={"samples": sum(counts.values()), "types": counts, "faults": build.faults(outcomes),
                 "items without a sample": dropped,
                 "documents left out": [refusal._asdict() for refusal in refusals]},
    )  # fmt: skip

