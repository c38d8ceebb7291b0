"""TableSource: rows of a table that can be read again and again, in one order, at one version."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow import fs

from orcapod_dagster.core import delta
from orcapod_dagster.core.arrow import pc
from orcapod_dagster.core.casting import unencoded, unencoded_schema
from orcapod_dagster.core.paths import local_path
from orcapod_dagster.core.predicates import Predicate
from orcapod_dagster.core.storage_types import from_storage, table_from_storage

_SCAN_ROWS = 65_536
_SCAN_BYTES = 64 * 1024 * 1024


class TableSource(ABC):
    """A pinned, re-readable table.

    Note to implementers: every `scan` yields the same rows in the same order; `take` speaks of positions in it.
    """

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """All columns, in plain types (`casting.unencoded`): Arrow has no kernels for views, and few for dictionaries."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Number of rows."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What this is, for messages ("asset flights, version 3")."""

    @abstractmethod
    def row_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes a row of these columns takes in memory: the mean of the widest part of the table."""

    @abstractmethod
    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows, only these columns, in this order of columns."""

    def scan_fields(self, column: str, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield fields of a struct column as columns, row by row; those of a null are null. Reads no more where it can."""
        for batch in self.scan([column]):
            parts = dict(zip([f.name for f in batch.column(0).type.fields], batch.column(0).flatten(), strict=True))
            yield pa.RecordBatch.from_arrays([parts[name] for name in fields], list(fields))

    @abstractmethod
    def take(self, positions: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Return the rows at these positions (`int64`, in scan order), in the order of `positions`."""


class MemorySource(TableSource):
    """A table in memory."""

    def __init__(self, table: pa.Table, description: str = "table in memory") -> None:
        plain = unencoded_schema(table.schema)
        self._table = table if plain == table.schema else table_from_storage(table, plain)
        self._description = description

    @property
    def schema(self) -> pa.Schema:
        """The table's schema."""
        return self._table.schema

    @property
    def written_schema(self) -> pa.Schema:
        """The same: what is in memory was not written."""
        return self._table.schema

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self._table.num_rows

    @property
    def description(self) -> str:
        """What this is."""
        return self._description

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Return the mean over the table."""
        return self._table.select(list(columns)).nbytes // max(1, self.num_rows)

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield slices of the table."""
        yield from self._table.select(list(columns)).to_batches(max_chunksize=_SCAN_ROWS)

    def take(self, positions: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Take rows of the table."""
        return self._table.select(list(columns)).take(positions)


class DeltaSource(TableSource):
    """One version of a Delta table, or the part of it that fulfils a predicate.

    Args:
        table: at the version to read.
        where: which rows; default all.
        description: for messages.
    """

    def __init__(self, table: DeltaTable, where: Predicate | None = None, description: str = "") -> None:
        self.table = table
        self._where = where
        self._description = description or table.table_uri
        self._version = table.version()
        self._schema = unencoded_schema(self.written_schema)
        self._dataset = delta.dataset(table)
        self._fragments: list[Any] = delta.fragments_with(self._dataset, where)

    @property
    def schema(self) -> pa.Schema:
        """All columns, in plain types."""
        return self._schema

    @cached_property
    def written_schema(self) -> pa.Schema:
        """The columns in the types that were written, for readers outside of the engine."""
        return delta.table_schema(self.table)

    def dataset(self, columns: Sequence[str]) -> Any | None:
        """Return columns as a pyarrow dataset of the files, in the types that were written; `None` where it would not be lazy.

        Nothing but the predicate's columns is read, and those only of files that may hold its rows. It is `None` where Delta
        holds a column in another type or it is encoded (a dataset cannot filter by either), and where files hold rows of other
        partitions too, but the predicate's columns are not among `columns`.
        """
        held = self._dataset.schema
        schema = pa.schema([self.written_schema.field(c) for c in columns], metadata=self.written_schema.metadata)
        if any(unencoded(f.type) != held.field(f.name).type or _is_encoded(f.type) for f in schema):
            return None
        partly = [f for f, rows in zip(self._fragments, self._rows_of, strict=True) if rows is not None and len(rows)]
        wanted = () if self._where is None or not partly else self._where.columns()
        if not set(wanted) <= set(columns) or any(
            _is_encoded(f.physical_schema.field(c).type) for f in partly for c in wanted
        ):
            return None
        found = self._lazy_dataset(schema)
        return found.filter(self._where.expression(held)) if self._where is not None and partly else found

    def _lazy_dataset(self, schema: pa.Schema) -> Any:
        """Return the files that hold wanted rows as a dataset.

        Local ones are read without Python: a scan that is broken off goes on in threads, which must not need Python when
        the process ends.
        """
        import pyarrow.dataset as ds  # imports pandas, where that is installed

        data, folder = self._dataset, local_path(self.table.table_uri)
        files = [f for f, rows in zip(self._fragments, self._rows_of, strict=True) if rows is None or len(rows)]
        if folder is None:
            return ds.FileSystemDataset(files, schema, data.format, filesystem=data.filesystem)
        local = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        files = [
            data.format.make_fragment(delta.decoded(f.path), local, partition_expression=f.partition_expression)
            for f in files
        ]
        return ds.FileSystemDataset(files, schema, data.format, filesystem=local)

    @property
    def version(self) -> int:
        """The table version that is read."""
        return self._version

    @property
    def description(self) -> str:
        """What this is, with its version."""
        return f"{self._description}, version {self._version}"

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self._ends[-1] if self._ends else 0

    @cached_property
    def _rows_of(self) -> list[pa.Array | None]:
        """Per fragment the rows that fulfil the predicate, or None for all of them."""
        if self._where is None:
            return [None] * len(self._fragments)
        wanted = self._where.columns()
        return [self._selected(fragment, wanted) for fragment in self._fragments]

    def _selected(self, fragment: Any, wanted: Sequence[str]) -> pa.Array | None:
        assert self._where is not None
        table = self._read(fragment, wanted)
        mask = self._where.mask(table)
        return None if pc.all(mask).as_py() else pc.indices_nonzero(mask).cast(pa.int64())

    @cached_property
    def _ends(self) -> list[int]:
        counts = [
            f.count_rows() if rows is None else len(rows)
            for f, rows in zip(self._fragments, self._rows_of, strict=True)
        ]
        return list(accumulate(counts))

    def _read(self, fragment: Any, columns: Sequence[str]) -> pa.Table:
        with delta.reading(self._description):
            table = fragment.to_table(schema=self._dataset.schema, columns=list(columns))
        return table_from_storage(table, self._chosen(columns))

    def _chosen(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self._schema.field(name) for name in columns], metadata=self._schema.metadata)

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Return the mean of the widest row group, by what its file says."""
        with delta.reading(self._description):
            return max((row_bytes(fragment, columns) for fragment in self._fragments), default=0)

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows file after file."""
        chosen = self._chosen(columns)
        for fragment, rows in zip(self._fragments, self._rows_of, strict=True):
            if rows is not None:
                yield from self._read(fragment, columns).take(rows).to_batches(max_chunksize=_SCAN_ROWS)
                continue
            with delta.reading(self._description):
                for batch in scan_fragment(fragment, self._dataset.schema, columns):
                    if batch.num_rows:
                        yield from_storage(batch, chosen)

    def scan_fields(self, column: str, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield fields of a struct column, reading only these; the dataset's scanner would read the whole struct (measured)."""
        if self._where is not None:
            yield from super().scan_fields(column, fields)
            return
        for fragment in self._fragments:
            with delta.reading(self._description):
                file = pq.ParquetFile(fragment.open())
                if column not in file.schema_arrow.names:  # written before the table had the column
                    nulls = pa.nulls(file.metadata.num_rows)
                    yield pa.RecordBatch.from_arrays([nulls] * len(fields), list(fields))
                    continue
                for batch in file.iter_batches(_SCAN_ROWS, columns=[f"{column}.{name}" for name in fields]):
                    struct = batch.column(0)
                    parts = dict(zip([f.name for f in struct.type.fields], struct.flatten(), strict=True))
                    yield pa.RecordBatch.from_arrays([parts[name] for name in fields], list(fields))

    def take(self, positions: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Read only the files and row groups that hold the positions."""
        chosen = self._chosen(columns)
        if not len(positions):
            return chosen.empty_table()
        in_order = _is_sorted(positions)
        order = None if in_order else pc.sort_indices(positions)
        wanted = positions if order is None else positions.take(order)
        table = pa.concat_tables(list(self._pieces(wanted, columns)))
        if order is not None:
            table = table.take(pc.sort_indices(order))
        return table

    def _pieces(self, wanted: pa.Array, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows at sorted positions, fragment by fragment."""
        first = bisect.bisect_right(self._ends, wanted[0].as_py())
        values = wanted
        for index in range(first, len(self._fragments)):
            if not len(values):
                return
            end = self._ends[index]
            below = pc.sum(pc.less(values, end)).as_py() or 0
            if below:
                begin = end - self._size(index)
                local = pc.subtract(values.slice(0, below), begin)
                rows = self._rows_of[index]
                yield self._take_local(self._fragments[index], local if rows is None else rows.take(local), columns)
                values = values.slice(below)

    def _size(self, index: int) -> int:
        return self._ends[index] - (self._ends[index - 1] if index else 0)

    def _take_local(self, fragment: Any, rows: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Read the row groups that hold the sorted local rows, and take these rows."""
        sizes = [group.num_rows for group in fragment.row_groups]
        ends = list(accumulate(sizes))
        low, high = bisect.bisect_right(ends, rows[0].as_py()), bisect.bisect_right(ends, rows[len(rows) - 1].as_py())
        if low == high == 0 and rows[len(rows) - 1].as_py() < 1:
            with delta.reading(self._description):
                scanner = fragment.scanner(
                    schema=self._dataset.schema, columns=list(columns), batch_size=1, batch_readahead=0
                )
                return table_from_storage(scanner.head(1), self._chosen(columns))
        subset = (
            fragment if (low, high) == (0, len(ends) - 1) else fragment.subset(row_group_ids=list(range(low, high + 1)))
        )
        begin = ends[low] - sizes[low]
        table = self._read(subset, columns)
        if len(rows) == table.num_rows and rows[0].as_py() == begin:
            span = rows[len(rows) - 1].as_py() - begin + 1
            if span == table.num_rows:
                return table
        return table.take(pc.subtract(rows, begin))


def scan_fragment(fragment: Any, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a data file, in batches bounded by rows and by bytes."""
    rows = max(1, min(_SCAN_ROWS, _SCAN_BYTES // max(1, row_bytes(fragment, columns))))
    yield from fragment.scanner(schema=schema, columns=list(columns), batch_size=rows, batch_readahead=2).to_batches()


def row_bytes(fragment: Any, columns: Sequence[str]) -> int:
    """Return the bytes of a row of the widest row group, in the mean; 0 where all rows together are few bytes."""
    metadata = fragment.metadata
    widest = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if not group.num_rows or group.total_byte_size // group.num_rows * _SCAN_ROWS < _SCAN_BYTES:
            continue
        chunks = (group.column(position) for position in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in columns)
        widest = max(widest, size // group.num_rows)
    return widest


def _is_encoded(t: pa.DataType) -> bool:
    """Tell whether values are views, dictionaries or run-end encoded, at any depth: datasets cannot read or filter all of these."""
    is_ = pa.types
    if any(check(t) for check in (is_.is_dictionary, is_.is_run_end_encoded, is_.is_string_view, is_.is_binary_view)):
        return True
    if is_.is_list_view(t) or is_.is_large_list_view(t):
        return True
    return any(_is_encoded(t.field(i).type) for i in range(t.num_fields))


def _is_sorted(positions: pa.Array) -> bool:
    return len(positions) < 2 or bool(
        pc.all(pc.less_equal(positions.slice(0, len(positions) - 1), positions.slice(1))).as_py()
    )  # one element is sorted
