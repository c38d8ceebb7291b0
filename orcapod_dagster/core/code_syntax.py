"""Python syntax as identity sees it: a stable text of a node, and the names that a node refers to.

`dump` is the same on every supported Python version, and blind to comments, docstrings, formatting and positions.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

Chain = tuple[str, ...]
"""A dotted name as its parts: `m.sub.f` is `("m", "sub", "f")`."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
KeepDecorator = Callable[[ast.expr], bool]

_SKIPPED_FIELDS: Final = frozenset({"ctx", "type_comment", "type_ignores", "kind"})
_MUTATORS: Final = frozenset(
    [
        "append",
        "extend",
        "insert",
        "remove",
        "pop",
        "clear",
        "update",
        "setdefault",
        "popitem",
        "add",
        "discard",
        "sort",
        "reverse",
        "appendleft",
        "extendleft",
        "popleft",
        "move_to_end",
        "subtract",
    ]
)


def dump(node: ast.AST, keep_decorator: KeepDecorator = lambda _: True) -> str:
    """Return a text of `node` that two nodes share exactly when they are the same code."""
    out: list[str] = []
    _dump(node, out, keep_decorator)
    return "".join(out)


def dump_constant(value: object) -> str:
    """Return a type-tagged text of a literal, also of the folded containers in bytecode."""
    if isinstance(value, bool | None) or value is Ellipsis:
        return repr(value)
    if isinstance(value, float):
        return f"float:{value.hex()}"
    if isinstance(value, complex):
        return f"complex:{value.real.hex()},{value.imag.hex()}"
    if isinstance(value, int):
        return f"int:{value:x}"
    if isinstance(value, str):
        return f"str:{value.encode('utf-8', 'surrogatepass').hex()}"
    if isinstance(value, bytes):
        return f"bytes:{value.hex()}"
    if isinstance(value, tuple):
        return f"tuple:({','.join(dump_constant(item) for item in value)})"
    if isinstance(value, frozenset):
        return f"frozenset:({','.join(sorted(dump_constant(item) for item in value))})"
    return f"other:{type(value).__name__}"


def _dump(node: ast.AST, out: list[str], keep_decorator: KeepDecorator) -> None:
    if isinstance(node, ast.Constant):
        out.append(f"Constant({dump_constant(node.value)})")
        return
    out.append(f"{type(node).__name__}(")
    for name in node._fields:
        value = getattr(node, name, None)
        if name in _SKIPPED_FIELDS or value is None or value == []:
            continue
        out.append(f"{name}=")
        if isinstance(value, list):
            _dump_list(_normalised(node, name, value, keep_decorator), out, keep_decorator)
        elif isinstance(value, ast.AST):
            _dump(value, out, keep_decorator)
        else:
            out.append(dump_constant(value))
        out.append(";")
    out.append(")")


def _dump_list(items: Iterable[object], out: list[str], keep_decorator: KeepDecorator) -> None:
    out.append("[")
    for item in items:
        if isinstance(item, ast.AST):
            _dump(item, out, keep_decorator)
        else:
            out.append(dump_constant(item))
        out.append(",")
    out.append("]")


def _normalised(node: ast.AST, name: str, items: list[object], keep_decorator: KeepDecorator) -> list[object]:
    """Drop what does not count from a list field: decorators of ours, strings as statements, pieces of f-strings."""
    if name == "decorator_list":
        return [item for item in items if isinstance(item, ast.expr) and keep_decorator(item)]
    if name == "body":
        return [item for item in items if not _is_string_statement(item)] or [ast.Pass()]
    if name == "values" and isinstance(node, ast.JoinedStr):
        return list(_merged(items))
    return items


def _is_string_statement(item: object) -> bool:
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)


def _merged(items: list[object]) -> Iterator[object]:
    """Join adjacent literal pieces: Python 3.12 cuts f-strings elsewhere than 3.11 and leaves empty pieces."""
    text = ""
    for item in items:
        if isinstance(item, ast.Constant) and isinstance(item.value, str):
            text += item.value
            continue
        if text:
            yield ast.Constant(text)
            text = ""
        yield item
    if text:
        yield ast.Constant(text)


def chain_of(node: ast.AST) -> Chain | None:
    """Return the dotted name that an expression is, or `None`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


@dataclass(frozen=True, slots=True)
class ImportedName:
    """What an import statement binds: a module, or (with `attribute`) a member of it."""

    module: str
    """As written; may be empty in `from . import x`."""
    level: int
    """Number of leading dots."""
    attribute: str | None
    """`None` for `import m`, `"*"` for a star import."""


def imported_names(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, ImportedName]]:
    """Yield (bound name, what it is) for one import statement."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            yield alias.asname or alias.name, ImportedName(statement.module or "", statement.level, alias.name)
        elif alias.asname:
            yield alias.asname, ImportedName(alias.name, 0, None)
        else:
            top = alias.name.partition(".")[0]
            yield top, ImportedName(top, 0, None)


@dataclass(slots=True)
class Names:
    """The names that a piece of code takes from outside itself."""

    chains: set[Chain] = field(default_factory=set[Chain])
    """Free dotted names, names bound by imports in the code included."""
    imports: dict[str, ImportedName] = field(default_factory=dict[str, ImportedName])
    """Names that import statements in the code bind."""
    dynamic: set[str] = field(default_factory=set[str])
    """Look-ups that no reading can follow, such as `eval`."""
    dynamic_members: set[Chain] = field(default_factory=set[Chain])
    """Objects whose members are looked up by a computed name."""


def names_of(nodes: Iterable[ast.AST], keep_decorator: KeepDecorator = lambda _: True) -> Names:
    """Return the names that `nodes`, standing together in one scope, take from outside."""
    names = Names()
    scope = _Scope(names, keep_decorator)
    for node in nodes:
        scope.visit(node)
    # The nodes' own names (a function calling itself, a class in its methods) are bound outside of them.
    names.chains = scope.used | scope.inner
    return names


class _Scope(ast.NodeVisitor):
    """Collects the names used and bound in one scope; nested scopes hand up what they do not bind."""

    def __init__(self, names: Names, keep_decorator: KeepDecorator, *, in_function: bool = False) -> None:
        self.names = names
        self.keep_decorator = keep_decorator
        self.in_function = in_function
        self.bound: set[str] = set()
        self.outer: set[str] = set()
        self.used: set[Chain] = set()
        self.inner: set[Chain] = set()

    def free(self, *, hide_inner: bool = True) -> set[Chain]:
        """Return what this scope takes from outside; a class body does not hide names from its methods."""
        bound = self.bound - self.outer
        used = {chain for chain in self.used if chain[0] not in bound}
        return used | ({chain for chain in self.inner if chain[0] not in bound} if hide_inner else self.inner)

    def _nested(self, *, in_function: bool) -> _Scope:
        return _Scope(self.names, self.keep_decorator, in_function=in_function)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.used.add((node.id,))
        else:
            self.bound.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = chain_of(node)
        if chain is None:
            self.generic_visit(node)
        else:
            self.used.add(chain)

    def visit_Call(self, node: ast.Call) -> None:
        called = chain_of(node.func)
        if called is not None:
            _note_dynamic(called[-1], node, self)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.bound.add(node.name)
        for decorator in filter(self.keep_decorator, node.decorator_list):
            self.visit(decorator)
        if node.returns is not None:
            self._visit_annotation(node.returns)
        self._visit_function(node.args, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node.args, [node.body])

    def _visit_function(self, arguments: ast.arguments, body: Iterable[ast.AST]) -> None:
        for default in (*arguments.defaults, *filter(None, arguments.kw_defaults)):
            self.visit(default)
        nested = self._nested(in_function=True)
        every = (*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg)
        for argument in filter(None, every):
            nested.bound.add(argument.arg)
            if argument.annotation is not None:
                self._visit_annotation(argument.annotation)
        for node in body:
            nested.visit(node)
        self.inner |= nested.free()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bound.add(node.name)
        for expression in (*filter(self.keep_decorator, node.decorator_list), *node.bases, *node.keywords):
            self.visit(expression)
        nested = self._nested(in_function=False)
        for statement in node.body:
            nested.visit(statement)
        self.inner |= nested.free(hide_inner=False)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        nested = self._nested(in_function=self.in_function)
        nested.generic_visit(node)
        self.inner |= nested.free()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)
        if not self.in_function:  # annotations of local variables are never evaluated
            self._visit_annotation(node.annotation)

    def _visit_annotation(self, annotation: ast.expr) -> None:
        self.visit(annotation)
        for text in _quoted_annotations(annotation):
            try:
                self.visit(ast.parse(text.strip(), mode="eval").body)
            except (SyntaxError, ValueError):
                continue

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.names.imports.update(imported_names(node))
        if isinstance(node, ast.ImportFrom):
            self.used |= {(bound,) for bound, _ in imported_names(node)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.visit_Import(node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.outer.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.visit_Global(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._bind_and_visit(node, node.name)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self._bind_and_visit(node, node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        self._bind_and_visit(node, node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._bind_and_visit(node, node.rest)

    def _bind_and_visit(self, node: ast.AST, name: str | None) -> None:
        if name is not None:
            self.bound.add(name)
        self.generic_visit(node)


def _quoted_annotations(annotation: ast.expr) -> Iterator[str]:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield annotation.value
    if isinstance(annotation, ast.Subscript) and (chain_of(annotation.value) or ("",))[-1] == "Literal":
        return
    for child in ast.iter_child_nodes(annotation):
        if isinstance(child, ast.expr):
            yield from _quoted_annotations(child)


def _note_dynamic(called: str, call: ast.Call, scope: _Scope) -> None:
    """Record look-ups by a computed name; one by a literal name is as good as writing it."""
    names = scope.names
    first, second = (*call.args, None, None)[:2]
    if called in ("eval", "exec", "globals", "__import__"):
        names.dynamic.add(called)
    elif called == "getattr" and first is not None:
        owner = chain_of(first)
        if owner is not None and isinstance(second, ast.Constant) and isinstance(second.value, str):
            scope.used.add((*owner, second.value))
        elif owner is not None:
            names.dynamic_members.add(owner)
    elif called == "import_module":
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            bound = f"import_module:{first.value}"
            names.imports[bound] = ImportedName(first.value.lstrip("."), first.value.count("."), None)
            scope.used.add((bound,))
        else:
            names.dynamic.add(called)


def mutated_names(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Return the names whose values the functions among `nodes` change or rebind when they run."""
    found: set[str] = set()
    for node in nodes:
        for child in ast.walk(node):
            if isinstance(child, ast.Global | ast.Nonlocal):
                found.update(child.names)
            elif isinstance(child, ast.Subscript | ast.Attribute) and not isinstance(child.ctx, ast.Load):
                found.add(_root_name(child.value))
            elif isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr in _MUTATORS:
                found.add(_root_name(child.func.value))
    return frozenset(found - {""})


def _root_name(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
