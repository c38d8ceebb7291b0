"""Streams: joins on shared tags, conditions over tags, and what is refused of them."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pyarrow as pa
import pytest

from orcapod_dagster.core.errors import InputError
from orcapod_dagster.core.sources import MemorySource
from orcapod_dagster.core.streams import PacketStream, StreamInput

UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=1).bytes] * 2, pa.binary(16)))


def an_input(name: str, **columns: Any) -> StreamInput:
    return StreamInput(name, MemorySource(pa.table(columns)))


def joined(one: pa.Array, other: pa.Array) -> PacketStream:
    left = an_input("A", id=one, x=pa.array(range(len(one)), pa.int64()))
    return PacketStream.open([left, an_input("B", id=other, y=pa.array(range(len(other)), pa.int64()))], ["id"])


def rows_of(stream: PacketStream, columns: list[str]) -> list[dict[str, Any]]:
    return [row for batch in stream.scan(columns) for row in batch.to_pylist()]


@pytest.mark.parametrize("seed", range(100))
def test_a_join_has_every_pair_in_order(seed: int) -> None:
    """Rows with equal tags, also repeated ones, meet in each combination, in the order of the first input, then the second."""
    pick = random.Random(seed)
    one, other = ([pick.randint(0, 6) for _ in range(pick.randint(0, 12))] for _ in range(2))
    stream = joined(pa.array(one, pa.int64()), pa.array(other, pa.int32()))
    pairs = [(x, y) for x, left in enumerate(one) for y, right in enumerate(other) if left == right]
    assert [(row["x"], row["y"]) for row in rows_of(stream, ["x", "y"])] == pairs
    assert stream.unmatched == {
        "A": len(set(range(len(one))) - {x for x, _ in pairs}),
        "B": len(set(range(len(other))) - {y for _, y in pairs}),
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["a", "b"]), pa.array(["b", "c"]).dictionary_encode()),
        (pa.array(["a", "b"]), pa.array(["b", "c"], pa.string_view())),
        (pa.array([1, 2], pa.int8()), pa.array([2, 3], pa.uint32())),
        (pa.array([1, 2], pa.timestamp("ms", "Europe/Berlin")), pa.array([2000, 3000], pa.timestamp("us", "UTC"))),
    ],
)
def test_tags_of_one_meaning_match(one: pa.Array, other: pa.Array) -> None:
    """Widths, encodings and units of one meaning are no difference."""
    assert [(row["x"], row["y"]) for row in rows_of(joined(one, other), ["x", "y"])] == [(1, 0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1]), pa.array(["1"])),
        (pa.array([1]), pa.array([1.0])),
        (pa.array([1]), pa.array([1], pa.uint64())),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
        (pa.array([1], pa.timestamp("us")), pa.array([1000], pa.timestamp("ns"))),
    ],
)
def test_tags_whose_values_never_match_are_refused(one: pa.Array, other: pa.Array) -> None:
    """A join on tags of two meanings would have no rows, in silence; it says which tag has which types where."""
    with pytest.raises(InputError, match=r"'id' has type .* in A, but .* in B"):
        joined(one, other)


@pytest.mark.parametrize("tags", [UUIDS, pa.array([[1], [1]]), pa.array([{"a": 1}, {"a": 1}]), pa.array([1, 1])])
def test_repeated_tags_of_any_type_are_named(tags: pa.Array) -> None:
    """Tags that stand twice are refused with an example, also those of types that Arrow does not group by."""
    with pytest.raises(InputError, match=r"A: 1 tags stand in more than one row, e\.g\. \{'id': .*\} × 2"):
        PacketStream.open([an_input("A", id=tags)], ["id"]).refuse_unclear_tags()


@pytest.mark.parametrize(
    ("tags", "condition", "found"),
    [
        (pa.array([], pa.int64()), "id > 1", []),
        (pa.array([1, 200], pa.uint8()), "id > 1", [200]),
        (pa.array([1, 2**63], pa.uint64()), "id > 1", [2**63]),
        (pa.array([1, 2], pa.duration("us")), "id > 1", [2]),
        (pa.array([1, 2, 3]), "id > NULL", []),
        (pa.array([1, 2, 3]), 'id > 1) UNION ALL SELECT "__row" FROM tags WHERE (true', [1, 2, 3]),
    ],
)
def test_a_condition_chooses_rows(tags: pa.Array, condition: str, found: list[int]) -> None:
    """Conditions work over tags of every type that Delta stores, over no rows, and give no row twice."""
    stream = PacketStream.open([an_input("A", id=tags)], ["id"]).where(condition)
    assert [
        batch.column(0).cast(pa.uint64() if tags.type == pa.uint64() else pa.int64()).to_pylist()
        for batch in stream.scan(["id"])
    ] == ([found] if found else [])


def test_a_condition_that_is_none_is_refused() -> None:
    """What is no SQL over the tags is refused, with the condition, also where there are no rows."""
    for rows in ([], [1]):
        with pytest.raises(InputError, match=r"rows='nope = 3' is no SQL condition over the tag columns \['id'\]"):
            PacketStream.open([an_input("A", id=pa.array(rows, pa.int64()))], ["id"]).where("nope = 3")
