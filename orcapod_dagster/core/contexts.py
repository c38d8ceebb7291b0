"""Contexts: variation and execution context, which many records share, as one row that is broadcast over them.

`CONTEXT_HASH` marks the records that share a context, so of a stored context one row is read, however many records have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from orcapod_dagster.core import columns as names
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.converter import arrow_schema
from orcapod_dagster.core.datagrams import Datagram
from orcapod_dagster.core.execution_data import EXECUTION_DATA_SCHEMA
from orcapod_dagster.core.hashing import hash_rows
from orcapod_dagster.core.sources import TableSource
from orcapod_dagster.core.types import Schema

CONTEXT_HASH: Final = "__pf_context_hash"
VARIATION_SCHEMA: Final = Schema(
    dict.fromkeys(("function_name", "function_signature_hash", "function_content_hash", "git_hash"), str)
)
SLICE_ROWS: Final = 16_384


def _prefixed(schema: Schema, prefix: str) -> list[pa.Field]:
    return [pa.field(prefix + field.name, field.type, nullable=False) for field in arrow_schema(schema)]


ENVIRONMENT_FIELD: Final = pa.field(names.ENVIRONMENT_HASH, pa.string())
"""Null in records from before there was such a column, and where nobody told."""

CONTEXT_FIELDS: Final[tuple[pa.Field, ...]] = (
    *_prefixed(VARIATION_SCHEMA, names.VARIATION_PREFIX),
    *_prefixed(EXECUTION_DATA_SCHEMA, names.EXECUTION_PREFIX),
)
CONTEXT_NAMES: Final = frozenset(field.name for field in CONTEXT_FIELDS)


class Context:
    """Variation and execution context that a set of rows shares, ready to be broadcast.

    Args:
        context_hash: content hash of the two datagrams, 16 bytes.
        row: one row with the columns `CONTEXT_FIELDS`.
        environment: hash of the environment that the function's code refers to; None where nobody told.
    """

    def __init__(self, context_hash: bytes, row: pa.Table, environment: str | None = None) -> None:
        self.context_hash = context_hash
        self.environment = environment
        self._tile = row.combine_chunks().to_batches()[0]

    @classmethod
    def of(cls, variation: Datagram, execution: Datagram, environment: str | None = None) -> Context:
        """Make the context of two datagrams; asks each for its Arrow table and adds the prefixes."""
        columns: dict[str, pa.ChunkedArray] = {}
        for datagram, prefix in ((variation, names.VARIATION_PREFIX), (execution, names.EXECUTION_PREFIX)):
            table = datagram.as_table()
            columns |= {prefix + name: table[name] for name in table.column_names}
        row = _context_columns(pa.table(columns))
        digest = hash_rows({name: row[name] for name in row.column_names})[0].as_py()
        return cls(digest, row, environment)

    @classmethod
    def stored(cls, context_hash: bytes, row: pa.Table) -> Context:
        """Make the context of a stored row's context columns."""
        return cls(context_hash, _context_columns(row))

    def environments(self, count: int) -> pa.Array:
        """Return the column `ENVIRONMENT_FIELD` for so many rows."""
        return pa.repeat(pa.scalar(self.environment, ENVIRONMENT_FIELD.type), count)

    def rows(self, count: int) -> pa.RecordBatch:
        """Return the context columns for up to `SLICE_ROWS` rows: a slice of equal rows, which are made when so many are asked for."""
        assert count <= SLICE_ROWS
        tile = self._tile  # by name, for another thread may put a smaller one in its place
        if tile.num_rows < count:
            # Most contexts of a table that grows day by day have few rows; one that has many makes them in a few steps.
            self._tile = tile = tile.take(pa.repeat(0, min(SLICE_ROWS, 4 * count)))
        return tile.slice(0, count)


def _context_columns(row: pa.Table) -> pa.Table:
    schema = pa.schema(CONTEXT_FIELDS)
    return row.select(schema.names).cast(schema)


class ContextReader:
    """Finds the context of stored records by its hash; each is read once.

    Args:
        source: the records.
    """

    def __init__(self, source: TableSource) -> None:
        self._source = source
        self._known: dict[bytes, Context] = {}

    def beside(self, batch: pa.RecordBatch, positions: pa.Array, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Put the context columns beside records, run by run of equal contexts, without copying them.

        Args:
            batch: records with their `CONTEXT_HASH`.
            positions: where each of them stands in the source.
            schema: what to yield; its columns are those of the batch and `CONTEXT_FIELDS`.
        """
        runs = pc.run_end_encode(batch.column(CONTEXT_HASH))
        start = 0
        for value, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            context = self._read(value, positions.slice(start, 1))
            while start < end:
                count = min(end - start, SLICE_ROWS)
                rows, beside = batch.slice(start, count), context.rows(count)
                arrays = [beside.column(f.name) if f.name in CONTEXT_NAMES else rows.column(f.name) for f in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                start += count

    def beside_table(self, table: pa.Table, positions: pa.Array, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """As `beside`, for a table."""
        start = 0
        for batch in table.combine_chunks().to_batches():
            yield from self.beside(batch, positions.slice(start, batch.num_rows), schema)
            start += batch.num_rows

    def _read(self, context_hash: bytes, position: pa.Array) -> Context:
        if context_hash not in self._known:
            row = self._source.take(position, [field.name for field in CONTEXT_FIELDS])
            self._known[context_hash] = Context.stored(context_hash, row)
        return self._known[context_hash]
