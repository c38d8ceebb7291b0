"""Tags as text: the tags of rows as maps, for tables that hold packets of assets with whatever tags."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from orcapod_dagster.core.arrow import count_up, pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.streams import PacketStream

TAG_TYPE: Final = pa.map_(pa.string(), pa.string())


def tags_as_text(stream: PacketStream, rows: pa.Array) -> pa.Array:
    """Return the tags of some rows as maps: name of the tag → value as text, null where it is null."""
    tags = list(stream.tag_columns)
    if not tags:
        return pa.array([[]] * len(rows), TAG_TYPE)
    found = pa.Table.from_batches(stream.narrow(rows).scan(tags))
    values = pa.concat_arrays([_as_text(found[name]) for name in tags])
    # Column after column stands there; the map wants packet after packet.
    number = count_up(len(rows) * len(tags))
    packet = pc.divide(number, len(tags))
    column = pc.subtract(number, pc.multiply(packet, len(tags)))
    items = values.take(pc.add(pc.multiply(column, len(rows)), packet))
    keys = pa.array(tags, pa.string()).take(column)
    offsets = pc.multiply(count_up(len(rows) + 1), len(tags)).cast(pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items)


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    try:
        return one_array(column.cast(pa.string()))
    except pa.ArrowException:  # a nested type, or bytes
        return pa.array(
            [None if value is None else _printable(str(value)) for value in column.to_pylist()], pa.string()
        )


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
