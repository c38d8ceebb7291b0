"""The Python type of a value without a schema; for single rows only, since types of columns come from schemas."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Final, Never, get_args, get_origin

from orcapod_dagster.core import converter
from orcapod_dagster.core.errors import ConversionError, UnsupportedTypeError

_NONE: Final = type(None)
_PLAIN: Final = frozenset({bool, int, float, str, bytes, _NONE})
_SEQUENCES: Final[tuple[Any, ...]] = (list, set, frozenset)
_BY_VALUE: Final = frozenset({dt.datetime, dict, tuple, *_SEQUENCES})  # their class alone is not their type


def infer_type(value: Any, column: str) -> Any:
    """Return the type that says about a value what can be known from it alone.

    - `None` is `NoneType`. Beside values of type `T`, inside a container, it makes `T | None`.
    - A list, set or dict has the one type of all its elements; int beside float is float.
    - A tuple is a `tuple[T, ...]` where its elements are of one type, else a fixed tuple.
    - An empty list, set or tuple has elements of `NoneType`; so do the values of an empty dict, whose keys are taken
      for `str`. Beside a filled container of the same kind, an empty one says nothing.
    - A naive `datetime` is a `NaiveDatetime`; an instance of a class that the converter does not know is an instance
      of the nearest base class that it knows.

    Args:
        value: one value of the column.
        column: its name, for messages.

    Raises:
        ConversionError: elements of several types that have no common one.
        UnsupportedTypeError: the class has no Arrow counterpart.
    """
    if type(value) in _PLAIN:
        return type(value)
    try:
        return _settled(_infer(value))
    except ConversionError as error:
        raise ConversionError(
            f"column {column!r}: {error} Give a python_schema: a TypedDict or dataclass for a record, or one element type."
        ) from None
    except UnsupportedTypeError as error:
        raise UnsupportedTypeError(f"column {column!r}: {error}") from None


def _infer(value: Any) -> Any:
    """Return the type of a value; the elements of an empty container are of type `Never`."""
    kind = type(value)
    if kind in _PLAIN or (kind not in _BY_VALUE and _is_known(kind)):
        return kind
    if isinstance(value, dt.datetime):
        return dt.datetime if value.tzinfo is not None else converter.NaiveDatetime
    if isinstance(value, Mapping):
        items: Mapping[Any, Any] = value
        key, item = _common(items.keys(), "the keys of a dict"), _common(items.values(), "the values of a dict")
        if key is not Never and converter.split_optional(key)[1]:
            raise ConversionError("a dict has None among its keys, which no Arrow map can hold.")
        return dict[key, item]
    for sequence in _SEQUENCES:
        if isinstance(value, sequence):
            return sequence[_common(value, f"the elements of a {sequence.__name__}")]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return _infer_tuple(value)  # pyright: ignore[reportUnknownArgumentType]  # its elements are looked at there
    return _nearest_class(kind)


def _infer_tuple(value: tuple[Any, ...]) -> Any:
    """Return a fixed tuple; for a long one of a single class, which is the same, `tuple[T, ...]`."""
    if len(set(map(type, value))) == 1 and type(value[0]) in _PLAIN:
        return tuple[type(value[0]), ...]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time
    return tuple[tuple(map(_infer, value))]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time


def _is_known(kind: type) -> bool:
    try:
        converter.codec_of(kind)
    except UnsupportedTypeError:
        return False
    return True


def _nearest_class(kind: type) -> type:
    is_record = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
    for base in () if is_record else kind.__mro__[1:-1]:  # a record's base class would lose fields
        if _is_known(base):
            return base
    converter.codec_of(kind)  # raises, and says why
    return kind


def _common(values: Iterable[Any], what: str) -> Any:
    """Return the one type of all values; looks at classes alone where these are plain."""
    classes = dict.fromkeys(map(type, values))
    found: Any = Never
    for hint in classes if classes.keys() <= _PLAIN else map(_infer, values):
        merged = _unified(found, hint)
        if merged is None:
            raise ConversionError(f"{what} are of the types {type_text(found)} and {type_text(hint)}; none holds both.")
        found = merged
    return found


def _unified(a: Any, b: Any) -> Any:
    """Return the type of values of both types, or `None` where there is none."""
    if a == b or b is Never:
        return a
    if a is Never:
        return b
    (plain_a, nullable_a), (plain_b, nullable_b) = converter.split_optional(a), converter.split_optional(b)
    if _NONE in (plain_a, plain_b):
        plain = plain_b if plain_a is _NONE else plain_a
    elif {plain_a, plain_b} == {int, float}:
        plain = float
    else:
        plain = plain_a if plain_a == plain_b else _unified_containers(plain_a, plain_b)
    return plain | None if plain is not None and (nullable_a or nullable_b) else plain


def _unified_containers(a: Any, b: Any) -> Any:
    origin: Any = get_origin(a)
    args_a, args_b = get_args(a), get_args(b)
    if origin is None or origin is not get_origin(b):
        return None
    if origin is tuple and (len(args_a) != len(args_b) or Ellipsis in (*args_a, *args_b)):
        element = _unified_all(arg for arg in (*args_a, *args_b) if arg is not Ellipsis)
        return None if element is None else tuple[element, ...]
    args = [_unified(x, y) for x, y in zip(args_a, args_b, strict=True)]
    return None if None in args else origin[tuple(args)]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time


def _unified_all(hints: Iterable[Any]) -> Any:
    return reduce(lambda a, b: None if a is None else _unified(a, b), hints, Never)


def _settled(hint: Any) -> Any:
    """Replace what only inference knows: `Never`, the element type of empty containers; fixed tuples of one type."""
    if hint is Never:
        return _NONE
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if origin is dict:
        return dict[str if args[0] is Never else _settled(args[0]), _settled(args[1])]
    if origin is tuple:
        return _settled_tuple(args)
    if origin in _SEQUENCES:
        return origin[_settled(args[0])]
    plain, nullable = converter.split_optional(hint)
    return _settled(plain) | None if nullable and plain is not _NONE else hint


def _settled_tuple(args: tuple[Any, ...]) -> Any:
    elements = [arg for arg in args if arg is not Ellipsis]
    one = _unified_all(elements)
    mixed = {int, float} <= {converter.split_optional(element)[0] for element in elements}
    if one is None or mixed:
        return tuple[tuple(map(_settled, elements))]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time
    return tuple[_settled(one), ...]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time


def type_text(hint: Any) -> str:
    """Return how a type is written in Python, for messages."""
    if hint is Never:
        return "nothing"
    return hint.__qualname__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
