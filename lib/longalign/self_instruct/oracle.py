"""Questions with exact answers on any text of either language, without a model.

Every answer repeats whole sentences of the text, or counts them.

| task | question | answer |
|---|---|---|
| information extraction | the sentence with a word that stands in no other | that sentence |
| general | what comes right after a sentence | the next sentence |
| reasoning | from the sentence with such a word to the other one that has another word of it | the other sentence |
| reasoning, where fewer than five have it | how many sentences have a word | the number, in a sentence |
| summary | the first (or last) sentences of paragraphs, from one to another | those sentences, a line each |

Where fewer than five are found, general and information extraction take each other's form, and a text of few
paragraphs is summed up by sentences. A sentence ends at . ! ? before white space and no small letter (so "e.g. this" is
one, "Dr. Smith" two), at 。！？, at an empty line and before a list's mark, in Chinese texts at every line's end; in
source code it is a line. A word is a run of four or more letters and digits from a letter on, small or capital; in
Chinese, two neighbouring characters.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, zip_longest
from random import Random

from longalign.data.chinese import HAN
from longalign.self_instruct import checks, prompts
from longalign.self_instruct.draw import Item

FEWEST_PARAGRAPHS = 6
"""A text of fewer is summed up by sentences in place of paragraphs."""
LONGEST, NAMED, MOST_IN_SUMMARY, LONGEST_MARK = 400, 60, 12, 12
_MARK = re.compile(r"\W*(?:\d+\.)?\W*")
_BLANK = re.compile(r"\n[ \t]*\n")
_ENDS = re.compile(
    r"""(?<=[.!?])\s+(?=[^\sa-z]) | (?<=[.!?]["'”’)\]])\s+(?=[^\sa-z])
    | (?<=[。！？])(?![。！？”’」』）]) | (?<=[。！？][”’」』）])(?![”’」』）])
    | \n(?=[ \t]*(?:[-*+\#>|]|\d+[.)]))""",
    re.VERBOSE,
)
_WORDS = re.compile(f"(?<![^\\W{HAN}])[^\\W\\d_{HAN}][^\\W{HAN}]{{3,}}")
_RUNS = re.compile(f"[{HAN}]{{2,}}")
_COMMON = frozenset("的了是在和不有我他她它这那一个们与也就都而及之以为于上下中来到说会对等可以其")
_FORMS = {
    "en": {
        "find": "Quote the one {unit} of the text that contains the word “{word}”.",
        "next": "Quote the {unit} that comes right after this one: “{quoted}”",
        "hop": "Go to the one {unit} of the text that contains the word “{word}”. It shares the word “{shared}” with "
        "exactly one other {unit}: quote that other {unit}.",
        "count": "How many {unit}s of the text contain the word “{word}”?",
        "counted": "The word “{word}” stands in {count} of the text's {unit}s.",
        "first": "Sum up the text from the {block} that begins with “{begin}” to the one that begins with “{end}”: "
        "give the first {unit} of each {block}, in order.",
        "last": "Sum up the text from the {block} that begins with “{begin}” to the one that begins with “{end}”: "
        "give the last {unit} of each {block}, in order.",
        "all": "Give the part of the text from the {unit} that begins with “{begin}” to the one that begins with "
        "“{end}”, {unit} by {unit}.",
        "units": ("sentence", "paragraph"),
        "lines": ("line", "block"),
    },
    "zh": {
        "find": "原文中只有一{unit}包含“{word}”，请引用这一{unit}。",
        "next": "请引用紧接在下面这一{unit}之后的一{unit}：“{quoted}”",
        "hop": "请找到原文中唯一包含“{word}”的那一{unit}。它与另外唯一的一{unit}都包含“{shared}”，"
        "请引用另外那一{unit}。",
        "count": "原文中有多少{unit}包含“{word}”？",
        "counted": "原文中有{count}{unit}包含“{word}”。",
        "first": "请概括原文中从以“{begin}”开头的{block}到以“{end}”开头的{block}的内容，"
        "依次给出每{block}的第一{unit}。",
        "last": "请概括原文中从以“{begin}”开头的{block}到以“{end}”开头的{block}的内容，"
        "依次给出每{block}的最后一{unit}。",
        "all": "请逐{unit}给出原文中从以“{begin}”开头的一{unit}到以“{end}”开头的一{unit}的内容。",
        "units": ("句", "段"),
        "lines": ("行", "段"),
    },
}
Pair = tuple[str, str]


@dataclass(frozen=True)
class Oracle:
    """The teacher that is there without a server; its answers have at most `words` words (Chinese: characters)."""

    words: int = 200
    name: str = "oracle"

    def propose(self, item: Item) -> list[str]:
        """Five distinct questions over different parts of the text; fewer, or none, where it is too small for them."""
        return list(_pairs(item, self.words))

    def answer(self, item: Item, question: str) -> str:
        """The exact answer to one of the item's proposed questions; raises KeyError for any other."""
        return _pairs(item, self.words)[question]


def sentences(text: str, *, code: bool = False, chinese: bool = False) -> list[list[str]]:
    """The sentences of each paragraph, in order: all of the text but the white space around them.

    >>> sentences("Calis leads, e.g. here. Who\\nguards?\\n\\n1. Bardan.\\n- Marlow")
    [['Calis leads, e.g. here.', 'Who\\nguards?'], ['1. Bardan.', '- Marlow']]
    >>> sentences("王安领头。他说：“好！”\\n谁？", chinese=True), sentences("a = 1. \\n  b", code=True)
    ([['王安领头。', '他说：“好！”'], ['谁？']], [['a = 1.', 'b']])
    """
    blocks = text.split("\n") if chinese and not code else _BLANK.split(text)
    parts = (block.split("\n") if code else _split(block) for block in blocks)
    stripped = ([part.strip() for part in block if part.strip()] for block in parts)
    return [block for block in stripped if block]


def _split(block: str) -> Iterator[str]:
    begin = 0
    for end in _ENDS.finditer(block):
        part = block[begin : end.start()]
        # the number of a list's item, or stray marks, belong to what follows
        if len(part) > LONGEST_MARK or not _MARK.fullmatch(part):
            yield part
            begin = end.end()
    yield block[begin:]


@lru_cache(maxsize=8)
def _pairs(item: Item, words: int) -> dict[str, str]:
    """The questions with their answers: those without a fault, five parts of the text in turn."""
    makers = _Makers(item, words)
    kept: dict[str, str] = {}
    for make, places in makers.families():
        for place in _in_turn(range(places), makers.rng):
            if len(kept) == prompts.MOST_QUESTIONS:
                return kept
            question, answer = make(place) or ("", "")
            if question and question not in kept and makers.faultless(question, answer):
                kept[question] = answer
    return kept


def _in_turn(places: Sequence[int], rng: Random) -> Iterator[int]:
    """Places drawn from each fifth of the text in turn, until all are drawn."""
    ends = [len(places) * part // 5 for part in range(6)]
    fifths = [rng.sample(places[start:end], end - start) for start, end in zip(ends, ends[1:], strict=False)]
    return (place for place in chain.from_iterable(zip_longest(*fifths)) if place is not None)


class _Makers:
    """Makes the question and answer of a place in an item's text, or None where the place has none."""

    def __init__(self, item: Item, words: int) -> None:
        self.item, self.most_words, self.rng = item, words, Random(item.seed)
        code, chinese = item.document.source == "code", item.document.language == "zh"
        self.blocks = sentences(item.text, code=code, chinese=chinese)
        self.all = list(chain.from_iterable(self.blocks))
        self.by_pairs = chinese and not code
        self.words = [_words(sentence, by_pairs=self.by_pairs) for sentence in self.all]
        self.places: dict[str, list[int]] = defaultdict(list)
        for place, found in enumerate(self.words):
            for word in found:
                self.places[word].append(place)
        self.times = Counter(map(_line, self.all))
        self.forms = _FORMS[item.document.language]
        self.unit, self.block = self.forms["lines" if code else "units"]

    def families(self) -> list[tuple[Callable[[int], Pair | None], int]]:
        """The makers of the item's task with their numbers of places, each for where those before make too few."""
        count = len(self.all)
        if self.item.task == "summary":
            singles = [[sentence] for sentence in self.all]
            by_sentence = (partial(self.summary, ("all",), singles, _sorted(singles)), count)
            by_block = (partial(self.summary, ("first", "last"), self.blocks, _sorted(self.blocks)), len(self.blocks))
            return [by_block, by_sentence] if len(self.blocks) >= FEWEST_PARAGRAPHS else [by_sentence]
        return {
            "information extraction": [(self.find, count), (self.next, count)],
            "general": [(self.next, count), (self.find, count)],
            "reasoning": [(self.hop, count), (self.count, count)],
        }[self.item.task]

    def faultless(self, question: str, answer: str) -> bool:
        fault = checks.problem(answer, question=question, item=self.item, words=self.most_words)
        return not (fault or checks.question_problem(question, self.item))

    def find(self, place: int) -> Pair | None:
        alone = self.alone(place)
        if not alone or not self.usable(place):
            return None
        return self.ask("find", word=self.shown(place, self.rng.choice(alone))), self.all[place]

    def next(self, place: int) -> Pair | None:
        quoted = _line(self.all[place])
        if place + 1 == len(self.all) or self.times[quoted] > 1 or not self.usable(place) or not self.usable(place + 1):
            return None
        return self.ask("next", quoted=quoted), self.all[place + 1]

    def hop(self, place: int) -> Pair | None:
        alone = self.alone(place)
        shared = [word for word in self.words[place] if len(self.places[word]) == 2]
        if not alone or not shared:
            return None
        word = self.rng.choice(shared)
        (other,) = set(self.places[word]) - {place}
        if not self.usable(other):
            return None
        names = {"word": self.shown(place, self.rng.choice(alone)), "shared": self.shown(place, word)}
        return self.ask("hop", **names), self.all[other]

    def count(self, place: int) -> Pair | None:
        if not self.words[place]:
            return None
        # a word of few sentences, but of more than one
        word = min(self.words[place], key=lambda word: (len(self.places[word]) < 2, len(self.places[word]), word))
        shown = self.shown(place, word)
        return self.ask("count", word=shown), self.ask("counted", word=shown, count=len(self.places[word]))

    def summary(self, forms: Sequence[str], blocks: list[list[str]], ordered: list[str], place: int) -> Pair | None:
        form = self.rng.choice(forms)
        chosen: list[str] = []
        left = self.most_words
        most = max(2, min(MOST_IN_SUMMARY, len(blocks) // prompts.MOST_QUESTIONS))
        for block in blocks[place : place + most]:
            sentence = block[-1 if form == "last" else 0]
            left -= checks.length(sentence, self.item.document.language)
            if left < 0 or not _words(sentence, by_pairs=self.by_pairs):
                break
            chosen.append(sentence)
        names = [_name(blocks[index]) for index in (place, place + len(chosen) - 1)]
        if len(chosen) < 2 or any(_starts(ordered, name) > 1 for name in names):
            return None
        return self.ask(form, begin=names[0], end=names[1]), "\n".join(chosen)

    def ask(self, form: str, **names: object) -> str:
        return self.forms[form].format(unit=self.unit, block=self.block, **names)

    def alone(self, place: int) -> list[str]:
        return [word for word in self.words[place] if len(self.places[word]) == 1]

    def shown(self, place: int, word: str) -> str:
        return self.words[place][word]

    def usable(self, place: int) -> bool:
        """Whether a sentence says enough to be quoted, and not too much."""
        return len(self.words[place]) >= 2 and len(self.all[place]) <= LONGEST


def _words(sentence: str, *, by_pairs: bool) -> dict[str, str]:
    """The words of a sentence in small letters, with how they stand in it."""
    if not by_pairs:
        return {word.lower(): word for word in reversed(_WORDS.findall(sentence))}
    pairs = (run[place : place + 2] for run in _RUNS.findall(sentence) for place in range(len(run) - 1))
    return {pair: pair for pair in pairs if not _COMMON & set(pair)}


def _line(text: str) -> str:
    return " ".join(text.split())


def _name(block: list[str]) -> str:
    """How a block begins, in whole words where it has any."""
    line = _line(block[0])
    return line if len(line) <= NAMED else line[: NAMED + 1].rpartition(" ")[0] or line[:NAMED]


def _sorted(blocks: list[list[str]]) -> list[str]:
    return sorted(_line(block[0])[: NAMED + 1] for block in blocks)


def _starts(ordered: list[str], name: str) -> int:
    """How many of the sorted lines begin with a name."""
    return bisect_right(ordered, name + "\U0010ffff") - bisect_left(ordered, name)
