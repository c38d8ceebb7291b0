"""JoinedSource: several tables of the same columns as one, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa

from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import one_array
from orcapod_dagster.core.sources import TableSource


class JoinedSource(TableSource):
    """Tables one after another; a position counts on from table to table.

    Args:
        parts: one or more tables of one schema.
    """

    def __init__(self, parts: Sequence[TableSource]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(part.num_rows for part in self.parts))

    @property
    def schema(self) -> pa.Schema:
        """The schema of the first table."""
        return self.parts[0].schema

    @property
    def num_rows(self) -> int:
        """Number of rows of all tables."""
        return self._ends[-1]

    @property
    def description(self) -> str:
        """What the tables are."""
        return " and ".join(part.description for part in self.parts)

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Return the mean of the widest table."""
        return max(part.row_bytes(columns) for part in self.parts)

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows table after table."""
        for part in self.parts:
            yield from part.scan(columns)

    def take(self, positions: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Ask each table for its own rows, and put them into the order that was asked for."""
        tables: list[pa.Table] = []
        places: list[pa.Array] = []
        for part, end in zip(self.parts, self._ends, strict=True):
            begin = end - part.num_rows
            mine = pc.and_(pc.greater_equal(positions, begin), pc.less(positions, end))
            place = pc.indices_nonzero(mine)
            if len(place) == len(positions):
                return part.take(pc.subtract(positions, begin), columns)
            if len(place):
                tables.append(part.take(pc.subtract(positions.take(place), begin), columns))
                places.append(place)
        if not tables:
            return self.parts[0].take(positions, columns)
        return pa.concat_tables(tables).take(pc.sort_indices(pa.concat_arrays(places)))

    def find(self, column: str, keys: pa.Array, columns: Sequence[str]) -> tuple[pa.Array, pa.Table]:
        """Find rows in each table by its own index."""
        positions: list[pa.Array] = []
        tables: list[pa.Table] = []
        for part, end in zip(self.parts, self._ends, strict=True):
            found, rows = part.find(column, keys, columns)
            positions.append(one_array(pc.add(found, end - part.num_rows)))
            tables.append(rows)
        return pa.concat_arrays(positions), pa.concat_tables(tables)
