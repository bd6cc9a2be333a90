"""YAML as people mean it: 3e-3 is a number, and a key that stands twice is an error, not a silent choice."""

import re
from collections.abc import Hashable
from typing import Any

import yaml


def load(text: str) -> Any:
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
