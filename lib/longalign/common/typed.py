"""Plain data, as YAML gives it, becomes dataclasses: a misspelt key or a wrong type is refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Any


class ConfigError(ValueError):
    """A profile, a key or a value that cannot be used; the message names file, key and what to do."""


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A phrase that helps with a misspelt name.

    >>> nearest("capcity", ["capacity", "rows"])
    "did you mean 'capacity'?"
    >>> nearest("x", ["capacity", "rows"])
    'valid: capacity, rows'
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names) or 'none'}"


def typed(value: Any, wanted: Any, *, where: str, key: str = "") -> Any:
    """`value` as the type `wanted` (a dataclass, tuple[T, ...], list[T], T | None, bool, int, float, str).

    A whole number is a float, a list is a tuple; nothing else is converted. Raises ConfigError that names `where`
    (file), `key` (dotted) and the expected type.

    >>> typed([2, 4, 3], tuple[int, ...], where="here", key="lengths")
    (2, 4, 3)
    >>> typed("3", int, where="here", key="training.epochs")
    Traceback (most recent call last):
    longalign.common.typed.ConfigError: here: training.epochs must be int, not str '3'
    """
    if dataclasses.is_dataclass(wanted):
        return _typed_dataclass(value, wanted, where=where, key=key)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return typed(value, inner, where=where, key=key)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(typed(v, arguments[0], where=where, key=f"{key}[{i}]") for i, v in enumerate(value))
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is float and type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{where}: {key} must be a finite number, not {value}")
    if origin is None and type(value) is wanted:
        return value
    name = wanted.__name__ if isinstance(wanted, type) and origin is None else str(wanted)
    raise ConfigError(f"{where}: {key or 'the file'} must be {name}, not {type(value).__name__} {value!r}")


def _typed_dataclass(value: Any, wanted: Any, *, where: str, key: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key or 'the file'} must hold keys and values, not {type(value).__name__}")
    hints = typing.get_type_hints(wanted)
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            raise ConfigError(f"{where}: unknown key {prefix}{name}: {nearest(str(name), hints)}")
    for f in dataclasses.fields(wanted):
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in value:
            raise ConfigError(f"{where}: the key {prefix}{f.name} is missing")
    fields = {n: typed(v, hints[n], where=where, key=prefix + n) for n, v in value.items()}
    try:
        return wanted(**fields)
    except ValueError as error:
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'the file'}: {error}") from None
