"""The Python types of Arrow types, for data that comes without a schema of its own."""

from __future__ import annotations

import datetime as dt
import logging
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.casting import is_binary, is_list, is_string, repeated_name
from orcapod_dagster.core.converter.codec import NONE, Codec, Element, codec_of, register_type_family
from orcapod_dagster.core.converter.containers import ListCodec, MapCodec, dict_codec
from orcapod_dagster.core.converter.scalars import NaiveDatetime, retyped
from orcapod_dagster.core.errors import UnsupportedTypeError
from orcapod_dagster.core.types import Schema

_log = logging.getLogger(__name__)

_PYTHON_TYPES: Final[tuple[tuple[Callable[[pa.DataType], bool], Any], ...]] = (
    (pa.types.is_boolean, bool),
    (pa.types.is_integer, int),
    (pa.types.is_floating, float),
    (is_string, str),
    (is_binary, bytes),
    (lambda t: pa.types.is_timestamp(t) and t.tz is not None, dt.datetime),
    (pa.types.is_timestamp, NaiveDatetime),
    (pa.types.is_date, dt.date),
    (pa.types.is_time, dt.time),
    (pa.types.is_duration, dt.timedelta),
    (pa.types.is_decimal, Decimal),
    (pa.types.is_null, NONE),
)

origins_of_any: dict[str, str] = {}
"""Column → the Arrow type for which it became `Any`; for the error when that `Any` comes back."""


def python_type(arrow_type: pa.DataType) -> Any:
    """Return the Python type of an Arrow type; logs a warning and gives `Any` where there is none."""
    found = _python_type(arrow_type)
    if found is Any:
        _log.warning("Arrow type %s has no Python counterpart; it is treated as Any.", arrow_type)
    return found


@lru_cache(maxsize=4096)
def _python_type(t: pa.DataType) -> Any:
    for test, result in _PYTHON_TYPES:
        if test(t):
            return result
    if t == pa.uuid():
        return uuid.UUID
    if isinstance(t, pa.BaseExtensionType):
        return python_type(t.storage_type)
    if pa.types.is_dictionary(t) or pa.types.is_run_end_encoded(t):
        return python_type(t.value_type)
    if pa.types.is_map(t):
        return dict[python_type(t.key_type), field_type(t.item_field)]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time
    if is_list(t):
        return list[field_type(t.value_field)]  # pyright: ignore[reportInvalidTypeArguments]  # built at run time
    if pa.types.is_struct(t) and repeated_name(t) is None:
        return typing.TypedDict("Struct", {f.name: field_type(f) for f in t.fields})  # type: ignore[operator]  # built at run time
    return Any


def field_type(field: pa.Field) -> Any:
    """Return the Python type of an Arrow field: `T`, or `T | None` when the field is nullable."""
    inner = python_type(field.type)
    return inner | None if field.nullable and inner is not Any and inner is not NONE else inner


def python_schema(schema: pa.Schema) -> Schema:
    """Return the `Schema` of an Arrow schema, nullability exactly as its fields say."""
    fields: dict[str, Any] = {}
    for field in schema:
        fields[field.name] = field_type(field)
        if contains_any(fields[field.name]):
            origins_of_any[field.name] = str(field.type)
    return Schema(fields)


def contains_any(hint: Any) -> bool:
    """Tell whether `Any` is a type, or a part of it."""
    return hint is Any or any(contains_any(arg) for arg in typing.get_args(hint))


def _arrow_codec(t: pa.DataType) -> Codec:
    """Let a schema name an Arrow type in place of a Python one; values are those of `python_type`."""
    if is_list(t):
        inner = ListCodec(list, Element.of(t.value_field))
    elif pa.types.is_map(t):
        inner = MapCodec(Element.of(t.key_field), Element.of(t.item_field))
    elif pa.types.is_struct(t):
        if repeated_name(t) is not None:
            raise UnsupportedTypeError(f"Arrow type {t} has two fields {repeated_name(t)!r}. Rename one.")
        inner = dict_codec({field.name: Element.of(field) for field in t.fields})
    elif pa.types.is_dictionary(t) or pa.types.is_run_end_encoded(t):
        inner = codec_of(t.value_type)
    elif isinstance(t, pa.BaseExtensionType) and t != pa.uuid():
        inner = codec_of(t.storage_type)
    else:
        inner = codec_of(python_type(t))
    return inner if inner.arrow_type == t else retyped(inner, t)


register_type_family(lambda h: isinstance(h, pa.DataType), _arrow_codec)
