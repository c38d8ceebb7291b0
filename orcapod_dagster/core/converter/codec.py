"""Codec: how the values of one Python type are held in Arrow; and the registered hooks that find it.

Codecs work on whole columns. A codec of a container converts its children by their codecs, all rows at once, so a
column of lists costs one pass over all items, and no Python call per item.
"""

from __future__ import annotations

import contextlib
import threading
import types as python_types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin

import pyarrow as pa

from orcapod_dagster.core.errors import UnsupportedTypeError

NONE: Final = type(None)


class Misfit(Exception):  # noqa: N818  # a finding on its way to the place that knows the column's name
    """A value that its type does not take.

    Args:
        row: its position in the values that were given.
        seen: what it is ("a str"), never its value.
        where: the way to it inside the row ("item 3", "field 'x'"), outermost first.
        reason: more about it, where there is more to say.
    """

    def __init__(self, row: int, seen: str, where: tuple[str, ...] = (), reason: str = "") -> None:
        super().__init__(seen)
        self.row = row
        self.seen = seen
        self.where = where
        self.reason = reason

    def inside(self, row: int, place: str) -> Misfit:
        """Return the same finding as seen by the container whose `row` holds it at `place`."""
        return Misfit(row, self.seen, (place, *self.where), self.reason)


class Codec(ABC):
    """How values of one Python type are held in Arrow.

    Note to implementers: `decode(encode(values))` equals `values`, nulls (`None`) included.
    """

    arrow_type: pa.DataType

    @abstractmethod
    def encode(self, values: Sequence[Any]) -> pa.Array:
        """Convert values to an array of `arrow_type`; `None` becomes null.

        Raises:
            Misfit: the first value that the type does not take.
        """

    @abstractmethod
    def decode(self, array: pa.Array) -> list[Any]:
        """Convert an array of `arrow_type` to values; null becomes `None`."""

    def arrange(self, array: pa.Array) -> pa.Array:
        """Bring equal values to one form, for arrays that `encode` did not make (a set's items to one order)."""
        return array

    def refused(self, array: pa.Array) -> pa.Array | None:
        """Return which rows hold a value that the type does not take (a name that is no member of an enum), if any."""
        return None


@dataclass(frozen=True, slots=True)
class Element:
    """A codec with the answer whether null is a value too."""

    codec: Codec
    nullable: bool

    @classmethod
    def of(cls, hint: Any) -> Element:
        """Return the element of a Python type; `T | None` is nullable."""
        plain, nullable = split_optional(hint)
        return cls(codec_of(plain), nullable or plain is NONE)

    def field(self, name: str) -> pa.Field:
        """Return the Arrow field."""
        return pa.field(name, self.codec.arrow_type, self.nullable)

    def encode(self, values: Sequence[Any]) -> pa.Array:
        """As `Codec.encode`, and `None` only where it is allowed."""
        if not self.nullable and NONE in set(map(type, values)):
            raise Misfit(next(row for row, value in enumerate(values) if value is None), "None")
        return self.codec.encode(values)


# ---------------------------------------------------------------------------- the hooks

_exact: dict[Any, Callable[[], Codec]] = {}
_families: list[tuple[Callable[[Any], bool], Callable[[Any], Codec]]] = []
_cache: dict[Any, Codec] = {}
_open = threading.local()


def register_codec(python_type: Any, make: Callable[[], Codec]) -> None:
    """Make a Python type known to the converter, for every schema from now on.

    Args:
        python_type: the class or annotation, compared by equality.
        make: gives its codec, on first use.
    """
    _exact[python_type] = make
    _cache.clear()


def register_type_family(predicate: Callable[[Any], bool], make: Callable[[Any], Codec]) -> None:
    """Make a family of types known (all enums, all dataclasses); the newest registration is asked first."""
    _families.insert(0, (predicate, make))
    _cache.clear()


def codec_of(hint: Any) -> Codec:
    """Return the codec of a non-optional Python type.

    Raises:
        UnsupportedTypeError: no hook knows the type; says which part of it, for a nested one.
    """
    try:
        found = _cache.get(hint)
    except TypeError:
        return _find(hint)
    if found is None:
        found = _find(hint)
        _cache[hint] = found
    return found


def _find(hint: Any) -> Codec:
    with _unfinished(hint), _naming(hint):
        try:
            make = _exact.get(hint)
        except TypeError:
            make = None
        if make is not None:
            return make()
        for predicate, make_codec in _families:
            if predicate(hint):
                return make_codec(hint)
        raise UnsupportedTypeError(_why_unsupported(hint))


@contextlib.contextmanager
def _unfinished(hint: Any) -> Generator[None]:
    """Refuse a type that contains itself, instead of walking it for ever."""
    stack: list[Any] = _open.__dict__.setdefault("stack", [])
    if any(one is hint for one in stack):
        raise UnsupportedTypeError(
            f"{type_name(hint)} contains itself; Arrow types are finite. Store it as str or bytes."
        )
    stack.append(hint)
    try:
        yield
    finally:
        stack.pop()


@contextlib.contextmanager
def _naming(hint: Any) -> Generator[None]:
    """Say of a part's error which whole type it is a part of; so the way to an `Any` is told."""
    try:
        yield
    except pa.ArrowException as error:
        raise UnsupportedTypeError(
            f"{type_name(hint)} has no Arrow counterpart ({error}). Use a supported type, or make it known with register_type()."
        ) from None
    except UnsupportedTypeError as error:
        name = type_name(hint)
        if len(_open.stack) == 1 and get_args(hint) and not str(error).startswith(name):
            raise UnsupportedTypeError(f"{name}: {error}") from None
        raise


def _why_unsupported(hint: Any) -> str:
    if hint in (list, set, tuple, dict, frozenset, typing.List, typing.Dict, typing.Set, typing.Tuple):  # noqa: UP006  # the bare generics are what is refused
        return f"bare {type_name(hint)!r} has no element type. Write it with parameters, e.g. list[float] or dict[str, int]."
    if hint is Any:
        return (
            "'Any' has no Arrow type. It usually comes from a missing type hint, or from an Arrow column whose type has "
            "no Python counterpart (a warning named it). Give a concrete type, or a schema."
        )
    if get_origin(hint) in (Union, python_types.UnionType):
        return f"{hint} mixes several types; only 'T | None' has an Arrow type. Use one type, or str."
    if type_name(hint) == "ndarray":
        return "a bare ndarray has no element type. Write it as numpy.typing.NDArray[numpy.float64]."
    return f"{type_name(hint)} has no Arrow counterpart. Use a supported type, or make it known with register_type()."


# ---------------------------------------------------------------------------- hints


def split_optional(hint: Any) -> tuple[Any, bool]:
    """Split `T | None` into `(T, True)`; any other type into `(type, False)`; an Arrow field says both itself."""
    if isinstance(hint, pa.Field):
        return hint.type, hint.nullable
    named = unaliased(hint)
    if get_origin(named) in (Union, python_types.UnionType):
        rest = tuple(arg for arg in get_args(named) if arg is not NONE)
        if len(rest) < len(get_args(named)):
            return (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007  # built at run time from a tuple
    if get_origin(named) is Annotated:
        inner, *notes = get_args(named)
        plain, nullable = split_optional(inner)
        if nullable:
            return Annotated[(plain, *notes)], True
    return hint, named is NONE


def unaliased(hint: Any) -> Any:
    """Return the type that a `NewType` or a `type` statement is another name of; any other type as it is."""
    while True:
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def field_hint(hint: Any) -> Any:
    """Return the type of a TypedDict's field without `Required`, `NotRequired` or `ReadOnly`."""
    name = getattr(get_origin(hint), "_name", None)
    return field_hint(get_args(hint)[0]) if name in ("Required", "NotRequired", "ReadOnly") else hint


def type_name(hint: Any) -> str:
    """Return a type as its user wrote it, for messages."""
    if get_args(hint) or not isinstance(hint, type):
        return str(hint).replace("typing.", "")
    return hint.__qualname__


def a(value: Any) -> str:
    """Return what a value is, for messages, never the value itself: "None", "a str"."""
    return "None" if value is None else f"a {type(value).__qualname__}"
