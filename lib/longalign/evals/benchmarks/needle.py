"""A needle at any depth of any context, in the user's own texts or a generated one, and whether it was found, exactly.

The paper's Figure 4 (arXiv 2401.18058, C.3): ten depths, 1k to 60k tokens, and the needle and question of the original
test (github.com/gkamradt/LLMTest_NeedleInAHaystack) as defaults. An answer in other words is not found, though a judge
may rate it (`longalign.evals.judges`, scale "qa").
"""

import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from longalign.data.chinese import language_of
from longalign.data.jsonl import DataError
from longalign.data.text_tokens import has_offsets
from longalign.evals.benchmarks.questions import MISSING, Answer, Question
from longalign.miniature import benchmarks
from longalign.miniature.settings import Evaluation
from longalign.miniature.token_length import count_with

NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
QUESTION = "What is the best thing to do in San Francisco?"
ANSWER = "eat a sandwich and sit in Dolores Park on a sunny day"
MOST_TOKENS, METRIC = 64, "found"
_LETTER = "[a-z\u00df-\u024f\u0300-\u052f\u1e00-\u1fff]"
"""A small letter of Latin, Greek or Cyrillic script, or an accent that no letter holds."""
_GROUPED = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
"""A narrow or no-break space between three digits of a number and those before."""
_GROUP = "\u066c"
"""Stands for it: the sign that parts thousands in Arabic."""
_MARK = f"[.,'’\u066b\uff0e{_GROUP}]"
"""What may stand within a number; Arabic, and digits of full width, have points of their own."""
_SIGNED = r"""(?<!^[-−–])(?<![\s(\[{*_=:~'"“‘«`$€£¥][-−–])"""
"""Not behind a minus, which stands where a word could begin: in "A-42" it is a hyphen."""
_UNMARKED = "\u0e01-\u0edf"
"""Letters of Thai and Lao, which have no mark for the end of a sentence, and blanks between sentences alone."""
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u061f\u06d4\u0589\u1362])\s+|(?<=[。！？])|(?<=[\u0964\u0965\u0f0d\u104b\u17d4])\s*|\n+|"
    f"(?<=[{_UNMARKED}])[ \t]+(?=[{_UNMARKED}])"
)
"""Latin and others, Arabic, Urdu, Armenian, Ethiopic; Chinese; Hindi and kin, Tibetan, Burmese, Khmer; Thai, Lao."""


def generated(*, lengths: Sequence[int], depths: int, tokenizer: Any = None) -> list[Question]:
    """Needles in generated English documents whose other facts distract, three a cell (`corpus.benchmarks.long`).

    Lengths are tokens of `tokenizer` (None: the miniature's) and hold question and answer. Raises ValueError for one
    that no document is short enough for.
    """
    evaluation = Evaluation(needle_lengths=tuple(lengths), needle_depths=depths)
    try:
        with count_with(tokenizer):
            items = list(benchmarks.items("needle", evaluation, window=max(lengths)))
    except DataError:
        raise
    except ValueError as error:  # which speaks of a profile
        raise ValueError(f"{str(error).partition(';')[0]}; take longer --lengths") from None
    return [
        _question(item["id"], item["cell"], item["messages"][0]["content"],
                  item["messages"][0]["content"].rpartition("\n\n")[2], item["messages"][1]["content"])
        for item in items
    ]  # fmt: skip


def in_texts(
    texts: Sequence[str], tokenizer: Any, *, lengths: Sequence[int], depths: int, needle: str = NEEDLE,
    question: str = QUESTION, answer: str = ANSWER,
) -> list[Question]:  # fmt: skip
    """One needle at each of `depths` depths, even from 0 to 1, of a haystack of each length (tokens, question apart).

    The haystack is the texts one after the other, again from the first where they are too short; its length holds the
    needle, which stands between the two sentences that are nearest to its depth in tokens. `answer` is what must be
    found. Raises ValueError for texts without a sentence, lengths without room, a needle of one's own with the default
    question, one without this answer, and an answer that stands elsewhere, too.
    """
    if needle != NEEDLE and question == QUESTION:
        raise ValueError(f"the question for your own needle is missing ({QUESTION!r} is for another): give --question")
    if not _plain(answer) or not holds(needle, answer):
        raise ValueError("the needle does not hold the answer that is looked for: correct --needle or --answer")
    for where, text in (("the question", question), *(("a text of the haystack", text) for text in texts)):
        if holds(text, answer):
            raise ValueError(f"{where} holds the answer, {answer!r}, without the needle: take another --answer")
    sentences = [s for text in texts for s in _SENTENCE_END.split(text) if s.strip()]
    if not sentences:
        raise ValueError("the haystack holds no sentence: name other texts with --haystack")
    gap = "" if language_of(needle) == "zh" else " "
    own = len(tokenizer(gap + needle, add_special_tokens=False)["input_ids"])
    stacked, ends = _stacked(sentences, gap, tokenizer, max(lengths))
    found = []
    for length, place in itertools.product(lengths, range(depths)):
        count = bisect_right(ends, length - own)
        if not count:
            raise ValueError(f"{length} tokens hold no needle and a sentence of the haystack: take longer --lengths")
        starts = [0, *ends[:count]]
        stack, wanted = stacked[:count], place / max(1, depths - 1) * ends[count - 1]
        stack.insert(min(range(count + 1), key=lambda at: abs(starts[at] - wanted)), needle)
        prompt = f"{gap.join(stack)}\n\n{question}"
        found.append(_question(f"needle-{length}-{place}-0", length, prompt, question, answer))
    return found


def exact(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Tidy rows of the answers that are there: 1 where it holds one of its references (`holds`), else 0.

    `length` is the haystack's; the item is needle-LENGTH-DEPTH'S INDEX-INDEX, as in the miniature's benchmark. Raises
    DataError for an answer without a reference; an empty one would be found everywhere.
    """
    for answer in answers:
        if not answer.references or not all(text.strip() for text in answer.references):
            told = f"answer {answer.id!a:.60} has no reference, or an empty one"
            raise DataError(told, "references holds what is to be found")
    return [
        {"benchmark": a.benchmark, "task": a.task, "length": a.length, "item": a.id, "metric": METRIC,
         "value": float(any(holds(a.answer, text) for text in a.references))}
        for a in answers if a.finish != MISSING
    ]  # fmt: skip


def holds(text: str, answer: str) -> bool:
    """Whether a text holds an answer, whatever its case, white space and way to write accents (é is a sign, or e and
    its accent); a number is no part of a longer one and has no sign of its own, and no word, in the alphabets that part
    words by spaces, is a part of a longer one.

    >>> holds("The code is\\n42.", "42"), holds("It was 1423.", "42"), holds("It is -42.", "42")
    (True, False, False)
    >>> holds("Ask Ada.", "Ada"), holds("In Canada.", "Ada")
    (True, False)
    """
    wanted = _plain(answer)
    signless = rf"(?<!\d)(?<!\d{_MARK}){_SIGNED}"
    before = signless * wanted[:1].isdigit() or f"(?<!{_LETTER})" * bool(re.match(_LETTER, wanted))
    behind = rf"(?!{_MARK}?\d)" * wanted[-1:].isdigit() or f"(?!{_LETTER})" * bool(re.match(_LETTER, wanted[-1:]))
    escaped = re.sub(rf"(?<=\d)(?:\\ |{_GROUP})(?=\d)", f"[ {_GROUP}]", re.escape(wanted))
    return re.search(before + escaped + behind, _plain(text)) is not None


def _stacked(sentences: Sequence[str], gap: str, tokenizer: Any, length: int) -> tuple[list[str], list[int]]:
    """The sentences again and again, at least `length` tokens, and how many tokens there are up to the end of each.

    By a tokenizer without offsets they are counted sentence by sentence.
    """
    once = len(tokenizer(gap.join(sentences), add_special_tokens=False, verbose=False)["input_ids"])
    stacked = list(sentences) * (length // max(1, once) + 2)
    if not has_offsets(tokenizer):
        counts = [len(tokenizer(gap + sentence, add_special_tokens=False)["input_ids"]) for sentence in sentences]
        return stacked, list(itertools.accumulate(itertools.islice(itertools.cycle(counts), len(stacked))))
    encoding = tokenizer(
        gap.join(stacked), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ends = itertools.accumulate(stacked, lambda end, sentence: end + len(gap) + len(sentence), initial=-len(gap))
    starts = [start for start, _ in encoding["offset_mapping"]]
    return stacked, [bisect_left(starts, end) for end in itertools.islice(ends, 1, None)]


def _question(name: str, length: int, prompt: str, query: str, reference: str) -> Question:
    return Question(
        id=name, benchmark="needle", task="needle", language=language_of(reference),
        turns=(prompt,), query=query, references=(reference,), most_tokens=MOST_TOKENS, length=length,
    )  # fmt: skip


def _plain(text: str) -> str:
    return " ".join(_GROUPED.sub(_GROUP, unicodedata.normalize("NFC", text.lower())).split())
