"""Records in Delta Lake tables: append-only, one commit per flush, safe for many concurrent writers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from deltalake import QueryBuilder

from orcapod_dagster.core import delta
from orcapod_dagster.core.columns import INPUT_HASH, RECORD_ID
from orcapod_dagster.core.compaction import MANY_FILES, compact
from orcapod_dagster.core.databases.base import ArrowDatabase
from orcapod_dagster.core.paths import join_uri
from orcapod_dagster.core.sources import DeltaSource, TableSource
from orcapod_dagster.core.storage_types import table_from_storage

_PLAIN = (RECORD_ID, INPUT_HASH)


class DeltaTableDatabase(ArrowDatabase):
    """One Delta table per path, below a root.

    Args:
        root_uri: a local directory or an object store URI.
        storage_options: as deltalake takes them.
        durable: force each commit to the disk, so that a power loss takes no stored result away; local disks only.
        buffer_bytes: appended rows wait for `flush` in memory up to this size, in bytes; 0 commits each append at once.
    """

    def __init__(
        self,
        root_uri: str,
        storage_options: Mapping[str, str] | None = None,
        *,
        durable: bool = True,
        buffer_bytes: int = 0,
    ) -> None:
        self.root_uri = root_uri
        self._options = dict(storage_options) if storage_options else None
        self._durable = durable
        self._buffer_bytes = buffer_bytes
        self._waiting: dict[tuple[str, ...], list[pa.Table]] = {}
        self._lock = threading.RLock()

    def uri(self, path: Sequence[str]) -> str:
        """Return where the table of a path lies."""
        return join_uri(self.root_uri, path)

    def append(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        """Add records: one commit, or a place in the buffer until `flush`."""
        if not self._buffer_bytes:
            self._write(path, open_records)
            return
        with self._lock:
            self._waiting.setdefault(tuple(path), []).append(open_records().read_all())
            if sum(table.nbytes for tables in self._waiting.values() for table in tables) >= self._buffer_bytes:
                self.flush()

    def flush(self) -> None:
        """Commit everything in the buffer, one commit per table."""
        with self._lock:
            for path in list(self._waiting):
                table = pa.concat_tables(self._waiting[path])
                self._write(path, table.to_reader)
                del self._waiting[path]

    def _write(self, path: Sequence[str], open_records: Callable[[], pa.RecordBatchReader]) -> None:
        delta.append(
            self.uri(path), open_records, storage_options=self._options, plain_columns=_PLAIN, durable=self._durable
        )

    def source(self, path: Sequence[str]) -> TableSource | None:
        """Return all records as of now; flushes first."""
        self.flush()
        table = delta.open_table(self.uri(path), self._options)
        return None if table is None else DeltaSource(table, description=f"records {'/'.join(path)}")

    def state(self, path: Sequence[str]) -> str:
        """Return the table's version."""
        self.flush()
        table = delta.open_table(self.uri(path), self._options)
        return "none" if table is None else f"{table.metadata().id}@{table.version()}"

    def compact(self, path: Sequence[str]) -> None:
        """Bring the rows of small files together, once there are many."""
        self.flush()
        compact(self.uri(path), self._options, at_least=MANY_FILES, plain_columns=_PLAIN)

    def lookup(
        self, path: Sequence[str], column: str, keys: pa.Array, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """Return the records whose `column` is one of `keys`, through the query engine, which prunes row groups."""
        self.flush()
        table = delta.open_table(self.uri(path), self._options)
        if table is None:
            return None
        schema = delta.table_schema(table)
        wanted = list(columns) if columns is not None else schema.names
        chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in wanted)
        literals = ", ".join(f"X'{key.hex()}'" for key in keys.to_pylist()) or "X''"
        query = f'SELECT {chosen} FROM records WHERE "{column}" IN ({literals})'  # noqa: S608  # quoted names, hexadecimal keys
        found = QueryBuilder().register("records", table).execute(query)
        return table_from_storage(pa.table(found.read_all()), pa.schema([schema.field(name) for name in wanted]))
