"""Arrow types with values of each, for tests that go through all of them."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa

UTC = dt.UTC
_NOW = dt.datetime(2024, 7, 1, 12, 30, 15, 123456)
_PAST = dt.datetime(1900, 1, 1)
_DAY = dt.date(2024, 2, 29)
_INT64 = [-(2**63), 2**63 - 1]
_TEXT = ["", "a\0b", "ü𝄞", "x" * 300]
_BYTES = [b"", b"\0\xff", b"y" * 300]
_UUID = uuid.UUID(int=2**127 + 1)
_STRUCT = pa.struct([pa.field("x", pa.int64(), nullable=False), ("y", pa.string())])


def _run_end_encoded() -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays([1, 3], pa.array([None, 7]))


def _with(storage: pa.DataType, values: list[Any], extension: pa.DataType) -> pa.Array:
    return pa.ExtensionArray.from_storage(extension, pa.array(values, storage))


def _typed(t: pa.DataType, *values: Any) -> pa.Array:
    return pa.array([values[0], None, *values[1:]], t)


_TIMES = {"s": 10**9, "ms": 10**12, "us": 10**15 + 1}

KEPT: dict[str, pa.Array] = {
    "bool": _typed(pa.bool_(), True, False),
    "int8": _typed(pa.int8(), -128, 127),
    "int16": _typed(pa.int16(), -(2**15), 2**15 - 1),
    "int32": _typed(pa.int32(), -(2**31), 2**31 - 1),
    "int64": _typed(pa.int64(), *_INT64),
    "uint8": _typed(pa.uint8(), 0, 255),
    "uint16": _typed(pa.uint16(), 0, 2**16 - 1),
    "uint32": _typed(pa.uint32(), 0, 2**32 - 1),
    "uint64": _typed(pa.uint64(), 0, 2**64 - 1),
    "float16": _typed(pa.float16(), 1.5, -0.0, 65504.0, float("inf")),
    "float32": _typed(pa.float32(), 1.5, -0.0, float("inf")),
    "float64": _typed(pa.float64(), 0.1, -0.0, float("-inf"), 5e-324),
    "decimal32": _typed(pa.decimal32(9, 2), Decimal("-1234567.89")),
    "decimal64": _typed(pa.decimal64(18, 0), Decimal(10**18 - 1)),
    "decimal128": _typed(pa.decimal128(38, 18), Decimal("1.500000000000000000")),
    "decimal128(38, 0)": _typed(pa.decimal128(38, 0), Decimal(10**38 - 1), Decimal(-1)),
    "decimal256(38, 5)": _typed(pa.decimal256(38, 5), Decimal("1.50000")),
    "string": _typed(pa.string(), *_TEXT),
    "large_string": _typed(pa.large_string(), *_TEXT),
    "string_view": _typed(pa.string_view(), *_TEXT),
    "binary": _typed(pa.binary(), *_BYTES),
    "large_binary": _typed(pa.large_binary(), *_BYTES),
    "binary_view": _typed(pa.binary_view(), *_BYTES),
    "fixed_size_binary[2]": _typed(pa.binary(2), b"\0\xff", b"ab"),
    "date32": _typed(pa.date32(), _DAY, dt.date(1, 1, 1)),
    "date64": _typed(pa.date64(), _DAY),
    "time32[s]": _typed(pa.time32("s"), dt.time(23, 59, 59)),
    "time32[ms]": _typed(pa.time32("ms"), dt.time(23, 59, 59, 999000)),
    "time64[us]": _typed(pa.time64("us"), dt.time(23, 59, 59, 999999)),
    "time64[ns]": _typed(pa.time64("ns"), 86_399_999_999_000),
    **{f"timestamp[{unit}]": _typed(pa.timestamp(unit), n, -n) for unit, n in _TIMES.items()},
    **{f"timestamp[{unit}, UTC]": _typed(pa.timestamp(unit, "UTC"), n, -n) for unit, n in _TIMES.items()},
    **{
        f"timestamp[{unit}, Europe/Berlin]": _typed(pa.timestamp(unit, "Europe/Berlin"), n)
        for unit, n in _TIMES.items()
    },
    "timestamp[us, +02:00]": _typed(pa.timestamp("us", "+02:00"), 1),
    "timestamp[ns] of whole microseconds": _typed(pa.timestamp("ns"), 1000, -1000),
    "timestamp[ns, UTC] of whole microseconds": _typed(pa.timestamp("ns", "UTC"), 1000),
    **{f"duration[{unit}]": _typed(pa.duration(unit), -5000, 2**30 * 1000) for unit in ("s", "ms", "us", "ns")},
    "null": pa.nulls(3),
    "uuid": _with(pa.binary(16), [_UUID.bytes, None], pa.uuid()),
    "json": _with(pa.string(), ["{}", None], pa.json_()),
    "bool8": _with(pa.int8(), [1, None, 0], pa.bool8()),
    "opaque": _with(pa.string(), ["a", None], pa.opaque(pa.string(), "kind", "vendor")),
    "fixed_shape_tensor": _with(
        pa.list_(pa.float64(), 4), [[1.0, 2, 3, 4], None], pa.fixed_shape_tensor(pa.float64(), [2, 2])
    ),
    "list<int64>": _typed(pa.list_(pa.int64()), [1, None], []),
    "list<int8 not null>": _typed(pa.list_(pa.field("element", pa.int8(), nullable=False)), [1, -1], []),
    "list<uint64>": _typed(pa.list_(pa.uint64()), [2**64 - 1, None], []),
    "list<string_view>": _typed(pa.list_(pa.string_view()), ["a", None], []),
    "list<time32[s]>": _typed(pa.list_(pa.time32("s")), [dt.time(1), None]),
    "list<uuid>": pa.ListArray.from_arrays([0, 2, 2], _with(pa.binary(16), [_UUID.bytes, None], pa.uuid())),
    "list<dictionary>": pa.ListArray.from_arrays([0, 2, 2], pa.array(["a", None]).dictionary_encode()),
    "list<null>": _typed(pa.list_(pa.null()), [None], []),
    "list<list<float32>>": _typed(pa.list_(pa.list_(pa.float32())), [[1.5], None, []], []),
    "list<struct>": _typed(pa.list_(_STRUCT), [{"x": 1, "y": None}, None], []),
    "list<map>": _typed(pa.list_(pa.map_(pa.string(), pa.int64())), [[("a", 1)], None, []]),
    "large_list<int64>": _typed(pa.large_list(pa.int64()), [1, None], []),
    "large_list<large_string>": _typed(pa.large_list(pa.large_string()), ["a", None], []),
    "fixed_size_list<float32>[2]": _typed(pa.list_(pa.float32(), 2), [1.5, None]),
    "fixed_size_list<int64>[0]": _typed(pa.list_(pa.int64(), 0), []),
    "list<fixed_size_list<int8>[2]>": _typed(pa.list_(pa.list_(pa.int8(), 2)), [[1, 2], None], []),
    "struct": _typed(_STRUCT, {"x": 1, "y": "a"}, {"x": 2, "y": None}),
    "struct<fixed_size_list>": _typed(pa.struct([("a", pa.list_(pa.int64(), 2))]), {"a": [1, 2]}, {"a": None}),
    "struct<struct>": _typed(pa.struct([("a", _STRUCT)]), {"a": {"x": 1, "y": None}}, {"a": None}),
    "struct<date64, duration>": _typed(
        pa.struct([("a", pa.date64()), ("b", pa.duration("s"))]), {"a": _DAY, "b": dt.timedelta(seconds=1)}
    ),
    "map<string, int64>": _typed(pa.map_(pa.string(), pa.int64()), [("a", 1), ("b", None)], []),
    "map<large_string, large_string>": _typed(pa.map_(pa.large_string(), pa.large_string()), [("a", "b")], []),
    "map<int8, list<uint8>>": _typed(pa.map_(pa.int8(), pa.list_(pa.uint8())), [(1, [255, None])], []),
    "map<string, map<string, float64>>": _typed(
        pa.map_(pa.string(), pa.map_(pa.string(), pa.float64())), [("a", [("b", None)]), ("c", [])]
    ),
    "map<uuid-like, struct not null>": _typed(
        pa.map_(pa.binary(16), pa.field("value", _STRUCT, nullable=False)), [(_UUID.bytes, {"x": 1, "y": None})]
    ),
    "dictionary<int32, string>": pa.array(["a", None, "b", "a"]).dictionary_encode(),
    "dictionary<int32, large_string>": pa.array(["a", None, "b"], pa.large_string()).dictionary_encode(),
    "dictionary<int32, int64>": pa.array([7, None, 8]).dictionary_encode(),
    "run_end_encoded<int64>": _run_end_encoded(),
    "list_view<int64>": _typed(pa.list_view(pa.int64()), [1, None], []),
    "large_list_view<string>": _typed(pa.large_list_view(pa.string()), ["a", None], []),
    "list_view<uuid>": pa.ListViewArray.from_arrays(
        pa.array([1, 0], pa.int32()), pa.array([1, 2], pa.int32()), _with(pa.binary(16), [_UUID.bytes, None], pa.uuid())
    ),
    "fixed_size_list<string_view>[2]": _typed(pa.list_(pa.string_view(), 2), ["a", None]),
    "fixed_size_list<list_view<int64>>[1]": _typed(pa.list_(pa.list_view(pa.int64()), 1), [[1, None]], [None]),
    "fixed_size_list<run_end_encoded>[2]": pa.FixedSizeListArray.from_arrays(
        pa.RunEndEncodedArray.from_arrays([1, 4], pa.array([None, 7])), 2, mask=pa.array([True, False])
    ),
    "run_end_encoded<string_view>": pa.RunEndEncodedArray.from_arrays([1, 3], pa.array([None, "a"], pa.string_view())),
    "run_end_encoded<uuid>": pa.RunEndEncodedArray.from_arrays(
        [1, 3], _with(pa.binary(16), [None, _UUID.bytes], pa.uuid())
    ),
    "dictionary<int32, string_view>": pa.DictionaryArray.from_arrays(
        pa.array([1, None, 0], pa.int32()), pa.array(["a", "b"], pa.string_view())
    ),
    "dictionary<int32, decimal32>": pa.DictionaryArray.from_arrays(
        pa.array([0, None], pa.int32()), pa.array([Decimal("1.25")], pa.decimal32(5, 2))
    ),
    "dictionary<int32, timestamp>": pa.array([1, None], pa.timestamp("s", "UTC")).dictionary_encode(),
}
"""Read back exactly: type, values and nulls."""

BY_VALUE: dict[str, pa.Array] = {
    "dictionary<int8, string>": pa.array(["a", None]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
}
"""Read back with equal values and another index (`storage_types.returned_type`)."""

REFUSED: dict[str, pa.Array] = {
    "timestamp[ns] with nanoseconds": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
    "list<timestamp[ns]> with nanoseconds": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
    "timestamp[s] beyond the range": pa.array([2**60], pa.timestamp("s")),
    "decimal256(76, 0)": pa.array([Decimal(10**60)], pa.decimal256(76, 0)),
    "decimal128 of negative scale": pa.array([None], pa.decimal128(5, -2)),
    "month_day_nano_interval": pa.array([None], pa.month_day_nano_interval()),
    "dense_union": pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
    "sparse_union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
    "struct without fields": pa.array([{}], pa.struct([])),
    "list of structs without fields": pa.array([[{}]], pa.list_(pa.struct([]))),
    "struct with fields that differ by case": pa.array([{"a": 1, "A": 2}]),
    "dictionary of uuids": pa.DictionaryArray.from_arrays([0], _with(pa.binary(16), [_UUID.bytes], pa.uuid())),
    "dictionary of lists": pa.DictionaryArray.from_arrays([0], pa.array([[1]])),
    "map with a key twice": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())),
    "list of maps with a key twice": pa.array([[[("a", 1), ("a", 2)]]], pa.list_(pa.map_(pa.string(), pa.int64()))),
    "null in a list that takes none": pa.array([[1, None]]).cast(
        pa.list_(pa.field("element", pa.int64(), nullable=False))
    ),
}
"""Refused with the column's name, before anything is written."""
