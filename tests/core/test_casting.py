"""Casts that keep every value, on arrays as other tools leave them: sliced, with values under nulls, in every encoding."""

from __future__ import annotations

import random
from decimal import Decimal
from itertools import accumulate
from typing import Annotated, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orcapod_dagster.core import converter
from orcapod_dagster.core.casting import one_array, recast, taken, unencoded
from orcapod_dagster.core.errors import InputError, UnsupportedTypeError
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.nulls import covered, forbidden_nulls


class Maker:
    """Makes valid arrays of random nested types whose null rows hide lists with items, maps with entries, and numbers."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def array(self, depth: int, rows: int) -> pa.Array:
        kinds = ["int", "text", "dictionary", "runs"] + ["list", "large", "view", "fixed", "map", "struct"] * (
            depth > 0
        )
        return getattr(self, f"make_{self.pick.choice(kinds)}")(depth - 1, rows)

    def hidden(self, rows: int) -> np.ndarray:
        return np.array([self.pick.random() < 0.3 for _ in range(rows)], bool)

    def make_int(self, _depth: int, rows: int) -> pa.Array:
        return pa.array([self.pick.randint(0, 3) for _ in range(rows)], pa.int64(), mask=self.hidden(rows))

    def make_text(self, _depth: int, rows: int) -> pa.Array:
        t = self.pick.choice([pa.string(), pa.large_string(), pa.string_view()])
        return pa.array([self.pick.choice(["", "a", "bb"]) for _ in range(rows)], t, mask=self.hidden(rows))

    def make_dictionary(self, _depth: int, rows: int) -> pa.Array:
        indices = pa.array([self.pick.randint(0, 2) for _ in range(rows)], pa.int8(), mask=self.hidden(rows))
        return pa.DictionaryArray.from_arrays(indices, pa.array(["a", None, "a"]))

    def offsets(self, rows: int, most: int) -> list[int]:
        return [0, *accumulate(self.pick.randint(0, most) for _ in range(rows))]

    def make_list(self, depth: int, rows: int) -> pa.Array:
        offsets = self.offsets(rows, 3)
        child = self.array(depth, offsets[-1])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), child, mask=pa.array(self.hidden(rows)))

    def make_large(self, depth: int, rows: int) -> pa.Array:
        offsets = self.offsets(rows, 3)
        child = self.array(depth, offsets[-1])
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), child, mask=pa.array(self.hidden(rows)))

    def make_fixed(self, depth: int, rows: int) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(self.array(depth, 2 * rows), 2, mask=pa.array(self.hidden(rows)))

    def make_map(self, depth: int, rows: int) -> pa.Array:
        offsets = self.offsets(rows, 2)
        keys = pa.array([f"k{number}" for number in range(offsets[-1])], pa.string())
        items = self.array(depth, offsets[-1])
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, mask=pa.array(self.hidden(rows)))

    def make_struct(self, depth: int, rows: int) -> pa.Array:
        children = [self.array(depth, rows), self.array(depth, rows)]
        return pa.StructArray.from_arrays(children, names=["x", "y"], mask=pa.array(self.hidden(rows)))

    def make_view(self, depth: int, rows: int) -> pa.Array:
        child = self.array(depth, 5)
        starts = [self.pick.randint(0, 5) for _ in range(rows)]
        sizes = [self.pick.randint(0, 5 - start) for start in starts]
        number = self.pick.choice([pa.int32(), pa.int64()])
        make = pa.ListViewArray if number == pa.int32() else pa.LargeListViewArray
        return make.from_arrays(
            pa.array(starts, number), pa.array(sizes, number), child, mask=pa.array(self.hidden(rows))
        )

    def make_runs(self, depth: int, rows: int) -> pa.Array:
        ends = sorted({rows, *(self.pick.randint(1, rows) for _ in range(2))}) if rows else []
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int16()), self.make_text(depth, len(ends)))


FLOATS = [pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("seed", range(300))
def test_what_lies_under_nulls_and_outside_of_slices_does_not_count(seed: int) -> None:
    """Plain types, hashes, conformed columns and Python values are those of a clean array with the same values."""
    maker = Maker(seed)
    array = maker.array(3, maker.pick.randint(1, 6))
    array.validate(full=True)
    start = maker.pick.randint(0, len(array))
    piece = array.slice(start, maker.pick.randint(0, len(array) - start))
    values = piece.to_pylist()
    plain = recast(piece, unencoded(piece.type))
    plain.validate(full=True)
    clean = pa.array(values, plain.type)
    assert plain.to_pylist() == values
    assert hash_rows({"c": piece}).equals(hash_rows({"c": clean}))
    hint = converter.field_type(pa.field("c", piece.type))
    conformed = converter.conform(piece, hint, name="c")
    conformed.validate(full=True)
    assert repr(converter.to_python(conformed, hint)) == repr(converter.to_python(clean, hint))
    assert covered(plain).to_pylist() == values
    assert forbidden_nulls(plain, nullable=True) is None


@pytest.mark.parametrize(
    ("array", "target"),
    [
        (pa.array([0.1]), pa.float32()),
        (pa.array([1e300]), pa.float32()),
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([2**63 - 1]), pa.float64()),
        (pa.array([2**64 - 1], pa.uint64()), pa.float64()),
        (pa.array([2**64 - 1], pa.uint64()), pa.int64()),
        (pa.array([1], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([[0.1]]), pa.list_(pa.float32())),
        (pa.array([[1, 2, 3]]), pa.list_(pa.int64(), 2)),
    ],
    ids=str,
)
def test_a_value_that_would_change_is_refused(array: pa.Array, target: pa.DataType) -> None:
    """No cast rounds, cuts or wraps."""
    with pytest.raises(pa.ArrowInvalid):
        recast(array, target)


@pytest.mark.parametrize(
    ("array", "target"),
    [
        (pa.array([2**60, -(2**62)]), pa.float64()),
        (pa.array([float("nan"), float("inf"), -0.0, 1.5, None]), pa.float32()),
        (pa.array([2**63], pa.uint64()), pa.float64()),
        (
            pa.array([{"a": [1, 2]}, None], pa.struct([("a", pa.list_(pa.int64()))])),
            pa.struct([("a", pa.list_(pa.int64(), 2))]),
        ),
    ],
    ids=str,
)
def test_a_value_that_fits_is_taken(array: pa.Array, target: pa.DataType) -> None:
    """A cast is refused for its values, not for its types: what fits exactly comes back the same."""
    assert repr(recast(recast(array, target), array.type).to_pylist()) == repr(array.to_pylist())


@pytest.mark.parametrize("source", [pa.decimal128(38, 0), pa.decimal128(23, 0), pa.decimal256(40, 0)])
@pytest.mark.parametrize("digits", range(19, 24))
def test_decimals_of_too_many_digits_are_refused(source: pa.DataType, digits: int) -> None:
    """A decimal that gains fraction digits and has no room for them is refused; Arrow's cast gives another number for some."""
    target = pa.decimal128(38, 18)
    for number in (Decimal("1" * digits), -Decimal("12345678901234567890123"[:digits]), Decimal("9" * digits)):
        array = pa.array([None, number], source)
        if digits <= 20:
            assert recast(array, target).to_pylist() == [None, number]
        else:
            with pytest.raises(pa.ArrowInvalid):
                recast(array, target)


def test_a_struct_with_a_name_twice_is_refused() -> None:
    """Neither of two equally named fields is taken for the other: by no cast, no conversion, no parameter."""
    one, two = pa.array([1]), pa.array([2])
    twice = pa.StructArray.from_arrays([one, two], names=["a", "a"])
    with pytest.raises(pa.ArrowInvalid):
        recast(twice, pa.struct([("a", pa.int32())]))
    with pytest.raises(UnsupportedTypeError, match="'a'"):
        converter.arrow_field("c", twice.type)
    with pytest.raises(InputError, match="column 'c'"):
        converter.conform(twice, TypedDict("One", {"a": int}), name="c")  # type: ignore[operator]
    assert converter.python_type(twice.type) is Any


ENCODED_NULLS = [
    pa.DictionaryArray.from_arrays(pa.array([1, 0, 0], pa.int8()), pa.array(["a", None])),
    pc.run_end_encode(pa.array([None, 1, 1])),
    pa.DictionaryArray.from_arrays(
        pa.array([1, 0, 0]), pa.array([{"n": 1}, {"n": None}], pa.struct([pa.field("n", pa.int64(), nullable=False)]))
    ),
]


@pytest.mark.parametrize("array", ENCODED_NULLS, ids=lambda array: str(array.type)[:40])
def test_nulls_among_encoded_values_are_found(array: pa.Array) -> None:
    """A null that only the dictionary, or the values of the runs, hold is a null of its rows; also inside of lists."""
    assert forbidden_nulls(array, nullable=False).to_pylist() == [True, False, False]
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3], pa.int32()), array, type=pa.list_(pa.field("element", array.type, nullable=False))
    )
    assert forbidden_nulls(lists, nullable=True).to_pylist() == [True, False]
    assert forbidden_nulls(array.slice(1), nullable=False) is None


@pytest.mark.parametrize(
    "chunks",
    [
        *([pa.array([number], t).dictionary_encode() for number in (0.0, -0.0, 1.5)] for t in FLOATS),
        [
            pa.array([f"{k}{n}" for n in range(100)]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
            for k in "ab"
        ],
        [pc.run_end_encode(pa.array([number] * 20_000), pa.int16()) for number in (1, 2)],
        [pa.DictionaryArray.from_arrays([0], pa.array([text], pa.string())) for text in ("a", None)],
    ],
    ids=lambda chunks: str(chunks[0].type),
)
def test_chunks_of_encoded_values_keep_them(chunks: list[pa.Array]) -> None:
    """Chunks with dictionaries of their own, or many runs, become one array of the same values, also -0.0 and float16."""
    values = [value for chunk in chunks for value in chunk.to_pylist()]
    one = one_array(pa.chunked_array(chunks))
    assert repr(one.to_pylist()) == repr(values)
    assert hash_rows({"c": pa.chunked_array(chunks)}).equals(hash_rows({"c": pa.array(values, one.type)}))


@pytest.mark.parametrize(
    "hint", [set[Annotated[str, pa.string_view()]], TypedDict("Text", {"text": Annotated[str, pa.string_view()]})]
)
def test_views_are_taken(hint: Any) -> None:
    """Sets and records hold views as any other type, though Arrow has no kernel to take them."""
    values = [{"b", "a"} if hint.__name__ == "set" else {"text": "a"}, None]
    assert converter.to_python(converter.to_array(values, hint | None, column="c"), hint | None) == values


@pytest.mark.parametrize("t", [pa.string_view(), pa.list_(pa.string_view()), pa.struct([("a", pa.binary_view())])])
def test_taken_keeps_the_type(t: pa.DataType) -> None:
    """Rows are taken in any order, null for null, in the type that they had."""
    values = {True: ["a", None, "b"], False: [["a"], None, []]}[t == pa.string_view()]
    values = [{"a": b"a"}, None, {"a": None}] if pa.types.is_struct(t) else values
    found = taken(pa.array(values, t), pa.array([2, None, 0]))
    assert found.type == t
    assert found.to_pylist() == [values[2], None, values[0]]
