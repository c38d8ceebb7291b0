"""Arrow's compute functions, imported when the first of them is used.

They cost 35 ms to import, half of what the whole package costs, and loading definitions needs none of them.
pyarrow makes them at run time, so no type checker knows them.
"""

from __future__ import annotations

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
