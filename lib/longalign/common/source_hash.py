"""A hash of the code that a result comes from, blind to where the code lies in this package.

The rule: a definition (function, class or constant at the top of a module) counts with its own source and with all
definitions of this package that it names, and that those name, and so on. A name stands for what it is bound to,
however it was imported. With

    loss.py     def mean(x): return sum(x) / SCALE          trainer.py  from longalign.loss import mean as average
                SCALE = 2                                                def train(x): return average(x)
                def other(x): return 0

`source_hash("trainer.train")` is the hash of three texts, numbered as they are met; [1] is the second one:

    def train(x): return [1](x)
    def mean(x): return sum(x) / [2]
    SCALE = 2

So `loss.py` may move, get another name or be split, and `other` may change: the hash stays. It changes with SCALE, and
with an import of another function in place of `mean`, unless both have the same source. Comments, docstrings, layout
and types do not count, except the types of a class's fields. Two things count with every definition of their module,
because they may fill a table: statements at its top that bind no name, and what this package decorates there.

These are not seen: files of data, other packages, what is reached by a name in a string (`getattr`, `importlib`) or
imported only for what its import does, and methods of an argument whose class no definition names.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import longalign

MARK = re.compile(r"⟦([\w.]+):(\w*)⟧")
"""Stands for the definition ⟦module:name⟧, or for the module itself: ⟦module:⟧."""
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_CLOSED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Import, ast.ImportFrom)
"""What is in these binds no name around them."""
_BINDING = {ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name", ast.ExceptHandler: "name",
            ast.MatchAs: "name", ast.MatchStar: "name", ast.MatchMapping: "rest", ast.arg: "arg"}  # fmt: skip


@cache
def source_hash(*names: str, without: tuple[str, ...] = ()) -> str:
    """Sixteen hex digits of the source of definitions of this package ("trainer.train") or whole modules ("timing").

    Of what is named in `without` (definitions, modules, folders with all below) only the name counts. Raises
    ValueError for a name that does not exist: given here, imported, or asked of a module.
    """
    return _OWN.hash(names, without)


class Package:
    """The package in a folder, read as text and not imported; a module is read when something names it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def hash(self, names: Iterable[str], without: Iterable[str] = ()) -> str:
        """`source_hash` of this package."""
        return hashlib.sha256("\0".join(self.texts(names, without)).encode()).hexdigest()[:16]

    def texts(self, names: Iterable[str], without: Iterable[str] = ()) -> list[str]:
        """What is hashed: the text of every definition that counts, in the order in which they are met."""
        order, left_out = list(dict.fromkeys(map(self._entry, names))), set(map(self._entry, without))
        number = {place: index for index, place in enumerate(order)}

        def numbered(found: re.Match[str]) -> str:
            place, folders = found.groups(), accumulate(found[1].split("."), "{}.{}".format)
            if left_out & {place, *((folder, "") for folder in folders)}:
                return f"<{found[2]}>"
            if place not in number:
                number[place] = len(order)
                order.append(place)
            return f"[{number[place]}]"

        return [MARK.sub(numbered, self._module(module).text(name)) for module, name in order]  # it grows meanwhile

    def find(self, module: str, name: str, user: str, seen: tuple[tuple[str, str], ...] = ()) -> str:
        """The mark of what a name of a module is bound to, imports followed; of another package the full name."""
        path = f"{module}.{name}".rstrip(".")
        if path.split(".")[0] != self.folder.name:
            return f"⟨{path}⟩"
        if not self._file(module):
            raise ValueError(f"{user} names {path}, but there is no module {module}: correct the name")
        if not name:
            return f"⟦{module}:⟧"
        found = self._module(module)
        if name in found.bound and (module, name) not in seen:
            target = _single(found.targets[name])
            return self.find(*target, found.file, (*seen, (module, name))) if target else f"⟦{module}:{name}⟧"
        if self._file(path):
            return f"⟦{path}:⟧"
        why = f"but {found.file} defines no {name}: correct the name"
        if name in found.bound:
            why = "which is imported in a circle and defined nowhere: import it from where it is defined"
        elif "__getattr__" in found.bound:
            why = "which a __getattr__ makes: import it from where it is defined"
        raise ValueError(f"{user} names {path}, {why}")

    def _entry(self, name: str) -> tuple[str, ...]:
        path = f"{self.folder.name}.{name}"
        where = (path, "") if self._file(path) else path.rsplit(".", 1)
        return MARK.fullmatch(self.find(*where, "the list of what counts")).groups()

    @cache  # noqa: B019
    def _file(self, module: str) -> Path | None:
        place = self.folder.parent.joinpath(*module.split("."))
        return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)

    @cache  # noqa: B019
    def _module(self, name: str) -> "_Module":
        return _Module(self, name, self._file(name))


_OWN = Package(Path(longalign.__file__).parent)


class _Module:
    """A module's syntax tree: which statements at its top bind a name (`bound`), and to what (`targets`)."""

    def __init__(self, package: Package, name: str, file: Path):
        self.package, self.name = package, name
        self.file = file.relative_to(package.folder.parent).as_posix()
        self.parents = name.split(".")[: None if file.name == "__init__.py" else -1]
        self.body = list(_executed(ast.parse(file.read_text(encoding="utf-8")).body))
        self.bound: dict[str, list[ast.stmt]] = {}
        self.targets: dict[str, set[Any]] = {}
        for statement in self.body:
            for bound, targets in self.bindings([statement]).items():
                self.bound.setdefault(bound, []).append(statement)
                self.targets.setdefault(bound, set()).update(targets)
        if "*" in self.bound:
            raise ValueError(f"{self.file} imports *, which hides what is used: import names")

    def bindings(self, nodes: Iterable[ast.AST]) -> dict[str, set[Any]]:
        """The names that nodes bind in their scope, to: (module, name) of an import, "outer" (global) or else None."""
        found: dict[str, set[Any]] = {}
        left = list(nodes)
        while left:
            node = left.pop()
            for name, target in self._bound_by(node):
                found.setdefault(name, set()).add(target)
            if isinstance(node, _COMPREHENSIONS):
                left += [one.target for one in ast.walk(node) if isinstance(one, ast.NamedExpr)]
            elif not isinstance(node, _CLOSED):
                left += ast.iter_child_nodes(node)
        return found

    def _bound_by(self, node: ast.AST) -> Iterable[tuple[str, Any]]:
        if isinstance(node, ast.Name):
            return [] if isinstance(node.ctx, ast.Load) else [(node.id, None)]
        if isinstance(node, ast.Import):
            both = [(alias.asname or alias.name.split(".")[0], alias) for alias in node.names]
            return [(local, (alias.name if alias.asname else local, "")) for local, alias in both]
        if isinstance(node, ast.ImportFrom):
            above = self.parents[: len(self.parents) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            return [(alias.asname or alias.name, (module, alias.name)) for alias in node.names]
        if isinstance(node, ast.Global | ast.Nonlocal):
            return [(name, "outer") for name in node.names]
        field = _BINDING.get(type(node))
        return [(name, None)] if field and (name := getattr(node, field)) else []

    def text(self, name: str) -> str:
        """The source of a definition, with marks for what it names; with an empty name, of all definitions."""
        if not name:
            return "\n".join(f"{own} = ⟦{self.name}:{own}⟧" for own in self.bound if not _single(self.targets[own]))
        return "\n".join([*map(self._written, self.bound[name]), *self._effects])

    @cached_property
    def _effects(self) -> list[str]:
        binding = set(map(id, chain(*self.bound.values())))
        texts = [self._written(statement) for statement in self.body if id(statement) not in binding]
        decorated = [one for one in self.body if MARK.search(self._written(*getattr(one, "decorator_list", ())))]
        return [*filter(None, texts), *(f"⟦{self.name}:{one.name}⟧" for one in decorated)]

    @cache  # noqa: B019
    def _written(self, *nodes: ast.AST) -> str:
        return ast.unparse(_Resolver(self).all(nodes))


class _Resolver(ast.NodeTransformer):
    """Puts in place of a name what a module's top or an import binds it to, by Python's rules of scopes: a variable
    with the name of a module is a variable. Docstrings and types go."""

    def __init__(self, module: _Module):
        self.module = module
        self.functions: list[dict[str, str | None]] = []  # what names are bound to in the functions around
        self.in_class: dict[str, None] | None = None  # names that the class whose body this is has bound so far

    def all(self, nodes: Iterable[Any]) -> list[Any]:
        """The nodes, of which some may be gone."""
        return self.generic_visit(ast.Module([*nodes], [])).body

    def _meaning(self, name: str) -> str | None:
        for scope in (self.in_class or {}, *reversed(self.functions)):
            if name in scope:
                return scope[name]
        return self._find(self.module.name, name) if name in self.module.bound else None

    def _find(self, module: str, name: str) -> str:
        return self.module.package.find(module, name, self.module.file)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        meaning = isinstance(node.ctx, ast.Load) and self._meaning(node.id)
        return ast.Name(meaning, node.ctx) if meaning else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        named = isinstance(node.func, ast.Name) and node.func.id
        return node.func if named == "source_hash" else self.generic_visit(node)  # its lists of names are no code

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        of_module = isinstance(node.value, ast.Name) and re.fullmatch(r"⟦([\w.]+):⟧", node.value.id)
        return ast.Name(self._find(of_module[1], node.attr), node.ctx) if of_module else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self.in_class is None:
            node.annotation = ast.Constant(...)
        return self.generic_visit(node)

    def visit_Import(self, node: Any) -> list[ast.stmt]:
        """An import in a function is in place of its names already; another one that counts is an assignment."""
        function = self.functions[-1] if self.functions and self.in_class is None else {}
        bound = self.module.bindings([node]).items()
        left = {name: self._find(*_single(targets)) for name, targets in bound if not function.get(name)}
        return [ast.Assign([ast.Name(name, ast.Store())], ast.Name(left[name], ast.Load()), lineno=0) for name in left]

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        arguments = [one for one in ast.iter_child_nodes(node.args) if isinstance(one, ast.arg)]
        for argument in arguments:
            argument.annotation = None
        node.args, node.returns, node.decorator_list = self.visit(node.args), None, self.all(node.decorator_list)
        with self._function([*arguments, *node.body]):
            node.body = self.all(node.body)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args = self.visit(node.args)
        with self._function([node.args, node.body]):
            node.body = self.visit(node.body)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.bases, node.keywords = self.all(node.bases), self.all(node.keywords)
        node.decorator_list, outer, self.in_class, body = self.all(node.decorator_list), self.in_class, {}, []
        for statement in node.body:
            body += (written := self.all([statement]))
            self.in_class |= dict.fromkeys(self.module.bindings(written))
        node.body, self.in_class = body, outer
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        first = node.generators[0]
        outside, first.iter = self.visit(first.iter), ast.Constant(None)  # the first one is not in the scope
        with self._function([part.target for part in node.generators]):
            self.generic_visit(node)
        first.iter = outside
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    @contextmanager
    def _function(self, nodes: Iterable[ast.AST]) -> Iterator[None]:
        """Within a function's scope, in which these nodes bind names."""
        outer = self.functions, self.in_class
        bound = self.module.bindings(nodes).items()
        own = {name: _single(targets) for name, targets in bound if "outer" not in targets}
        scope = {name: target and self._find(*target) for name, target in own.items()}
        self.functions, self.in_class = [*self.functions, scope], None
        yield
        self.functions, self.in_class = outer


def _executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that the import of a module executes, without what is for types alone."""
    for statement in body:
        test = ast.unparse(statement.test) if isinstance(statement, ast.If) else ""
        if test in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _executed(statement.orelse)
        elif test != "__name__ == '__main__'":
            yield statement


def _single(targets: set[Any]) -> tuple[str, str] | None:
    """What an import binds a name to, if nothing else does."""
    (first, *others) = targets
    return first if isinstance(first, tuple) and not others else None
