"""Datagrams: dict and Arrow forms are one row, under every operation; nothing given or returned changes them."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import enum
import math
import pickle
import struct
import threading
import typing
import uuid
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from orcapod_dagster.core import converter
from orcapod_dagster.core.columns import ColumnConfig
from orcapod_dagster.core.datagrams import Datagram, Packet, Tag, new_record_ids
from orcapod_dagster.core.errors import ConversionError, DefinitionError, InputError, UnsupportedTypeError
from orcapod_dagster.core.hashing import PACKET_METHOD
from orcapod_dagster.core.inference import infer_type
from orcapod_dagster.core.types import Schema

NONE = type(None)


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    path: tuple[float, ...] | None


class Box(typing.TypedDict):
    size: int
    label: str | None


class Color(enum.Enum):
    RED = 1
    BLUE = 2


Typed = tuple[Any, st.SearchStrategy[Any]]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from(["x", "self", "data"]) | TEXT.filter(lambda n: not n.startswith("_") and n != "column_types")
SCALARS: list[Typed] = [
    (bool, st.booleans()),
    (int, st.integers(-(2**63), 2**63 - 1)),
    (float, st.floats()),
    (str, TEXT),
    (bytes, st.binary(max_size=8)),
    (dt.datetime, st.datetimes(timezones=st.just(dt.UTC))),
    (converter.NaiveDatetime, st.datetimes()),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas(dt.timedelta(-99999), dt.timedelta(99999))),
    (Decimal, st.decimals(-(10**19), 10**19, allow_nan=False, places=9)),
    (uuid.UUID, st.uuids()),
    (Path, st.sampled_from([Path("a"), Path("/b/c d")])),
    (Color, st.sampled_from(Color)),
]
KEYS: list[Typed] = [pair for pair in SCALARS if pair[0] in (bool, int, str, bytes, dt.date)]
RECORDS: list[Typed] = [
    (Point, st.builds(Point, st.integers(-9, 9), st.none() | st.lists(st.floats(), max_size=2).map(tuple))),
    (Box, st.fixed_dictionaries({"size": st.integers(-9, 9), "label": st.none() | TEXT})),
]


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Wrap typed values into lists, tuples, sets and dicts of them, with and without nulls."""
    element = inner | inner.map(lambda pair: (pair[0] | None, st.none() | pair[1]))
    return st.one_of(
        element.map(lambda e: (list[e[0]], st.lists(e[1], max_size=3))),
        element.map(lambda e: (tuple[e[0], ...], st.lists(e[1], max_size=3).map(tuple))),
        st.tuples(element, element).map(lambda p: (tuple[p[0][0], p[1][0]], st.tuples(p[0][1], p[1][1]))),
        st.sampled_from(KEYS).map(lambda k: (set[k[0]], st.sets(k[1], max_size=3))),
        st.tuples(st.sampled_from(KEYS), element).map(
            lambda p: (dict[p[0][0], p[1][0]], st.dictionaries(p[0][1], p[1][1], max_size=3))
        ),
    )


typed_values = st.recursive(st.sampled_from(SCALARS + RECORDS), containers, max_leaves=4)
columns_of_rows = typed_values | typed_values.map(lambda pair: (pair[0] | None, st.none() | pair[1]))


@st.composite
def rows(draw: Any, min_columns: int = 0) -> tuple[Schema, dict[str, Any]]:
    """Draw a schema and the values of one row."""
    names = draw(st.lists(NAMES, min_size=min_columns, max_size=4, unique=True))
    columns = {name: draw(columns_of_rows) for name in names}
    schema = Schema({name: hint for name, (hint, _) in columns.items()})
    return schema, {name: draw(values) for name, (_, values) in columns.items()}


def same(a: Any, b: Any) -> bool:
    """Compare as `==`, but by class as well, with NaN equal to itself and -0.0 unlike 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return a == b


# ---------------------------------------------------------------------------- dict ↔ table


@given(rows())
def test_round_trip(row: tuple[Schema, dict[str, Any]]) -> None:
    """Dict → table → dict is the identity in values, classes, types, nullability and order."""
    schema, values = row
    packet = Packet(values, schema)
    back = Packet(packet.as_table(), schema)
    assert same(back.as_dict(), values)
    assert packet.as_table().num_rows == 1
    assert packet.as_table().schema == packet.arrow_schema() == Packet(values, schema).arrow_schema()
    assert back.as_table().equals(packet.as_table()) or "nan" in repr(values)
    assert tuple(values) == packet.keys() == back.keys() == tuple(packet) == tuple(back.as_table().column_names)


@given(rows())
def test_equal_and_hash_equal(row: tuple[Schema, dict[str, Any]]) -> None:
    """The same schema and values are equal, whichever form they came in and in whichever order the columns stand."""
    schema, values = row
    packet = Packet(values, schema)
    reordered = schema.select(reversed(list(schema)))
    nullable = pa.schema([field.with_nullable(True) for field in packet.arrow_schema()])
    others = [
        Packet(packet.as_table(), schema),
        Packet(packet.as_table().select(list(reordered)), reordered),
        Packet(dict(reversed(values.items())), schema),
        Packet(pa.Table.from_arrays(packet.as_table().columns, schema=nullable) if values else {}, schema),
    ]
    for other in others:
        assert other == packet
        assert hash(other) == hash(packet)
        assert other.content_hash() == packet.content_hash()


@given(rows(), rows())
def test_different_rows_differ(a: tuple[Schema, dict[str, Any]], b: tuple[Schema, dict[str, Any]]) -> None:
    """Rows that differ in a name, a type or a value are not equal."""
    alike = a[0] == b[0] and same(a[1], b[1])
    assert (Packet(a[1], a[0]) == Packet(b[1], b[0])) is alike


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Packet({"x": 1}), Packet({"x": 2})),
        (Packet({"x": 1}), Packet({"y": 1})),
        (Packet({"x": 1}), Packet({"x": 1.0})),
        (Packet({"x": 1}), Packet({"x": True})),
        (Packet({"x": 1}), Packet({"x": 1}, {"x": int | None})),
        (Packet({"x": None}, {"x": int | None}), Packet({"x": 0}, {"x": int | None})),
        (Packet({"x": 0.0}), Packet({"x": -0.0})),
        (Packet({"x": ""}), Packet({"x": b""})),
        (Packet({"x": []}, {"x": list[int]}), Packet({"x": []}, {"x": list[str]})),
        (Packet({"x": 1}), Packet({"x": 1, "y": 1})),
        (Packet({"x": "a"}), Packet({"x": Path("a")})),
    ],
)
def test_unequal(one: Packet, other: Packet) -> None:
    """A change of value, name, type, nullability or sign makes another datagram."""
    assert one != other


def test_nan_is_equal_to_nan() -> None:
    """All NaNs are one value."""
    assert Packet({"x": float("nan")}) == Packet(pa.table({"x": [-float("nan")]}), {"x": float})


NARROW: list[tuple[Any, Any, pa.DataType]] = [
    (int, 7, pa.int8()),
    (int, 7, pa.uint64()),
    (float, 7.0, pa.int32()),
    (float, 0.5, pa.float32()),
    (str, "a", pa.large_string()),
    (str, "a", pa.string_view()),
    (str, "a", pa.dictionary(pa.int8(), pa.string())),
    (bytes, b"a", pa.large_binary()),
    (Decimal, Decimal("1.50"), pa.decimal128(10, 2)),
    (dt.datetime, dt.datetime(2024, 1, 2, tzinfo=dt.UTC), pa.timestamp("ns", "Europe/Berlin")),
    (dt.date, dt.date(2024, 1, 2), pa.date64()),
    (dt.timedelta, dt.timedelta(seconds=3), pa.duration("s")),
    (list[int], [1, 2], pa.large_list(pa.int16())),
    (list[int], [1, 2], pa.list_(pa.int16(), 2)),
    (Box, {"size": 1, "label": "a"}, pa.struct([("size", pa.int8()), ("label", pa.large_string())])),
    (dict[str, int], {"a": 1}, pa.map_(pa.large_string(), pa.int8())),
    (int | None, None, pa.null()),
]


@pytest.mark.parametrize(("hint", "value", "narrow"), NARROW, ids=lambda c: str(c)[:30])
def test_narrower_tables_are_widened(hint: Any, value: Any, narrow: pa.DataType) -> None:
    """A table of narrower types is brought to the given schema, and is then equal to the dict of it."""
    raw = list(value.items()) if pa.types.is_map(narrow) else value
    base = narrow.value_type if pa.types.is_dictionary(narrow) else narrow
    array = pa.array([raw], base).cast(narrow) if base != narrow else pa.array([raw], narrow)
    packet = Packet(pa.table({"x": array}), {"x": hint})
    assert packet == Packet({"x": value}, {"x": hint})
    assert same(packet.as_dict(), {"x": value})
    assert packet.as_table().schema == packet.arrow_schema() == converter.arrow_schema({"x": hint})


@pytest.mark.parametrize(("hint", "value", "narrow"), NARROW, ids=lambda c: str(c)[:30])
def test_tables_without_schema_stay_as_they_are(hint: Any, value: Any, narrow: pa.DataType) -> None:
    """Without a schema a table keeps its Arrow types, hashes as its values do, and equals the dict of its own schema."""
    raw = list(value.items()) if pa.types.is_map(narrow) else value
    base = narrow.value_type if pa.types.is_dictionary(narrow) else narrow
    table = pa.table({"x": pa.array([raw], base).cast(narrow) if base != narrow else pa.array([raw], narrow)})
    packet = Packet(table)
    assert packet.as_table() is table
    assert packet.arrow_schema() == table.schema
    assert packet == Packet(packet.as_dict(), packet.schema())
    assert packet.update(x=packet["x"]) == packet


def test_nullable_fields_without_schema_are_optional() -> None:
    """A table's nullable field is `T | None`, its other fields are `T`."""
    table = pa.table(
        [[1], [2]], schema=pa.schema([pa.field("a", pa.int64()), pa.field("b", pa.int64(), nullable=False)])
    )
    assert Packet(table).schema() == {"a": int | None, "b": int}
    assert Packet(table) == Packet({"a": 1, "b": 2}, {"a": int | None, "b": int})
    assert Packet(table, {"a": int, "b": int}) == Packet({"a": 1, "b": 2})


def test_chunks_slices_and_record_batches() -> None:
    """Chunking and slicing do not matter, and a record batch is as good as a table."""
    whole = pa.table({"x": ["a", "b", "c"], "y": [[1], [], [2]]})
    chunked = pa.concat_tables([whole.slice(0, 0), whole.slice(1, 1), whole.slice(3)])
    expected = Packet({"x": "b", "y": []}, Packet(whole.slice(1, 1)).schema())
    assert Packet(chunked) == Packet(whole.slice(1, 1)) == Packet(chunked.combine_chunks().to_batches()[0]) == expected


def test_structs_of_two_reads_are_equal() -> None:
    """Two datagrams of one struct column are equal, though each has a TypedDict of its own."""
    table = pa.table({"x": [[{"a": 1, "b": {"c": "d"}}]]})
    assert Packet(table) == Packet(table)
    assert Packet(table) != Packet(pa.table({"x": [[{"a": 1, "b": {"z": "d"}}]]}))


def test_no_columns() -> None:
    """A row without columns is still one row, with a hash of its own."""
    for packet in (Packet({}), Packet({"x": 1}).select(), Packet(pa.table({"x": [1]})).select()):
        assert (packet.as_table().num_rows, packet.as_table().num_columns, len(packet)) == (1, 0, 0)
        assert packet.content_hash().digest == bytes(16)
        assert packet == Packet({})
        assert packet.with_columns(x=1) == Packet({"x": 1})


# ---------------------------------------------------------------------------- laziness


def tripwire(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("converted without need")


def test_a_dict_touches_no_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a dict can answer converts to Arrow, operations included."""
    for name in ("to_array", "to_python", "conform", "arrow_schema", "arrow_field"):
        monkeypatch.setattr(converter, name, tripwire)
    packet = Packet({"x": 1, "y": [2.0]}, {"x": int, "y": list[float]}, {"note": "n"})
    changed = packet.select("y", "x").rename({"x": "z"}).update(z=2).with_columns(w="a").drop("y")
    assert changed.as_dict() == {"z": 2, "w": "a"}
    assert (changed["z"], "w" in changed, len(changed), list(changed)) == (2, True, 2, ["z", "w"])
    assert (
        changed.with_meta_columns(more=1).drop_meta_columns("note").as_dict(columns=ColumnConfig.all())["__more"] == 1
    )


def test_a_table_touches_no_python_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a table can answer converts to Python values, operations and the hash included."""
    table = pa.table({"x": [1], "y": [[2.0]], "__note": ["n"], "_source_x": ["s"]})
    packets = [
        Packet(table.drop_columns(["_source_x"])),
        Packet(table.select(["x", "y"]), {"x": int, "y": list[float | None]}),
    ]
    monkeypatch.setattr(converter, "to_python", tripwire)
    for packet in packets:
        changed = packet.select("y", "x").rename({"x": "z"}).with_columns(w="a").drop("y")
        assert changed.as_table().column_names == ["z", "w"]
        assert len(changed.content_hash().digest) == 16
        assert changed.arrow_schema().names == ["z", "w"]


# ---------------------------------------------------------------------------- operations

Operation = Callable[[Packet], Packet]


@st.composite
def operations(draw: Any, names: list[str]) -> tuple[list[Operation], list[str]]:
    """Draw operations that fit a row of these columns."""
    found: list[Operation] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["select", "drop", "rename", "update", "with_columns"]))
        some = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        if kind == "select":
            found.append(lambda p, some=some: p.select(*some))
            names = some
        elif kind == "drop":
            found.append(lambda p, some=some: p.drop(*some))
            names = [name for name in names if name not in some]
        elif kind == "rename":
            turned = dict(zip(some, [*some[1:], *some[:1]], strict=True))
            found.append(lambda p, turned=turned: p.rename(turned))
            names = [turned.get(name, name) for name in names]
        elif kind == "update":
            found.append(lambda p, some=some: p.update(**{name: p[name] for name in some}))
        else:
            new = draw(NAMES.filter(lambda n, names=names: n not in names))
            found.append(lambda p, new=new: p.with_columns(None, **{new: [1, None]}))
            names = [*names, new]
    return found, names


@given(st.data(), rows(min_columns=1))
def test_operations_commute_with_conversion(data: st.DataObject, row: tuple[Schema, dict[str, Any]]) -> None:
    """Operations give the same row, schema, order and sources whether done on the dict, on the table, or on both."""
    schema, values = row
    sources: dict[str, str | None] = {name: f"f::1::{name}" for name in values}
    steps, names = data.draw(operations(list(values)))
    of_dict = Packet(values, schema, {"m": {}}, source_info=sources)
    of_table = Packet(of_dict.as_table(), schema, {"m": {}}, source_info=sources)
    of_both = Packet(of_dict.as_table(), schema, {"m": {}}, source_info=sources)
    of_both.as_dict()
    results = [of_dict, of_table, of_both, Packet(values, schema, {"m": {}}, source_info=sources)]
    for step in steps:
        results = [step(packet) for packet in results]
    first = results[0]
    assert first.keys() == tuple(names)
    for other in results[1:]:
        assert other == first
        assert other.keys() == first.keys()
        assert other.schema() == first.schema()
        assert other.arrow_schema() == first.arrow_schema()
        assert other.as_table().schema == first.as_table().schema
        assert same(other.as_dict(), first.as_dict())
        assert other.source_info() == first.source_info()
        assert other.meta_info() == {"__m": {}}


def test_operations() -> None:
    """Each operation does what its name says, and keeps types."""
    packet = Packet({"a": 1, "b": None}, {"a": int, "b": dict[str, int] | None})
    assert packet.select("b", "a").keys() == ("b", "a")
    for one in (packet, Packet(packet.as_table())):
        assert one.select("a", "a").as_table().column_names == ["a"]
    assert packet.drop("a").schema() == {"b": dict[str, int] | None}
    assert packet.drop("nope", ignore_missing=True) == packet
    assert packet.rename({"a": "b", "b": "a"}).as_dict() == {"b": 1, "a": None}
    assert packet.update(b={}).schema() == packet.schema()
    assert packet.with_columns({"c": list[str]}, c=[]).schema()["c"] == list[str]
    assert packet.with_columns(column_types={"c": float | None}, c=None).arrow_schema().field("c").type == pa.float64()
    assert Packet({"a": None}).update(a=1).schema() == {"a": int}


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda p: p["z"], KeyError, r"No column 'z'; there are \['x', 'y'\]"),
        (lambda p: p.select("z"), KeyError, "No column 'z'"),
        (lambda p: p.drop("x", "z"), KeyError, "No column 'z'"),
        (lambda p: p.rename({"z": "w"}), KeyError, "No column 'z'"),
        (lambda p: p.rename({"x": "y"}), InputError, "two columns"),
        (lambda p: p.rename({"x": "__x"}), DefinitionError, "reserved names: __x"),
        (lambda p: p.update(z=1), KeyError, "No column 'z'.*with_columns"),
        (lambda p: p.with_columns(x=1), InputError, "'x' exists already.*update"),
        (lambda p: p.with_columns(_source_x="s"), DefinitionError, "reserved names: _source_x"),
        (lambda p: p.with_columns({"w": int}, z=1), InputError, "'w', which has no value"),
        (lambda p: p.with_meta_columns({"w": int}, z=1), InputError, "'__w', which has no value"),
        (lambda p: p.drop_meta_columns("z"), KeyError, "No meta column '__z'"),
        (lambda p: p.as_dict(columns={"meta": ["z"]}), KeyError, "No meta column '__z'"),
        (lambda p: p.as_dict(columns={"meta": "z"}), TypeError, "one string"),
        (
            lambda p: p.with_source_info(z="s"),
            ConversionError,
            "'_source_z' is the source of a column that is not there",
        ),
        (lambda p: p.with_source_info(x=1), ConversionError, "'_source_x' holds a int"),
    ],
)
def test_refused_operations(operation: Callable[[Packet], Any], error: type[Exception], message: str) -> None:
    """What cannot be done is refused by the column's name, on both forms."""
    for packet in (Packet({"x": 1, "y": 2}), Packet(pa.table({"x": [1], "y": [2]}))):
        with pytest.raises(error, match=message):
            operation(packet)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Packet(pa.table({"x": [1, 2]})), ConversionError, "has 2 rows"),
        (lambda: Packet(pa.table({"x": pa.array([], pa.int64())})), ConversionError, "has 0 rows"),
        (lambda: Packet(pa.table([[1], [2]], names=["x", "x"])), ConversionError, "'x' more than once"),
        (lambda: Packet({"x": 1}, {"x": int, "y": int}), ConversionError, r"missing \['y'\]"),
        (lambda: Packet({"x": 1, "z": 1}, {"x": int}), ConversionError, r"not declared \['z'\]"),
        (lambda: Packet(defaultdict(int, x=1), {"x": int, "y": int}), ConversionError, r"missing \['y'\]"),
        (lambda: Packet(defaultdict(int, z=1), {"x": int}), ConversionError, r"missing \['x'\]"),
        (lambda: Packet(pa.table({"z": [1]}), {"x": int}), ConversionError, r"missing \['x'\]"),
        (lambda: Packet(pa.table({"x": [1.5]}), {"x": int}), InputError, "'x' has type double"),
        (lambda: Packet(pa.table({"x": [2**53 + 1]}), {"x": float}), InputError, "'x' of type int64 holds values"),
        (lambda: Packet(pa.table({"x": ["1"]}), {"x": int}), InputError, "'x' has type string"),
        (lambda: Packet(pa.table({"x": pa.array([None], pa.int64())}), {"x": int}), ConversionError, "'x' is null"),
        (lambda: Packet({"x": None}, {"x": int}).as_table(), ConversionError, "column 'x'.*got None"),
        (lambda: Packet({"x": "a"}, {"x": int}).content_hash(), ConversionError, "column 'x'.*got a str"),
        (lambda: Packet([1]), UnsupportedTypeError, "the data is a list"),  # type: ignore[arg-type]
        (lambda: Packet({1: 1}), ConversionError, "1 is no column name"),  # type: ignore[dict-item]
        (lambda: Packet(pa.table({"x": [1]}), {"x": Any}), UnsupportedTypeError, "column 'x'.*Any"),
        (lambda: Datagram({"x": 1, "_source_x": "s"}), ConversionError, "'_source_x'.*Packet"),
        (lambda: Packet({"x": 1, "_tag_x": "s"}), ConversionError, "'_tag_x'.*Tag"),
        (lambda: Packet({"x": 1}, source_info={"y": "s"}), ConversionError, "'_source_y' is the source"),
        (lambda: Packet(pa.table({"x": [1], "_source_x": [1]})), ConversionError, "'_source_x' holds a int"),
        (lambda: Packet({"x": 1}, record_id="no id"), ValueError, "UUID"),
    ],
)
def test_refused_data(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Data that cannot be one row of the schema is refused by the column's name."""
    with pytest.raises(error, match=message):
        make()


def test_an_arrow_type_without_counterpart_passes_through(caplog: pytest.LogCaptureFixture) -> None:
    """A column of such a type can be carried and selected; reading its value says which column it is."""
    interval = pa.scalar((1, 2, 3), pa.month_day_nano_interval())
    packet = Packet(pa.table({"x": [1], "i": pa.array([interval.as_py()], pa.month_day_nano_interval())}))
    assert "month_day_nano_interval" in caplog.text
    assert packet.select("i").as_table().column_names == ["i"]
    assert packet.drop("i")["x"] == 1
    with pytest.raises(UnsupportedTypeError, match="column 'i'"):
        packet.as_dict()


def test_optional_columns_may_be_missing() -> None:
    """A function's input schema fits a packet that lacks an optional column; the packet's schema is that of its columns."""
    schema = Schema({"x": int, "y": int}, optional=["y"])
    for packet in (Packet({"x": 1}, schema), Packet(pa.table({"x": [1]}), schema)):
        assert packet.schema() == {"x": int}
        assert packet == Packet({"x": 1})
    assert Packet({"x": 1, "y": 2}, schema) == Packet({"x": 1, "y": 2})


# ---------------------------------------------------------------------------- immutability


def test_immutable() -> None:
    """Neither the dicts given nor those returned, nor attributes, change a datagram."""
    data, meta, sources, schema = {"x": 1}, {"m": 1}, {"x": "s"}, {"x": int}
    packet = Packet(data, schema, meta, source_info=sources)
    for given_ in (data, meta, sources, schema):
        given_.clear()
    for returned in (packet.as_dict(), packet.meta_info(), packet.source_info()):
        returned.clear()
    packet.as_dict(columns=ColumnConfig.all()).clear()
    assert packet.as_dict() == {"x": 1}
    assert (packet.meta_info(), packet.source_info(), packet.schema()) == ({"__m": 1}, {"x": "s"}, {"x": int})
    for name in ("x", "_data", "_record_id", "datagram_id"):
        with pytest.raises(AttributeError):
            setattr(packet, name, 1)
    with pytest.raises(AttributeError):
        del packet._data  # pyright: ignore[reportPrivateUsage]  # an attribute is what is tried
    with pytest.raises(AttributeError):
        packet.schema().optional = frozenset("x")  # type: ignore[misc]
    system_tags = {"s": 1}
    tag = Tag({"x": 1}, system_tags=system_tags)
    system_tags.clear()
    tag.system_tags().clear()
    assert tag.system_tags() == {"_tag_s": 1}


def test_operations_leave_the_original() -> None:
    """No operation changes the datagram that it is called on."""
    for packet in (Packet({"x": 1}, None, {"m": 1}), Packet(pa.table({"x": [1], "__m": [1]}))):
        before = (packet.as_dict(), packet.schema(), packet.meta_info(), packet.datagram_id, packet.content_hash())
        for changed in (
            packet.update(x=2),
            packet.with_columns(y=1),
            packet.rename({"x": "z"}),
            packet.drop("x"),
            packet.with_meta_columns(m=2, n=3),
            packet.drop_meta_columns("m"),
            packet.with_context_key("k"),
            packet.with_source("f"),
        ):
            assert changed is not packet
        after = (packet.as_dict(), packet.schema(), packet.meta_info(), packet.datagram_id, packet.content_hash())
        assert before == after
        assert packet.source_info() == {"x": None}


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies(clone: Callable[[Any], Any]) -> None:
    """Copies and pickles are equal in everything, record id included."""
    table = pa.table({"x": [[1]], "__m": [{}], "_source_x": ["s"], "_context_key": ["k"]}, schema=None)
    for packet in (
        Packet({"x": [1]}, {"x": list[int]}, {"m": 1}).with_source("f"),
        Packet(table.drop_columns(["__m"])),
    ):
        packet.datagram_id  # noqa: B018  # made on first use
        other = clone(packet)
        assert other == packet
        assert type(other) is Packet
        assert other.as_dict(columns=ColumnConfig.all()) == packet.as_dict(columns=ColumnConfig.all())
        assert other.datagram_id == packet.datagram_id


# ---------------------------------------------------------------------------- record id


def test_record_ids_are_uuid7() -> None:
    """Record ids have version 7 and the RFC's variant, are distinct, and begin with the time in milliseconds."""
    data = new_record_ids(1000)
    ids = [uuid.UUID(bytes=data[i : i + 16]) for i in range(0, len(data), 16)]
    assert {(i.version, i.variant) for i in ids} == {(7, uuid.RFC_4122)}
    assert len(set(ids)) == 1000
    assert abs((ids[0].int >> 80) / 1000 - dt.datetime.now(dt.UTC).timestamp()) < 60


def test_record_id() -> None:
    """A record id is made once, can be given in three forms or as `__record_id`, and belongs to the data columns alone."""
    packet = Packet({"x": 1})
    made = packet.datagram_id
    assert made == packet.datagram_id != Packet({"x": 1}).datagram_id
    for given_ in (made, str(made), made.bytes):
        assert Packet({"x": 1}, record_id=given_).datagram_id == made
        assert Packet({"x": 1}, meta_info={"record_id": given_}).datagram_id == made
    stored = Packet(pa.table({"x": [1], "__record_id": [made.bytes], "__m": [1]}))
    assert stored.datagram_id == made
    for meta_only in (stored.with_meta_columns(n=1), stored.drop_meta_columns("m"), stored.with_context_key("k")):
        assert meta_only.datagram_id == made
    for other in (stored.update(x=2), stored.select("x"), stored.rename({"x": "y"}), stored.with_columns(y=1)):
        assert other.datagram_id != made
        assert other.meta_info() == {"__m": 1}


def test_a_copy_has_the_id_of_its_original() -> None:
    """A copy with other meta columns is the same row, even when nobody had asked for its id before."""
    packet = Packet({"x": 1})
    copy_ = packet.with_meta_columns(m=1)
    assert copy_.datagram_id == packet.datagram_id


def test_threads_get_one_record_id() -> None:
    """Threads that ask for the id at the same time get the same."""
    for _ in range(50):
        packet, found, barrier = Packet({"x": 1}), [], threading.Barrier(4)

        def ask(packet: Packet = packet, found: list[Any] = found, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            found.append(packet.datagram_id)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {packet.datagram_id}


# ---------------------------------------------------------------------------- meta columns, context key, column config


def both(data: dict[str, Any], schema: dict[str, Any]) -> list[Packet]:
    """Return the packet of a dict, and that of the table of it, meta columns included."""
    packet = Packet(data, schema)
    everything = ColumnConfig.all()
    return [packet, Packet(packet.as_table(columns=everything), packet.schema(columns=everything))]


def test_meta_columns() -> None:
    """Meta columns are read with and without prefix, set, dropped, and never part of the content."""
    for packet in both({"x": 1, "__a": "b"}, {"x": int}):
        assert packet.get_meta_value("a") == packet.get_meta_value("__a") == "b"
        assert packet.get_meta_value("z", 5) == 5
        assert packet.keys() == ("x",)
        changed = packet.with_meta_columns(a="c", __z=2)
        assert changed.meta_info() == {"__a": "c", "__z": 2}
        assert changed.drop_meta_columns("a", "__z").meta_info() == {}
        assert changed.drop_meta_columns("nope", ignore_missing=True).meta_info() == changed.meta_info()
        assert changed == packet == Packet({"x": 1})
    assert Packet({"x": 1, "__a": 1}, meta_info={"a": 2, "__b": 3}).meta_info() == {"__a": 2, "__b": 3}
    with_both = Packet(pa.table({"x": [1], "__a": [1]}), meta_info={"a": 2, "b": 3})
    assert with_both.as_table(columns={"meta": True}).to_pylist() == [{"x": 1, "__a": 2, "__b": 3}]


def test_meta_types_are_kept() -> None:
    """Meta columns keep declared types that no value shows, through every operation that does not touch them."""
    types = {"x": dict[str, int], "__empty": dict[str, str], "__none": float | None, "__at": dt.datetime}
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    for packet in both({"x": {}, "__empty": {}, "__none": None, "__at": at}, types):
        for changed in (
            packet.with_meta_columns(more=1),
            packet.with_meta_columns(more=1).drop_meta_columns("more"),
            packet.with_columns(y=1).drop("y"),
            packet.rename({"x": "z"}).rename({"z": "x"}),
            packet.update(x={"a": 1}),
            packet.with_meta_columns(empty={}, none=None),
            packet.with_meta_columns(none=1.5),
        ):
            kept = changed.schema(columns=ColumnConfig(meta=["empty", "none", "at"]))
            assert kept == types
            fields = changed.arrow_schema(columns={"meta": True})
            assert fields.field("__empty").type == pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False))
            assert (fields.field("__none").type, fields.field("__none").nullable) == (pa.float64(), True)
            assert changed.schema() == {"x": dict[str, int]}
    retyped = Packet({"x": 1}).with_meta_columns({"__a": list[str]}, a=[])
    assert retyped.schema(columns={"meta": True}) == {"x": int, "__a": list[str]}
    assert retyped.with_meta_columns({"a": list[int]}, a=[]).schema(columns={"meta": ["a"]})["__a"] == list[int]


def test_declared_meta_types_hold_for_meta_info() -> None:
    """A python_schema may declare columns that come through meta_info or system_tags."""
    packet = Packet({"x": 1}, {"x": int, "__m": dict[str, str]}, {"m": {}})
    assert packet.schema(columns={"meta": True}) == {"x": int, "__m": dict[str, str]}
    tag = Tag({"x": 1}, {"x": int, "_tag_s": list[int]}, system_tags={"s": []})
    assert tag.schema(columns={"system_tags": True}) == {"x": int, "_tag_s": list[int]}


def test_context_key() -> None:
    """The context key is that of this version, or the one that a row brought, and stays under operations."""
    assert Packet({"x": 1}).context_key == PACKET_METHOD
    assert Packet(pa.table({"x": [1], "_context_key": pa.array([None], pa.string())})).context_key == PACKET_METHOD
    for packet in both({"x": 1, "_context_key": "old"}, {"x": int}):
        assert packet.update(x=2).rename({"x": "y"}).context_key == "old"
        assert packet.as_table(columns={"context": True}).to_pylist() == [{"x": 1, "_context_key": "old"}]
        assert packet.with_context_key("new").context_key == "new"
        assert packet == Packet({"x": 1})


def test_column_config() -> None:
    """All five views give the same columns in the same order: data, meta, sources or system tags, context key."""
    packet = Packet({"x": 1, "y": 2}, None, {"a": 1, "b": 2}, source_info={"y": "s"})
    cases: list[tuple[Any, list[str]]] = [
        (None, []),
        ({}, []),
        ({"meta": True}, ["__a", "__b"]),
        ({"meta": ["b"]}, ["__b"]),
        (ColumnConfig(meta=("__b", "a")), ["__a", "__b"]),
        ({"source": True, "system_tags": True}, ["_source_x", "_source_y"]),
        (ColumnConfig(source={"y"}), ["_source_y"]),
        ({"context": True}, ["_context_key"]),
        (ColumnConfig.all(), ["__a", "__b", "_source_x", "_source_y", "_context_key"]),
    ]
    for columns, further in cases:
        names = ["x", "y", *further]
        for view in (packet, Packet(packet.as_table(columns=ColumnConfig.all()))):
            assert list(view.keys(columns=columns)) == names
            assert list(view.schema(columns=columns)) == names
            assert list(view.as_dict(columns=columns)) == names
            assert view.as_table(columns=columns).schema == view.arrow_schema(columns=columns)
            assert view.arrow_schema(columns=columns).names == names
            assert view.as_table(columns=columns).to_pylist() == [view.as_dict(columns=columns)]


# ---------------------------------------------------------------------------- source info and system tags


def test_source_info() -> None:
    """Sources follow their columns through select, drop and rename, and end where a value is set."""
    packet = Packet({"x": 1, "y": 2, "z": 3}).with_source(("f", "hash", "v0"))
    start = f"f:hash:v0::{packet.datagram_id}::"
    sources: dict[str, Any] = {name: start + name for name in "xyz"}
    from_table = Packet(packet.as_table(columns=ColumnConfig.all()))
    from_dict = Packet(packet.as_dict(columns=ColumnConfig.all()))
    for one in (packet, from_table, from_dict):
        assert one.source_info() == sources
        assert one.with_meta_columns(m=1).drop_meta_columns("m").source_info() == sources
        assert one.select("z", "x").source_info() == {"z": start + "z", "x": start + "x"}
        assert one.drop("x").source_info() == {"y": start + "y", "z": start + "z"}
        assert one.rename({"x": "y", "y": "x"}).source_info() == {"y": start + "x", "x": start + "y", "z": start + "z"}
        assert one.update(x=1).source_info() == {**sources, "x": None}
        assert one.with_columns(w=1).source_info() == {**sources, "w": None}
        assert one.with_source_info(x=None, _source_y="s").source_info() == {**sources, "x": None, "y": "s"}
    assert Packet({"x": 1}).source_info() == {"x": None}
    assert Packet({"x": 1}, source_info={"_source_x": "s"}).source_info() == {"x": "s"}
    assert Packet(pa.table({"x": [1]}), source_info={"x": "s"}).source_info() == {"x": "s"}


def test_system_tags() -> None:
    """System tags stay under every operation, and enter neither the content hash nor the data."""
    made = Tag(
        {"x": 1}, system_tags={"origin": {}, "_tag_run": 5}, python_schema={"x": int, "_tag_origin": dict[str, int]}
    )
    for tag in (
        made,
        Tag(made.as_table(columns=ColumnConfig.all())),
        Tag(made.as_table(columns={"system_tags": True}), {"x": int}),
    ):
        assert tag == Tag({"x": 1})
        for changed in (
            tag,
            tag.update(x=2),
            tag.rename({"x": "y"}),
            tag.with_columns(y=2),
            tag.drop("x"),
            tag.with_meta_columns(m=1),
        ):
            assert changed.system_tags() == {"_tag_origin": {}, "_tag_run": 5}
            types = changed.schema(columns={"system_tags": True})
            assert (types["_tag_origin"], types["_tag_run"]) == (dict[str, int], int)
    assert made.as_table(columns={"system_tags": ["run"], "source": True}).to_pylist() == [{"x": 1, "_tag_run": 5}]
    assert "_tag_run" not in made


# ---------------------------------------------------------------------------- types of values without a schema


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, NONE),
        (True, bool),
        (1, int),
        (1.5, float),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime),
        (dt.datetime(2024, 1, 1), converter.NaiveDatetime),
        (Path("a"), Path),
        (Color.RED, Color),
        (Point(1, None), Point),
        (uuid.UUID(int=1), uuid.UUID),
        ([], list[NONE]),
        ((), tuple[NONE, ...]),
        (set(), set[NONE]),
        ({}, dict[str, NONE]),
        ([None], list[NONE]),
        ([1, None, 2], list[int | None]),
        ([1, 2.5], list[float]),
        ([[], [1]], list[list[int]]),
        ([[], None], list[list[NONE] | None]),
        ([[None], [1]], list[list[int | None]]),
        ([{}, {"a": 1}, {"b": None}], list[dict[str, int | None]]),
        ({"a": {}, "b": {"c": [1]}}, dict[str, dict[str, list[int]]]),
        ({1: [], 2: None}, dict[int, list[NONE] | None]),
        ((1, 2), tuple[int, ...]),
        ((1, None), tuple[int | None, ...]),
        ((1, "a"), tuple[int, str]),
        ((1, 2.5), tuple[int, float]),
        ([(1, "a"), (None, "b")], list[tuple[int | None, str]]),
        ([(1, 2), (3,), ()], list[tuple[int, ...]]),
        ([dt.datetime(2024, 1, 1), None], list[typing.Optional[converter.NaiveDatetime]]),  # noqa: UP045
        (frozenset({"a"}), frozenset[str]),
    ],
)
def test_inferred_types(value: Any, hint: Any) -> None:
    """A value without a schema has the type that its elements have in common, and comes back from Arrow as it was."""
    assert infer_type(value, "x") == hint
    packet = Packet({"x": value})
    assert packet.schema() == {"x": hint}
    back = Packet(packet.as_table(), packet.schema())["x"]
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1, "a"], ConversionError, "column 'x': the elements of a list are of the types int and str.*python_schema"),
        ([True, 1], ConversionError, "bool and int"),
        ({"a": 1, "b": "c"}, ConversionError, "the values of a dict are of the types int and str"),
        ({"a": 1, 2: 3}, ConversionError, "the keys of a dict are of the types str and int"),
        ({None: 1}, ConversionError, "None among its keys"),
        ([[1], {"a": 1}], ConversionError, r"list\[int\] and dict\[str, int\]"),
        ([(1, "a"), (2,)], ConversionError, r"tuple\[int, str\]"),
        ([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], ConversionError, "none holds both"),
        (object(), UnsupportedTypeError, "column 'x': object"),
        ([{"a": object()}], UnsupportedTypeError, "column 'x': object"),
    ],
)
def test_values_without_a_common_type(value: Any, error: type[Exception], message: str) -> None:
    """Values that no Arrow type holds are refused by their column, with the types found."""
    with pytest.raises(error, match=message):
        Packet({"x": value})


@given(rows())
def test_inference_agrees_with_itself(row: tuple[Schema, dict[str, Any]]) -> None:
    """A dict without a schema either is refused, or round-trips under the schema that was inferred."""
    _, values = row
    try:
        packet = Packet(values)
    except ConversionError:
        return
    back = Packet(packet.as_table(), packet.schema())
    assert same(back.as_dict(), values)
    assert Packet(values).schema() == packet.schema()
