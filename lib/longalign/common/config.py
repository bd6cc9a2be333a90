"""YAML becomes dataclasses: a key that is misspelt or stands twice, and a wrong type, are refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from longalign.common import paths


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
    """`value` as the type `wanted` (a dataclass, tuple[T, ...], tuple[A, B], list[T], T | None, bool, int, float, str;
    of T | tuple[...], the second where it is a list).

    A whole number is a float, a list is a tuple; nothing else is converted. Raises ConfigError that names `where`
    (file), `key` (dotted) and the expected type.

    >>> typed([2, 4, 3], tuple[int, ...], where="here", key="lengths")
    (2, 4, 3)
    >>> typed("3", int, where="here", key="training.epochs")
    Traceback (most recent call last):
    longalign.common.config.ConfigError: here: training.epochs must be int, not str '3'
    """
    if dataclasses.is_dataclass(wanted):
        return _typed_dataclass(value, wanted, where=where, key=key)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        of_its_form = [a for a in kinds if (typing.get_origin(a) in (tuple, list)) == isinstance(value, list | tuple)]
        inner = (of_its_form or kinds)[0]
        return typed(value, inner, where=where, key=key)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        kinds = arguments if origin is tuple and arguments[-1] is not ... else arguments[:1] * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: {key} must hold {len(kinds)} values, not {list(value)}")
        pairs = enumerate(zip(value, kinds, strict=True))
        return origin(typed(v, kind, where=where, key=f"{key}[{i}]") for i, (v, kind) in pairs)
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


def read_yaml(path: Path | str) -> Any:
    """What a YAML file says. Raises ConfigError, naming the file, where it cannot be read."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{paths.relative(path)}: not readable as YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{paths.relative(path)}: {error.strerror}") from None


def parse_yaml(text: str) -> Any:
    """What a YAML text says. Raises YAMLError, also for what the parser has no room or no numbers for."""
    try:
        return yaml.load(text, Loader=Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, a 30th of February
        raise yaml.YAMLError(str(error)) from None


class Loader(yaml.SafeLoader):
    """Safe YAML with the floats of YAML 1.2 (3e-3 is a number) and without silently repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
