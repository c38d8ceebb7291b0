"""Running functions: the layers that decorators put around them, and the syntax they came of."""

from __future__ import annotations

import ast
import copy
import functools
import linecache
import sys
import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from orcapod_dagster.core.identity.modules import ModuleSource, canonical_name, find_module, parse_module


@dataclass(frozen=True, slots=True)
class Located:
    """Where a function's code stands.

    Attributes:
        module: its module as source, where its names are looked up; `None` where only the running namespace has them: a
            notebook, `exec`, a module without source.
        cell: the source that holds its syntax, if any.
        node: its syntax.
    """

    module: ModuleSource | None
    cell: ModuleSource | None
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | None


def locate(function: types.FunctionType) -> Located:
    """Find the syntax of a function, and the module that its names belong to."""
    loaded_as = function.__globals__.get("__name__") or ""
    module = find_module(canonical_name(loaded_as)) if loaded_as else None
    loaded = sys.modules.get(loaded_as)
    if module is not None and module.file:
        same = loaded is not None and vars(loaded) is function.__globals__
        if same or module.file == function.__code__.co_filename:
            node = module.node_of(function.__code__)
            return Located(module, module if node is not None else None, node)
    cell = _cell(function.__code__.co_filename)
    return Located(None, cell, None if cell is None else cell.node_of(function.__code__))


def _cell(filename: str) -> ModuleSource | None:
    """Return the source of a notebook's cell, or of whatever code was compiled under a file name that has lines."""
    text = "".join(linecache.getlines(filename))
    return _parse_cell(filename, text) if text else None


@functools.lru_cache(maxsize=1024)
def _parse_cell(filename: str, text: str) -> ModuleSource | None:
    return parse_module("", "", filename, text)


def layers_of(function: Any) -> list[Any]:
    """Return a function and what it wraps (`__wrapped__`), from the outside in."""
    layers = [function]
    while len(layers) < 100:  # a wrapper may wrap itself
        inner = getattr(layers[-1], "__wrapped__", None)
        if inner is None or any(inner is layer for layer in layers):
            break
        layers.append(inner)
    return layers


def plain_function(function: Any) -> Any:
    """Return the function inside a packet function, an asset, or a static or class method."""
    function = getattr(function, "__wrapped_function__", function)
    return function.__func__ if isinstance(function, staticmethod | classmethod) else function


def flattened(function: functools.partial[Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return the function inside a partial, and what it is given; `functools` joins a partial of one only where none has attributes."""
    inner: Any = function.func
    if not isinstance(inner, functools.partial):
        return inner, function.args, dict(function.keywords)
    innermost, arguments, keywords = flattened(inner)  # pyright: ignore[reportUnknownArgumentType]
    return innermost, (*arguments, *function.args), {**keywords, **function.keywords}


def running_function(function: Any) -> types.FunctionType | None:
    """Return the Python function that runs when something is called: inside of partials, bound methods and wrappers."""
    function = plain_function(function)
    while isinstance(function, functools.partial | types.MethodType):
        function = plain_function(function.func if isinstance(function, functools.partial) else function.__func__)
    inner = layers_of(function)[-1]
    if callable(inner) and not isinstance(inner, types.FunctionType | type):
        inner = type(inner).__call__
    return inner if isinstance(inner, types.FunctionType) else None


def cells_of(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function's closure holds, by name; a cell that is still empty is left out."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def defaults_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the defaults of a function's parameters, by name."""
    code, positional = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    return {
        **dict(zip(names[len(names) - len(positional) :], positional, strict=True)),
        **(function.__kwdefaults__ or {}),
    }


def default_expressions(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> dict[str, ast.expr]:
    """Return the expressions of the defaults of a function's parameters, by name."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {**{a.arg: e for a, e in pairs}, **{a.arg: e for a, e in keyword if e is not None}}


def without_defaults(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, parameters: Collection[str] | None = None
) -> Any:
    """Return a function's syntax without the defaults of some parameters; without any by default."""
    bare, arguments = copy.copy(node), copy.copy(node.args)
    bare.args = arguments
    if parameters is None:
        arguments.defaults, arguments.kw_defaults = [], []
        return bare
    given = default_expressions(node)
    kept = given.keys() - set(parameters)
    if len(kept) == len(given):
        return node
    keyword = [a.arg for a in arguments.kwonlyargs]
    arguments.defaults = [expression for name, expression in given.items() if name in kept and name not in keyword]
    arguments.kw_defaults = [given[name] if name in kept else None for name in keyword]
    return bare
