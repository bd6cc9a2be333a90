"""The `parameters` cell of a notebook: which names it declares, of which types, and whether given values fit them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nbformat

from longalign.common.config import ConfigError, nearest, typed
from longalign.experiments.profiles import MOST_SEEDS

REPLAY = "replay"
"""The parameter of a notebook that can be drawn from the committed tables."""


@dataclass(frozen=True)
class Parameter:
    """A name of the `parameters` cell, with its annotation (a type) and whether the cell annotates it."""

    name: str
    annotation: Any


def declared_parameters(notebook: nbformat.NotebookNode) -> dict[str, Parameter]:
    """The annotated names of the cell tagged `parameters`, in order.

    >>> cell = nbformat.v4.new_code_cell("profile: str = 'smoke'\\nlengths: list[int] = [2, 4, 3]")
    >>> cell.metadata["tags"] = ["parameters"]
    >>> list(declared_parameters(nbformat.v4.new_notebook(cells=[cell])))
    ['profile', 'lengths']
    """
    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    found = {}
    for statement in (s for c in cells for s in ast.parse(c.source).body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = eval(compile(ast.Expression(statement.annotation), "<parameters>", "eval"))
            found[statement.target.id] = Parameter(statement.target.id, annotation)
    return found


def check_parameters(notebook: nbformat.NotebookNode, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`values` typed as the parameters cell declares them.

    Raises ConfigError for a name that the cell does not declare (with the nearest one), a wrong type, absurd seeds.
    """
    declared = declared_parameters(notebook)
    for name in values:
        if name not in declared:
            raise ConfigError(f"{where}: unknown parameter {name}: {nearest(name, declared)}")
    checked = {n: typed(v, declared[n].annotation, where=where, key=n) for n, v in values.items()}
    if not 0 <= checked.get("seeds", 0) <= MOST_SEEDS:
        raise ConfigError(f"{where}: seeds must lie from 0 (the profile's own) to {MOST_SEEDS}")
    return checked
