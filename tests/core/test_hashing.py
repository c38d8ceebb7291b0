"""Content hashes: against a slow second implementation of docs/hashing.md, and against golden vectors in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import reference_hash as reference
from hypothesis import given, settings, strategies as st
from make_golden_hashes import PATH, from_json

from orcapod_dagster.core import converter
from orcapod_dagster.core.errors import UnsupportedTypeError
from orcapod_dagster.core.hashing import RowSetDigest, hash_rows, hash_schema, join_lanes, split_lanes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=160)
_INT64 = st.integers(-(2**63), 2**63 - 1)
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(reference.NAMES, _INT64),
    "null": st.none(),
    "bool": st.booleans(),
    "uint64": st.integers(0, 2**64 - 1),
    "double": st.floats(),
    "string": TEXT,
    "binary": st.binary(max_size=160),
    "date32[day]": st.integers(-(2**31), 2**31 - 1),
    "time64[us]": st.integers(0, 86_399_999_999),
    "time64[ns]": st.integers(0, 86_399_999_999_999),
}
KINDS = st.recursive(
    st.sampled_from([*LEAVES, {"decimal": 18}, {"decimal": 0}]),
    lambda inner: (
        inner.map(lambda t: {"list": t})
        | st.tuples(st.sampled_from(["string", "int64"]), inner).map(lambda kv: {"map": list(kv)})
        | st.dictionaries(st.text('ab<>:,"\\', min_size=1, max_size=4), inner, min_size=1, max_size=3).map(
            lambda f: {"struct": f}
        )
    ),
    max_leaves=5,
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, str):
        return st.none() | LEAVES[kind]
    ((name, inner),) = kind.items()
    if name == "decimal":
        return st.none() | st.integers(-(10**38) + 1, 10**38 - 1)
    if name == "list":
        return st.none() | st.lists(values_of(inner), max_size=4)
    if name == "map":
        return st.none() | st.dictionaries(LEAVES[inner[0]], values_of(inner[1]), max_size=3).map(
            lambda d: list(d.items())
        )
    return st.none() | st.fixed_dictionaries({n: values_of(t) for n, t in inner.items()})


@st.composite
def tables(draw: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    kinds = draw(st.dictionaries(st.text(max_size=5).filter(lambda n: n.isprintable()), KINDS, min_size=1, max_size=3))
    row = st.fixed_dictionaries({name: values_of(kind) for name, kind in kinds.items()})
    return kinds, draw(st.lists(row, min_size=1, max_size=6))


def hexes(hashes: pa.Array) -> list[str]:
    return [one.hex() for one in hashes.to_pylist()]


@settings(max_examples=150, deadline=None)
@given(tables())
def test_equals_the_specification(table: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """The vectorised hash of any row of any nested types equals the slow implementation of the specification."""
    kinds, rows = table
    assert hash_rows(reference.table_of(rows, kinds)).to_pylist() == [reference.hash_row(row, kinds) for row in rows]


@settings(max_examples=80, deadline=None)
@given(tables(), st.integers(0, 6), st.randoms())
def test_ignores_layout(table: tuple[dict[str, Any], list[dict[str, Any]]], cut: int, random: Any) -> None:
    """Slicing, chunking and column order do not change a row's hash."""
    kinds, rows = table
    arrays = reference.table_of(rows, kinds)
    whole = hash_rows(arrays)
    cut = min(cut, len(rows))
    names = list(arrays)
    random.shuffle(names)
    chunked = {n: pa.chunked_array([arrays[n].slice(0, cut), arrays[n].slice(cut)]) for n in names}
    assert hash_rows(chunked).equals(whole)
    assert hash_rows({n: a.slice(cut) for n, a in arrays.items()}).equals(whole.slice(cut))


# ---------------------------------------------------------------------------- golden vectors


@pytest.mark.parametrize("case", json.loads(PATH.read_text()), ids=lambda case: str(case["kinds"])[:40])
def test_golden_vectors(case: dict[str, Any]) -> None:
    """The hashes of these rows are pinned: another value here is another version of the encoding."""
    rows = [{n: from_json(v) for n, v in row.items()} for row in case["rows"]]
    arrays = reference.table_of(rows, case["kinds"])
    assert hexes(hash_rows(arrays)) == case["packet"]
    assert [reference.hash_row(row, case["kinds"]).hex() for row in rows] == case["packet"]
    digest = RowSetDigest()
    digest.update(arrays)
    assert digest.content_hash().digest.hex() == case["rows_hash"]


def test_golden_vectors_in_another_process() -> None:
    """The hashes do not depend on the process or its PYTHONHASHSEED."""
    program = (
        "import json, sys; import reference_hash as r; from make_golden_hashes import PATH, from_json\n"
        "from orcapod_dagster.core.hashing import hash_rows\n"
        "for case in json.loads(PATH.read_text()):\n"
        "    rows = [{n: from_json(v) for n, v in row.items()} for row in case['rows']]\n"
        "    assert [h.hex() for h in hash_rows(r.table_of(rows, case['kinds'])).to_pylist()] == case['packet']\n"
        "print('same')"
    )
    root = Path(__file__).parents[1]
    for seed in ("1", "4711"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(root), str(root.parent)]),
        }
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
        )
        assert done.stdout == "same\n", done.stderr


def test_golden_schema_hash() -> None:
    """The hash of a schema is pinned as well."""
    schema = pa.schema(
        [
            pa.field("i", pa.int64(), nullable=False),
            ("l", pa.list_(pa.float32())),
            ("m", pa.map_(pa.string(), pa.int8())),
        ]
    )
    assert str(hash_schema(schema)) == GOLDEN_SCHEMA


GOLDEN_SCHEMA = "orcapod.schema.v1:1425843baf7aec4471e3c0d6cabcd0b8"


# ---------------------------------------------------------------------------- what is equal, what differs


@pytest.mark.parametrize(
    ("column", "other"),
    [
        (pa.array([1, None, 3], pa.int32()), pa.array([1, None, 3], pa.int64())),
        (pa.array([1, 2, 3], pa.uint8()), pa.array([1, 2, 3], pa.int64())),
        (pa.array(["a", None, "c"], pa.large_string()), pa.array(["a", None, "c"])),
        (pa.array(["a", None, "c"], pa.string_view()), pa.array(["a", None, "c"])),
        (pa.array([b"a", None], pa.binary_view()), pa.array([b"a", None])),
        (pa.array([b"a", None], pa.binary(1)), pa.array([b"a", None])),
        (pa.array(["a", None, "a"]).dictionary_encode(), pa.array(["a", None, "a"])),
        (pc.run_end_encode(pa.array([1, 1, None])), pa.array([1, 1, None])),
        (pa.array([[1], None, []], pa.large_list(pa.int32())), pa.array([[1], None, []], pa.list_(pa.int64()))),
        (pa.array([[1], None, []], pa.list_view(pa.int32())), pa.array([[1], None, []], pa.list_(pa.int64()))),
        (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), pa.array([[1, 2], None])),
        (pa.array([[1]]).cast(pa.list_(pa.field("x", pa.int64(), nullable=False))), pa.array([[1]])),
        (pa.array([1.5, None, 2.0], pa.float32()), pa.array([1.5, None, 2.0])),
        (pa.array([1.5, None], pa.float16()), pa.array([1.5, None])),
        (pa.array([1, 2], pa.timestamp("s", "Europe/Berlin")), pa.array([10**6, 2 * 10**6], pa.timestamp("us", "UTC"))),
        (pa.array([86_400_000], pa.date64()), pa.array([1], pa.date32())),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16], pa.binary(16))), pa.array([b"x" * 16])),
    ],
    ids=lambda array: str(array.type),
)  # fmt: skip
def test_encodings_of_one_meaning_hash_alike(column: pa.Array, other: pa.Array) -> None:
    """Narrow, large, view, dictionary and run-end forms of the same values have the same hash, nested ones too."""
    assert hash_rows({"c": column}).equals(hash_rows({"c": other}))
    if not pa.types.is_run_end_encoded(column.type):  # cannot lie in a struct
        nested = [pa.StructArray.from_arrays([one], names=["x"]) for one in (column, other)]
        assert hash_rows({"c": nested[0]}).equals(hash_rows({"c": nested[1]}))


def test_different_values_differ() -> None:
    """1, 1.0, True, "1", b"1", None, "", [], {}, 0.0 and -0.0 all have hashes of their own (docs/hashing.md has the table)."""
    columns = [
        pa.array([1, 0, None]),
        pa.array([1.0, 0.0, -0.0, float("nan"), None]),
        pa.array([True, False, None]),
        pa.array(["1", "", "\0", "\0\0", "a", "a\0", None]),
        pa.array([b"1", b"", b"\0", None], pa.binary()),
        pa.array([[], [1], [1, 1], [None], None], pa.list_(pa.int64())),
        pa.array([[], None], pa.list_(pa.string())),
        pa.array([[], [("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([{"a": None}, None], pa.struct([("a", pa.int64())])),
        pa.nulls(1),
    ]
    hashes = [h for column in columns for h in hash_rows({"c": column}).to_pylist()]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.slow
def test_many_short_strings_and_one_long_in_lists() -> None:
    """Lists hold more strings than could be padded to the longest of them in one Arrow array; their hashes are those of each row."""
    short = pa.repeat(pa.scalar("token"), 2**24)
    items = pa.concat_arrays([short, pa.array(["x" * 128])])
    offsets = pa.array([0, 2, 2**24, 2**24 + 1], pa.int32())
    hashes = hash_rows({"c": pa.ListArray.from_arrays(offsets, items)})
    assert hashes.take(pa.array([0, 2])).equals(hash_rows({"c": pa.array([["token"] * 2, ["x" * 128]])}))


def test_nan_payloads_are_one_value() -> None:
    """All NaNs hash alike, whatever their payload."""
    bits = pa.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], pa.uint64()).view(pa.float64())
    assert len(set(hash_rows({"c": bits}).to_pylist())) == 1


def test_numpy_arrays_differ_by_shape_and_values_not_by_width() -> None:
    """Arrays of other widths and the same bytes differ, by their values; the same values in other widths do not; shapes do."""

    def one(array: np.ndarray[Any, Any]) -> bytes:
        hint = np.ndarray[tuple[Any, ...], np.dtype[array.dtype.type]]
        return hash_rows({"c": converter.to_array([array], hint, column="c")})[0].as_py()

    same_bytes = np.arange(8, dtype=np.int32)
    assert one(same_bytes) != one(same_bytes.view(np.int64))
    assert one(same_bytes) == one(same_bytes.astype(np.int64))
    assert one(same_bytes) != one(same_bytes.reshape(2, 4))
    assert one(same_bytes) != one(same_bytes.astype(np.float64))


def test_ten_levels_down() -> None:
    """A difference ten levels down makes another hash, and so does one level more."""

    def nested(leaf: Any, depth: int) -> pa.Array:
        array = pa.array([leaf])
        for level in range(depth):
            array = (
                pa.StructArray.from_arrays([array], names=["x"])
                if level % 2
                else pa.ListArray.from_arrays([0, 1], array)
            )
        return array

    hashes = [hash_rows({"c": nested(leaf, depth)})[0].as_py() for leaf in (1, 2, 1.0, "1") for depth in (10, 11)]
    assert len(set(hashes)) == len(hashes)


def test_sets_hash_independent_of_order_and_repeats() -> None:
    """A set parameter gets one hash from a column of lists in any order, and the same from a Python set."""
    forward = converter.conform(pa.array([[1, 2, 3], None]), set[int], name="c")
    backward = converter.conform(pa.array([[3, 1, 2, 3], None]), set[int], name="c")
    python = converter.to_array([{2, 3, 1}, None], set[int] | None, column="c")
    assert hash_rows({"c": forward}).equals(hash_rows({"c": backward}))
    assert hash_rows({"c": forward}).equals(hash_rows({"c": python}))


def test_a_million_generated_pairs_do_not_collide() -> None:
    """10**6 pairs of rows that differ in one small thing each, of every kind of value, have two hashes each, all distinct."""
    rows = 125_000
    numbers = pa.array(range(rows))
    text = numbers.cast(pa.string())
    halves = pc.divide(numbers, 2)
    lists = pa.ListArray.from_arrays(pa.array(range(0, 2 * rows + 1, 2), pa.int32()), pa.array(range(2 * rows)))
    swapped = pa.ListArray.from_arrays(lists.offsets, pc.bit_wise_xor(lists.values, 1))
    pairs = [
        ({"x": numbers, "y": halves}, {"x": halves, "y": numbers}),
        ({"x": numbers.cast(pa.float64())}, {"x": pc.add(numbers.cast(pa.float64()), 2.0**-30)}),
        ({"s": text}, {"s": pc.binary_join_element_wise(text, "\0", "")}),
        ({"s": pc.utf8_lpad(text, 140, "a")}, {"s": pc.utf8_lpad(text, 141, "a")}),
        ({"l": lists}, {"l": swapped}),
        ({"t": pa.StructArray.from_arrays([numbers, text], names=["a", "b"])}, {"t": pa.StructArray.from_arrays([numbers, text], names=["b", "a"])}),
        ({"z": numbers.cast(pa.timestamp("us"))}, {"z": numbers.cast(pa.timestamp("us", "UTC"))}),
        ({"n": pc.if_else(pc.equal(pc.bit_wise_and(numbers, 1), 0), numbers, None), "m": numbers}, {"n": numbers, "m": pc.add(numbers, rows)}),
    ]  # fmt: skip
    hashes = [hash_rows(side) for pair in pairs for side in pair]
    together = pa.concat_arrays(hashes)
    assert len(together) == 2 * 10**6
    expected = len(together) - _equal_rows()
    assert len(pc.unique(together)) == expected


def _equal_rows() -> int:
    """Return how many rows above are the same row twice: x = y = 0 swapped."""
    return 1


TWICE = pa.struct([pa.field("a", pa.int64()), pa.field("a", pa.int64())])


@pytest.mark.parametrize(
    "t", [pa.month_day_nano_interval(), pa.dense_union([pa.field("a", pa.int64())]), pa.list_(TWICE)], ids=str
)
def test_types_without_a_hash_are_refused(t: pa.DataType) -> None:
    """A type without a canonical encoding is refused with its column's name."""
    with pytest.raises(UnsupportedTypeError, match="column 'c'"):
        hash_rows(
            {
                "c": pa.array([], t)
                if not pa.types.is_union(t)
                else pa.UnionArray.from_dense(
                    pa.array([], pa.int8()), pa.array([], pa.int32()), [pa.array([], pa.int64())]
                )
            }
        )


# ---------------------------------------------------------------------------- schemas and row sets


def test_schemas() -> None:
    """A schema's hash counts names, types and nullability at any depth, not order or encodings."""
    base = pa.schema([pa.field("a", pa.int64(), nullable=False), ("b", pa.list_(pa.string()))])
    same = pa.schema(
        [("b", pa.large_list(pa.dictionary(pa.int8(), pa.large_string()))), pa.field("a", pa.int64(), nullable=False)]
    )
    others = [
        base.set(0, pa.field("a", pa.int64())),
        base.set(0, pa.field("a", pa.int32(), nullable=False)),
        base.set(0, pa.field("A", pa.int64(), nullable=False)),
        base.set(1, pa.field("b", pa.list_(pa.field("element", pa.string(), nullable=False)))),
        base.set(1, pa.field("b", pa.list_(pa.binary()))),
        base.set(1, pa.field("b", pa.list_(pa.string(), 2))),
    ]
    assert hash_schema(base) == hash_schema(same)
    assert len({hash_schema(one) for one in (base, *others)}) == 1 + len(others)


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
