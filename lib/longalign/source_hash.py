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

So `loss.py` may move, get another name or be split, and `other` may change. SCALE may not, and no other function may
be imported in place of `mean`, unless its source is the same. Comments, docstrings, layout and types do not count,
except the types of a class's fields (dataclasses read them). With a definition count the statements at the top of its
module that bind no name, and definitions there that are decorated by this package: both may enter something into a
table.

What it cannot see: files of data, other packages, and definitions that are reached by a name in a string (`getattr`,
`importlib`) or imported only for what their import does.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import longalign

MARK = re.compile(r"⟦([\w.]+):(\w*)⟧")
"""Stands for the definition ⟦module:name⟧, or for the module itself: ⟦module:⟧."""
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_CLOSED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Import, ast.ImportFrom)
"""What is in these binds no name around them."""


@cache
def source_hash(*names: str, without: tuple[str, ...] = ()) -> str:
    """Sixteen hex digits of the source of definitions of this package ("trainer.train") or whole modules ("timing").

    Of what is named in `without` (definitions, modules, folders with all below) only the name counts. Raises
    ValueError for a name that does not exist: given here, imported, or asked of a module.
    """
    return _own().hash(names, without)


@cache
def _own() -> "Package":
    return Package(Path(longalign.__file__).parent)


class Package:
    """The package in a folder, read as text and not imported; a module is read when something names it."""

    def __init__(self, folder: Path):
        self.folder, self._modules, self._files = folder, {}, {}

    def hash(self, names: Iterable[str], without: Iterable[str] = ()) -> str:
        """`source_hash` of this package."""
        return hashlib.sha256("\n\n".join(self.texts(names, without)).encode()).hexdigest()[:16]

    def texts(self, names: Iterable[str], without: Iterable[str] = ()) -> list[str]:
        """What is hashed: the text of every definition that counts, in the order in which they are met."""
        order = list(dict.fromkeys(map(self._entry, names)))
        number = {mark: place for place, mark in enumerate(order)}
        left_out = {self._entry(name)[1:-1].rstrip(":") for name in without}

        def numbered(found: re.Match[str]) -> str:
            mark, module, name = found[0], *found.groups()
            parts = module.split(".")
            if left_out & {f"{module}:{name}", *(".".join(parts[:end]) for end in range(1, len(parts) + 1))}:
                return f"<{name}>"
            if mark not in number:
                number[mark] = len(order)
                order.append(mark)
            return f"[{number[mark]}]"

        return [MARK.sub(numbered, self._text(mark)) for mark in order]  # which grows meanwhile

    def find(self, module: str, name: str, user: str, seen: tuple[tuple[str, str], ...] = ()) -> str:
        """The mark of what a name of a module is bound to; imports are followed to the definition.

        What another package gives is its full name. `user` is for the message where there is nothing.
        """
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
        if seen and (module, name) in seen:
            raise ValueError(f"{user} names {path}, which is imported in a circle and defined nowhere")
        if "__getattr__" in found.bound:
            raise ValueError(f"{user} names {path}, which a __getattr__ makes: import it from where it is defined")
        raise ValueError(f"{user} names {path}, but {found.file} defines no {name}: correct the name")

    def _entry(self, name: str) -> str:
        path = f"{self.folder.name}.{name}"
        module, name = (path, "") if self._file(path) else path.rsplit(".", 1)
        return self.find(module, name, "the hash of the code")

    def _text(self, mark: str) -> str:
        module, name = MARK.fullmatch(mark).groups()
        return self._module(module).text(name)

    def _file(self, module: str) -> Path | None:
        if module not in self._files:
            place = self.folder.parent.joinpath(*module.split("."))
            files = (place.with_suffix(".py"), place / "__init__.py")
            self._files[module] = next((file for file in files if file.is_file()), None)
        return self._files[module]

    def _module(self, name: str) -> "_Module":
        if name not in self._modules:
            self._modules[name] = _Module(self, name, self._file(name))
        return self._modules[name]


class _Module:
    """A module's syntax tree: which statements at its top bind a name (`bound`), and to what (`targets`)."""

    def __init__(self, package: Package, name: str, file: Path):
        self.package, self.name, self._sources = package, name, {}
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
        """The names that nodes bind in their own scope, with (module, name) for an import, None for what is made
        here, "global" or "nonlocal"."""
        found: dict[str, set[Any]] = {}
        for name, target in self._bindings(nodes):
            found.setdefault(name, set()).add(target)
        return found

    def _bindings(self, nodes: Iterable[ast.AST]) -> Iterator[tuple[str, Any]]:
        for node in nodes:
            match node:
                case ast.Import():
                    for alias in node.names:
                        yield _local(alias), (alias.name if alias.asname else _local(alias), "")
                case ast.ImportFrom():
                    above = self.parents[: len(self.parents) - node.level + 1] if node.level else []
                    module = ".".join([*above, *filter(None, [node.module])])
                    yield from ((_local(alias), (module, alias.name)) for alias in node.names)
                case ast.Global() | ast.Nonlocal():
                    yield from ((name, type(node).__name__.lower()) for name in node.names)
                case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                    yield name, None
                case ast.AST(name=str(name)) | ast.MatchMapping(rest=str(name)):  # def, class, except and case as name
                    yield name, None
            if isinstance(node, _COMPREHENSIONS):
                yield from ((one.target.id, None) for one in ast.walk(node) if isinstance(one, ast.NamedExpr))
            elif not isinstance(node, _CLOSED):
                yield from self._bindings(ast.iter_child_nodes(node))

    def text(self, name: str) -> str:
        """The source of a definition, with marks for what it names; with an empty name, of all definitions."""
        if not name:
            return "\n".join(f"{own} = ⟦{self.name}:{own}⟧" for own in self.bound if not _single(self.targets[own]))
        return "\n".join([*map(self._source, self.bound[name]), *self._effects])

    @cached_property
    def _effects(self) -> list[str]:
        binding = {id(statement) for statements in self.bound.values() for statement in statements}
        found = [self._source(statement) for statement in self.body if id(statement) not in binding]
        for statement in self.body:
            for decorator in getattr(statement, "decorator_list", ()):
                if MARK.search(ast.unparse(_Resolver(self).visit(decorator))):
                    found.append(f"⟦{self.name}:{statement.name}⟧")
        return found

    def _source(self, statement: ast.stmt) -> str:
        if id(statement) not in self._sources:
            self._sources[id(statement)] = ast.unparse(_Resolver(self).visit(ast.Module([statement], [])))
        return self._sources[id(statement)]


class _Resolver(ast.NodeTransformer):
    """Puts in place of every name that a module's top or an import binds what it is bound to.

    Python's rules of scopes are followed, so that a variable with the name of a module is a variable. Strings that
    stand alone and types go.
    """

    def __init__(self, module: _Module):
        self.module = module
        self.functions: list[dict[str, str | None]] = []  # what names are bound to in the functions around
        self.in_class: dict[str, None] | None = None  # names that the class whose body this is has bound so far

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
        if isinstance(node.func, ast.Name) and node.func.id == "source_hash":
            return node.func  # what counts is said in words, which are not code
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        of_module = isinstance(node.value, ast.Name) and re.fullmatch(r"⟦([\w.]+):⟧", node.value.id)
        return ast.Name(self._find(of_module[1], node.attr), node.ctx) if of_module else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_string(node) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self.in_class is None:
            node.annotation = ast.Constant(...)
        return self.generic_visit(node)

    def visit_Import(self, node: Any) -> list[ast.stmt]:
        """An import in a function is in place of its names already; another one that counts is an assignment."""
        function = self.functions[-1] if self.functions and self.in_class is None else {}
        return [
            ast.Assign([ast.Name(name, ast.Store())], ast.Name(self._find(*_single(targets)), ast.Load()), lineno=0)
            for name, targets in self.module.bindings([node]).items() if not function.get(name)
        ]  # fmt: skip

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        arguments = [one for one in ast.iter_child_nodes(node.args) if isinstance(one, ast.arg)]
        for argument in arguments:
            argument.annotation = None
        node.args, node.returns, node.decorator_list = self.visit(node.args), None, self._all(node.decorator_list)
        with self._function([*arguments, *node.body]):
            node.body = self._all(node.body)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args = self.visit(node.args)
        with self._function([node.args, node.body]):
            node.body = self.visit(node.body)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list, node.bases = self._all(node.decorator_list), self._all(node.bases)
        node.keywords, outer, self.in_class, body = self._all(node.keywords), self.in_class, {}, []
        for statement in node.body:
            body += self._all([statement])
            self.in_class |= dict.fromkeys(self.module.bindings([statement]))
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

    def _all(self, nodes: list[Any]) -> list[Any]:
        return self.generic_visit(ast.Module(nodes, [])).body

    @contextmanager
    def _function(self, nodes: Iterable[ast.AST]) -> Iterator[None]:
        """Within a function's scope, in which these nodes bind names."""
        bound, outer = self.module.bindings(nodes), (self.functions, self.in_class)
        scope = {name: self._find(*target) if (target := _single(targets)) else None
                 for name, targets in bound.items() if not targets & {"global", "nonlocal"}}  # fmt: skip
        self.functions, self.in_class = [*self.functions, scope], None
        yield
        self.functions, self.in_class = outer


def _executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that the import of a module executes, without strings and what is for types alone."""
    for statement in body:
        test = ast.unparse(statement.test) if isinstance(statement, ast.If) else ""
        if test in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _executed(statement.orelse)
        elif test != "__name__ == '__main__'" and not _is_string(statement):
            yield statement


def _is_string(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _local(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _single(targets: set[Any]) -> tuple[str, str] | None:
    """What an import binds a name to, if nothing else does."""
    (first, *others) = targets
    return first if isinstance(first, tuple) and not others else None
