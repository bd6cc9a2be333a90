"""Two sets that the claims of later papers ask for: input length x output length, and a document against memory.

`cells`: the same kind of fact is asked for in short and long documents, one fact or four: "long input - short output"
differs from "long input - long output" in nothing but how much is asked.

`conflicts`: multiple choice on what continual training taught by heart (`longalign.miniature.samples.known_facts`).
In "document against memory" a document states another value of a known key, which is right; memory's is among the wrong
ones. In "memory alone" the document does not name the key, and memory's value is right.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from longalign.miniature import tasks
from longalign.miniature.benchmarks.building import SOURCES, draw_document, fit, make_item, random_numbers
from longalign.miniature.documents import write_document
from longalign.miniature.samples import known_facts
from longalign.miniature.settings import Evaluation
from longalign.miniature.styles import STYLES
from longalign.miniature.token_length import draws
from longalign.miniature.world import Fact, FactSource, World

SHORT = 128
FACTS = 4
"""Facts of a long output; every document holds at least so many."""
WRONG = 3
DOCUMENT = 80


def cells(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """`cell_questions` items of each of four sets, English, of 128 tokens or the longest of the evaluation's."""
    for read, length in (("short", SHORT), ("long", max(evaluation.lengths))):
        for written, count in (("short", 1), ("long", FACTS)):
            for index in range(evaluation.cell_questions):
                yield _cell(f"{read} input - {written} output", index, length, count)


def _cell(task: str, index: int, length: int, count: int) -> dict[str, Any]:
    rng = random_numbers(task, index)

    def make(tokens: int) -> dict[str, Any]:
        document = draw_document(rng, "en", tokens, lambda world: len(world.of("deed")) >= FACTS)
        world = World({"deed": rng.sample(document.world.of("deed"), count)})
        asked = tasks.ask(rng, world, "lookup" if count == 1 else "table", language="en")
        while asked.answer.count(".") < count:
            asked = tasks.ask(rng, world, "table", language="en")
        return make_item(task, index, document, [(asked.question, asked.answer)], task=task, asked=asked, cell=length)

    return fit(length, make)


def conflicts(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """`conflict_questions` items of each of the two sets, at most 128 tokens; the known facts come in turn."""
    known = known_facts()
    for task in ("document against memory", "memory alone"):
        for index in range(evaluation.conflict_questions):
            rng = random_numbers(task, index)
            fact = known[index % len(known)]
            others = [Fact("deed", fact.key, other.value, "en") for other in rng.sample(known, WRONG + 2)
                      if other.value != fact.value]  # fmt: skip
            yield _choice(rng, task, index, fact, others)


def _choice(rng: Random, task: str, index: int, fact: Fact, others: list[Fact]) -> dict[str, Any]:
    against = task.startswith("document")
    right, wrong = (others[0], [fact, *others[1:WRONG]]) if against else (fact, others[:WRONG])
    source = rng.choice(SOURCES["en"])
    for _ in draws(SHORT):
        placed = {"placed": (right, rng.random())} if against else {}
        document = write_document(rng, source, DOCUMENT, facts=FactSource(rng, STYLES[source]), **placed)
        asked = tasks.ask(rng, World({"deed": [right]}), "lookup", language="en")
        place = rng.randrange(WRONG + 1)
        options = [other.text for other in wrong]
        options.insert(place, right.text)
        item = make_item(task, index, document, [(asked.question, asked.answer)], task=task, asked=asked,
                         options=options, right=place, form="chat")  # fmt: skip
        if item["length"] <= SHORT:
            return item
