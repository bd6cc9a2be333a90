"""Greedy decoding of many prompts side by side: each gets the tokens that it would get alone.

Prompts of about one length share a batch. They are read in packs, without padding, and the last layer only at their
last tokens; then every pass writes one token of each answer, with all keys and values kept. Rows whose answer has ended
leave. "The tokens it would get alone" holds up to the rounding of floating-point sums, which decides where two tokens
are equally probable. Prompts of a model whose RoPE depends on the longest position are read one by one. The model needs
the attention "longalign".
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longalign.common.array_types import Float, Int
from longalign.recipe.architectures import OF_THE_LONGEST, mixers, rope_settings
from longalign.recipe.attention import NAME
from longalign.recipe.last_layer import logits_at, read_only_at

TOKENS_AT_ONCE = 16_384
"""Positions of a batch, room for answers included."""
READ_AT_ONCE = 2_048
"""Tokens of a pack, or one prompt: what a pass computes from more of them no longer fits into a processor's cache."""


@torch.no_grad()
def greedy(
    model: PreTrainedModel, prompts: Sequence[Int[Tensor, " T"]], *, end: int | Sequence[int], room: int,
    tokens: int = TOKENS_AT_ONCE,
) -> list[list[int]]:  # fmt: skip
    """The most probable tokens after each prompt, up to the token `end`, which is left out, or `room` of them.

    `end` may be several tokens, each of which ends an answer. At most `tokens` positions, prompts and room, are in a
    batch, or one prompt. The model is in evaluation mode meanwhile. Raises ValueError for a model without the attention
    "longalign", for an empty prompt, and without an end or room.
    """
    if model.config._attn_implementation != NAME:
        raise ValueError(f"greedy decoding needs a model with the attention {NAME!r}: load it by models.load_model")
    if empty := [number for number, prompt in enumerate(prompts) if not len(prompt)]:
        raise ValueError(f"prompt {empty[0]} is empty: give every prompt at least one token")
    ends = list(end) if isinstance(end, Sequence) else [end]
    if not ends or None in ends or room < 0:
        raise ValueError(f"end is {end} and room {room}: answers need a token that ends them and 0 tokens or more")
    for kind, what in mixers(model):
        raise ValueError(
            f"{type(model).__name__} cannot be decoded here: {kind} is {what}, whose keys and values cannot be kept"
        )
    if any(settings.get("rope_type") in OF_THE_LONGEST for settings in rope_settings(model.config)):
        tokens = 0
    training, written = model.training, [[] for _ in prompts]
    model.eval()
    try:
        for batch in batches([len(prompt) for prompt in prompts], room, tokens):
            for i, answer in zip(batch, _continued(model, [prompts[i] for i in batch], ends, room), strict=True):
                written[i] = answer
    finally:
        model.train(training)
    return written


def batches(lengths: Sequence[int], room: int, tokens: int) -> list[list[int]]:
    """Indices in batches of about one length, the longest first, of at most `tokens` positions each.

    >>> batches([2, 4, 3], room=1, tokens=10)
    [[1, 2], [0]]
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not found or (len(found[-1]) + 1) * (lengths[found[-1][0]] + room) > tokens:
            found.append([])
        found[-1].append(i)
    return found


class KeyValues:
    """Keys and values of a batch in every layer, [rows, G, room of the longest row, D]; row b holds `lengths[b]`."""

    def __init__(self, lengths: Int[Tensor, " rows"], room: int) -> None:
        self.lengths, self.size = lengths, int(lengths.max()) + room
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.read_on([])

    def read_on(self, rows: list[int]) -> None:
        """The next pack that is read consists of these rows."""
        self.reading, self._kept = rows, set[int]()

    def keep(self, layer: int, key: Float[Tensor, "1 G T D"], value: Float[Tensor, "1 G T D"]) -> None:
        """Take over those of the pack that is being read."""
        if layer in self._kept:
            raise ValueError(f"layer {layer} attends more than once for a token, so that its keys cannot be kept")
        self._kept.add(layer)
        if layer not in self.layers:
            shape = (len(self.lengths), key.shape[1], self.size)
            self.layers[layer] = (key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3]))
        lengths = self.lengths[self.reading].tolist()
        for kept, states in zip(self.layers[layer], (key, value), strict=True):
            for row, own in zip(self.reading, states[0].split(lengths, 1), strict=True):
                kept[row, :, : own.shape[1]] = own

    def attend(
        self, layer: int, query: Float[Tensor, "rows H 1 D"], key: Tensor, value: Tensor, scaling: float | None,
        *, own: Callable[..., Tensor] | None = None, visible: Callable[..., Tensor] | None = None,
    ) -> Float[Tensor, "rows 1 H D"]:  # fmt: skip
        """Add one token's key and value [rows, G, 1, D] to each row, and attend from it to all of its row.

        `visible` says which of them a window leaves (`longalign.recipe.masks`), `own` is the model's own attention,
        where it is more than softmax of scaled products (`longalign.recipe.own_attention`).
        """
        every = torch.arange(len(self.lengths), device=query.device)
        longest = int(self.lengths.max()) + 1
        keys, values = self.layers[layer]
        for kept, new in ((keys, key), (values, value)):
            kept[every, :, self.lengths] = new[:, :, 0].to(kept.dtype)
        every_key = torch.arange(longest, device=query.device)
        seen = every_key <= self.lengths[:, None]
        if visible is not None:
            seen &= visible(self.lengths[:, None], every_key)[:, 0, 0]
        if own is not None:
            return own(query, keys[:, :, :longest], values[:, :, :longest], seen[:, None, None])
        # The heads that share a key are rows of one product, so that keys are read once.
        grouped = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
        out = nn.functional.scaled_dot_product_attention(
            grouped, keys[:, :, :longest], values[:, :, :longest], attn_mask=seen[:, None, None], scale=scaling
        )
        return out.flatten(1, 2)[:, None]

    def leave(self, staying: Int[Tensor, " staying"]) -> None:
        """Go on with these rows alone."""
        self.lengths = self.lengths[staying]
        self.layers = {layer: (keys[staying], values[staying]) for layer, (keys, values) in self.layers.items()}


def _continued(model: PreTrainedModel, prompts: Sequence[Tensor], ends: list[int], room: int) -> list[list[int]]:
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    kept, rows = KeyValues(lengths, room), torch.arange(len(prompts), device=model.device)
    every = rows
    found = torch.full((len(prompts), room), ends[0], device=model.device)
    stops = torch.tensor(ends, device=model.device)
    packs = batches(lengths.tolist(), 0, READ_AT_ONCE)  # of rows in order: the longest prompt is the first
    following = torch.cat([_read(model, [prompts[i] for i in pack], pack, kept) for pack in packs])
    for place in range(room):
        found[rows, place] = following
        going = ~torch.isin(following, stops)
        if place + 1 == room or not going.any():
            break
        if 2 * int(going.sum()) <= len(rows):  # copying what is kept pays when half of it goes
            staying = going.nonzero()[:, 0]
            kept.leave(staying)
            rows, following = rows[staying], following[staying]
        at = every[: len(rows)]
        following = _next(model, kept, at, input_ids=following[:, None], position_ids=kept.lengths[:, None])
        following = torch.where(torch.isin(found[rows, : place + 1], stops).any(dim=1), ends[0], following)
        kept.lengths = kept.lengths + 1
    return [list(itertools.takewhile(lambda token: token not in ends, answer)) for answer in found.tolist()]


def _read(
    model: PreTrainedModel, prompts: Sequence[Tensor], rows: list[int], kept: KeyValues
) -> Int[Tensor, " prompts"]:
    """The token after each prompt of a pack; its keys and values are kept in its row."""
    kept.read_on(rows)
    lengths = kept.lengths[rows]
    tokens = torch.cat(list(prompts)).to(model.device)
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
    places = torch.arange(len(tokens), device=tokens.device) - offsets[:-1].repeat_interleave(lengths)
    last = offsets[1:] - 1
    with read_only_at(model, last, 1, len(tokens)):
        following = _next(
            model, kept, last, input_ids=tokens[None], position_ids=places[None],
            cu_seqlens=offsets.int(), max_seqlen=kept.size,
        )  # fmt: skip
    if not kept.layers:
        raise ValueError(f"{type(model).__name__} cannot be decoded here: its layers hand no key_values to attention")
    return following


def _next(model: PreTrainedModel, kept: KeyValues, at: Int[Tensor, " n"], **inputs: object) -> Int[Tensor, " n"]:
    return logits_at(model, at, {**inputs, "use_cache": False, "key_values": kept}).argmax(-1)
