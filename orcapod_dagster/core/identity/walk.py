"""The walk over a function's own code: from the running function, and what it holds, to named parts with digests."""

from __future__ import annotations

import ast
import copy
import enum
import sys
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from orcapod_dagster.core.identity.bytecode import changed_by_code, dump_code, names_of_code
from orcapod_dagster.core.identity.environment import (
    decides_nothing,
)
from orcapod_dagster.core.identity.functions import (
    Located,
    cells_of,
    default_expressions,
    defaults_of,
    flattened,
    layers_of,
    locate,
    plain_function,
    without_defaults,
)
from orcapod_dagster.core.identity.modules import canonical_name
from orcapod_dagster.core.identity.names import Chain, ImportedName, Names, chains_in, changed_chains, names_of
from orcapod_dagster.core.identity.own_code import own_code_of
from orcapod_dagster.core.identity.resolve import (
    Bound,
    Library,
    Loaded,
)
from orcapod_dagster.core.identity.source_walk import Name, SourceWalk, keeper
from orcapod_dagster.core.identity.syntax import dump, dump_literal, renamed
from orcapod_dagster.core.identity.values import ValueTexts, is_code

_ITSELF: Final = "the function itself"
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class CodeWalk(SourceWalk):
    """Collects the parts of one function.

    Args:
        function: a function, method, class, `functools.partial` or callable object.
        own_code: further top-level packages of the user's own.
        ignore: names that do not count.
        called: the name that the function is taken to have; default its own.
        worker_state: parameters whose defaults count by `add_state`, and not as they are written.
    """

    def __init__(
        self,
        function: Any,
        own_code: Sequence[Any] = (),
        ignore: Iterable[str] = (),
        called: str | None = None,
        worker_state: Collection[str] = (),
    ) -> None:
        self._called = called
        self._worker_state = frozenset(worker_state)
        self._root = plain_function(function)
        super().__init__(own_code_of(_module_of(self._root), own_code), ignore)
        self._values = ValueTexts(self._add_code, self._is_own_class, self._report_opaque)
        self._code: dict[int, str] = {}
        self._kept: list[Any] = []
        self._running: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
        self._changed_running: set[tuple[int, str]] = set()
        self._reached_running: set[int] = set()

    def run(self) -> None:
        """Walk the function and everything that it names."""
        self._add_root(self._root)
        self._drain()

    def declare(self, name: str, value: Any) -> None:
        """Count a value, or a function with all that it names, that the user declared."""
        self._put("declared", name, self._values.text(value, f"declared {name}"))
        self._drain()

    def add_state(self, name: str, factory: Any, values: Mapping[str, Any]) -> None:
        """Count the code of what makes a worker's state, without what it is given to do so, and values that decide results.

        Args:
            name: of the parameter.
            factory: arguments of a `functools.partial`, and what an object holds whose method or call it is, do not count; or several
                classes.
            values: kind and name of a part → value.
        """
        several: Sequence[Any] = factory if isinstance(factory, list | tuple) else [factory]
        texts = [self._values.text(_bare_code(one), f"per_worker {name}") for one in several]
        self._put("per_worker", name, "\n".join(texts))
        for key, value in values.items():
            kind, _, part = key.partition(" ")
            self._put(kind, part, self._values.text(value, f"{kind} {part}"))
        self._drain()

    def name_outputs(self, names: Sequence[str]) -> None:
        """Count what the values that the function returns are called, where it returns several."""
        if len(names) > 1:
            self._put("outputs", "", repr(tuple(names)))

    # ------------------------------------------------------------------ parts and reports

    def _report_opaque(self, path: str, value: Any) -> None:
        self._report(path, f"is a {type(value).__module__}.{type(value).__qualname__}, which cannot be seen through")

    def _is_own_class(self, kind: type) -> bool:
        return self._resolver.own.covers(canonical_name(kind.__module__))

    # ------------------------------------------------------------------ the function itself

    def held(self) -> dict[str, str] | None:
        """Return the digests of what a partial, a bound method or a callable object holds, by part.

        Returns:
            Nothing for a plain function; `None` where something of it cannot be seen through, and so tells nothing apart.
        """
        self._add_held(self._root)
        return None if self.reports else {key: part.digest for key, part in self.parts.items()}

    def _add_root(self, function: Any) -> None:
        function = self._add_held(function)
        if isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
            self._add_layers(function)
        elif isinstance(function, type):
            self._put("body", "", self._values.text(function, "body"))

    def _add_held(self, function: Any) -> Any:
        """Count what a partial, a bound method or a callable object holds, and return the function inside."""
        while True:
            if isinstance(function, partial):
                function, arguments, keywords = flattened(function)
                for position, value in enumerate(arguments):
                    self._put("argument", str(position), self._values.text(value, f"argument {position}"))
                for name, value in keywords.items():
                    self._put("argument", name, self._values.text(value, f"argument {name}"))
                function = plain_function(function)
            elif isinstance(function, types.MethodType):
                self._put("state", "self", self._values.text(function.__self__, "self"))
                function = function.__func__
            else:
                if not isinstance(function, types.FunctionType | type) and not hasattr(function, "__wrapped__"):
                    self._put("state", "self", self._values.text(function, "self"))
                return function

    def _add_layers(self, function: Any) -> None:
        layers = layers_of(function)
        for layer in layers:
            self._code[id(layer)] = _ITSELF
        inner = layers[-1]
        if not isinstance(inner, types.FunctionType):
            self._report_opaque("body", inner)
            return
        located = locate(inner)
        decorators = [] if isinstance(located.node, ast.Lambda) else getattr(located.node, "decorator_list", [])
        # Decorators that stand above the function count by their syntax; others only show in what was made.
        if len(layers) - 1 > len(decorators):
            for number, layer in enumerate(layers[:-1]):
                self._add_wrapper(f"{number}", layer)
        self._add_body(inner, located)

    def _add_wrapper(self, name: str, layer: Any) -> None:
        code = getattr(layer, "__code__", None)
        if not isinstance(layer, types.FunctionType) or code is None:
            if not decides_nothing(f"{type(layer).__module__}.lru_cache"):
                self._put("wrapper", name, f"{type(layer).__module__}.{type(layer).__qualname__}")
            return
        self._put("wrapper", name, self._function_text(layer, f"wrapper {name}", as_made=True))

    def _add_body(self, function: types.FunctionType, located: Located) -> None:
        module, node = located.module, located.node
        qualname = function.__code__.co_qualname
        if module is not None and node is not None and "." not in qualname:
            self._names[module.name, qualname] = Name(module, qualname, [])
        elif module is not None and "<locals>" not in qualname and qualname.partition(".")[0] in module.bindings:
            self._add_resolved(Bound(module, qualname.partition(".")[0]))
        if node is None or located.cell is None:
            self._put("body", "", self._function_text(function, "body", defaults=False))
            self._add_default_values(function)
            return
        keep = keeper(module, function.__globals__)
        body = without_defaults(node if self._called is None else renamed(node, self._called))
        self._put("body", "", dump(body, keep), located.cell.source_of([node]))
        if module is None or "<locals>" in qualname:
            self._add_default_values(function)
        else:
            for name, expression in default_expressions(node).items():
                if name not in self._worker_state:
                    self._put("default", name, dump_literal(expression) or dump(expression, keep))
        node = without_defaults(node, self._worker_state)
        cells = cells_of(function)
        for name, value in cells.items():
            self._put("closure", name, self._values.text(value, f"closure {name}"))
        self._follow(function, located, names_of([node], keep), frozenset(function.__code__.co_freevars))
        self._note_changes(function, located, changed_chains(node))

    def _add_default_values(self, function: types.FunctionType) -> None:
        for name, value in defaults_of(function).items():
            if name not in self._worker_state:
                self._put("default", name, self._values.text(value, f"default {name}"))

    # ------------------------------------------------------------------ code found among values

    def _add_code(self, value: Any, path: str) -> str:
        """Count a function, class or module that a value holds; return what stands for it."""
        if id(value) in self._code:
            return self._code[id(value)]
        self._kept.append(value)
        if isinstance(value, types.ModuleType):
            return self._add_module(value, path)
        layers = layers_of(value)
        inner = layers[-1]
        module = canonical_name(getattr(inner, "__module__", None) or "")
        globals_ = getattr(inner, "__globals__", {})
        if isinstance(inner, types.FunctionType):
            module = canonical_name(globals_.get("__name__") or "")
        qualname = getattr(inner, "__qualname__", type(inner).__qualname__)
        name = f"{module}.{qualname}".strip(".")
        if module and not self._resolver.own.covers(module):
            self._note_library(Library(name))
            self._code[id(value)] = f"library {name}"
            return self._code[id(value)]
        if self._add_by_source(value, inner, module, qualname):
            self._code[id(value)] = f"own {name}"
            return self._code[id(value)]
        # A wrapper has the name of the function inside, which may count by itself.
        key = path if "<" in qualname or id(inner) in self._code else name
        for layer in layers:
            self._code.setdefault(id(layer), f"own {key}")
        self._queue.append(partial(self._add_made, value, inner, key))
        return self._code[id(value)]

    def _add_by_source(self, value: Any, inner: Any, module: str, qualname: str) -> bool:
        """Count what stands at the top of a module by its source; tell whether that is so."""
        source = self._resolver.find(module) if module else None
        top = qualname.partition(".")[0]
        if source is None or "<locals>" in qualname or top not in source.bindings:
            return False
        if isinstance(inner, types.FunctionType):
            located = locate(inner)
            decorators = getattr(located.node, "decorator_list", [])
            if located.module is None or located.node is None or len(layers_of(value)) - 1 > len(decorators):
                return False
        elif vars(sys.modules.get(module, types)).get("__file__") is None:
            return False
        self._queue.append(partial(self._add_resolved, Bound(source, top)))
        return True

    def _add_made(self, value: Any, inner: Any, key: str) -> None:
        if isinstance(value, type):
            self._put("class", key, self._class_text(value, key))
            return
        texts = [self._function_text(inner, key)] if isinstance(inner, types.FunctionType) else []
        registry = getattr(value, "registry", None)
        if registry is not None and hasattr(value, "dispatch"):
            texts += [self._values.text(f, f"{key}.{k.__qualname__}") for k, f in registry.items() if f is not inner]
        else:
            outer = [layer for layer in layers_of(value)[:-1] if isinstance(layer, types.FunctionType)]
            texts += [self._function_text(layer, f"{key} wrapper {n}", as_made=True) for n, layer in enumerate(outer)]
        self._put("helper", key, "\n".join(texts), self._source_of(inner))

    def _source_of(self, function: Any) -> str | None:
        located = locate(function) if isinstance(function, types.FunctionType) else None
        if located is None or located.cell is None or located.node is None:
            return None
        return located.cell.source_of([located.node])

    def _function_text(self, function: Any, path: str, *, as_made: bool = False, defaults: bool = True) -> str:
        """Return the text of a running function with its closure, and count all that it names."""
        code, located = function.__code__, locate(function)
        module = canonical_name(function.__globals__.get("__name__") or "")
        cells = cells_of(function)
        texts = [f"{name}={self._values.text(value, f'{path} {name}')}" for name, value in cells.items()]
        if module and not self._resolver.own.covers(module):
            return "\n".join([f"library {module}.{code.co_qualname}", *texts])
        if located.node is None:
            annotations = getattr(function, "__annotations__", {})
            texts += [f"{n}:{self._values.text(v, f'{path} annotation {n}')}" for n, v in annotations.items()]
            texts.append(dump_code(code, function.__doc__))
            names, changed = names_of_code(code), changed_by_code(code)
            names.chains |= {
                chain for text in annotations.values() if isinstance(text, str) for chain in chains_in(text)
            }
        else:
            node = _undecorated(located.node) if as_made else located.node
            keep = keeper(located.module, function.__globals__)
            texts.append(dump(without_defaults(node) if not defaults else node, keep))
            names, changed = names_of([node], keep), changed_chains(node)
        if defaults:
            texts += [f"{n}={self._values.text(v, f'{path} default {n}')}" for n, v in defaults_of(function).items()]
        self._follow(function, located, names, frozenset(code.co_freevars))
        self._note_changes(function, located, changed)
        return "\n".join(texts)

    def _class_text(self, kind: type, path: str) -> str:
        """Return the text of a class without source: its bases, its attributes and its methods."""
        texts = [self._values.text(base, f"{path} base {n}") for n, base in enumerate((*kind.__bases__, type(kind)))]
        attributes = vars(kind)
        if issubclass(kind, enum.Enum):  # how members are kept changes with Python
            members = [f"{name}={self._values.text(m.value, f'{path}.{name}')}" for name, m in kind.__members__.items()]
            texts.append(f"members {members}")
            attributes = {n: v for n, v in attributes.items() if isinstance(v, _METHODS)}
        for name, value in sorted(attributes.items()):
            inner = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if name in _CLASS_NAMES or _is_generated(inner):
                continue
            if isinstance(inner, property):
                accessors = (inner.fget, inner.fset, inner.fdel)
                text = "".join(
                    self._function_text(f, f"{path}.{name}") for f in accessors if isinstance(f, types.FunctionType)
                )
            elif isinstance(inner, types.FunctionType):
                text = self._function_text(inner, f"{path}.{name}")
            elif isinstance(inner, types.GetSetDescriptorType | types.MemberDescriptorType):
                continue
            else:
                text = self._values.text(value, f"{path}.{name}")
            texts.append(f"{name} {type(value).__name__} {text}")
        return "\n".join(texts)

    # ------------------------------------------------------------------ names

    def _follow(self, function: types.FunctionType, located: Located, names: Names, skip: frozenset[str]) -> None:
        if located.module is not None:
            self._follow_names(located.module, names, skip)
        else:
            self._follow_running(function.__globals__, names, skip)

    def _add_module(self, module: types.ModuleType, path: str) -> str:
        name = canonical_name(module.__name__)
        self._code[id(module)] = f"module {name}"
        if not self._resolver.own.covers(name):
            self._note_library(Library(name))
            return self._code[id(module)]
        source = self._resolver.find(name)
        if source is None:
            self._report(name, "is a module without source")
        else:
            self._queue.append(partial(self._add_whole, source))
        return self._code[id(module)]

    def _add_loaded(self, found: Loaded) -> None:
        """Count a name of an own module that has no source by what the loaded module holds."""
        dotted = ".".join((found.module, *found.rest))
        loaded = sys.modules.get(found.module)
        if loaded is None or not found.rest or not hasattr(loaded, found.rest[0]):
            self._put("unknown", dotted, "unknown")
        elif isinstance(value := getattr(loaded, found.rest[0]), types.BuiltinFunctionType):
            self._put("unknown", dotted, "compiled")
            self._report_opaque(dotted, value)
        else:
            self._add_running(vars(loaded), found.module, found.rest)

    # ------------------------------------------------------------------ names of a running namespace

    def _follow_running(self, scope: dict[str, Any], names: Names, skip: frozenset[str]) -> None:
        """Count the names that code without a module uses, by what its namespace holds."""
        label = canonical_name(scope.get("__name__") or "")
        self._reach_imports(scope)
        for name in names.dynamic:
            self._report_dynamic(label, name)
        for chain in sorted(names.chains):
            if chain[0] in skip:
                continue
            if chain[0] in names.imports:
                package = scope.get("__package__") or label.rpartition(".")[0]
                for found in self._resolver.resolve_import(names.imports[chain[0]], package, chain[1:]):
                    self._add_resolved(found, names.variables_of(chain))
            else:
                self._add_running(scope, label, chain, names.variables_of(chain))

    def _reach_imports(self, scope: dict[str, Any]) -> None:
        """Note the own modules that a namespace without source imported; they may change what others define."""
        if id(scope) in self._reached_running:
            return
        self._reached_running.add(id(scope))
        for value in list(scope.values()):
            if isinstance(value, types.ModuleType):
                named = value.__name__
            else:
                named = value.__module__ if isinstance(value, types.FunctionType | type) else None
            name = canonical_name(named) if isinstance(named, str) else ""
            source = self._resolver.find(name) if name in sys.modules and self._resolver.own.covers(name) else None
            if source is not None:
                self._resolver.reach(source)

    def _add_running(self, scope: dict[str, Any], label: str, chain: Chain, variables: Iterable[str] = ()) -> None:
        if chain[0] not in scope:
            self._add_unbound(label, chain[0])
            return
        value = getattr(scope[chain[0]], "__wrapped_function__", scope[chain[0]])
        name = f"{label}.{chain[0]}".strip(".")
        if isinstance(value, types.ModuleType):
            found = ImportedName(value.__name__, 0, None)
            for one in self._resolver.resolve_import(found, "", chain[1:], (label, chain[0]) if label else None):
                self._add_resolved(one, variables)
        elif (id(scope), chain[0]) not in self._running:
            self._running[id(scope), chain[0]] = (scope, name)
            if is_code(value):
                self._note_imported(name, value, chain[1:], variables)
            else:
                # Values come last: by then it is known what the code changes while it runs.
                self._late.append(partial(self._add_running_value, scope, chain[0], name, value))

    def _note_imported(self, name: str, value: Any, rest: Chain, variables: Iterable[str]) -> None:
        module = canonical_name(value.__module__ or "")
        text = self._values.text(value, name)
        if decides_nothing(f"{module}.{value.__qualname__}"):
            return
        if module and not self._resolver.own.covers(module):
            self._note_library(Library(".".join((module, value.__qualname__, *rest))), variables)
        if text == _ITSELF and self._called is not None and name.rpartition(".")[2] == value.__name__:
            name = f"{name.rpartition('.')[0]}.{self._called}".strip(".")
        if text != f"own {name}":
            self._put("import", name, text)

    def _add_running_value(self, scope: dict[str, Any], root: str, name: str, value: Any) -> None:
        if (id(scope), root) in self._changed_running:
            self._put("constant", name, f"changes {type(value).__qualname__}")
            if not isinstance(value, dict):
                self._report(name, "changes while the code runs; its value does not count")
        else:
            self._put("constant", name, self._values.text(value, name))

    # ------------------------------------------------------------------ state that changes

    def _note_changes(self, function: types.FunctionType, located: Located, changed: frozenset[Chain]) -> None:
        free = set(function.__code__.co_names) | _nested_names(function.__code__)
        for chain in changed:
            if chain[0] not in free:
                continue
            if located.module is None:
                self._changed_running.add((id(function.__globals__), chain[0]))
            else:
                for found in self._resolver.resolve(located.module, chain):
                    self._changes(found)

    # ------------------------------------------------------------------ texts of names


_METHODS: Final = (types.FunctionType, property, staticmethod, classmethod)
_CLASS_NAMES: Final = frozenset(
    [
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotate_func__",
        "__annotations_cache__",
        "__abstractmethods__",
        "_abc_impl",
        # What a TypedDict knows besides its annotations differs between versions of Python.
        "__readonly_keys__",
        "__mutable_keys__",
        "__closed__",
        "__extra_items__",
    ]
)


def _is_generated(value: Any) -> bool:
    """Tell whether a method was made by `dataclass`, `Enum` or `NamedTuple`, whose fields count by themselves."""
    code = getattr(layers_of(value)[-1], "__code__", None)
    where = str(getattr(value, "__globals__", {}).get("__name__"))
    return (
        where in ("dataclasses", "enum", "collections")
        or where.startswith("namedtuple_")
        or (code is not None and code.co_qualname.startswith("__create_fn__"))
    )


def _module_of(function: Any) -> str:
    while isinstance(function, partial):
        function = plain_function(function.func)
    inner = layers_of(function)[-1]
    inner = getattr(inner, "__func__", inner)
    scope = getattr(inner, "__globals__", None)
    name = scope.get("__name__") if scope is not None else getattr(inner, "__module__", None)
    return canonical_name(name or "")


def _bare_code(factory: Any) -> Any:
    """Return the code that a callable is, without what it was given: arguments, or the object whose method or call it is."""
    while isinstance(factory, partial | types.MethodType):
        if isinstance(factory, partial):
            factory = factory.func
        else:  # a class method may use all of its class
            factory = factory.__self__ if isinstance(factory.__self__, type) else factory.__func__
    return factory if is_code(factory) or isinstance(factory, types.BuiltinFunctionType) else type(factory)


def _undecorated(node: FunctionNode) -> FunctionNode:
    if isinstance(node, ast.Lambda):
        return node
    bare = copy.copy(node)
    bare.decorator_list = []
    return bare


def _nested_names(code: types.CodeType) -> set[str]:
    nested = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return {name for c in nested for name in (*c.co_names, *_nested_names(c))}
