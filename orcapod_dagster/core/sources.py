"""TableSource: rows of a table that can be read again and again, in one order, at one version."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow import fs

from orcapod_dagster.core import delta
from orcapod_dagster.core.arrow import count_up, pc, size_of
from orcapod_dagster.core.casting import one_array, unencoded, unencoded_schema
from orcapod_dagster.core.delta.scanning import SCAN_ROWS, one_text_columns, reading_options, row_bytes, scan_fragment
from orcapod_dagster.core.errors import StorageError
from orcapod_dagster.core.key_index import IndexedFile, key_words
from orcapod_dagster.core.predicates import Predicate
from orcapod_dagster.core.storage_types import from_storage, table_from_storage


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

    def scan_parts(
        self, columns: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[Mapping[str, str], Iterator[pa.RecordBatch]]]:
        """Yield all rows in parts, in the order of `scan`, and of each part the columns that hold one text throughout.

        Args:
            columns: of every batch, in this order.
            texts: further columns of text; each stands behind those, or, where it is known to hold one value in all rows of
                a part, in the mapping of that part. Nothing is read of it there.
        """
        yield {}, self.scan([*columns, *texts])

    def scan_fields(self, column: str, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield fields of a struct column as columns, row by row; those of a null are null. Reads no more where it can."""
        for batch in self.scan([column]):
            parts = dict(zip([f.name for f in batch.column(0).type.fields], batch.column(0).flatten(), strict=True))
            yield pa.RecordBatch.from_arrays([parts[name] for name in fields], list(fields))

    @abstractmethod
    def take(self, positions: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Return the rows at these positions (`int64`, in scan order), in the order of `positions`."""

    def find(self, column: str, keys: pa.Array, columns: Sequence[str]) -> tuple[pa.Array, pa.Table]:
        """Return the rows whose `column` is one of `keys`.

        Args:
            column: a binary column.
            keys: a small set; for more than some thousands a `scan` costs less.
            columns: what to return of the rows.

        Returns:
            The positions (`int64`, ascending) and these columns, one row per position.
        """
        positions = self._candidates(column, keys)
        rows = self.take(positions, list(dict.fromkeys([*columns, column])))
        meant = pc.is_in(rows[column], value_set=keys.cast(self.schema.field(column).type))
        return positions.filter(one_array(meant)), rows.filter(meant).select(list(columns))

    def _candidates(self, column: str, keys: pa.Array) -> pa.Array:
        """Return ascending positions, among them all where `column` is one of `keys`; here by a scan of the column."""
        wanted = keys.cast(self.schema.field(column).type)
        masks = [pc.is_in(batch.column(0), value_set=wanted) for batch in self.scan([column])]
        return pc.indices_nonzero(pa.concat_arrays([pa.array([], pa.bool_()), *masks])).cast(pa.int64())


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
        return size_of(self._table.select(list(columns))) // max(1, self.num_rows)

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield slices of the table."""
        yield from self._table.select(list(columns)).to_batches(max_chunksize=SCAN_ROWS)

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
        self._dataset = delta.dataset(table, where)
        self._fragments: list[Any] = list(self._dataset.get_fragments())

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

        data, folder = self._dataset, delta.local_folder(self.table)
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
            stored if rows is None else len(rows) for stored, rows in zip(self._stored, self._rows_of, strict=True)
        ]
        return list(accumulate(counts))

    @cached_property
    def _stored(self) -> list[int]:
        """Per fragment its number of rows as the log has it, for to open every file takes a second per thousand."""
        said = delta.live_files(self.table)
        found = [said.get(delta.decoded(fragment.path)) for fragment in self._fragments]
        return [f.count_rows() if rows is None else rows for f, rows in zip(self._fragments, found, strict=True)]

    def _check_rows(self, index: int, seen: int) -> None:
        """Refuse a file with other rows than the log says, for the positions of all rows after it would be wrong."""
        if seen != self._stored[index]:
            raise StorageError(
                f"{self.description}: file {delta.decoded(self._fragments[index].path)} has {seen} rows, the log says "
                f"{self._stored[index]}. Put the file back from a copy; `python -m orcapod_dagster verify` names all such files."
            )

    def _read(self, fragment: Any, columns: Sequence[str], **options: Any) -> pa.Table:
        with delta.reading(self._description):
            table = fragment.to_table(schema=self._dataset.schema, columns=list(columns), **options)
        return table_from_storage(table, self._chosen(columns))

    def _chosen(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self._schema.field(name) for name in columns], metadata=self._schema.metadata)

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Return the mean of the widest row group, by what its file says."""
        with delta.reading(self._description):
            return max((row_bytes(fragment.metadata, columns) for fragment in self._fragments), default=0)

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows file after file."""
        chosen = self._chosen(columns)
        for index, rows in enumerate(self._rows_of):
            if rows is not None:
                table = self._read(self._fragments[index], columns)
                yield from table.take(rows).to_batches(max_chunksize=SCAN_ROWS)
                continue
            for batch in self._batches(index, columns):
                if batch.num_rows:
                    yield from_storage(batch, chosen)

    def scan_parts(
        self, columns: Sequence[str], texts: Sequence[str]
    ) -> Iterator[tuple[Mapping[str, str], Iterator[pa.RecordBatch]]]:
        """Yield the rows file after file; what its Parquet statistics say of all row groups is not read."""
        for index, rows in enumerate(self._rows_of):
            if rows is not None:
                yield {}, iter(self._read(self._fragments[index], [*columns, *texts]).take(rows).to_batches())
                continue
            with delta.reading(self._description):
                known = one_text_columns(self._fragments[index].metadata, texts)
            left = [*columns, *(name for name in texts if name not in known)]
            chosen = self._chosen(left)
            yield known, (from_storage(batch, chosen) for batch in self._batches(index, left) if batch.num_rows)

    def _batches(self, index: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one file as it holds them; an error at its end where they are not as many as the log says."""
        seen = 0
        with delta.reading(self._description):
            for batch in scan_fragment(self._fragments[index], self._dataset.schema, columns):
                seen += batch.num_rows
                yield batch
        self._check_rows(index, seen)

    def scan_fields(self, column: str, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield fields of a struct column, reading only these; the dataset's scanner would read the whole struct (measured)."""
        if self._where is not None:
            yield from super().scan_fields(column, fields)
            return
        for index, fragment in enumerate(self._fragments):
            with delta.reading(self._description):
                file = pq.ParquetFile(fragment.open(), page_checksum_verification=True)
                self._check_rows(index, file.metadata.num_rows)
                if column not in file.schema_arrow.names:  # written before the table had the column
                    nulls = pa.nulls(file.metadata.num_rows)
                    yield pa.RecordBatch.from_arrays([nulls] * len(fields), list(fields))
                    continue
                for batch in file.iter_batches(SCAN_ROWS, columns=[f"{column}.{name}" for name in fields]):
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
                yield from self._take_local(index, local if rows is None else rows.take(local), columns)
                values = values.slice(below)

    def _size(self, index: int) -> int:
        return self._ends[index] - (self._ends[index - 1] if index else 0)

    def _take_local(self, index: int, rows: pa.Array, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the sorted local rows of one file; of its row groups, only those are read that hold some."""
        fragment = self._fragments[index]
        with delta.reading(self._description):
            ends = list(accumulate(group.num_rows for group in fragment.row_groups))
        self._check_rows(index, ends[-1] if ends else 0)
        wanted = memoryview(rows.buffers()[1]).cast("B").cast("q")[rows.offset : rows.offset + len(rows)]
        start = 0
        for low, high in _group_runs(wanted, ends):
            begin, stop = ends[low - 1] if low else 0, bisect.bisect_left(wanted, ends[high], start)
            local = pc.subtract(rows.slice(start, stop - start), begin)
            yield self._take_groups(fragment, range(low, high + 1), local, columns)
            start = stop

    def _take_groups(self, fragment: Any, groups: range, rows: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Read neighbouring row groups, and take rows that are counted from the first of them."""
        subset = fragment.subset(row_group_ids=list(groups))
        if len(rows) == 1 and rows[0].as_py() == 0:
            with delta.reading(self._description):
                first = subset.scanner(
                    schema=self._dataset.schema, columns=list(columns), batch_size=1, batch_readahead=0
                ).head(1)
            return table_from_storage(first, self._chosen(columns))
        table = self._read(subset, columns, **reading_options(len(rows)))
        whole = len(rows) == table.num_rows and rows.equals(count_up(len(rows)))
        return table if whole else table.take(rows)

    # ------------------------------------------------------------------ rows by key

    def _candidates(self, column: str, keys: pa.Array) -> pa.Array:
        """Ask the index of every file; a table of which only a part counts is scanned."""
        words = key_words(keys)
        if words is None or self._where is not None:
            return super()._candidates(column, keys)
        uri, found, begin = unquote(self.table.table_uri).rstrip("/"), list[int](), 0
        for index, (fragment, end) in enumerate(zip(self._fragments, self._ends, strict=True)):
            read = partial(self._column, index, column)
            file = IndexedFile(uri, delta.decoded(fragment.path), end - begin, column, read)
            rows = file.candidates(words)
            if rows is None:
                return super()._candidates(column, keys)
            found += [begin + row for row in rows]
            begin = end
        return pa.array(found, pa.int64())

    def _column(self, index: int, column: str) -> Iterator[pa.Array]:
        chosen = self._chosen([column])
        return (from_storage(batch, chosen).column(0) for batch in self._batches(index, [column]))


def _group_runs(rows: Sequence[int], ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of the neighbouring row groups to read at once: those that hold rows, `SCAN_ROWS` together at most."""
    at, low, high = 0, -1, -1
    while at < len(rows):
        group = bisect.bisect_right(ends, rows[at])
        begin = ends[low - 1] if low > 0 else 0
        if low < 0:
            low = group
        elif group > high + 1 or ends[group] - begin > SCAN_ROWS:
            yield low, high
            low = group
        high = group
        at = bisect.bisect_left(rows, ends[group], at)
    if low >= 0:
        yield low, high


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
