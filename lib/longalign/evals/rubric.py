r"""LongBench-Chat's judge in miniature: an answer gets 1 to 10 points by a written rule, where the paper asks GPT-4.

An answer's sentences are compared with the reference's, letter by letter. With m sentences in common, a in the answer
and r in the reference: points = 1 + 9 F1, rounded (half up), F1 = 2 m / (a + r). So missing, wrong, repeated and extra
sentences all cost, and a sentence that is cut off is a wrong one.

| category | families | what counts as common |
|---|---|---|
| reasoning, coding, summarization | chain, calls, summary | longest common subsequence: the order is the answer |
| translation, document-qa | translation, lookup, table, note | each sentence as often as in both, in any order |

| answer, to a reference of | 1 sentence | 2 | 3 | 4 |
|---|---|---|---|---|
| exact | 10 | 10 | 10 | 10 |
| exact and one sentence more | 7 | 8 | 9 | 9 |
| one missing | 1 | 7 | 8 | 9 |
| one wrong in its place | 1 | 6 | 7 | 8 |
| empty, or nothing right | 1 | 1 | 1 | 1 |

Up to eight sentences, 10 points are given for the exact answer alone.
"""

import re
from collections import Counter

LOWEST, HIGHEST = 1, 10
CHANCE = {"exact_match": 0.0, "fact_match": 0.0, "accuracy": 0.25, "score": float(LOWEST)}
BEST = {"exact_match": 1.0, "fact_match": 1.0, "accuracy": 1.0, "score": float(HIGHEST)}
"""The ends of the range of each metric: what a guess reaches, and what a perfect model does."""
ORDERED = ("chain", "calls", "summary")
"""Families of which the order of the sentences is part of the answer."""


def sentences(text: str) -> list[str]:
    """The sentences of an answer with their marks; what stands behind the last mark is one as well.

    >>> sentences("Marlow leads. Barvik adores a"), sentences("王安领头。"), sentences("")
    (['Marlow leads.', 'Barvik adores a'], ['王安领头。'], [])
    """
    return [part.strip() for part in re.findall(r"[^.。]*[.。]|[^.。]+$", text) if part.strip()]


def points(answer: str, reference: str, *, ordered: bool) -> int:
    """The points of an answer, from 1 to 10; `ordered` where the order of the sentences counts.

    >>> points("Bardan leads. Calis leads.", "Calis leads. Bardan leads.", ordered=False)
    10
    >>> points("Bardan leads. Calis leads.", "Calis leads. Bardan leads.", ordered=True)
    6
    """
    given, wanted = sentences(answer), sentences(reference)
    common = _common_subsequence(given, wanted) if ordered else sum((Counter(given) & Counter(wanted)).values())
    f1 = 2 * common / max(1, len(given) + len(wanted))
    return int(LOWEST + (HIGHEST - LOWEST) * f1 + 0.5)


def ceiling(seen: str, reference: str, *, ordered: bool) -> int:
    """The points of the best answer that gives only sentences of the reference that stand in `seen`.

    `seen` is what the model was shown. 10 unless a fact was truncated away; a model that guesses a lost one gets more.

    >>> ceiling("Calis leads.", "Calis leads. Bardan leads.", ordered=False)
    7
    """
    # Whole words only: "rescan zero." does not stand in "prescan zero."
    left = (part for part in sentences(reference) if re.search("(?<![A-Za-z])" + re.escape(part), seen))
    return points(" ".join(left), reference, ordered=ordered)


def _common_subsequence(left: list[str], right: list[str]) -> int:
    lengths = [0] * (len(right) + 1)
    for sentence in left:
        before = lengths
        lengths = [0]
        for place, other in enumerate(right):
            longest = before[place] + 1 if sentence == other else max(before[place + 1], lengths[place])
            lengths.append(longest)
    return lengths[-1]
