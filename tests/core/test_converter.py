"""The converter: every type both ways, and clear refusals."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import typing
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from orcapod_dagster.core import converter
from orcapod_dagster.core.errors import ConversionError, InputError, UnsupportedTypeError


@dataclasses.dataclass
class Point:
    x: int
    path: list[float] | None


class Pair(NamedTuple):
    name: str
    at: dt.date


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Box(typing.TypedDict):
    size: int
    inner: dict[str, list[int]]


NOW = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, dt.UTC)
CASES: list[tuple[Any, list[Any]]] = [
    (bool, [True, False]),
    (int, [0, -(2**63), 2**63 - 1]),
    (float, [0.0, 1.5, float("inf")]),
    (str, ["", "a\0b", "ü"]),
    (bytes, [b"", b"\0\xff"]),
    (dt.datetime, [NOW]),
    (converter.NaiveDatetime, [NOW.replace(tzinfo=None)]),
    (dt.date, [dt.date(1900, 1, 1)]),
    (dt.time, [dt.time(23, 59, 59, 999999)]),
    (dt.timedelta, [dt.timedelta(days=-1, microseconds=3)]),
    (Decimal, [Decimal("1.500000000000000000")]),
    (uuid.UUID, [uuid.UUID(int=7)]),
    (Path, [Path("/a/b"), Path()]),
    (Literal["a", "b"], ["a", "b"]),
    (Color, [Color.RED, Color.BLUE]),
    (list[int], [[], [1, 2]]),
    (list[int | None], [[None, 1]]),
    (tuple[int, ...], [(), (1, 2)]),
    (tuple[int, str], [(1, "a")]),
    (set[int], [set(), {3, 1}]),
    (dict[str, int], [{}, {"a": 1}]),
    (dict[str, dict[str, float | None]], [{"a": {"b": None}}]),
    (Point, [Point(1, [1.0]), Point(2, None)]),
    (Pair, [Pair("a", dt.date(2024, 1, 1))]),
    (Box, [{"size": 1, "inner": {"k": [1]}}]),
    (list[Point], [[Point(1, [])], []]),
]


@pytest.mark.parametrize(("hint", "values"), CASES, ids=lambda c: str(c)[:30])
def test_round_trip(hint: Any, values: list[Any]) -> None:
    """Python → Arrow → Python is the identity, with and without nulls, in exactly the declared type."""
    array = converter.to_array(values, hint, column="c")
    assert array.type == converter.arrow_field("c", hint).type
    assert converter.to_python(array, hint) == values
    optional = converter.to_array([None, *values], hint | None, column="c")
    assert optional.type == array.type
    assert converter.to_python(optional, hint | None) == [None, *values]


@pytest.mark.parametrize(("hint", "values"), CASES, ids=lambda c: str(c)[:30])
def test_empty_and_all_null_keep_their_type(hint: Any, values: list[Any]) -> None:
    """Types come from the schema: no values, or only nulls, have the declared type."""
    target = converter.to_array(values, hint, column="c").type
    assert converter.to_array([], hint, column="c").type == target
    assert converter.to_array([None, None], hint | None, column="c").type == target


def test_nullability_is_exact() -> None:
    """`T` is a non-nullable field, `T | None` a nullable one, both ways."""
    schema = converter.arrow_schema({"a": int, "b": str | None})
    assert [field.nullable for field in schema] == [False, True]
    assert dict(converter.python_schema(schema)) == {"a": int, "b": str | None}


def test_maps_are_maps() -> None:
    """`dict[str, str]` is an Arrow map, not a list of structs."""
    assert converter.arrow_field("c", dict[str, str]).type == pa.map_(
        pa.string(), pa.field("value", pa.string(), False)
    )


@pytest.mark.parametrize(
    ("hint", "values", "row"),
    [
        (int, [1, True], 1),
        (int, [1, None], 1),
        (int, [2**70], 0),
        (float, [1.0, "2"], 1),
        (float, [2**53 + 1], 0),
        (str, ["a", 1], 1),
        (str, ["\ud800"], 0),
        (bool, [1], 0),
        (dt.datetime, [NOW, NOW.replace(tzinfo=None)], 1),
        (dt.date, [NOW], 0),
        (list[int], [[1], [None]], 1),
        (Literal["a"], ["b"], 0),
        (tuple[int, str], [(1,)], 0),
    ],
)
def test_a_value_that_does_not_fit_names_column_and_row(hint: Any, values: list[Any], row: int) -> None:
    """A value of another type, a null, an overflow or a surrogate is refused with column and row."""
    with pytest.raises(ConversionError, match=rf"column 'c', row {row}"):
        converter.to_array(values, hint, column="c")


@pytest.mark.parametrize("hint", [list, dict, set, tuple, Any, int | str, object, complex])
def test_types_without_counterpart_are_refused(hint: Any) -> None:
    """Bare containers, Any, mixed unions and unknown classes are refused."""
    with pytest.raises(UnsupportedTypeError):
        converter.codec_of(hint)


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        (pa.array([1, None], pa.int8()), int),
        (pa.array([1, 2], pa.uint64()), int),
        (pa.array(["a"], pa.large_string()), str),
        (pa.array(["a"]).dictionary_encode(), str),
        (pa.array([1, 2], pa.int64()), float),
        (pa.array([1.5], pa.float32()), float),
        (pa.array([1], pa.timestamp("ms", "Europe/Berlin")), dt.datetime),
        (pa.array([[1]], pa.list_(pa.int16())), list[int | None]),
    ],
)
def test_widening_is_silent(column: pa.Array, hint: Any) -> None:
    """A narrower or otherwise encoded column is brought to the parameter's type with equal values."""
    found = converter.conform(column, hint, name="c")
    assert found.type == converter.arrow_field("c", hint).type
    assert found.to_pylist() == column.cast(found.type).to_pylist()


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        (pa.array([1.0]), int),
        (pa.array(["1"]), int),
        (pa.array([2**53 + 1]), float),
        (pa.array([2**63], pa.uint64()), int),
        (pa.array([1]), str),
        (pa.array([True]), int),
        (pa.array([1], pa.timestamp("us")), dt.datetime),
        (pa.array([1], pa.timestamp("ns", "UTC")), dt.datetime),
    ],
)
def test_anything_lossy_is_refused_by_name(column: pa.Array, hint: Any) -> None:
    """A column that the parameter cannot hold exactly is refused with its name."""
    with pytest.raises(InputError, match="column 'c'"):
        converter.conform(column, hint, name="c")


def test_unknown_arrow_type_warns_and_becomes_any(caplog: pytest.LogCaptureFixture) -> None:
    """An Arrow type without a Python counterpart logs a warning with that type."""
    assert converter.python_type(pa.month_day_nano_interval()) is Any
    assert "month_day_nano_interval" in caplog.text


def test_users_register_their_own_type() -> None:
    """A type of the user's own takes one call."""

    class Angle:
        def __init__(self, degrees: float) -> None:
            self.degrees = degrees

    converter.register_type(
        Angle,
        converter.Codec(pa.float64(), frozenset({Angle}), lambda v: False, lambda a: a.degrees, Angle),
    )
    array = converter.to_array([Angle(90.0)], Angle, column="c")
    assert array.to_pylist() == [90.0]
    assert converter.to_python(array, Angle)[0].degrees == 90.0


@given(st.lists(st.none() | st.floats(allow_nan=False)), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_columns_of_numbers_round_trip(floats: list[float | None], ints: list[int | None]) -> None:
    """Any optional floats and ints come back equal."""
    assert converter.to_python(converter.to_array(floats, float | None, column="c"), float | None) == floats
    assert converter.to_python(converter.to_array(ints, int | None, column="c"), int | None) == ints
