"""Rows of generators: a record holds all rows of a packet in lists, and a table has a row for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from orcapod_dagster.core.arrow import count_up, pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.errors import StorageError

_ROWS: Final = 65_536


class Exploded(NamedTuple):
    """Rows of packets: the columns that were asked for, and per row which packet of the batch it is of."""

    rows: pa.RecordBatch
    packets: pa.Array


def explode(
    batch: pa.RecordBatch, lists: Sequence[str], index: str, columns: Sequence[str], rows: int = _ROWS
) -> Iterator[Exploded]:
    """Yield the rows of packets, in the order of the packets and of their rows.

    Args:
        batch: one row per packet; the columns `lists` hold one value per row of the packet.
        lists: at least one; of one packet, all are of equal length.
        index: name of the column that counts the rows of a packet from 0 (`int64`, not null).
        columns: the columns to give, in their order; those that are no list are repeated for each row of a packet.
        rows: about how many to give at once; those of one packet stay together.

    Raises:
        StorageError: the lists of a packet are of different lengths.
    """
    lengths = one_array(pc.list_value_length(batch.column(lists[0]))).cast(pa.int64())
    for name in lists[1:]:
        if not one_array(pc.list_value_length(batch.column(name))).cast(pa.int64()).equals(lengths):
            raise StorageError(
                f"A stored result holds other numbers of values in {lists[0]!r} and {name!r}; run verify."
            )
    for first, end in _spans(lengths, rows):
        part, own = batch.slice(first, end - first), lengths.slice(first, end - first)
        packets = one_array(pc.list_parent_indices(part.column(lists[0]))).cast(pa.int64())
        starts = pc.subtract(pc.cumulative_sum(own), own)
        numbers = one_array(pc.subtract(count_up(len(packets)), starts.take(packets)))
        arrays: list[pa.Array] = []
        for name in columns:
            if name == index:
                arrays.append(numbers)
            elif name in lists:
                arrays.append(one_array(pc.list_flatten(part.column(name))))
            else:
                arrays.append(one_array(part.column(name).take(packets)))
        schema = pa.schema([_field(batch.schema, name, lists, index) for name in columns])
        yield Exploded(pa.RecordBatch.from_arrays(arrays, schema=schema), pc.add(packets, first))


def _field(schema: pa.Schema, name: str, lists: Sequence[str], index: str) -> pa.Field:
    if name == index:
        return pa.field(index, pa.int64(), nullable=False)
    field = schema.field(name)
    return field.type.value_field.with_name(name) if name in lists else field


def _spans(lengths: pa.Array, rows: int) -> Iterator[tuple[int, int]]:
    """Yield packets, from one up to another (exclusive), that have about so many rows together."""
    if (pc.sum(lengths).as_py() or 0) <= rows:
        yield 0, len(lengths)
        return
    first = total = 0
    for place, length in enumerate(lengths.to_pylist()):
        if total and total + length > rows:
            yield first, place
            first, total = place, 0
        total += length
    yield first, len(lengths)
