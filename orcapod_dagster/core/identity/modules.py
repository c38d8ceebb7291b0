"""Modules as source: what each binds at its top level, and which statements change what others bind.

Nothing here runs user code: modules are found without being imported, and read once as they were when they were loaded.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Any, Final

from orcapod_dagster.core.identity.environment import is_dropped_decorator, is_logger
from orcapod_dagster.core.identity.names import (
    Chain,
    ImportedName,
    Names,
    chain_of,
    changed_chains,
    imported_names,
    names_of,
)
from orcapod_dagster.core.identity.statements import (
    COMPOUND,
    Binding,
    Effect,
    bound_names,
    effects_of,
    flat_statements,
    import_targets,
    is_builtin,
)
from orcapod_dagster.core.identity.syntax import Definition, dump

_OURS: Final = frozenset({"packet_asset", "packet_function"})


class ModuleSource:
    """A module's syntax tree, indexed by the names it binds and by the lines of its functions."""

    def __init__(self, name: str, package: str, file: str, text: str, tree: ast.Module) -> None:
        self.name = name
        self.package = package
        self.file = file
        self.text = text
        self.tree = tree
        self._names: dict[ast.AST, Names] = {}
        self._texts: dict[ast.AST, str] = {}
        self._changed: dict[ast.AST, frozenset[Chain]] = {}

    @functools.cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """Every name bound at module level, with the statements that bind it, in order."""
        found: dict[str, list[Binding]] = {}
        for binding in self.statements:
            for name in bound_names(binding.statement):
                found.setdefault(name, []).append(binding)
        return found

    @functools.cached_property
    def statements(self) -> list[Binding]:
        """The statements that run when the module is imported, also those under `if` and `try`."""
        return list(flat_statements(self.tree.body, ()))

    @functools.cached_property
    def imports(self) -> list[ImportedName]:
        """What the module imports when it is imported."""
        return [
            found
            for binding in self.statements
            for node in ast.walk(binding.statement)
            if isinstance(node, ast.Import | ast.ImportFrom) and not isinstance(binding.statement, Definition)
            for found in import_targets(node)
        ]

    @functools.cached_property
    def stars(self) -> list[tuple[ImportedName, int]]:
        """Star imports with their lines, the last first."""
        found = [
            (target, node.lineno)
            for binding in self.statements
            for node in ast.walk(binding.statement)
            if isinstance(node, ast.ImportFrom) and not isinstance(binding.statement, Definition)
            for target in import_targets(node)
            if target.attribute == "*"
        ]
        return sorted(found, key=lambda star: -star[1])

    @functools.cached_property
    def certain_lines(self) -> frozenset[int]:
        """The lines of statements that run with each import: under no `if`, `try` or loop."""
        nested = {
            line
            for node in self.tree.body
            if isinstance(node, (ast.If, ast.Try, ast.TryStar, *COMPOUND))
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        return frozenset(b.statement.lineno for b in self.statements) - nested

    def rebound_after(self, name: str) -> int:
        """Return the line from which on a name is what this module binds, whatever star imports above it bring; else 0."""
        sure = (b.statement for b in self.bindings.get(name, []) if not isinstance(b.statement, ast.AugAssign))
        return max((s.lineno for s in sure if s.lineno in self.certain_lines), default=0)

    def exports(self, name: str) -> bool:
        """Tell whether a star import of this module may bring a name; an `__all__` that is computed may hold any."""
        statements = [b.statement for b in self.bindings.get("__all__", [])]
        if not statements:
            return not name.startswith("_")
        value = getattr(statements[0], "value", None)
        extended = len(statements) > 1 or any(("__all__",) in effect.changed for effect in self.effects)
        if extended or not isinstance(value, ast.List | ast.Tuple | ast.Set):
            return True
        names = [item.value if isinstance(item, ast.Constant) else None for item in value.elts]
        return name in names or None in names

    @functools.cached_property
    def effects(self) -> list[Effect]:
        """Statements that may change what another name stands for."""
        return [
            effect
            for binding in self.statements
            if not self._only_logs(binding.statement)
            for effect in effects_of(binding)
        ]

    @functools.cached_property
    def _definitions(self) -> dict[tuple[int, str], ast.AST]:
        found: dict[tuple[int, str], ast.AST] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, Definition):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                found[first, node.name] = node
        return found

    @functools.cached_property
    def _lambdas(self) -> list[ast.Lambda]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Lambda)]

    def node_of(self, code: CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | None:
        """Return the syntax of running code that came of this source, or `None`."""
        if code.co_name != "<lambda>":
            node = self._definitions.get((code.co_firstlineno, code.co_name))
            return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        found = [node for node in self._lambdas if node.lineno == code.co_firstlineno]
        if len(found) < 2:
            return found[0] if found else None
        inside = [node for node in found if _covers(node.body, code)]
        return min(inside, key=lambda node: _extent(node.body)) if inside else None

    # ------------------------------------------------------------------ decorators and makers

    def dotted(self, node: ast.expr | None) -> str:
        """Return the dotted name, as far as imports tell, of what an expression calls or is; else `""`."""
        called = node.func if isinstance(node, ast.Call) else node
        chain = None if called is None else chain_of(called)
        if chain is None:
            return ""
        for binding in self.bindings.get(chain[0], []):
            if isinstance(binding.statement, ast.Import | ast.ImportFrom):
                found = dict(imported_names(binding.statement))[chain[0]]
                return ".".join(filter(None, (found.module, found.attribute, *chain[1:])))
        return ".".join(chain)

    def keeps(self, decorator: ast.expr) -> bool:
        """Tell whether a decorator counts: those of this package, of Dagster and caches do not."""
        dotted = self.dotted(decorator)
        return not is_dropped_decorator(dotted) and dotted.rpartition(".")[2] not in _OURS

    def maker_of(self, statement: ast.stmt) -> str:
        """Return the dotted name of what a constant's statement calls; `""` for anything but a call."""
        value: Any = getattr(statement, "value", None)
        return self.dotted(value) if isinstance(value, ast.Call) else ""

    def _only_logs(self, statement: ast.stmt) -> bool:
        """Tell whether a statement is a call of a logger, which leaves what it is given as it is."""
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
            return False
        if any(
            isinstance(n, ast.Call) and not is_builtin(n.func) for n in ast.walk(statement) if n is not statement.value
        ):
            return False
        dotted = self.dotted(statement.value)
        makers = [self.maker_of(b.statement) for b in self.bindings.get(dotted.partition(".")[0], [])]
        return any(is_logger(made) for made in (dotted, *makers))

    # ------------------------------------------------------------------ statements, each read once

    def names_in(self, statement: ast.AST) -> Names:
        """Return the names that a statement of this module takes from outside itself."""
        if statement not in self._names:
            self._names[statement] = names_of([statement], self.keeps)
        return self._names[statement]

    def text_of(self, statement: ast.AST) -> str:
        """Return the text of a statement of this module."""
        if statement not in self._texts:
            self._texts[statement] = dump(statement, self.keeps)
        return self._texts[statement]

    def changed_in(self, statement: ast.AST) -> frozenset[Chain]:
        """Return the names outside of itself whose values a function or class changes when it runs."""
        if not isinstance(statement, Definition):
            return frozenset()
        if statement not in self._changed:
            free = {chain[0] for chain in self.names_in(statement).chains} - {getattr(statement, "name", "")}
            self._changed[statement] = frozenset(c for c in changed_chains(statement) if c[0] in free)
        return self._changed[statement]

    def source_of(self, nodes: Sequence[ast.AST]) -> str:
        """Return the lines of some statements, decorators included."""
        lines = self.text.splitlines(keepends=True)
        texts: list[str] = []
        for node in nodes:
            if isinstance(node, ast.stmt | ast.expr):
                decorators = getattr(node, "decorator_list", [])
                first = min([node.lineno, *(d.lineno for d in decorators)])
                texts.append("".join(lines[first - 1 : node.end_lineno]))
        return "\n".join(texts)


def _covers(body: ast.expr, code: CodeType) -> bool:
    """Tell whether all instructions of a lambda's code lie within an expression."""
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    for first, last, left, right in code.co_positions():
        if first is None or last is None or left is None or right is None or (left, right) == (0, 0):
            continue  # what the compiler added
        if (first, left) < start or (last, right) > end:
            return False
    return True


def _extent(node: ast.expr) -> tuple[int, int]:
    return ((node.end_lineno or 0) - node.lineno, (node.end_col_offset or 0) - node.col_offset)


# ---------------------------------------------------------------------------- finding and reading

_read: dict[str, tuple[object, ModuleSource | None]] = {}
"""Modules by name, with the spec under which they were loaded; a reload makes a new spec."""


def canonical_name(module: str) -> str:
    """Return the name that a module has when it is imported; `__main__` may be a module run by `-m` or as a file."""
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec, file = (None, None) if main is None else (vars(main).get("__spec__"), vars(main).get("__file__"))
    if spec is not None:
        return spec.name.removesuffix(".__main__") if spec.name != "__main__" else module
    return Path(file).stem if file else module


def find_module(name: str) -> ModuleSource | None:
    """Return a module's source by its canonical name, without importing it; `None` without source.

    A namespace package is a module without statements.
    """
    loaded = _loaded(name)
    if loaded is None:
        spec = find_spec(name)
        return None if spec is None else _read_spec(name, spec, stamp=_stamp(spec))
    spec = vars(loaded).get("__spec__") or loaded
    known = _read.get(name)
    if known is None or known[0] is not spec:
        known = _read[name] = (spec, _read_loaded(name, loaded))
    return known[1]


def _loaded(name: str) -> Any:
    loaded = sys.modules.get(name)
    if loaded is None and canonical_name("__main__") == name:
        return sys.modules.get("__main__")
    return loaded


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Return a module's spec without importing its parents, as `importlib.util.find_spec` would."""
    parent, _, _ = name.rpartition(".")
    path: Any = None
    if parent:
        loaded = sys.modules.get(parent)
        above = None if loaded is not None else find_spec(parent)
        path = vars(loaded).get("__path__") if loaded is not None else above and above.submodule_search_locations
        if path is None:
            return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except (AttributeError, ImportError, ValueError, OSError):
            continue
        if spec is not None:
            return spec
    return None


def _stamp(spec: importlib.machinery.ModuleSpec) -> tuple[int, int]:
    try:
        found = Path(spec.origin or "").stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _read_loaded(name: str, loaded: Any) -> ModuleSource | None:
    # Not by getattr: a module may have a __getattr__ of its own.
    spec, file, package = (vars(loaded).get(name) for name in ("__spec__", "__file__", "__package__"))
    if spec is not None and getattr(spec, "loader", None) is not None and spec.name == vars(loaded).get("__name__"):
        return _read_spec(name, spec, stamp=_stamp(spec))
    return _read_file(name, package or "", file or "")


def _read_file(name: str, package: str, file: str) -> ModuleSource | None:
    if not file.endswith(".py"):
        return None
    try:
        with tokenize.open(file) as opened:
            return parse_module(name, package, file, opened.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _read_spec(name: str, spec: importlib.machinery.ModuleSpec, stamp: tuple[int, int]) -> ModuleSource | None:
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    if spec.loader is None or (spec.origin is None and spec.submodule_search_locations is not None):
        return ModuleSource(name, package, "", "", ast.Module(body=[], type_ignores=[]))
    if spec.origin in ("built-in", "frozen"):
        return None
    if not hasattr(spec.loader, "get_source"):  # such as pytest's, which rewrites assertions
        return _read_file(name, package, spec.origin or "")
    return _read_once(name, package, spec.origin or "", stamp, spec.name, spec.loader)


@functools.lru_cache(maxsize=4096)
def _read_once(
    name: str, package: str, file: str, _stamp: tuple[int, int], as_loaded: str, loader: Any
) -> ModuleSource | None:
    try:
        text = loader.get_source(as_loaded)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return None
    return None if text is None else parse_module(name, package, file, text)


def parse_module(name: str, package: str, file: str, text: str) -> ModuleSource | None:
    """Parse a module's text; `None` if it is no Python."""
    try:
        return ModuleSource(name, package, file, text, ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def absolute_name(found: ImportedName, package: str) -> str:
    """Return the absolute name of the module that an import names."""
    if not found.level:
        return found.module
    base = package.split(".")[: len(package.split(".")) - found.level + 1]
    return ".".join([*base, *([found.module] if found.module else [])])
