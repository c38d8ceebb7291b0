"""Statements at the top of modules: the names that each binds, and what others may mean after it has run."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orcapod_dagster.core.identity.names import Chain, ImportedName, chain_of, changed_chains, imported_names, names_of
from orcapod_dagster.core.identity.syntax import Definition

COMPOUND: Final = (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Match)


@dataclass(frozen=True, slots=True)
class Binding:
    """A statement that binds or changes a name at module level."""

    statement: ast.stmt
    guards: tuple[ast.expr, ...] = ()
    """Conditions of the `if` statements around it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A statement of a module that may change what a name, also of another module, stands for."""

    binding: Binding
    changed: tuple[Chain, ...]
    """Names that the statement itself changes: `TABLE.append(x)`, `Shape.area = f`, `@table.register`."""
    called: tuple[Chain, ...]
    """Functions and base classes that may change what they know: `@register("a")`, `class Sub(Base)`."""


def flat_statements(body: Sequence[ast.stmt], guards: tuple[ast.expr, ...]) -> Iterator[Binding]:
    """Yield the statements that run on import, those under `if` and `try` with their conditions."""
    for statement in body:
        if isinstance(statement, ast.If):
            if _never_on_import(statement.test):
                yield from flat_statements(statement.orelse, guards)
            else:
                yield from flat_statements(statement.body, (*guards, statement.test))
                yield from flat_statements(statement.orelse, (*guards, ast.UnaryOp(ast.Not(), statement.test)))
        elif isinstance(statement, ast.Try | ast.TryStar):
            yield from flat_statements(statement.body, guards)
            for handler in statement.handlers:
                caught = [] if handler.type is None else [handler.type]
                yield from flat_statements(handler.body, (*guards, ast.Tuple([ast.Constant("except"), *caught])))
            yield from flat_statements([*statement.orelse, *statement.finalbody], guards)
        elif isinstance(statement, ast.Assign):
            yield from (Binding(one, guards) for one in _split(statement))
        else:
            yield Binding(statement, guards)


def _never_on_import(test: ast.expr) -> bool:
    """Tell whether a condition is `TYPE_CHECKING` or `__name__ == "__main__"`."""
    if isinstance(test, ast.Compare):
        return isinstance(test.left, ast.Name) and test.left.id == "__name__"
    return (chain_of(test) or ("",))[-1] == "TYPE_CHECKING"


def _split(statement: ast.Assign) -> Iterator[ast.stmt]:
    """Cut `a, b = 1, 2` in two, so that each name has a value of its own."""
    target, value = statement.targets[0], statement.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple) or len(statement.targets) > 1:
        yield statement
        return
    starred = any(isinstance(item, ast.Starred) for item in (*target.elts, *value.elts))
    if starred or len(target.elts) != len(value.elts):
        yield statement
        return
    for name, item in zip(target.elts, value.elts, strict=True):
        yield ast.copy_location(ast.Assign(targets=[name], value=item), item)


def bound_names(statement: ast.stmt) -> list[str]:
    """Return the names that a statement binds; what it only changes (`X[k] = v`) is an effect."""
    if isinstance(statement, Definition):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [name for name, _ in imported_names(statement) if name != "*"]
    if isinstance(statement, ast.AugAssign):
        return [statement.target.id] if isinstance(statement.target, ast.Name) else []
    if isinstance(statement, ast.AnnAssign):
        return [statement.target.id] if isinstance(statement.target, ast.Name) and statement.value is not None else []
    if isinstance(statement, ast.Delete):
        return []
    stored = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    if isinstance(statement, COMPOUND):
        stored += [n.name for n in ast.walk(statement) if isinstance(n, Definition)]
        imports = [n for n in ast.walk(statement) if isinstance(n, ast.Import | ast.ImportFrom)]
        stored += [name for node in imports for name, _ in imported_names(node)]
    alias: Any = getattr(statement, "name", None)  # `type X = ...` of Python 3.12
    return list(dict.fromkeys([*stored, alias.id] if isinstance(alias, ast.Name) else stored))


def import_targets(node: ast.Import | ast.ImportFrom) -> Iterator[ImportedName]:
    """Yield what an import statement imports; of `import a.b`, all of `a.b`."""
    if isinstance(node, ast.ImportFrom):
        yield from (found for _, found in imported_names(node))
    else:
        yield from (ImportedName(alias.name, 0, None) for alias in node.names)


def effects_of(binding: Binding) -> Iterator[Effect]:
    """Yield what a statement may change beyond the names that it binds."""
    statement = binding.statement
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return
    if isinstance(statement, Definition):
        decorators = [d.func if isinstance(d, ast.Call) else d for d in statement.decorator_list]
        called = [chain for d in decorators if (chain := chain_of(d.value if isinstance(d, ast.Subscript) else d))]
        changed = [chain[:-1] for chain in called if len(chain) > 1]
        if isinstance(statement, ast.ClassDef):
            called += [chain for base in statement.bases if (chain := chain_of(base))]
        if called or changed:
            yield Effect(binding, tuple(changed), tuple(called))
        return
    changed = set(changed_chains(statement))
    called = [node for node in ast.walk(statement) if isinstance(node, ast.Call)] if _may_call(statement) else []
    chains = [chain for node in called if (chain := chain_of(node.func))]
    changed |= {chain[:-1] for chain in chains if len(chain) > 1}
    changed |= {c for node in called if not is_builtin(node.func) for a in node.args if (c := chain_of(a))}
    names = set(bound_names(statement))
    changed = {chain for chain in changed if chain[0] not in names}
    if changed or chains:
        yield Effect(binding, tuple(sorted(changed)), tuple(chains))


def is_builtin(called: ast.expr) -> bool:
    """Tell whether a call is of a builtin that leaves its arguments as they are."""
    return isinstance(called, ast.Name) and hasattr(builtins, called.id) and called.id != "setattr"


def _may_call(statement: ast.stmt) -> bool:
    """Tell whether a statement stands for what it calls: its value is thrown away, or it is a loop."""
    return isinstance(statement, (ast.Expr, *COMPOUND))


def same_objects(statement: ast.stmt) -> list[Chain]:
    """Return the names that a plain assignment makes stand for one object: `A = B = []`, `B = m.A`."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return []
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return [chain for node in (*targets, statement.value) if (chain := chain_of(node))]


def changes_itself(statement: ast.stmt) -> frozenset[str]:
    """Return the names of its own module that a function or class changes when it is called, subclassed or used as decorator."""
    free = {chain[0] for chain in names_of([statement]).chains}
    free |= {name for node in ast.walk(statement) if isinstance(node, ast.Global) for name in node.names}
    changed = {chain[0] for chain in changed_chains(statement)}
    if isinstance(statement, ast.ClassDef):
        hooks = any(isinstance(n, ast.FunctionDef) and n.name == "__init_subclass__" for n in statement.body)
        return frozenset((changed & free) | ({statement.name} if hooks else set()))
    return frozenset(changed & free)
