"""What the code is: hashes of a function's signature, and of the code and constants that decide its result.

A function's content is a set of components: the function itself, and, transitively, the functions, classes and
constants of the user's own code that it names. Each component is a stable text; the hash is over all of them.
Names at module level are looked up in the module's source, not in the running process, so that a helper which is
defined further down, or a module that is only half imported, counts the same at definition and in the run.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orcapod_dagster.core.code_syntax import Chain, ImportedName, dump, dump_constant, imported_names, names_of

SIGNATURE_METHOD: Final = "python.signature.v1"
CONTENT_METHOD: Final = "python.content.v1"
_OURS: Final = frozenset({"packet_asset", "packet_function"})
_BUILTINS: Final = frozenset(dir(__builtins__)) if not isinstance(__builtins__, dict) else frozenset(__builtins__)


class UnhashableDependencyWarning(UserWarning):
    """Something that a function refers to cannot be seen through, so a change of it goes unnoticed."""


def function_signature_hash(function: Callable[..., Any]) -> str:
    """Return the hash of parameter names, order, kinds, annotations, defaults and the return annotation."""
    signature = inspect.signature(function)
    parts = [
        f"{p.name}|{p.kind.name}|{_annotation(p.annotation)}|{'' if p.default is p.empty else _value_text(p.default)}"
        for p in signature.parameters.values()
    ]
    text = "\n".join([*parts, f"-> {_annotation(signature.return_annotation)}"])
    return f"{SIGNATURE_METHOD}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def function_content_hash(function: Callable[..., Any], *, own_code: Sequence[str | types.ModuleType] = ()) -> str:
    """Return the hash of the code and constants that decide a function's result.

    Args:
        function: a plain function, method, lambda or `functools.partial`.
        own_code: top-level packages that count as the user's own, besides the function's.
    """
    text = "\n".join(f"{name}={digest}" for name, digest in sorted(components(function, own_code=own_code).items()))
    return f"{CONTENT_METHOD}:{hashlib.sha256(text.encode()).hexdigest()}"


def components(function: Callable[..., Any], *, own_code: Sequence[str | types.ModuleType] = ()) -> dict[str, str]:
    """Return every component that counts: qualified name → hash. The function itself stands under the name `""`."""
    closure = _Closure(function, tuple(m if isinstance(m, str) else m.__name__ for m in own_code))
    return {
        name: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for name, text in closure.texts.items()
    }


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    if isinstance(annotation, str):
        return annotation.replace(" ", "")
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__") and annotation.__module__ == "builtins":
        return annotation.__qualname__
    return str(annotation).replace("typing.", "").replace("pathlib._local.", "pathlib.").replace(" ", "")


# ---------------------------------------------------------------------------- modules as source


@dataclass(frozen=True, slots=True)
class _Module:
    """A module of the user's own code: its name, and what its top level binds each name to."""

    name: str
    package: str
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict[str, list[ast.stmt]])


@functools.lru_cache(maxsize=512)
def _parse(name: str, package: str, file: str, _stamp: int) -> _Module | None:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    bindings: dict[str, list[ast.stmt]] = {}
    for statement in _top_level(tree.body):
        for bound in _bound_names(statement):
            bindings.setdefault(bound, []).append(statement)
    return _Module(name, package, bindings)


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those under `if`, `try` and `with`."""
    for statement in body:
        yield statement
        for nested in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
                for child in getattr(statement, nested, []):
                    yield from _top_level(child.body if isinstance(child, ast.ExceptHandler) else [child])


def _bound_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [name for name, _ in imported_names(statement)]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        # A container that is filled after its definition: TABLE.append(x), TABLE.update(...).
        filled = statement.value.func.value if isinstance(statement.value.func, ast.Attribute) else None
        return [filled.id] if isinstance(filled, ast.Name) else []
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _module_of(name: str) -> _Module | None:
    """Return a module's source by name, without importing it where it is not imported yet."""
    loaded = sys.modules.get(name)
    file, package = getattr(loaded, "__file__", None), getattr(loaded, "__package__", None)
    if loaded is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None or not spec.origin:
            return None
        file, package = spec.origin, spec.parent
    if not file or not file.endswith(".py"):
        return None
    try:
        stamp = Path(file).stat().st_mtime_ns
    except OSError:
        return None
    return _parse(name, package or "", file, stamp)


# ---------------------------------------------------------------------------- the closure over own code


class _Closure:
    """Collects the components of a function."""

    def __init__(self, function: Callable[..., Any], own_code: tuple[str, ...]) -> None:
        self.texts: dict[str, str] = {}
        self._seen: set[int] = set()
        root = _plain_function(function)
        module = getattr(root, "__module__", None) or ""
        self._own = {*own_code, module.partition(".")[0]}
        self._folder = _folder_of(module)
        self._root = root
        self._add_callable("", function)

    # ------------------------------------------------------------------ running objects

    def _add_callable(self, name: str, function: Any) -> None:
        if isinstance(function, functools.partial):
            self.texts[name + "(partial)"] = _value_text([list(function.args), dict(function.keywords)])
            self._add_callable(name, function.func)
            return
        function = _plain_function(function)
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        node = _node_of(function)
        if node is None:
            self.texts[name] = _bytecode_text(getattr(function, "__code__", None), function)
            return
        extra = [
            _value_text(getattr(function, "__defaults__", None)),
            _value_text(getattr(function, "__kwdefaults__", None)),
        ]
        self.texts[name] = dump(node, _counts) + "".join(extra)
        cells = _cells_of(function)
        for free, value in cells.items():
            self._add_value(f"{name}.<closure>.{free}", value)
        self._add_names(
            getattr(function, "__module__", "") or "", node, getattr(function, "__globals__", {}), skip=frozenset(cells)
        )

    def _add_value(self, name: str, value: Any) -> None:
        value = getattr(value, "__wrapped_function__", value)
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            if self._is_own(getattr(_plain_function(value), "__module__", "") or ""):
                self._add_callable(name, value)
        elif isinstance(value, type):
            if self._is_own(value.__module__):
                self._add_class(name, value)
        elif not isinstance(value, types.ModuleType | types.BuiltinFunctionType) and not _does_not_count(value):
            self.texts[name] = _value_text(value, name)

    def _add_class(self, name: str, kind: type) -> None:
        if id(kind) in self._seen:
            return
        self._seen.add(id(kind))
        node = _node_of(kind)
        if node is None:
            warnings.warn(
                f"{name}: the source of class {kind.__qualname__} is not there.",
                UnhashableDependencyWarning,
                stacklevel=2,
            )
            return
        self.texts[name] = dump(node, _counts)
        self._add_names(kind.__module__, node, getattr(sys.modules.get(kind.__module__), "__dict__", {}))

    # ------------------------------------------------------------------ names in source

    def _add_names(self, module: str, node: ast.AST, scope: dict[str, Any], skip: frozenset[str] = frozenset()) -> None:
        names = names_of([node], _counts)
        for chain in sorted(names.chains):
            if chain[0] in skip:
                continue
            if chain[0] in names.imports:
                self._add_import(_module_of(module), module, names.imports[chain[0]], chain[1:])
                continue
            source = _module_of(module) if module != "__main__" or "__file__" in scope else None
            if source is not None and chain[0] in source.bindings:
                self._add_binding(source, chain)
            elif chain[0] in scope:
                self._add_value(f"{module}.{chain[0]}", scope[chain[0]])
            elif chain[0] not in _BUILTINS:
                self.texts[f"{module}.{chain[0]}"] = "unknown"

    def _add_binding(self, module: _Module, chain: Chain) -> None:
        name = f"{module.name}.{chain[0]}"
        for position, statement in enumerate(module.bindings[chain[0]]):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                found = dict(imported_names(statement))[chain[0]]
                if not self._is_own(_absolute(found, module.package)):
                    self.texts[name] = f"import {found.module} {found.attribute}"
                self._add_import(module, module.name, found, chain[1:])
                continue
            if id(statement) in self._seen:
                continue
            self._seen.add(id(statement))
            self.texts[f"{name}#{position}" if position else name] = _statement_text(statement)
            self._add_names(module.name, statement, {}, skip=frozenset({chain[0]}))

    def _add_import(self, importer: _Module | None, module: str, found: ImportedName, rest: Chain) -> None:
        target = _absolute(found, importer.package if importer is not None else module.rpartition(".")[0])
        if not self._is_own(target):
            return
        parts = [*([found.attribute] if found.attribute and found.attribute != "*" else []), *rest]
        while parts:
            source = _module_of(target)
            if source is not None and parts[0] in source.bindings:
                self._add_binding(source, tuple(parts))
                return
            if _module_of(f"{target}.{parts[0]}") is None:
                self.texts[f"{target}.{parts[0]}"] = "unknown"
                return
            target, parts = f"{target}.{parts[0]}", parts[1:]

    def _is_own(self, module: str) -> bool:
        top = module.partition(".")[0]
        if top in ("orcapod_dagster", "builtins") and top not in self._own:
            return False
        if top in self._own:
            return True
        # Modules beside a loose file belong to it; what is installed or of the standard library does not.
        return self._folder is not None and _folder_of(top) == self._folder


def _absolute(found: ImportedName, package: str) -> str:
    if not found.level:
        return found.module
    base = package.split(".")[: len(package.split(".")) - found.level + 1]
    return ".".join([*base, *([found.module] if found.module else [])])


def _folder_of(module: str) -> Path | None:
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None:
        spec = importlib.util.find_spec(top) if top and top != "__main__" else None
        file = spec.origin if spec is not None else None
    if not file or "site-packages" in file or file.startswith(sys.base_prefix):
        return None
    folder = Path(file).resolve().parent
    return folder.parent if Path(file).name == "__init__.py" else folder


# ---------------------------------------------------------------------------- texts


def _statement_text(statement: ast.stmt) -> str:
    """Return a constant by its value where it is plain data, and anything else by its syntax."""
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        try:
            return "value " + _value_text(ast.literal_eval(statement.value))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass
    return dump(statement, _counts)


def _counts(decorator: ast.expr) -> bool:
    """Tell whether a decorator counts: those of this package do not."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name not in _OURS


def _plain_function(function: Any) -> Any:
    """Return the function inside a packet function, an asset, a bound method or a callable object."""
    function = getattr(function, "__wrapped_function__", function)
    function = getattr(function, "__func__", function)
    if isinstance(function, types.FunctionType | type):
        return function
    call = vars(type(function)).get("__call__")
    return call if isinstance(call, types.FunctionType) else function


def _cells_of(function: Any) -> dict[str, Any]:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    found: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars if code is not None else (), cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            found[name] = None
    wrapped = getattr(function, "__wrapped__", None)
    return found if wrapped is None else {**found, "__wrapped__": wrapped}


def _node_of(thing: Any) -> ast.AST | None:
    """Return the syntax of a function or class; `None` without source."""
    try:
        lines, _ = inspect.getsourcelines(thing)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    name = getattr(thing, "__name__", "")
    kinds = ast.Lambda if name == "<lambda>" else (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [
        n for n in ast.walk(tree) if isinstance(n, kinds) and (name == "<lambda>" or getattr(n, "name", "") == name)
    ]
    if name == "<lambda>" and len(found) > 1:
        return None
    return found[0] if found else None


def _bytecode_text(code: types.CodeType | None, thing: Any) -> str:
    if code is None:
        warnings.warn(
            f"{thing!r} cannot be seen through: a change of it goes unnoticed. Give it a version.",
            UnhashableDependencyWarning,
            stacklevel=2,
        )
        return f"opaque {type(thing).__qualname__}"
    constants = [_bytecode_text(c, c) if isinstance(c, types.CodeType) else dump_constant(c) for c in code.co_consts]
    return f"bytecode {code.co_code.hex()} {constants} {code.co_names} {code.co_varnames} {sys.version_info[:2]}"


def _does_not_count(value: Any) -> bool:
    """Loggers, locks and definitions of Dagster decide no result."""
    module = type(value).__module__
    return module.partition(".")[0] in ("logging", "dagster", "_thread", "threading", "orcapod_dagster")


def _value_text(value: Any, name: str = "") -> str:
    """Return a type-tagged text of plain data; anything else is named in a warning."""
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{','.join(_value_text(v, name) for v in value)}]"
    if isinstance(value, dict):
        return f"dict[{','.join(f'{_value_text(k, name)}:{_value_text(v, name)}' for k, v in value.items())}]"
    if isinstance(value, set | frozenset):
        return f"set[{','.join(sorted(_value_text(v, name) for v in value))}]"
    if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
        return dump_constant(value)
    if isinstance(value, types.FunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    # Python 3.13 calls pathlib's module pathlib._local, others pathlib.
    if hasattr(value, "__reduce_ex__") and type(value).__module__.partition(".")[0] in (
        "datetime",
        "decimal",
        "fractions",
        "pathlib",
        "uuid",
        "re",
    ):
        return f"{type(value).__qualname__}:{value!r}"
    if name:
        warnings.warn(
            f"{name} is a {type(value).__qualname__}, which cannot be seen through: a change of it goes unnoticed. Pass it as a "
            "parameter, or count its version by a constant that the function uses.",
            UnhashableDependencyWarning,
            stacklevel=2,
        )
    return f"opaque {type(value).__module__}.{type(value).__qualname__}"
