"""What a profile says of the miniature: its corpus, how its bases become long, its benchmarks."""

from dataclasses import dataclass

SHORTEST = 64
"""Tokens of the shortest samples that can be generated for every task."""


@dataclass(frozen=True)
class Corpus:
    """The generated corpus: counts of samples, lengths in tokens."""

    seed: int = 0
    long: int = 160
    short: int = 1400
    min_long: int = 128
    max_length: int = 1024
    max_short: int = 128
    longalpaca_long: int = 144
    longalpaca_short: int = 48


@dataclass(frozen=True)
class Extension:
    """Context extension: RoPE base times `rope_factor`, then continual training on `tokens` tokens of documents.

    `rope_type` "yarn" stretches RoPE's slow frequencies besides (`longalign.train.models.load_model`). With no tokens
    nothing is extended: the models are long as they come. A share `memory_share` of the documents states known facts
    without their source, to be learnt by heart (`longalign.miniature.samples.memory_document`).
    """

    tokens: int = 1_000_000
    rope_factor: float = 200.0
    rope_type: str = "default"
    learning_rate: float = 1e-3
    max_length: int = 1024
    memory_share: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """The benchmarks: lengths in tokens, counts of items (`longalign.miniature.benchmarks` says of what)."""

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    tasks: tuple[str, ...] = ("lookup", "table", "note", "translation", "chain", "calls", "summary")
    per_cell: int = 20
    heldout_per_cell: int = 10
    needle_lengths: tuple[int, ...] = (64, 128, 256, 384, 512, 640, 768, 960)
    needle_depths: int = 10
    needle_per_cell: int = 3
    longbench_per_task: int = 60
    chat_questions: int = 50
    short_per_task: int = 50
    cell_questions: int = 200
    conflict_questions: int = 200


def folder_name(model: str, base: int) -> str:
    """The folder of a base: the model's name for the first, with a number behind it for the others.

    >>> folder_name("mini-7b", 0), folder_name("mini-7b", 2)
    ('mini-7b', 'mini-7b-2')
    """
    return f"{model}-{base}" if base else model
