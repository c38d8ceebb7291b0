"""The names that a piece of Python syntax takes from outside itself, and those whose values it changes."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from orcapod_dagster.core.identity.syntax import KeepDecorator

Chain = tuple[str, ...]
"""A dotted name as its parts: `m.sub.f` is `("m", "sub", "f")`."""

MUTATORS: Final = frozenset(
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
    variables: dict[Chain, set[str]] = field(default_factory=dict[Chain, set[str]])
    """Literal keys under which a name is looked into: `os.environ["X"]`, `os.getenv("X")`."""

    def variables_of(self, chain: Chain) -> frozenset[str]:
        """Return the literal keys under which a dotted name, or what it is an attribute of, is looked into."""
        starts = (chain[: n + 1] for n in range(len(chain)))
        return frozenset(key for start in starts for key in self.variables.get(start, ()))


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

    def __init__(
        self, names: Names, keep_decorator: KeepDecorator, *, in_function: bool = False, in_class: bool = False
    ) -> None:
        self.names = names
        self.keep_decorator = keep_decorator
        self.in_function = in_function
        self.in_class = in_class
        self.bound: set[str] = set()
        self.outer: set[str] = set()
        self.used: set[Chain] = set()
        self.inner: set[Chain] = set()
        self.early: set[Chain] = set()

    def free(self, *, hide_inner: bool = True) -> set[Chain]:
        """Return what this scope takes from outside; a class body does not hide names from its methods."""
        bound = self.bound - self.outer
        used = self.early | {chain for chain in self.used if chain[0] not in bound}
        return used | ({chain for chain in self.inner if chain[0] not in bound} if hide_inner else self.inner)

    def _nested(self, *, in_function: bool, in_class: bool = False) -> _Scope:
        return _Scope(self.names, self.keep_decorator, in_function=in_function, in_class=in_class)

    def _use(self, chain: Chain) -> None:
        self.used.add(chain)
        if self.in_class and chain[0] not in self.bound:
            # `edges: list = field(default_factory=edges)`: until a class binds a name, it is the module's.
            self.early.add(chain)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._use((node.id,))
        else:
            self.bound.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        for part in (node.value, *node.targets):  # in the order in which they run
            self.visit(part)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and self.in_class:
            self._use((node.target.id,))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = chain_of(node)
        if chain is None:
            self.generic_visit(node)
        else:
            self._use(chain)

    def visit_Call(self, node: ast.Call) -> None:
        called = chain_of(node.func)
        if called is not None:
            _note_call(called, node, self)
        if called == ("getattr",) and node.args and len(node.args) > 1 and _literal(node.args[1]) is not None:
            for argument in node.args[2:]:
                self.visit(argument)
            if chain_of(node.args[0]) is None:
                self.visit(node.args[0])
            return
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        chain, key = chain_of(node.value), _literal(node.slice)
        if chain == ("sys", "modules"):
            self.names.dynamic.add("sys.modules")
        if chain is not None and key is not None:
            self.names.variables.setdefault(chain, set()).add(key)
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
        nested = self._nested(in_function=False, in_class=True)
        for statement in node.body:
            nested.visit(statement)
        self.inner |= nested.free(hide_inner=False)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        nested = self._nested(in_function=self.in_function)
        nested.generic_visit(node)
        # `[(y := v) for v in …]` binds `y` around the comprehension.
        outside = set(_walrus_names(node))
        nested.bound -= outside
        self.bound |= outside
        self.inner |= nested.free()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
        if node.value is not None or not self.in_class:  # an annotation alone binds nothing in a class
            self.visit(node.target)
        if not self.in_function:  # annotations of local variables are never evaluated
            self._visit_annotation(node.annotation)

    def _visit_annotation(self, annotation: ast.expr) -> None:
        self.visit(annotation)
        for text in _quoted_annotations(annotation):
            self.used |= chains_in(text)

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


def chains_in(expression: str) -> set[Chain]:
    """Return the dotted names that an expression, such as a postponed annotation, uses; none if it is no Python."""
    try:
        return names_of([ast.parse(expression.strip(), mode="eval").body]).chains
    except (SyntaxError, ValueError):
        return set()


def _quoted_annotations(annotation: ast.expr) -> Iterator[str]:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield annotation.value
    if isinstance(annotation, ast.Subscript) and (chain_of(annotation.value) or ("",))[-1] == "Literal":
        return
    for child in ast.iter_child_nodes(annotation):
        if isinstance(child, ast.expr):
            yield from _quoted_annotations(child)


def _walrus_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.NamedExpr):
        yield node.target.id
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Lambda):
            yield from _walrus_names(child)


def _literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _note_call(called: Chain, call: ast.Call, scope: _Scope) -> None:
    """Record look-ups by a computed name; one by a literal name is as good as writing it."""
    names = scope.names
    first, second = (*call.args, None, None)[:2]
    key = _literal(first)
    if called[-1] == "getenv" and key is not None:
        names.variables.setdefault(called, set()).add(key)
    elif called[-1] in ("get", "setdefault", "pop") and key is not None:
        names.variables.setdefault(called[:-1], set()).add(key)
    elif called[-1] in ("eval", "exec", "globals", "__import__") and len(called) == 1:
        names.dynamic.add(f"{called[0]}()")
    elif called == ("getattr",) and first is not None:
        owner, member = chain_of(first), _literal(second)
        if owner is not None and member is not None:
            scope.used.add((*owner, member))
        elif owner is None and member is None:
            # The members of a named module or class all count; those of a value are its class's.
            names.dynamic.add("getattr()")
    elif called[-1] == "import_module":
        if key is not None:
            bound = f"import_module:{key}"
            names.imports[bound] = ImportedName(key.lstrip("."), len(key) - len(key.lstrip(".")), None)
            scope.used.add((bound,))
        else:
            names.dynamic.add("import_module()")


def changed_chains(node: ast.AST) -> frozenset[Chain]:
    """Return the dotted names, local ones among them, whose values `node` changes when it runs: `X[k] = v`, `m.X.append(v)`."""
    found: set[Chain | None] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Global):
            found.update((name,) for name in child.names)
        elif isinstance(child, ast.Subscript) and not isinstance(child.ctx, ast.Load):
            found.add(_longest_chain(child.value))
        elif isinstance(child, ast.Attribute) and not isinstance(child.ctx, ast.Load):
            found.add(_longest_chain(child))
        elif isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr in MUTATORS:
            found.add(_longest_chain(child.func.value))
    return frozenset(chain for chain in found if chain is not None)


def _longest_chain(node: ast.expr) -> Chain | None:
    while isinstance(node, ast.Subscript):
        node = node.value
    return chain_of(node)
