"""Whether sequences suit a model: ids that it knows, positions that it has, and something to learn."""

import re
from typing import Any

import numpy as np
from torch import nn

from longalign.common.array_types import IGNORE_INDEX
from longalign.data.store import TokenStore
from longalign.recipe.dataset import Sequences, measure

POSITIONS = re.compile(r"(^|_)(wpe|pos|position|positions)(_|$)")
"""Names under which models keep a table of positions."""


def check(model: Any, sequences: Sequences) -> tuple[list[str], int]:
    """What ought to be known, a line each, and the length of the longest sequence.

    Raises ValueError for ids that the model does not know, for a sequence longer than its table of positions or without
    a label for each token, and where no sequence has a target.

    >>> from longalign.train.models import new_model
    >>> model = new_model("mini-6b", vocab_size=16, max_length=3, seed=0)
    >>> check(model, [{"input_ids": [7] * n, "labels": [7] * n} for n in (2, 4, 3)])
    (['the longest sequence has 4 tokens, more than the 3 positions that the model was made for'], 4)
    """
    lengths, counts = (
        (sequences.lengths, sequences.target_counts) if isinstance(sequences, TokenStore) else measure(sequences)
    )
    if not len(lengths):
        raise ValueError("there is no sequence; there is nothing to train on")
    if not counts.any():
        raise ValueError(
            f"none of the {len(lengths):,} sequences has a target (all labels are -100): there is nothing to learn; "
            "look at what was masked when they were tokenized"
        )
    others = 0 if isinstance(sequences, TokenStore) else _with_other_labels(sequences)
    number, known = _unknown(model, sequences)
    if number is not None:
        raise ValueError(
            f"sequence {number} holds the token id {known[0]}, but {type(model).__name__} knows the ids 0 to "
            f"{known[1] - 1}: tokenize with the model's own tokenizer"
        )
    longest, name = int(lengths.max()), type(model).__name__
    table = positions(model)
    if table is not None and longest > table:
        raise ValueError(
            f"sequence {int(lengths.argmax())} has {longest:,} tokens, but {name} has a table of {table:,} positions: "
            f"tokenize with a maximum length of {table}"
        )
    notes, config = [], model.config.get_text_config()
    if table is None and longest > (made_for := getattr(config, "max_position_embeddings", None) or longest):
        notes.append(
            f"the longest sequence has {longest:,} tokens, more than the {made_for:,} positions that the model was "
            "made for"
        )
    if without := int((counts == 0).sum()):
        notes.append(f"{without:,} of {len(lengths):,} sequences have no target: nothing is learnt from them")
    if (token := _padded_with(model, sequences)) is not None:
        notes.append(f"the model pads with token {token}, which the sequences hold, too: as its input it is never "
                     "learnt; set model.get_input_embeddings().padding_idx to None")  # fmt: skip
    if others:
        notes.append(f"{others:,} of {len(lengths):,} sequences have labels that are neither their own tokens nor "
                     f"{IGNORE_INDEX}: these are learnt as they are, and only {IGNORE_INDEX} leaves a token out")
    return notes, longest


def vocabulary(model: Any) -> int:
    """How many ids the model can read and write."""
    return min(_readable(model), _writable(model))


def _readable(model: Any) -> int:
    table = model.get_input_embeddings()
    return getattr(table, "num_embeddings", None) or model.config.get_text_config().vocab_size


def _writable(model: Any) -> int:
    """Fewer than it reads where some ids stand for images (Llama 3.2 Vision)."""
    return getattr(model.get_output_embeddings(), "out_features", None) or _readable(model)


def positions(model: nn.Module) -> int | None:
    """How many positions the model has a table for, learned or computed beforehand; None where it computes them."""
    model = model.get_decoder() if hasattr(model, "get_decoder") else model  # without a part that sees images
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding) and POSITIONS.search(name.rpartition(".")[2]):
            # RoBERTa's kind counts from behind the padding token's number
            first = 0 if part.padding_idx is None else part.padding_idx + 1
            return part.num_embeddings - getattr(part, "offset", first)
    for name, buffer in model.named_buffers():
        if buffer.ndim == 2 and POSITIONS.search(name.rpartition(".")[2]) and buffer.is_floating_point():
            return len(buffer)
    return None


def _unknown(model: Any, sequences: Sequences) -> tuple[int | None, tuple[int, int]]:
    """The first sequence with an id that the model does not know, that id, and how many ids it knows."""
    sizes = {"input_ids": _readable(model), "labels": _writable(model)}
    if isinstance(sequences, TokenStore) and _within(sequences.id_range(), vocabulary(model)):
        return None, (0, vocabulary(model))
    for number in range(len(sequences)):
        for name, size in sizes.items():
            ids = np.asarray(sequences[number][name])
            ids = ids[ids != IGNORE_INDEX] if name == "labels" else ids
            if len(ids) and not _within((ids.min(), ids.max()), size):
                return number, (int(ids.max() if ids.max() >= size else ids.min()), size)
    return None, (0, vocabulary(model))


def _with_other_labels(sequences: Sequences) -> int:
    """How many sequences learn other tokens than their own, such as those that are masked with 0."""
    others = 0
    for number in range(len(sequences)):
        ids, labels = (np.asarray(sequences[number][name]) for name in ("input_ids", "labels"))
        others += bool(((labels != ids) & (labels != IGNORE_INDEX))[1:].any())
    return others


def _padded_with(model: Any, sequences: Sequences) -> int | None:
    """The token of which a trained embedding takes no gradient, where a sequence holds it before its last token."""
    layer = model.get_input_embeddings()
    token = getattr(layer, "padding_idx", None)
    if token is None or isinstance(sequences, TokenStore):  # a training of a store sets it to None
        return None
    if not any(parameter.requires_grad for parameter in layer.parameters()):
        return None
    held = any(token in np.asarray(sequences[number]["input_ids"])[:-1] for number in range(len(sequences)))
    return token if held else None


def _within(found: tuple[int, int], size: int) -> bool:
    return 0 <= found[0] and found[1] < size
