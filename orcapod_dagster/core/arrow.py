"""Arrow's compute functions, imported when the first of them is used.

They cost 35 ms to import, half of what the whole package costs, and loading definitions needs none of them.
pyarrow makes them at run time, so no type checker knows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa


class _Compute:
    def __getattr__(self, name: str) -> Any:
        import pyarrow.compute

        function = getattr(pyarrow.compute, name)
        setattr(self, name, function)
        return function


pc: Any = _Compute()


def size_of(data: pa.Array | pa.RecordBatch | pa.Table) -> int:
    """Return how many bytes the values take."""
    try:
        return data.nbytes
    except pa.ArrowTypeError:  # pyarrow 21 has no sizes of views; those of the whole buffers are more, never less
        return data.get_total_buffer_size()


def count_up(count: int) -> pa.Array:
    """Return 0, 1, 2, … as `int64`."""
    ones = pa.repeat(pa.scalar(1, pa.int64()), count)
    return pc.subtract(pc.cumulative_sum(ones), 1)


def first_of_each(keys: pa.Array) -> pa.Array:
    """Return per key whether it stands there for the first time."""
    first = pc.index_in(keys, value_set=keys)
    return pc.equal(first, count_up(len(keys)).cast(first.type))


def rows_among(batches: Iterable[pa.RecordBatch], schema: pa.Schema, values: pa.Array) -> pa.Table:
    """Return the rows whose first column is one of many values, in their order.

    As many rows as there are values are looked at together, for each look makes a set of all values.
    """
    found: list[pa.Table] = [schema.empty_table()]
    waiting: list[pa.RecordBatch] = []
    wanted = values.cast(schema.field(0).type)

    def look() -> None:
        table = pa.Table.from_batches(waiting, schema=schema)
        found.append(table.filter(pc.is_in(table.column(0), value_set=wanted)))
        waiting.clear()

    for batch in batches:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= len(values):
            look()
    look()
    return pa.concat_tables(found)
