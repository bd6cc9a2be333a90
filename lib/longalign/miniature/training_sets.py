"""The paper's training suites and the test set in miniature: JSONL in LongAlign-10k's schema, then token stores.

LongAlign-0k to -10k are nested: the short instructions, plus none to all of the long ones. In place of the long ones,
LongAlpaca-12k's analogue brings long questions of two kinds on papers and books only, and short ones of the same kinds.
A further suite has its sources and all kinds of questions, so that an experiment can tell source from kind.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from longalign.common import provenance
from longalign.common.array_types import IGNORE_INDEX
from longalign.data.chat import Encoded
from longalign.data.jsonl import DataError
from longalign.data.store import TokenStore, write_store
from longalign.data.tokenize_files import tokenize_jsonl
from longalign.miniature import samples, tasks, tokenizer
from longalign.miniature.settings import Corpus, Evaluation
from longalign.miniature.token_length import count_with

OTHER_SHARE = 0.1
DOSES = {"LongAlign-0k": 0, "LongAlign-2.5k": 0.25, "LongAlign-5k": 0.5, "LongAlign-7.5k": 0.75, "LongAlign-10k": 1}
"""The share of the long instructions in each suite of the paper's own data; the paper trains on 0k, 5k and 10k."""
ALL_KINDS = "LongAlpaca, all kinds"
ALPACA = {"LongAlpaca-12k": samples.ALPACA_FAMILIES, ALL_KINDS: tuple(tasks.FAMILIES)}
"""The kinds of questions in each suite that has LongAlpaca's sources and numbers of samples."""
SUITES = (*DOSES, "LongAlpaca-12k")
"""The suites of the paper."""
SURROGATE = re.compile("[\ud800-\udfff]")
_verified: set[Path] = set()  # stores of which this process has read every byte


def suite(name: str, corpus: Corpus) -> Iterator[dict[str, Any]]:
    """The samples of a suite, long ones first, then the short ones that every suite has.

    Raises KeyError for an unknown name, naming the suites.
    """
    if name not in (known := (*SUITES, ALL_KINDS)):
        raise KeyError(f"no suite is called {name!r}; there are: {'; '.join(known)}")
    long = {"min_length": corpus.min_long, "max_length": corpus.max_length}
    if name in ALPACA:
        alpaca = {"sources": samples.ALPACA_SOURCES, "families": ALPACA[name]}
        short = {"min_length": min(48, corpus.max_short), "max_length": corpus.max_short}
        for kind, count, lengths in (
            ("alpaca", corpus.longalpaca_long, long), ("alpaca-short", corpus.longalpaca_short, short)
        ):  # fmt: skip
            yield from (samples.instruction(kind, corpus.seed, i, **lengths, **alpaca) for i in range(count))
    else:
        count = round(corpus.long * DOSES[name])
        yield from (samples.instruction("long", corpus.seed, i, **long) for i in range(count))
    yield from (samples.dialogue("short", corpus.seed, i, max_length=corpus.max_short) for i in range(corpus.short))


def evaluation_set(evaluation: Evaluation, *, seed: int = 0, heldout: bool = False) -> Iterator[dict[str, Any]]:
    """New documents for every task and length: `per_cell` samples of at most the length, which becomes `cell`.

    A document stops at the last sentence that fits, so samples are somewhat shorter, short ones most.
    With `heldout`, the question templates are those that no training sample uses.
    """
    kind = "heldout" if heldout else "test"
    for task in evaluation.tasks:
        for length in evaluation.lengths:
            for i in range(evaluation.per_cell):
                sample = samples.instruction(
                    f"{kind}-{task}-{length}", seed, i, min_length=int(0.9 * length), max_length=length,
                    heldout=heldout, families=(task,),
                )  # fmt: skip
                yield {**sample, "cell": length}


def write_jsonl(path: Path | str, rows: Iterator[Mapping[str, Any]]) -> Path:
    """One JSON object a line, UTF-8 (half of a surrogate pair as it is escaped in JSON), written atomically."""
    with provenance.atomic(Path(path)) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False)
            file.write((json.dumps(row) if SURROGATE.search(line) else line) + "\n")
    return Path(path)


def suite_store(name: str, corpus: Corpus, folder: Path | str, *, encode: Any = None) -> TokenStore:
    """The suite as JSONL and token store below `folder`, built where it is missing.

    `encode` is the tokenizer that lengths are measured and texts are written in; None is the miniature's.
    """
    return rows_store(Path(folder) / name, lambda: suite(name, corpus), max_length=corpus.max_length, encode=encode)


def rows_store(
    folder: Path, rows: Callable[[], Iterator[Mapping[str, Any]]], *, max_length: int, encode: Any = None,
    skip_invalid: bool = False,
) -> TokenStore:  # fmt: skip
    """The samples that `rows()` yields as a token store in `folder` and JSONL beside it, built where it is missing.

    `encode` as in `suite_store`, `skip_invalid` as in `longalign.data.tokenize_files.tokenize_jsonl`.
    """
    jsonl = folder.with_name(folder.name + ".jsonl")

    def build() -> TokenStore:
        write_jsonl(jsonl, rows())
        words = encode or tokenizer.load()
        return tokenize_jsonl(jsonl, words, folder, max_length=max_length, skip_invalid=skip_invalid)

    with provenance.alone(folder.with_name(f".{folder.name}.lock")), count_with(encode):
        store = _whole(folder, build)
        if not jsonl.is_file() or jsonl.stat().st_size != store.manifest["source"]["bytes"]:
            write_jsonl(jsonl, rows())
    return store


def _whole(folder: Path, build: Callable[[], TokenStore]) -> TokenStore:
    """The token store in `folder`, built where there is none, and again where a file is not as it was written."""
    if folder.is_dir():
        try:
            store = TokenStore(folder, verify=folder not in _verified)
            _verified.add(folder)
            return store
        except DataError as error:
            print(f"{error}; it is built again")
            shutil.rmtree(folder)
    return build()


def documents_store(
    kind: str, folder: Path | str, *, tokens: int, lengths: tuple[int, int], recall_share: float, seed: int = 0,
    memory_share: float = 0.0, encode: Any = None,
) -> TokenStore:  # fmt: skip
    """Pre-training documents of `lengths` = (min, max) tokens, `tokens` in all, as a token store, built where missing.

    A share `memory_share` states known facts, of the rest a share `recall_share` are recall documents, and the others
    end in questions with their answers. Every token of an
    answer is a target, and of the others OTHER_SHARE: most of them cannot be predicted and would drown those that can.
    `encode` as in `suite_store`.
    """
    folder = Path(folder)
    meta = {"kind": kind, "seed": seed, "recall_share": recall_share, "lengths": list(lengths)}
    with provenance.alone(folder.with_name(f".{folder.name}.lock")), count_with(encode):
        if memory_share:
            meta["memory_share"] = memory_share
        documents = _documents(kind, tokens, lengths, (recall_share, memory_share), seed, encode)
        return _whole(folder, lambda: write_store(folder, documents, meta=meta))


def _documents(
    kind: str, tokens: int, lengths: tuple[int, int], shares: tuple[float, float], seed: int, encode: Any
) -> Iterator[Encoded]:
    recall_share, memory_share = shares
    index = 0
    while tokens > 0:
        rng = Random(f"{kind}:labels:{seed}:{index}")
        write = samples.recall_document if rng.random() < recall_share else samples.base_document
        if memory_share and rng.random() < memory_share:
            write = samples.memory_document
        document = encode_document(write(kind, seed, index, length=rng.randint(*lengths)), encode, rng)
        yield document
        tokens -= len(document.input_ids)
        index += 1


def encode_document(document: Mapping[str, Any], encode: Any, rng: Random | None = None) -> Encoded:
    """Tokens of a document with its answers, and (with `rng`) a share of its other tokens, as targets."""
    encode = encode or tokenizer.load()
    encoding = encode(document["text"], return_offsets_mapping=True, add_special_tokens=False)
    input_ids = np.array(encoding["input_ids"], dtype=np.int32)
    starts = np.array([start for start, _ in encoding["offset_mapping"]])
    target = np.array([rng is not None and rng.random() < OTHER_SHARE for _ in input_ids])
    for start, end in document["answers"]:
        # A word's offset begins at its leading space, one character before the answer.
        target |= (starts >= start - 1) & (starts < end)
    labels = np.where(target, input_ids, IGNORE_INDEX).astype(np.int32)
    return Encoded(input_ids=input_ids, labels=labels, truncated=0)


def recall_probe(tokens: int, count: int, *, encode: Any = None) -> list[dict[str, np.ndarray]]:
    """New documents of pre-training, at most `tokens` long, with the answers as targets: does a model read that far?

    `encode` as in `suite_store`.
    """
    with count_with(encode):
        documents = [samples.base_document(f"probe-{tokens}", 0, index, length=tokens) for index in range(count)]
    encoded = [encode_document(document, encode) for document in documents]
    return [{"input_ids": e.input_ids, "labels": e.labels} for e in encoded]
