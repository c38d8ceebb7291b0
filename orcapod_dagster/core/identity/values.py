"""Running values as stable text: closures, defaults, state of objects, and what a namespace without source holds."""

from __future__ import annotations

import enum
import functools
import hashlib
import pathlib
import re
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

from orcapod_dagster.core.identity.environment import decides_nothing
from orcapod_dagster.core.identity.syntax import dump_constant

# Their pickled form is their value, in every process.
_PLAIN_MODULES: Final = frozenset(
    {
        "datetime",
        "decimal",
        "fractions",
        "uuid",
        "zoneinfo",
        "operator",
        "ipaddress",
        "array",
        "string",
        "statistics",
    }
)
_COLLECTIONS: Final = frozenset({"collections", "types"})
_TYPING: Final = frozenset({"typing", "types", "typing_extensions"})
NOT_COUNTED: Final = "decides nothing"


def plain_text(value: Any) -> str:
    """Return a type-tagged text of plain data, and of anything else its class."""
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{','.join(map(plain_text, value))}]"
    if isinstance(value, dict):
        return f"dict[{','.join(f'{plain_text(k)}:{plain_text(v)}' for k, v in value.items())}]"
    if isinstance(value, set | frozenset):
        return f"set[{','.join(sorted(map(plain_text, value)))}]"
    if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
        return dump_constant(value)
    if isinstance(value, types.FunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    # Python 3.13 calls pathlib's module pathlib._local, others pathlib.
    if type(value).__module__.partition(".")[0] in ("datetime", "decimal", "fractions", "pathlib", "uuid", "re"):
        return f"{type(value).__qualname__}:{value!r}"
    return f"opaque {type(value).__module__}.{type(value).__qualname__}"


class ValueTexts:
    """Makes texts of values; code and what cannot be seen through are handed on.

    Args:
        add_code: gets a function, class or module, or an instance's class, and the path under which it was found; returns
            a text that stands for it.
        is_own: tells whether a class is the user's own.
        report: gets the path and class of what cannot be seen through.
    """

    def __init__(
        self,
        add_code: Callable[[Any, str], str],
        is_own: Callable[[type], bool],
        report: Callable[[str, Any], None],
    ) -> None:
        self._add_code = add_code
        self._is_own = is_own
        self._report = report
        self._open: dict[int, str] = {}

    def text(self, value: Any, path: str) -> str:
        """Return the text of a value; one that contains itself is named there by its path."""
        if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
            return dump_constant(value) if type(value).__module__ == "builtins" else self._subclass(value, path)
        if id(value) in self._open:
            return f"again {self._open[id(value)]}"
        self._open[id(value)] = path
        try:
            return self._text(value, path)
        finally:
            del self._open[id(value)]

    def _text(self, value: Any, path: str) -> str:
        value = getattr(value, "__wrapped_function__", value)
        if is_code(value):
            return self._add_code(value, path)
        if decides_nothing(type(value).__module__):
            return NOT_COUNTED
        if isinstance(value, functools.partial):
            given = self._items([*value.args, *(value.keywords[k] for k in sorted(value.keywords))], path)
            return f"partial {self.text(value.func, path)} {sorted(value.keywords)} {given}"
        if isinstance(value, types.MethodType):
            return f"method {value.__func__.__name__} of {self.text(value.__self__, path)}"
        if isinstance(value, pathlib.PurePath):
            return f"path {value.as_posix()}"
        container = self._container(value, path)
        return self._object(value, path) if container is None else container

    def _container(self, value: Any, path: str) -> str | None:
        kind = type(value)
        own = kind.__module__ not in ("builtins", "collections", "types")
        if isinstance(value, Mapping) and (not own or isinstance(value, dict)):
            keys, values = self._items(value.keys(), path), self._items(value.values(), path)
            made = self.text(value.default_factory, path) if isinstance(value, defaultdict) else ""
            return f"{self._kind(value, path)}{keys}{values}{made}{self._state(value, path) if own else ''}"
        if isinstance(value, set | frozenset):
            return f"{self._kind(value, path)}[{','.join(sorted(self.text(v, path) for v in value))}]"
        if isinstance(value, list | tuple) or kind.__qualname__ == "deque":
            return f"{self._kind(value, path)}{self._items(value, path)}{self._state(value, path) if own else ''}"
        return None

    def _kind(self, value: Any, path: str) -> str:
        """Return the class of a container; the methods of an own one count."""
        return self._add_code(type(value), path) if self._is_own(type(value)) else _kind(value)

    def _items(self, values: Any, path: str) -> str:
        return f"[{','.join(self.text(v, f'{path}[{i}]') for i, v in enumerate(values))}]"

    def _subclass(self, value: Any, path: str) -> str:
        if isinstance(value, enum.Enum):
            return f"{self._add_code(type(value), path)}.{value.name}"
        base = next(k for k in type(value).__mro__ if k.__module__ == "builtins")
        return f"{self._add_code(type(value), path)}({dump_constant(base(value))})"

    def _object(self, value: Any, path: str) -> str:
        kind = type(value)
        module = kind.__module__.partition(".")[0]
        if isinstance(value, enum.Enum):
            return f"{self._add_code(kind, path)}.{value.name}"
        if self._is_own(kind):
            return f"{self._add_code(kind, path)}{self._state(value, path)}"
        if isinstance(
            value, types.BuiltinFunctionType | range | slice | bytearray | types.GenericAlias | types.UnionType
        ):
            return f"{kind.__qualname__} {_builtin_text(value)}"
        if isinstance(value, re.Pattern):
            return f"pattern {self.text(value.pattern, path)} {value.flags}"
        if kind.__qualname__ == "_DataclassParams":  # Python 3.12 keeps more options there, which fields and slots show
            options = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
            return f"dataclass {[getattr(value, option) for option in options]}"
        if module == "dataclasses":
            return f"{kind.__qualname__} {self._state(value, path)}"
        if module in _TYPING:
            return f"{kind.__qualname__} {value!r}" if kind is not types.SimpleNamespace else self._state(value, path)
        if module in _PLAIN_MODULES:
            return f"{_kind(value)} {self._reduced(value, path)}"
        if module == "numpy":
            array = _array_text(value)
            if array is not None:
                return array
        self._report(path, value)
        return f"opaque {kind.__module__}.{kind.__qualname__}"

    def _reduced(self, value: Any, path: str) -> str:
        try:
            reduced = value.__reduce_ex__(2)
        except (TypeError, ValueError, AttributeError):
            self._report(path, value)
            return "opaque"
        return reduced if isinstance(reduced, str) else self._items([r for r in reduced[1:] if r is not None], path)

    def _state(self, value: Any, path: str) -> str:
        """Return the attributes of an instance, by name."""
        slots = [s for k in type(value).__mro__ for s in _slots(k) if hasattr(value, s)]
        state = {**{s: getattr(value, s) for s in slots}, **getattr(value, "__dict__", {})}
        return "{" + ",".join(f"{n}={self.text(state[n], f'{path}.{n}')}" for n in sorted(state)) + "}"


def is_code(value: Any) -> bool:
    """Tell whether a value is a function, class or module, or stands for a function as a cache does."""
    if isinstance(value, types.FunctionType | types.ModuleType) or (isinstance(value, type) and not _is_alias(value)):
        return True
    return isinstance(getattr(value, "__wrapped__", None), types.FunctionType)


def _is_alias(value: Any) -> bool:
    return hasattr(value, "__origin__")


def _kind(value: Any) -> str:
    return type(value).__qualname__


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    named = [slots] if isinstance(slots, str) else list(slots)
    return [
        f"_{kind.__name__.lstrip('_')}{s}" if s.startswith("__") and not s.endswith("__") else s
        for s in named
        if s not in ("__dict__", "__weakref__")
    ]


def _builtin_text(value: Any) -> str:
    if isinstance(value, types.BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def _array_text(value: Any) -> str | None:
    """Return the text of a numpy array or scalar, by dtype, shape and bytes; `None` for others and for object arrays."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return repr(value) if type(value).__name__.endswith("DType") or type(value).__name__ == "dtype" else None
    if value.dtype.hasobject:
        return None
    digest = hashlib.sha256(numpy.ascontiguousarray(value).tobytes()).hexdigest()
    return f"array {value.dtype.str} {value.shape} {digest}"
