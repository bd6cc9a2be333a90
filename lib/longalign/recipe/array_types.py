"""Array types for signatures: checked under pytest when jaxtyping is installed, plain `Any` (and free) when it is not.

Legend of the axis names used where lengths become plans:
    sequences  number of sequences, in the order in which `lengths` gives them
    tokens     all tokens of the sequences, laid end to end
    offsets    sequences + 1 boundaries between sequences
One-axis shapes carry a leading space (`" sequences"`), as jaxtyping advises, so that linters do not read them as names.
"""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

try:
    from jaxtyping import Bool, Float, Int, Integer, Shaped
except ImportError:

    class _Unchecked:
        """Stands in for a jaxtyping type: any subscription is `Any`."""

        def __class_getitem__(cls, item: Any) -> Any:
            return Any

    Bool = Float = Int = Integer = Shaped = _Unchecked

__all__ = ["IGNORE_INDEX", "Bool", "Counts", "Float", "Int", "Integer", "Shaped", "as_counts"]

# The label of a token without loss, as everywhere in Hugging Face's libraries.
IGNORE_INDEX = -100

# What planning takes: a list, tuple or range of ints, or one array, of sequence lengths or of target counts.
Counts = Sequence[SupportsIndex] | Integer[np.ndarray, " sequences"]


def as_counts(values: Any, *, name: str = "lengths") -> Int[np.ndarray, " sequences"]:
    """The values as one int64 array; nothing is rounded, clipped or flattened.

    Args:
        values: lengths or target counts, in tokens: shape [sequences], may be empty, zeros allowed.
        name: how the error message calls the values.

    Raises:
        ValueError: not one axis, not integers, or below zero (the message names the first such index).

    >>> as_counts([2, 4, 3])
    array([2, 4, 3])
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, one entry per sequence, but has shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers (tokens), but has dtype {array.dtype}")
    array = array.astype(np.int64)
    if array.size and array.min() < 0:
        first = int(np.argmax(array < 0))
        raise ValueError(f"{name}[{first}] is {array[first]}; a number of tokens cannot be negative")
    return array
