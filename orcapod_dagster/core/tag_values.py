"""The values of tags as text: what a command line takes, and what is printed to be typed there."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from orcapod_dagster.core.converter import NaiveDatetime, python_type, to_array
from orcapod_dagster.core.errors import InputError, OrcapodError


def tag_text(value: Any) -> str:
    """Return a tag's value as `tag_array` reads it again."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value // dt.timedelta(microseconds=1))
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=tag_text)
    return str(value)


def tag_array(value: Any, arrow_type: pa.DataType, column: str) -> pa.Array:
    """Return a tag's value as an array of one, of the column's type.

    Args:
        value: of the column's Python type, or a text as `tag_text` gives it.
        arrow_type: of the column.
        column: for messages.

    Raises:
        InputError: the value, or the text, is none of this type.
    """
    kind = python_type(arrow_type)
    try:
        read = _read(value, kind) if isinstance(value, str) and kind is not str else value
        return to_array([read], arrow_type, column=column)
    except (ValueError, TypeError, ArithmeticError, OrcapodError) as error:
        raise InputError(
            f"Tag {column}={value!r} is no {arrow_type}, the type of this column. Give it like {_EXAMPLES.get(kind, 'the column has it')}."
        ) from error


def _read(text: str, kind: Any) -> Any:
    reader = _READERS.get(kind)
    return json.loads(text) if reader is None else reader(text)


def _to_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("it is neither true nor false")
    return text.lower() == "true"


def _to_datetime(text: str) -> dt.datetime:
    found = dt.datetime.fromisoformat(text)
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found


_READERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    bool: _to_bool,
    int: int,
    float: float,
    bytes: bytes.fromhex,
    dt.datetime: _to_datetime,
    NaiveDatetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    dt.time: dt.time.fromisoformat,
    dt.timedelta: lambda text: dt.timedelta(microseconds=int(text)),
    Decimal: Decimal,
    uuid.UUID: uuid.UUID,
}
_EXAMPLES: Final[Mapping[Any, str]] = {
    bool: "true",
    int: "17",
    float: "0.5",
    bytes: "its bytes in hexadecimal, 00ff",
    dt.datetime: "2013-01-31T12:30:00+00:00",
    NaiveDatetime: "2013-01-31T12:30:00",
    dt.date: "2013-01-31",
    dt.time: "12:30:00",
    dt.timedelta: "its microseconds",
    Decimal: "1.50",
    uuid.UUID: "0193a5c8-…",
}
