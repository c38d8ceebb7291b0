"""The converter: every type both ways, and clear refusals."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import typing
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray
from python_types import same
from typing_extensions import TypeAliasType

from orcapod_dagster.core import PythonPacketFunction, converter
from orcapod_dagster.core.errors import ConversionError, DefinitionError, InputError, UnsupportedTypeError


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
    """An Arrow type without a Python counterpart logs a warning with that type, and becomes `Any`."""
    assert converter.python_type(pa.month_day_nano_interval()) is Any
    assert "month_day_nano_interval" in caplog.text


def test_an_any_tells_where_it_came_from() -> None:
    """An `Any` on the way to Arrow is refused with the whole type, the usual causes, and the Arrow type that it stood for."""
    schema = converter.python_schema(pa.schema([("pause", pa.list_(pa.month_day_nano_interval()))]))
    with pytest.raises(
        UnsupportedTypeError, match=r"column 'pause': list\[.*Any.*usually comes from.*month_day_nano_interval"
    ):
        converter.arrow_schema(schema)

    @dataclasses.dataclass
    class Recording:
        parts: dict[str, list[Any]]

    with pytest.raises(UnsupportedTypeError, match=r"field 'parts' of .*Recording.*'Any' has no Arrow type"):
        converter.arrow_field("c", list[Recording])


def test_users_register_their_own_type() -> None:
    """A type of the user's own takes one call, and works at any depth from then on."""

    class Angle:
        def __init__(self, degrees: float) -> None:
            self.degrees = degrees

    converter.register_type(Angle, float, lambda angle: angle.degrees, Angle)
    array = converter.to_array([[Angle(90.0)], None], list[Angle] | None, column="c")
    assert array.to_pylist() == [[90.0], None]
    assert converter.to_python(array, list[Angle])[0][0].degrees == 90.0
    with pytest.raises(ConversionError, match="column 'c', row 0, element 0: got a float, expected"):
        converter.to_array([[1.0]], list[Angle], column="c")


def test_types_that_arrow_lacks_are_named() -> None:
    """A numpy type without an Arrow counterpart, alone, inside another or behind a type of the user's own, is refused by name."""

    class Wide:
        pass

    converter.register_type(Wide, np.longdouble, lambda wide: wide, lambda value: value)
    for hint in (np.longdouble, list[np.longdouble], Wide):
        with pytest.raises(UnsupportedTypeError, match="longdouble has no Arrow counterpart"):
            converter.arrow_field("c", hint)

    def work(x: np.longdouble) -> float:
        return float(x)

    work.__annotations__ = {"x": np.longdouble, "return": float}
    with pytest.raises(DefinitionError, match="function 'work', parameter 'x': longdouble has no Arrow counterpart"):
        PythonPacketFunction(work, "y")


UserId = typing.NewType("UserId", int)


class Partial(typing.TypedDict, total=False):
    note: str


MaybeInt = TypeAliasType("MaybeInt", int | None)


class Mixed(typing.TypedDict):
    always: int
    sometimes: typing.NotRequired[str]


class Turned(typing.TypedDict, total=False):
    always: typing.Required[int]
    sometimes: str


class Node(typing.TypedDict):
    children: list[Node]  # pyright: ignore[reportGeneralTypeIssues]


@dataclasses.dataclass
class Derived:
    x: int
    twice: int = dataclasses.field(init=False)


@dataclasses.dataclass
class WithKeywords:
    x: int
    y: int = dataclasses.field(default=1, kw_only=True)


@pytest.mark.parametrize(
    ("hint", "arrow_type", "values"),
    [
        (UserId, pa.int64(), [UserId(3)]),
        (typing.Annotated[Decimal, pa.decimal128(20, 2)], pa.decimal128(20, 2), [Decimal("1.25")]),
        (typing.Annotated[int, pa.uint64()], pa.uint64(), [2**64 - 1]),
        (typing.Annotated[float, pa.float32()], pa.float32(), [1.5]),
        (Literal[Color.RED], pa.string(), [Color.RED]),
        (typing.Annotated[str, "a note"], pa.string(), ["a"]),
        (typing.Annotated[int | None, "a note"], pa.int64(), [1, None]),
        (MaybeInt, pa.int64(), [1, None]),
        (list[MaybeInt], pa.list_(pa.int64()), [[1, None]]),
        (Partial, pa.struct([("note", pa.string())]), [{}, {"note": "a"}]),
        (Mixed, None, [{"always": 1}, {"always": 1, "sometimes": "a"}]),
        (Turned, None, [{"always": 1}, {"always": 1, "sometimes": "a"}]),
        (WithKeywords, pa.struct([pa.field(n, pa.int64(), nullable=False) for n in "xy"]), [WithKeywords(1, y=2)]),
        (frozenset[str], pa.list_(pa.field("element", pa.string(), nullable=False)), [frozenset({"a"})]),
        (pa.field("c", pa.int8()), pa.int8(), [1, None]),
        (np.float32, pa.float32(), [np.float32(1.5)]),
        (NDArray[np.int32], None, [np.arange(6, dtype=np.int32).reshape(2, 3)]),
        (np.ndarray[tuple[int], np.dtype[np.float16]], None, [np.zeros(2, np.float16)]),
    ],
    ids=str,
)
def test_more_ways_to_write_a_type(hint: Any, arrow_type: pa.DataType | None, values: list[Any]) -> None:
    """NewType, Annotated with an exact Arrow type, Arrow fields, numpy types: each has its Arrow type, and round-trips."""
    array = converter.to_array(values, hint, column="c")
    assert arrow_type is None or array.type == arrow_type
    assert same(converter.to_python(array, hint), values)


@pytest.mark.parametrize(
    ("hint", "match"),
    [
        (Node, "contains itself"),
        (Derived, "cannot be rebuilt"),
        (Literal["a", 1], "of one type"),
        (dict[str | None, int], "keys of a map"),
        (np.ndarray, "NDArray"),
        (NDArray[np.complex128], "number or bool"),
        (tuple[()], "without fields"),
    ],
    ids=str,
)
def test_types_that_could_lose_something_are_refused(hint: Any, match: str) -> None:
    """A type whose values could not be rebuilt exactly is refused at definition, with the reason."""
    with pytest.raises(UnsupportedTypeError, match=match):
        converter.codec_of(hint)


class Position(NamedTuple):
    x: int


class Deeper(Position):
    pass


@pytest.mark.parametrize(
    ("hint", "value", "match"),
    [
        (list[float], [1.0, "a"], "element 1: got a str"),
        (dict[str, list[int]], {"a": [1], "b": [2, None]}, "the value of entry 1, element 1: got None"),
        (Point, Point(1, ["a"]), "field 'path', element 0: got a str"),
        (Box, {"size": 1, "inner": {}, "more": 2}, "further keys"),
        (Box, {"size": 1}, "without"),
        (Mixed, {"sometimes": "a"}, "without"),
        (Turned, {"sometimes": "a"}, "without"),
        (Position, Deeper(1), "got a Deeper"),
        (tuple[int, int], (1, 2, 3), "a tuple of 3 values"),
        (dt.time, dt.time(1, tzinfo=dt.UTC), "time zone"),
        (dt.datetime, pd.Timestamp("2024-01-01T00:00:00.000000001Z"), "nanoseconds"),
        (converter.NaiveDatetime, NOW, "aware"),
        (dt.timedelta, dt.timedelta.max, "got a timedelta"),
        (Decimal, Decimal("1e-19"), "data loss"),
        (Decimal, Decimal("NaN"), "not a valid"),
        (Color, "RED", "got a str"),
        (typing.Annotated[float, pa.float32()], 0.1, "does not hold it"),
        (typing.Annotated[int, pa.int8()], 128, "got a int"),
        (NDArray[np.int32], np.zeros(1, np.int64), "an array of int64"),
        (NDArray[np.int32], np.ma.masked_array([1], [True], dtype=np.int32), "MaskedArray"),
        (np.ndarray[tuple[int], np.dtype[np.int32]], np.zeros((1, 1), np.int32), "2 dimensions"),
        (np.int8, 1, "got a int"),
    ],
    ids=str,
)
def test_a_misfit_is_named_by_its_place(hint: Any, value: Any, match: str) -> None:
    """A value that does not fit is named by column, row and the way to it, and never changed in silence."""
    good = converter.to_array([], hint, column="c")
    assert not len(good)
    with pytest.raises(ConversionError, match=f"column 'c', row 7.*{match}"):
        converter.to_array([value], hint, column="c", first_row=7)


DAY = 86_400 * 10**6
FIRST, LAST = -719162 * DAY, 2932897 * DAY - 1
OUTSIDE = [True, False, False, True, False]


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Wrapped:
    color: Color


@dataclasses.dataclass(frozen=True)
class Bag:
    items: frozenset[int]


converter.register_type(Wrapped, Color, encode=lambda wrapped: wrapped.color, decode=Wrapped)
converter.register_type(Bag, set[int], encode=lambda bag: set(bag.items), decode=lambda items: Bag(frozenset(items)))


def test_a_registered_type_has_the_form_of_what_stands_for_it() -> None:
    """A type of one's own that is stored as a set hashes as that set does, whichever order an upstream gave the items."""
    one, other = (converter.conform(pa.array([items]), Bag, name="c") for items in ([1, 2, 2], [2, 1]))
    assert one.equals(other)


@pytest.mark.parametrize(
    ("column", "hint", "bad"),
    [
        (pa.array([[1], [1, None], None]), list[int], [False, True, True]),
        (pa.array([[1], [1, None], None]), list[int] | None, [False, True, False]),
        (pa.array([{"a": [None]}, {"a": []}]), TypedDict("T", {"a": list[str]}), [True, False]),
        (pa.array(["RED", "GREEN", None]), Color | None, [False, True, False]),
        (pa.array([["a"], ["b", "x"]]), list[Literal["a", "b"]], [False, True]),
        (pa.array([[("a", 1), ("a", 2)], [("a", 1)]], pa.map_(pa.string(), pa.int64())), dict[str, int], [True, False]),
        (pa.array([[("a", None)], []], pa.map_(pa.string(), pa.int64())), dict[str, int], [True, False]),
        (
            pa.array([[({"f0": None}, 1)], [({"f0": 1}, 1)]], pa.map_(pa.struct([("f0", pa.int64())]), pa.int64())),
            dict[tuple[int], int],
            [True, False],
        ),
        (pa.array([-(2**62), FIRST, LAST, 2**62, None], pa.timestamp("us", "UTC")), dt.datetime | None, OUTSIDE),
        (pa.array([-(2**62), FIRST, LAST, 2**62, None], pa.timestamp("us")), converter.NaiveDatetime | None, OUTSIDE),
        (pa.array([-719163, -719162, 2932896, 2932897, None], pa.int32()).view(pa.date32()), dt.date | None, OUTSIDE),
        (pa.array([-1, 0, DAY - 1, DAY, None], pa.int64()).view(pa.time64("us")), dt.time | None, OUTSIDE),
        (pa.array([[0], [DAY]], pa.list_(pa.int64())).cast(pa.list_(pa.time64("us"))), list[dt.time], [False, True]),
        (pa.array([0, 3, 4, -9]), Permission, [False, False, True, True]),
        (pa.array(["RED", "BLUE"]), Literal[Color.RED], [False, True]),
        (pa.array(["RED", "GREEN"]), Wrapped, [False, True]),
    ],
)
def test_rows_that_a_parameter_does_not_take(column: pa.Array, hint: Any, bad: list[bool]) -> None:
    """Nulls at any depth, unknown names and repeated keys are found per row, so that only those packets fail."""
    conformed = converter.conform(column, hint, name="c")
    found = converter.misfits(conformed, hint)
    assert found is not None
    assert found.to_pylist() == bad
    good = conformed.filter(pc.invert(found))
    assert converter.misfits(good, hint) is None
    converter.to_python(good, hint)


def test_integers_above_2_53_widen_where_a_float_holds_them() -> None:
    """Int → float is taken exactly where every value is a float, not only up to 2**53."""
    assert converter.conform(pa.array([2**60]), float, name="c").to_pylist() == [2.0**60]
    assert converter.to_array([2**60, None, 1.5, np.float32(0.5)], float | None, column="c").to_pylist() == [
        2.0**60,
        None,
        1.5,
        0.5,
    ]
