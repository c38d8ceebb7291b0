"""Content hashes: against a slow second implementation of docs/hashing.md, and against golden vectors."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from orcapod_dagster.core.hashing import RowSetDigest, hash_rows, hash_schema, join_lanes, split_lanes

MASK = 2**64 - 1


def mix(h: int) -> int:
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCD & MASK
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ (h >> 33)


def words(text: str) -> tuple[int, int]:
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"orcapod.packet.1").digest()
    return struct.unpack("<QQ", digest)


def const(label: str, i: int, lane: int) -> int:
    return words(f"{label}/{i}")[lane] | 1


def value_lane(value: Any, kind: Any, lane: int) -> int:
    """One lane of a value; `kind` is "int", "float", "bool", "string", or ("list", kind), ("map", kind, kind), ("struct", {name: kind})."""
    if value is None:
        return const("null", 0, lane)
    if kind in ("int", "bool"):
        return (int(value) & MASK) * const("word", 0, lane) & MASK
    if kind == "float":
        bits = 0x7FF8000000000000 if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value))[0]
        return bits * const("word", 0, lane) & MASK
    if kind == "string":
        data = value.encode()
        total = len(data) * const("length", 0, lane)
        if len(data) > 128:
            total += const("long", 0, lane)
            data = hashlib.blake2b(data, digest_size=32).digest()
        padded = data + b"\0" * (-len(data) % 8)
        for j in range(len(padded) // 8):
            total += mix(struct.unpack_from("<Q", padded, 8 * j)[0] * const("word", j, lane) & MASK)
        return total & MASK
    if kind[0] == "list":
        parts = [
            mix((value_lane(v, kind[1], lane) + (i + 1) * const("index", 0, lane)) & MASK) for i, v in enumerate(value)
        ]
        return (sum(parts) + (len(value) + 1) * const("length", 0, lane)) & MASK
    if kind[0] == "map":
        parts = [
            mix((mix(value_lane(k, kind[1], lane)) + mix(value_lane(v, kind[2], lane)) * const("item", 0, lane)) & MASK)
            for k, v in value
        ]
        return (sum(parts) + (len(value) + 1) * const("length", 0, lane)) & MASK
    return (
        sum(mix((value_lane(value[n], k, lane) + words(f"part/{n}")[lane]) & MASK) for n, k in kind[1].items()) & MASK
    )


def slow_hash(row: dict[str, Any], kinds: dict[str, tuple[Any, str]]) -> bytes:
    """Hash one row; `kinds` is column → (kind, type tag)."""
    sums = [
        sum(
            mix((value_lane(row[n], kind, lane) + words(f"part/{n}\0{tag}")[lane]) & MASK)
            for n, (kind, tag) in kinds.items()
        )
        & MASK
        for lane in (0, 1)
    ]
    return struct.pack("<QQ", mix(sums[0]), mix(sums[1] ^ sums[0]))


COLUMNS: dict[str, tuple[Any, str, pa.DataType, st.SearchStrategy[Any]]] = {
    "i": ("int", "int64", pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "f": ("float", "double", pa.float64(), st.floats()),
    "b": ("bool", "bool", pa.bool_(), st.booleans()),
    "s": ("string", "string", pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=160)),
    "l": (("list", "float"), "list<double>", pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=5)),
    "m": (
        ("map", "string", "int"),
        "map<string,int64>",
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(st.text("abc", max_size=3), st.none() | st.integers(-9, 9), max_size=4).map(
            lambda d: list(d.items())
        ),
    ),
    "t": (
        ("struct", {"x": "int", "y": "string"}),
        "struct<x:int64,y:string>",
        pa.struct([("x", pa.int64()), ("y", pa.string())]),
        st.fixed_dictionaries({"x": st.none() | st.integers(-5, 5), "y": st.none() | st.text("ab", max_size=9)}),
    ),
}
rows_strategy = st.lists(
    st.fixed_dictionaries({n: st.none() | c[3] for n, c in COLUMNS.items()}), min_size=1, max_size=8
)
SCHEMA = pa.schema([(name, c[2]) for name, c in COLUMNS.items()])


def columns_of(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}


@given(rows_strategy)
def test_equals_the_specification(rows: list[dict[str, Any]]) -> None:
    """The vectorised hash of every row equals the slow implementation of the specification."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    kinds = {name: (c[0], c[1]) for name, c in COLUMNS.items()}
    assert hash_rows(columns_of(table)).to_pylist() == [slow_hash(row, kinds) for row in rows]


@given(rows_strategy, st.integers(0, 7), st.randoms())
def test_ignores_layout(rows: list[dict[str, Any]], cut: int, random: Any) -> None:
    """Slicing, chunking and column order do not change a row's hash."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    whole = hash_rows(columns_of(table))
    cut = min(cut, len(rows))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    names = list(table.column_names)
    random.shuffle(names)
    assert hash_rows({n: chunked[n] for n in names}).equals(whole)
    assert hash_rows(columns_of(table.slice(cut))).equals(whole.slice(cut))


@pytest.mark.parametrize(
    ("column", "other"),
    [
        (pa.array([1, None, 3], pa.int32()), pa.array([1, None, 3], pa.int64())),
        (pa.array([1, 2, 3], pa.uint8()), pa.array([1, 2, 3], pa.int64())),
        (pa.array(["a", None, "c"], pa.large_string()), pa.array(["a", None, "c"])),
        (pa.array(["a", None, "c"], pa.string_view()), pa.array(["a", None, "c"])),
        (pa.array(["a", None, "a"]).dictionary_encode(), pa.array(["a", None, "a"])),
        (pa.array([[1], None, []], pa.large_list(pa.int32())), pa.array([[1], None, []], pa.list_(pa.int64()))),
        (pa.array([1.5, None, 2.0], pa.float32()), pa.array([1.5, None, 2.0])),
        (
            pa.array([1, 2, 3], pa.timestamp("s", "UTC")),
            pa.array([10**6, 2 * 10**6, 3 * 10**6], pa.timestamp("us", "UTC")),
        ),
    ],
)
def test_encodings_of_one_meaning_hash_alike(column: pa.Array, other: pa.Array) -> None:
    """Narrow, large, view and dictionary forms of the same values have the same hash."""
    assert hash_rows({"c": column}).equals(hash_rows({"c": other}))


def test_different_values_differ() -> None:
    """1, 1.0, True, "1", bytes, None, empty values and both zeros all have hashes of their own."""
    columns = [
        pa.array([1, 0, None]),
        pa.array([1.0, 0.0, -0.0, math.nan, None]),
        pa.array([True, False, None]),
        pa.array(["1", "", "\0", "\0\0", None]),
        pa.array([b"1", b"", None], pa.binary()),
        pa.array([[], [1], [None], None], pa.list_(pa.int64())),
        pa.array([[], None], pa.list_(pa.string())),
        pa.array([[], [("a", 1)]], pa.map_(pa.string(), pa.int64())),
    ]
    hashes = [h for column in columns for h in hash_rows({"c": column}).to_pylist()]
    assert len(set(hashes)) == len(hashes)


def test_nan_payloads_are_one_value() -> None:
    """All NaNs hash alike, whatever their payload."""
    bits = pa.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], pa.uint64()).view(pa.float64())
    assert len(set(hash_rows({"c": bits}).to_pylist())) == 1


def test_a_million_neighbours_do_not_collide() -> None:
    """A million rows that differ in few bits have a million hashes."""
    numbers = pa.array(range(1_000_000))
    hashes = hash_rows({"x": numbers, "y": pa.compute.divide(numbers, 1000)})
    assert len(pa.compute.unique(hashes)) == 1_000_000


GOLDEN_ROWS = ["881ad62beeef7a70f77f6f6a8f9e1fdf", "1db0c92703b9f4049a553e152ab7e833"]
GOLDEN_SCHEMA = "orcapod.schema.v1:4f28d96d63f0b6a55469fe699e0336fc"


def test_golden_vectors() -> None:
    """The hashes of these rows are pinned: another value here is another version of the encoding."""
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int64()),
            "f": pa.array([1.5, -0.0]),
            "s": pa.array(["orcapod", "x" * 200]),
            "l": pa.array([[1, 2], None], pa.list_(pa.int64())),
            "m": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        }
    )
    assert [h.hex() for h in hash_rows(columns_of(table)).to_pylist()] == GOLDEN_ROWS
    assert str(hash_schema(table.schema)) == GOLDEN_SCHEMA


def test_row_sets_ignore_order_and_count_repeats() -> None:
    """The digest of a row set ignores order and chunks, and counts a repeated row."""
    forward, backward, twice = RowSetDigest(), RowSetDigest(), RowSetDigest()
    forward.update({"x": pa.array([1, 2, 3])})
    backward.update({"x": pa.array([3, 2])})
    backward.update({"x": pa.array([1])})
    twice.update({"x": pa.array([1, 2, 3, 3])})
    assert forward.content_hash() == backward.content_hash() != twice.content_hash()


def test_lanes_join_and_split() -> None:
    """Splitting joined lanes gives them back, also from a slice."""
    hashes = hash_rows({"x": pa.array(range(10))})
    assert join_lanes(split_lanes(hashes.slice(3))).equals(hashes.slice(3))
