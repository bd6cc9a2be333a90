"""Array types for signatures: checked under pytest when jaxtyping is installed, plain `Any` (and free) when it is not.

Axes: sequences, in the order in which `lengths` gives them; tokens of all of these, laid end to end; offsets, the
sequences + 1 boundaries between them. One axis has a leading space, so that linters do not read it as a name.
"""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

try:
    from jaxtyping import Bool, Float, Int, Integer
except ImportError:

    class _Unchecked:
        """Stands in for a jaxtyping type: any subscription is `Any`."""

        def __class_getitem__(cls, item: Any) -> Any:
            return Any

    Bool = Float = Int = Integer = _Unchecked  # type: ignore[assignment,misc]  # stands in for all of them

__all__ = ["IGNORE_INDEX", "Bool", "Counts", "Float", "Int", "Integer", "as_counts"]

# The label of a token without loss, as everywhere in Hugging Face's libraries.
IGNORE_INDEX = -100

# What planning takes: a list, tuple or range of ints, or one array, of sequence lengths or of target counts.
Counts = Sequence[SupportsIndex] | Integer[np.ndarray, " sequences"]


def as_counts(values: Any, *, name: str = "lengths") -> Int[np.ndarray, " sequences"]:
    """Lengths or target counts, in tokens, as one int64 array; nothing is rounded, clipped or flattened.

    Raises ValueError, which calls them by `name`, where they are not one axis, no integers, or below zero.

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
