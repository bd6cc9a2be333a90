"""Judges of answers behind one small protocol: an exact rule, a model behind a server, or that model's recorded words.

The rule knows answers that are sentences of their document, as the miniature's are, and nothing else. A recorded judge
is a model whose replies lie in a file (`longalign.clients.reply_store`): it needs no key and no server, and rates what
was asked of it before, nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from longalign.clients import concurrency
from longalign.clients.client import Asker
from longalign.clients.errors import CUT_OFF, EndpointError, NoReply
from longalign.clients.reply_store import Request
from longalign.evals import rubric
from longalign.evals.benchmarks.questions import MISSING, Answer, Example
from longalign.evals.judges.prompts import SCALES, Unrated, prompt, rating

MOST_TOKENS = 512
"""Of a judge's reply: the paper's judge gives a rating alone, others explain it first."""
UNHEARD = "no reply: "
"""Begins the problem of a judgment that no reply came for; the reason follows."""


@dataclass(frozen=True)
class Case:
    """An answer to be rated on a scale (`longalign.evals.judges.prompts`), with scored answers to the same question."""

    answer: Answer
    scale: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Judgment:
    """What a judge said of one answer in one run: `rating`, or None and the `problem`; the `reply` as it came.

    `thoughts` are those of a reasoning judge, which are no part of its reply; `order` is that in which the scored
    answers were shown, `judge` the judge's name.
    """

    id: str
    run: int
    rating: int | None
    problem: str = ""
    reply: str = ""
    order: tuple[int, ...] = ()
    judge: str = ""
    thoughts: str = ""


class Judge(Protocol):
    """Rates one answer; a failure is a judgment without a rating."""

    name: str

    def rate(self, case: Case, run: int) -> Judgment:
        """The judgment of run `run`, from 0."""


class Rubric:
    """The exact rule of `longalign.evals.rubric`, 1 to 10; other scales by the same share of right sentences."""

    name = "rubric"

    def rate(self, case: Case, run: int) -> Judgment:
        """The best rating over the references; the same in every run."""
        scale, answer = SCALES[case.scale], case.answer
        if not answer.references:
            return Judgment(answer.id, run, None, "no reference")
        points = max(rubric.points(answer.answer, text, ordered=answer.ordered) for text in answer.references)
        share = (points - rubric.LOWEST) / (rubric.HIGHEST - rubric.LOWEST)
        return Judgment(answer.id, run, int(scale.lowest + (scale.highest - scale.lowest) * share + 0.5))


class ModelJudge:
    """A model that is asked by `asker`: greedy, the scored answers shuffled for each run by `seed`.

    Without `few_shot` they are not shown. `template` is the paper's own text (`longalign.evals.judges.prompts.prompt`).
    A reply has at most `most_tokens` tokens.
    """

    def __init__(
        self, asker: Asker, *, seed: int = 0, few_shot: bool = True, template: str = "", most_tokens: int = MOST_TOKENS
    ) -> None:
        self.asker, self.name = asker, asker.model
        self.seed, self.few_shot, self.template, self.most_tokens = seed, few_shot, template, most_tokens

    def rate(self, case: Case, run: int) -> Judgment:
        """Ask once; a reply that was cut off is no rating. Raises EndpointError where there is no reply."""
        order, rated, problem = self.order(case, run), None, ""
        try:
            reply = self.asker.ask(self.request(case, run))
            rated = rating(reply.text, SCALES[case.scale].lowest, SCALES[case.scale].highest)
        except NoReply as error:
            return Judgment(case.answer.id, run, None, error.reason, "", order, thoughts=error.thoughts)
        except Unrated as error:
            problem = f"{error}"
        if rated is not None and reply.finish == "length":
            rated, problem = None, CUT_OFF
        return Judgment(case.answer.id, run, rated, problem, reply.text, order, thoughts=reply.thoughts)

    def order(self, case: Case, run: int) -> tuple[int, ...]:
        """The order of the scored answers in a run: by seed, run and question alone."""
        if not self.few_shot:
            return ()
        places, random = range(len(case.examples)), Random(f"{self.seed}:{run}:{case.answer.id}")
        return tuple(random.sample(places, len(places)))

    def request(self, case: Case, run: int) -> Request:
        """What is asked in a run; a second run is another request even where its words are the same."""
        answer = case.answer
        messages = prompt(
            case.scale, query=answer.query, references=answer.references, answer=answer.answer,
            examples=[case.examples[place] for place in self.order(case, run)],
            template=self.template if self.few_shot and case.scale == "chat" else "",
        )  # fmt: skip
        return Request(messages, self.most_tokens, tag=f"run {run}", label=f"{answer.id}, run {run}")


def judge_all(
    cases: Sequence[Case], judge: Judge, *, runs: int, asker: Asker | None = None, at_once: int = 4
) -> list[Judgment]:
    """Every case in every run, in this order; what no reply came for is a judgment whose problem says why."""

    def work(pair: tuple[Case, int]) -> Judgment:
        return judge.rate(*pair)

    pairs = [(case, run) for run in range(runs) for case in cases]
    found = concurrency.each(work, pairs, asker=asker, at_once=at_once, label="judged")
    told = [Judgment(pair[0].answer.id, pair[1], None, f"{UNHEARD}{said}") if isinstance(said, EndpointError) else said
            for pair, said in zip(pairs, found, strict=True)]  # fmt: skip
    return [replace(judgment, judge=judge.name) for judgment in told]


def cases_of(
    answers: Sequence[Answer], scale_of: Callable[[Answer], str], examples: dict[str, tuple[Example, ...]] | None = None
) -> list[Case]:
    """The cases of answers, but of those that are missing, whose text says why; `examples` by the answer's id."""
    return [Case(answer, scale_of(answer), (examples or {}).get(answer.id, ()))
            for answer in answers if answer.finish != MISSING]  # fmt: skip
